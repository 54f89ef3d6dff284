"""Parts merged in order.

A *part* is a JSON object that says one thing: a training loop, CT, a U-Net. Its keys are *places*:

=====================================  ==================================================================
``"train": {...}``                     goes into configs/train.json
``"train, inference": {...}``          goes into both
``"train/noise/mean": -0.8``           ``/`` leads into objects; ``#`` keeps its meaning in MONAI
``"handlers[]": {"ema": {...}, ...}``  a list whose entries have names, by which later parts reach them
``"shape": "..."``                     a place that a later part fills, or the end of what an earlier part wrote;
                                       what no part fills is not written
=====================================  ==================================================================

Objects merge; anything else replaces. An object with another ``_target_`` replaces, too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Part = Mapping[str, Any]
LIST = "[]"
OPEN = "..."


class Whole(dict[str, Any]):
    """An object that replaces what stands in its place; its keys are no places."""


def merge(target: dict[str, Any], part: Part) -> None:
    """Merges a part into a composition, in place.

    Args:
        target: the result of the earlier parts; its lists still have names.
        part: places and their values.
    """
    for places, value in part.items():
        for place in places.split(", "):
            *way, name = place.split("/")
            folder = target
            for step in way:
                folder = folder.setdefault(step, {})
            _put(folder, name, value)


def _put(folder: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, Whole) or not isinstance(value, Mapping):
        folder[name] = copy.deepcopy(dict(value) if isinstance(value, Whole) else value)
        return
    present = folder.get(name)
    if not isinstance(present, dict) or _replaces(value, present):
        present = folder[name] = {}
    merge(present, value)


def _replaces(value: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    return "_target_" in value and present.get("_target_", value["_target_"]) != value["_target_"]


def plain_value(value: Any) -> Any:
    """The composition as a value of JSON: lists with names become lists, and places that no part fills disappear."""
    if isinstance(value, list):
        return [plain_value(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    filled = {name: inner for name, inner in value.items() if inner != OPEN}
    filled = {name: filled[name] for name in sorted(filled, key=lambda name: not name.startswith("_"))}
    return {
        name.removesuffix(LIST): [*plain_value(inner).values()] if name.endswith(LIST) else plain_value(inner)
        for name, inner in filled.items()
    }
