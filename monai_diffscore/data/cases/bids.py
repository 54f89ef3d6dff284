"""BIDS: ``sub-<label>/ses-<label>/anat/sub-<label>_ses-<label>[_<key>-<value>]_<suffix>.nii.gz``.

The role is the suffix (``T1w`` is ``t1``). Other entities than subject, session and run that differ between files of
one suffix extend the role (``t1_acq-highres``). Each run is a case. ``derivatives/``, ``sourcedata/`` and ``code/`` are
read only as the root. ``participants.tsv`` and ``sessions.tsv`` give the facts. ``dseg.tsv`` (columns ``index`` and
``name``) names the classes of the label maps below its folder that have its entities.
Source: K. Gorgolewski et al., The brain imaging data structure, Scientific Data 3 (2016); its specification 1.8.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import bids_label, is_mask_word, is_volume, read_name, role_or_word, stem
from monai_diffscore.data.tree import Tree

_APART = {"derivatives", "sourcedata", "code", "stimuli"}
_SERIES = {"func", "dwi", "perf", "fmap", "meg", "eeg", "ieeg", "beh"}
_OF_CASE = {"sub", "ses", "run"}
_OF_MASK = {"label", "seg"}
_NAMES = "dseg.tsv"


@dataclass(frozen=True)
class _File:
    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def case(self) -> tuple[str, str, str]:
        return f"sub-{self.entities['sub']}", self.entities.get("ses", ""), self.entities.get("run", "")

    @property
    def variant(self) -> str:
        apart = _OF_CASE | (_OF_MASK if self.is_mask else set())
        return "_".join(f"{key}-{value}" for key, value in self.entities.items() if key not in apart)

    @property
    def mask(self) -> str:
        """The name of the mask."""
        parts = [value for key, value in self.entities.items() if key in {*_OF_MASK, "desc"}]
        return "-".join([*parts, self.suffix])

    @property
    def is_mask(self) -> bool:
        return is_mask_word(self.suffix.lower())


def is_bids(folder: Path, files: set[Path]) -> bool:
    """Whether files ``sub-<label>_..._<suffix>`` lie in the folders of their subjects."""
    return any(
        _parse(file) is not None and file.relative_to(folder).parts[0] == f"sub-{_entities(file)['sub']}"
        for file in files
        if folder in file.parents and is_volume(file)
    )


def read_bids(tree: Tree) -> Cases:
    """The cases of a data set; leaves out the files of ``func``, ``dwi``, ``fmap`` and the like."""
    book, images = Casebook(), list[_File]()
    for path in tree.files:
        inside = path.relative_to(tree.top)
        if not is_volume(path):
            if path.suffix.lower() not in (".json", ".tsv", ".txt", ".md", "") and path.name != "README":
                book.leave_out(path, "no image by its ending")
        elif apart := _APART & set(inside.parts[:-1]):
            book.leave_out(path, f"{apart.pop()} (name that folder itself to read it)")
        elif series := _SERIES & set(inside.parts[:-1]):
            book.leave_out(path, f"{series.pop()}: time series, directions or field maps (a table takes them)")
        elif read_name(stem(path)).is_scout:
            book.leave_out(path, "scout by its name")
        else:
            images.append(_parse(path) or _File(path, {"sub": _label(inside)}, role_or_word(_rest(path))))
    _add(book, images)
    _name_classes(book, images, [path for path in tree.files if path.name.endswith(_NAMES)])
    return _with_facts(tree, book.close(tree.root, "bids"))


def _add(book: Casebook, images: list[_File]) -> None:
    variants: dict[str, set[str]] = {}
    for file in images:
        if not file.is_mask:
            variants.setdefault(file.suffix, set()).add(file.variant)
    for file in images:
        subject, session, run = file.case
        if file.is_mask:
            book.add_mask(subject, session, file.mask, str(file.path), run)
            continue
        role = role_or_word(file.suffix)
        if len(variants[file.suffix]) > 1 and file.variant:
            role += f"_{file.variant}"
        book.add_image(subject, session, role, str(file.path), {"run": run} if run else {})


def _name_classes(book: Casebook, images: list[_File], tables: list[Path]) -> None:
    """Names the classes by the tables, each of which is for the masks of its entities below its folder."""
    for table in tables:
        names = {int(index): row["name"] for index, row in _rows(table, "index").items() if "name" in row}
        entities = _entities(table).items()
        masks = {
            file.mask
            for file in images
            if file.suffix == "dseg" and table.parent in file.path.parents and entities <= file.entities.items()
        }
        for mask in masks:
            book.name_classes(mask, names)


def _entities(path: Path) -> dict[str, str]:
    return dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9+]+)", stem(path)))


def _parse(path: Path) -> _File | None:
    entities, suffix = _entities(path), stem(path).rpartition("_")[2]
    return _File(path, entities, suffix) if "sub" in entities and re.fullmatch(r"[A-Za-z0-9]+", suffix) else None


def _label(inside: Path) -> str:
    label = bids_label(inside).removeprefix("sub-")
    return label or re.sub(r"[^A-Za-z0-9]", "", inside.parts[0] if len(inside.parts) > 1 else stem(inside))


def _rest(path: Path) -> str:
    return re.sub(r"(sub|ses)-[A-Za-z0-9]+_?", "", stem(path)) or "image"


def _with_facts(tree: Tree, cases: Cases) -> Cases:
    people = _rows(tree.top / "participants.tsv", "participant_id")
    visits = {
        folder.name: _rows(file, "session_id")
        for file in tree.files
        if file.name.endswith("_sessions.tsv") and (folder := file.parent).name.startswith("sub-")
    }
    return replace(
        cases,
        cases=tuple(
            replace(
                case,
                facts={
                    **people.get(case.subject, {}),
                    **visits.get(case.subject, {}).get(f"ses-{case.session}", {}),
                    **case.facts,
                },
            )
            for case in cases
        ),
    )


def _rows(path: Path, key: str) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {
        str(row[key]): {str(name): str(cell) for name, cell in row.items() if name != key and cell not in (None, "n/a")}
        for row in rows
        if row.get(key)
    }
