"""A bundle from parts: its declaration, and for a planned bundle the values of the plan.

A *declaration* is a part with one more key, ``parts``: the names of the parts of the bundle, in order. It holds only
the bundle's own values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.composing.merging import Part, merge, plain_value
from monai_diffscore.errors import DataError

_HERE = Path(__file__).parent
#: order of a configuration: name and paths, settings, components, the steps of the program
_PLACES = (
    "imports",
    "+imports",
    "model_name",
    "bundle_root",
    "dataset_dir",
    "output_dir",
    "ckpt_dir",
    "checkpoint",
    "seed",
    "device",
)
_WALK = ("train", "validate", "evaluator", "initialize", "run", "training", "sampling", "finalize")

Config = dict[str, Any]


def declared() -> list[str]:
    """The names of the shipped bundles, sorted."""
    return sorted(path.stem for path in (_HERE / "declarations").glob("*.json"))


def declaration(name: str) -> dict[str, Any]:
    """The declaration of a shipped bundle.

    Raises:
        DataError: if there is none of this name.
    """
    return _read("declarations", name, "a declared bundle")


def compose(
    name: str, parts: Sequence[str] | None = None, values: Part | None = None, title: str | None = None
) -> dict[str, Config]:
    """The configurations of a bundle by file name without ``.json``.

    Args:
        name: of the declaration.
        parts: instead of those of the declaration.
        values: one more part on top, such as a plan's.
        title: the bundle's ``model_name``, which runs, pictures and files show; None takes ``name``.
    Raises:
        DataError: for a declaration or a part that does not exist.
    """
    own = declaration(name)
    names = own.pop("parts")
    composition: dict[str, Any] = {}
    called = {"train/model_name, inference/model_name": title or name}
    below = [_read("parts", part, "a part") for part in (names if parts is None else parts)]
    for part in [*below, own, called, values or {}]:
        merge(composition, part)
    return {file: _ordered(config) for file, config in plain_value(composition).items()}


def network_of(name: str) -> Config:
    """The declaration of the network of a shipped bundle."""
    network: Config = compose(name)["train"]["network_def"]["network"]
    return network


def _ordered(config: Config) -> Config:
    """The configuration in the order in which it is read; stable otherwise."""

    def place(name: str) -> tuple[int, int]:
        if name in _PLACES:
            return 0, _PLACES.index(name)
        if name in _WALK:
            return 3, _WALK.index(name)
        return (1 if _is_setting(config[name]) else 2), 0

    return {name: config[name] for name in sorted(config, key=place)}


def _is_setting(value: Any) -> bool:
    """Whether a value stands for itself: a number, a text, or a list of them."""
    if isinstance(value, list):
        return all(_is_setting(entry) for entry in value)
    return not isinstance(value, dict) and not str(value).startswith(("$", "@", "%"))


def _read(folder: str, name: str, expected: str) -> dict[str, Any]:
    path = _HERE / folder / f"{name}.json"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.json"))
        raise DataError(
            path, key="name", expected=f"{expected}: {', '.join(names)}", got=repr(name),
            remedy="Name one of them, or install monai_diffscore again if files are missing.",
        )  # fmt: skip
    content: dict[str, Any] = json.loads(path.read_text())
    return content
