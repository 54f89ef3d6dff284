"""Reads conditions of subjects from a table with a row for each subject, as BIDS's participants.tsv.

A **field** is a column that conditions a model; the bundle declares it:

==========================================  ==================================  ====================
declaration                                 value in a case                     missing value
==========================================  ==================================  ====================
``{"mean": 61.0, "std": 14.0}``             the number, in its own unit         NaN
``{"categories": ["F", "M"]}``              the place in the list               -1
==========================================  ==================================  ====================

Subjects match by name, with or without ``sub-``. The value is missing for a subject without a row, and for a cell that
is empty or ``n/a``; :class:`~monai_diffscore.networks.ConditionEncoder` has a token for it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.errors import DataError

Field = Mapping[str, Any]
#: a column of numbers with at most so many different values is categorical
FEW_VALUES = 5
_MISSING = {"", "n/a", "na", "nan", "none", "null", "unknown"}
#: names of the column of subjects
SUBJECT_COLUMNS = (
    "participant_id",
    "subject_id",
    "subject",
    "patient_id",
    "patientid",
    "patient",
    "id",
    "case",
    "file",
)


def find_participants(data: str | Path) -> Path | None:
    """The table of subjects: participants.tsv or .csv beside the images or one folder above, else the only table."""
    folder = Path(data).expanduser()
    folder = folder.parent if folder.is_file() else folder
    for place in (folder, folder.parent):
        for name in ("participants.tsv", "participants.csv"):
            if (place / name).is_file():
                return place / name
    tables = [file for file in sorted(folder.glob("*")) if file.suffix.lower() in (".tsv", ".csv") and file.is_file()]
    return tables[0] if len(tables) == 1 else None


def read_participants(path: str | Path) -> dict[str, dict[str, str]]:
    """Reads a table of subjects: name without ``sub-`` to the cells by column, in lower case.

    Raises:
        DataError: for an unreadable table, a table without a column of subjects, or a repeated subject.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            path, expected="a readable table, .tsv or .csv in UTF-8",
            got=f"{type(error).__name__}: {error}", remedy="Write it again with a header line and a row a subject.",
        ) from error  # fmt: skip
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = [{str(k).strip().lower(): str(v or "").strip() for k, v in row.items()} for row in
            csv.DictReader(text.splitlines(), delimiter=delimiter)]  # fmt: skip
    columns = list(rows[0]) if rows else []
    name = next((column for column in SUBJECT_COLUMNS if column in columns), None)
    if name is None:
        raise DataError(
            path, expected=f"a column that names the subject ({', '.join(SUBJECT_COLUMNS)})",
            got=f"the columns {columns}", remedy="Call it participant_id, as BIDS does.",
        )  # fmt: skip
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        subject = plain_name(row[name])
        if subject in table:
            raise DataError(
                path, expected="one row a subject", got=f"two of {row[name]}",
                remedy="Keep one of them, or name the files sub-<label> by session.",
            )  # fmt: skip
        table[subject] = row
    return table


def plain_name(subject: str) -> str:
    """A subject's name without folder, ``sub-`` and endings: equal for a path and a table."""
    name = Path(subject).name.removeprefix("sub-")
    for suffix in (".gz", ".nii", ".npy", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".svs"):
        name = name.removesuffix(suffix)
    return name


def declare_fields(
    table: Mapping[str, Mapping[str, str]], names: Sequence[str], path: str | Path = "the table"
) -> dict[str, dict[str, Any]]:
    """Declares the fields ``names`` of a table: numbers by mean and standard deviation, others by their categories.

    Raises:
        DataError: for a missing column, or a column with a single value.
    """
    columns = sorted({column for row in table.values() for column in row})
    return {name: _declare(name, [row.get(name.lower()) for row in table.values()], columns, path) for name in names}


def _declare(name: str, cells: Sequence[str | None], columns: Sequence[str], path: str | Path) -> dict[str, Any]:
    if name.lower() not in columns:
        raise DataError(
            path, key=name, expected="a column of that name", got=f"the columns {list(columns)}",
            remedy="Name one of these in --condition.",
        )  # fmt: skip
    present = [cell for cell in cells if cell is not None and cell.lower() not in _MISSING]
    levels = sorted(set(present))
    if len(levels) < 2:
        raise DataError(
            path, key=name, expected="at least two different values to learn a difference from",
            got=f"{len(present)} values {levels[:3]}", remedy="Leave it out of --condition.",
        )  # fmt: skip
    numbers = [_number(cell) for cell in present]
    if all(number is not None for number in numbers) and len(levels) > FEW_VALUES:
        values = [float(number) for number in numbers if number is not None]
        mean = sum(values) / len(values)
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        return {"mean": float(f"{mean:.6g}"), "std": float(f"{std:.6g}")}
    return {"categories": levels}


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def continuous_fields(fields: Mapping[str, Field]) -> dict[str, list[float]]:
    """Mean and standard deviation of each numeric field, for a ``ConditionEncoder``."""
    return {name: [field["mean"], field["std"]] for name, field in fields.items() if "mean" in field}


