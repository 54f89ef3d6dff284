"""Lists pictures, slides and arrays as cases: a file is a case, with its subject.

It leaves out, in this order: masks by their name, projections of DICOM that are no single picture, pictures beside
slides, copies of another file, and label maps by their values. A folder of pictures is a class if its name is no word
for pictures in general, and no name of a patient.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_diffscore.data.cases.case import Case, Cases, counts_text
from monai_diffscore.data.cases.content import equal_files, holds_label_map
from monai_diffscore.data.cases.names import PLAIN_FOLDERS, bids_label, paired_masks
from monai_diffscore.data.cases.subjects import named_patient, patient_folder, refuse_placeholders, with_subjects
from monai_diffscore.data.cases.table import read_table_of_cases
from monai_diffscore.data.dicom.planes import Plane, is_dicom, read_planes
from monai_diffscore.data.files import kinds_in_words
from monai_diffscore.data.paths import locate
from monai_diffscore.data.tree import LeftOut, Tree, walk_without
from monai_diffscore.errors import DataError

#: modalities of X-ray projections, and of photographs in DICOM: a file is a picture
PROJECTIONS = {"CR", "DX", "MG", "IO", "PX", "RG", "XC", "ES", "OP", "DM"}
ROLE = "image"
PICTURES, SLIDES, SEQUENCES = "pictures", "slides", "sequences"
_DICOM = (".dcm", ".ima", ".dicom", "")
#: files beside images that are read for their labels and facts
_BESIDE = ("labels.npy", "participants.tsv")


def list_pictures(
    path: str | Path,
    endings: Sequence[str],
    left_out: Sequence[str] = (),
    subject: str = "",
    is_slide: Callable[[Path], bool] | None = None,
    projections: bool = False,
    key: str = "image",
    layout: str = "auto",
    image: str = "",
    noun: str = PICTURES,
) -> Cases:
    """The cases of the pictures below a folder, or of the one file ``path``, and the files that are left out.

    The subject is that of ``subject``, else the PatientID of DICOM, else a patient that the path names
    (:func:`~monai_diffscore.data.cases.subjects.named_patient`), else the file.

    Args:
        path: folder; file; table of cases (.csv, .tsv), whose column ``label`` has the classes.
        endings: of the pictures, in lower case.
        left_out: files and folders below ``path`` that are not read.
        subject: "folder", "study" (DICOM), or a regular expression of the path.
        is_slide: beside files for which it is true, the others are left out.
        projections: files of DICOM with one projection are pictures, too.
        key: for messages.
        layout: "auto"; or "table", "pictures", "slides" or "sequences", which the path must be.
        image: role, a column of paths in a table of cases; files of a folder have the role "image".
        noun: the layout of files without slides: "pictures" or "sequences".
    Raises:
        DataError: for an unknown name in ``left_out``; for a placeholder as the PatientID of several studies; for a
            path that the expression does not match; for another layout, or a role without a case.
    """
    root = locate(path)
    if root.suffix.lower() in (".csv", ".tsv") and root.is_file():
        _check_layout(root, "table", layout)
        return _of_table(root, left_out, image, key)
    tree = walk_without(root, left_out, key)
    files = _Sorting(tree)
    files.read_names(endings, projections)
    if is_slide is not None and (slides := set(filter(is_slide, files.kept))) and len(slides) < len(files.kept):
        files.leave_out([file for file in files.kept if file not in slides], "picture beside slides")
    noun = SLIDES if is_slide is not None and any(map(is_slide, files.kept)) else noun
    _check_layout(root, noun, layout)
    _check_role(root, noun, image)
    for reason, gone in _no_images(files.kept).items():
        files.leave_out(gone, reason)
    if not subject:
        refuse_placeholders(
            tree.root, ((plane.patient, plane.study_uid, file.parent) for file, plane in files.planes.items())
        )
    cases = [_case(file, tree, files.planes.get(file), subject) for file in files.kept]
    left = (*tree.left_out, *files.left_out)
    listing = Cases(str(tree.root), noun, tuple(cases), left, tuple(_notes(cases, subject)))
    return with_subjects(listing, tree.top, subject)


def _check_layout(root: Path, own: str, layout: str) -> None:
    if layout not in ("auto", own):
        raise DataError(
            root, key="layout", expected=f"auto or {own}", got=repr(layout),
            remedy="Leave --layout out: layouts of volumes do not apply to pictures, slides and sequences. --subject "
            "says whose they are, and a table of cases (.csv) says everything.",
        )  # fmt: skip


def _check_role(root: Path, noun: str, image: str) -> None:
    if image not in ("", ROLE):
        raise DataError(
            root, key="image", expected=f"the one role of {noun} in a folder, {ROLE!r}", got=repr(image),
            remedy="Leave --image out, or give a table of cases (.csv) with a column for each role in place of the "
            "folder.",
        )  # fmt: skip


def _of_table(table: Path, left_out: Sequence[str], image: str, key: str) -> Cases:
    """The pictures of one column of paths of a table; its column "class" or "label" names their classes."""
    listing = read_table_of_cases(table)
    role = image or next(iter(listing.roles), "")
    if role not in listing.roles or (not image and len(listing.roles) > 1):
        raise DataError(
            table, key=key, expected="one role of a picture: a column of paths" + (f" {image!r}" if image else ""),
            got=f"the roles {counts_text(listing.roles)}", remedy="Choose one with --image ROLE.",
        )  # fmt: skip
    rows = {Path(case.images[role]): case for case in listing if role in case.images}
    kept = _without(table, list(rows), left_out, key)
    reasons = _no_images(kept)
    gone = {file for files in reasons.values() for file in files}
    cases = [
        Case(
            rows[file].subject,
            rows[file].session,
            {role: str(file)},
            facts=_class(rows[file].facts.get("class", rows[file].facts.get("label", ""))),
        )
        for file in kept
        if file not in gone
    ]
    named = [LeftOut(str(file), reason) for reason, files in reasons.items() for file in files]
    return Cases(str(table), "table", tuple(cases), (*listing.left_out, *named))


def _without(table: Path, files: Sequence[Path], left_out: Sequence[str], key: str) -> list[Path]:
    """The files of a table without those of ``left_out``; an absolute path outside of its folder is of other data."""
    top = table.absolute().parent
    gone = {Path(os.path.normpath(top / name)) for name in left_out}
    missing = [str(file) for file in gone.difference(files) if file.is_relative_to(top)]
    if missing:
        raise DataError(
            table, key=key, expected="the files that left_out names", got=f"no {', '.join(sorted(missing)[:4])}",
            remedy="Take them out of --left_out (`plan` calls it --exclude).",
        )  # fmt: skip
    return [file for file in files if file not in gone]


def _no_images(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files that are no images of their own by their content, by reason."""
    copies = [file for group in equal_files(_pictures(files)) for file in group[1:]]
    maps = [file for file in files if file not in copies and holds_label_map(file)]
    return {"same content as another file": copies, "label map by its values": maps}


