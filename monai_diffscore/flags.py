"""Checks of flags and overlays: each must change something, and with a value of the right kind.

MONAI merges every flag. A mistyped id is a new one. ``--amp false`` is a text, which counts as true. ``--run_name
2026_11_30`` is the number 20261130. ``--spacing_mm 2`` is one number in place of three. Here a value must have the kind
of the value that it replaces.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from monai_diffscore.errors import FlagError

_PATHS = ("_dir", "_file", "_name", "_path", "_root", "_uri", "checkpoint")


def refuse_unknown(
    files: Sequence[str], flags: Mapping[str, Any], dropped: Collection[str], own: Collection[str]
) -> None:
    """Refuses flags that override nothing, values of another kind than the old value, and None, which MONAI drops.

    Args:
        files: the configuration files of the command, in order.
        flags: id to value.
        dropped: ids with the value None.
        own: names of MONAI's own arguments.
    Raises:
        FlagError: names the flag, the expected kind, and the flag to write.
    """
    parser = ConfigParser()
    for number, file in enumerate(files):
        content = ConfigParser.load_config_file(file)
        for name, value in content.items():
            if not _of_another_class(parser, name, content):
                refuse_another_kind(f"{file}: {name}", value, _example(parser, name.lstrip("+")), name)
        parser.read_config(list(files[: number + 1]))
    ids = {name for name in parser.get() if name != "_meta_"}
    for flag, value in flags.items():
        name = flag.lstrip("+").replace("::", "#").split("#")[0]
        if name not in ids:
            raise FlagError(f"--{flag} overrides nothing in {', '.join(map(str, files))}; {nearest(name, ids, own)}")
        if flag == "cases" and isinstance(value, str) and value[:1] not in ("$", "@", "%"):
            raise FlagError(
                f"--cases {value}: the id is the split, two lists of cases. A table of cases takes the place of the "
                f"folder: --dataset_dir {value}."
            )
        if not _of_another_class(parser, flag, flags):
            refuse_another_kind(f"--{flag}", value, _example(parser, flag), flag)
    for flag in dropped:
        if parser.get(flag) is not None:
            raise FlagError(
                f"--{flag} None: MONAI ignores a flag of None, so {parser.get(flag)!r} would stay. "
                f"Write --{flag} '$None'."
            )


def _of_another_class(parser: ConfigParser, name: str, changes: Mapping[str, Any]) -> bool:
    """Whether ``changes`` replace the class of the component with the argument ``name``, so that its kinds are free."""
    parts = name.lstrip("+").replace("::", "#").split("#")
    targets = ("#".join([*parts[:depth], "_target_"]) for depth in range(1, len(parts)))
    return any(target in changes and changes[target] != parser.get(target) for target in targets)


def refuse_numbers_for_lists(config: Mapping[str, Any], files: Sequence[str | Path]) -> None:
    """Refuses one number in place of a list, in a configuration that a program merged.

    Args:
        config: the merged configuration.
        files: train.json and inference.json of its bundle; the one whose ids the configuration has states the lists.
    Raises:
        FlagError: names the id and the list to write.
    """
    for file in files:
        parser = ConfigParser(ConfigParser.load_config_file(file))
        stated = {name: value for name, value in parser.get().items() if name != "_meta_"}
        if set(stated) <= set(config):
            _refuse_numbers_below(config, stated, parser, "")


def _refuse_numbers_below(config: Any, stated: Mapping[str, Any], parser: ConfigParser, path: str) -> None:
    for name, value in stated.items():
        place, own = f"{path}{name}", config.get(name)
        if isinstance(value, Mapping) and isinstance(own, Mapping):
            if own.get("_target_") != value.get("_target_"):
                continue  # another class: its arguments have their own kinds
            _refuse_numbers_below(own, value, parser, f"{place}#")
        elif _is_number(own) and _is_list(example := _example(parser, place)):
            refuse_another_kind(place, own, example, place)


def _example(parser: ConfigParser, name: str) -> Any:
    """The value of an id in the files; for a reference to a list, or a statistic that is one, that list."""
    stated = value = parser.get(name)
    seen = {name}
    while isinstance(value, str) and value.startswith("@") and value not in seen:
        seen.add(value)
        value = parser.get(value[1:])
    statistic = re.fullmatch(r"\$@statistics\['(\w+)'\]", value) if isinstance(value, str) else None
    if statistic is not None:
        value = parser.get("untrained", {}).get(statistic.group(1))
    return value if _is_list(value) else stated


def _is_list(example: Any) -> bool:
    return bool(example) and (isinstance(example, list) or str(example).startswith("$["))


def nearest(name: str, ids: Collection[str], own: Collection[str] = ()) -> str:
    """A sentence with the at most five ids nearest to a mistyped one."""
    names = {*ids, *own}
    likely = difflib.get_close_matches(name, names, n=5)
    if likely:
        return f"did you mean {' or '.join('--' + other for other in likely)}?"
    return f"the nearest ids are {', '.join(difflib.get_close_matches(name, names, n=5, cutoff=0.0))}"


def refuse_another_kind(flag: str, value: Any, stated: Any, name: str) -> None:
    """Refuses a value of another kind than the value in the files.

    Args:
        flag: the flag or id with its file, such as "--amp", for the message.
        value: its value.
        stated: the value in the files; None and expressions accept every kind.
        name: the id.
    Raises:
        FlagError: names the expected kind and the flag to write.
    """
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    if isinstance(value, str) and value.lower() in ("null", "none"):
        raise FlagError(f"{flag} {value} is the text {value!r}; write '$None' for no value.")
    if _is_number(value) and name.endswith(_PATHS):
        raise FlagError(
            f"{flag} {value}: expected a text, got a number, which may have lost characters of the command line "
            f"(2026_11 is 202611). Keep its quotes: \"'{value}'\"."
        )
    expected = _expected(value, stated)
    if expected:
        raise FlagError(f"{flag} {value}: expected {expected}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expected(value: Any, stated: Any) -> str:
    """The expected kind, with an example; empty if ``value`` has it."""
    if isinstance(stated, bool):
        return "True or False, with a capital" if isinstance(value, str) else ""
    if _is_number(stated):
        wrong = isinstance(value, str) or (isinstance(value, bool) and value)
        return f"a number, such as {stated}" if wrong else ""
    if isinstance(stated, str) and stated[:1] not in ("$", "@", "%"):
        return f"a text, such as {stated!r}; keep its quotes: \"'{value}'\"" if _is_number(value) else ""
    if _is_list(stated) and not isinstance(value, list | tuple) and (isinstance(stated, list) or _is_number(value)):
        short = isinstance(stated, list) and len(stated) <= 3
        several = ", ".join([str(value)] * len(stated)) if short else f"{value}, ..."
        return f'a list, such as {stated}; for the same on each axis write "[{several}]"'
    return ""
