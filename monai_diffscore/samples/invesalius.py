"""Reads projects of InVesalius (``.inv3``): the only CT volume of small voxels in a Debian package.

A project is a tar archive of a property list ``main.plist`` (shape z, y, x; type; spacing x, y, z in mm) and a raw file
of the voxels in HU. It stores no directions. The pictures of the sample "Cranium" show that rows run from posterior to
anterior and slices from inferior to superior; they do not show left and right.
"""

from __future__ import annotations

import gzip
import plistlib
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.errors import DataError


def read_invesalius(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels [X, Y, Z] in HU, and an affine [4, 4] that assumes RAS axes and the origin in the middle of the volume.

    Raises:
        DataError: for another or an incomplete file.
    """
    try:
        with tarfile.open(path) as archive:
            files = {Path(member.name).name: member for member in archive.getmembers()}
            matrix = plistlib.loads(_bytes(archive, files["main.plist"]))
            facts = matrix["matrix"]
            raw = _bytes(archive, files[facts["filename"]])
        voxels = np.frombuffer(raw, np.dtype(facts["dtype"]).newbyteorder("<")).reshape(facts["shape"])
        spacing = [float(size) for size in matrix["spacing"]]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise DataError(
            path,
            expected="a project of InVesalius with its voxels (.inv3)",
            got=f"{type(error).__name__}: {error}",
            remedy="Install the Debian package invesalius-examples again, or give a NIfTI file instead.",
        ) from error
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-0.5 * step * (size - 1) for step, size in zip(spacing, voxels.shape[::-1], strict=True)]
    return voxels.T, affine


def convert_invesalius(path: str | Path, target: str | Path) -> Path:
    """Writes the volume of a project as NIfTI, whole or not at all, unless the file exists; returns its path."""
    if not Path(target).is_file():
        voxels, affine = read_invesalius(path)
        image = nib.Nifti1Image(np.ascontiguousarray(voxels.astype(np.int16)), affine)
        with whole_file(target) as file:
            file.write(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
    return Path(target)


def _bytes(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        raise KeyError(member.name)
    return file.read()
