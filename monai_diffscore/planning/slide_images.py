"""Fingerprints of whole-slide images, from their overviews."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.slides import Slide, listed_slides
from monai_diffscore.planning.fingerprint import (
    FileLister,
    Fingerprint,
    list_readable,
    percentiles_by_name,
    read_listed,
    refuse_unless_some,
    shown_names,
    spans,
)


def fingerprint_slides(
    root: Path,
    assume_mpp_um: float | None = None,
    value_range: Sequence[float] | None = None,
    exclude: Sequence[str] = (),
    **listing: str,
) -> Fingerprint:
    """The fingerprint of a folder of slides, or of one slide.

    Args:
        root: folder or file.
        assume_mpp_um: pixel size of files that do not state it.
        value_range: black and white of files of more than 8 bits.
        exclude: files and folders below ``root`` to leave out.
        listing: ``subject``, ``layout`` and ``image``, as :func:`~monai_diffscore.data.listed_slides` takes them.
    """
    from monai_diffscore.data.tiles import tissue_mask

    limits = None if value_range is None else (float(value_range[0]), float(value_range[1]))
    lister = FileLister(root, "slides", listing, listed_slides, Cases.images)
    cases, problems = list_readable(root, lister, exclude)

    def measure(case: dict[str, str]) -> tuple[tuple[int, ...], float, np.ndarray, float]:
        slide = Slide(case["image"], assume_mpp_um, limits)
        overview, _ = slide.overview(512)
        size, mpp = slide.size, slide.mpp_um
        slide.close()
        return (size[1], size[0]), mpp, overview, float(tissue_mask(overview).mean())

    pairs, problems = read_listed(root, lister, cases, problems, measure)
    refuse_unless_some(root, "slides", pairs, problems)
    slides = [facts for _, facts in pairs]
    subjects = [case["subject"] for case, _ in pairs]
    values = np.concatenate([overview.reshape(-1)[:: max(1, overview.size // 50_000)] for _, _, overview, _ in slides])
    normal = values.astype(np.float32) / 127.5 - 1
    pixels_um = [mpp for _, mpp, _, _ in slides]
    return Fingerprint(
        data=str(root.resolve()),
        kind="slides",
        modality="histopathology",
        modality_from="the files",
        cases=len(slides),
        subjects=len(set(subjects)),
        names=shown_names(subjects),
        channels=3,
        sizes=spans([size for size, _, _, _ in slides]),
        percentiles=percentiles_by_name(values),
        foreground_share=round(float(np.mean([share for _, _, _, share in slides])), 4),
        sigma_data=float(f"{normal.std():.4g}"),
        mean=float(f"{normal.mean():.4g}"),
        details={
            "mpp_um": [round(min(pixels_um), 4), round(max(pixels_um), 4)],
            "assume_mpp_um": assume_mpp_um,
            "value_range": value_range,
            **lister.details,
        },
        problems=problems,
    )
