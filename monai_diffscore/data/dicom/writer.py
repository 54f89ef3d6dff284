r"""Writes synthetic volumes as CT and MR series that every viewer opens, and that nobody mistakes for a patient.

A file contains only the attributes that this module writes; it copies none from another file (an allow-list, not a
block-list). Each file states that it is synthetic: ImageType DERIVED\SECONDARY, SyntheticData YES (0008,001C),
PatientID SYNTH-<uuid>, SeriesDescription, and the hash of the model in DerivationDescription. Values are int16 with

.. math::  value = slope \cdot stored,

slope 1 for CT, in units of 1 HU, and for whole numbers; else the finest power of ten that fits 16 bits.
"""

from __future__ import annotations

import copy
import datetime
import importlib.metadata
import uuid
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from monai_diffscore.atomic_files import whole_folder
from monai_diffscore.data.dicom.reader import LPS_TO_RAS
from monai_diffscore.errors import DataError

_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
# (name, centre, width) in HU, those of imaging lectures and viewers
_CT_WINDOWS = (("SOFT TISSUE", 50, 350), ("LUNG", -600, 1600), ("BONE", 500, 2000), ("BRAIN", 40, 80))
_INT16 = (-(2**15), 2**15 - 1)


@dataclass(frozen=True)
class WrittenSeries:
    """A written series: files in their order in space, UIDs, and ``rounding``, the largest change of a value."""

    folder: Path
    files: tuple[Path, ...]
    study_uid: str
    series_uid: str
    slope: float
    rounding: float


def write_dicom_series(
    volume: torch.Tensor,
    folder: str | Path,
    *,
    modality: str,
    model_hash: str,
    affine: NDArray | torch.Tensor | None = None,
    unit: str | None = None,
    description: str = "",
) -> WrittenSeries:
    r"""Writes a synthetic volume as a DICOM series, whole or not at all.

    The slices are axial as far as the volume's axes allow: the writer turns and flips them, without interpolation, so
    that rows run to the left and columns to the back of the patient.

    Args:
        volume: [1, X, Y, Z] or [X, Y, Z], in HU for CT, which are rounded to whole numbers.
        folder: new or empty.
        modality: "CT" or "MR".
        model_hash: names the model that made the volume, such as "sha256:...".
        affine: [4, 4], voxels to RAS in mm; default is that of a MetaTensor.
        unit: unit of the values of an MR (such as "ms" in a T1 map); None marks them as arbitrary.
        description: for SeriesDescription, after SYNTHETIC.
    Raises:
        DataError: for values that are not finite, exceed 16 bits, or are not HU (a CT within [-1, 1]); for a missing or
            sheared affine.
        FileExistsError: for a folder that is not empty.
        ValueError: for another modality, or an empty model_hash.
    """
    if modality not in _CLASSES or not model_hash.strip():
        raise ValueError(f"Expected modality CT or MR and a model_hash, got {modality!r} and {model_hash!r}.")
    values, affine_ras = upright(volume, affine)
    stored, slope = _stored(values, modality)
    common = _common(modality, model_hash, unit, description)
    _put_intensities(common, values, modality, slope, unit)
    step = _put_geometry(common, LPS_TO_RAS @ affine_ras)
    with whole_folder(folder) as temporary:
        for k in range(stored.shape[2]):
            _slice(common, stored[..., k], k, step).save_as(temporary / f"IM{k + 1:04d}.dcm", enforce_file_format=True)
    files = tuple(sorted(Path(folder).iterdir()))
    rounding = float(np.abs(stored * slope - values).max())
    return WrittenSeries(Path(folder), files, common.StudyInstanceUID, common.SeriesInstanceUID, slope, rounding)