def _class(name: str) -> dict[str, str]:
    return {"class": name} if name else {}


@dataclass
class _Sorting:
    """The files of a tree: those to keep, and those that are left out."""

    tree: Tree
    kept: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    planes: dict[Path, Plane] = field(default_factory=dict)

    def leave_out(self, files: Sequence[Path], reason: str) -> None:
        gone = set(files)
        self.left_out += [LeftOut(str(file), reason) for file in files]
        self.kept = [file for file in self.kept if file not in gone]

    def read_names(self, endings: Sequence[str], projections: bool) -> None:
        """Keeps the pictures by their ending, and the projections by their header; leaves out masks by name."""
        for file in self.tree.files:
            suffix = file.suffix.lower()
            if suffix in endings and file.name not in _BESIDE:
                self.kept.append(file)
            elif projections and suffix in _DICOM and is_dicom(file):
                self._read_header(file)
            elif file.name not in _BESIDE:
                self.left_out.append(LeftOut(str(file), "no image by its ending"))
        self.leave_out(paired_masks(self.kept, self.tree.top), "mask of another file")

    def _read_header(self, file: Path) -> None:
        planes = read_planes(file)
        if _of_projections(planes) and planes[0].frames == 1:
            self.planes[file] = planes[0]
            self.kept.append(file)
        elif planes:
            self.left_out.append(LeftOut(str(file), f"DICOM of {planes[0].modality}, no single picture"))


def is_projection(file: Path) -> bool:
    """Whether a file is DICOM of projections or photographs."""
    return file.suffix.lower() in _DICOM and file.is_file() and is_dicom(file) and _of_projections(read_planes(file))


def _of_projections(planes: Sequence[Plane]) -> bool:
    return bool(planes) and planes[0].modality in PROJECTIONS


def _pictures(files: Sequence[Path]) -> list[Path]:
    """The files without arrays, whose rows are the cases."""
    return [file for file in files if file.suffix != ".npy"]


def _case(file: Path, tree: Tree, plane: Plane | None, subject: str) -> Case:
    inside = file.relative_to(tree.top)
    name = named_patient(inside)
    if plane is not None:
        name = plane.study_uid if subject == "study" else plane.patient or name
    folder = class_folder(inside)
    return Case(name, images={ROLE: str(file)}, facts=_class(folder))


def class_folder(inside: Path) -> str:
    """The folder of a relative path that names a class, the innermost; "" without one."""
    folders = [
        part for part in inside.parts[:-1]
        if not bids_label(part) and part != patient_folder(inside) and part.lower() not in PLAIN_FOLDERS
    ]  # fmt: skip
    return folders[-1] if folders else ""


def _notes(cases: Sequence[Case], subject: str) -> list[str]:
    """What the listing assumes of folders, without a rule of the user for subjects."""
    classes = {case.facts["class"] for case in cases if "class" in case.facts}
    alone = len({case.subject for case in cases}) == len(cases)
    subjects = ["each file is a subject of its own (--subject folder, or a pattern, joins those of one patient)"]
    remedy = "" if subject else " (--subject folder makes them subjects)"
    folders = [f"{len(classes)} folder(s) are classes{remedy}"] if classes else []
    return (subjects if alone and len(cases) > 1 and not subject else []) + folders


def refuse_no_picture(listing: Cases, expected: str, key: str = "image") -> None:
    """Raises a DataError for a listing without cases, with what is there.

    Args:
        listing: the cases.
        expected: what the path should hold.
        key: for messages.
    """
    if listing.cases:
        return
    if not Path(listing.root).exists():
        raise DataError(
            listing.root, key=key, expected=expected, got="no such file or folder", remedy="Give an existing path."
        )
    maps = [one.path for one in listing.left_out if one.reason == "label map by its values"]
    if maps:
        raise DataError(
            listing.root, key=key, expected=expected, got=f"{len(maps)} label maps alone (first: {maps[0]})",
            remedy="Give the path of the images; label maps in .npy arrays are read as they are.",
        )  # fmt: skip
    files = [Path(one.path) for one in listing.left_out]
    reasons = f" ({listing.reasons_to_tell})" if listing.reasons_to_tell else ""
    raise DataError(
        listing.root,
        key=key,
        expected=expected,
        got=f"{kinds_in_words(files)}{reasons}",
        remedy="Fetch the files that the links name (datalad get, git annex get, git lfs pull)."
        if "not fetched" in reasons
        else "Give the path of such files.",
    )
