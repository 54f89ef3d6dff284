"""Tables in files (CSV, TSV, Parquet): read as they are, split by rows or subjects, written with their provenance."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor

from monai_diffscore.atomic_files import whole_file, whole_path
from monai_diffscore.data.matrices import DELIMITERS, delimiter_of, refuse_repeated
from monai_diffscore.data.rows import split_indices
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.table import TableEncoding
from monai_diffscore.transforms.table_schema import TableSchema, column_of

#: what stands for a missing value in a text file; "None" may be an answer
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "<NA>", "null", "NULL")
_PROVENANCE = "monai_diffscore"


def read_table(path: str | Path, delimiter: str | None = None) -> pd.DataFrame:
    """The rows of a .csv, .tsv (also .gz) or .parquet file.

    Raises:
        DataError: for another file, a column name twice or empty, rows of different lengths, or no rows.
    """
    file = Path(path)
    if file.suffix == ".parquet":
        if not file.is_file():
            raise DataError(file, key="table", expected="a table", got="no such file", remedy="Give an existing one.")
        frame = pd.read_parquet(file)
        refuse_repeated(list(frame.columns), file, "column")
    else:
        delimiter = delimiter or delimiter_of(file)
        header = _header(file, delimiter)
        refuse_repeated(header, file, "column")
        try:
            frame = pd.read_csv(
                file,
                sep=delimiter,
                keep_default_na=False,
                na_values=list(MISSING),
                float_precision="round_trip",
                low_memory=False,
                index_col=False,
            )
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise DataError(
                file, key="table", expected=f"rows of {len(header)} cells, in UTF-8", got=str(error).strip(),
                remedy="Write all rows with the same number of cells; quote text that holds the delimiter.",
            ) from error  # fmt: skip
    if len(frame) < 2:
        raise DataError(
            file, key="table", expected="at least two rows", got=f"{len(frame)}", remedy="Give a table with rows."
        )
    return frame


def _header(file: Path, delimiter: str) -> list[str]:
    with gzip.open(file, "rt") if file.suffix == ".gz" else open(file, newline="", encoding="utf-8-sig") as text:
        header = next(csv.reader(text, delimiter=delimiter), [])
    if len(header) < 2 or "" in header:
        raise DataError(
            file,
            key="table",
            expected=f"a first row with the names of two or more columns, and {delimiter!r} between them",
            got=f"{header[:5]}",
            remedy="Name all columns, and give the delimiter that the file has (--delimiter).",
        )
    return header


def split_table(
    frame: pd.DataFrame, schema: TableSchema, share: float = 0.2, seed: int = 0, source: object = "the table"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out rows: by subject, if the schema names one, else stratified by a categorical label.

    Raises:
        DataError: if a category of the label has a single row, or there are fewer than two subjects.
    """
    label = schema.label_column
    labels = None if label is None or label.numeric else frame[label.name].astype(str)
    subjects = None if schema.subject is None else column_of(frame, schema.subject, "subject", source).astype(str)
    try:
        train, held_out = split_indices(len(frame), share, seed, labels, subjects)
    except ValueError as error:
        raise DataError(
            source, key=str(schema.subject or schema.label), expected="enough rows on both sides of a split",
            got=str(error), remedy="Group rare categories, or change validation_share.",
        ) from error  # fmt: skip
    return frame.iloc[train], frame.iloc[held_out]


