"""Expression matrices in text files: samples x genes, or genes x samples, with names on both sides."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from monai_diffscore.errors import DataError

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}


def read_matrix(
    path: str | Path, transposed: bool = False, delimiter: str | None = None
) -> tuple[np.ndarray, list[str], list[str]]:
    """Values [samples, genes] float64, names of the samples, names of the genes.

    The first row names the columns, the first column the rows; the corner may be left out, as R does.

    Args:
        path: .csv, .tsv, .txt or .tab, also with .gz.
        transposed: the file has a gene in each row.
        delimiter: None takes a comma for .csv, else a tabulator.
    Raises:
        DataError: for another file, one column, names twice, cells that are no numbers, and missing ones.
    """
    file = Path(path)
    delimiter = delimiter or delimiter_of(file)
    header, width = _header(file, delimiter)
    across, down = ("sample", "gene") if transposed else ("gene", "sample")
    refuse_repeated(header, file, across)
    try:
        frame = pd.read_csv(
            file,
            sep=delimiter,
            header=None,
            skiprows=1,
            converters={0: str},  # a gene may be called NA
            float_precision="round_trip",
            low_memory=False,
        ).set_index(0)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(
            file,
            expected=f"rows of {width} cells between {delimiter!r}",
            got=str(error).strip(),
            remedy="Write all rows with the same number of cells, as UTF-8.",
        ) from error
    rows = [str(name) for name in frame.index]
    refuse_repeated(rows, file, down)
    values = _numbers(frame, header, file, down, across)
    return (values.T, header, rows) if transposed else (values, rows, header)


def delimiter_of(file: Path) -> str:
    """What stands between the cells of a text file, by its ending.

    Raises:
        DataError: for another ending, or if there is no such file.
    """
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    if suffix.lower() not in DELIMITERS or not file.is_file():
        raise DataError(
            file,
            expected=f"a table in a text file ({', '.join(DELIMITERS)}, also .gz)",
            got="no such file" if not file.is_file() else f"the ending {file.suffix!r}",
            remedy="Write one with pandas: frame.to_csv(path).",
        )
    return DELIMITERS[suffix.lower()]


def refuse_repeated(names: Sequence[str], source: object, what: str) -> None:
    """Raises a DataError if a name of a gene, sample or column is there twice."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            source,
            key=what,
            expected=f"each {what} once",
            got=f"{len(repeated)} names more than once: {', '.join(repeated[:8])}",
            remedy="Sum or average them, or keep one of each, on purpose and beforehand (AnnData: "
            "var_names_make_unique gives them different names).",
        )


def _header(file: Path, delimiter: str) -> tuple[list[str], int]:
    """Names of the columns but the first, and the number of cells in a row."""
    with gzip.open(file, "rt") if file.suffix == ".gz" else open(file, newline="") as text:
        lines = csv.reader(text, delimiter=delimiter)
        header, first = next(lines, []), next(lines, [])
    if len(first) < 2 or len(header) not in (len(first), len(first) - 1):
        raise DataError(
            file,
            expected=f"names in the first row and column, and cells between {delimiter!r}",
            got=f"{len(header)} cells in the first row, {len(first)} in the second",
            remedy="Give the delimiter that the file has.",
        )
    return (header[1:] if len(header) == len(first) else header), len(first)


def _numbers(frame: pd.DataFrame, header: list[str], file: Path, down: str, across: str) -> np.ndarray:
    numeric = [kind.kind in "buif" if isinstance(kind, np.dtype) else False for kind in frame.dtypes]
    for place in np.flatnonzero(~np.array(numeric, dtype=bool)):
        column = frame.iloc[:, place]
        bad = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
        if len(bad):
            raise DataError(
                file,
                expected="numbers",
                got=f"{bad.iloc[0]!r} for the {down} {bad.index[0]!r} and the {across} {header[place]!r}",
                remedy="Take columns of text (descriptions, annotations) out; write decimal points, no thousands' "
                "separators.",
            )
    values = frame.to_numpy(dtype=np.float64)
    at = np.argwhere(~np.isfinite(values))
    if len(at):
        row, place = at[0]
        raise DataError(
            file,
            expected="a finite number in each cell",
            got=f"{len(at)} of {values.size} missing or infinite, the first for the {down} {frame.index[row]!r} and "
            f"the {across} {header[place]!r}",
            remedy=f"Take those {down}s or {across}s out, or impute them on purpose beforehand.",
        )
    return values
