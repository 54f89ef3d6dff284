"""Files for clients: format, type of numbers, DICOM SEG."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from monai_diffscore.data import write_dicom_seg
from monai_diffscore.errors import DataError

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
_TYPES = {"uint8": sitk.sitkUInt8, "uint16": sitk.sitkUInt16, "int16": sitk.sitkInt16, "float32": sitk.sitkFloat32}


def deliver(file: Path, extension: str | None, dtype: str | None, compress: bool = False) -> str:
    """A temporary file with the content of a NIfTI file, in the format and with the number type of the request.

    MONAI Label removes it after sending it.

    Raises:
        DataError: for an unknown format or type.
    """
    extension = extension or ".nii.gz"
    for name, value, offered in (("result_extension", extension, EXTENSIONS), ("result_dtype", dtype, tuple(_TYPES))):
        if value is not None and value not in offered:
            raise DataError(
                "the request",
                key=name,
                expected=f"one of {', '.join(offered)}",
                got=repr(value),
                remedy="Change params.",
            )
    target = new_file(extension)
    if extension == ".nii.gz" and dtype is None:
        shutil.copyfile(file, target)
        return target
    image = sitk.ReadImage(str(file))
    if dtype is not None:
        image = sitk.Cast(image, _TYPES[dtype])
    sitk.WriteImage(image, target, useCompression=compress or extension == ".nii.gz")
    return target


def new_file(suffix: str) -> str:
    """An empty temporary file."""
    handle, name = tempfile.mkstemp(suffix=suffix, prefix="diffscore-")
    os.close(handle)
    return name


def as_dicom_seg(series_dir: str, label: str, label_info: list[dict[str, Any]] | None, *_: Any, **__: Any) -> str:
    """A label map as DICOM SEG of its series, from the package's own writer.

    It replaces MONAI Label's function with the same arguments for proposals. It checks the grid, names the algorithm,
    and needs no program beside Python.

    Raises:
        DataError: if the map is empty, which DICOM SEG does not allow, or the grids differ.
    """
    image = nib.load(label)
    array = np.asanyarray(image.dataobj).round().astype(np.uint8)
    if not array.any():
        raise DataError(
            label_info[0].get("model_name", "the model") if label_info else "the model",
            key="pred",
            expected="at least one marked voxel, which a DICOM SEG needs",
            got="none: no voxel is that unusual",
            remedy="Raise threshold in params to mark more, or request output=image.",
        )
    names = {number: info.get("name", "anomaly") for number, info in enumerate(label_info or [{}], start=1)}
    model = (label_info or [{}])[0].get("model_name", "monai_diffscore")
    target = new_file(".dcm")
    labels = MetaTensor(torch.from_numpy(array)[None], affine=torch.as_tensor(np.asarray(image.affine)))
    write_dicom_seg(labels, target, source=series_dir, names=names, model_hash=model)
    return target
