"""What a strict reading found and did, without a word about the patient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

META_KEY = "dicom_report"  # in MetaTensor.meta, as one string, which any loader can join to a batch


@dataclass(frozen=True)
class DicomReport:
    """Facts of one series as it was read. Lengths in mm, intensities in ``unit``.

    Args:
        source, series_uid, modality, kind: where it is from and what it is (the name of its SOP class).
        unit: "HU" for CT, the Units of PET, else RescaleType or "arbitrary".
        transfer_syntax: how the pixels were stored.
        slices: number of images that were read.
        shape, spacing_mm: of the volume that was returned, (column, row, slice).
        step_range_mm: smallest and largest distance between slices along their normal.
        slice_thickness_mm: as the header says, which is used for nothing.
        tilt_degrees: angle between the step and the normal.
        rescale: smallest and largest (slope, intercept).
        padding: smallest and largest value that was replaced by air, or the one.
        padding_share: share of the voxels outside the field of view.
        repairs: what was done because an option asked for it.
        passed_over: series and images that were left out.
        remarks: what is unusual and was left as it is.
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
        """The report in the ``meta`` of a volume that the strict reader gave.

        Raises:
            KeyError: if another reader did.
        """
        facts = json.loads(meta[META_KEY])
        return cls(**{name: _tuples(value) for name, value in facts.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
