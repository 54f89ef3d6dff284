"""The identity of training data, which stays the same when its folder moves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffscore.data import evenly_spaced


def fingerprint(loader: Any, most: int = 4096) -> str | None:
    """SHA-256 of the training cases, 16 digits: names and sizes of files, and all other values.

    It reads at most ``most`` cases at even distances, in less than a second. The folder of a file does not count. It
    returns None for data without a list of cases.
    """
    data: Any = getattr(loader, "dataset", None)
    while hasattr(data, "dataset"):
        data = data.dataset
    cases = getattr(data, "data", None)
    if not isinstance(cases, Sequence):
        return None
    digest = hashlib.sha256(str(len(cases)).encode())
    for case in evenly_spaced(cases, most):
        for key, value in sorted(case.items()) if isinstance(case, Mapping) else [("", case)]:
            digest.update(str(key).encode() + b"=" + _bytes(value))
    return digest.hexdigest()[:16]


def _bytes(value: Any) -> bytes:
    if isinstance(value, Tensor):
        return value.detach().cpu().contiguous().numpy().tobytes()
    path = Path(value) if isinstance(value, str | Path) and len(str(value)) < 4096 else None
    if path is not None and path.is_absolute() and path.is_file():
        return f"{path.name} {path.stat().st_size}".encode()
    return str(value).encode()
