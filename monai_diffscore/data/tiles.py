r"""Cuts whole-slide images into tiles of tissue, on a grid, at one or several magnifications.

**Tissue** absorbs light: its mean optical density over the colours, relative to the slide's own glass, is above Otsu's
threshold on an overview of at most 2048 pixels a side. The threshold lies between 0.05 (noise of empty glass) and 0.15
(any stain; Macenko et al. 2009), so that it does not cut a slide of only tissue, or only glass, in two.

**Grid**: corners are multiples of the stride, row by row in the pixel order of the file, inside the slide. A tile stays
if at least ``min_tissue`` of it is tissue. The same slide and settings give the same tiles in the same order.

**Context**: a wider field with the same centre and the same number of pixels, ``context_factor`` times as coarse.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import Dataset, MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy
from PIL import Image

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.patches import evenly_spaced
from monai_diffscore.data.pictures import write_pyramid
from monai_diffscore.data.slides import Slide
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.colours import as_rgb8, optical_density

_OTSU_BOUNDS = (0.05, 0.15)
_BLACK = 16  # a pixel darker than this in all colours is an edge of the scanner, not a stain
_OPEN_SLIDES = 8


def glass_colour(overview: np.ndarray) -> tuple[float, float, float]:
    """The colour of empty glass of an overview [3, h, w]: its 99th percentiles, or 255 if none is as bright as 200."""
    bright = np.percentile(overview.reshape(3, -1), 99, axis=1)
    red, green, blue = bright.tolist() if bright.min() >= 200 else (255.0, 255.0, 255.0)
    return red, green, blue


def tissue_mask(overview: np.ndarray) -> np.ndarray:
    """The mask of tissue, bool [h, w], of an overview [3, h, w], uint8."""
    from skimage.filters import threshold_otsu

    levels = torch.arange(256.0).expand(3, 256)
    table = optical_density(levels, glass_colour(overview)).numpy()  # 256 values a colour: no large arrays of floats
    density = sum(table[channel][overview[channel]] for channel in range(3)) / 3
    low, high = _OTSU_BOUNDS
    threshold = low if density.min() == density.max() else float(np.clip(threshold_otsu(density), low, high))
    return (density > threshold) & (overview.max(0) >= _BLACK)


class SlideTiles(Dataset):
    """Tiles of slides as dictionaries, for MONAI's ``DataLoader``; opens each slide once in each worker.

    An item has ``image`` uint8 [3, S, S], ``location`` (x and y of the centre in level-0 pixels), ``slide`` (file), the
    other entries of the slide's case, and with ``context_factor`` also ``context`` float32 [3, S, S] in 0 to 255, which
    is **NaN beyond the visible part of the slide**. At most 8 slides are open; memory does not grow with their size.

    Args:
        data: cases ``{"image": file, ...}``. A ``slab`` entry (see ``split_by_subject``) keeps the left part of the
            slide ("train") or the right ("validation"), and the context too ends at the cut.
        tile_size: side S in pixels.
        mpp_um: size of a pixel.
        stride: pixels between tiles; default ``tile_size``.
        context_factor: width of the context over that of the tile; None for no context.
        min_tissue: smallest share of tissue in a tile; 0 takes all tiles.
        count: at most this many tiles of each slide, evenly spread over its tissue.
        held_out: share of the width for "validation".
        assume_mpp_um: see :class:`~monai_diffscore.data.slides.Slide`.
        value_range: see :func:`~monai_diffscore.transforms.colours.as_rgb8`.
        transform: applied to each item.
        key: of the files in ``data`` and of the tiles.
    Raises:
        DataError: for an invalid slide, or slides without any tile.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        tile_size: int,
        mpp_um: float,
        stride: int | None = None,
        context_factor: float | None = None,
        min_tissue: float = 0.5,
        count: int | None = None,
        held_out: float = 0.3,
        assume_mpp_um: float | None = None,
        value_range: tuple[float, float] | None = None,
        transform: Any = None,
        key: str = "image",
    ) -> None:
        super().__init__(data, transform)
        if tile_size < 1 or (stride is not None and stride < 1) or not 0 <= min_tissue <= 1 or not 0 < held_out < 1:
            raise ValueError(
                "SlideTiles needs tile_size and stride of at least 1, min_tissue from 0 to 1 and held_out between, got "
                f"{tile_size}, {stride}, {min_tissue} and {held_out}."
            )
        if context_factor is not None and context_factor < 1:
            raise ValueError(f"A context is wider than its tile: context_factor >= 1, got {context_factor}.")
        self.tile_size, self.mpp_um, self.stride = tile_size, mpp_um, stride or tile_size
        self.context_factor, self.min_tissue, self.held_out = context_factor, min_tissue, held_out
        self.assume_mpp_um, self.value_range, self.key = assume_mpp_um, value_range, key
        self._open: OrderedDict[int, Slide] = OrderedDict()
        self.regions: list[tuple[float, float, float, float]] = []
        self.corners: list[np.ndarray] = []
        for number in range(len(data)):
            region, corners = self._grid(number)
            self.regions.append(region)
            self.corners.append(corners if count is None else corners[evenly_spaced(range(len(corners)), count)])
        self._ends = np.cumsum([len(corners) for corners in self.corners])
        if len(self) == 0:
            sizes = [self.slide(number).size for number in range(min(len(data), 4))]
            raise DataError(
                ", ".join(str(case[key]) for case in data[:4]) or "no slide",
                key=key,
                expected=f"at least one tile of {tile_size} pixels of {mpp_um} um with {min_tissue:.0%} tissue",
                got=f"none in {len(data)} slide(s), of sizes {sizes}",
                remedy="Lower --mpp_um, --tile_size or --min_tissue of the training, or look for blank slides.",
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def slide(self, number: int) -> Slide:
        """The open slide of case ``number``; closes the least recently used slide if too many are open."""
        if number not in self._open:
            while len(self._open) >= _OPEN_SLIDES:
                self._open.popitem(last=False)[1].close()
            self._open[number] = Slide(self.data[number][self.key], self.assume_mpp_um, self.value_range)
        self._open.move_to_end(number)
        return self._open[number]

    def _grid(self, number: int) -> tuple[tuple[float, float, float, float], np.ndarray]:
        """The visible part of a slide (x, y, x, y), and the corners of its tiles [N, 2], in level-0 pixels."""
        slide = self.slide(number)
        width, height = slide.size
        cut = round((1 - self.held_out) * width)
        left, right = {"train": (0, cut), "validation": (cut, width)}.get(self.data[number].get("slab"), (0, width))
        side = slide.span(self.tile_size, self.mpp_um)
        step = self.stride * side / self.tile_size
        columns, rows = (np.arange(int((room - side) / step + 1 + 1e-9)) * step for room in (right - left, height))
        if not (len(columns) and len(rows)) or side > min(right - left, height):
            return (left, 0, right, height), np.empty((0, 2))
        corners = np.stack(np.meshgrid(columns + left, rows), axis=-1).reshape(-1, 2)
        if self.min_tissue > 0:
            corners = corners[_tissue_share(slide, corners, side) >= self.min_tissue]
        return (left, 0, right, height), corners

    def _transform(self, index: int) -> Any:
        item = self.load(index)
        return item if self.transform is None else self.transform(item)

    def load(self, index: int) -> dict[str, Any]:
        """An item before the transform."""
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        corner = self.corners[number][index - (self._ends[number - 1] if number else 0)]
        slide = self.slide(number)
        size = (self.tile_size, self.tile_size)
        centre = corner + slide.span(self.tile_size, self.mpp_um) / 2
        meta = {"filename_or_obj": slide.path, "mpp_um": self.mpp_um}
        tile = MetaTensor(torch.from_numpy(slide.read(corner, size, self.mpp_um)), meta=meta)
        item = {**self.data[number], self.key: tile, "slide": slide.path, "location": torch.from_numpy(centre)}
        if self.context_factor is not None:
            item["context"] = MetaTensor(self._context(slide, centre, self.regions[number]), meta=dict(meta))
        return item

    def _context(self, slide: Slide, centre: np.ndarray, region: Sequence[float]) -> torch.Tensor:
        mpp_um = self.mpp_um * float(self.context_factor or 1)
        side = slide.span(self.tile_size, mpp_um)
        corner = centre - side / 2
        context = torch.from_numpy(slide.read(corner, (self.tile_size, self.tile_size), mpp_um)).float()
        middles = (np.arange(self.tile_size) + 0.5) * (side / self.tile_size)
        for axis, dim in ((0, 2), (1, 1)):
            outside = (corner[axis] + middles < region[axis]) | (corner[axis] + middles > region[axis + 2])
            if outside.any():
                context.movedim(dim, 0)[torch.from_numpy(outside)] = torch.nan
        return context


def _tissue_share(slide: Slide, corners: np.ndarray, side: float) -> np.ndarray:
    """Share of tissue in tiles with these corners [N, 2], by sums over an integral image."""
    longest = int(np.clip(4 * max(slide.size) / side, 512, 2048))  # a tile has about 4 overview pixels or more a side
    overview, factor = slide.overview(longest)
    mask = tissue_mask(overview)
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    height, width = mask.shape
    begin = np.minimum(np.floor(corners / factor + 1e-6).astype(int), (width - 1, height - 1))
    end = np.minimum(np.maximum(np.rint((corners + side) / factor).astype(int), begin + 1), (width, height))
    (left, top), (right, bottom) = begin.T, end.T
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    share: np.ndarray = inside / ((end - begin).prod(1))
    return share


def tissue_pixels(
    slide: str | Path, mpp_um: float, count: int = 50_000, tiles: int = 64, **options: Any
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Colours of a slide's tissue, uint8 [N, 3] with N <= ``count``, from tiles all over it; and its glass colour.

    Args:
        slide: the file.
        mpp_um: size of a pixel.
        count: largest number of pixels.
        tiles: largest number of tiles to read, of 256 pixels, or of the slide's side if it is smaller.
        options: ``assume_mpp_um`` and ``value_range`` of the slide.
    """
    opened = Slide(slide, **options)
    room = min(opened.size) / opened.span(1, mpp_um)
    tissue_tiles = SlideTiles(
        [{"image": str(slide)}], max(1, min(256, int(room))), mpp_um, min_tissue=0.1, count=tiles, **options
    )
    each = -(-count // len(tissue_tiles))
    parts = []
    for index in range(len(tissue_tiles)):
        tile = tissue_tiles.load(index)["image"].numpy()
        pixels = tile.reshape(3, -1).T[tissue_mask(tile).ravel()]
        parts.append(pixels[evenly_spaced(range(len(pixels)), each)])
    return np.concatenate(parts)[:count], glass_colour(opened.overview()[0])


class SaveTilesd(MapTransform):
    """Writes images [3, H, W] in 0 to 255 as 8-bit RGB files that state their pixel size; returns the data unchanged.

    Args:
        keys: of the images.
        output_dir: folder; files are named ``<key>_<number>``.
        mpp_um: size of a pixel, written into the file.
        output_ext: ".png", or ".tif" for a tiled pyramid that :class:`~monai_diffscore.data.slides.Slide` opens.
        number_key: key of the number.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        mpp_um: float,
        output_ext: str = ".png",
        number_key: str = "seed",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if output_ext not in (".png", ".tif"):
            raise ValueError(f"output_ext must be '.png' or '.tif', got {output_ext!r}.")
        self.folder, self.mpp_um, self.extension, self.number_key = Path(output_dir), mpp_um, output_ext, number_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            path = self.folder / f"{key}_{int(data[self.number_key]):04d}{self.extension}"
            pixels = as_rgb8(convert_to_numpy(data[key]), path, str(key), value_range=(0, 255))
            if self.extension == ".tif":
                write_pyramid(pixels, path, self.mpp_um)
                continue
            with whole_file(path) as file:
                picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
                picture.save(file, format="png", dpi=(25_400 / self.mpp_um,) * 2)
        return dict(data)
