"""The user's cache of samples in the form that a bundle needs (a slide, NIfTI, .h5ad)."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of derived samples: ``MONAI_DIFFSCORE_CACHE``, else ``monai_diffscore`` in the user's cache."""
    override = os.environ.get("MONAI_DIFFSCORE_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(override) if override else Path(user_cache) / "monai_diffscore"


def derived_path(source: str, name: str) -> Path:
    """Path in the cache of data derived from the file ``source``; it changes with the file."""
    stamp = Path(source).stat()
    return cache_folder() / f"{name}_{stamp.st_size}_{stamp.st_mtime_ns}"