class SaveDicomd(MapTransform):
    """Writes synthetic volumes as DICOM series, after ``Invertd`` in the postprocessing of a bundle.

    Each volume has its own folder ``output_dir/sample_<number>``; ``name_key`` gives the number, else the order of the
    calls.

    Args:
        keys: keys of volumes [1, X, Y, Z].
        output_dir: folder of the folders.
        modality, model_hash, unit: as in :func:`write_dicom_series`.
        name_key: key of a number for each case.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        modality: str,
        model_hash: str,
        unit: str | None = None,
        name_key: str = "seed",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir, self.modality, self.model_hash, self.unit = Path(output_dir), modality, model_hash, unit
        self.name_key = name_key
        self.count = 0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        number = int(data.get(self.name_key, self.count))
        self.count += 1
        for key in self.key_iterator(dict(data)):
            name = f"sample_{number:04d}" + (f"_{key}" if len(self.keys) > 1 else "")
            try:
                write_dicom_series(
                    data[key],
                    self.output_dir / name,
                    modality=self.modality,
                    model_hash=self.model_hash,
                    unit=self.unit,
                    description=name,
                )
            except DataError as error:
                raise error.under(str(key)) from error
        return dict(data)


def upright(
    volume: torch.Tensor, affine: NDArray | torch.Tensor | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values [X, Y, Z] turned so that X, Y and Z run to the left, the back and the head, and their affine (RAS).

    Raises:
        DataError: for another shape, a missing affine, or axes that are not perpendicular.
    """
    array = np.asarray(torch.as_tensor(volume).detach().cpu().double())
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if affine is None and isinstance(volume, MetaTensor):
        affine = volume.affine
    matrix = None if affine is None else np.asarray(torch.as_tensor(affine).detach().cpu().double())
    if array.ndim != 3 or min(array.shape) < 2 or matrix is None or matrix.shape != (4, 4):
        raise DataError(
            "a volume to write",
            expected="one channel, three axes of at least 2 voxels, and an affine [4, 4]",
            got=f"shape {tuple(volume.shape)}, affine {'none' if matrix is None else matrix.shape}",
            remedy="Give a MetaTensor, or affine=...",
        )
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(matrix), nib.orientations.axcodes2ornt(("L", "P", "S"))
    )
    turned = nib.orientations.apply_orientation(array, turn)
    matrix = matrix @ nib.orientations.inv_ornt_aff(turn, array.shape)
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-4):
        raise DataError(
            "a volume to write",
            expected="perpendicular axes",
            got=f"the affine {matrix[:3, :3].round(4).tolist()}",
            remedy="Resample it to a straight grid first (Spacingd): DICOM series cannot be sheared.",
        )
    return turned, matrix


def _stored(values: NDArray[np.float64], modality: str) -> tuple[NDArray[np.int16], float]:
    """The stored int16 values, and the slope of their rescale."""
    bad = int((~np.isfinite(values)).sum())
    low, high = (float(values.min()), float(values.max())) if not bad else (0.0, 0.0)
    whole = modality == "CT" or bool((values == values.round()).all())
    exponent = 0
    while not whole and exponent < 9 and max(-low, high) * 10 ** (exponent + 1) <= _INT16[1]:
        exponent += 1
    slope = float(f"1e-{exponent}")
    if bad or round(low / slope) < _INT16[0] or round(high / slope) > _INT16[1]:
        expected, got = f"finite values within {_INT16}", f"{bad} NaN or infinite, range [{low:g}, {high:g}]"
    elif modality == "CT" and max(abs(low), abs(high)) <= 1:
        expected, got = "CT in HU", f"values in [{low:g}, {high:g}], the range of a network"
    else:
        return np.round(values / slope).astype(np.int16), slope
    remedy = "Invert the normalisation first (Invertd), and clip the values that do not fit."
    raise DataError("a volume to write", expected=expected, got=got, remedy=remedy)


