"""The user's cache: where a sample lies that a bundle needs in another form (a slide, NIfTI, .h5ad)."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where derived sample data is kept: ``MONAI_DIFFSCORE_CACHE``, else ``monai_diffscore`` in the user's cache."""
    override = os.environ.get("MONAI_DIFFSCORE_CACHE")
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(override) if override else Path(user_cache) / "monai_diffscore"


def derived_path(source: str, name: str) -> Path:
    """Path in the cache for what is derived from the file ``source``: another path if the file changes."""
    stamp = Path(source).stat()
    return cache_folder() / f"{name}_{stamp.st_size}_{stamp.st_mtime_ns}"
