"""The identity of training data: what stays the same when its folder moves."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from monai_diffscore.data import evenly_spaced


def fingerprint(loader: Any, most: int = 4096) -> str | None:
    """SHA-256, 16 digits, of the training cases: names and sizes of files, values of everything else.

    At most ``most`` cases, evenly spread, are looked at, so that it takes well under a second. Files count by name and
    size, wherever they are.
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
