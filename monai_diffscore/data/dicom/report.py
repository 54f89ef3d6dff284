"""The report of a strict reading: facts and repairs of a series, without data of the patient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

META_KEY = "dicom_report"  # in MetaTensor.meta, as one string, which any loader can join to a batch


@dataclass(frozen=True)
class DicomReport:
    """Facts of one series. Lengths in mm, intensities in ``unit``.

    Args:
        source, series_uid, modality, kind: path, UID, modality, and the name of the SOP class.
        unit: "HU" for CT, the Units of PET, else RescaleType or "arbitrary".
        transfer_syntax: encoding of the pixels.
        slices: number of images.
        shape, spacing_mm: of the volume, (column, row, slice).
        step_range_mm: smallest and largest distance between slices along their normal.
        slice_thickness_mm: of the header; the reader does not use it.
        tilt_degrees: angle between the step and the normal.
        rescale: smallest and largest (slope, intercept).
        padding: smallest and largest value of padding; one value if they are equal.
        padding_share: share of the voxels outside the field of view.
        repairs: repairs by options.
        passed_over: series and images that the reader skipped.
        remarks: unusual facts that the reader did not change.
    """

    source: str
    series_uid: str
    modality: str
    kind: str
    unit: str
    transfer_syntax: str
    slices: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    step_range_mm: tuple[float, float]
    slice_thickness_mm: float | None
    tilt_degrees: float
    rescale: tuple[tuple[float, float], tuple[float, float]]
    padding: tuple[float, ...]
    padding_share: float
    repairs: tuple[str, ...]
    passed_over: tuple[str, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> DicomReport:
        """The report in the ``meta`` of a volume of the strict reader.

        Raises:
            KeyError: for a volume of another reader.
        """
        facts = json.loads(meta[META_KEY])
        return cls(**{name: _tuples(value) for name, value in facts.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