def _common(modality: str, model_hash: str, unit: str | None, description: str) -> Dataset:
    """The attributes that all slices share, without those that depend on the voxels."""
    ds, today, version = Dataset(), datetime.datetime.now(), importlib.metadata.version("monai_diffscore")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.Modality = _CLASSES[modality], modality
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL" if modality == "CT" else "OTHER"]
    ds.SyntheticData = "YES"
    ds.PatientID = f"SYNTH-{uuid.uuid4()}"
    ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "SYNTHETIC^MODEL", "", ""
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (generate_uid(prefix=None) for _ in range(3))
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName, ds.PositionReferenceIndicator = "1", "", "", ""
    for kind in ("Study", "Series", "Content"):
        setattr(ds, f"{kind}Date", today.strftime("%Y%m%d"))
        setattr(ds, f"{kind}Time", today.strftime("%H%M%S"))
    ds.StudyDescription = "SYNTHETIC"
    ds.SeriesDescription = f"SYNTHETIC {description}".strip()[:64]
    ds.SeriesNumber, ds.AcquisitionNumber, ds.PatientPosition, ds.Laterality = 1, 1, "HFS", ""
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "monai_diffscore", "monai_diffscore", version
    ds.DerivationDescription = f"SYNTHETIC: drawn from the generative model {model_hash}; no patient was imaged."[:1024]
    ds.ImageComments = f"SYNTHETIC. Not for diagnosis. Intensities in {_unit(modality, unit)}."
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    if modality == "CT":
        ds.KVP = None
    else:
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "RM", "NONE", ""  # RM: research mode
        ds.MRAcquisitionType, ds.EchoTime, ds.EchoTrainLength = "3D", None, None
        ds.RepetitionTime = None
    return ds


def _unit(modality: str, unit: str | None) -> str:
    return "HU" if modality == "CT" else unit or "arbitrary units"


def _put_intensities(ds: Dataset, values: NDArray[np.float64], modality: str, slope: float, unit: str | None) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope = 0, DSfloat(f"{slope:g}")
    ds.RescaleType = "HU" if modality == "CT" else (unit or "US")  # US: unspecified
    if modality == "CT":
        names, centres, widths = zip(*_CT_WINDOWS, strict=True)
        ds.WindowCenter, ds.WindowWidth = list(centres), list(widths)
        ds.WindowCenterWidthExplanation = list(names)
    else:
        low, high = np.percentile(values, (1, 99))
        ds.WindowCenter, ds.WindowWidth = _decimal((low + high) / 2), _decimal(max(high - low, slope))


def _put_geometry(ds: Dataset, affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sets the geometry that all slices share, and the first position; returns the step in mm between slices."""
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    ds.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    ds.ImageOrientationPatient = [_decimal(v) for v in (affine_lps[:3, :2] / spacing[:2]).T.ravel()]
    ds.SliceThickness = _decimal(spacing[2])
    if ds.Modality == "MR":
        ds.SpacingBetweenSlices = _decimal(spacing[2])
    ds.ImagePositionPatient = [_decimal(v) for v in affine_lps[:3, 3]]
    return affine_lps[:3, 2]


def _slice(common: Dataset, stored: NDArray[np.int16], k: int, step: NDArray[np.float64]) -> Dataset:
    ds = copy.deepcopy(common)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPInstanceUID = generate_uid(prefix=None)
    ds.InstanceNumber = k + 1
    position = np.array(common.ImagePositionPatient, dtype=np.float64) + k * step
    ds.ImagePositionPatient = [_decimal(v) for v in position]
    normal = step / np.linalg.norm(step)
    ds.SliceLocation = _decimal(float(position @ normal))
    ds.Rows, ds.Columns = stored.shape[1], stored.shape[0]
    ds.PixelData = np.ascontiguousarray(stored.T, dtype="<i2").tobytes()
    return ds


def _decimal(value: float) -> DSfloat:
    """A decimal string of DICOM, at most 16 characters, exact to 1e-9 mm."""
    return DSfloat(round(float(value), 9) + 0.0, auto_format=True)
