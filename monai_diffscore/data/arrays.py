"""Lists and loads arrays: sequences and images in .npy files, and folders of pictures.

A case is one array:

================  =====================================================================================
.npy              [N, *S] or [N, C, *S]: N cases, a row each, read through a memory map; [*S]: one case
picture           PNG, JPEG, TIFF or BMP, or one projection in DICOM: one case, grey or RGB
subject           the patient that the path or DICOM names; else each row and each file is its own
class             the number in ``labels.npy`` beside the array, or the sub-folder; -1 without either
================  =====================================================================================

Pictures are [C, rows, columns] from the top, in 0 to 255.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, MapTransform, Resize
from monai.utils import convert_to_numpy
from PIL import Image

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.cases.pictures import PICTURES, SEQUENCES, list_pictures, refuse_no_picture
from monai_diffscore.data.files import kinds_in_words
from monai_diffscore.data.pictures import SUFFIXES as PICTURE_SUFFIXES
from monai_diffscore.data.pictures import read_picture
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.colours import as_brightness

LABELS = "labels.npy"


def list_arrays(
    path: str | Path,
    spatial_dims: int,
    num_classes: int | None = None,
    key: str = "image",
    left_out: Sequence[str] = (),
    subject: str = "",
    layout: str = "auto",
    image: str = "",
) -> list[dict[str, Any]]:
    """The cases of :func:`cases_of_arrays` of :func:`listed_arrays`, with their arguments."""
    listing = listed_arrays(path, spatial_dims, key, left_out, subject, layout, image)
    return cases_of_arrays(listing, spatial_dims, num_classes, key)


def listed_arrays(
    path: str | Path,
    spatial_dims: int,
    key: str = "image",
    left_out: Sequence[str] = (),
    subject: str = "",
    layout: str = "auto",
    image: str = "",
) -> Cases:
    """The files of arrays below a folder, or the one file ``path``, as cases.

    Subjects and files that are left out are those of :func:`~monai_diffscore.data.cases.pictures.list_pictures`.

    Args:
        path: folder or file; .npy, or pictures if ``spatial_dims`` is 2.
        spatial_dims: dimensions of S.
        key: for messages.
        left_out: files and folders below ``path`` to ignore.
        subject: "folder", "study" (DICOM), or a regular expression of the path.
        layout, image: of :func:`~monai_diffscore.data.cases.pictures.list_pictures`.
    Raises:
        DataError: for a path without arrays, or a mixture of arrays and pictures; as ``list_pictures``.
    """
    noun = SEQUENCES if spatial_dims == 1 else PICTURES
    suffixes = (".npy", *PICTURE_SUFFIXES) if spatial_dims == 2 else (".npy",)
    expected = f"{spatial_dims}-D arrays ({', '.join(suffixes)})"
    listing = list_pictures(path, suffixes, left_out, subject, None, spatial_dims == 2, key, layout, image, noun)
    refuse_no_picture(listing, expected, key)
    files = [Path(path) for case in listing for path in case.images.values()]
    if len({file.suffix == ".npy" for file in files}) > 1:
        raise DataError(
            listing.root,
            key=key,
            expected=f"{expected}, of one kind",
            got=kinds_in_words(files),
            remedy="Give arrays and pictures folders of their own, and the path of one of them.",
        )
    listing.warn_of_left_out(stacklevel=4)
    return listing


def cases_of_arrays(
    listing: Cases, spatial_dims: int, num_classes: int | None = None, key: str = "image"
) -> list[dict[str, Any]]:
    """All cases of listed arrays: ``[{key: file, "row": i, "subject": ..., "label": ...}]``.

    The cases are sorted. Only a case of an array of rows has ``row``. ``class_name`` is the folder of a class (the
    innermost) or the number in labels.npy; ``label`` counts the folders in natural order.

    Args:
        listing: from :func:`listed_arrays`.
        spatial_dims: dimensions of S.
        num_classes: every label must be smaller; None takes any.
        key: of the file name.
    Raises:
        DataError: for an array of another kind, or labels that do not fit.
    """
    sources = sorted(((Path(path), case) for case in listing for path in case.images.values()), key=itemgetter(0))
    top = Path(listing.root).parent if Path(listing.root).is_file() else Path(listing.root)
    numbered = any(_labels_of(file).is_file() for file, _ in sources)
    cases: list[dict[str, Any]] = []
    for file, source in sources:
        count = _count_rows(file, spatial_dims, key) if file.suffix == ".npy" else None
        labels = read_labels(file, count, key) if numbered else None
        folder = "" if numbered else source.facts.get("class", "")
        own = source.subject == str(file.relative_to(top))
        for row in range(1 if count is None else count):
            case = {key: str(file), "subject": source.subject, "label": -1, "class_name": folder}
            if labels is not None:
                case |= {"label": int(labels[row]), "class_name": str(labels[row]) if labels[row] >= 0 else ""}
            if count is not None:
                case |= {"row": row, "subject": f"{source.subject}[{row}]" if own else source.subject}
            cases.append(case)
    if not numbered:
        folders = sorted({case["class_name"] for case in cases} - {""}, key=_natural)
        cases = [case | {"label": folders.index(case["class_name"]) if case["class_name"] else -1} for case in cases]
    largest = max(case["label"] for case in cases)
    if num_classes is not None and largest >= num_classes:
        raise DataError(
            listing.root,
            key="label",
            expected=f"labels below num_classes = {num_classes}",
            got=f"labels up to {largest}, classes {class_names(cases)[:12]}",
            remedy=f"Give --num_classes {largest + 1}, or remove these sub-folders or rows.",
        )
    return cases


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """The sort key of natural order: 2 before 10."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def class_names(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the classes by label; "" for a label without a case."""
    names = {case["label"]: case["class_name"] for case in cases if case["label"] >= 0}
    return [names.get(label, "") for label in range(max(names, default=-1) + 1)]


