"""Generated and real images from files: NIfTI, or .npy with labels beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.data import evenly_spaced
from monai_diffscore.data.arrays import LABELS, read_labels
from monai_diffscore.data.cases.names import in_mask_folder
from monai_diffscore.data.manifests import of_newest_command
from monai_diffscore.data.volumes import image_loader
from monai_diffscore.errors import DataError

_SUFFIXES = (".nii", ".nii.gz", ".npy")


def find_samples(path: str | Path) -> list[Path]:
    """The generated images of a run or folder, sorted: those in the manifest beside them, if there is one.

    Files in folders of label maps (``labelsTr``) are no images.

    Raises:
        DataError: if there is no such file.
    """
    root = Path(path)
    folder = root / "samples" if (root / "samples").is_dir() else root
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.name.endswith(_SUFFIXES)
        and not file.name.startswith(".")
        and file.name != LABELS
        and not in_mask_folder(file.relative_to(folder))
    ]
    files = of_newest_command(folder, files)
    if not files:
        raise DataError(
            folder,
            expected=f"generated images ({', '.join(_SUFFIXES)})",
            got="none" if folder.is_dir() else "no such folder",
            remedy="Run the bundle's sampling with --output_dir there, or name the folder of its samples.",
        )
    return files


def read_images(files: Sequence[Path], count: int) -> tuple[list[Tensor], Tensor]:
    """At most ``count`` images [C, *S] of equal size, and their labels: NIfTI files hold one each, .npy files a set
    [N, C, *S] with the labels in labels.npy beside it. -1 means no label.

    Raises:
        DataError: for an unreadable file, NaN, or images of several sizes.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    for file in files:
        file_images, file_labels = read_file(file)
        images, labels = images + file_images, labels + file_labels
        _check_alike(file, images)
    return evenly_spaced(images, count), torch.tensor(evenly_spaced(labels, count))


def read_file(file: Path) -> tuple[list[Tensor], list[int]]:
    """Images [C, *S] of a file, and their labels."""
    labels = None
    try:
        if file.suffix == ".npy":
            loaded = [torch.from_numpy(np.ascontiguousarray(image)).float() for image in np.load(file)]
        else:
            volume = image_loader()(str(file))
            loaded = [torch.as_tensor(volume.as_tensor())]
    except Exception as error:
        raise DataError(
            file, expected="a readable image", got=f"{type(error).__name__}: {error}", remedy="Replace or remove it."
        ) from error
    for image in loaded:
        not_finite = int((~torch.isfinite(image)).sum())
        if image.ndim < 2 or not_finite:
            got = f"{not_finite} voxels NaN or infinite" if not_finite else f"shape {tuple(image.shape)}"
            raise DataError(
                file,
                expected="finite images [C, *S]; in .npy files [N, C, *S]",
                got=got,
                remedy="A model that makes such samples is broken; remove them to report on the rest.",
            )
    if file.suffix == ".npy":
        labels = read_labels(file, len(loaded), "label")
    # a picture in a NIfTI file has a third axis of one voxel
    images = [image.squeeze(-1) if image.ndim == 4 and image.shape[-1] == 1 else image for image in loaded]
    return images, [-1] * len(images) if labels is None else labels.tolist()


def _check_alike(file: Path, images: Sequence[Tensor]) -> None:
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise DataError(
            file,
            expected="images of one size",
            got=f"{shapes[:4]}",
            remedy="Report on each size separately.",
        )
