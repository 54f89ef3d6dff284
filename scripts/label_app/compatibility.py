"""Lets MONAI Label 0.8.5 import what current versions of its dependencies have moved; scripts/label runs it once.

Two files of the environment are changed, both idempotently:

- torchvision, which MONAI Label imports but whose operators it does not call here, comes compiled for CUDA. Beside a
  CPU-only torch its operators do not load, and the registration of their shapes then finds no schema for ``nms`` and
  ``qnms``: they are declared. Where the operators load, nothing is declared.
- pydicom-seg 0.4.1 imports UIDs from a private module that pydicom 3 no longer has: one that passes them on is added.
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
    """Puts the schemas in front of the shapes that torchvision registers for them."""
    path = packages / "torchvision" / "_meta_registrations.py"
    text = path.read_text()
    if _MARK in text:
        return
    place = "import torchvision.extension  # noqa: F401\n"
    if place not in text:
        raise SystemExit(f"label: {path}: this version of torchvision is not laid out as expected; 0.28.0 is.")
    path.write_text(text.replace(place, place + _SCHEMAS, 1))


def pass_on_uids(packages: Path) -> None:
    """Adds the module that pydicom-seg asks for."""
    (packages / "pydicom" / "_storage_sopclass_uids.py").write_text("from pydicom.uid import *  # noqa: F403\n")


if __name__ == "__main__":
    folder = Path(sysconfig.get_paths()["purelib"])
    declare_operators(folder)
    pass_on_uids(folder)
