"""The fingerprint of any data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_diffscore.data.cases.case import CONTRAST
from monai_diffscore.data.expression_stores import only_matrix
from monai_diffscore.data.participants import declare_fields, find_participants, plain_name, read_participants
from monai_diffscore.data.paths import locate
from monai_diffscore.data.tables import only_table
from monai_diffscore.errors import DataError
from monai_diffscore.planning.arrays import fingerprint_pictures, fingerprint_sequences
from monai_diffscore.planning.fingerprint import KINDS, Fingerprint
from monai_diffscore.planning.gene_data import fingerprint_cells, fingerprint_expression, fingerprint_table
from monai_diffscore.planning.images import fingerprint_volumes
from monai_diffscore.planning.kinds import find_kind
from monai_diffscore.planning.slide_images import fingerprint_slides

#: columns of a table of subjects that a model of whole volumes takes as conditions
USUAL_CONDITIONS = ("age_years", "age", "sex", "spacing_mm")
_IMAGES = ("volumes", "pictures", "slides", "sequences")
#: the kinds of data that a flag is for; all other flags are for every kind
_KINDS_OF_FLAG = {
    "layout": _IMAGES,
    "image": _IMAGES,
    "given": ("volumes",),
    "graph": ("expression",),
    "exclude": ("table", *_IMAGES),
    "delimiter": ("table",),
    "missing": ("table",),
    "categorical": ("table",),
    "modality": ("volumes",),
    "assume_mpp_um": ("slides",),
    "participants": _IMAGES,
    "value_range": ("pictures", "slides"),
    "image_channels": ("pictures",),
    "assume_intercept": ("volumes",),
    "allow_no_air": ("volumes",),
    "dicom_options": ("volumes",),
}


def take_fingerprint(
    path: str | Path,
    kind: str | None = None,
    conditions: Sequence[str] = (),
    modality: str | None = None,
    participants: str | Path | None = None,
    assume_mpp_um: float | None = None,
    graph: str | Path | None = None,
    subject: str | None = None,
    exclude: Sequence[str] = (),
    delimiter: str | None = None,
    missing: Sequence[str] = (),
    layout: str = "auto",
    image: str = "",
    reading: Mapping[str, Any] | None = None,
    given: Sequence[str] = (),
    joint: bool = False,
    categorical: Sequence[str] = (),
    graph_options: Mapping[str, Any] | None = None,
) -> Fingerprint:
    """The fingerprint of a data set.

    Args:
        path: file or folder.
        kind: one of :data:`~monai_diffscore.planning.fingerprint.KINDS`; None detects it.
        conditions: columns of the table of participants, of ``obs``, or of the table itself; for volumes also
            "contrast", and the facts of the cases.
        modality: "CT", "MR" or "PT", for volumes whose files do not state it.
        participants: the table of subjects; None looks beside the data.
        assume_mpp_um: pixel size of slides that do not state it.
        graph: edges between genes. They make a table a matrix of expression.
        subject: for cells, tables and matrices of expression, the column whose equal values stay on one side of the
            split; for images "folder", "study" or a regular expression of the path.
        exclude: columns of a table, or files, folders and series of images, to leave out.
        delimiter, missing: as :func:`~monai_diffscore.data.tables.read_table` takes them.
        layout, image: of images, as :func:`~monai_diffscore.data.list_volumes` and ``listed_arrays`` take them.
        reading: what the files do not say: ``value_range`` of pictures and slides; ``image_channels`` of pictures;
            ``assume_intercept``, ``allow_no_air`` and ``dicom_options`` of volumes.
        given: roles and masks of volumes from which a model draws the image of ``image``.
        joint: the model draws image and mask together.
        categorical: columns of a table whose numbers are codes.
        graph_options: further arguments of :func:`~monai_diffscore.data.gene_graph.read_gene_graph`; None is left out.
    Raises:
        DataError: if the kind is unknown, or if no case is usable.
        ValueError: for an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}: leave it out to detect it.")
    root = locate(path).absolute()
    kind = kind or find_kind(root, graph)
    flags = {
        "subject": subject, "layout": layout, "image": image, "given": given, "graph": graph, "exclude": exclude,
        "delimiter": delimiter, "missing": missing, "categorical": categorical, "modality": modality,
        "assume_mpp_um": assume_mpp_um, "participants": participants,
    }  # fmt: skip
    graph_options = {name: value for name, value in (graph_options or {}).items() if value is not None}
    if graph_options and graph is None:
        raise DataError(
            root, key=f"graph_{next(iter(graph_options))}", expected="a graph of genes to read", got="none",
            remedy="Give its edges: --graph EDGES.",
        )  # fmt: skip
    _refuse_flags_of_other_kinds(root, kind, {**flags, **(reading or {})})
    listing: dict[str, Any] = {"layout": layout, "image": image, "subject": subject or ""}
    if kind == "cells":
        return fingerprint_cells(only_matrix(root), conditions, subject)
    if kind == "expression":
        return fingerprint_expression(only_matrix(root), conditions, subject, graph, graph_options)
    if kind == "table":
        return fingerprint_table(only_table(root), conditions, subject, exclude, delimiter, missing, categorical)
    if kind == "volumes":
        stated_by_cases = conditions if participants is None else [name for name in conditions if name == CONTRAST]
        fingerprint = fingerprint_volumes(
            root, modality, layout, image, subject or "", reading, stated_by_cases, exclude, given, joint
        )
    elif kind == "slides":
        fingerprint = fingerprint_slides(root, assume_mpp_um, exclude=exclude, **dict(reading or {}), **listing)
    elif kind == "pictures":
        fingerprint = fingerprint_pictures(root, exclude=exclude, **dict(reading or {}), **listing)
    else:
        fingerprint = fingerprint_sequences(root, exclude, **listing)
    stated = fingerprint.conditions.get("fields", {})
    others = [name for name in conditions if name not in stated]
    if not conditions and kind == "volumes":
        return replace(fingerprint, offered=_offered(root, fingerprint, participants))
    if not others:
        return fingerprint
    declared = _declared(root, fingerprint, others, participants)
    return fingerprint.with_conditions({**declared, "fields": {**stated, **declared["fields"]}})


