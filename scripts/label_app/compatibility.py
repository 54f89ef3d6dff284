"""Lets MONAI Label 0.8.5 run with current versions of its dependencies; scripts/label runs it once.

It changes two files of the environment, both idempotently:

- MONAI Label imports torchvision, which is compiled for CUDA, and calls none of its operators here. Beside a CPU-only
  torch they do not load, and the registration of their shapes fails without the schemas of ``nms`` and ``qnms``. The
  script declares these schemas where the operators do not load.
- pydicom-seg 0.4.1 imports UIDs from a private module that pydicom 3 lacks. The script adds one that passes them on.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

_MARK = "# declared for a torch without CUDA"
_SCHEMAS = f"""
{_MARK}
import torch as _torch
from torchvision.extension import _has_ops as _loaded

if not _loaded():
    _operators = _torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _operators.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def declare_operators(packages: Path) -> None:
    """Declares the schemas before torchvision registers shapes for them."""
    path = packages / "torchvision" / "_meta_registrations.py"
    text = path.read_text()
    if _MARK in text:
        return
    place = "import torchvision.extension  # noqa: F401\n"
    if place not in text:
        raise SystemExit(
            f"label: {path}: this version of torchvision has another layout than 0.28.0, the expected one."
        )
    path.write_text(text.replace(place, place + _SCHEMAS, 1))


def pass_on_uids(packages: Path) -> None:
    """Adds the module that pydicom-seg imports."""
    (packages / "pydicom" / "_storage_sopclass_uids.py").write_text("from pydicom.uid import *  # noqa: F403\n")


if __name__ == "__main__":
    folder = Path(sysconfig.get_paths()["purelib"])
    declare_operators(folder)
    pass_on_uids(folder)
