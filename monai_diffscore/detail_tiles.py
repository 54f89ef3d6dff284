r"""Details of large volumes in tiles: the memory of a scale is that of one batch of windows.

The denoiser of a scale sees the coarser image and the position of each voxel, so it needs no other part of the volume.
:class:`DetailTiles` runs it in windows that overlap (:class:`~monai_diffscore.tiling.TiledDenoiser`). The windows cut
the coarser image and the position at the place of the details. The coarse image has no tiles: its model needs all of
the anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from monai_diffscore.multiscale import MultiScale
from monai_diffscore.tiling import TiledDenoiser


class DetailTiles:
    """Makes a model of scales whose details run in tiles, where their scale is larger than a tile.

    Args:
        tile_size: spatial size of a tile, in voxels of the details of a scale. Their grid has half the size of the
            image of the scale.
        overlap, batch_size: see :class:`~monai_diffscore.tiling.TiledDenoiser`.
    Raises:
        ValueError: as :class:`~monai_diffscore.tiling.TiledDenoiser`.
    """

    def __init__(self, tile_size: Sequence[int], overlap: float = 0.25, batch_size: int = 1) -> None:
        TiledDenoiser(nn.Identity(), tile_size, overlap, batch_size=batch_size)  # checks the values
        self.tile_size, self.overlap, self.batch_size = tuple(tile_size), overlap, batch_size

    def __call__(self, model: MultiScale) -> MultiScale:
        """The model with denoisers of details in tiles."""
        return model.wrapped(lambda denoiser: LargeTiled(denoiser, self.tile_size, self.overlap, self.batch_size))


class LargeTiled(nn.Module):
    """A denoiser in tiles for x [B, C, *S] that is larger than a tile along any axis; else the denoiser itself.

    Args:
        denoiser: ``(x, sigma, **condition)``.
        tile_size, overlap, batch_size: see :class:`DetailTiles`.
    """

    def __init__(self, denoiser: nn.Module, tile_size: Sequence[int], overlap: float, batch_size: int) -> None:
        super().__init__()
        self.denoiser, self.tile_size, self.overlap, self.batch_size = denoiser, tuple(tile_size), overlap, batch_size

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        """The estimate of the denoiser."""
        sizes = tuple(x.shape[2:])
        if len(sizes) != len(self.tile_size):
            raise ValueError(f"Expected details [B, C, *S] with {len(self.tile_size)} axes, got {tuple(x.shape)}.")
        window = [min(pair) for pair in zip(sizes, self.tile_size, strict=True)]
        if tuple(window) == sizes:
            denoised: Tensor = self.denoiser(x, sigma, **condition)
            return denoised
        denoised = TiledDenoiser(self.denoiser, window, self.overlap, batch_size=self.batch_size)(x, sigma, **condition)
        return denoised
