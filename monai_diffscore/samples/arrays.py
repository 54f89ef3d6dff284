"""Sample arrays: small pictures and a sequence."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.samples.cache import derived_path
from monai_diffscore.samples.catalogue import sample_path

logger = logging.getLogger(__name__)


def digits() -> str:
    """scikit-learn's handwritten digits as arrays: a folder in the cache with images.npy and labels.npy.

    1797 images of 8 x 8 pixels, uint8, [N, rows, columns]: 17 grey levels, stretched to 0 .. 255, ink white; and their
    classes 0 to 9. The first call writes the files. Override: ``MONAI_DIFFSCORE_DIGITS`` (a table of the same kind: 64
    pixels and the class in each row, comma-separated).

    Raises:
        DataError: if scikit-learn is not installed.
    """
    source = sample_path("digits")
    folder = derived_path(source, "digits")
    if not (folder / "images.npy").is_file():
        table = np.loadtxt(source, delimiter=",")
        _save_array(folder / "labels.npy", table[:, 64].astype(np.int64))
        _save_array(folder / "images.npy", np.rint(table[:, :64] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8))
        logger.info("wrote the sample images %s", folder)
    return str(folder)


def ecg() -> str:
    """PyWavelets' electrocardiogram as a sequence: a .npy file in the cache, [1024], int32, unit not stated.

    The first call writes the file. Override: ``MONAI_DIFFSCORE_ECG`` (an .npz file with the sequence as ``data``).

    Raises:
        DataError: if PyWavelets is not installed.
    """
    source = sample_path("ecg")
    path = derived_path(source, "ecg").with_suffix(".npy")
    if not path.is_file():
        with np.load(source) as archive:
            _save_array(path, archive["data"])
        logger.info("wrote the sample sequence %s", path)
    return str(path)


def _save_array(path: Path, array: np.ndarray) -> None:
    with whole_file(path) as file:
        np.save(file, array)
