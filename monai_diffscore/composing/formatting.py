"""JSON that people read: what fits a line stands on one; a long list of short entries fills its lines."""

from __future__ import annotations

import json
from typing import Any

WIDTH = 120
#: characters up to which the entries of a long list share lines
SHORT = 32


def to_json(value: Any) -> str:
    """The text of a configuration: four spaces a level, an innermost object or list on one line if it fits.

    Args:
        value: of JSON's types.
    Returns:
        Lines of at most :data:`WIDTH` characters where the strings allow it, with a line break at the end.
    """
    return _text(value, 0, 0) + "\n"


def _text(value: Any, level: int, used: int) -> str:
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value:
        return line
    if level > 0 and _is_innermost(value) and 4 * level + used + len(line) < WIDTH:
        return line
    pad = "    " * (level + 1)
    if isinstance(value, dict):
        names = {name: f"{json.dumps(name, ensure_ascii=False)}: " for name in value}
        entries = [pad + names[name] + _text(inner, level + 1, len(names[name])) for name, inner in value.items()]
    elif _is_innermost(value) and max(len(json.dumps(entry)) for entry in value) <= SHORT:
        return "[\n" + ",\n".join(pad + filled for filled in _filled(value, WIDTH - len(pad))) + "\n" + pad[4:] + "]"
    else:
        entries = [pad + _text(inner, level + 1, 0) for inner in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(entries) + "\n" + "    " * level + closing


def _is_innermost(value: dict[str, Any] | list[Any]) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return not any(isinstance(entry, dict) or (isinstance(entry, list) and entry) for entry in inner) or (
        isinstance(value, dict) and not any(isinstance(entry, dict) for entry in inner)
    )


def _filled(entries: list[Any], width: int) -> list[str]:
    """The entries on as few lines of a width as they need, without the comma between lines."""
    lines = [""]
    for entry in (json.dumps(entry, ensure_ascii=False) for entry in entries):
        longer = f"{lines[-1]}, {entry}" if lines[-1] else entry
        if len(longer) < width:
            lines[-1] = longer
        else:
            lines.append(entry)
    return lines
