r"""Text of data as values of a MONAI configuration: never a program.

MONAI runs a value that starts with ``$``, follows one that starts with ``@``, includes the file that one with ``%``
names, and writes ``::`` for each ``#`` in any text. Names of columns, labels and files may hold all of these. A
configuration therefore holds what comes from data as a :func:`literal`, and names of columns stand in JSON files that a
training reads.
"""

from __future__ import annotations

from typing import Any

_MEANINGFUL = "$@%#"


def literal(value: Any) -> Any:
    r"""The value of a configuration that MONAI reads as ``value`` and nothing else.

    What MONAI leaves alone stays as it is; every other value becomes an expression, ``"$'\\x24 income'"``, in which the
    four characters that mean something to MONAI are escaped. Exact for text, numbers, None, and lists and dictionaries
    of them.
    """
    if _is_plain(value):
        return value
    text = repr(value)
    for character in _MEANINGFUL:
        text = text.replace(character, f"\\x{ord(character):02x}")
    return f"${text}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        # a key with a leading underscore may be MONAI's: _target_, _mode_, _disabled_
        safe = all(isinstance(key, str) and not key.startswith("_") and "::" not in key for key in value)
        return safe and all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return not isinstance(value, str) or not (value.startswith(("$", "@", "%")) or "#" in value or "@::" in value
                                              or "%::" in value)  # fmt: skip
