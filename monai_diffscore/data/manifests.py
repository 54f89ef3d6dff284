"""The record that lies beside samples: which weights, seed and command made which files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a folder of samples; None if there is none."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None
