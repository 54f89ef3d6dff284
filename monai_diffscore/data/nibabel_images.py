"""Opens NIfTI and FreeSurfer images by nibabel: by their content, with vectors as channels.

The first two bytes of a file tell whether it is packed. A name tells it wrongly after a renaming, or after a download
that unpacks files. The channels are the fourth axis of a NIfTI image. The components of a vector are the fifth axis,
after a fourth one of length 1.

Source: R. W. Cox et al., the NIfTI-1 header (nifti1.h), dim and intent_code.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

_GZIP = b"\x1f\x8b"
#: the magic of one file with header and voxels, and its place, of NIfTI-1 and NIfTI-2
_MAGIC = {nib.Nifti1Image: (344, b"n+1\0"), nib.Nifti2Image: (4, b"n+2\0")}


def is_packed(path: str | Path) -> bool:
    """Whether the file begins as gzip does."""
    with open(path, "rb") as file:
        return file.read(len(_GZIP)) == _GZIP


def is_misnamed(path: str | Path) -> bool:
    """Whether a packed file has the ending ``.nii``, or an unpacked one ``.nii.gz``."""
    name = str(path).lower()
    return name.endswith((".nii", ".nii.gz")) and is_packed(path) != name.endswith(".gz")


def open_image(path: str | Path) -> Any:
    """The image of a file, whose voxels nibabel reads when they are used.

    Raises:
        Exception: whatever nibabel raises for a damaged file.
    """
    if is_misnamed(path):
        content = Path(path).read_bytes()
        content = gzip.decompress(content) if is_packed(path) else content
        for kind, (place, magic) in _MAGIC.items():
            if content[place : place + len(magic)] == magic:
                return kind.from_bytes(content)
    return nib.load(path)


def count_channels(shape: Sequence[int]) -> int:
    """The number of channels of an image with this shape; 1 for a shape without axes of channels."""
    return int(np.prod(shape[3:])) if is_vector(shape) or len(shape) == 4 else 1


def is_vector(shape: Sequence[int]) -> bool:
    """Whether the shape has components of vectors on its fifth axis."""
    return len(shape) == 5 and shape[3] == 1


def read_channels(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The voxels [channels, X, Y, Z], float32, and the affine [4, 4] in RAS and mm."""
    image = open_image(path)
    values = np.asarray(image.dataobj, dtype=np.float32)
    values = values[..., 0, :] if is_vector(values.shape) else values
    values = values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0)
    return np.ascontiguousarray(values), np.array(image.affine)
