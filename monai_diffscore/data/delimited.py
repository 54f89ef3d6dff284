"""Reads delimited text files of R, pandas and spreadsheets; the first lines tell their format.

The reader detects the delimiter, the encoding, and whether rows have names: the first name is empty (pandas, R's
``write.csv``) or pandas' ``Unnamed: 0``, or the header has one cell fewer than the rows (R's ``write.table``). A row
with too many or too few cells is an error that names its line, because its cells may be shifted. Rows and unnamed
columns without any cell, which spreadsheets write, are left out.
"""

from __future__ import annotations

import csv
import functools
import gzip
import io
import logging
import re
import shlex
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)

#: the usual delimiter of each ending; the reader tries others if it does not fit
DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".tab": "\t"}
#: functions of pandas for tables of other programs, and the packages that they need
_READERS = {
    ".xlsx": ("read_excel", " (pip install openpyxl)"), ".xls": ("read_excel", " (pip install xlrd)"),
    ".ods": ("read_excel", " (pip install odfpy)"), ".feather": ("read_feather", ""), ".dta": ("read_stata", ""),
    ".sav": ("read_spss", " (pip install pyreadstat)"), ".sas7bdat": ("read_sas", ""), ".xpt": ("read_sas", ""),
}  # fmt: skip
_TRIED = (",", "\t", ";", "|", " ")
#: first characters of a text that tell how it is written
_SAMPLE = 20_000
#: names of columns that identify a row or a subject
IDENTIFIER = re.compile(
    r"(.*[ _.-])?(id|ids|mrn|uid|uuid|guid|identifier|pid|ssn|nhs|ptid|rid|eid|u?subjid|subj|barcode|pseudonym)"
    r"|id[ _.-](patient|subject|participant|person|case|record|row|sample|study|hospital|visit).*"
    r"|(pat|patient|subject|participant|person|case|record|row|sample|study|hospital|accession|encounter|visit|serial)"
    r"[ _.-]?(id|no|nr|num|number|code|name|index|key)"
    r"|(patient|subject|participant|serial|index|idx)s?",
    re.IGNORECASE,
)
_NAME = re.compile(r"(.*[ _.-])?(name|names|surname|sample|samples|case|gene|genes|file|filename|study)", re.IGNORECASE)


@dataclass(frozen=True)
class Delimited:
    """The cells of a text file.

    Attributes:
        names: names of the columns, without the column of row names.
        rows: the cells of each row, as text, without its name.
        row_names: one for each row, or None.
        delimiter: between the cells.
    """

    names: list[str]
    rows: list[list[str]]
    row_names: list[str] | None
    delimiter: str


def read_delimited(path: str | Path, delimiter: str | None = None, named_rows: bool = False) -> Delimited:
    """Reads all cells of a text file, as text.

    Args:
        path: .csv, .tsv, .txt or .tab, also .gz.
        delimiter: None detects it.
        named_rows: the first column has the names of the rows, under any name.
    Raises:
        DataError: for another ending, an empty file, fewer than two columns, or rows of different lengths.
    """
    file = Path(path)
    text, _, mark = first_rows(file, delimiter, 1)
    lines = _lines(text, mark)
    header, rows = lines[0][1], lines[1:]
    if all(name.startswith(" ") for name in header[1:]):
        header = [name.strip() for name in header]
    body = [(number, cells) for number, cells in rows if any(cell.strip() for cell in cells)]
    if len(body) < len(rows):
        logger.info(f"{file.name}: {len(rows) - len(body)} row(s) without any cell are left out")
    if len(header) < 2 and not (body and len(body[0][1]) == 2):
        raise DataError(
            file, expected=f"a first row with the names of two or more columns, and {mark!r} between them",
            got=f"{header[:5]}",
            remedy="Remove lines above the names of the columns, and name all columns; `plan` and a training take a "
            "delimiter by --delimiter.",
        )  # fmt: skip
    if body and all(len(cells) == len(header) + 1 and cells[-1] == "" for _, cells in body):
        body = [(number, cells[:-1]) for number, cells in body]  # a delimiter ends each row
    short = _names_fewer(header, body, _starts_quoted(text))
    _refuse_other_lengths(file, header, body, len(header) + short)
    if not short:
        header, body = _without_empty_columns(header, body)
    if short or header[0] in ("", "Unnamed: 0") or named_rows:
        if not named_rows:
            logger.info(f"{file.name}: the first column has no name: it holds the names of the rows")
        row_names = [cells[0] for _, cells in body]
        return Delimited(header if short else header[1:], [cells[1:] for _, cells in body], row_names, mark)
    return Delimited(header, [cells for _, cells in body], None, mark)


