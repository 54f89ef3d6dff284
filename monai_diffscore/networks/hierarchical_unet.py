r"""A U-Net for high-resolution images with an optional wide context: whole-slide tiles with a low-power field.

**Stem.** Blocks of ``stem`` pixels along each axis become channels (space-to-depth; the output inverts it exactly). No
layer runs at the full size, where activations are largest and channels fewest.

**Levels.** Level l has ``channels[l]`` channels at :math:`1/(\mathrm{stem}\cdot 2^l)` of the size. Each level *adds*
one skip connection (after a 1x1 convolution of the coarser level), so that the decoder is as narrow as the encoder.

**Context.** A field has the same size in pixels and the same centre as the tile, and is :math:`r = 2^k` times as wide
in the world (``context_ratio``). Levels of its own encode it. Level l - k of the context and level l of the tile have
pixels of equal size in the world: the centre of the one is *exactly* in register with the other. A convolution of zeros
adds it there. The mean of the coarsest level of the context is added to the embedding of noise level and condition.

.. math::  h_l \leftarrow h_l + W_l\,\mathrm{centre}_{1/r}(c_{l-k}), \qquad e \leftarrow e + V\,\mathrm{mean}(c_{L-1-k})

Sources: Ronneberger et al. 2015, arXiv:1505.04597 (U-Net); Shi et al. 2016, arXiv:1609.05158 (depth to space).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import (
    ChannelNorm,
    channels_last,
    check_image,
    check_stride,
    convolution,
    depth_to_space,
    named_size,
    space_to_depth,
    zero_init,
)
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning
from monai_diffscore.networks.unet import Hourglass, Level
from monai_diffscore.tensors import per_sample

#: constructor options by the name of the size
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"channels": (32, 64, 96, 128), "num_res_blocks": 1},
    "base": {"channels": (64, 128, 192, 256, 256), "num_res_blocks": 2},
    "large": {"channels": (128, 256, 384, 512, 512), "num_res_blocks": 3},
}


class HierarchicalUNet(nn.Module):
    """Raw network F for images: x [B, C_in, *S], c_noise [B] to [B, C_out, *S]. It returns 0 before training.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: channels of x, without concat conditions.
        out_channels: channels of the output.
        channels: of each level, the finest first.
        attention_levels: True for each level with attention over all its positions; default the coarsest alone.
        num_res_blocks: number of blocks of each level, in the encoder and in the decoder.
        num_head_channels: channels of an attention head.
        stem: edge of the blocks of pixels that become channels; 1 is no stem.
        context_channels: channels of the keyword condition ``context``, a field of the same size in pixels and centre
            as x and ``context_ratio`` times as wide; 0 is no context. NaN is a missing pixel: a learned value replaces
            it. Without the keyword all pixels are missing.
        context_ratio: width of the context over the width of x, a power of two.
        context_dropout: probability that the context of a sample is missing, for each sample and step of training.
        condition: declared condition fields; None declares none.
        checkpointing: True recomputes the activations of each level in the backward pass.
    Raises:
        ValueError: if the arguments do not fit together. In the call: if a size is not divisible by ``stride``, or x
            or the context have other channels or dimensions.
    Attributes:
        stride: divisor of the spatial sizes.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 128, 192, 256, 256),
        attention_levels: Sequence[bool] | None = None,
        num_res_blocks: int = 1,
        num_head_channels: int = 32,
        stem: int = 2,
        context_channels: int = 0,
        context_ratio: int = 4,
        context_dropout: float = 0.1,
        condition: ConditionEncoder | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if stem < 1:
            raise ValueError(f"HierarchicalUNet expects stem >= 1, the edge of a block of pixels, got {stem}.")
        self.spatial_dims, self.in_channels, self.context_channels = spatial_dims, in_channels, context_channels
        self.stem = (stem,) * spatial_dims
        embedding_size, pixels = 4 * channels[0], stem**spatial_dims
        self.conditioning = NoiseConditioning(embedding_size, condition)
        self.input = convolution(spatial_dims, (in_channels + self.conditioning.concat_channels) * pixels, channels[0])
        self.hourglass = Hourglass(
            spatial_dims, channels, attention_levels, num_res_blocks, num_head_channels, embedding_size, checkpointing
        )
        self.context = (
            _ContextEncoder(
                spatial_dims, context_channels, channels, embedding_size, context_ratio, self.stem, context_dropout
            )
            if context_channels
            else None
        )
        # with a context the coarsest level needs an even size, so that its centre is in register
        self.stride = stem * 2 ** (len(channels) - (0 if context_channels else 1))
        self.norm = ChannelNorm(channels[0])
        self.output = zero_init(convolution(spatial_dims, channels[0], out_channels * pixels))

    @classmethod
    def preset(
        cls, name: str, spatial_dims: int, in_channels: int, out_channels: int, **options: Any
    ) -> HierarchicalUNet:
        """A network of a named size: "small", "base" or "large". Other options as of the constructor."""
        return cls(spatial_dims, in_channels, out_channels, **{**named_size(PRESETS, name), **options})

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of a small valid input, without the batch."""
        return (self.in_channels, *[2 * self.stride] * self.spatial_dims)

    def forward(self, x: Tensor, c_noise: Tensor, context: Tensor | None = None, **condition: Tensor) -> Tensor:
        self._check_shape(x, context)
        x, embedding = self.conditioning(x, c_noise, condition)
        surroundings: list[Tensor | None] = []
        if self.context is not None:
            surroundings, summary = self.context(x, context, embedding)
            embedding = embedding + summary
        h = self.hourglass(channels_last(self.input(space_to_depth(x, self.stem))), embedding, surroundings)
        return depth_to_space(self.output(F.silu(self.norm(h))), self.stem)

    def _check_shape(self, x: Tensor, context: Tensor | None) -> None:
        check_image(self, x, self.spatial_dims, self.in_channels)
        check_stride(self, x, self.stride)
        if context is None:
            return
        expected = (x.shape[0], self.context_channels, *x.shape[2:])
        if not self.context_channels or context.shape != expected:
            raise ValueError(
                f"HierarchicalUNet with context_channels={self.context_channels} expects "
                f"{f'context {expected}' if self.context_channels else 'no context'}, got {tuple(context.shape)}."
            )


class _ContextEncoder(nn.Module):
    """Encodes the context. It returns features to add to each level of the tile, and a vector for the embedding."""

    def __init__(
        self,
        spatial_dims: int,
        context_channels: int,
        channels: Sequence[int],
        embedding_size: int,
        ratio: int,
        stem: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.ratio, self.stem, self.dropout, self.shift = ratio, stem, dropout, ratio.bit_length() - 1
        if ratio != 2**self.shift or not 1 <= self.shift < len(channels):
            raise ValueError(
                f"HierarchicalUNet with {len(channels)} levels expects as context_ratio a power of two from 2 to "
                f"2^{len(channels) - 1}, got {ratio}."
            )
        widths, pixels = channels[: len(channels) - self.shift], stem[0] ** spatial_dims
        self.missing = nn.Parameter(torch.zeros(context_channels))
        self.input = convolution(spatial_dims, context_channels * pixels, widths[0])
        self.levels = nn.ModuleList(Level(spatial_dims, width, embedding_size, 1, None) for width in widths)
        self.coarsen = nn.ModuleList(convolution(spatial_dims, a, b, 2, 2, padding=0) for a, b in pairwise(widths))
        self.register = nn.ModuleList(
            zero_init(convolution(spatial_dims, width, tile, 1))
            for width, tile in zip(widths, channels[self.shift :], strict=True)
        )
        self.summary = zero_init(nn.Linear(widths[-1], embedding_size))

    def forward(self, x: Tensor, context: Tensor | None, embedding: Tensor) -> tuple[list[Tensor | None], Tensor]:
        missing = per_sample(self.missing.to(x.dtype)[None], x)
        if context is None:
            context = missing.expand(x.shape[0], -1, *x.shape[2:])
        is_missing = context.isnan()
        if self.training and self.dropout > 0:
            is_missing = is_missing | per_sample(torch.rand(x.shape[0], device=x.device) < self.dropout, x)
        h = channels_last(self.input(space_to_depth(torch.where(is_missing, missing, context.to(x)), self.stem)))
        features: list[Tensor | None] = [None] * self.shift
        for index, level in enumerate(self.levels):
            h = level(h, embedding)
            features.append(self.register[index](_centre(h, self.ratio)))
            if index < len(self.coarsen):
                h = self.coarsen[index](h)
        return features, self.summary(h.flatten(2).mean(2))


def _centre(h: Tensor, ratio: int) -> Tensor:
    """The middle 1/ratio of each spatial axis."""
    for axis in range(2, h.ndim):
        size = h.shape[axis] // ratio
        h = h.narrow(axis, (h.shape[axis] - size) // 2, size)
    return h
