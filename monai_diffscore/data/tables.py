"""Reads tables (CSV, TSV, Parquet), splits them by rows or subjects, and writes them with their provenance."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset

from monai_diffscore.atomic_files import whole_file, whole_path
from monai_diffscore.data.delimited import DELIMITERS, read_delimited
from monai_diffscore.data.loader import scattered_uniforms
from monai_diffscore.data.matrices import refuse_repeated
from monai_diffscore.data.requests import check_count
from monai_diffscore.data.rows import split_indices
from monai_diffscore.data.text_columns import numbers_of_marks, type_columns
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.table import TableEncoding
from monai_diffscore.transforms.table_column import Column, column_of
from monai_diffscore.transforms.table_schema import TableSchema

logger = logging.getLogger(__name__)
_PROVENANCE = "monai_diffscore"


def read_table(
    path: str | Path, delimiter: str | None = None, missing: str | Sequence[str] = (), fewest: int = 2
) -> pd.DataFrame:
    """Reads a .csv, .tsv, .txt (also .gz) or .parquet file, or the only one of a folder.

    Numbers may have decimal commas and separators of thousands. ``True`` and ``False`` become booleans. Codes with
    leading zeros, dates, times and limits such as ``<5`` stay text.

    Args:
        path: of the file or folder.
        delimiter: of a text file; None detects it.
        missing: further marks of missing values, such as ``-99``.
        fewest: smallest number of rows: a training needs several, a request one.
    Raises:
        DataError: for another file, a repeated or empty column name, rows of different lengths, or too few rows.
    """
    file = only_table(Path(path))
    if file.suffix == ".parquet":
        if not file.is_file():
            raise DataError(file, expected="a table", got="no such file", remedy="Give an existing file.")
        frame = _without_marks(_parquet(file), names_in(missing))
    else:
        cells = read_delimited(file, delimiter)
        if "" in cells.names:
            raise DataError(
                file, expected="names of all columns", got=f"an empty one at place "
                f"{cells.names.index('') + 1} of {len(cells.names)}", remedy="Name the column, or remove it.",
            )  # fmt: skip
        refuse_repeated(cells.names, file, "column")
        frame = type_columns(
            pd.DataFrame(cells.rows, columns=cells.names, dtype=object), cells.delimiter, names_in(missing)
        )
    if len(frame) < fewest:
        raise DataError(
            file, expected=f"rows, at least {fewest}", got=f"{len(frame)}",
            remedy="Give a table with rows.",
        )  # fmt: skip
    return frame


def _parquet(file: Path) -> pd.DataFrame:
    """The columns of a Parquet file, without its index; decimal numbers as float64.

    Raises:
        DataError: for a damaged file, or a repeated name.
    """
    import pyarrow

    try:
        frame = pd.read_parquet(file)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            file, expected="a readable Parquet file", got=str(error).splitlines()[0], remedy="Copy or write it again."
        ) from error
    frame.columns = frame.columns.map(str)
    refuse_repeated(list(frame.columns), file, "column")
    for name, column in frame.items():
        if column.dtype == object and set(map(type, column.dropna())) == {Decimal}:
            frame[name] = column.astype(np.float64)
    if not isinstance(frame.index, pd.RangeIndex):
        named = ", ".join(str(name) for name in frame.index.names if name is not None)
        logger.info(f"{file.name}: the index {f'({named}) ' if named else ''}holds the names of the rows")
    return frame.reset_index(drop=True)


def only_table(path: Path) -> Path:
    """The path of a file; for a folder, the path of its only table.

    Raises:
        DataError: for a folder without a table, or with several.
    """
    if not path.is_dir():
        return path
    endings = (".parquet", *DELIMITERS, *(f"{ending}.gz" for ending in DELIMITERS))
    files = [file for file in sorted(path.iterdir()) if file.name.lower().endswith(endings)]
    if len(files) != 1:
        raise DataError(
            path, expected="one table in the folder", got=", ".join(f.name for f in files[:8]) or "none",
            remedy="Give the path of the file.",
        )  # fmt: skip
    return files[0]


def names_in(text: str | float | Sequence[str] | None) -> list[str]:
    """The names in the value of a flag: ``A,B``, a list, or a number."""
    if isinstance(text, int | float):
        return [str(text)]
    if not isinstance(text, str):
        return [str(name) for name in text or ()]
    return [name.strip() for name in text.split(",") if name.strip()]


def columns_in(text: str | Sequence[str] | None, columns: Iterable[Any]) -> list[str]:
    """The columns that the value of a flag names. A name may have commas in it, and blanks around it.

    Args:
        text: ``A,B``, or a list of names.
        columns: of the table. Names that are none of them come back as they are.
    """
    pieces = text.split(",") if isinstance(text, str) else [str(name) for name in text or ()]
    pieces = [piece for piece in pieces if piece.strip()]
    exact = list(map(str, columns))
    plain = {_plain(name): name for name in reversed(exact)}

    def read(first: int) -> list[str] | None:
        """The columns of the pieces from ``first`` on, as many as possible; None if some piece is of no column."""
        if first == len(pieces):
            return []
        for last in range(first + 1, len(pieces) + 1):
            name = ",".join(pieces[first:last])
            name = name if name in exact else plain.get(_plain(name), "")
            rest = read(last) if name else None
            if rest is not None:
                return [name, *rest]
        return None

    return read(0) or [piece.strip() for piece in pieces]


def _plain(name: str) -> str:
    """A name as a flag or a message of one line may have it: without blanks around commas, and none longer than one."""
    return ",".join(" ".join(part.split()) for part in name.split(","))


def flag_of(flag: str, name: str) -> str:
    """A flag with the name of a column, as one types it: ``--exclude 'a b'``, ``--exclude=-log10p``."""
    written = " ".join(name.split()) if "\n" in name else name
    return f"--{flag}{'=' if name.startswith('-') else ' '}{shlex.quote(written)}"


def _without_marks(frame: pd.DataFrame, missing: Sequence[str]) -> pd.DataFrame:
    """The columns of a Parquet file with nothing in place of marks of missing values."""
    numbers = numbers_of_marks(missing)
    for name, column in frame.items() if missing else ():
        numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
        frame[name] = column.mask(column.isin(numbers if numeric else missing))
    return frame


def split_table(
    frame: pd.DataFrame, schema: TableSchema, share: float = 0.2, seed: int = 0, source: object = "the table"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out rows: split by subject if the schema names one, else stratified by a categorical label.

    Raises:
        DataError: for a category of the label with a single row, or fewer than two subjects.
    """
    label = schema.label_column
    labels = None if label is None or label.numeric else frame[label.name].astype(str)
    subjects = None if schema.subject is None else column_of(frame, schema.subject, "subject", source).astype(str)
    try:
        train, held_out = split_indices(len(frame), share, seed, labels, subjects)
    except ValueError as error:
        raise DataError(
            source, key=str(schema.subject or schema.label), expected="enough rows on both sides of a split",
            got=str(error), remedy="Group rare categories, or change --validation_share of the training.",
        ) from error  # fmt: skip
    return frame.iloc[train], frame.iloc[held_out]


