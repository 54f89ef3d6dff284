r"""A U-Net in one, two or three dimensions.

Levels l = 0 .. L-1 have ``channels[l]`` channels at 1/2^l of the size. On the way down each level runs
``num_res_blocks`` residual blocks and halves the size by a strided convolution; on the way up it runs one block more,
each of which takes a skip connection from the way down. Levels chosen by ``attention_levels`` attend over all their
positions after each block, and so does the middle, if any level does.

Sources: Ronneberger et al. 2015, arXiv:1505.04597; Ho et al. 2020, arXiv:2006.11239, Appendix B; FiLM and block
layout as in :mod:`monai_diffscore.networks.blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import (
    ResidualBlock,
    SelfAttention,
    Upsample,
    check_image,
    convolution,
    group_norm,
    run_checkpointed,
    zero_init,
)
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning


class ScoreUNet(nn.Module):
    """Raw network F for images: x [B, C_in, *S], c_noise [B] to [B, C_out, *S]. Zero at the start.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: channels of x (concat conditions not counted).
        out_channels: channels of the output.
        channels: of each level, from the full size down. Its length is the number of levels.
        attention_levels: which levels attend over all their positions.
        num_res_blocks: of each level, or one number for all.
        num_head_channels: channels of an attention head.
        condition: declared condition fields; None declares none.
        checkpointing: recompute activations in the backward pass, which saves most of the memory of training
            for about a third more time.
    Raises:
        ValueError: if the arguments do not fit together. In the call: if a spatial size is not divisible by 2^(L-1),
            or channels or dimensions of x differ from the declared ones.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 128, 256),
        attention_levels: Sequence[bool] | None = None,
        num_res_blocks: int | Sequence[int] = 2,
        num_head_channels: int = 32,
        condition: ConditionEncoder | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channels)
        attention = [False] * levels if attention_levels is None else list(attention_levels)
        blocks = [num_res_blocks] * levels if isinstance(num_res_blocks, int) else list(num_res_blocks)
        if not levels == len(attention) == len(blocks) or levels == 0:
            raise ValueError(
                f"channels, attention_levels and num_res_blocks need one entry for each level, got {list(channels)}, "
                f"{attention} and {blocks}."
            )
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.stride = 2 ** (levels - 1)
        self.checkpointing = checkpointing
        embedding_size = 4 * channels[0]
        self.conditioning = NoiseConditioning(embedding_size, condition)

        def stage(sizes: tuple[int, int], attend: bool) -> _Stage:
            return _Stage(spatial_dims, *sizes, embedding_size, num_head_channels if attend else None)

        self.input = convolution(spatial_dims, in_channels + self.conditioning.concat_channels, channels[0])
        self.down, self.middle, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        skips = [channels[0]]
        for level, width in enumerate(channels):
            for _ in range(blocks[level]):
                self.down.append(stage((skips[-1], width), attention[level]))
                skips.append(width)
            if level < levels - 1:
                self.down.append(convolution(spatial_dims, width, width, stride=2))
                skips.append(width)
        self.middle.append(stage((channels[-1], channels[-1]), any(attention)))
        self.middle.append(stage((channels[-1], channels[-1]), False))
        width = channels[-1]
        for level in reversed(range(levels)):
            for _ in range(blocks[level] + 1):
                self.up.append(stage((width + skips.pop(), channels[level]), attention[level]))
                width = channels[level]
            if level > 0:
                self.up.append(Upsample(spatial_dims, width, width))
        self.norm = group_norm(width)
        self.output = zero_init(convolution(spatial_dims, width, out_channels))

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        self._check_shape(x)
        x, embedding = self.conditioning(x, c_noise, condition)
        h = self.input(x)
        skips = [h]
        for module in self.down:
            h = self._run(module, h, embedding)
            skips.append(h)
        for module in self.middle:
            h = self._run(module, h, embedding)
        for module in self.up:
            if isinstance(module, _Stage):
                h = torch.cat([h, skips.pop()], dim=1)
            h = self._run(module, h, embedding)
        return self.output(F.silu(self.norm(h)))

    def _run(self, module: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if not isinstance(module, _Stage):
            return module(h)
        return run_checkpointed(module, h, embedding, checkpointing=self.checkpointing)

    def _check_shape(self, x: Tensor) -> None:
        check_image(self, x, self.spatial_dims, self.in_channels)
        if any(size % self.stride for size in x.shape[2:]):
            raise ValueError(
                f"ScoreUNet halves the size {self.stride.bit_length() - 1} times and needs spatial sizes divisible by "
                f"{self.stride}, got {tuple(x.shape[2:])} from x {tuple(x.shape)}. "
                f'Crop patches of such a size, or pad with DivisiblePadd(keys="image", k={self.stride}).'
            )


class _Stage(nn.Module):
    """A residual block and, if heads are given, attention."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, embedding_size: int, head_channels: int | None
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(spatial_dims, in_channels, out_channels, embedding_size)
        self.attention = nn.Identity() if head_channels is None else SelfAttention(out_channels, head_channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))
