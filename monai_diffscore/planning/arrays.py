"""Fingerprints of pictures and sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_diffscore.data.arrays import (
    LoadArrayd,
    LoadPictured,
    cases_of_arrays,
    class_names,
    listed_arrays,
)
from monai_diffscore.data.patches import evenly_spaced
from monai_diffscore.planning.fingerprint import (
    FileLister,
    Fingerprint,
    Problem,
    list_readable,
    one_number_of_channels,
    percentiles_by_name,
    read_listed,
    refuse_unless_some,
    shown_names,
    some_values,
    spans,
)

_ROWS_READ = 2_000
#: points of the smallest window of a model of sequences
SHORTEST = 16


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
    lister = _lister(root, "pictures", listing)
    cases, problems = list_readable(root, lister, exclude)
    count = image_channels or _picture_channels(cases)
    load: Any = LoadPictured("image", count, value_range=value_range)
    fingerprint = _arrays(lister, cases, problems, count, lambda case: np.asarray(load(case)["image"]))
    return replace(fingerprint, details={**fingerprint.details, "value_range": value_range})


def fingerprint_sequences(root: Path, exclude: Sequence[str] = (), **listing: str) -> Fingerprint:
    """The fingerprint of .npy files of sequences; arguments as :func:`fingerprint_pictures`."""
    lister = _lister(root, "sequences", listing)
    cases, problems = list_readable(root, lister, exclude)
    count = one_number_of_channels(root, cases, _sequence_channels)
    load: Any = LoadArrayd("image", 1, count, least=[SHORTEST])
    return _arrays(lister, cases, problems, count, lambda case: np.asarray(load(case)["image"]))


def _sequence_channels(file: str | Sequence[str]) -> int:
    array = np.load(str(file), mmap_mode="r")
    return int(array.shape[1]) if array.ndim == 3 else 1


def _lister(root: Path, kind: str, chosen: Mapping[str, str]) -> FileLister:
    dims = 1 if kind == "sequences" else 2
    listed = partial(listed_arrays, spatial_dims=dims)
    return FileLister(root, kind, chosen, listed, partial(cases_of_arrays, spatial_dims=dims))


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
    lister: FileLister,
    cases: Sequence[dict[str, Any]],
    problems: list[Problem],
    channels: int,
    read: Callable[[dict[str, Any]], np.ndarray],
) -> Fingerprint:
    root, kind = lister.root, lister.kind
    sample = [case for case in cases if "row" not in case] + evenly_spaced([c for c in cases if "row" in c], _ROWS_READ)
    pairs, problems = read_listed(root, lister, sample, problems, lambda case: _facts_of_array(read(case)))
    refuse_unless_some(root, kind, pairs, problems)
    left_out = [problem.file for problem in problems if problem.left_out]
    usable = lister(left_out) if left_out else cases
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
        details={"classes": classes, "read": len(pairs), "of_one_size": len(set(sizes)) == 1, **lister.details},
        problems=problems,
    )


def _facts_of_array(image: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    return tuple(image.shape[1:]), some_values(np.asarray(torch.as_tensor(image)))


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return (values - low) / max(high - low, 1e-12) * 2 - 1
