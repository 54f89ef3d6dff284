r"""Details of large volumes in tiles: the memory of a scale is that of one batch of windows.

The denoiser of a scale sees the coarser image and the position of each voxel, so it needs no other part of the volume.
:class:`DetailTiles` runs it in windows that overlap (:class:`~monai_diffscore.tiling.TiledDenoiser`). The windows cut
the coarser image and the position at the place of the details. The coarse image has no tiles: its model needs all of
the anatomy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from monai_diffscore.multiscale import MultiScale
from monai_diffscore.tiling import TiledDenoiser


class DetailTiles:
    """Makes a model of scales whose details run in tiles, where their scale is larger than a tile.

    Along each axis the tiles are the fewest that overlap by ``overlap`` voxels and are at most ``tile_size`` large.
    They are then as small as they can be: an axis of 96 voxels has two tiles of 52, not two of 64. The time of a voxel
    therefore depends little on the size of the volume.

    Args:
        tile_size: largest spatial size of a tile, in voxels of the details of a scale. Their grid has half the size of
            the image of the scale.
        overlap: smallest number of voxels that two neighbours have in common.
        multiple: the size of a tile is a multiple of this number of voxels. U-Nets need it: 2 to the number of their
            levels below the first.
        batch_size: see :class:`~monai_diffscore.tiling.TiledDenoiser`.
    Raises:
        ValueError: for a tile size or a batch size below 1, a tile size that is no multiple, or an overlap below 0 or
            of more than half of a tile.
    """

    def __init__(self, tile_size: Sequence[int], overlap: int = 8, multiple: int = 4, batch_size: int = 1) -> None:
        multiples = bool(tile_size) and not any(size % multiple for size in tile_size)
        if not multiples or not 0 <= 2 * overlap <= min(tile_size) or batch_size < 1:
            raise ValueError(
                f"DetailTiles expects tile sizes that are multiples of {multiple}, an overlap from 0 to half of the "
                f"smallest, and batch_size >= 1, got {list(tile_size)}, {overlap} and {batch_size}."
            )
        self.tile_size, self.overlap, self.multiple = tuple(tile_size), overlap, multiple
        self.batch_size = batch_size

    def __call__(self, model: MultiScale) -> MultiScale:
        """The model with denoisers of details in tiles."""
        return model.wrapped(partial(LargeTiled, tiles=self))

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The spatial size of the tiles of details of this spatial size.

        Raises:
            ValueError: for another number of axes than ``tile_size`` has.
        """
        if len(shape) != len(self.tile_size):
            raise ValueError(f"Expected details with {len(self.tile_size)} axes, got the size {tuple(shape)}.")
        return tuple(map(self._size, shape, self.tile_size))

    def _size(self, length: int, largest: int) -> int:
        """The size of the tiles along an axis: n tiles of size s cover n s - (n - 1) overlap voxels."""
        if length <= largest:
            return length
        count = math.ceil((length - self.overlap) / (largest - self.overlap))
        size = (length + (count - 1) * self.overlap) / count
        return math.ceil(size / self.multiple) * self.multiple


class LargeTiled(nn.Module):
    """A denoiser in tiles for x [B, C, *S] that is larger than a tile along any axis; else the denoiser itself.

    Args:
        denoiser: ``(x, sigma, **condition)``.
        tiles: gives the size and the overlap of the tiles.
    """

    def __init__(self, denoiser: nn.Module, tiles: DetailTiles) -> None:
        super().__init__()
        self.denoiser, self.tiles = denoiser, tiles
        self._tiled: dict[tuple[int, ...], TiledDenoiser] = {}  # by the size of the windows

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        """The estimate of the denoiser."""
        shape = tuple(x.shape[2:])
        window = self.tiles.sizes(shape)
        if window != shape and window not in self._tiled:
            overlap = [min(self.tiles.overlap / size, 0.5) for size in window]
            self._tiled[window] = TiledDenoiser(self.denoiser, window, overlap, batch_size=self.tiles.batch_size)
        denoised: Tensor = (self.denoiser if window == shape else self._tiled[window])(x, sigma, **condition)
        return denoised
