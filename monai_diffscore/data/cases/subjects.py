"""The subject of a file: by a rule of the user for paths, by names of patients in a path, or by PatientID."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.cases.names import bids_label, is_volume, stem
from monai_diffscore.data.paths import split_series
from monai_diffscore.errors import DataError

#: texts that de-identification writes in place of a PatientID
_PLACEHOLDER = re.compile(
    r"anon\w*|none|unknown|patient|subject|test|phantom|de-?id\w*|removed|redacted|x+|0+|\W*", re.IGNORECASE
)
#: a name of a patient: a word for patients, or its letter, and a number
_PATIENT = re.compile(r"(patient|pat|subject|subj|case|slide|p|s|id)[-_ ]?\d+", re.IGNORECASE)
#: a name of a visit of a subject, or its date
SESSION = re.compile(
    r"(ses|session|visit|v|tp|timepoint|time|month|m|year|y|week|w|day|scan|baseline|bl|followup|fu)[-_ ]?\d*|\d{8}"
    r"|\d{4}-\d{2}-\d{2}", re.IGNORECASE
)  # fmt: skip
_BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")


def with_subjects(listing: Cases, top: Path, rule: str) -> Cases:
    """The cases with the subjects of a rule.

    Args:
        listing: the cases with the subjects of their layout.
        top: folder of relative paths.
        rule: "folder" (the folder of the file or series), or a regular expression of the path below ``top``, whose
            first group, or whole match, is the subject. "" and "study" keep the subjects.
    Raises:
        DataError: for a path that the expression does not match.
    """
    if not rule or rule == "study":
        return listing
    cases = []
    for case in listing:
        inside = Path(next(iter(case.images.values()))).relative_to(top)
        name = str(inside.parent)
        if rule != "folder":
            match = re.search(rule, str(inside))
            if match is None:
                raise DataError(
                    listing.root, key="subject", expected=f"paths that match {rule!r}", got=str(inside),
                    remedy="Give another --subject; its first group, or the whole match, names the subject.",
                )  # fmt: skip
            name = match[1] if match.groups() else match[0]
        elif split_series(inside)[1] is None and not is_volume(inside) and (top / inside).is_dir():
            name = str(inside)  # the path is the folder of a series
        cases.append(replace(case, subject=name))
    return replace(listing, cases=tuple(cases))


def named_patient(inside: Path) -> str:
    """The patient that a relative path names, else the whole path.

    In this order: the last ``sub-<label>`` (BIDS); a TCGA barcode of a patient; a folder called ``P001``, ``patient 7``
    or ``case_3``; the same at the beginning of a longer name (``p1_left.png``).
    """
    if label := bids_label(inside):
        return label
    if barcodes := _BARCODE.findall(str(inside)):
        return str(barcodes[-1])
    if folder := patient_folder(inside):
        return folder
    match = _PATIENT.match(stem(inside))
    return match[0] if match and re.match(r"[-_. ]", stem(inside)[match.end() :]) else str(inside)


def patient_part(whole: str) -> str:
    """The part of a path, without its ending, up to the patient: ``a/P1`` of ``a/P1/scan``, ``P1`` of ``P1_left``.

    The outermost folder counts. A number behind the patient's (``case_08_00``) is a part of it. "" without a patient.
    """
    parts = whole.split("/")
    for number, part in enumerate(parts):
        if _PATIENT.fullmatch(part):
            return "/".join(parts[: number + 1])
    match = re.match(rf"({_PATIENT.pattern})[-_. ]+([A-Za-z]|\d{{4}}-\d{{2}}-\d{{2}}$)", parts[-1], re.IGNORECASE)
    return "/".join([*parts[:-1], match[1]]) if match else ""


def patient_folder(inside: Path) -> str:
    """The innermost folder of a relative path that is called like a patient; "" without one."""
    return next((part for part in reversed(inside.parts[:-1]) if _PATIENT.fullmatch(part)), "")


def refuse_placeholders(root: Path, studies: Iterable[tuple[str, str, Path]]) -> None:
    """Refuses a placeholder as the PatientID of several studies.

    Args:
        root: of the data, for messages.
        studies: PatientID, StudyInstanceUID and folder of each series.
    Raises:
        DataError: for several studies with the same placeholder.
    """
    uids: dict[str, set[str]] = defaultdict(set)
    folders: dict[str, set[Path]] = defaultdict(set)
    for patient, study, folder in studies:
        if patient and _PLACEHOLDER.fullmatch(patient):
            uids[patient].add(study)
            folders[patient].add(folder)
    for patient, own in uids.items():
        if len(own) > 1:
            raise DataError(
                root,
                expected="a PatientID for each patient",
                got=f"{patient!r} in {len(own)} studies, in {len(folders[patient])} folders",
                remedy="State what identifies a patient: --subject folder, --subject study, or a regular expression of "
                "the path such as --subject 'case\\d+'.",
            )