def _labels_of(file: Path) -> Path:
    return file.parent / LABELS


def _open(file: Path, key: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # includes arrays of objects, which could run code
        raise DataError(
            file,
            key=key,
            expected="a .npy file of numbers",
            got=f"{type(error).__name__}: {error}",
            remedy="Write the file with numpy.save from an array of numbers.",
        ) from error
    return array


def kind_of_array(file: Path) -> str:
    """The kind of an array: [N, L] and [N, C, L] with few channels are sequences, [N, H, W] and [N, C, H, W] pictures.

    Raises:
        DataError: for a file without numbers.
    """
    array = _open(file, "image")
    if array.ndim == 4:
        return PICTURES
    if array.ndim == 3 and array.dtype != np.uint8:
        return SEQUENCES if array.shape[1] <= 16 and array.shape[2] >= 4 * array.shape[1] else PICTURES
    return PICTURES if array.ndim == 3 else SEQUENCES


def _count_rows(file: Path, spatial_dims: int, key: str) -> int | None:
    """Number of cases in an array; None if the whole array is one case."""
    array = _open(file, key)
    extra = array.ndim - spatial_dims
    if extra not in (0, 1, 2) or array.size == 0 or array.dtype.kind not in "buif":
        axes = ", ".join("LHWD"[1 : spatial_dims + 1] if spatial_dims > 1 else "L")
        raise DataError(
            file,
            key=key,
            expected=f"real numbers of shape [N, {axes}], [N, C, {axes}] or [{axes}], every axis at least 1",
            got=f"{array.dtype} of shape {array.shape}",
            remedy="Reshape or convert the array, and write it with numpy.save.",
        )
    return len(array) if extra else None


def read_labels(file: Path, count: int | None, key: str) -> np.ndarray | None:
    """Reads labels.npy beside an array: labels [N], -1 for unknown; None without the file.

    Args:
        file: the array.
        count: number of its cases; None if the whole array is one case.
        key: for messages.
    Raises:
        DataError: for labels beside several arrays, or labels that are no whole numbers from -1.
    """
    path = _labels_of(file)
    if not path.is_file():
        return None
    labels = _open(path, "label")
    expected = (1 if count is None else count,)
    alone = sum(other.suffix == ".npy" for other in file.parent.iterdir()) == 2
    if not alone or labels.shape != expected or labels.dtype.kind not in "ui" or int(labels.min(initial=0)) < -1:
        raise DataError(
            path,
            key="label",
            expected=f"integers of shape {expected}, from 0 (-1: unknown), beside {file.name} alone",
            got=f"{labels.dtype} of shape {labels.shape}, smallest {labels.min(initial=0)}, beside "
            f"{sum(1 for other in file.parent.iterdir() if other.suffix == '.npy') - 1} arrays",
            remedy="Write one label for each row of one array; give several arrays folders of their own.",
        )
    return labels


class LoadArrayd(MapTransform):
    """Loads cases of .npy files as float32 ``MetaTensor`` [channels, *S]; keeps the values.

    Args:
        keys: keys of the file names.
        spatial_dims: dimensions of S.
        channels: expected number of channels; rows [*S] have one.
        size: expected S; None takes any.
        row_key: key of the row, if the case has one.
        least: smallest sides of S, those of a window; None takes any.
    Raises:
        DataError: for an unreadable file, another shape, a shape below ``least``, NaN or infinity, or a constant.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int,
        channels: int = 1,
        size: Sequence[int] | None = None,
        row_key: str = "row",
        allow_missing_keys: bool = False,
        least: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims, self.channels, self.row_key = spatial_dims, channels, row_key
        self.size = None if size is None else tuple(size)
        self.least = tuple(least or ())

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            row = loaded.get(self.row_key)
            source = str(loaded[key]) if row is None else f"{loaded[key]}[{row}]"
            values = self.read(Path(loaded[key]), row, str(key))
            self._check(values, source, str(key))
            loaded[key] = MetaTensor(torch.from_numpy(values), meta={"filename_or_obj": source})
        return loaded

    def read(self, file: Path, row: int | None, key: str) -> np.ndarray:
        """The values [C, *S] of one case, float32."""
        array = _open(file, key)
        values = np.asarray(array if row is None else array[row]).astype(np.float32)
        return values[None] if values.ndim == self.spatial_dims else values

    def _check(self, values: np.ndarray, source: str, key: str) -> None:
        if values.ndim != self.spatial_dims + 1 or values.shape[0] != self.channels:
            last = values.shape[-1] == self.channels and values.ndim == self.spatial_dims + 1
            raise DataError(
                source,
                key=key,
                expected=f"{self.channels} channel(s) of {self.spatial_dims} dimension(s), channels first",
                got=f"shape {values.shape}",
                remedy="Move the channels to the front (numpy.moveaxis)."
                if last
                else f"Give all files one number of channels; a bundle trains on this one with "
                f"--image_channels {values.shape[0]}.",
            )
        if self.size is not None and values.shape[1:] != self.size:
            raise DataError(
                source,
                key=key,
                expected=f"the size {self.size} of all cases",
                got=f"{values.shape[1:]}",
                remedy="Resize all cases first, set --image_size, or give --fit True, which scales and crops.",
            )
        if any(side < least for side, least in zip(values.shape[1:], self.least, strict=False)):
            raise DataError(
                source,
                key=key,
                expected=f"at least {self.least}, a window",
                got=f"{values.shape[1:]}",
                remedy="Leave this case out (--left_out; `plan` calls it --exclude), or make the window smaller.",
            )
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise DataError(
                source,
                key=key,
                expected="finite values",
                got=f"{bad} of {values.size} values NaN or infinite",
                remedy="Remove this case, or fill these values first.",
            )
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise DataError(
                source,
                key=key,
                expected="values that differ",
                got=f"the constant {low:g}",
                remedy="Remove this case: a constant teaches the model nothing.",
            )


class LoadPictured(LoadArrayd):
    r"""Loads pictures, and images in .npy files, as float32 ``MetaTensor`` [channels, rows, columns] in 0 to 255.

    Keeps values v of 8 bits. Other values need ``value_range``, and v becomes
    :math:`255\,(v - low)/(high - low)`.

    Args:
        keys: keys of the file names.
        channels: 1 for grey, 3 for red, green and blue.
        size: expected (rows, columns); None takes any.
        value_range: (low, high) of black and white, for other than 8 bits; a file of 16 bits may hold 12.
        least: smallest (rows, columns); None takes any.
    Raises:
        DataError: as :class:`LoadArrayd`; for colours where grey is expected, or grey where colours are; for other than
            8 bits without ``value_range``, or values outside of it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int = 1,
        size: Sequence[int] | None = None,
        value_range: Sequence[float] | None = None,
        row_key: str = "row",
        allow_missing_keys: bool = False,
        least: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys, 2, channels, size, row_key, allow_missing_keys, least)
        self.value_range = None if value_range is None else (float(value_range[0]), float(value_range[1]))

    def read(self, file: Path, row: int | None, key: str) -> np.ndarray:
        """The brightness [C, rows, columns] of one case, float32."""
        if file.suffix != ".npy":
            return read_picture(file, self.channels, self.value_range, key)
        array = _open(file, key)
        values = np.asarray(array if row is None else array[row])
        values = values[None] if values.ndim == 2 else values
        source = str(file) if row is None else f"{file}[{row}]"
        return as_brightness(values, source, key, self.value_range).astype(np.float32)


