"""Any data to its fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.data.expression_stores import only_matrix
from monai_diffscore.data.participants import declare_fields, find_participants, plain_name, read_participants
from monai_diffscore.data.paths import locate
from monai_diffscore.data.tables import only_table
from monai_diffscore.errors import DataError
from monai_diffscore.planning.fingerprint import KINDS, Fingerprint
from monai_diffscore.planning.gene_data import fingerprint_cells, fingerprint_expression, fingerprint_table
from monai_diffscore.planning.images import fingerprint_pictures, fingerprint_sequences, fingerprint_volumes
from monai_diffscore.planning.kinds import find_kind
from monai_diffscore.planning.slide_images import fingerprint_slides


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
) -> Fingerprint:
    """The fingerprint of a data set.

    Args:
        path: file or folder.
        kind: one of :data:`~monai_diffscore.planning.fingerprint.KINDS`; None finds out.
        conditions: names of the columns to condition on: of the table of participants, of ``obs``, of the table itself.
        modality: of volumes, where the files do not say it: "CT", "MR" or "PT".
        participants: the table of subjects, if it does not lie beside the data.
        assume_mpp_um: size of a slide's pixel where a file states none.
        graph: edges between genes, which make a table a matrix of expression.
        subject: the column whose equal values stay on one side of the split, of cells, tables and matrices of
            expression; of volumes "folder", "study" or a regular expression of the path.
        exclude: columns of a table that are not looked at.
        delimiter, missing: as :func:`~monai_diffscore.data.tables.read_table` takes them.
        layout, image: of volumes, as :func:`~monai_diffscore.data.list_volumes` takes them.
    Raises:
        DataError: if the data is of no known kind, or nothing in it can be trained on.
        ValueError: for an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, got {kind!r}: leave it out to find out.")
    root = locate(path).absolute()
    found = kind or find_kind(root, graph)
    if subject is not None and found not in ("volumes", "cells", "expression", "table"):
        raise DataError(root, key="subject", expected="volumes, cells, a table or a matrix of expression", got=found,
                        remedy="Leave --subject out: sub-<label> in the paths names the subjects.")  # fmt: skip
    if found != "volumes" and (layout != "auto" or image):
        raise DataError(root, key="image", expected="volumes", got=found, remedy="Leave --layout and --image out.")
    if exclude and found != "table":
        raise DataError(root, key="exclude", expected="a table", got=found, remedy="Leave --exclude out.")
    if found == "cells":
        return fingerprint_cells(only_matrix(root), conditions, subject)
    if found == "expression":
        return fingerprint_expression(only_matrix(root), conditions, subject)
    if found == "table":
        return fingerprint_table(only_table(root), conditions, subject, exclude, delimiter, missing)
    if found == "volumes":
        fingerprint = fingerprint_volumes(root, modality, layout, image, subject or "")
    elif found == "slides":
        fingerprint = fingerprint_slides(root, assume_mpp_um)
    else:
        fingerprint = fingerprint_pictures(root) if found == "pictures" else fingerprint_sequences(root)
    if not conditions:
        return fingerprint
    return fingerprint.with_conditions(_declared(root, fingerprint, conditions, participants))


def _declared(root: Path, found: Fingerprint, names: Sequence[str], participants: str | Path | None) -> dict[str, Any]:
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
    known = [plain_name(name) in table for name in found.names]
    return {"table": str(path.absolute()), "fields": fields, "subjects_without_a_row": len(known) - sum(known)}
