"""Lists pictures, slides and arrays as cases: a file is a case, with its subject.

It leaves out, in this order: masks by their name, projections of DICOM that are no single picture, pictures beside
slides, copies of another file, and label maps by their values. A folder of pictures is a class if its name is no word
for pictures in general, and no name of a patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_diffscore.data.cases.case import Case, Cases
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
    Raises:
        DataError: for an unknown name in ``left_out``; for a placeholder as the PatientID of several studies; for a
            path that the expression does not match.
    """
    root = locate(path)
    if root.suffix.lower() in (".csv", ".tsv") and root.is_file():
        return _of_table(root, left_out, key)
    tree = walk_without(root, left_out, key)
    files = _Sorting(tree)
    files.read_names(endings, projections)
    if is_slide is not None and (slides := set(filter(is_slide, files.kept))) and len(slides) < len(files.kept):
        files.leave_out([file for file in files.kept if file not in slides], "picture beside slides")
    copies = [file for group in equal_files(_pictures(files.kept)) for file in group[1:]]
    files.leave_out(copies, "same content as another file")
    files.leave_out([file for file in files.kept if holds_label_map(file)], "label map by its values")
    if not subject:
        refuse_placeholders(
            tree.root, ((plane.patient, plane.study_uid, file.parent) for file, plane in files.planes.items())
        )
    cases = [_case(file, tree, files.planes.get(file), subject) for file in files.kept]
    listing = Cases(str(tree.root), "pictures", tuple(cases), (*tree.left_out, *files.left_out), tuple(_notes(cases)))
    return with_subjects(listing, tree.top, subject)


def _of_table(table: Path, left_out: Sequence[str], key: str) -> Cases:
    """The pictures of the one column of paths of a table; its column "class" or "label" names their classes."""
    listing = read_table_of_cases(table)
    if len(listing.roles) > 1:
        raise DataError(
            table, key=key, expected="one column of paths", got=f"the columns {', '.join(listing.roles)}",
            remedy="Keep the column of the pictures to train on.",
        )  # fmt: skip
    gone = {str(table.absolute().parent / name) for name in left_out}
    cases = [
        Case(
            case.subject,
            case.session,
            {ROLE: path},
            facts=_class(case.facts.get("class", case.facts.get("label", ""))),
        )
        for case in listing
        for path in case.images.values()
        if path not in gone
    ]
    return Cases(str(table), "table", tuple(cases), listing.left_out)


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


def _notes(cases: Sequence[Case]) -> list[str]:
    """What the listing assumes of folders."""
    classes = {case.facts["class"] for case in cases if "class" in case.facts}
    alone = len({case.subject for case in cases}) == len(cases)
    subjects = ["each file is a subject of its own (--subject folder, or a pattern, joins those of one patient)"]
    folders = [f"{len(classes)} folder(s) are classes (--subject folder makes them subjects)"] if classes else []
    return (subjects if alone and len(cases) > 1 else []) + folders


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
