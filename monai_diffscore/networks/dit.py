r"""A diffusion transformer in one, two or three dimensions.

A strided convolution maps patches to tokens. The embedding e of noise level and condition modulates the two normalised
branches of each block, and gates their outputs (AdaLN-Zero):

.. math::  h \leftarrow h + g_1(e) \odot \mathrm{Attention}\bigl((1 + \gamma_1(e)) \mathrm{norm}(h) + \beta_1(e)\bigr),
           \qquad
           h \leftarrow h + g_2(e) \odot \mathrm{MLP}\bigl((1 + \gamma_2(e)) \mathrm{norm}(h) + \beta_2(e)\bigr).

:math:`\gamma, \beta, g` and the output layer are 0 before training: every block is the identity, and the output is 0.
Queries and keys are normalised (Dehghani et al. 2023, arXiv:2302.05442, Section 2). A rotation encodes their position
(Su et al. 2021, arXiv:2104.09864); each axis rotates its own share of a head's channels. Attention then depends on
distances alone, and works at other sizes than those of the training.

Source: Peebles and Xie 2023, arXiv:2212.09748, Section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks import vit
from monai_diffscore.networks.blocks import (
    check_image,
    convolution,
    depth_to_space,
    modulate,
    run_checkpointed,
    space_to_depth,
    split_heads,
    zero_init,
)
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning
from monai_diffscore.tensors import per_channel

#: hidden size, depth and heads of each name; S to XL are the published models (Peebles and Xie 2023, Table 1)
PRESETS = {
    "small": (192, 6, 6),
    "base": (384, 12, 6),
    "large": (768, 12, 12),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}


class ScoreDiT(nn.Module):
    """Raw network F for images: x [B, C, *S], c_noise [B] to [B, C, *S]. It returns 0 before training.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: channels of x and of the output, without concat conditions.
        input_size: usual spatial size of x. The network runs at any size that is divisible by patch_size.
        patch_size: edge of a patch, one number or one for each axis.
        hidden_size: channels of a token.
        depth: number of blocks.
        num_heads: number of attention heads.
        mlp_ratio: hidden channels of the MLP over hidden_size.
        condition: declared condition fields; None declares none.
        checkpointing: True recomputes activations in the backward pass.
        position: "rotary" rotates queries and keys by their position. "table" adds a learned vector to each token. Its
            initial values are sines and cosines; at other sizes than ``input_size`` it is interpolated.
        qk_norm: True normalises queries and keys, so that attention does not saturate at high learning rates.
        window_size: edge of attention windows in tokens, one number or one for each axis. Three of four blocks attend
            within windows, at a cost that is linear in the volume; every fourth block attends to all tokens. None
            attends to all tokens in all blocks. (The layout of Li et al. 2022, arXiv:2203.16527, Section 3.)
    Raises:
        ValueError: if the arguments do not fit together. In the call: if x has other channels or dimensions, or a size
            that is not divisible by patch_size (times window_size).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        input_size: int | Sequence[int],
        patch_size: int | Sequence[int] = 4,
        hidden_size: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        condition: ConditionEncoder | None = None,
        checkpointing: bool = False,
        position: str = "rotary",
        qk_norm: bool = True,
        window_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.patch_size = _per_axis(patch_size, spatial_dims, "patch_size")
        self.input_size = _per_axis(input_size, spatial_dims, "input_size")
        self.window_size = None if window_size is None else _per_axis(window_size, spatial_dims, "window_size")
        self.checkpointing = checkpointing
        self._check_size(self.input_size)
        if hidden_size % num_heads or (hidden_size // num_heads) % 2:
            raise ValueError(
                f"ScoreDiT needs heads with an even number of channels, got hidden_size {hidden_size} and num_heads "
                f"{num_heads}."
            )
        if position not in ("rotary", "table"):
            raise ValueError(f"ScoreDiT expects position 'rotary' or 'table', got {position!r}.")
        self.conditioning = NoiseConditioning(hidden_size, condition)
        channels = in_channels + self.conditioning.concat_channels
        self.embed = convolution(spatial_dims, channels, hidden_size, self.patch_size, self.patch_size, padding=0)
        grid = [edge // patch for edge, patch in zip(self.input_size, self.patch_size, strict=True)]
        rotary = position == "rotary"
        self.rotation = AxialRotation(spatial_dims, hidden_size // num_heads) if rotary else None
        self.table = None if rotary else nn.Parameter(sine_cosine_table(hidden_size, grid))
        self.blocks = nn.ModuleList(_Block(hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.modulation = zero_init(nn.Linear(hidden_size, 2 * hidden_size))
        self.output = zero_init(nn.Linear(hidden_size, math.prod(self.patch_size) * in_channels))

    @classmethod
    def preset(
        cls, name: str, spatial_dims: int, in_channels: int, input_size: int | Sequence[int], **options: Any
    ) -> ScoreDiT:
        """A network of a named size: "small", "base", "large", or a published size and patch edge ("S/2").

        Other options as of the constructor.

        Raises:
            ValueError: for another name.
        """
        size, _, patch = name.partition("/")
        if size not in PRESETS or (patch and not patch.isdigit()) or (size.isupper() and not patch):
            raise ValueError(
                "Expected 'small', 'base', 'large', or a preset like 'S/2' with one of the sizes S, B, L, XL; got "
                f"{name!r}."
            )
        hidden_size, depth, num_heads = PRESETS[size]
        if patch:
            options["patch_size"] = int(patch)
        return cls(
            spatial_dims, in_channels, input_size, hidden_size=hidden_size, depth=depth, num_heads=num_heads, **options
        )

    @classmethod
    def from_vit(
        cls,
        state_dict: Mapping[str, Tensor],
        spatial_dims: int,
        in_channels: int,
        input_size: int | Sequence[int],
        **options: Any,
    ) -> ScoreDiT:
        """A network with the blocks of a pretrained Vision Transformer.

        :mod:`monai_diffscore.networks.vit` converts the weights. The gates are 0: the network returns 0 before
        training, like every network here.

        Args:
            state_dict: of the ViT, in timm's names.
            spatial_dims: 2 or 3.
            in_channels, input_size: as of the constructor.
            options: as of the constructor. ``patch_size`` and ``num_heads`` default to those of the ViT (heads of 64
                channels).
        Raises:
            ValueError: for weights of another network, or 1-D data.
        """
        network = cls(spatial_dims, in_channels, input_size, **vit.options(state_dict, spatial_dims, options))
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        weights = vit.weights(state_dict, shapes["embed.weight"], shapes["table"])
        keys = network.load_state_dict(weights, strict=False).missing_keys
        missing = [name for name in keys if name.startswith("blocks.") and ".modulation." not in name]
        if missing:
            raise ValueError(
                f"Expected a ViT with the blocks of ScoreDiT, got no weights for {missing[:4]}. Use a plain ViT."
            )
        return network

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of a small valid input, without the batch."""
        window = self.window_size or (1,) * self.spatial_dims
        return (self.in_channels, *(2 * patch * tokens for patch, tokens in zip(self.patch_size, window, strict=True)))

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        check_image(self, x, self.spatial_dims, self.in_channels)
        self._check_size(x.shape[2:])
        x, embedding = self.conditioning(x, c_noise, condition)
        patches = self.embed(x)
        if self.table is not None:
            patches = patches + resize(self.table.to(patches.dtype), patches.shape[2:])
        grid = patches.shape[2:]
        h = patches.flatten(2).transpose(1, 2)  # (B, N, hidden)
        global_rotation = self.rotation(grid, h) if self.rotation else None
        window_rotation = self.rotation(self.window_size, h) if self.rotation and self.window_size else None
        for index, block in enumerate(self.blocks):
            if self.window_size is None or index % 4 == 3:
                h = run_checkpointed(block, h, embedding, global_rotation, checkpointing=self.checkpointing)
            else:
                h = split_windows(h, grid, self.window_size)
                h = run_checkpointed(block, h, embedding, window_rotation, checkpointing=self.checkpointing)
                h = join_windows(h, grid, self.window_size)
        gamma, beta = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        tokens = self.output(modulate(self.norm(h), gamma, beta))
        return unpatchify(tokens, grid, self.patch_size)

    def _check_size(self, size: Sequence[int]) -> None:
        window = self.window_size or (1,) * self.spatial_dims
        unit = [patch * tokens for patch, tokens in zip(self.patch_size, window, strict=True)]
        if any(edge % step for edge, step in zip(size, unit, strict=True)):
            windows = "" if self.window_size is None else f" times its window_size {self.window_size}"
            raise ValueError(
                f"ScoreDiT needs spatial sizes divisible by its patch_size {self.patch_size}{windows}, got "
                f'{tuple(size)}. Crop patches to such a size, or pad with DivisiblePadd(keys="image", k={unit}).'
            )


def unpatchify(tokens: Tensor, grid: Sequence[int], patch_size: Sequence[int]) -> Tensor:
    """The image [B, C, *S] of tokens [B, N, C*P] on a grid of patches, one token a patch."""
    return depth_to_space(tokens.transpose(1, 2).unflatten(2, tuple(grid)), patch_size)


def split_windows(h: Tensor, grid: Sequence[int], window: Sequence[int]) -> Tensor:
    """Splits tokens [B, N, C] on a grid into the tokens of windows, [B * windows, n, C]."""
    image = h.transpose(1, 2).unflatten(2, tuple(grid))
    folded = space_to_depth(image, window).flatten(2)  # (B, C * n, windows)
    return folded.unflatten(1, (h.shape[2], -1)).permute(0, 3, 2, 1).flatten(0, 1)


def join_windows(h: Tensor, grid: Sequence[int], window: Sequence[int]) -> Tensor:
    """Inverts :func:`split_windows`."""
    windows = [count // edge for count, edge in zip(grid, window, strict=True)]
    folded = h.unflatten(0, (-1, math.prod(windows))).permute(0, 3, 2, 1).flatten(1, 2).unflatten(2, windows)
    return depth_to_space(folded, window).flatten(2).transpose(1, 2)


def sine_cosine_table(channels: int, grid: Sequence[int]) -> Tensor:
    """Sines and cosines of the position on a grid, [1, channels, *grid]. The axes share the channels equally.

    Source: Peebles and Xie 2023, Section 3.2 (after Vaswani et al. 2017, arXiv:1706.03762, Section 3.5).
    """
    dims = len(grid)
    positions = torch.meshgrid(*[torch.arange(count).float() for count in grid], indexing="ij")
    parts = []
    for axis, position in enumerate(positions):
        pairs = (channels // 2) // dims + (axis < (channels // 2) % dims)
        frequencies = 10_000.0 ** (-torch.arange(pairs) / max(pairs, 1))
        angles = position[None] * per_channel(frequencies, position[None])
        parts += [angles.sin(), angles.cos()]
    table = torch.cat(parts)
    return F.pad(table, (0, 0) * dims + (0, channels - len(table)))[None]


def resize(table: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolates a table [1, C, *grid] linearly to another grid. The outer edges of both grids coincide."""
    if tuple(table.shape[2:]) == tuple(size):
        return table
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(table, size=tuple(size), mode=mode, align_corners=False)


class AxialRotation(nn.Module):
    r"""Cosines and sines of the angles of a rotary position embedding on a grid, [N, head_channels / 2] each.

    The axes share the channel pairs equally, and the first axis also gets the remainder. The frequencies of an axis
    with J pairs are :math:`\theta^{-j/J}`, j = 0 .. J-1.

    Args:
        spatial_dims: number of axes.
        head_channels: even number of channels of a head.
        theta: about the ratio of the highest to the lowest frequency. 100 suits grids of tens of patches. With 10,000,
            as in language models, half of the channels hardly rotate.
    """

    frequencies: Tensor

    def __init__(self, spatial_dims: int, head_channels: int, theta: float = 100.0) -> None:
        super().__init__()
        pairs = head_channels // 2
        shares = [pairs // spatial_dims] * spatial_dims
        shares[0] += pairs - sum(shares)
        table = torch.zeros(spatial_dims, pairs)
        start = 0
        for axis, share in enumerate(shares):
            table[axis, start : start + share] = theta ** (-torch.arange(share) / max(share, 1))
            start += share
        self.register_buffer("frequencies", table, persistent=False)

    def forward(self, grid: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        axes = [torch.arange(count, device=like.device, dtype=torch.float32) for count in grid]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)  # (N, dims)
        angles = positions @ self.frequencies.to(torch.float32)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the channel pairs of x [B, heads, N, d] by the angles of their positions."""
    cosine, sine = rotation
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


class _Block(nn.Module):
    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.heads = num_heads
        self.norm_attention = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        head = hidden_size // num_heads
        self.scale_q = nn.Parameter(torch.ones(head)) if qk_norm else None
        self.scale_k = nn.Parameter(torch.ones(head)) if qk_norm else None
        self.project = nn.Linear(hidden_size, hidden_size)
        self.norm_mlp = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        width = int(mlp_ratio * hidden_size)
        self.mlp = nn.Sequential(nn.Linear(hidden_size, width), nn.GELU("tanh"), nn.Linear(width, hidden_size))
        self.modulation = zero_init(nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, h: Tensor, embedding: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Maps tokens [B * windows, N, C]. The windows of a sample share its embedding [B, E]."""
        modulation = self.modulation(embedding).repeat_interleave(h.shape[0] // embedding.shape[0], dim=0)
        gamma_1, beta_1, gate_1, gamma_2, beta_2, gate_2 = modulation[:, None].chunk(6, dim=-1)
        h = h + gate_1 * self._attend(modulate(self.norm_attention(h), gamma_1, beta_1), rotation)
        return h + gate_2 * self.mlp(modulate(self.norm_mlp(h), gamma_2, beta_2))

    def _attend(self, h: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = split_heads(self.qkv(h), self.heads)
        if self.scale_q is not None and self.scale_k is not None:
            q, k = _unit_rms(q, self.scale_q), _unit_rms(k, self.scale_k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        attended = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.project(attended.transpose(1, 2).flatten(2))


def _unit_rms(x: Tensor, scale: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], scale.to(x.dtype), eps=1e-6)  # for two dtypes autocast uses a slow kernel


def _per_axis(value: int | Sequence[int], dims: int, name: str) -> tuple[int, ...]:
    values = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(values) != dims or min(values) < 1:
        raise ValueError(f"ScoreDiT expects a positive {name}, or one for each of {dims} axes, got {value}.")
    return values
