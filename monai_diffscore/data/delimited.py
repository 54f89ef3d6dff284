"""Text files of cells between delimiters, as R, pandas and spreadsheets write them: what their first lines tell.

A table says by itself what stands between its cells, in which encoding, and whether its rows have names: the first name
is empty (pandas, R's ``write.csv``), or there is one name fewer than cells (R's ``write.table``). A row with a cell too
many or too few is refused by its number: where cells are shifted, nothing is right.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)

#: what the ending says; others are tried where it does not fit
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
_TRIED = (",", "\t", ";", "|", " ")
#: names of columns that say whose row it is
IDENTIFIER = re.compile(
    r"(.*[ _.-])?(id|ids|mrn|uid|uuid|guid|identifier|pid|ssn|nhs)"
    r"|(patient|subject|participant|person|case|record|row|sample|study|hospital|accession|encounter|visit)"
    r"[ _.-]?(id|no|nr|num|number|code|name|index|key)"
    r"|(patient|subject|participant)s?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Delimited:
    """The cells of a text file.

    Attributes:
        names: of the columns, without that of the names of the rows.
        rows: the cells of each row, as text, without its name.
        row_names: one for each row, or None.
        delimiter: between the cells.
    """

    names: list[str]
    rows: list[list[str]]
    row_names: list[str] | None
    delimiter: str


def read_delimited(path: str | Path, delimiter: str | None = None, named_rows: bool = False) -> Delimited:
    """All cells of a text file, as text.

    Args:
        path: .csv, .tsv, .txt or .tab, also .gz.
        delimiter: None finds out.
        named_rows: the first column has the names of the rows, whatever it is called.
    Raises:
        DataError: for another ending, an empty file, fewer than two columns, and rows of other lengths than the first.
    """
    file = Path(path)
    text, _, mark = first_rows(file, delimiter, 1)
    lines = _lines(text, mark)
    header, body = lines[0][1], lines[1:]
    if len(header) < 2 and not (body and len(body[0][1]) == 2):
        raise DataError(
            file, key="table", expected=f"a first row with the names of two or more columns, and {mark!r} between them",
            got=f"{header[:5]}", remedy="Name all columns, and give the delimiter that the file has (--delimiter).",
        )  # fmt: skip
    if body and all(len(cells) == len(header) + 1 and cells[-1] == "" for _, cells in body):
        body = [(number, cells[:-1]) for number, cells in body]  # a delimiter ends each row
    short = _names_fewer(header, body)
    _refuse_other_lengths(file, header, body, len(header) + short)
    if short or header[0] == "" or named_rows:
        if not named_rows:
            logger.info(f"{file.name}: the first column has no name: it names the rows, and is not a column")
        row_names = [cells[0] for _, cells in body]
        return Delimited(header if short else header[1:], [cells[1:] for _, cells in body], row_names, mark)
    return Delimited(header, [cells for _, cells in body], None, mark)


def first_rows(path: str | Path, delimiter: str | None = None, most: int = 1000) -> tuple[str, list[list[str]], str]:
    """The text of a file, its first rows as cells, and the delimiter; for what need not be read whole.

    Raises:
        DataError: for another ending, or an empty file.
    """
    file = Path(path)
    ending = ending_of(file)
    text = _text(file)
    if not text.strip():
        raise DataError(file, key="table", expected="a table", got="an empty file", remedy="Write or copy it again.")
    mark = delimiter or _find_delimiter(text, DELIMITERS[ending])
    return text, [cells for _, cells in _lines(text, mark, most)], mark


def ending_of(file: Path) -> str:
    """The ending without .gz.

    Raises:
        DataError: if it is not that of a text file, or there is no such file.
    """
    suffix = (Path(file.stem).suffix if file.suffix == ".gz" else file.suffix).lower()
    if suffix not in DELIMITERS or not file.is_file():
        raise DataError(
            file, key="table", expected=f"a table in a text file ({', '.join(DELIMITERS)}, also .gz) or .parquet",
            got="no such file" if not file.is_file() else f"the ending {file.suffix!r}",
            remedy="Write one with pandas: frame.to_csv(path).",
        )  # fmt: skip
    return suffix


def _text(file: Path) -> str:
    """The text, in UTF-8 or UTF-16 by its mark, else in Windows' Latin encoding."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        logger.warning(f"{file.name} is not in UTF-8: read as Windows-1252 (Latin)")
        return content.decode("cp1252", errors="replace")


def _lines(text: str, mark: str, most: int | None = None) -> list[tuple[int, list[str]]]:
    """Number in the file and cells of each row that is not blank."""
    rows = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=mark == " ")
    for cells in reader:
        if any(cells) or len(cells) > 1:
            rows.append((reader.line_num, cells))
        if most is not None and len(rows) >= most:
            break
    return rows


def _find_delimiter(text: str, usual: str) -> str:
    """The delimiter that makes rows of one length, of most columns; the usual one if none does."""
    best, columns = usual, 1
    for mark in dict.fromkeys((usual, *_TRIED)):
        rows = [cells for _, cells in _lines(text, mark, 30)]
        width = Counter(map(len, rows[1:])).most_common(1)[0][0] if len(rows) > 1 else len(rows[0])
        if width > columns and len(rows[0]) in (width, width - 1) and len(rows[0]) >= 2 + (mark == " "):
            best, columns = mark, width
            if mark == usual:
                return mark
    return best


def _names_fewer(header: list[str], body: list[tuple[int, list[str]]]) -> bool:
    """Whether each row has one cell more than there are names because the first is its name: different names, or whole
    numbers that rise, and no text that a delimiter within it cut in two."""
    if not body or any(len(cells) != len(header) + 1 for _, cells in body) or IDENTIFIER.fullmatch(header[0]):
        return False
    first = [cells[0] for _, cells in body]
    if len(set(first)) < len(first) or any(cells[-1].startswith(" ") for _, cells in body):
        return False
    if all(name.isdigit() for name in first):
        numbers = [int(name) for name in first]
        return numbers == sorted(numbers)
    return not any(re.fullmatch(r"[+-]?\d*[.,]?\d+", name) for name in first)


def _refuse_other_lengths(file: Path, header: list[str], body: list[tuple[int, list[str]]], width: int) -> None:
    wrong = [(number, cells) for number, cells in body if len(cells) != width]
    if wrong:
        number, cells = wrong[0]
        many = len(cells) > width
        raise DataError(
            file, key="table", expected=f"rows of {width} cells, as the first row has",
            got=f"{len(cells)} cells in line {number}" + (f" and {len(wrong) - 1} more lines" if wrong[1:] else "")
            + f": {', '.join(cells[:8])[:80]}",
            remedy="Quote text that holds the delimiter (\"ward 3, east\")." if many else
            "The row is cut short: copy the file again, or write its empty cells.",
        )  # fmt: skip
