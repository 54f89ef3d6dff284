"""The records beside samples and weights: files are known by what made them, not by their names."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.atomic_files import write_json
from monai_diffscore.data.files import file_hash

logger = logging.getLogger(__name__)
#: beside samples: weights, seed, command and files; beside weights: hash, iteration and run of each file
MANIFEST, WEIGHTS = "manifest.json", "weights.json"


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a folder of samples; None if there is none."""
    return _read(Path(folder) / MANIFEST)


def of_newest_command(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The files that the manifest of ``folder`` lists, with a warning of the others; all without a manifest."""
    manifest = read_manifest(folder)
    if manifest is None:
        return list(files)
    own = [file for file in files if str(file.relative_to(folder)) in manifest["files"]]
    if len(own) < len(files):
        logger.warning(f"{folder}: left out {len(files) - len(own)} file(s) that the newest sampling did not write")
    return own


def note_weights(weights: Path, facts: Mapping[str, Any]) -> None:
    """Writes facts of the training that made ``weights``, and their hash, into ``weights.json`` beside them."""
    path = weights.with_name(WEIGHTS)
    content = {**(_read(path) or {}), weights.name: {"weights_hash": file_hash(weights), **facts}}
    write_json(path, content)


def facts_of_weights(weights: str | Path, weights_hash: str) -> dict[str, Any]:
    """The facts of :func:`note_weights`; empty for a file of another content."""
    facts = (_read(Path(weights).with_name(WEIGHTS)) or {}).get(Path(weights).name, {})
    record = dict(facts) if facts.get("weights_hash") == weights_hash else {}
    return {name: value for name, value in record.items() if name != "weights_hash"}


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None
