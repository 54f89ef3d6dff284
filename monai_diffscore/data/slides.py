r"""Reads regions of whole-slide images at any pixel size, by openslide, never a whole level at once.

A slide is a pyramid of levels; level l shows the same tissue with pixels ``downsample[l]`` times as wide as those of
level 0, which measure ``mpp_um`` micrometres. A request names a corner in level-0 pixels, a size in output pixels and
*its* ``mpp_um``. The reader averages the pixels of the coarsest level that is still finer:

.. math::  \text{scale} = \frac{\text{requested mpp}}{\text{mpp}_0 \cdot \text{downsample}_l} \ge 1 .

For a scale within 2% of 1 it returns the level's own pixels. Magnification is always ``mpp_um``, not a lens or a level,
because scanners differ.

openslide reads Aperio, Hamamatsu, Leica, Mirax, Philips, Trestle, Ventana, Zeiss, DICOM and generic tiled TIFF.
**Fallback**: other TIFF (strips, 16 bit), PNG and JPEG are decoded whole, as one level of at most 64 million pixels
(:mod:`~monai_diffscore.data.pictures`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from monai_diffscore.data.arrays import kind_of_array
from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.cases.pictures import list_pictures, refuse_no_picture
from monai_diffscore.data.pictures import is_tiled, read_rgb, tiff_is_upright, tiff_mpp, unreadable
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.colours import as_rgb8

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
#: the range of pixel sizes of microscopes; others are the resolution of a screen or a printer
PLAUSIBLE_MPP_UM = (0.02, 50.0)
#: a level is read without averaging if its pixel size differs by less than this share
MPP_TOLERANCE = 0.02
_BLOCK = 1024  # pixels of a level read at once on the way to a coarser picture
_CACHE_BYTES = 64 * 2**20


class _Levels(Protocol):
    """The pyramid of a file, and its 8-bit RGB pixels [h, w, 3], white beyond its edge."""

    sizes: Sequence[tuple[int, int]]
    downsamples: Sequence[float]
    mpp: Sequence[float | None]

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray: ...

    def close(self) -> None: ...


class Slide:
    """A slide, opened at the first access and once in each process (a handle does not survive a fork).

    Args:
        path: of the file.
        assume_mpp_um: size of a level-0 pixel **if the file states none**; None refuses such a file.
        value_range: of colours that are not 8 bits wide, see :func:`~monai_diffscore.transforms.colours.as_rgb8`.
    Raises:
        DataError: from any access, for an unreadable file, a file without a plausible pixel size, or pixels that are
            not square.
    """

    def __init__(
        self,
        path: str | Path,
        assume_mpp_um: float | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.path = str(path)
        self.assume_mpp_um, self.value_range = assume_mpp_um, value_range
        self._levels: _Levels | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_levels": None}

    @property
    def levels(self) -> _Levels:
        """The open file."""
        if self._levels is None or self._process != os.getpid():
            self._levels = _open(self.path, self.value_range)
            self._process = os.getpid()
        return self._levels

    def close(self) -> None:
        """Closes the file; the next access opens it again."""
        if self._levels is not None and self._process == os.getpid():
            self._levels.close()
        self._levels = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in level-0 pixels."""
        return self.levels.sizes[0]

    @property
    def mpp_um(self) -> float:
        """Size of a level-0 pixel in micrometres."""
        stated = self.levels.mpp
        low, high = PLAUSIBLE_MPP_UM
        plausible = [mpp for mpp in stated if mpp is not None and low <= mpp <= high]
        if len(plausible) < 2:
            if self.assume_mpp_um is None:
                raise DataError(
                    self.path,
                    expected=f"a stated size of a pixel between {low} and {high} um",
                    got=f"{stated[0]} x {stated[1]}" if any(stated) else "none in the file",
                    remedy="If you know it, say so: --assume_mpp_um 0.5 (an objective of 20x is often 0.5, 40x 0.25).",
                )
            return self.assume_mpp_um
        if abs(plausible[0] / plausible[1] - 1) > MPP_TOLERANCE:
            raise DataError(
                self.path,
                expected="square pixels",
                got=f"{plausible[0]:g} x {plausible[1]:g} um",
                remedy="Resample the slide beforehand.",
            )
        return float(np.mean(plausible))

    def read(self, corner: Sequence[float] | np.ndarray, size: Sequence[int], mpp_um: float) -> np.ndarray:
        """8-bit RGB pixels [3, height, width]; white beyond the edge of the slide.

        Args:
            corner: x and y of the upper left corner in level-0 pixels.
            size: width and height in output pixels.
            mpp_um: size of an output pixel.
        Raises:
            DataError: if ``mpp_um`` is finer than the slide, or the file is damaged there.
        """
        level, scale = self._level_for(mpp_um)
        downsample = self.levels.downsamples[level]
        start = [corner[axis] / downsample for axis in (0, 1)]
        if scale == 1:
            # rounded down: a region inside the slide stays inside
            pixels = self.levels.read(_floor(start[0]), _floor(start[1]), level, size[0], size[1])
        else:
            pixels = self._averaged(level, start, size, scale)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def span(self, pixels: int, mpp_um: float) -> float:
        """Number of level-0 pixels that ``pixels`` output pixels of ``mpp_um`` cover."""
        level, scale = self._level_for(mpp_um)
        return pixels * scale * self.levels.downsamples[level]

    def overview(self, longest: int = 1024) -> tuple[np.ndarray, float]:
        """The whole slide in at most ``longest`` pixels a side [3, h, w], and the level-0 pixels that one covers."""
        factor = max(1.0, max(self.size) / longest)
        width, height = (max(1, int(side / factor)) for side in self.size)
        return self.read((0, 0), (width, height), factor * self.mpp_um), factor

    def _level_for(self, mpp_um: float) -> tuple[int, float]:
        factor = mpp_um / self.mpp_um
        if factor < 1 - MPP_TOLERANCE:
            raise DataError(
                self.path,
                expected=f"a pixel size mpp_um of at least the slide's, {self.mpp_um:g}",
                got=f"{mpp_um:g}",
                remedy="Raise --mpp_um of the training: the slide has no finer pixels.",
            )
        scales = [factor / downsample for downsample in self.levels.downsamples]
        level = max(number for number, scale in enumerate(scales) if scale >= 1 - MPP_TOLERANCE)
        return level, 1.0 if abs(scales[level] - 1) <= MPP_TOLERANCE else scales[level]

    def _averaged(self, level: int, start: Sequence[float], size: Sequence[int], scale: float) -> np.ndarray:
        """Output pixels as means of ``scale`` x ``scale`` pixels, block by block, so that memory does not grow."""
        # the mean over boxes if boxes are whole pixels, else a triangle filter, whose support is twice as wide
        exact = abs(scale - round(scale)) < 1e-6
        method, margin = (Image.Resampling.BOX, 0) if exact else (Image.Resampling.BILINEAR, int(np.ceil(scale)))
        step = max(1, int(_BLOCK / scale))
        averaged = np.empty((size[1], size[0], 3), np.uint8)
        for top in range(0, size[1], step):
            for left in range(0, size[0], step):
                wide, high = min(step, size[0] - left), min(step, size[1] - top)
                x, y = start[0] + left * scale, start[1] + top * scale
                x, y = (_floor(x), _floor(y)) if exact else (x, y)
                first_x, first_y = int(np.floor(x)) - margin, int(np.floor(y)) - margin
                span = [int(np.ceil(count * scale)) + (0 if exact else 2 * margin + 1) for count in (wide, high)]
                box = (x - first_x, y - first_y, x - first_x + wide * scale, y - first_y + high * scale)
                block = Image.fromarray(self.levels.read(first_x, first_y, level, span[0], span[1]))
                averaged[top : top + high, left : left + wide] = np.asarray(block.resize((wide, high), method, box=box))
        return averaged


