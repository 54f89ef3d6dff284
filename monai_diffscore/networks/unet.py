r"""A U-Net in one, two or three dimensions.

Levels l = 0 .. L-1 have ``channels[l]`` channels at :math:`1/2^l` of the size. In the encoder each level runs its
residual blocks, and a strided convolution halves the size. In the decoder each level *adds* its features of the encoder
to the coarser level, and runs as many blocks again. A 1x1 convolution projects the coarser level before its size is
doubled, at the lowest cost:

.. math::  h_l = \mathrm{level}_l(\mathrm{coarsen}(h_{l-1}), e), \qquad
           u_l = \mathrm{level}'_l(h_l + \mathrm{double}(W u_{l+1}), e)

The levels of ``attention_levels`` attend over all their positions after their blocks. The channels of activations are
innermost in memory.

The layout of Ho et al. 2020 concatenates a skip connection for each block. This network adds one for each level, and
normalises over channels. Its step of training takes about half of the time at equal parameters, and its denoising error
after equal seconds of training is not larger (docs/BENCHMARKS.md).

Sources: Ronneberger et al. 2015, arXiv:1505.04597; Ho et al. 2020, arXiv:2006.11239, Appendix B; FiLM and block
layout as in :mod:`monai_diffscore.networks.blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import (
    ChannelNorm,
    ResidualBlock,
    SelfAttention,
    add_local_variance,
    channels_last,
    check_image,
    check_stride,
    convolution,
    named_size,
    run_checkpointed,
    zero_init,
)
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning

#: constructor options by the name of the size
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"channels": (32, 64, 128, 128), "num_res_blocks": (1, 2, 2, 2)},
    "base": {"channels": (64, 128, 256, 256), "num_res_blocks": (2, 2, 3, 3)},
    "large": {"channels": (128, 256, 512, 512), "num_res_blocks": (2, 3, 4, 4)},
}


class ScoreUNet(nn.Module):
    """Raw network F for images: x [B, C_in, *S], c_noise [B] to [B, C_out, *S]. It returns 0 before training.

    Args:
        spatial_dims: 1, 2 or 3.
        in_channels: channels of x, without concat conditions.
        out_channels: channels of the output.
        channels: of each level, the full size first. Its length is the number of levels.
        attention_levels: True for each level with attention over all its positions; default the coarsest alone.
        num_res_blocks: number of blocks of each level, in the encoder and in the decoder, or one number for all levels.
        num_head_channels: channels of an attention head.
        condition: declared condition fields; None declares none.
        checkpointing: True recomputes the activations of each level in the backward pass. This saves most of the memory
            of training, and takes about a third more time.
        local_variance: True predicts the variance of the data at each voxel, too (:func:`~.blocks.add_local_variance`),
            for data of standard deviation 1. It needs as many channels in as out.
    Raises:
        ValueError: if the arguments do not fit together. In the call: if a spatial size is not divisible by ``stride``,
            or x has other channels or dimensions.
    Attributes:
        stride: divisor of the spatial sizes, 2^(L-1).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128, 128),
        attention_levels: Sequence[bool] | None = None,
        num_res_blocks: int | Sequence[int] = 2,
        num_head_channels: int = 32,
        condition: ConditionEncoder | None = None,
        checkpointing: bool = False,
        local_variance: bool = False,
    ) -> None:
        super().__init__()
        if local_variance and in_channels != out_channels:
            raise ValueError(
                f"A local variance needs as many channels in as out, got {in_channels} and {out_channels}. Leave "
                "local_variance out."
            )
        self.spatial_dims, self.in_channels, self.local_variance = spatial_dims, in_channels, local_variance
        embedding_size = 4 * channels[0] if channels else 0
        self.hourglass = Hourglass(
            spatial_dims, channels, attention_levels, num_res_blocks, num_head_channels, embedding_size, checkpointing
        )
        self.stride = 2 ** (len(channels) - 1)
        self.conditioning = NoiseConditioning(embedding_size, condition)
        self.input = convolution(spatial_dims, in_channels + self.conditioning.concat_channels, channels[0])
        self.norm = ChannelNorm(channels[0])
        outputs = (2 if local_variance else 1) * out_channels
        self.output = zero_init(convolution(spatial_dims, channels[0], outputs))

    @classmethod
    def preset(cls, name: str, spatial_dims: int, in_channels: int, out_channels: int, **options: Any) -> ScoreUNet:
        """A network of a named size: "small", "base" or "large". Other options as of the constructor."""
        return cls(spatial_dims, in_channels, out_channels, **{**named_size(PRESETS, name), **options})

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of a small valid input, without the batch."""
        return (self.in_channels, *[2 * self.stride] * self.spatial_dims)

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        check_image(self, x, self.spatial_dims, self.in_channels)
        check_stride(self, x, self.stride)
        features, embedding = self.conditioning(x, c_noise, condition)
        h = self.hourglass(channels_last(self.input(features)), embedding)
        output: Tensor = self.output(F.silu(self.norm(h)))
        return add_local_variance(output, x, c_noise) if self.local_variance else output


def scale_unets(
    spatial_dims: int,
    channels: int,
    bands: int,
    coarse_channels: Sequence[int],
    detail_channels: Sequence[Sequence[int]],
    fields: Mapping[str, int],
    categorical: Mapping[str, int] | None = None,
    continuous: Mapping[str, tuple[float, float]] | None = None,
    checkpointing: bool = False,
) -> list[ScoreUNet]:
    """The networks of a model of scales, the coarsest first, one residual block a level.

    The network of the coarse image attends over its coarsest level, so it sees the whole image. Those of details do not
    attend: what they say of a voxel depends on its surroundings alone, so they run in tiles. They predict the local
    variance: around an organ, and inside flat tissue, details are nearly 0.

    Args:
        spatial_dims: D, 1, 2 or 3.
        channels: of the volumes, C.
        bands: of details at each scale, 2^D - 1; the networks of details have as many channels for each of C.
        coarse_channels: widths of the network of the coarse image, as ``channels`` of :class:`ScoreUNet`.
        detail_channels: the same for each scale of details, the coarsest first.
        fields: image-shaped conditions of the networks of details and their channels, such as ``{"coarse": C}``.
        categorical, continuous: conditions of all networks, as :class:`ConditionEncoder` declares them. The loss drops
            them, in all scales at once.
        checkpointing: as :class:`ScoreUNet`.
    """

    def encoder(concat: Mapping[str, int]) -> ConditionEncoder | None:
        declared = concat or categorical or continuous
        return ConditionEncoder(categorical, continuous, concat=concat) if declared else None

    def network(size: int, widths: Sequence[int], attention: list[bool] | None, concat: Mapping[str, int]) -> ScoreUNet:
        return ScoreUNet(
            spatial_dims,
            size,
            size,
            widths,
            attention,
            1,
            condition=encoder(concat),
            checkpointing=checkpointing,
            local_variance=bool(concat),  # of details
        )

    details = [network(bands * channels, widths, [False] * len(widths), fields) for widths in detail_channels]
    return [network(channels, coarse_channels, None, {}), *details]


class Hourglass(nn.Module):
    """The levels of a U-Net. It maps features [B, channels[0], *S] and embedding [B, E] to features of the same shape.

    Arguments as of :class:`ScoreUNet`; ``embedding_size`` is E.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: Sequence[int],
        attention_levels: Sequence[bool] | None,
        num_res_blocks: int | Sequence[int],
        num_head_channels: int,
        embedding_size: int,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        levels = len(channels)
        attention = [False] * (levels - 1) + [True] if attention_levels is None else list(attention_levels)
        blocks = [num_res_blocks] * levels if isinstance(num_res_blocks, int) else list(num_res_blocks)
        if not levels == len(attention) == len(blocks) or levels == 0:
            raise ValueError(
                f"Expected channels, attention_levels and num_res_blocks with one entry for each level, got "
                f"{list(channels)}, {attention} and {blocks}."
            )
        self.checkpointing = checkpointing

        def level(index: int) -> Level:
            heads = num_head_channels if attention[index] else None
            return Level(spatial_dims, channels[index], embedding_size, blocks[index], heads)

        self.down = nn.ModuleList(level(index) for index in range(levels))
        self.coarsen = nn.ModuleList(convolution(spatial_dims, a, b, 2, 2, padding=0) for a, b in pairwise(channels))
        self.refine = nn.ModuleList(convolution(spatial_dims, b, a, 1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(level(index) for index in range(levels))

    def forward(self, h: Tensor, embedding: Tensor, context: Sequence[Tensor | None] = ()) -> Tensor:
        """Runs the levels.

        Args:
            h: [B, channels[0], *S].
            embedding: [B, E].
            context: features to add to the input of each encoder level, the finest first; None adds nothing.
        """
        skips = []
        for index, level in enumerate(self.down):
            if index > 0:
                h = self.coarsen[index - 1](h)
            features = context[index] if index < len(context) else None
            if features is not None:
                h = h + features
            h = run_checkpointed(level, h, embedding, checkpointing=self.checkpointing)
            skips.append(h)
        for index in reversed(range(len(self.up))):
            if index < len(self.refine):
                h = skips[index] + F.interpolate(self.refine[index](h), scale_factor=2.0, mode="nearest")
            h = run_checkpointed(self.up[index], h, embedding, checkpointing=self.checkpointing)
        return h


class Level(nn.Module):
    """Residual blocks and an optional attention at one resolution. ``head_channels`` None is no attention."""

    def __init__(
        self, spatial_dims: int, channels: int, embedding_size: int, num_blocks: int, head_channels: int | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(spatial_dims, channels, embedding_size) for _ in range(num_blocks))
        self.attention = nn.Identity() if head_channels is None else SelfAttention(channels, head_channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h, embedding)
        return self.attention(h)
