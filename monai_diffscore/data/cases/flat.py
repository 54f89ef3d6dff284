"""A folder of files whose names give the subject and, if it has several images, the role: ``a_t1.nii.gz``, ``a_t2``.

A name without its words of contrasts and masks (:mod:`~monai_diffscore.data.cases.names`) is the subject. A folder of a
contrast (``T1/a.nii.gz``) is a role, one of a visit (``baseline/a.nii.gz``) a session, and one of a part (``train``)
neither. A name that begins as those of patients do (``P1_left``), or a folder called so, is that patient's. The last
words of other names are a role, or a session if they are a number, in two cases: the rest of the name is another name
(``case1``, ``case1_brain``), or several names with a number end in the same few words (``case1_fixed``,
``case1_moving``). So two images of one patient are never two patients.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import (
    Name,
    bids_label,
    in_mask_folder,
    is_mask_word,
    is_neutral_folder,
    is_volume,
    read_name,
    role_of_folder,
    stem,
    variant_of,
    words,
)
from monai_diffscore.data.cases.subjects import SESSION, patient_part
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
    places = {file: _place(file.relative_to(tree.top), name) for file, name in (names | masks).items()}
    subjects = _subjects(sorted({places[file][0] for file in names}))
    names_of_subjects = sorted({subject for subject, _, _ in subjects.values()}, key=len, reverse=True)
    for file, name in names.items():
        inside, (whole, visit) = file.relative_to(tree.top), places[file]
        subject, session, extra = subjects[whole]
        own = name.role or role_of_folder(inside)
        role = "_".join(part for part in (own, extra) if part) or "image"
        session = "/".join(part for part in (visit, session) if part)
        book.add_image(bids_label(inside) or subject, session, role, str(file), variant=variant_of(name.contrast))
    for file in masks:
        whole, visit = places[file]
        subject, session, _ = subjects.get(whole, (_owner(whole, names_of_subjects), "", ""))
        extra = whole.removeprefix(subject).strip("_-. ") if whole not in subjects else ""
        label = bids_label(file.relative_to(tree.top)) or subject
        session = "/".join(part for part in (visit, session) if part)
        book.add_mask(label, session, extra or _word(file, tree.top), str(file))
    return book.close(tree.root, "flat")


def _place(inside: Path, name: Name) -> tuple[str, str]:
    """The folders of subjects with the rest of the name, and the folders of sessions.

    Folders of images or masks in general (``images``, ``masks``), of parts of a data set, and of contrasts count as
    neither. A folder of a session counts as that of the subject if nothing else names one.
    """
    folders = [part for part in inside.parts[:-1] if not is_neutral_folder(part)]
    subjects = [part for part in folders if not SESSION.fullmatch(part)]
    if not subjects and not name.rest:
        return "/".join(folders) or stem(inside), ""
    visits = [part for part in folders if SESSION.fullmatch(part)]
    return "/".join([*subjects, name.rest] if name.rest else subjects), "/".join(visits)


def _subjects(wholes: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Subject, session and the words of the role of each name."""
    patients = {whole: patient_part(whole) for whole in wholes}
    parts = _of_patients({whole: patient for whole, patient in patients.items() if patient})
    return parts | _of_words([whole for whole in wholes if not patients[whole]])


def _of_patients(patients: Mapping[str, str]) -> dict[str, tuple[str, str, str]]:
    """The parts of names that begin with the patient: words that recur are roles, others are sessions."""
    ends = {whole: whole[len(patient) :].strip("-_. /") for whole, patient in patients.items()}
    of_patient: dict[str, set[str]] = defaultdict(set)
    owners: dict[str, set[str]] = defaultdict(set)
    for whole, patient in patients.items():
        of_patient[patient].add(ends[whole])
        owners[ends[whole]].add(patient)
    several = any(len(own) > 1 for own in of_patient.values())
    parts = {}
    for whole, patient in patients.items():
        end, own = ends[whole], of_patient[patient]
        is_role = several and end and ("" in own or any(len(owners[other]) > 1 for other in own))
        if end and (SESSION.fullmatch(end) or not re.search(r"[A-Za-z]", end)):
            parts[whole] = (patient, end, "")
        elif is_role:
            parts[whole] = (patient, "", re.sub(r"[-_. /]+", "_", end).lower())
        else:
            parts[whole] = (patient, end if len(own) > 1 else "", "")
    return parts


def _of_words(wholes: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """The parts of names that tell no patient."""
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
    return next((word for place in places for word in words(place) if is_mask_word(word)), "mask")