class _OpenSlideLevels:
    """A pyramid that openslide reads."""

    def __init__(self, path: str) -> None:
        import openslide

        self.path = path
        self.file = openslide.OpenSlide(path)
        is_tiff = Path(path).suffix.lower() in (".tif", ".tiff")
        if is_tiff and not tiff_is_upright(path):
            raise DataError(
                path, expected="a slide whose first pixel is at its upper left", got="another orientation in its tag",
                remedy="Turn it (vips autorot IN OUT), or take it out of the folder.",
            )  # fmt: skip
        self.file.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        self.sizes: Sequence[tuple[int, int]] = self.file.level_dimensions
        # if the sides do not divide, the stated factors are a little off the true integers
        self.downsamples: Sequence[float] = [_nearest_integer(factor) for factor in self.file.level_downsamples]
        stated = [self.file.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        self.mpp: Sequence[float | None] = [None if mpp is None else float(mpp) for mpp in stated]
        if None in self.mpp and is_tiff:
            self.mpp = tiff_mpp(path)  # OME-XML, which openslide does not read

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        import openslide

        corner = (round(x * self.downsamples[level]), round(y * self.downsamples[level]))
        try:
            pixels = np.asarray(self.file.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError as error:
            raise unreadable(self.path, error) from error
        if pixels[..., 3].min() == 255:
            return pixels[..., :3]
        return as_rgb8(pixels.transpose(2, 0, 1), self.path).transpose(1, 2, 0)

    def close(self) -> None:
        self.file.close()


class _PictureLevels:
    """An ordinary picture, decoded whole: one level."""

    def __init__(self, path: str, value_range: tuple[float, float] | None) -> None:
        self.pixels = read_rgb(path, value_range).transpose(1, 2, 0)
        height, width = self.pixels.shape[:2]
        self.sizes: Sequence[tuple[int, int]] = [(width, height)]
        self.downsamples: Sequence[float] = [1.0]
        self.mpp: Sequence[float | None] = (
            tiff_mpp(path) if Path(path).suffix.lower() in (".tif", ".tiff") else (None, None)
        )

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        wide, high = self.sizes[level]
        if x >= 0 and y >= 0 and x + width <= wide and y + height <= high:
            return self.pixels[y : y + height, x : x + width]
        region = np.full((height, width, 3), 255, np.uint8)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, wide), min(y + height, high)
        if left < right and top < bottom:
            region[top - y : bottom - y, left - x : right - x] = self.pixels[top:bottom, left:right]
        return region

    def close(self) -> None:
        del self.pixels


def _floor(position: float) -> int:
    return int(np.floor(position + 1e-6))


def _nearest_integer(factor: float) -> float:
    return float(round(factor)) if abs(factor / round(factor) - 1) < 0.01 else float(factor)


def _open(path: str, value_range: tuple[float, float] | None) -> _Levels:
    import openslide

    if Path(path).suffix.lower() in PICTURE_SUFFIXES:
        return _PictureLevels(path, value_range)
    try:
        return _OpenSlideLevels(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        if Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise unreadable(path, error) from error
        return _PictureLevels(path, value_range)
    except (openslide.OpenSlideError, OSError) as error:
        raise unreadable(path, error) from error


def pixel_spacing_mm(mpp_um: float) -> list[float]:
    """The spacing of a slide's pixels in mm, rows and columns, for a pixel of ``mpp_um`` micrometres."""
    return [mpp_um / 1000] * 2


def list_slides(
    path: str | Path,
    key: str = "image",
    left_out: Sequence[str] = (),
    subject: str = "",
    layout: str = "auto",
    image: str = "",
) -> list[dict[str, Any]]:
    """The slides of :func:`listed_slides` in the order of their files: ``[{key: file, "subject": name}]``."""
    return listed_slides(path, key, left_out, subject, layout, image).images(key=key)


def listed_slides(
    path: str | Path,
    key: str = "image",
    left_out: Sequence[str] = (),
    subject: str = "",
    layout: str = "auto",
    image: str = "",
) -> Cases:
    """All slides below a folder, or the one file ``path``, as cases; all pictures, if there is no slide.

    Subjects and files that are left out are those of :func:`~monai_diffscore.data.cases.pictures.list_pictures`, with
    the same arguments.

    Raises:
        DataError: for a path without slides or pictures; as ``list_pictures``.
    """
    suffixes = SLIDE_SUFFIXES + PICTURE_SUFFIXES
    listing = list_pictures(path, suffixes, left_out, subject, is_slide, False, key, layout, image)
    refuse_no_picture(listing, f"slides or pictures ({', '.join(suffixes)})", key)
    listing.warn_of_left_out(stacklevel=4)
    return listing


def list_any_pictures(path: str | Path, subject: str = "") -> Cases:
    """The slides below a path, else its pictures and projections in DICOM, else its arrays; no case without any."""
    suffixes = SLIDE_SUFFIXES + PICTURE_SUFFIXES
    listing = list_pictures(path, suffixes, subject=subject, is_slide=is_slide, projections=True)
    arrays = [Path(one.path) for one in listing.left_out if one.path.endswith(".npy")]
    if listing.cases or not arrays:
        return listing
    return list_pictures(path, (".npy",), subject=subject, noun=kind_of_array(arrays[0]))


def is_slide(file: Path) -> bool:
    """Whether a file has the format of a scanner, or is a tiled TIFF."""
    suffix = file.suffix.lower()
    return is_tiled(file) if suffix in (".tif", ".tiff") else suffix in SLIDE_SUFFIXES
