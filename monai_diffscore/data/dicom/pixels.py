"""Decodes the pixels of planes in the unit of the series: ITK for classic files, pydicom for enhanced files.

Both give slope * stored + intercept of the plane (slopes may differ from slice to slice), as float32, which is exact to
1e-3 units for every integer of 16 bits and its rescale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import itk
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import iter_pixels
from pydicom.uid import UID

from monai_diffscore.data.dicom.planes import Plane
from monai_diffscore.errors import DataError

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]
AIR_FLOOR_HU = -1024.0  # no tissue and no air is below; lower values in the corners of CT slices are padding


def read_pixels(planes: Sequence[Plane]) -> tuple[Volume, Mask]:
    """Values [X, Y, Z] in the order of the planes, and the mask of the padding that their headers declare.

    Raises:
        DataError: for a file that cannot be decoded, or whose size differs from its header's; names the file.
    """
    first = planes[0]
    volume = np.empty((len(planes), first.rows, first.columns), dtype=np.float32)
    padding = np.zeros(volume.shape, dtype=np.bool_)
    for number, values in _decoded(planes):
        plane = planes[number]
        if values.size != volume[number].size or not np.isfinite(values).all():
            got = f"{values.shape}" if values.size != volume[number].size else "NaN or infinity"
            expected = f"{plane.rows}x{plane.columns} finite pixels"
            raise DataError(plane.file, expected=expected, got=got, remedy="Copy the file again, or leave it out.")
        volume[number] = values.reshape(volume[number].shape)
        if plane.padding is not None:
            slope = 1.0 if plane.slope is None else plane.slope
            low, high = sorted(slope * end + (plane.intercept or 0.0) for end in plane.padding)
            margin = 0.5 * abs(slope)
            padding[number] = (volume[number] > low - margin) & (volume[number] < high + margin)
    return volume.transpose(2, 1, 0), padding.transpose(2, 1, 0)


def pixels_equal(first: Plane, second: Plane) -> bool:
    """Whether two planes have the same stored bytes and the same rescale."""
    if (first.slope, first.intercept, first.transfer_syntax) != (
        second.slope,
        second.intercept,
        second.transfer_syntax,
    ):
        return False
    if first.frame is None and second.frame is None:
        stored = [
            pydicom.dcmread(p.file, specific_tags=["PixelData"], force=True).get("PixelData") for p in (first, second)
        ]
        return bool(stored[0] == stored[1])
    return bool(np.array_equal(_frame(first), _frame(second)))


def undeclared_padding(volume: Volume, declared: Mask) -> float | None:
    """The value below -1024 HU in at least half of the corners of the slices; None without such a value."""
    corners = volume[[0, 0, -1, -1], [0, -1, 0, -1]]
    low = corners[(corners < AIR_FLOOR_HU) & ~declared[[0, 0, -1, -1], [0, -1, 0, -1]]]
    if low.size == 0:
        return None
    values, counts = np.unique(low, return_counts=True)
    return float(values[counts.argmax()]) if 2 * counts.max() >= corners.size else None


def blurred_padding(volume: Volume, declared: Mask) -> Mask:
    """The mask of voxels nearer to the declared padding than to -1024 HU; lossy compression blurs its edge."""
    value = float(volume[declared].min(initial=AIR_FLOOR_HU))
    return declared | (volume < (value + AIR_FLOOR_HU) / 2)


def _decoded(planes: Sequence[Plane]) -> Iterator[tuple[int, NDArray]]:
    """The number of each plane with its rescaled values, file by file."""
    files: dict[str, list[int]] = {}
    for number, plane in enumerate(planes):
        files.setdefault(plane.file, []).append(number)
    for file, numbers in files.items():
        plane = planes[numbers[0]]
        try:
            if plane.frame is None:
                yield numbers[0], _classic(file)
                continue
            frames = iter_pixels(file, raw=True, indices=[planes[number].frame or 0 for number in numbers])
            for number, stored in zip(numbers, frames, strict=True):
                slope, intercept = planes[number].slope, planes[number].intercept
                yield number, stored * (1.0 if slope is None else slope) + (intercept or 0.0)
        except (RuntimeError, ValueError, AttributeError, OSError, NotImplementedError) as error:
            if isinstance(error, DataError):
                raise
            raise _undecodable(plane, error) from error


def _classic(file: str) -> NDArray:
    reader = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName=file, ImageIO=itk.GDCMImageIO.New())
    reader.Update()
    return itk.array_from_image(reader.GetOutput())


def _frame(plane: Plane) -> NDArray:
    return next(iter(iter_pixels(plane.file, raw=True, indices=[plane.frame or 0])))


def _undecodable(plane: Plane, error: Exception) -> DataError:
    syntax = UID(plane.transfer_syntax)
    reason = [line.strip() for line in str(error).splitlines() if line.strip()]
    remedy = "Copy the file again, or leave it out."
    if syntax.is_compressed:
        remedy = "Decompress the series (gdcmconv --raw, dcmdjpeg or dcmdjpls), or install its codec for pydicom."
    return DataError(
        plane.file,
        expected="pixels that can be decoded",
        got=f"{syntax.name} and {type(error).__name__}: {reason[-1] if reason else ''}",
        remedy=remedy,
    )
