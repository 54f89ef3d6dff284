"""The content of a configuration: its choices, the ids that a part of it reads, and the differences between two.

The ids that the trainer reads, directly or through other ids, identify a training. Handlers that only observe it
(records, pictures, validation, checkpoints) and values of places and lengths do not count: see :data:`OBSERVERS` and
:data:`MAY_CHANGE`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]
REFERENCE = re.compile(r"@([A-Za-z_]\w*(?:(?:#|::)\w+)*)")
#: ids that MONAI runs, or that hold its own notes
ENTRIES = frozenset({"_meta_", "imports", "initialize", "run", "training", "sampling", "finalize", "evaluation"})
#: handlers that observe a training and do not change its iterations. No text of a configuration says so, so the list
#: is written by hand: every other handler counts. A test compares it with the handlers of all shipped trainings.
OBSERVERS = frozenset({
    "EarlyStopping", "Progress", "ResumableCheckpoint", "SampleGallery", "SaveSchema", "ShardedCheckpoint", "TimeLimit",
    "Tracking", "ValidationHandler", "ValidationLog",
})  # fmt: skip
#: ids that a continued training may change: length, hardware and places of files. The data is compared by content, so
#: that it may move.
MAY_CHANGE = frozenset({
    "max_epochs", "time_limit_seconds", "patience",
    "save_every", "val_interval", "gallery_every",
    "bundle_root", "dataset_dir", "healthy_dir", "output_dir", "ckpt_dir", "cache_dir",
    "tracking_uri", "model_name", "run_name", "experiment", "register_as",
    "device", "num_workers", "cache_memory_gb", "checkpointing", "compile",
})  # fmt: skip
#: id of the network on its device; its definition is compared
PLACEMENT = "network"


def flatten(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration with their ids ("a#b#2"); a list without containers is one value."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flatten(value, f"{path}#{key}" if path else str(key))
    elif _holds_containers(config):
        for position, value in enumerate(config):
            yield from flatten(value, f"{path}#{position}" if path else str(position))
    elif path:
        yield path, config


def _holds_containers(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value)


def references_in(text: Any) -> list[str]:
    """Ids that a text of a configuration refers to, with ``#`` between their parts."""
    if not isinstance(text, str) or text[:1] not in ("@", "$", "%"):
        return []
    return [name.replace("::", "#") for name in REFERENCE.findall(text)]