def first_rows(path: str | Path, delimiter: str | None = None, most: int = 1000) -> tuple[str, list[list[str]], str]:
    """The text of a file, its first rows as cells, and the delimiter; does not split the whole file.

    Raises:
        DataError: for another ending, or an empty file.
    """
    file = Path(path)
    ending = ending_of(file)
    text = _text(file)
    stated = re.match("sep=(.)\r?\n", text)  # the first line of Excel's files, which is no row
    if stated is not None:
        text = text[stated.end() :]
    if not text.strip():
        raise DataError(file, expected="a table", got="an empty file", remedy="Write or copy it again.")
    mark = _delimiter_of(file, delimiter) or (stated and stated[1]) or _find_delimiter(text, DELIMITERS[ending])
    return text, [cells for _, cells in _lines(text, mark, most)], mark


def ending_of(file: Path) -> str:
    """The ending without .gz.

    Raises:
        DataError: for the ending of another kind of file, or a missing file.
    """
    suffix = (Path(file.stem).suffix if file.suffix == ".gz" else file.suffix).lower()
    if suffix not in DELIMITERS or not file.is_file():
        raise DataError(
            file, expected=f"a table in a text file ({', '.join(DELIMITERS)}, also .gz) or .parquet",
            got="no such file" if not file.is_file() else f"the ending {file.suffix!r}",
            remedy=conversion(file) or "Write a table with pandas: frame.to_csv(path).",
        )  # fmt: skip
    return suffix


def conversion(file: Path) -> str:
    """The command that writes a table of another program as one that is read; nothing for an unknown ending."""
    ending = file.suffix.lower()
    if ending in (".rds", ".rda", ".rdata"):
        return "In R: write.csv(frame, 'table.csv', row.names = FALSE)."
    if ending in (".zip", ".bz2", ".xz", ".zst", ".7z", ".rar"):
        return "Unpack it first."
    if ending not in _READERS:
        return ""
    function, package = _READERS[ending]
    names = [shlex.quote(str(path)) for path in (file, file.with_suffix(".parquet"))]
    script = f"import sys, pandas; pandas.{function}(sys.argv[1]).to_parquet(sys.argv[2])"
    return f"Convert it{package}: python -c {shlex.quote(script)} {' '.join(names)}"


def _delimiter_of(file: Path, flag: str | None) -> str | None:
    """The delimiter that a flag names: one character, ``tab`` or ``\\t``; None detects it."""
    mark = "\t" if flag in ("tab", "\\t") else flag
    if mark is not None and len(mark) != 1:
        raise DataError(
            file, key="delimiter", expected="one character, or tab", got=repr(flag),
            remedy="`plan` and a training take it between quotes, such as --delimiter ';'.",
        )  # fmt: skip
    return mark


def _text(file: Path) -> str:
    """Decodes a file: UTF-16 by its byte order mark, else UTF-8, else Windows-1252.

    Raises:
        DataError: for a damaged .gz file, a packed file, or zero bytes, which no text has.
    """
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                file, expected="a whole gzip file", got=str(error), remedy="Copy it again, or remove .gz from its name."
            ) from error
    if content[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise DataError(
            file, expected="text", got="a spreadsheet of Excel or another packed file",
            remedy="Save the sheet as CSV UTF-8.",
        )  # fmt: skip
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    if b"\0" in content:
        raise DataError(
            file, expected="text", got=f"a zero byte at place {content.index(0)}",
            remedy="The file is damaged or in UTF-16: copy it again, or save it in UTF-8.",
        )  # fmt: skip
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        _warn_of_latin(file)
        return content.decode("cp1252", errors="replace")


@functools.cache
def _warn_of_latin(file: Path) -> None:
    """Says once a file, which a command may read several times, that its characters are assumed."""
    logger.warning(f"{file} is not in UTF-8: read as Windows-1252 (Latin)")


def _lines(text: str, mark: str, most: int | None = None) -> list[tuple[int, list[str]]]:
    """The line number and the cells of each row that is not blank; a space behind each delimiter belongs to it."""
    rows = []
    behind = re.findall(f"{re.escape(mark)}(.)", "\n".join(text[:_SAMPLE].splitlines()[:20]))
    spaced = mark == " " or (bool(behind) and set(behind) == {" "})
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, skipinitialspace=spaced)
    for cells in reader:
        if any(cells) or len(cells) > 1:
            rows.append((reader.line_num, cells))
        if most is not None and len(rows) >= most:
            break
    return rows


