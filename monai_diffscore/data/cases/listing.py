"""Lists the cases of a path: reads them by its layout, then removes images by their content.

It removes, in this order: images of one slice beside volumes, copies of another image, label maps, and DICOM series
beside their converted NIfTI files.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from monai_diffscore.data.cases.case import Case, Cases, add_class_names
from monai_diffscore.data.cases.content import equal_files, holds_label_map, shape_of
from monai_diffscore.data.cases.conversions import converted_series
from monai_diffscore.data.cases.datalist import read_datalist
from monai_diffscore.data.cases.detection import LAYOUTS, find_parts
from monai_diffscore.data.cases.dicom import read_dicom
from monai_diffscore.data.cases.names import ending, is_volume
from monai_diffscore.data.cases.subjects import with_subjects
from monai_diffscore.data.cases.table import read_table_of_cases
from monai_diffscore.data.paths import locate, names_series, split_channel, split_series
from monai_diffscore.data.tree import LeftOut, Tree, walk, walk_without
from monai_diffscore.errors import DataError

TABLES = (".csv", ".tsv")


def list_cases(
    path: str | Path, layout: str = "auto", subject: str = "", left_out: Sequence[str] = (), cases: str | Path = ""
) -> Cases:
    r"""Lists the cases of a folder, a file, a table or a datalist, and the files that are left out.

    Args:
        path: folder; image; table (.csv, .tsv); datalist (.json).
        layout: "auto", or one of :data:`~monai_diffscore.data.cases.LAYOUTS`.
        subject: rule that replaces the layout's rule for subjects: "folder" (the folder of the file or series), "study"
            (DICOM), or a regular expression of the path below ``path``, whose first group, or whole match, is the
            subject.
        left_out: files and folders below ``path`` (also ``FOLDER/series:UID``) that are not read.
        cases: a table to read in place of the layout.
    Raises:
        DataError: for a missing path, a path without images, or an unknown layout; as the layouts.
    """
    if cases:
        return _of_table(locate(cases), left_out)
    root, uid = split_series(locate(path))
    if not root.exists():
        raise DataError(root, expected=_EXPECTED, got="no such file or folder", remedy="Give a path that exists.")
    if root.suffix.lower() in TABLES and root.is_file():
        return _of_table(root, left_out)
    if root.suffix.lower() == ".json" and root.is_file():
        listing = _without_images(read_datalist(walk(root)), root.parent, left_out)
        return _guarded(with_subjects(listing, walk(root).top, subject))
    tree = _without_halves(walk_without(root, left_out))
    listing = _detect(tree, subject) if layout == "auto" else _read(tree, layout, subject)
    listing = replace(listing, root=str(root), left_out=(*tree.left_out, *listing.left_out))
    listing = _without_images(listing, root, [name for name in left_out if names_series(name)])
    return _guarded(with_subjects(_of_series(listing, uid), tree.top, subject))


def _of_table(path: Path, left_out: Sequence[str]) -> Cases:
    """The cases of a table, which may name a DICOM series in the folder of NIfTI files."""
    return _guarded(_without_images(read_table_of_cases(path), path.parent, left_out), named=True)


_PAIR = (".hdr", ".img")
_EXPECTED = "NIfTI files or other volumes, or DICOM series"


def _without_halves(tree: Tree) -> Tree:
    """The tree with only the header of each pair .hdr/.img; leaves out a file without its partner."""
    halves: dict[Path, list[Path]] = defaultdict(list)
    for file in tree.files:
        if ending(file) in _PAIR and not tree.root.is_file():
            halves[file.with_suffix("")].append(file)
    gone = [file for pair in halves.values() for file in pair if len(pair) == 1 or ending(file) == ".img"]
    alone = tuple(LeftOut(str(pair[0]), "half of a pair .hdr/.img") for pair in halves.values() if len(pair) == 1)
    remaining = tree.without(gone) if gone else tree
    return replace(remaining, left_out=(*remaining.left_out, *alone))


def _read(tree: Tree, layout: str, subject: str) -> Cases:
    if layout not in LAYOUTS:
        raise DataError(
            tree.root, key="layout", expected=f"one of auto, {', '.join(LAYOUTS)}", got=repr(layout),
            remedy="Choose one of these with --layout.",
        )  # fmt: skip
    return read_dicom(tree, subject) if layout == "dicom" else LAYOUTS[layout](tree)


def _detect(tree: Tree, subject: str) -> Cases:
    parts, left_out = find_parts(tree)
    if len(parts) == 1:
        ((layout, part),) = parts
        listing = _read(part, layout, subject)
        return replace(listing, left_out=(*listing.left_out, *left_out))
    cases: list[Case] = []
    notes: list[str] = []
    class_names: dict[str, dict[int, list[str]]] = {}
    places = Counter(part.root for _, part in parts)
    for layout, part in parts:
        listing = _read(part, layout, subject)
        inside = part.root.relative_to(tree.root)
        name = str(inside) if places[part.root] == 1 else f"{inside}: {layout}"
        own = layout not in ("bids", "dicom") and part.root != tree.root
        cases += [
            replace(
                case, subject=f"{inside}/{case.subject}" if own else case.subject, facts={"dataset": name, **case.facts}
            )
            for case in listing
        ]
        left_out += listing.left_out
        add_class_names(class_names, listing.class_names)
        notes += [f"{inside or '.'}: layout {layout}, {len(listing)} cases", *listing.notes]
    layouts = "+".join(sorted({layout for layout, _ in parts})) or "flat"
    cases.sort(key=lambda case: min(case.images.values()))
    return Cases(str(tree.root), layouts, tuple(cases), tuple(left_out), tuple(notes), class_names=class_names)


def _without_images(listing: Cases, top: Path, left_out: Sequence[str]) -> Cases:
    """The cases without the files and series of ``left_out``; a file stands for all of its channels."""
    gone = {os.path.normpath(top.absolute() / name) for name in left_out}
    paths = {path: {os.path.normpath(os.path.abspath(place)) for place in (path, split_channel(path)[0])}
             for case in listing for path in case.images.values()}  # fmt: skip
    missing = {name for name in gone.difference(*paths.values()) if Path(name).is_relative_to(top.absolute())}
    if missing:
        raise DataError(
            listing.root, expected="the files and series that left_out names",
            got=f"no {', '.join(sorted(missing)[:4])}",
            remedy="`python -m monai_diffscore cases FOLDER` prints the names. Take the others out of "
            "--left_out (`plan` calls it --exclude).",
        )  # fmt: skip
    return _with_images(listing, lambda path: not gone & paths[path])


def _of_series(listing: Cases, uid: str | None) -> Cases:
    """The cases with only the series ``uid``; with all images for None."""
    return _with_images(listing, lambda path: uid is None or split_series(path)[1] in (uid, None))


def _with_images(listing: Cases, is_read: Callable[[str], bool]) -> Cases:
    """The cases with only the images whose path is read; without cases that have no image."""
    cases = [replace(c, images={role: path for role, path in c.images.items() if is_read(path)}) for c in listing]
    return replace(listing, cases=tuple(case for case in cases if case.images))


# ---- guards ----


def _guarded(listing: Cases, named: bool = False) -> Cases:
    """The cases without images of one slice, copies, label maps, and converted series that no table ``named``."""
    paths = [path for case in listing for path in case.images.values()]
    gone: dict[str, str] = {}
    files = [path for path in paths if is_volume(split_channel(path)[0])]
    shapes = {path: shape_of(path) for path in files}
    flat = [path for path, shape in shapes.items() if shape is not None and min(shape[:3], default=0) == 1]
    if len(flat) < len(paths):
        gone |= dict.fromkeys(flat, "one slice beside volumes")
    gone |= _twins([path for path in files if path not in gone])
    gone |= {
        path: "label map by its values, with the name of an image"
        for path in files
        if path not in gone and holds_label_map(path)
    }
    if not named:
        gone |= converted_series([path for path in paths if path not in gone])
    if not gone:
        return listing
    left_out = [LeftOut(path, reason) for path, reason in gone.items()]
    remaining = _with_images(listing, lambda path: path not in gone)
    return replace(remaining, left_out=(*listing.left_out, *left_out))


def _twins(paths: Sequence[str]) -> dict[str, str]:
    """The images with the same content as an earlier image."""
    files = {split_channel(path)[0] for path in paths}
    later = {str(file) for group in equal_files(files) for file in group[1:]}
    return {path: "same content as another file" for path in paths if str(split_channel(path)[0]) in later}
