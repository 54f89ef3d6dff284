"""Fingerprints of pictures and sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monai_diffscore.data.arrays import (
    LoadArrayd,
    LoadPictured,
    cases_of_arrays,
    class_names,
    listed_arrays,
)
from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.patches import evenly_spaced
from monai_diffscore.planning.fingerprint import (
    Fingerprint,
    Problem,
    assumptions,
    list_readable,
    path_below,
    percentiles_by_name,
    read_each,
    refuse_unless_some,
    shown_names,
    some_values,
    spans,
)

_ROWS_READ = 2_000


def fingerprint_pictures(
    root: Path,
    image_channels: int | None = None,
    value_range: Sequence[float] | None = None,
    exclude: Sequence[str] = (),
    **listing: str,
) -> Fingerprint:
    """The fingerprint of pictures or .npy files of images: a folder, or one file.

    Args:
        root: folder or file.
        image_channels: 1 or 3; None takes what most pictures have.
        value_range: black and white of pictures of more than 8 bits.
        exclude: files and folders below ``root`` to leave out.
        listing: ``subject``, ``layout`` and ``image``, as :func:`~monai_diffscore.data.listed_arrays` takes them.
    """
    cases, problems, details = _list_arrays(root, "pictures", exclude, listing)
    count = image_channels or _picture_channels(cases)
    load: Any = LoadPictured("image", count, value_range=value_range)
    fingerprint = _arrays(root, "pictures", cases, problems, count, lambda case: np.asarray(load(case)["image"]))
    return replace(fingerprint, details={**fingerprint.details, "value_range": value_range, **details})


def fingerprint_sequences(root: Path, exclude: Sequence[str] = (), **listing: str) -> Fingerprint:
    """The fingerprint of .npy files of sequences; arguments as :func:`fingerprint_pictures`."""
    cases, problems, details = _list_arrays(root, "sequences", exclude, listing)
    array = np.load(cases[0]["image"], mmap_mode="r")
    count = int(array.shape[1]) if array.ndim == 3 else 1
    load: Any = LoadArrayd("image", 1, count)
    fingerprint = _arrays(root, "sequences", cases, problems, count, lambda case: np.asarray(load(case)["image"]))
    return replace(fingerprint, details={**fingerprint.details, **details})


def _list_arrays(
    root: Path, kind: str, exclude: Sequence[str], chosen: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[Problem], dict[str, Any]]:
    """The cases, the problems, and what the plan keeps of the listing."""
    listings: list[Cases] = []
    spatial_dims = 1 if kind == "sequences" else 2

    def read(names: Sequence[str]) -> list[dict[str, Any]]:
        listings.append(listed_arrays(root, spatial_dims, left_out=names, **chosen))
        return cases_of_arrays(listings[-1], spatial_dims)

    cases, problems = list_readable(root, read, exclude)
    assumed = assumptions(listings[-1], kind, chosen.get("subject", ""))
    return cases, problems, {"listing": dict(chosen), "assumed": assumed}


def _picture_channels(cases: Sequence[dict[str, Any]]) -> int:
    from PIL import Image

    def channels(case: dict[str, Any]) -> int:
        if case["image"].endswith(".npy"):
            shape = np.load(case["image"], mmap_mode="r").shape
            rows = len(shape) - ("row" in case)
            return int(shape[-3]) if rows == 3 else 1
        try:
            with Image.open(case["image"]) as picture:
                return 1 if picture.mode in ("1", "L", "LA", "I;16", "I", "F") else 3
        except Exception:  # a damaged picture has no vote
            return 0

    votes = Counter(channels(case) for case in evenly_spaced(list(cases), 64))
    votes.pop(0, None)
    return votes.most_common(1)[0][0] if votes else 1


def _arrays(
    root: Path,
    kind: str,
    cases: Sequence[dict[str, Any]],
    problems: list[Problem],
    channels: int,
    read: Callable[[dict[str, Any]], np.ndarray],
) -> Fingerprint:
    sample = [case for case in cases if "row" not in case] + evenly_spaced([c for c in cases if "row" in c], _ROWS_READ)
    pairs, unread = read_each(root, tqdm(sample, desc="reading", leave=False), lambda case: _facts_of_array(read(case)))
    refuse_unless_some(root, kind, pairs, problems + unread)
    unreadable = {problem.file for problem in unread}
    usable = [case for case in cases if path_below(root, case["image"]) not in unreadable]
    subjects = [case["subject"] for case in usable]
    sizes, values = [facts[0] for _, facts in pairs], np.concatenate([facts[1] for _, facts in pairs])
    by_range = np.concatenate([_scaled(facts[1]) for _, facts in pairs])  # of each sequence
    normal = values / 127.5 - 1 if kind == "pictures" else by_range
    classes = class_names(usable)
    return Fingerprint(
        data=str(root.resolve()),
        kind=kind,
        modality={1: "grey", 3: "RGB"}.get(channels, "channels") if kind == "pictures" else "signal",
        modality_from="the files",
        cases=len(usable),
        subjects=len(set(subjects)),
        names=shown_names(subjects),
        channels=channels,
        sizes=spans(sizes),
        percentiles=percentiles_by_name(values),
        foreground_share=round(float((values != values.min()).mean()), 4),
        sigma_data=float(f"{normal.std():.4g}"),
        mean=float(f"{normal.mean():.4g}"),
        details={"classes": classes, "read": len(pairs), "of_one_size": len(set(sizes)) == 1},
        problems=problems + unread,
    )


def _facts_of_array(image: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    return tuple(image.shape[1:]), some_values(np.asarray(torch.as_tensor(image)))


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-12) * 2 - 1
