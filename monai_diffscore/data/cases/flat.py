"""A folder of files whose names give the subject and, if it has several images, the role: ``a_t1.nii.gz``, ``a_t2``.

A name without its words of contrasts and masks (:mod:`~monai_diffscore.data.cases.names`) is the subject. The last
words of a name are a role, or a session if they are a number, in two cases: the rest of the name is another name
(``case1``, ``case1_brain``), or several names with a number end in the same few words (``case1_fixed``,
``case1_moving``). So two images of one patient are never two patients.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import (
    MASK_WORDS,
    PLAIN_FOLDERS,
    Name,
    bids_label,
    in_mask_folder,
    is_volume,
    read_name,
    stem,
    words,
)
from monai_diffscore.data.tree import Tree

_MOST_ENDINGS = 12


def read_flat(tree: Tree) -> Cases:
    """The cases of a folder of files, at any depth."""
    book, names, masks = Casebook(), dict[Path, Name](), dict[Path, Name]()
    for file in tree.files:
        name, inside = read_name(stem(file)), file.relative_to(tree.top)
        if not is_volume(file):
            book.leave_out(file, "no image by its ending")
        elif name.is_scout:
            book.leave_out(file, "scout by its name")
        else:
            (masks if name.is_mask or in_mask_folder(inside) else names)[file] = name
    wholes = {file: _whole(file.relative_to(tree.top), name) for file, name in names.items()}
    subjects = _subjects(sorted(set(wholes.values())))
    names_of_subjects = sorted({subject for subject, _, _ in subjects.values()}, key=len, reverse=True)
    for file, whole in wholes.items():
        subject, session, extra = subjects[whole]
        role = "_".join(part for part in (names[file].role, extra) if part) or "image"
        book.add_image(bids_label(file.relative_to(tree.top)) or subject, session, role, str(file))
    for file, name in masks.items():
        whole = _whole(file.relative_to(tree.top), name)
        subject, session, _ = subjects.get(whole, (_owner(whole, names_of_subjects), "", ""))
        extra = whole.removeprefix(subject).strip("_-. ") if whole not in subjects else ""
        label = bids_label(file.relative_to(tree.top)) or subject
        book.add_mask(label, session, extra or _word(file, tree.top), str(file))
    return book.close(tree.root, "flat")


def _whole(inside: Path, name: Name) -> str:
    """The folders without those of images or masks in general (``images``, ``masks``), and the rest of the name."""
    folders = [
        part for part in inside.parts[:-1] if part.lower() not in PLAIN_FOLDERS and not set(words(part)) & MASK_WORDS
    ]
    return "/".join([*folders, name.rest]) if name.rest else "/".join(folders) or stem(inside)


def _subjects(wholes: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Subject, session and the words of the role of each name."""
    split = {}
    ends: dict[str, set[str]] = {}
    for whole in wholes:
        if match := re.fullmatch(r"(.*[^-_. /])[-_. ]+([A-Za-z0-9]+)", whole):
            split[whole] = match.groups()
            ends.setdefault(match[1], set()).add(match[2])
    several = {prefix: tails for prefix, tails in ends.items() if len(tails) > 1 and re.search(r"\d", prefix)}
    endings = set[str]().union(*several.values()) if several else set()
    are_ends = len(several) > 1 and len(endings) <= _MOST_ENDINGS
    parts = {}
    for whole in wholes:
        prefix, end = split.get(whole, ("", ""))
        base = next((other for other in _prefixes(whole) if other in set(wholes) and re.search(r"\d", other)), "")
        if base:
            parts[whole] = _part(base, whole[len(base) :].strip("-_. "))
        elif are_ends and prefix in several:
            parts[whole] = _part(prefix, end)
        else:
            parts[whole] = (whole, "", "")
    return parts


def _part(subject: str, end: str) -> tuple[str, str, str]:
    return (subject, end, "") if end.isdigit() else (subject, "", end.lower())


def _prefixes(whole: str) -> list[str]:
    """The beginnings of a name, cut at its gaps, the shortest first."""
    return [whole[: match.start()] for match in re.finditer(r"[-_. ]+", whole) if match.start() and "/" not in
            whole[match.start() :]]  # fmt: skip


def _owner(whole: str, subjects: Sequence[str]) -> str:
    """The longest subject that a mask's name begins with."""
    return next((name for name in subjects if re.fullmatch(re.escape(name) + r"([-_. /].*)?", whole)), whole)


def _word(file: Path, top: Path) -> str:
    """The word that marks a file as a mask."""
    places = [stem(file), *reversed(file.relative_to(top).parts[:-1])]
    return next((word for place in places for word in words(place) if word in MASK_WORDS), "mask")