def meaning(value: Any) -> Any:
    """A normal form of a value: expressions without their spaces and quotes, lists for tuples.

    A value that JSON cannot hold becomes a text: the name of a function, the arguments of a partial, else ``str``.
    """
    if isinstance(value, str):
        return _meaning_of_text(value)
    if isinstance(value, Mapping):
        return {str(key): meaning(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [meaning(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else describe(value)


def _meaning_of_text(text: str) -> Any:
    if not text.startswith("$"):
        return text.replace("::", "#") if text.startswith("@") else text
    try:
        tree = ast.parse(REFERENCE.sub(_as_name, text[1:].strip()), mode="eval")
    except SyntaxError:
        return text
    try:
        return meaning(ast.literal_eval(tree))
    except ValueError:
        return "$" + ast.unparse(tree).replace(_AT, "@").replace(_HASH, "#")


_AT, _HASH = "_reference_to_", "_part_"


def _as_name(match: re.Match[str]) -> str:
    return _AT + re.sub("#|::", _HASH, match.group(1))


def describe(value: Any) -> str:
    """A text for a Python object in a configuration; equal objects have equal texts."""
    if isinstance(value, partial):
        return f"{describe(value.func)}({', '.join(f'{k}={describe(v)}' for k, v in sorted(value.keywords.items()))})"
    if isinstance(value, Path):
        return str(value)
    return getattr(value, "__qualname__", None) or str(value)


def read_by(config: Config, part: str) -> dict[str, Any]:
    """The values that ``part`` of a configuration reads, directly or through other ids, without :data:`MAY_CHANGE`.

    Args:
        config: the merged configuration.
        part: id of the trainer, such as "train#trainer". Without that id the whole configuration counts.
    Returns:
        Id to value, see :func:`flatten` and :func:`meaning`.
    """
    values: dict[str, Any] = {}
    waiting = [part] if look_up(config, part) is not None else [key for key in config if key not in ENTRIES]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen or any(path.startswith(f"{other}#") for other in seen) or _may_change(path):
            continue
        seen.add(path)
        for name, value in flatten(_training_alone(config, look_up(config, path)), path):
            if _may_change(name):
                continue
            if name.split("#")[0] != PLACEMENT:
                values[name] = meaning(value)
            texts = value if isinstance(value, list) else [value]
            waiting += [reference for text in texts for reference in references_in(text)]
    return dict(sorted(values.items()))


def look_up(config: Any, path: str) -> Any:
    """The value of an id; None for a missing id. Below a reference or expression it is that text."""
    value = config
    for key in re.split("#|::", path):
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return value if isinstance(value, str) and value[:1] in ("@", "$", "%") else None
    return value


def _may_change(path: str) -> bool:
    parts = path.split("#")
    return parts[0] in MAY_CHANGE or parts[-1] in MAY_CHANGE


def _training_alone(config: Config, value: Any) -> Any:
    """``value`` without observers. The entries of a list move up."""
    if isinstance(value, Mapping):
        parts = {key: item for key, item in value.items() if not _observes(config, item)}
        return {} if _observes(config, value) else {key: _training_alone(config, item) for key, item in parts.items()}
    if isinstance(value, list | tuple):
        return [_training_alone(config, item) for item in value if not _observes(config, item)]
    return value


def _observes(config: Config, value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    kind = str(value.get("_target_", "")).rsplit(".", 1)[-1]
    if kind != "Attach":
        return kind in OBSERVERS or value.get("_disabled_") is True
    attached = value.get("handler")
    texts = attached if isinstance(attached, list | tuple) else [attached]
    names = [name for text in texts for name in references_in(text)]
    return bool(names) and all(_observes(config, look_up(config, name)) for name in names)


def differences(then: Config, now: Config, tolerance: float = 0.0) -> list[str]:
    """A text for each id whose values differ: "learning_rate: 0.002 then, 0.001 now".

    Args:
        then: id to value.
        now: id to value of another configuration.
        tolerance: relative tolerance of numbers.
    """
    return [
        f"{name}: {_short(then, name)} then, {_short(now, name)} now"
        for name in sorted(then.keys() | now.keys())
        if name not in then or name not in now or not _equal(then[name], now[name], tolerance)
    ]


def _equal(then: Any, now: Any, tolerance: float) -> bool:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        return then.keys() == now.keys() and all(_equal(then[key], now[key], tolerance) for key in then)
    if isinstance(then, Sequence) and isinstance(now, Sequence) and not isinstance(then, str):
        return len(then) == len(now) and all(_equal(a, b, tolerance) for a, b in zip(then, now, strict=True))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (then, now))
    if numbers and tolerance > 0:
        return math.isclose(then, now, rel_tol=tolerance) or (math.isnan(then) and math.isnan(now))
    return bool(then == now) and isinstance(then, bool) == isinstance(now, bool)


def _short(values: Config, name: str) -> str:
    if name not in values:
        return "absent"
    value = values[name]
    text = repr(value) if isinstance(value, str) else str(value)
    if len(text) <= 80:
        return text
    return f"{len(value)} values" if isinstance(value, Mapping | list) else f"{text[:77]}..."


def choices(config: Config) -> dict[str, Any]:
    """The plain values of a configuration by their ids: numbers, texts, booleans and lists of them, no expressions."""
    stated = {}
    for name, value in flatten({key: value for key, value in config.items() if key not in ENTRIES}):
        texts = value if isinstance(value, list | tuple) else [value]
        if not any(isinstance(text, str) and text[:1] in ("@", "$", "%") for text in texts):
            stated[name] = meaning(value)
    return stated
