"""Names of the results of cases: each has the folder of its subject, and no two are equal."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.data.cases.names import is_volume, read_name, stem
from monai_diffscore.data.paths import split_channel, split_series


def own_name(path: str) -> str:
    """The name of a file or series; the folder precedes a name that states only the contrast (``T1``)."""
    source = _source(path)
    name = stem(source) if is_volume(source) else source.name
    alone = is_volume(source) and not read_name(name).rest and source.parent.name
    return f"{source.parent.name}_{name}" if alone else name


def case_names(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The name of each case by the path of its image.

    The folder with the name of the subject precedes a name without it. The innermost folders that differ precede names
    that are equal otherwise; a number follows those of series of one folder. A subject that no folder is called after,
    such as a PatientID, is in no name.

    Args:
        cases: with the key "image", and "subject".
    """
    names: dict[str, str] = {}
    for case in cases:
        path = case["image"] if isinstance(case["image"], str) else case["image"][0]
        name, folder = own_name(path), str(case.get("subject", "")).rpartition("/")[2]
        apart = folder in _source(path).parts[:-1] and folder not in name
        names[path] = f"{folder}_{name}" if apart else name
    while groups := [group for group in _equal(names) if _level(group)]:
        for group in groups:
            for path in group:
                names[path] = f"{_source(path).parts[-1 - _level(group)]}_{names[path]}"
    taken = set(names.values())
    for group in _equal(names):
        for path in group[1:]:
            names[path] = free_name(names[path], taken)
            taken.add(names[path])
    return names


def free_name(name: str, taken: Collection[str]) -> str:
    """The name if it is free, else with the first number from 2 on that is."""
    numbered = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(one for one in numbered if one not in taken)


def _source(path: str) -> Path:
    """The file or folder of a series or channel."""
    return split_channel(split_series(path)[0])[0]


def _equal(names: Mapping[str, str]) -> Iterable[list[str]]:
    """The groups of paths with one name."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, name in names.items():
        groups[name].append(path)
    return [group for group in groups.values() if len(group) > 1]


def _level(paths: Sequence[str]) -> int:
    """How many folders up the paths first differ; 0 if they do not."""
    parts = [_source(path).parts for path in paths]
    levels = range(1, min(map(len, parts)))
    return next((level for level in levels if len({part[-1 - level] for part in parts}) > 1), 0)
