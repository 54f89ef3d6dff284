"""Fits the stains of each slide once, on pixels from all over its tissue."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai_diffscore.atomic_files import write_json
from monai_diffscore.data.tiles import tissue_pixels
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.pathology_stains import LabStatistics, Stains, fit_macenko, fit_reinhard, fit_vahadane

logger = logging.getLogger(__name__)

METHODS: dict[str, Callable[..., Stains | LabStatistics]] = {
    "macenko": fit_macenko,
    "vahadane": fit_vahadane,
    "reinhard": fit_reinhard,
}


def fit_slide(path: str | Path, method: str = "macenko", mpp_um: float = 1.0, **options: Any) -> Stains | LabStatistics:
    """The record of one slide, from at most 50,000 tissue pixels spread over it.

    Args:
        path: of the slide.
        method: "macenko", "vahadane" or "reinhard".
        mpp_um: pixel size of the tissue pixels.
        options: of :func:`~monai_diffscore.data.tiles.tissue_pixels`.
    Raises:
        DataError: for a slide without tissue, or of one stain; names the slide.
    """
    if method not in METHODS:
        raise ValueError(f"Expected one of the methods {sorted(METHODS)}, got {method!r}.")
    pixels, white = tissue_pixels(path, mpp_um, **options)
    try:
        return METHODS[method](pixels, white)
    except DataError as error:
        raise error.of(path) from error


def fit_slides(
    cases: Sequence[Mapping[str, Any]],
    method: str = "macenko",
    mpp_um: float = 1.0,
    path: str | Path | None = None,
    key: str = "image",
    **options: Any,
) -> dict[str, Stains | LabStatistics]:
    """The records of all slides of ``cases``, by file name.

    Args:
        cases: dictionaries with the file at ``key``.
        method, mpp_um, options: as for :func:`fit_slide`.
        path: a JSON file of records; its slides are not fitted again.
        key: of the files.
    """
    stored_records: dict[str, Any] = json.loads(Path(path).read_text()) if path and Path(path).is_file() else {}
    records: dict[str, Stains | LabStatistics] = {}
    for file in dict.fromkeys(str(case[key]) for case in cases):
        stored = stored_records.get(file)
        if stored is not None and stored["method"] == method:
            records[file] = (LabStatistics if method == "reinhard" else Stains)(**stored)
        else:
            records[file] = fit_slide(file, method, mpp_um, **options)
            logger.info(f"fitted the stains of {file}: {records[file]}")
    if path and any(file not in stored_records or stored_records[file]["method"] != method for file in records):
        write_json(path, {**stored_records, **{file: asdict(record) for file, record in records.items()}})
    return records
