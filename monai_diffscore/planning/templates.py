"""The shipped bundles, from which every planned one is made."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from monai_diffscore.errors import DataError

#: in the repository a link to its bundles, in an installed package a copy of what belongs to them
FOLDER = Path(__file__).parent.parent / "bundles"


def template_folder(name: str) -> Path:
    """The folder of a shipped bundle.

    Raises:
        DataError: if it did not come with this installation.
    """
    folder = FOLDER / name
    if not (folder / "configs/metadata.json").is_file():
        there = sorted(path.parent.parent.name for path in FOLDER.glob("*/configs/metadata.json"))
        raise DataError(
            folder,
            key="template",
            expected=f"the bundle {name}, which plans of this kind of data are made from",
            got=f"only {', '.join(there)}" if there else "no shipped bundle at all",
            remedy="Install a version of monai_diffscore that has it; other kinds of data can be planned.",
        )
    return folder


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The configuration ``name`` of a bundle."""
    config: dict[str, Any] = json.loads((folder / "configs" / f"{name}.json").read_text())
    return config


def network_of(name: str) -> dict[str, Any]:
    """The declaration of the network of a shipped bundle."""
    network: dict[str, Any] = read_config(template_folder(name), "train")["network_def"]["network"]
    return copy.deepcopy(network)
