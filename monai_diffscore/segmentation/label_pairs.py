"""Images with their label maps, from any layout of cases, in memory on one spacing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose, MapLabelValued, Orientationd, ScaleIntensityRangePercentilesd, Spacingd
from tqdm import tqdm

from monai_diffscore.data import LoadVolumed
from monai_diffscore.data.cases.case import Cases, counts_text
from monai_diffscore.data.label_maps import read_label_map, refuse_unseen, values_of
from monai_diffscore.data.volumes import listed_cases
from monai_diffscore.errors import DataError


def labelled_cases(path: str | Path, image: str = "", mask: str = "") -> list[dict[str, Any]]:
    """The cases of a path with a label map: ``{"image": path or paths, "label": path, "subject": name}``, by path.

    Each also has ``class_names``: value to the names that the files state.

    Args:
        path: folder, table or datalist, as :func:`~monai_diffscore.data.cases.list_cases` reads it.
        image: role, or roles with commas between them, which become channels. "" takes the only role.
        mask: name of the mask that is the label map. "" takes the only name.
    Raises:
        DataError: for several roles or names and no choice, and for a path without such cases.
    """
    listing = listed_cases(path)
    name = mask or _only_mask(listing)
    masks = {file: case.masks for case in listing for file in case.images.values()}
    pairs = []
    for item in listing.images(image):
        first = item["image"] if isinstance(item["image"], str) else item["image"][0]
        # the channels of one file have the file's own path as an image
        of_case = masks.get(first) or masks.get(f"{first}/channel:0", {})
        if name in of_case:
            pairs.append({**item, "label": of_case[name], "class_names": listing.class_names.get(name, {})})
    if not pairs:
        raise _no_mask(listing, f"cases with the mask {name!r}")
    return pairs


def _only_mask(listing: Cases) -> str:
    if len(listing.masks) != 1:
        raise _no_mask(listing, "label maps of one name, or the name of the one to take")
    return next(iter(listing.masks))


def _no_mask(listing: Cases, expected: str) -> DataError:
    return DataError(
        listing.root, key="label", expected=expected,
        got=f"the masks {counts_text(listing.masks) or 'none'} (layout {listing.layout})",
        remedy="Choose with --mask NAME (--mask REAL,SYNTHETIC where the names differ); "
        "`python -m monai_diffscore cases FOLDER` prints the masks that are read.",
    )  # fmt: skip


def class_values(cases: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """The values of the label maps of ``cases``, increasing, without the background 0.

    Raises:
        DataError: for label maps of 0 alone; as :func:`~monai_diffscore.data.label_maps.read_label_map`.
    """
    values = {value for case in cases for value in values_of(read_label_map(case["label"]))} - {0}
    if not values:
        raise DataError(
            cases[0]["label"], key="label", expected="a class in the label maps", got="0 alone",
            remedy="Name another mask with --mask.",
        )  # fmt: skip
    return tuple(sorted(values))


def load_pairs(
    cases: Sequence[Mapping[str, Any]],
    classes: Sequence[int],
    spacing_mm: Sequence[float] | None = None,
    desc: str = "reading",
) -> list[dict[str, Any]]:
    """Reads cases into memory: image [C, X, Y, Z] float32 in [-1, 1], label [1, X, Y, Z] uint8 with 0, 1, ..., k.

    Axes are RAS. The percentiles 0.5 and 99.5 of each channel become -1 and 1.

    Args:
        cases: of :func:`labelled_cases`.
        classes: the values of the classes 1, ..., k in the files.
        spacing_mm: of the voxels; None keeps those of the files.
        desc: of the progress bar.
    Raises:
        DataError: for an image and a label map on two grids, and for a value that is no class.
    """
    load = LoadVolumed("image", channels=None)
    steps: list[Any] = [Orientationd(("image", "label"), axcodes="RAS", labels=None)]
    if spacing_mm is not None:
        steps.append(Spacingd(("image", "label"), pixdim=spacing_mm, mode=("bilinear", "nearest")))
    steps += [
        ScaleIntensityRangePercentilesd("image", 0.5, 99.5, -1.0, 1.0, clip=True, channel_wise=True),
        MapLabelValued("label", [0, *classes], list(range(len(classes) + 1)), dtype=np.uint8),
    ]
    prepare = Compose(steps)
    pairs = []
    for case in tqdm(cases, desc=desc, dynamic_ncols=True):
        item = {key: value for key, value in case.items() if key != "class_names"}
        pair = load(item) | {"label": read_label_map(case["label"])}
        _check_grids(pair, case)
        refuse_unseen(pair["label"], {str(value): "" for value in (0, *classes)})
        pairs.append(prepare(pair))
    return pairs


def _check_grids(pair: Mapping[Any, Any], case: Mapping[str, Any]) -> None:
    image, label = pair["image"], pair["label"]
    if image.shape[1:] != label.shape[1:] or not np.allclose(image.affine, label.affine, atol=1e-2):
        raise DataError(
            case["label"], key="label", expected=f"the grid of {case['image']}: {tuple(image.shape[1:])}, its affine",
            got=f"{tuple(label.shape[1:])}" + (", another affine" if image.shape[1:] == label.shape[1:] else ""),
            remedy="Resample the label map to the image, nearest neighbours.",
        )  # fmt: skip
