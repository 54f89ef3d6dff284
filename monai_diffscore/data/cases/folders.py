"""A folder for each subject, perhaps with one for each session in it: ``P001/T1.nii.gz``, ``P001/visit2/T1.nii.gz``.

The first folder whose names differ between files is the subject's. A folder below it is a session's if its names recur
below several subjects, or name a session (``visit``, ``baseline``, a date). Folders of images or masks in general
(``anat``, ``segmentations``) count as neither.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import (
    MASK_WORDS,
    PLAIN_FOLDERS,
    bids_label,
    in_mask_folder,
    is_numbered,
    is_volume,
    read_name,
    stem,
    words,
)
from monai_diffscore.data.tree import Tree

_SESSION = re.compile(
    r"(ses|session|visit|v|tp|timepoint|time|month|m|year|y|week|w|day|scan|baseline|bl|followup|fu)[-_ ]?\d*|\d{8}"
    r"|\d{4}-\d{2}-\d{2}", re.IGNORECASE
)  # fmt: skip


def is_folders(top: Path, files: Iterable[Path]) -> bool:
    """Whether images lie in at least two folders, with at most one image of each role in a folder."""
    images = [file for file in files if is_volume(file) and not _is_mask(file.relative_to(top)) and not _is_scout(file)]
    places = Counter((_chain(file.relative_to(top)), _role(file, top)) for file in images)
    folders = {chain for chain, _ in places}
    return len(folders) > 1 and () not in folders and max(places.values()) == 1


def read_folders(tree: Tree) -> Cases:
    """The cases of a folder of subjects' folders."""
    book = Casebook()
    volumes = [file for file in tree.files if is_volume(file) and not _is_scout(file)]
    for file in tree.files:
        if not is_volume(file):
            book.leave_out(file, "no image by its ending")
        elif _is_scout(file):
            book.leave_out(file, "scout by its name")
    chains = {file: _chain(file.relative_to(tree.top)) for file in volumes}
    depth, has_sessions = _levels(set(chains.values()))
    if has_sessions:
        book.note("the folders below those of the subjects are their sessions (--subject PATTERN changes this)")
    for file, chain in chains.items():
        subject = bids_label(file.relative_to(tree.top)) or "/".join(chain[: depth + 1]) or stem(file)
        session = "/".join(chain[depth + 1 :])
        if _is_mask(file.relative_to(tree.top)):
            book.add_mask(subject, session, "_".join(words(stem(file))), str(file))
        else:
            book.add_image(subject, session, _role(file, tree.top), str(file))
    return book.close(tree.root, "folders")


def _is_scout(file: Path) -> bool:
    return read_name(stem(file)).is_scout


def _is_mask(inside: Path) -> bool:
    return read_name(stem(inside)).is_mask or in_mask_folder(inside)


def _chain(inside: Path) -> tuple[str, ...]:
    """The folders of a file that may name a subject or a session."""
    return tuple(
        part for part in inside.parts[:-1] if part.lower() not in PLAIN_FOLDERS and not set(words(part)) & MASK_WORDS
    )


def _role(file: Path, top: Path) -> str:
    """The role in the name, else the words of the name that its folders lack, else "image"."""
    name = read_name(stem(file))
    rest = name.rest
    for part in sorted(_chain(file.relative_to(top)), key=len, reverse=True):
        rest = re.sub(re.escape(part), "", rest, flags=re.IGNORECASE)
    extra = "" if is_numbered([rest]) else "-".join(words(rest))
    return "_".join(part for part in (name.role, extra) if part and part != "image") or "image"


def _levels(chains: set[tuple[str, ...]]) -> tuple[int, bool]:
    """The place of the subject's folder in the chains, and whether sessions follow."""
    depth = 0
    while len({chain[: depth + 1] for chain in chains}) == 1 and all(len(chain) > depth + 1 for chain in chains):
        depth += 1
    below: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for chain in chains:
        if len(chain) > depth + 1:
            below[chain[depth + 1]].add(chain[: depth + 1])
    if not below:
        return depth, False
    recurring = sum(len(parents) > 1 for parents in below.values()) >= len(below) / 2
    named = all(_SESSION.fullmatch(name) for name in below)
    if recurring or named or is_numbered({chain[depth] for chain in chains if len(chain) > depth}):
        return depth, True
    return depth + 1, any(len(chain) > depth + 2 for chain in chains)
