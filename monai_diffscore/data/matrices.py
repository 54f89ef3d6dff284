"""Reads expression matrices from text files: samples x genes, or genes x samples, with names on both sides."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from monai_diffscore.data.delimited import first_rows
from monai_diffscore.data.gene_names import are_barcodes, are_genes, other_than_genes, other_than_samples
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.written_values import number_of


def read_matrix(
    path: str | Path, transposed: bool = False, delimiter: str | None = None
) -> tuple[np.ndarray, list[str], list[str]]:
    """Reads values [samples, genes] float64, names of the samples, names of the genes.

    The first row names the columns, the first column the rows; the header may lack its first cell, as R writes it.

    Args:
        path: .csv, .tsv, .txt or .tab, also with .gz.
        transposed: the file has a gene in each row.
        delimiter: None detects it.
    Raises:
        DataError: for another file, a single column, repeated names, cells that are no numbers, or missing cells.
    """
    file = Path(path)
    text, first, mark = first_rows(file, delimiter, 2)
    header, width = _header(file, first, mark)
    across, down = ("sample", "gene") if transposed else ("gene", "sample")
    refuse_repeated(header, file, across)
    comma = mark != "," and any(re.fullmatch(r"[+-]?\d+,\d+", cell) for cell in first[1])
    try:
        frame = pd.read_csv(
            io.StringIO(text),
            sep=mark,
            header=None,
            skiprows=1,
            converters={0: str},  # NA is a valid name of a gene
            float_precision=None if comma else "round_trip",
            decimal="," if comma else ".",
            low_memory=False,
        ).set_index(0)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(
            file, expected=f"rows of {width} cells between {mark!r}", got=str(error).strip(),
            remedy=_remedy(first[0], "Write all rows with the same number of cells."),
        ) from error  # fmt: skip
    rows = [str(name) for name in frame.index]
    refuse_repeated(rows, file, down)
    _refuse_other_rows(*((rows, header) if transposed else (header, rows)), file)
    values = _numbers(frame, header, file, down, across)
    return (values.T, header, rows) if transposed else (values, rows, header)


def genes_are_in(path: str | Path) -> str | None:
    """Whether "columns" or "rows" of a text file have the names of genes; None if neither have.

    Raises:
        DataError: for an empty file.
    """
    _, rows, _ = first_rows(path)
    if len(rows) < 2 or len(rows[1]) < 2:
        return None
    width = len(rows[1])
    names = rows[0] if len(rows[0]) < width else rows[0][1:]
    if are_genes(names) and (len(rows[0]) < width or not _is_number(rows[1][0]) or not rows[0][0]):
        return "columns"
    cells = [cell for row in rows[1:6] for cell in row[1:]]
    numbers = sum(map(_is_number, cells)) > len(cells) / 2  # beside columns of text, and gaps
    return "rows" if numbers and (are_genes([row[0] for row in rows[1:] if row]) or are_barcodes(names)) else None


def _refuse_other_rows(genes: Sequence[str], samples: Sequence[str], file: Path) -> None:
    """Refuses rows and columns that stand beside genes and samples in the files of other programs."""
    for names, what in ((other_than_samples(samples), "sample"), (other_than_genes(genes), "gene")):
        if names:
            raise DataError(
                file, key=what, expected=f"{what}s alone", got=f"{len(names)} other names: {', '.join(names[:8])}",
                remedy=f"Remove them: they are no {what}s.",
            )  # fmt: skip


def _is_number(cell: str) -> bool:
    return number_of(cell) is not None or number_of(cell, decimal_comma=True) is not None


def refuse_repeated(names: Sequence[str], source: object, what: str) -> None:
    """Raises a DataError for a repeated name of a gene, sample or column."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            source,
            key=what,
            expected=f"each {what} once",
            got=f"{len(repeated)} names more than once: {', '.join(repeated[:8])}",
            remedy="Rename or remove all but one of each."
            if what == "column"
            else "Sum or average them, or keep one of each (AnnData: var_names_make_unique gives them other names).",
        )


def _header(file: Path, rows: list[list[str]], mark: str) -> tuple[list[str], int]:
    """Names of the columns without the first, and the number of cells in a row."""
    header, first = (*rows, [], [])[:2]
    if len(first) < 2 or len(header) not in (len(first), len(first) - 1):
        raise DataError(
            file,
            expected=f"names in the first row and column, and cells between {mark!r}",
            got=f"{len(header)} cells in the first row, {len(first)} in the second",
            remedy=_remedy(header, "Write names of genes and samples on both sides, and all rows of one length."),
        )
    return (header[1:] if len(header) == len(first) else header), len(first)


def _remedy(header: Sequence[str], usual: str) -> str:
    """The remedy for rows of different lengths, by the first row, which may be none of names."""
    return "Remove the lines above the names of the columns." if header[:1] and header[0][:1] == "#" else usual


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
                remedy="Remove columns of text (descriptions, annotations); write decimal points, no thousands' "
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
            remedy=f"Remove those {down}s or {across}s, or impute their values first.",
        )
    return values
