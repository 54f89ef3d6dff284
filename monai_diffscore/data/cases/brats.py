"""BraTS and its relatives: ``PATIENT/PATIENT_t1ce.nii`` (2012 to 2021) or ``PATIENT/PATIENT-t1c.nii.gz`` (since 2023).

In ``BraTS-GLI-00001-000`` the last number is the time point: a session of the patient ``BraTS-GLI-00001``.
Source: B. Menze et al., The multimodal brain tumor image segmentation benchmark, IEEE TMI 34 (2015).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import MASK_WORDS, is_volume, role_of, stem
from monai_diffscore.data.tree import Tree

_SUFFIXES = {"t1", "t1ce", "t1c", "t1n", "t1gd", "t2", "t2w", "t2f", "flair"}
_SESSION = re.compile(r"(BraTS-[A-Za-z]+-\d+)-(\d{3})", re.IGNORECASE)


def is_brats(files: Iterable[Path]) -> bool:
    """Whether all names end in suffixes of BraTS, with at least two contrasts of one patient."""
    names = [_parts(stem(file)) for file in files if is_volume(file)]
    suffixes = [suffix for _, suffix in names if suffix not in MASK_WORDS]
    contrasts: dict[str, set[str]] = {}
    for patient, suffix in names:
        contrasts.setdefault(patient, set()).add(suffix)
    return (
        bool(suffixes)
        and set(suffixes) <= _SUFFIXES
        and any(len(suffixes_of_one & _SUFFIXES) > 1 for suffixes_of_one in contrasts.values())
    )


def read_brats(tree: Tree) -> Cases:
    """The cases of a folder of patients' folders, or of files."""
    book = Casebook()
    for file in tree.files:
        patient, suffix = _parts(stem(file))
        if not is_volume(file):
            book.leave_out(file, "no image by its ending")
            continue
        match = _SESSION.fullmatch(patient)
        subject, session = match.groups() if match else (patient, "")
        if suffix in MASK_WORDS:
            book.add_mask(subject, session, suffix, str(file))
        elif suffix in _SUFFIXES:
            book.add_image(subject, session, role_of(suffix), str(file), variant=suffix)
        else:
            book.leave_out(file, "no suffix of BraTS")
    return book.close(tree.root, "brats")


def _parts(name: str) -> tuple[str, str]:
    match = re.fullmatch(r"(.+)[-_]([A-Za-z0-9]+)", name)
    return (match[1], match[2].lower()) if match else (name, "")
