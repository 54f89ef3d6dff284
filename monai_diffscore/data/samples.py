"""Real sample data that comes inside Python packages, so that every bundle runs with nothing downloaded.

Each function returns a path. Nothing is copied, and nothing is vendored here. The order is: an environment variable
with a path, the installed package, an error that names the command to install it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from monai_diffscore.data.problems import DataError


def mni152() -> str:
    """The MNI152 2009a symmetric T1 template: 197 x 233 x 189 voxels of 1 mm, uint8, in nilearn's wheel.

    An **average** of 152 heads: smooth, one "subject", left and right mirrored. Good for showing that things work,
    not for a claim about image quality. Terms: in the wheel. Override: ``MONAI_DIFFSCORE_MNI152``.
    """
    return _resolve(
        "MONAI_DIFFSCORE_MNI152", "nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    )


def _resolve(variable: str, package: str, file: str) -> str:
    if variable in os.environ:
        return os.environ[variable]
    found = importlib.util.find_spec(package)  # does not import it
    folder = found.submodule_search_locations[0] if found and found.submodule_search_locations else None
    path = Path(folder or "", file)
    if folder is None or not path.is_file():
        raise DataError(
            path if folder else package,
            expected=f"the sample data in the package '{package}'",
            got="the package without this file" if folder else "no such package",
            remedy="Install it with: pip install 'monai_diffscore[samples]'; or give your own data with --dataset_dir.",
        )
    return str(path)
