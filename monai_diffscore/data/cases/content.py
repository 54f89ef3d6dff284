r"""Compares and classifies files by their content: headers, equal images, label maps.

**Equal**: two files have the same bytes after unpacking. Files of different unpacked size differ; gzip writes the size
and the CRC-32 of its content at its end, so that most comparisons need not read the files. Files of the same CRC-32 are
compared by SHA-256.

**Label map**: neighbours that are equal nearly everywhere. With the pairs (u, v) of neighbours along the axes without
background,

.. math::  \text{share} = \frac{\#\{u = v\}}{\#\{(u, v)\}} \ge 0.7 ,

where background is the commonest value. Noise and texture give an image a far smaller share. The values may be any
numbers (a scaled map). More than 256 of them must be whole (instances), with a share of at least 0.8. Two values alone,
and points of which no two touch, are a label map, too.

**Soft mask**: values of 0 to 1, and at least 30 % of those above .01 are above .98. An image with intensities of 0
to 1 has few voxels at its maximum.
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_diffscore.data.cases.names import ending, is_volume
from monai_diffscore.data.nibabel_images import is_packed, open_image
from monai_diffscore.data.paths import split_channel

_MOST_LABELS = 256
_SHARE = 0.7
_SHARE_OF_INSTANCES = 0.8
_SHARE_OF_PLANE = 0.5
_CERTAIN, _POSSIBLE, _PLATEAU = 0.98, 0.01, 0.3
_BYTES_OF_LABELS = 0.3  # a voxel, at most, of a packed label map
_BLOCK = 1 << 20
#: pictures without loss, whose label maps keep their values; and the largest to read, in pixels
_PICTURES_OF_LABELS = (".png", ".bmp", ".tif", ".tiff")
_MOST_PIXELS = 16_000_000
_SIMPLE_ITK = (".nrrd", ".nhdr", ".mha", ".mhd")


def shape_of(path: str | Path) -> tuple[int, ...] | None:
    """The size of a volume by its header; None for an unreadable header, which raises an error on loading."""
    file, _ = split_channel(path)
    try:
        if ending(file) in _SIMPLE_ITK:
            import SimpleITK

            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(str(file))
            reader.ReadImageInformation()
            return tuple(reader.GetSize())
        return tuple(int(size) for size in open_image(file).shape)
    except Exception:  # whatever a damaged file makes of a reader
        return None


def equal_files(paths: Iterable[str | Path]) -> list[list[Path]]:
    """Groups of files with the same unpacked content, each sorted; a file without a copy is in no group.

    Two names of one file on the disk are equal without reading. Empty files are damaged, not equal.
    """
    groups: dict[Any, list[Path]] = defaultdict(list)
    for path in map(Path, paths):
        if path.stat().st_size:
            groups[_size(path)].append(path)
    for key in (_crc, _sha):
        finer: dict[Any, list[Path]] = defaultdict(list)
        for value, members in groups.items():
            if len(members) > 1 and len({member.resolve() for member in members}) == 1:
                finer[value].extend(members)
            elif len(members) > 1:
                for member in members:
                    finer[value, key(member)].append(member)
        groups = finer
    return [sorted(members) for members in groups.values() if len(members) > 1]


def content_hash(path: str | Path) -> str:
    """The SHA-256 of the unpacked content of a file."""
    return _sha(Path(path))


def _size(path: Path) -> int:
    return _trailer(path)[1] if is_packed(path) else path.stat().st_size % 2**32


def _trailer(path: Path) -> tuple[int, int]:
    """CRC-32 and size (modulo 2^32) of the content of a gzip file of one member (RFC 1952, 2.3.1).

    A file that breaks off before them equals files of its own size alone.
    """
    with open(path, "rb") as file:
        if path.stat().st_size < 8:
            return 0, path.stat().st_size
        file.seek(-8, 2)
        crc, size = struct.unpack("<II", file.read(8))
    return int(crc), int(size)


def _crc(path: Path) -> int:
    if is_packed(path):
        return _trailer(path)[0]
    value = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


def _sha(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") if is_packed(path) else open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except (OSError, EOFError, zlib.error):  # a damaged file equals only itself
        return f"{path}: damaged"
    return digest.hexdigest()


def is_label_map(values: np.ndarray) -> bool:
    """Whether an array [*S] is a label map or a soft mask by its values; false for a constant."""
    values = np.asarray(values)
    if values.size < 8 or values.dtype.kind not in "buif":
        return False
    if _is_of_image(values[..., values.shape[-1] // 2] if values.ndim > 2 else values):
        return False
    levels, counts = np.unique(values, return_counts=True)
    if not np.isfinite(levels).all() or len(levels) < 2:
        return False
    if _is_soft_mask(levels, counts):
        return True
    many = len(levels) > _MOST_LABELS
    if many and not np.equal(levels, np.rint(levels)).all():
        return False
    equal, pairs = _equal_neighbours(values, levels[counts.argmax()])
    if pairs == 0 or len(levels) == 2:
        return True
    return equal / pairs >= (_SHARE_OF_INSTANCES if many else _SHARE)


def _equal_neighbours(values: np.ndarray, background: Any) -> tuple[int, int]:
    """The number of equal pairs of neighbours outside of the background, and of all pairs there."""
    equal = pairs = 0
    for axis in range(values.ndim):
        if values.shape[axis] < 2:
            continue
        left = values.take(range(values.shape[axis] - 1), axis)
        right = values.take(range(1, values.shape[axis]), axis)
        inside = (left != background) & (right != background)
        equal += int((inside & (left == right)).sum())
        pairs += int(inside.sum())
    return equal, pairs


def _is_soft_mask(levels: np.ndarray, counts: np.ndarray) -> bool:
    """Whether values, with their counts, are shares of a mask, most of them nearly 0 or 1."""
    if levels[0] < 0 or levels[0] > _POSSIBLE or not _CERTAIN < levels[-1] <= 1 + 1e-6:
        return False
    return bool(counts[levels >= _CERTAIN].sum() >= _PLATEAU * counts[levels > _POSSIBLE].sum())


def _is_of_image(plane: np.ndarray) -> bool:
    """Whether a plane is of an image for sure: it tells most images without the other planes."""
    levels, counts = np.unique(plane, return_counts=True)
    if not np.isfinite(levels).all():
        return True
    if len(levels) <= _MOST_LABELS or (levels[0] >= 0 and levels[-1] <= 1 + 1e-6):
        return False
    equal, pairs = _equal_neighbours(plane, levels[counts.argmax()])
    return not np.equal(levels, np.rint(levels)).all() or equal < _SHARE_OF_PLANE * pairs


def holds_label_map(path: str | Path) -> bool:
    """Whether a volume or picture is a label map; false, without reading, for packed files that are too large."""
    file, channel = split_channel(path)
    if ending(file) in _PICTURES_OF_LABELS:
        return _picture_is_label_map(file)
    if not is_volume(file):
        return False
    try:
        if ending(file) in _SIMPLE_ITK:
            import SimpleITK

            values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file)))  # a view would outlive its image
            return _are_label_maps(values[..., None] if values.ndim == 3 else values, channel)
        image = open_image(file)
        voxels = int(np.prod(image.shape))
        if is_packed(file) and file.stat().st_size > _BYTES_OF_LABELS * voxels + 1024:
            return False
        if len(image.shape) > 2:
            plane = (slice(None), slice(None), image.shape[2] // 2, *(0,) * (len(image.shape) - 3))
            if _is_of_image(np.asanyarray(image.dataobj[plane])):
                return False
        values = np.asanyarray(image.dataobj)
    except Exception:  # whatever a damaged file makes of a reader
        return False
    return _are_label_maps(values.reshape(*values.shape[:3], -1), channel)


def _are_label_maps(values: np.ndarray, channel: int | None) -> bool:
    """Whether each channel, or the one, of an array [*S, channels] is a label map; channels of one value count."""
    chosen = values if channel is None else values[..., channel : channel + 1]
    several = [one for one in np.moveaxis(chosen, -1, 0) if one.size and one.min() != one.max()]
    return bool(several) and all(map(is_label_map, several))


def _picture_is_label_map(file: Path) -> bool:
    """Whether a picture is a label map by its values, or by its colours."""
    try:
        with Image.open(file) as picture:
            pixels = picture.size[0] * picture.size[1]
            packed = ending(file) == ".png"
            if pixels > _MOST_PIXELS or (packed and file.stat().st_size > _BYTES_OF_LABELS * pixels + 1024):
                return False
            values = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    except Exception:  # whatever a damaged file makes of a decoder
        return False
    if values.ndim == 3:  # a number for each colour
        values = values.astype(np.int64) @ (256 ** np.arange(values.shape[2]))
    return is_label_map(values)
