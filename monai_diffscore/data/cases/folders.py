"""A folder for each subject, perhaps with one for each session in it: ``P001/T1.nii.gz``, ``P001/visit2/T1.nii.gz``.

The outermost folder that is called like a patient is the subject's; without one the first whose names differ between
files. A folder of a session (``visit``, ``baseline``, a date) may stand above or below it; other folders below it are
sessions, too, if their names recur below several subjects. Folders of images or masks in general (``anat``,
``segmentations``), of parts of a data set (``train``) and of contrasts (``T1``) count as neither.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import (
    bids_label,
    in_mask_folder,
    is_neutral_folder,
    is_numbered,
    is_volume,
    read_name,
    role_of_folder,
    stem,
    variant_of,
    words,
)
from monai_diffscore.data.cases.subjects import SESSION, patient_part
from monai_diffscore.data.tree import Tree


def is_folders(top: Path, files: Iterable[Path]) -> bool:
    """Whether images lie in the folders of at least two subjects.

    A folder is a subject's if it has at most one image of each role, if it is called like a patient, or if the names of
    its files recur in other folders. Folders of sessions alone are none, unless the names of their files recur.
    """
    images = [file for file in files if is_volume(file) and not _is_mask(file.relative_to(top)) and not _is_scout(file)]
    chains = {file: _chain(file.relative_to(top)) for file in images}
    folders = set(chains.values())
    if len(folders) < 2 or () in folders:
        return False
    places: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for file, chain in chains.items():
        places[stem(file)].add(chain)
    recur = 2 * sum(len(several) > 1 for several in places.values()) >= len(places)
    if all(SESSION.fullmatch(part) for chain in folders for part in chain):
        return recur and not any(patient_part(name) for name in places)
    alone = max(Counter((chain, _role(file, top)) for file, chain in chains.items()).values()) == 1
    return alone or recur or all(patient_part("/".join(chain)) for chain in folders)


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
    owners = _owners(set(chains.values()))
    if any(session for _, session in owners.values()):
        book.note("the folders below those of the subjects are their sessions (--subject PATTERN changes this)")
    for file, chain in chains.items():
        subject, session = owners[chain]
        subject = bids_label(file.relative_to(tree.top)) or subject or stem(file)
        if _is_mask(file.relative_to(tree.top)):
            book.add_mask(subject, session, "_".join(words(stem(file))), str(file))
        else:
            book.add_image(
                subject, session, _role(file, tree.top), str(file), variant=variant_of(read_name(stem(file)).contrast)
            )
    return book.close(tree.root, "folders")


def _is_scout(file: Path) -> bool:
    return read_name(stem(file)).is_scout


def _is_mask(inside: Path) -> bool:
    return read_name(stem(inside)).is_mask or in_mask_folder(inside)


def _chain(inside: Path) -> tuple[str, ...]:
    """The folders of a file that may name a subject or a session."""
    return tuple(part for part in inside.parts[:-1] if not is_neutral_folder(part))


def _role(file: Path, top: Path) -> str:
    """The role in the name, else the words of the name that its folders lack, else "image"."""
    name = read_name(stem(file))
    rest = name.rest
    for part in sorted(_chain(file.relative_to(top)), key=len, reverse=True):
        rest = re.sub(re.escape(part), "", rest, flags=re.IGNORECASE)
    extra = "" if is_numbered([rest]) else "-".join(words(rest))
    role = name.role or role_of_folder(file.relative_to(top))
    return "_".join(part for part in (role, extra) if part and part != "image") or "image"


def _owners(chains: set[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, str]]:
    """Subject and session of each chain of folders."""
    owners = {}
    patients = {chain: patient_part("/".join(chain)) for chain in chains}
    without = {chain: tuple(part for part in chain if not SESSION.fullmatch(part)) or chain for chain in chains}
    others = {without[chain] for chain in chains if not patients[chain]}
    depth = _depth_of_subjects(others) if others else 0
    for chain in chains:
        subject = patients[chain].split("/") if patients[chain] else list(without[chain][: depth + 1])
        rest = list(chain)
        for part in subject:
            rest.remove(part)
        named = [part for part in subject if not SESSION.fullmatch(part)] or subject
        above = [part for part in subject if part not in named]
        owners[chain] = ("/".join(named), "/".join([*above, *rest]))
    return owners


def _depth_of_subjects(chains: set[tuple[str, ...]]) -> int:
    """The place of the subject's folder in the chains."""
    depth = 0
    while len({chain[: depth + 1] for chain in chains}) == 1 and all(len(chain) > depth + 1 for chain in chains):
        depth += 1
    below: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for chain in chains:
        if len(chain) > depth + 1:
            below[chain[depth + 1]].add(chain[: depth + 1])
    if not below:
        return depth
    recurring = sum(len(parents) > 1 for parents in below.values()) >= len(below) / 2
    sessions = recurring or is_numbered({chain[depth] for chain in chains if len(chain) > depth})
    return depth if sessions else depth + 1