def _refuse_flags_of_other_kinds(root: Path, kind: str, flags: Mapping[str, Any]) -> None:
    for name, value in flags.items():
        kinds = _KINDS_OF_FLAG.get(name, KINDS)
        if kind not in kinds and value is not None and value != "auto" and value not in ("", [], ()):
            flags_of_name = "--given and --mask" if name == "given" else f"--{name}"
            raise DataError(
                root, key=name, expected=f"data of the kind {' or '.join(kinds)}", got=kind,
                remedy=f"Leave {flags_of_name} out.",
            )  # fmt: skip


def _offered(root: Path, fingerprint: Fingerprint, participants: str | Path | None) -> dict[str, Any]:
    """The usual columns of the table of subjects as conditions; empty without such a table or column."""
    offered: dict[str, Any] = {}
    for name in USUAL_CONDITIONS:
        try:
            declared = _declared(root, fingerprint, [name], participants)
        except DataError:  # no table of subjects, no such column, or one value alone
            continue
        if declared["subjects_without_a_row"] < len(fingerprint.names):
            offered = {**declared, "fields": {**offered.get("fields", {}), **declared["fields"]}}
    return offered


def _declared(
    root: Path, fingerprint: Fingerprint, names: Sequence[str], participants: str | Path | None
) -> dict[str, Any]:
    path = Path(participants) if participants is not None else find_participants(root)
    if path is None:
        raise DataError(
            root,
            key="condition",
            expected="a table of the subjects beside the data, such as participants.tsv",
            got="none, or several tables",
            remedy="Put participants.tsv into the folder, or name the table with --participants.",
        )
    table = read_participants(path)
    fields = declare_fields(table, names, path)
    in_table = [plain_name(name) in table for name in fingerprint.names]
    return {"table": str(path.absolute()), "fields": fields, "subjects_without_a_row": len(in_table) - sum(in_table)}