def table_rows(frame: pd.DataFrame, encoding: TableEncoding, intervals: bool = False) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries: ``image`` [D] float32, or [2, D] as intervals to be drawn from, ``name``, their
    place in the file, and ``label`` if there is one.

    Args:
        frame: the table.
        encoding: of the model.
        intervals: for :class:`~monai_diffscore.transforms.table.DitherTabled`.
    """
    numbers, labels = encoding.schema.numbers(frame), encoding.schema.label_numbers(frame)
    images = encoding.bounds(numbers) if intervals else encoding.encode(numbers).astype(np.float32)
    rows: list[dict[str, Any]] = [
        {"image": torch.from_numpy(image), "name": str(place)} for image, place in zip(images, frame.index, strict=True)
    ]
    return _labelled(rows, labels)


def incomplete_rows(
    frame: pd.DataFrame, encoding: TableEncoding, hidden_share: float = 0.0, seed: int = 0, source: object = "the table"
) -> list[dict[str, Any]]:
    """Rows with cells to be found, whether or not the training rows had any.

    Dictionaries of ``image`` [D] (0 where unknown), ``observed`` [D], ``truth`` [columns] (numbers, NaN where the file
    has none), ``given`` [columns] (which cells the model is told), ``seed``, and ``label`` (missing, if the table has
    no such column).

    Args:
        frame: the table.
        encoding: of the model.
        hidden_share: share of the known cells that are hidden, to judge imputation by.
        seed: of the choice of those.
        source: for messages.
    """
    schema = encoding.schema
    # any cell may be missing in a row that is to be completed
    relaxed = replace(schema, columns=tuple(replace(c, missing=c.missing or 0.5) for c in schema.columns))
    if schema.label is not None and schema.label not in frame:
        frame = frame.assign(**{schema.label: None})
    truth, labels = relaxed.numbers(frame, source), relaxed.label_numbers(frame, source)
    given = ~np.isnan(truth) & (np.random.default_rng(seed).random(truth.shape) >= hidden_share)
    vectors = encoding.encode(np.where(given, truth, np.nan), unknown=True)
    rows: list[dict[str, Any]] = [
        {
            "image": torch.from_numpy(np.nan_to_num(vector).astype(np.float32)),
            "observed": torch.from_numpy(~np.isnan(vector)),
            "truth": torch.from_numpy(truth[place]),
            "given": torch.from_numpy(given[place]),
            "seed": place,
        }
        for place, vector in enumerate(vectors)
    ]
    return _labelled(rows, labels)


def _labelled(rows: list[dict[str, Any]], labels: np.ndarray | None) -> list[dict[str, Any]]:
    if labels is None:
        return rows
    conditions = torch.from_numpy(labels)
    conditions = conditions.float() if conditions.is_floating_point() else conditions
    return [{**row, "label": label} for row, label in zip(rows, conditions, strict=True)]


def requested_rows(encoding: TableEncoding, count: int, label: Any = None, seed: int = 0) -> list[dict[str, Any]]:
    """Dictionaries that ask for synthetic rows: ``image`` [columns] zeros that keep a record of what makes
    them vectors, ``seed``, and the ``label`` if there is one.

    Args:
        encoding: of the model.
        count: number of rows.
        label: one for all, such as "malignant"; None draws them as often as the training rows have them.
        seed: of the draws.
    Raises:
        DataError: for a label that the schema does not know.
    """
    labels = encoding.draw_labels(count, label, seed)
    rows: list[dict[str, Any]] = [
        {"image": MetaTensor(torch.zeros(len(encoding.schema.features), dtype=torch.float64)), "seed": number}
        for number in range(count)
    ]
    return [{**row, "label": value} for row, value in zip(rows, labels, strict=True)] if labels else rows


def write_table(
    path: str | Path, frame: pd.DataFrame, provenance: Mapping[str, Any] | None = None, synthetic: bool = True
) -> None:
    """Writes a table as .csv, .tsv or .parquet, whole or not at all.

    Args:
        path: of the file.
        frame: the table.
        provenance: how it was made (hash of the weights, seed, steps, ...): in Parquet's metadata, or in a JSON file
            beside a text file, ``<name>.provenance.json``.
        synthetic: a first column ``synthetic`` says so in each row.
    Raises:
        DataError: for another ending.
    """
    file = Path(path)
    made = frame.copy()
    if synthetic:
        made.insert(0, "synthetic", True)
    content = json.dumps(dict(provenance or {}), indent=4, default=str)
    if file.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pandas(made, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _PROVENANCE: content})
        with whole_path(file) as temporary:
            parquet.write_table(table, temporary)
    elif file.suffix in DELIMITERS:
        if provenance:
            with whole_file(file.with_suffix(".provenance.json")) as written:
                written.write(f"{content}\n".encode())
        with whole_file(file) as written:
            made.to_csv(written, sep=DELIMITERS[file.suffix], index=False, na_rep="NA")
    else:
        raise DataError(
            file, key="table", expected="the ending .csv, .tsv or .parquet", got=file.suffix, remedy="Choose one."
        )