def categorical_fields(fields: Mapping[str, Field], **classes: int | None) -> dict[str, int]:
    """Number of categories of each categorical field, for a ``ConditionEncoder``.

    Args:
        fields: the declarations.
        classes: numbers of categories of further conditions by name, such as ``label``; None omits one.
    """
    counts = {name: len(field["categories"]) for name, field in fields.items() if "categories" in field}
    return {**{name: count for name, count in classes.items() if count is not None}, **counts}


def attach_participants(
    cases: Sequence[Mapping[str, Any]],
    path: str | Path | None,
    fields: Mapping[str, Field],
    condition: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Adds the values of the ``fields`` to each case: from its row of the table, else those that the case states.

    Args:
        cases: dictionaries with ``subject``, perhaps with values of fields.
        path: the table of the subjects; None takes none. Nothing reads it without fields.
        fields: by name, as a bundle declares them.
        condition: values by name for fields that neither the table nor a case has. With None they are required.
    Raises:
        DataError: as :func:`read_participants`; for a table without a subject of the data, an undeclared value, or a
            required field that nothing states.
    """
    if not fields:
        return [dict(case) for case in cases]
    table = {} if path is None else read_participants(path)
    columns = {column for row in table.values() for column in row}
    rows = [table.get(plain_name(str(case["subject"]))) for case in cases]
    if table and not any(row is not None for row in rows):
        raise DataError(
            path, expected=f"rows of the subjects {sorted({str(c['subject']) for c in cases})[:4]}",
            got=f"rows of {sorted(table)[:4]}", remedy="Give the subjects of files and table the same names.",
        )  # fmt: skip
    stated = columns.union(*cases)
    for name in fields:
        if condition is None and name not in stated and name.lower() not in stated:
            raise DataError(
                path or "participants", key=name, expected="a table of the subjects, or cases, that state the field",
                got="neither",
                remedy='Name the table with --participants, or train without conditions: --fields "{}".',
            )  # fmt: skip

    def cell(name: str, case: Mapping[str, Any], row: Mapping[str, str] | None) -> Any:
        if name.lower() in columns:
            return None if row is None else row.get(name.lower())
        return case.get(name, (condition or {}).get(name))

    return [
        {**case, **{name: encode(name, cell(name, case, row), field, path or "the cases")
                    for name, field in fields.items()}}
        for case, row in zip(cases, rows, strict=True)
    ]  # fmt: skip


def encode_conditions(conditions: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, float | int]:
    """Encodes the requested conditions of a sample: ``{"sex": "F"}`` becomes ``{"sex": 0, "age": nan}``.

    Raises:
        DataError: for an undeclared name or value.
    """
    unknown = sorted(set(conditions) - set(fields))
    if unknown:
        raise DataError(
            "condition", key=unknown[0], expected=f"one of the fields {list(fields)}", got=f"{unknown}",
            remedy="Omit it: the model was not trained on it.",
        )  # fmt: skip
    return {name: encode(name, conditions.get(name), field, "condition") for name, field in fields.items()}


def encode(name: str, value: Any, field: Field, source: str | Path) -> float | int:
    """Encodes a value of a field as a number; a missing value as NaN or -1."""
    text = "" if value is None else str(value).strip()
    missing = text.lower() in _MISSING
    if "categories" in field:
        categories = [str(category) for category in field["categories"]]
        if not missing and text not in categories:
            raise DataError(
                source, key=name, expected=f"one of {categories}, or nothing", got=repr(text),
                remedy="Declare it in fields, or leave it missing.",
            )  # fmt: skip
        return -1 if missing else categories.index(text)
    number = math.nan if missing else _number(text)
    if number is None:
        raise DataError(
            source, key=name, expected="a number, or nothing", got=repr(text), remedy="Correct the cell, or write n/a.",
        )  # fmt: skip
    return number
