"""Writes DICOM series with known truth, right and wrong, by plain pydicom: what the strict reader is judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)
OBLIQUE = tuple(np.round([0.96, 0.28, 0, -0.28 * 0.8, 0.96 * 0.8, 0.6], 12).tolist())
SPACING, STEP, ORIGIN = (0.8, 0.7), 1.5, (-10.0, -20.0, 30.0)  # between rows, between columns; mm
SLICES, ROWS, COLUMNS = 12, 10, 8
CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
ENHANCED = {"CT": "1.2.840.10008.5.1.4.1.1.2.1", "MR": "1.2.840.10008.5.1.4.1.1.4.1"}


@dataclass(frozen=True)
class Truth:
    """What the reader must return: voxels [X, Y, Z] to 1 HU, affine in RAS to 1e-3 mm, and where it was imaged."""

    voxels: np.ndarray
    affine: np.ndarray
    inside: np.ndarray | None = None


def phantom(slices: int = SLICES, rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> np.ndarray:
    """Random whole HU [Z, R, C], between -1000 and 1500, no two slices or axes alike."""
    return np.random.default_rng(seed).integers(-1000, 1500, size=(slices, rows, columns)).astype(np.float64)


def normal_of(orientation: Sequence[float]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def positions_of(count: int = SLICES, orientation=AXIAL, step=STEP, origin=ORIGIN, shear=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Upper left corners of evenly stacked slices."""
    return np.array(origin) + np.arange(count)[:, None] * (step * normal_of(orientation) + np.array(shear))


def truth_of(hu: np.ndarray, positions=None, orientation=AXIAL, spacing=SPACING, inside=None) -> Truth:
    positions = positions_of(len(hu), orientation) if positions is None else positions
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * spacing[1]
    affine[:3, 1] = np.array(orientation[3:]) * spacing[0]
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(hu) - 1)
    affine[:3, 3] = positions[0]
    return Truth(hu.transpose(2, 1, 0), LPS_TO_RAS @ affine, None if inside is None else inside.transpose(2, 1, 0))


def dataset(
    uid: str, modality: str = "CT", sop_class: str | None = None, syntax: str = ExplicitVRLittleEndian
) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class or CLASSES[modality]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Doe^Jane", "PAT-1", "19700101"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.826.1.1", uid, "1.2.826.1.9"
    ds.Modality, ds.SeriesDescription = modality, f"test {modality}"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return ds


def put_pixels(ds: Dataset, stored: np.ndarray, signed: bool = False, bits: int = 16) -> None:
    order = ">" if ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, int(signed)
    data = stored.round().astype(f"{order}{'i' if signed else 'u'}{bits // 8}").tobytes()
    ds["PixelData"] = pydicom.DataElement(0x7FE00010, "OB" if bits == 8 else "OW", data)


def save(ds: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax in (RLELossless, JPEGLSLossless):
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(syntax, generate_instance_uid=False)
    ds.save_as(
        path,
        enforce_file_format=True,
        little_endian=syntax != ExplicitVRBigEndian,
        implicit_vr=syntax == ImplicitVRLittleEndian,
    )


def setter(only: Sequence[int] | None = None, **attributes: Any) -> Callable[[Dataset, int], None]:
    """Sets attributes in the header of each file, or of those with the numbers ``only``; None deletes."""

    def edit(ds: Dataset, k: int) -> None:
        if only is None or k in only:
            for name, value in attributes.items():
                if value is None:
                    delattr(ds, name)
                else:
                    setattr(ds, name, value)

    return edit


def write_series(
    folder: Path,
    hu: np.ndarray,
    *,
    modality: str = "CT",
    positions: np.ndarray | None = None,
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = SPACING,
    slopes: float | Sequence[float] = 1.0,
    intercept: float | None = -1024.0,
    signed: bool = False,
    bits: int = 16,
    syntax: str = ExplicitVRLittleEndian,
    uid: str = "1.2.826.2.1",
    names: Sequence[str] | None = None,
    edit: Callable[[Dataset, int], None] = lambda ds, k: None,
) -> list[Path]:
    """A classic series of one file a slice; ``edit`` changes the header of each before it is written."""
    positions = positions_of(len(hu), orientation) if positions is None else positions
    slopes = np.broadcast_to(slopes, len(hu))
    paths = []
    for k, image in enumerate(hu):
        ds = dataset(uid, modality, syntax=syntax)
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = positions[k].round(9).tolist(), list(orientation)
        ds.PixelSpacing = list(spacing)
        ds.SliceThickness = 2.0  # not the step, on purpose
        if intercept is not None:
            ds.RescaleSlope, ds.RescaleIntercept = slopes[k], intercept
        put_pixels(ds, (image - (intercept or 0)) / slopes[k], signed, bits)
        edit(ds, k)
        paths.append(folder / (names[k] if names else f"{k:03d}.dcm"))
        save(ds, paths[-1])
    return paths


def write_enhanced(
    path: Path,
    hu: np.ndarray,
    *,
    modality: str = "CT",
    positions: np.ndarray | None = None,
    order: Sequence[int] | None = None,
    slopes: float | Sequence[float] = 1.0,
    edit: Callable[[Dataset, int], None] = lambda group, k: None,
) -> None:
    """An enhanced multi-frame file, its frames in the given order; ``edit`` changes the functional groups of each."""
    positions = positions_of(len(hu)) if positions is None else positions
    slopes = np.broadcast_to(slopes, len(hu))
    order = range(len(hu)) if order is None else order
    ds = dataset("1.2.826.2.7", modality, ENHANCED[modality])
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = list(SPACING), 2.0
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in order:
        group, place, value = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = positions[k].round(9).tolist()
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = slopes[k], -1024, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [value]
        edit(group, k)
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    ds.NumberOfFrames = len(groups)
    put_pixels(ds, np.stack([(hu[k] + 1024) / slopes[k] for k in order]))
    save(ds, path)