def _find_delimiter(text: str, usual: str) -> str:
    """The delimiter that gives rows of one length with the most columns; else the one with the most names."""
    best, columns, names = usual, 1, {}
    for mark in dict.fromkeys((usual, *_TRIED)):
        rows = [cells for _, cells in _lines(text, mark, 30)]
        names[mark] = len(rows[0]) if mark != " " else 1
        width = Counter(map(len, rows[1:])).most_common(1)[0][0] if len(rows) > 1 else len(rows[0])
        if width > columns and len(rows[0]) in (width, width - 1) and len(rows[0]) >= 2 + (mark == " "):
            best, columns = mark, width
            if mark == usual:
                return mark
    return best if columns > 1 else max(names, key=lambda mark: names[mark])


def _names_fewer(header: list[str], body: list[tuple[int, list[str]]], quoted: bool) -> bool:
    """Whether each row has one cell more than the header because its first cell is its name.

    Names are all different. Without quotes, whole numbers rise or are those from 0 or 1 on, and a first column with the
    name of an identifier has different cells. No cell may begin with a space: that is a text cut in two by a delimiter
    within it.
    """
    if not body or any(len(cells) != len(header) + 1 for _, cells in body):
        return False
    first, second = ([cells[place] for _, cells in body] for place in (0, 1))
    if len(set(first)) < len(first) or any(cells[-1].startswith(" ") for _, cells in body):
        return False
    if quoted:
        return True
    if (IDENTIFIER.fullmatch(header[0]) or _NAME.fullmatch(header[0])) and len(set(second)) < len(second):
        return False
    if all(name.isdigit() for name in first):
        numbers = [int(name) for name in first]
        rising = sorted(numbers)
        return numbers == rising or (rising[0] in (0, 1) and rising[-1] - rising[0] == len(rising) - 1)
    return not any(re.fullmatch(r"[+-]?\d*[.,]?\d+", name) for name in first)


def _starts_quoted(text: str) -> bool:
    """Whether the rows below the first begin with a quote, as the names that R writes do."""
    rows = [line for line in text[:_SAMPLE].splitlines()[1:-1] if line]
    return bool(rows) and all(line.startswith('"') for line in rows)


def _without_empty_columns(
    header: list[str], body: list[tuple[int, list[str]]]
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The cells without columns that have neither a name nor a cell."""
    unnamed = [place for place, name in enumerate(header) if not name]
    kept = [place for place in range(len(header)) if place not in unnamed or any(cells[place] for _, cells in body)]
    if len(kept) == len(header):
        return header, body
    return [header[place] for place in kept], [(number, [cells[place] for place in kept]) for number, cells in body]


def _refuse_other_lengths(file: Path, header: list[str], body: list[tuple[int, list[str]]], width: int) -> None:
    wrong = [(number, cells) for number, cells in body if len(cells) != width]
    if wrong:
        number, cells = wrong[0]
        many = len(cells) > width
        if header[0].startswith("#") or (many and len(wrong) == len(body) and len(cells) > 2 * width + 1):
            raise DataError(
                file, expected="names of the columns in the first row", got=f"{', '.join(header)[:80]}",
                remedy="Remove the lines above the names of the columns.",
            )  # fmt: skip
        raise DataError(
            file, expected=f"rows of {width} cells, as the first row has",
            got=f"{len(cells)} cells in line {number}" + (f" and {len(wrong) - 1} more lines" if wrong[1:] else "")
            + f": {', '.join(cells[:8])[:80]}",
            remedy="Quote text that contains the delimiter (\"ward 3, east\")."
            + (" If the first cells are names of the rows, begin the first line with the delimiter."
               if all(len(cells) == width + 1 for _, cells in body) else "") if many else
            "The row is cut short: copy the file again, or write its empty cells.",
        )  # fmt: skip