class FitSized(MapTransform):
    """Scales images until they just cover a size, and crops the centre; the aspect ratio stays.

    Args:
        keys: keys of images [C, *S].
        size: spatial size.
    """

    def __init__(self, keys: KeysCollection, size: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = tuple(size)
        self.crop = CenterSpatialCrop(self.size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        fitted = dict(data)
        for key in self.key_iterator(fitted):
            sizes = fitted[key].shape[1:]
            scale = max(target / size for target, size in zip(self.size, sizes, strict=True))
            covering = [max(target, round(scale * size)) for target, size in zip(self.size, sizes, strict=True)]
            # the mean of areas: MONAI's anti-aliasing filter pads with black, which darkens the border
            fitted[key] = self.crop(Resize(covering, mode="area" if scale < 1 else "bilinear")(fitted[key]))
        return fitted


class SavePictured(MapTransform):
    """Writes images [1 or 3, rows, columns] in 0 to 255 as 8-bit PNG; returns the data unchanged.

    Args:
        keys: of the images.
        output_dir: folder; files are named ``<key>_<number>.png``.
        number_key: key of the number.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        number_key: str = "seed",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.folder, self.number_key = Path(output_dir), number_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            path = self.folder / f"{key}_{int(data[self.number_key]):04d}.png"
            brightness = as_brightness(convert_to_numpy(data[key]), path, str(key), value_range=(0, 255))
            pixels = np.rint(brightness).astype(np.uint8)
            with whole_file(path) as file:
                picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0).copy())
                picture.save(file, format="png")
        return dict(data)
