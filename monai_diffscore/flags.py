"""Flags and overlays of a command: refused where they change nothing, or cannot mean what they say.

MONAI merges whatever it is given. A mistyped id is a new one, ``--amp false`` is a text (which counts as true),
``--run_name 2026_11_30`` is the number 20261130, and ``--spacing_mm 2`` is a number where three stand. Here each value
has the kind of the value that it replaces.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

_PATHS = ("_dir", "_file", "_name", "_path", "_root", "_uri", "checkpoint")


class FlagError(ValueError):
    """A flag of the command line that nothing reads, or that cannot mean what it says."""


def refuse_unknown(
    files: Sequence[str], flags: Mapping[str, Any], dropped: Collection[str], own: Collection[str]
) -> None:
    """Refuses flags that override nothing, values of another kind than what they replace, and what MONAI drops.

    Args:
        files: the configuration files of the command, in order.
        flags: id to value.
        dropped: ids that were given None.
        own: names of MONAI's own arguments.
    Raises:
        FlagError: names the flag, what is expected, and what to write.
    """
    parser = ConfigParser()
    for number, file in enumerate(files):
        for name, value in ConfigParser.load_config_file(file).items():
            refuse_another_kind(f"{file}: {name}", value, parser.get(name.lstrip("+")), name)
        parser.read_config(list(files[: number + 1]))
    ids = {name for name in parser.get() if name != "_meta_"}
    for flag, value in flags.items():
        name = flag.lstrip("+").replace("::", "#").split("#")[0]
        if name not in ids:
            raise FlagError(f"--{flag} overrides nothing in {', '.join(map(str, files))}; {nearest(name, ids, own)}")
        refuse_another_kind(f"--{flag}", value, parser.get(flag), flag)
    for flag in dropped:
        if parser.get(flag) is not None:
            raise FlagError(
                f"--{flag} None: MONAI takes None for a flag that was not given, so {parser.get(flag)!r} would stay. "
                f"Write --{flag} '$None'."
            )


def nearest(name: str, ids: Collection[str], own: Collection[str] = ()) -> str:
    """The ids that a mistyped one may have meant, five at most."""
    known = {*ids, *own}
    likely = difflib.get_close_matches(name, known, n=5)
    if likely:
        return f"did you mean {' or '.join('--' + other for other in likely)}?"
    return f"the nearest ids are {', '.join(difflib.get_close_matches(name, known, n=5, cutoff=0.0))}"


def refuse_another_kind(flag: str, value: Any, stated: Any, name: str) -> None:
    """Refuses a value that cannot stand for the one that is stated.

    Args:
        flag: how the value was given, such as "--amp".
        value: it.
        stated: what the files state for this id; None and expressions may be of every kind.
        name: the id.
    Raises:
        FlagError: says what to write.
    """
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    if isinstance(value, str) and value.lower() in ("null", "none"):
        raise FlagError(f"{flag} {value} is the text {value!r}; write '$None' for none at all.")
    if _is_number(value) and name.endswith(_PATHS):
        raise FlagError(
            f"{flag} {value}: expected a text, got a number, of which the shell's word may have had more signs "
            f"(2026_11 is 202611). Keep its quotes: \"'{value}'\"."
        )
    expected = _expected(value, stated)
    if expected:
        raise FlagError(f"{flag} {value}: expected {expected}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expected(value: Any, stated: Any) -> str:
    """What should stand where ``value`` does; nothing if it may."""
    if isinstance(stated, bool):
        return "True or False, with a capital" if isinstance(value, str) else ""
    if _is_number(stated):
        got_other = isinstance(value, str) or (isinstance(value, bool) and value)
        return f"a number, such as {stated}" if got_other else ""
    if isinstance(stated, str) and stated[:1] not in ("$", "@", "%"):
        return f"a text, such as {stated!r}; keep its quotes: \"'{value}'\"" if _is_number(value) else ""
    if isinstance(stated, list) and stated and not isinstance(value, list | tuple):
        several = ", ".join([str(value)] * len(stated)) if len(stated) <= 3 else f"{value}, ..."
        return f'a list, such as {stated}; for the same on each axis write "[{several}]"'
    return ""
