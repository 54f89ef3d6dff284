"""A table of cases describes any data set: a row for each session, a column for each role.

==========================  ===============================================================================
column                      content
==========================  ===============================================================================
``subject``                 name of the patient or animal (also ``participant_id`` and the like); required
``session``                 of the subject; optional
name of a role (``t1``)     paths of images of this role, relative to the table's folder
``mask:NAME``, ``label``    paths of masks
any other                   a fact: a condition, the split of the data set itself
==========================  ===============================================================================

A DICOM series is ``FOLDER/series:UID`` or ``FOLDER/series:DESCRIPTION``, or a folder that holds it alone.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.cases.case import Casebook, Cases
from monai_diffscore.data.cases.names import MASK_WORDS, ending, words
from monai_diffscore.data.participants import SUBJECT_COLUMNS
from monai_diffscore.errors import DataError

_SESSIONS = ("session", "session_id", "ses", "visit")


def read_table_of_cases(path: str | Path) -> Cases:
    """The cases of a table, .csv or .tsv.

    Raises:
        DataError: for a table without a column of subjects or of images; for a row without a subject, or with a
            missing file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            path, expected="a readable table, .csv or .tsv in UTF-8", got=f"{error}",
            remedy="Write a table with `python -m monai_diffscore cases FOLDER --write cases.csv`.",
        ) from error  # fmt: skip
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = [
        {str(key).strip(): str(cell or "").strip() for key, cell in row.items() if key is not None}
        for row in csv.DictReader(text.splitlines(), delimiter=delimiter)
    ]
    columns = list(rows[0]) if rows else []
    subject = next((column for column in columns if column.lower() in SUBJECT_COLUMNS), None)
    images = [column for column in columns if column != subject and _holds_paths(path, rows, column)]
    if subject is None or not any(not _is_mask(column) for column in images):
        raise DataError(
            path, expected="a column `subject` and a column of paths for each role",
            got=f"the columns {columns}" if rows else "no row",
            remedy="Name the role in the header: subject,session,t1. Write the folder of a series as ./NAME.",
        )  # fmt: skip
    session = next((column for column in columns if column.lower() in _SESSIONS), "")
    book = Casebook()
    for number, row in enumerate(rows, start=2):
        if not row[subject]:
            raise DataError(
                path, expected=f"a name in the column {subject}", got=f"none in line {number}",
                remedy="Name the subject: the split needs it.",
            )  # fmt: skip
        facts = {c: row[c] for c in columns if c not in {*images, subject, session} and row[c]}
        for column in images:
            if not row[column]:
                continue
            file = _existing(path, row[column], column, number)
            if _is_mask(column):
                book.add_mask(row[subject], row.get(session, ""), column.removeprefix("mask:"), file)
            else:
                book.add_image(row[subject], row.get(session, ""), column.strip().lower(), file, facts, column.strip())
    return book.close(path, "table")


def write_table_of_cases(path: str | Path, cases: Cases) -> None:
    """Writes a table that :func:`read_table_of_cases` reads as the same cases; paths below its folder are relative."""
    path = Path(path)
    roles, masks = list(cases.roles), sorted({name for case in cases for name in case.masks})
    facts = sorted({name for case in cases for name in case.facts})
    header = ["subject", "session", *roles, *(f"mask:{name}" for name in masks), *facts]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    folder = path.absolute().parent
    with whole_file(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        writer.writerow(header)
        for case in cases:
            files = [case.images.get(role, "") for role in roles] + [case.masks.get(name, "") for name in masks]
            writer.writerow(
                [case.subject, case.session, *(_relative(file, folder) for file in files)]
                + [case.facts.get(name, "") for name in facts]
            )
        text.detach()


def _is_mask(column: str) -> bool:
    return column.lower().startswith("mask:") or bool(set(words(column)) & MASK_WORDS)


def _place(name: str) -> str:
    """The file or folder of a path, without ``/series:`` and ``/channel:``."""
    for mark in ("/series:", "/channel:"):
        name = name.partition(mark)[0]
    return name


def _holds_paths(table: Path, rows: Sequence[dict[str, str]], column: str) -> bool:
    cells = [row[column] for row in rows if row.get(column)]
    return bool(cells) and all(
        ending(_place(cell))
        or _place(cell) != cell
        or (("/" in cell or Path(cell).suffix) and (table.parent / cell).exists())
        for cell in cells
    )


def _existing(table: Path, name: str, column: str, line: int) -> str:
    file = os.path.normpath(table.absolute().parent / Path(name).expanduser())
    if not os.path.exists(_place(file)):
        raise DataError(
            table, key=column, expected=f"the file that line {line} names", got=f"no {_place(file)}",
            remedy="Correct the path (it is relative to the table's folder), or empty the cell.",
        )  # fmt: skip
    return file


def _relative(file: str, folder: Path) -> str:
    place = os.path.abspath(file) if file else ""
    if not place.startswith(f"{folder}{os.sep}"):
        return place
    name = os.path.relpath(place, folder)
    return name if ending(_place(name)) or "/" in name else f"./{name}"  # the slash tells a folder from a fact
