"""Writes label maps as DICOM segmentations on the grid of their source series, by highdicom."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.dicom.layout import Layout, arrange
from monai_diffscore.data.dicom.reader import LPS_TO_RAS
from monai_diffscore.data.dicom.rules import ReadingRules
from monai_diffscore.data.dicom.series import choose_series, find_series
from monai_diffscore.data.paths import locate, split_series
from monai_diffscore.errors import DataError

# type 2 attributes: they may be empty, and some sources lack them
_MAY_BE_EMPTY = """PatientName PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber
    ReferringPhysicianName"""


def write_dicom_seg(
    labels: MetaTensor, file: str | Path, *, source: str | Path, names: Mapping[int, str], model_hash: str
) -> Path:
    """Writes a label map as one binary DICOM SEG, whole or not at all; returns the file.

    It has the patient and the study of its source, as a segmentation must, and references its images.

    Args:
        labels: [1, X, Y, Z] whole numbers with an affine; 0 is background. The axes may differ from the source's.
        file: to write.
        source: folder (or 'folder/series:UID', or enhanced file) of the series that the labels belong to.
        names: of the labels 1, 2, ..., N.
        model_hash: of the model that made the labels.
    Raises:
        DataError: for labels on another grid, labels without a name, or a source that
            :func:`~monai_diffscore.data.dicom.reader.read_dicom_series` refuses.
        ValueError: for names that do not count from 1, or an empty model_hash.
    """
    if sorted(names) != list(range(1, len(names) + 1)) or not names or not model_hash.strip():
        raise ValueError(f"Expected names of labels 1, 2, ... and a model_hash, got {dict(names)} and {model_hash!r}.")
    place, uid = split_series(locate(source))
    series, _ = choose_series(source, find_series([place]), uid)
    layout = arrange(source, series.planes, ReadingRules())
    frames = _on_grid(labels, layout, source, names).transpose(2, 1, 0)
    images, frames = _images(layout, frames, source)
    version = importlib.metadata.version("monai_diffscore")
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(number, names[number], model_hash) for number in sorted(names)],
        series_instance_uid=hd.UID(),
        series_number=100,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="monai_diffscore",
        manufacturer_model_name="monai_diffscore",
        software_versions=version,
        device_serial_number="0",
        content_description=f"labels by the model {model_hash}"[:64],
        series_description="labels by monai_diffscore",
    )
    with whole_file(file) as target:
        segmentation.save_as(target)
    return Path(file)


def _on_grid(labels: MetaTensor, layout: Layout, source: object, names: Mapping[int, str]) -> NDArray[np.uint8]:
    """The labels [X, Y, Z] turned and flipped onto the grid of the source."""
    array = np.asarray(torch.as_tensor(labels).detach().cpu())
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    values = set(np.unique(array).tolist())
    if array.ndim != 3 or not values <= {0, *names}:
        raise DataError(
            source,
            key="labels",
            expected=f"[1, X, Y, Z] of labels 0 and {sorted(names)}",
            got=f"shape {tuple(labels.shape)} with values {sorted(values)[:8]}",
            remedy="Round the labels to whole numbers, and name every label.",
        )
    target = LPS_TO_RAS @ layout.affine_lps
    shape = (layout.planes[0].columns, layout.planes[0].rows, len(layout.planes))
    between = np.linalg.inv(target) @ np.asarray(labels.affine.detach().cpu().double())
    turn = nib.orientations.io_orientation(between)
    turned = nib.orientations.apply_orientation(array, turn)
    remaining = between @ nib.orientations.inv_ornt_aff(turn, array.shape) - np.eye(4)
    if turned.shape != shape or np.abs(remaining[:3] @ (*shape, 1)).max() > 0.05 or np.abs(remaining).max() > 0.05:
        raise DataError(
            source,
            key="labels",
            expected=f"labels on the grid of the source, {shape} voxels with the affine {target.round(3).tolist()}",
            got=f"{array.shape} with {labels.affine.numpy().round(3).tolist()}",
            remedy="Resample them to this grid first: Invertd, or ResampleToMatchd with mode 'nearest'.",
        )
    return turned.astype(np.uint8)


def _images(layout: Layout, frames: NDArray, source: object) -> tuple[list[Dataset], NDArray]:
    """The source images with their pixels, and the label frames in their order."""
    files = list(dict.fromkeys(plane.file for plane in layout.planes))
    images: list[Dataset] = [pydicom.dcmread(file) for file in files]
    for image in images:
        for name in _MAY_BE_EMPTY.split():
            if name not in image:
                setattr(image, name, "")
    if layout.planes[0].frame is None:
        return images, frames
    if len(files) > 1 or int(images[0].NumberOfFrames) != len(layout.planes):
        raise DataError(
            source,
            expected="an enhanced source of one file and one image at each position",
            got=f"{len(files)} files",
            remedy="Write the phase as its own series first.",
        )
    return images, frames[np.argsort([plane.frame or 0 for plane in layout.planes])]


def _segment(number: int, name: str, model_hash: str) -> hd.seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=f"monai_diffscore {model_hash}"[:64],
        version=importlib.metadata.version("monai_diffscore"),
        family=codes.DCM.ArtificialIntelligence,
    )
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
