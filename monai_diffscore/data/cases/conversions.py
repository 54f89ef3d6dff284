"""Recognises DICOM series that lie beside NIfTI files converted from them.

A series in the folder of NIfTI files was converted there: dcm2niix writes its results beside the series. Elsewhere a
series is the same scan as a file if both have the same number of voxels along each axis, in any order, and the same
distribution of values: their 65 quantiles differ by at most a thousandth of the range.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_diffscore.data.cases.content import shape_of
from monai_diffscore.data.cases.names import is_volume
from monai_diffscore.data.dicom import find_series, read_dicom_series
from monai_diffscore.data.nibabel_images import read_channels
from monai_diffscore.data.nifti_header import NIFTI
from monai_diffscore.data.paths import split_channel, split_series

_QUANTILES = np.linspace(0, 1, 65)
_SAME = 1e-3


def converted_series(paths: Sequence[str]) -> dict[str, str]:
    """The paths of series that NIfTI files among ``paths`` hold too, with the reason to leave each out."""
    files = [split_channel(path)[0] for path in paths if is_volume(split_channel(path)[0])]
    series = [path for path in paths if not is_volume(split_channel(path)[0])]
    folders = {file.parent for file in files}
    reasons: dict[str, str] = {}
    by_shape: dict[tuple[int, ...], list[Path]] = {}
    for file in files if series else ():
        if str(file).lower().endswith(NIFTI):
            by_shape.setdefault(tuple(sorted(shape_of(file) or ())), []).append(file)
    for path in series:
        place, _ = split_series(path)
        if (place if place.is_dir() else place.parent) in folders:
            reasons[path] = "DICOM in the folder of NIfTI files (--layout dicom reads it)"
        elif by_shape and any(_is_same_scan(path, file) for file in by_shape.get(_shape(path), ())):
            reasons[path] = "DICOM of which a NIfTI file has the same scan (--layout dicom reads it)"
    return reasons


def _shape(path: str) -> tuple[int, ...]:
    """The sorted numbers of slices, rows and columns of a series."""
    place, uid = split_series(path)
    for series in find_series([place]):
        if uid in (None, series.uid):
            first = series.planes[0]
            return tuple(sorted((len(series.planes), first.rows, first.columns)))
    return ()


def _is_same_scan(series: str, file: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = np.quantile(np.asarray(read_dicom_series(series)), _QUANTILES)
        other = np.quantile(read_channels(file)[0], _QUANTILES)
    except Exception:  # whatever a damaged file makes of a reader, which the training reports
        return False
    return bool(np.abs(one - other).max() <= _SAME * max(float(np.ptp(one)), 1e-12))
