"""Sample volumes: a T1 MR and a CT."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from monai_diffscore.samples.cache import cache_folder
from monai_diffscore.samples.catalogue import find_sample, sample_path
from monai_diffscore.samples.chests import write_ct_phantoms
from monai_diffscore.samples.invesalius import convert_invesalius

logger = logging.getLogger(__name__)


def mni152() -> str:
    """The MNI152 2009a symmetric T1 template: 197 x 233 x 189 voxels of 1 mm, uint8, in nilearn's wheel.

    An **average** of 152 heads: smooth, one "subject", left and right mirrored. It shows that a bundle works, and
    supports no claim about image quality. Terms: in the wheel. Override: ``MONAI_DIFFSCORE_MNI152``.
    """
    return sample_path("mni152")


def ct() -> str:
    """A CT in Hounsfield units: real if this machine has one, else **drawn**, with a warning.

    1. ``MONAI_DIFFSCORE_CT``: a NIfTI file, a folder, or an InVesalius project (``.inv3``).
    2. The head CT of the Debian package ``invesalius-examples`` (GPL-2; one subject).
    3. Six chest phantoms of :mod:`~monai_diffscore.samples.chests`: shapes, not anatomy. They show that a bundle runs.

    The first call writes projects and phantoms as NIfTI to the cache folder.
    """
    override = os.environ.get("MONAI_DIFFSCORE_CT")
    if override and not override.endswith(".inv3"):
        return override
    project = Path(override) if override else find_sample("cranium")
    if project is not None:
        return str(convert_invesalius(project, cache_folder() / f"ct_{project.stem.lower()}.nii.gz"))
    logger.warning(
        "no CT on this machine: SYNTHETIC chest phantoms are used, which are drawn and no patient's. For a real one: "
        "apt-get install invesalius-examples, or --dataset_dir FOLDER, or the variable MONAI_DIFFSCORE_CT."
    )
    return str(write_ct_phantoms(cache_folder() / "ct_phantoms"))