class DitheredRows(Dataset):
    """Training rows of a table, many times over, for a :class:`~monai_diffscore.data.loader.ResumableLoader`.

    A visit of a row draws a vector from the intervals of its numbers, uniformly in probability. A batch is ``image``
    [B, D] float32, ``name`` (places of the rows in the file), and ``label`` [B] if the schema has one.

    Args:
        frame: the training rows.
        encoding: of the model.
        fewest: least number of visits in an epoch; each row has equally many.
    """

    def __init__(self, frame: pd.DataFrame, encoding: TableEncoding, fewest: int = 0) -> None:
        self.encoding = encoding
        self.names = [str(place) for place in frame.index]
        self.bounds = encoding.bounds(encoding.schema.numbers(frame))
        self.labels = _conditions(encoding.schema.label_numbers(frame))
        self.repeats = max(1, -(-fewest // max(1, len(frame))))

    def __len__(self) -> int:
        return self.repeats * len(self.names)

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        """The visits ``indices``; a seed gives each of them its own draw."""
        visits = np.asarray(indices)
        rows = visits % len(self.names)
        shares = scattered_uniforms(seed, visits, self.encoding.size)
        vectors = self.encoding.sample_interval(self.bounds[rows], shares).astype(np.float32)
        drawn = {"image": torch.from_numpy(vectors), "name": [self.names[row] for row in rows]}
        return drawn if self.labels is None else {**drawn, "label": self.labels[rows]}


def table_rows(frame: pd.DataFrame, encoding: TableEncoding) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries: ``image`` [D] float32, ``name`` (their place in the file), and ``label`` if the
    schema has one.

    Args:
        frame: the table.
        encoding: of the model.
    """
    numbers, labels = encoding.schema.numbers(frame), encoding.schema.label_numbers(frame)
    images = encoding.encode(numbers).astype(np.float32)
    rows: list[dict[str, Any]] = [
        {"image": torch.from_numpy(image), "name": str(place)} for image, place in zip(images, frame.index, strict=True)
    ]
    return _labelled(rows, labels)


def incomplete_rows(
    frame: pd.DataFrame, encoding: TableEncoding, hidden_share: float = 0.0, seed: int = 0, source: object = "the table"
) -> list[dict[str, Any]]:
    """Rows with cells to impute; any column may have missing cells, whether or not training rows had some.

    Dictionaries of ``image`` [D] (0 where unknown), ``observed`` [D], ``truth`` [columns] (numbers, NaN for a missing
    cell of the file), ``given`` [columns] (true for the cells that the model sees), ``seed``, and ``label`` (missing if
    the table has no such column).

    Args:
        frame: the table.
        encoding: of the model.
        hidden_share: share of the cells to hide, which measures the error of imputation.
        seed: of the choice of hidden cells.
        source: for messages.

    A number beyond the range of the training rows stays in the table. The model sees the nearest end of the range, and
    a warning names the column.
    """
    schema = encoding.schema
    relaxed = replace(schema, columns=tuple(map(_relaxed, schema.columns)))
    if schema.label is not None and schema.label not in frame:
        frame = frame.assign(**{schema.label: None})
    truth, labels = relaxed.numbers(frame, source), relaxed.label_numbers(frame, source)
    input_mask = ~np.isnan(truth) & (np.random.default_rng(seed).random(truth.shape) >= hidden_share)
    vectors = encoding.encode(np.where(input_mask, _within_ranges(truth, schema, source), np.nan), unknown=True)
    rows: list[dict[str, Any]] = [
        {
            "image": torch.from_numpy(np.nan_to_num(vector).astype(np.float32)),
            "observed": torch.from_numpy(~np.isnan(vector)),
            "truth": torch.from_numpy(truth[place]),
            "given": torch.from_numpy(input_mask[place]),
            "seed": place,
        }
        for place, vector in enumerate(vectors)
    ]
    return _labelled(rows, labels)


def _relaxed(column: Column) -> Column:
    """The column of a row to impute: any cell may be missing, and a number may lie beyond the range."""
    missing = column.missing or 0.5
    if not column.numeric:
        return replace(column, missing=missing)
    low, high = -np.inf if column.below is None else column.low, np.inf if column.above is None else column.high
    return replace(column, missing=missing, low=low, high=high)


def _within_ranges(numbers: np.ndarray, schema: TableSchema, source: object) -> np.ndarray:
    """Numbers [N, columns] with the nearest end of the training rows' range for each number beyond it."""
    near = numbers.copy()
    for place, column in enumerate(schema.features):
        if not column.numeric:
            continue
        near[:, place] = np.clip(numbers[:, place], column.low, column.high)
        beyond = numbers[near[:, place] < numbers[:, place], place].tolist()
        beyond += numbers[near[:, place] > numbers[:, place], place].tolist()
        if beyond:
            logger.warning(
                f"{source}: {len(beyond)} number(s) of the column {column.name!r} lie beyond the training rows "
                f"({column.low:g} to {column.high:g}), such as {beyond[0]:g}: the model sees the nearest of them"
            )
    return near


def _conditions(labels: np.ndarray | None) -> torch.Tensor | None:
    """Labels as the network takes them: float32, or whole numbers."""
    if labels is None:
        return None
    conditions = torch.from_numpy(labels)
    return conditions.float() if conditions.is_floating_point() else conditions


def _labelled(rows: list[dict[str, Any]], labels: np.ndarray | None) -> list[dict[str, Any]]:
    conditions = _conditions(labels)
    if conditions is None:
        return rows
    return [{**row, "label": label} for row, label in zip(rows, conditions, strict=True)]


def requested_rows(encoding: TableEncoding, count: int, label: Any = None, seed: int = 0) -> list[dict[str, Any]]:
    """Requests for synthetic rows: dictionaries of ``image`` [columns] zeros, which record the transforms that encode
    them, ``seed``, and ``label`` if the schema has one.

    Args:
        encoding: of the model.
        count: number of rows.
        label: one label for all, such as "malignant"; None draws from the labels of the training rows.
        seed: of the draws.
    Raises:
        DataError: for an unknown label.
    """
    check_count(count)
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
        provenance: origin of the rows (hash of the weights, seed, steps, ...); goes to the metadata of Parquet, or to a
            JSON file beside a text file, ``<name>.provenance.json``.
        synthetic: adds a first column ``synthetic`` that is true in each row.
    Raises:
        DataError: for another ending.
    """
    file = Path(path)
    rows = frame.copy()
    if synthetic:
        name = "synthetic"
        while name in rows:  # the data may have a column of this name
            name += "_"
        rows.insert(0, name, True)
    content = json.dumps(dict(provenance or {}), indent=4, default=str)
    if file.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pandas(rows, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _PROVENANCE: content})
        with whole_path(file) as temporary:
            parquet.write_table(table, temporary)
    elif file.suffix in DELIMITERS:
        if provenance:
            with whole_file(file.with_suffix(".provenance.json")) as written:
                written.write(f"{content}\n".encode())
        with whole_file(file) as written:
            rows.to_csv(written, sep=DELIMITERS[file.suffix], index=False, na_rep="NA")
    else:
        raise DataError(file, expected="the ending .csv, .tsv or .parquet", got=file.suffix, remedy="Choose one.")
