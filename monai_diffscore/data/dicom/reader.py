r"""Reads DICOM series strictly: as volumes with a known unit and a known position, or not at all.

Every common reader silently misreads some ordinary series: it takes the scout for the volume, a missing slice for a
larger spacing, or the file numbers for the order in space. This reader reads a series only if its headers prove that it
is a volume, and else states the cause (:mod:`~monai_diffscore.data.dicom.layout`). It cannot detect faults that headers
do not show: slices that are missing at the ends, or every second one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from numpy.typing import NDArray
from pydicom.uid import UID

from monai_diffscore.data.dicom.layout import Layout, arrange
from monai_diffscore.data.dicom.pixels import Mask, Volume, blurred_padding, read_pixels, undeclared_padding
from monai_diffscore.data.dicom.planes import is_dicom
from monai_diffscore.data.dicom.report import META_KEY, DicomReport
from monai_diffscore.data.dicom.resampling import even_out, straighten
from monai_diffscore.data.dicom.rules import ReadingRules
from monai_diffscore.data.dicom.series import choose_series, find_series
from monai_diffscore.data.paths import locate, split_series
from monai_diffscore.errors import DataError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Paths = str | Path | Sequence[str | Path]


def read_dicom_series(path: Paths, *, series_uid: str | None = None, **rules: Any) -> MetaTensor:
    r"""Reads the volume [1, X, Y, Z] of a CT, MR or PET series, float32, in HU or in stored units after their rescale.

    X runs along a row, Y along a column, Z along the normal; the affine maps voxels to RAS and mm, as for NIfTI, and
    equals that of MONAI's ITKReader where that is right. Air replaces padding outside the field of view
    (PixelPaddingValue, and in CT a value below -1024 in the corners of the slices).

    Args:
        path: a folder with the series at any depth, 'folder/series:UID', an enhanced multi-frame file, or a list
            of the files.
        series_uid: SeriesInstanceUID, to choose one of several series. The reader skips scouts, and series derived from
            others, with a warning.
        rules: opt-ins and tolerances of :class:`~monai_diffscore.data.dicom.rules.ReadingRules`, none by default:
            ``on_gap="resample"``, ``on_duplicate="drop"``, ``on_tilt="resample"``, ``assume_intercept=-1024``,
            ``spacing_tolerance``, ``tilt_tolerance_degrees``, ``padding_hu``, ``air_hu``, ``select``.
    Returns:
        The volume, whose ``meta["dicom_report"]`` holds the :class:`DicomReport`.
    Raises:
        DataError: for any path without exactly one complete, regular, upright series in a known unit; states the cause,
            the files and the remedy.
    """
    values, _, meta = _read(path, series_uid, ReadingRules.of(rules))
    return MetaTensor(torch.from_numpy(values)[None], meta=meta)


def read_with_field_of_view(
    path: Paths, *, series_uid: str | None = None, **rules: Any
) -> tuple[MetaTensor, MetaTensor]:
    """The volume of :func:`read_dicom_series`, and the mask [1, X, Y, Z] of its field of view, 1 or 0."""
    values, inside, meta = _read(path, series_uid, ReadingRules.of(rules))
    mask = torch.from_numpy(inside.astype(np.float32))
    return MetaTensor(torch.from_numpy(values)[None], meta=meta), MetaTensor(mask[None], meta=dict(meta))


class StrictDicomReader(ImageReader):
    """The strict reader for MONAI: ``LoadImaged(keys, reader=StrictDicomReader(...), ensure_channel_first=True)``.

    It raises its errors in :meth:`get_data`: after an exception in ``read`` MONAI would try its other readers.

    Args:
        series_uid: SeriesInstanceUID, to choose one of several series.
        content: "volume", or "field_of_view" for its mask.
        rules: as in :func:`read_dicom_series`.
    """

    def __init__(
        self,
        series_uid: str | None = None,
        content: Literal["volume", "field_of_view"] = "volume",
        **rules: Any,
    ) -> None:
        if content not in ("volume", "field_of_view"):
            raise ValueError(f"content must be 'volume' or 'field_of_view', got {content!r}.")
        self.series_uid, self.content = series_uid, content
        self.rules = ReadingRules.of(rules)

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether all of ``filename`` are folders or DICOM files."""
        return all(holds_dicom(name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[str, ...]:
        """The paths, unchanged."""
        return tuple(str(name) for name in ensure_tuple(data))

    def get_data(self, img: Sequence[str]) -> tuple[NDArray, dict[str, Any]]:
        """Values [X, Y, Z] and their metadata; raises errors as :func:`read_dicom_series`."""
        values, inside, meta = _read(img, self.series_uid, self.rules)
        return (values if self.content == "volume" else inside.astype(np.float32)), meta


def holds_dicom(path: PathLike) -> bool:
    """Whether the strict reader reads this path: a folder, 'folder/series:UID', or a DICOM file."""
    place, _ = split_series(locate(path))
    return place.is_dir() or (place.is_file() and is_dicom(place))


def _read(path: Paths, series_uid: str | None, rules: ReadingRules) -> tuple[Volume, Mask, dict[str, Any]]:
    places = [split_series(locate(p)) for p in ensure_tuple(path)]
    source = path if isinstance(path, str | Path) else places[0][0].parent
    for place, uid in places:
        series_uid = uid or series_uid
        if not place.exists():
            raise DataError(source, expected="a DICOM series", got=f"no {place}", remedy="Give an existing path.")
    series_of_paths = find_series([place for place, _ in places])
    series, passed_over = choose_series(source, series_of_paths, series_uid, rules.select)
    layout = arrange(source, series.planes, rules)
    repairs, remarks = list(layout.repairs), []
    layout, assumed = _assume(layout, rules)
    repairs += assumed
    values, padding = read_pixels(layout.planes)
    if assumed:
        values += rules.assume_intercept or 0.0
    is_ct = layout.planes[0].modality == "CT"
    fill = rules.air_hu if is_ct else 0.0
    replaced = _replace_padding(values, padding, fill, layout, rules)
    if any(p.is_lossy for p in layout.planes):
        remarks.append("lossy compression: fine detail and noise are not those of the scanner")
    if is_ct and values.min() >= 0:
        remarks.append("no voxel lies below 0 HU: is the RescaleIntercept right?")
        warnings.warn(f"{source}: {remarks[-1]}", stacklevel=3)
    values, inside, affine, resampled = _regular(values, ~padding, layout, fill)
    repairs += resampled
    report = _report(source, layout, values, inside, affine)
    report = replace(
        report,
        padding=replaced,
        repairs=tuple(repairs),
        passed_over=tuple(passed_over),
        remarks=tuple(remarks),
    )
    return np.ascontiguousarray(values), inside, _meta(report, affine)


def _assume(layout: Layout, rules: ReadingRules) -> tuple[Layout, list[str]]:
    """Sets slope 1 and the assumed intercept in planes of CT that have neither; also returns the repairs."""
    first = layout.planes[0]
    if first.modality != "CT" or first.slope is not None or rules.assume_intercept is None:
        return layout, []
    planes = tuple(replace(p, slope=1.0, intercept=rules.assume_intercept) for p in layout.planes)
    return replace(layout, planes=planes), [f"assume_intercept={rules.assume_intercept:g}: no rescale in the files"]


def _replace_padding(
    values: Volume, padding: Mask, fill: float, layout: Layout, rules: ReadingRules
) -> tuple[float, ...]:
    """Adds undeclared padding to the mask and sets padding to ``fill``, in place; returns the range of its values."""
    is_ct, more = layout.planes[0].modality == "CT", rules.padding_hu
    if is_ct and more is None:
        more = undeclared_padding(values, padding)
    if more is not None:
        padding |= values == np.float32(more)
    if is_ct and any(p.is_lossy for p in layout.planes):
        padding |= blurred_padding(values, padding)
    outside = values[padding]
    values[padding] = fill
    return tuple(sorted({float(outside.min()), float(outside.max())})) if outside.size else ()


def _regular(
    values: Volume, inside: Mask, layout: Layout, fill: float
) -> tuple[Volume, Mask, NDArray[np.float64], list[str]]:
    """The volume, mask and affine in LPS, resampled if the layout needs it, and the repairs."""
    affine, repairs = layout.affine_lps, []
    if layout.is_tilted:
        values, inside, affine = straighten(values, inside, layout, fill)
        repairs.append(f"on_tilt='resample': slices of a gantry tilted by {layout.tilt_degrees:.2f} degrees moved back")
    if layout.has_gaps:
        values, inside, affine, count = even_out(values, inside, layout.heights_mm, affine)
        repairs.append(f"on_gap='resample': {count} of {values.shape[2]} slices interpolated")
    return values, inside, affine, repairs


def _report(source: object, layout: Layout, values: Volume, inside: Mask, affine: NDArray[np.float64]) -> DicomReport:
    first = layout.planes[0]
    steps = np.diff(layout.heights_mm)
    rescales = sorted((1.0 if p.slope is None else p.slope, p.intercept or 0.0) for p in layout.planes)
    unit = {"CT": "HU", "PT": first.units}.get(first.modality) or first.rescale_type.replace("US", "") or "arbitrary"
    return DicomReport(
        source=str(source),
        series_uid=first.series_uid,
        modality=first.modality,
        kind=UID(first.sop_class).name,
        unit=unit,
        transfer_syntax=UID(first.transfer_syntax).name,
        slices=len(layout.planes),
        shape=tuple(values.shape),
        spacing_mm=tuple(np.linalg.norm(affine[:3, :3], axis=0).round(6).tolist()),
        step_range_mm=(round(float(steps.min()), 6), round(float(steps.max()), 6)),
        slice_thickness_mm=first.thickness_mm,
        tilt_degrees=round(layout.tilt_degrees, 4),
        rescale=(rescales[0], rescales[-1]),
        padding=(),
        padding_share=float(1 - inside.mean()),
        repairs=(),
        passed_over=(),
        remarks=(),
    )


def _meta(report: DicomReport, affine_lps: NDArray[np.float64]) -> dict[str, Any]:
    """Metadata as MONAI's readers give them: strings and arrays of fixed size, which loaders can join to batches."""
    affine = LPS_TO_RAS @ affine_lps
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.array(report.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
        "filename_or_obj": report.source,
        "modality": report.modality,
        "unit": report.unit,
        META_KEY: report.to_json(),
    }
