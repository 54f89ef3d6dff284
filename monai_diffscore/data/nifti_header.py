"""Checks the header of a NIfTI file before its values are used: numbers that are intensities, and one geometry.

A header states the size of a voxel twice: in ``pixdim``, and in the columns of the affine that ``sform_code`` and
``qform_code`` choose. Libraries disagree which one they take if the two differ, and replace zeros and NaN
silently. This module refuses such a file.

Source: R. W. Cox et al., the NIfTI-1 header (nifti1.h), methods 1 to 3.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffscore.data.nibabel_images import is_packed, open_image
from monai_diffscore.errors import DataError

#: endings of the files
NIFTI = (".nii", ".nii.gz")
_SAME = 0.01  # largest difference between two statements of a voxel's size, as a share


def check_nifti_header(path: str | Path, key: str = "image") -> None:
    """Refuses a header whose values are no intensities, or whose geometry contradicts itself.

    Raises:
        DataError: for complex numbers, colours and other records; for a voxel size that is zero or not finite; for an
            affine that is not invertible, or whose voxel size is not that of pixdim.
    """
    image = open_image(path)
    dtype, header = image.get_data_dtype(), _raw_header(path, type(image))
    if dtype.kind not in "buif":
        kind = "complex numbers" if dtype.kind == "c" else f"records of {list(dtype.names or [dtype])}, such as colours"
        raise DataError(
            path, key=key, expected="one number a voxel", got=kind,
            remedy="Convert it to one real image (the magnitude, or one of the colours), or take the file out of the "
            "folder.",
        )  # fmt: skip
    axes = [axis for axis, size in enumerate(image.shape[:3]) if size > 1]
    stated = np.abs(np.asarray(header["pixdim"], dtype=np.float64)[1:4][axes])
    codes = int(header["sform_code"]), int(header["qform_code"])
    affine = np.asarray(header.get_sform() if codes[0] > 0 else image.affine, dtype=np.float64)
    sizes = np.linalg.norm(affine[:3, axes], axis=0)
    if not (np.isfinite(stated).all() and (stated > 0).all()):
        problem = f"pixdim {stated.tolist()}"
    elif not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        problem = f"an affine without inverse, by sform_code {codes[0]} and qform_code {codes[1]}"
    elif (np.abs(sizes / stated - 1) > _SAME).any():
        problem = f"pixdim {stated.round(4).tolist()} and an affine of {sizes.round(4).tolist()} mm"
    else:
        return
    raise DataError(
        path, key=key, expected="one size of a voxel, and an affine of that size", got=problem,
        remedy="Find out which is right and correct the header (nibabel: set_sform, set_qform), or take the file out "
        "of the folder.",
    )  # fmt: skip


def _raw_header(path: str | Path, kind: Any) -> Any:
    """The header as the file has it: nibabel replaces zeros when it loads."""
    with gzip.open(path) if is_packed(path) else open(path, "rb") as file:
        return kind.header_class.from_fileobj(file, check=False)


def states_orientation(path: str | Path) -> bool:
    """Whether the header states how the axes lie in the patient (sform_code or qform_code is not 0)."""
    header = open_image(path).header
    return bool(int(header["sform_code"]) or int(header["qform_code"]))
