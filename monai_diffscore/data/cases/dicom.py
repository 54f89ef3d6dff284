"""DICOM studies: the subject is the PatientID, a study is a session, a series is an image.

The role of an MR series is the contrast in its SeriesDescription; the role of another series is its modality if the
folder has several modalities, else ``image``. Where series of one study have one role and different descriptions, the
description extends the role. Scouts, documents and derived series are left out, with their reasons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import read_name, role_of, subject_of, variant_of
from monai_diffscore.data.cases.subjects import refuse_placeholders
from monai_diffscore.data.dicom import Series, find_series, volume_series
from monai_diffscore.data.tree import Tree


def read_dicom(tree: Tree, subject: str = "") -> Cases:
    """The cases of all series below a folder; the path of a series is its folder, if that has no other series.

    Args:
        tree: the files; those of other formats are ignored.
        subject: identifier of a subject in place of PatientID: "folder" or "study".
    Raises:
        DataError: for several studies with the same placeholder as PatientID, without ``subject``.
    """
    book = Casebook()
    series_of_tree = find_series(tree.files)
    volumes, others = volume_series(series_of_tree)
    scouts = [series for series in volumes if read_name(series.planes[0].description).is_scout]
    if len(scouts) < len(volumes):
        volumes = [series for series in volumes if series not in scouts]
        for series in scouts:
            book.leave_out(f"{series.folder}/series:{series.uid}", "scout by its description")
    for series in others:
        scout = all(plane.is_localizer for plane in series.planes)
        derived = series.is_volume
        kind = f"{series.planes[0].modality} series" if not derived else "series derived from others of its study"
        book.leave_out(f"{series.folder}/series:{series.uid}", "scout (DICOM)" if scout else kind)
    if not subject:
        heads = [(series.planes[0], series.folder) for series in volumes]
        refuse_placeholders(tree.root, ((first.patient, first.study_uid, folder) for first, folder in heads))
    ids = {series.planes[0].patient for series in volumes}
    studies = {series.planes[0].study_uid for series in volumes}
    if len(ids) == 1 and len(studies) > 1 and ids != {""} and not subject:
        book.note(f"all {len(studies)} studies have one PatientID: one subject (--subject folder separates them)")
    roles = _roles(volumes)
    numbers: dict[str, list[str]] = defaultdict(list)
    for series in volumes:
        first = series.planes[0]
        inside = series.folder.relative_to(tree.top)
        name = {"folder": str(inside), "study": first.study_uid}.get(subject) or first.patient or subject_of(inside)
        if first.study_uid not in numbers[name]:
            numbers[name].append(first.study_uid)
        session = str(numbers[name].index(first.study_uid) + 1) if len(studies) > len(ids) else ""
        book.add_image(
            name, session, roles[series.uid], path_of(series, series_of_tree), variant=variant_of(first.description)
        )
    return book.close(tree.root, "dicom")


def path_of(series: Series, candidates: Sequence[Series]) -> str:
    """The folder of a series, or its only file, with ``/series:UID`` if the folder or file has another series too."""
    files = {Path(plane.file) for plane in series.planes}
    place = files.pop() if len(files) == 1 else series.folder
    shared = any(Path(p.file).is_relative_to(place) for s in candidates if s is not series for p in s.planes)
    return f"{place}/series:{series.uid}" if shared else str(place)


def _roles(volumes: Sequence[Series]) -> dict[str, str]:
    modalities = {series.planes[0].modality for series in volumes}
    roles = {}
    for series in volumes:
        first = series.planes[0]
        contrast = role_of(first.description) if first.modality == "MR" else ""
        roles[series.uid] = contrast or (first.modality.lower() if len(modalities) > 1 else "image")
    return roles
