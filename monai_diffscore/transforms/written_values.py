r"""Reads the texts in the cells of a table as numbers, dates and times, and writes them again.

===============  ===============================  =====================================================
kind             examples                         value
===============  ===============================  =====================================================
number           ``27.5``, ``27,5``, ``7,000``    27.5, 27.5, 7000
censored number  ``<5``, ``> 100``                a number just beyond the limit; the text stays
date, month      ``2024-03-01``, ``01MAR2024``    days since 1970
date and time    ``2024-03-01 07:45``             minutes, or seconds where these are written; a zone that all
                                                  texts have (``Z``, ``+01:00``) stays
time of day      ``07:45``                        minutes, or seconds
code             ``007``, 17 digits               the text
===============  ===============================  =====================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

#: marks of a missing value anywhere in a text file; not "None", which may be an answer
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "<NA>", "null", "NULL", "#N/A", "#NA", "#N/A N/A", "NaT")
#: marks of a missing value only among numbers, dates and times; elsewhere "-" and "?" may be answers
MISSING_AMONG_NUMBERS = (
    ".", "..", "-", "--", "?", "*", "na", "Na", "n.a.", "None", "none", "(null)", "\\N",
    "#VALUE!", "#DIV/0!", "#REF!", "#NUM!", "#NAME?", "#NULL!", "#NV", "#WERT!", "#BEZUG!", "#ZAHL!",
)  # fmt: skip
#: formats of days; the first that fits is used. As in C's strftime, ``%-d`` has no leading zero, ``%^b`` is in
#: capitals and ``%P`` in small letters
_NUMBERED_DAYS = (
    "%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y",
    "%d/%m/%y", "%m/%d/%y", "%d-%m-%y", "%m-%d-%y", "%Y%m%d", "%Y%m", "%Y-%m", "%m/%Y", "%-d.%-m.%Y", "%-d/%-m/%Y",
    "%-m/%-d/%Y", "%-d-%-m-%Y", "%-m-%-d-%Y", "%-d.%-m.%y", "%-d/%-m/%y", "%-m/%-d/%y",
)  # fmt: skip
_NAMED_DAYS = (
    "%d-%b-%Y", "%d/%b/%Y", "%d %b %Y", "%b %d, %Y", "%d-%b-%y", "%d%b%Y", "%b %Y", "%b-%y", "%-d %b %Y", "%b %-d, %Y",
    "%-d-%b-%Y", "%-d-%b-%y",
)  # fmt: skip
_DAYS = (
    *_NUMBERED_DAYS, *_NAMED_DAYS, *(day.replace("%b", "%^b") for day in _NAMED_DAYS),
    "%d %B %Y", "%B %d, %Y", "%-d %B %Y", "%B %-d, %Y", "%d-%B-%Y",
)  # fmt: skip
_TIMES = (
    "%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p", "%I:%M %P", "%-H:%M", "%-H:%M:%S", "%-I:%M %p", "%-I:%M:%S %p",
    "%-I:%M %P",
)  # fmt: skip
#: formats of dates and times of day
MOMENTS = (*_DAYS, *_TIMES)
_DAY_AND_TIME = (
    *(f"{day}{mark}{time}" for day in _DAYS for mark in " T" for time in _TIMES),
    *(f"{day}:{time}" for day in ("%d%b%Y", "%d%^b%Y") for time in ("%H:%M", "%H:%M:%S")),  # SAS
    "%Y%m%d%H%M%S", "%Y%m%d%H%M",
)  # fmt: skip
#: so many different texts of six digits are months (201903); fewer may be numbers
_FEWEST_MONTHS = 6
#: what all texts of a column may have behind their times: zeros of a fraction, and one zone
_ENDING = re.compile(r"(?<=:\d\d)(?:\.0+)?(?: ?(?:Z|UTC|GMT|[+-]\d\d:?(?:\d\d)?))?$")

#: the texts of each directive of a format
_DIRECTIVES = {
    "%Y": r"(?:1[89]|2\d)\d\d", "%b": "[A-Z][a-z]{2}", "%^b": "[A-Z]{3}", "%B": "[A-Z][a-z]{2,8}", "%p": "[AP]M",
    "%P": "[ap]m",
}  # fmt: skip
_SHAPES = {
    form: re.compile(
        re.sub(
            r"%[-^]?[A-Za-z]",
            lambda part: _DIRECTIVES.get(part[0], r"\d{1,2}" if "-" in part[0] else r"\d{2}"),
            form.replace(".", r"\."),
        )
    )
    for form in (*MOMENTS, *_DAY_AND_TIME)
}
#: a date, and perhaps a time, whatever follows it
_LIKE_A_DATE = re.compile(f"(?:{'|'.join(_SHAPES[day].pattern for day in _DAYS)})(?:[ T:]\\d.*)?")
_LIKE_A_TIME = re.compile("|".join(_SHAPES[time].pattern for time in _TIMES))

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+|\d*,\d+)([eE][+-]?\d+)?")
#: commas between thousands, and between lakhs as in India (1,23,456)
_THOUSANDS = re.compile(r"[+-]?([1-9]\d{0,2}(,\d{3})+|[1-9]\d?(,\d{2})*,\d{3})(\.\d*)?")
_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?")
_SPACES = re.compile(r"[+-]?[1-9]\d{0,2}([ '\u00a0\u202f\u2019]\d{3})+([.,]\d*)?")
#: leading zeros (007, 07E2); whole numbers beyond 2 ** 53, which a number would change
_CODE = re.compile(r"[+-]?0\d+([eE]\d+)?")
_DIGITS = re.compile(r"[+-]?\d{16,}")
LARGEST_WHOLE = 2**53
_EUROPEAN = (_COMMA, _POINTS, _SPACES)
_LIMIT = re.compile(r"\s*(<=?|>=?|\u2264|\u2265)\s*(.+)")


def writes_decimal_commas(columns: list[pd.Series], likely: bool) -> bool:
    """Whether numbers have a decimal comma: the commas of some column cannot separate thousands, or its points do.

    Args:
        columns: texts, without missing ones.
        likely: the answer for ambiguous columns, such as one of ``7,000`` only.
    """
    doubtful = False
    for column in columns:
        texts = [text for text in column if not _LIMIT.fullmatch(text) and text not in MISSING_AMONG_NUMBERS]
        commas = [text for text in texts if "," in text]
        if not texts or not all(any(form.fullmatch(text) for form in _EUROPEAN) for text in texts):
            continue
        if not all(_THOUSANDS.fullmatch(text) for text in commas) or _points_separate(texts):
            return True
        doubtful = doubtful or bool(commas)
    return doubtful and likely


def _points_separate(texts: list[str]) -> bool:
    """Whether points separate thousands: some text has two of them, or 5.380 stands beside 538 (decimals do not end
    in a zero where whole numbers have none)."""
    pointed = [text for text in texts if _POINTS.fullmatch(text)]
    if any(text.count(".") > 1 for text in pointed):
        return True
    rounded = any(text.endswith("0") for text in pointed)
    return rounded and len(pointed) < len(texts) and not any("," in text for text in texts)


def decimal_points(texts: Iterable[str]) -> bool:
    """Whether some text has a point that cannot separate thousands (27.5, 0.512)."""
    return any(_PLAIN.fullmatch(text) and "." in text and not _POINTS.fullmatch(text) for text in texts)


def number_of(text: str, decimal_comma: bool = False, point_groups: bool = True) -> float | None:
    """The number in a text, with or without separators of thousands; None for a code (``007``) and other text.

    Args:
        text: of a cell.
        decimal_comma: commas are decimal.
        point_groups: with decimal commas, 1.234 is 1234; False where points of the column are decimal, too.
    """
    text = text.strip()
    if is_code(text):
        return None
    if _PLAIN.fullmatch(text) and not (decimal_comma and point_groups and _POINTS.fullmatch(text)):
        return float(text)
    if _SPACES.fullmatch(text):
        text = re.sub(r"[ '\u00a0\u202f\u2019]", "", text)
        return float(text.replace(",", "."))
    if decimal_comma and (_COMMA.fullmatch(text) or _POINTS.fullmatch(text)):
        return float(text.replace(".", "").replace(",", "."))
    if not decimal_comma and _THOUSANDS.fullmatch(text):
        return float(text.replace(",", ""))
    return None


def is_code(text: str) -> bool:
    """Whether a text of digits would change as a number: it has leading zeros, or more digits than float64 holds."""
    return bool(_CODE.fullmatch(text) or (_DIGITS.fullmatch(text) and abs(int(text)) > LARGEST_WHOLE))


def limit_of(text: str, decimal_comma: bool = False) -> tuple[str, float] | None:
    """Side ("<" or ">") and number of a censored value, such as ``<5``; None for another text."""
    match = _LIMIT.fullmatch(str(text))
    number = None if match is None else number_of(match.group(2), decimal_comma)
    if match is None or number is None:
        return None
    return ("<" if match.group(1)[0] in "<\u2264" else ">"), number


def find_moment(texts: pd.Series) -> str | None:
    """The format that reads all texts as dates or times of day and writes them exactly; None without such a format."""
    written = pd.Series(texts.unique()).astype(str)
    ending = _ENDING.search(written.iloc[0]) if len(written) else None
    tail = ending[0] if ending else ""
    if tail and not written.str.endswith(tail).all():
        return None
    different = written.str.removesuffix(tail)
    for form, shape in _SHAPES.items():
        if not all(map(shape.fullmatch, different)) or (form == "%Y%m" and len(different) < _FEWEST_MONTHS):
            continue
        parsed = pd.to_datetime(different, format=_padded(form), errors="coerce")
        if parsed.notna().all() and (_written(parsed, form) == different).all():
            return f"{form}{tail}"
    return None


def looks_like_moment(text: str) -> bool:
    """Whether a text has the shape of a date or a time of day, in any format."""
    return bool(_LIKE_A_DATE.fullmatch(text) or _LIKE_A_TIME.fullmatch(text))


def _padded(form: str) -> str:
    """The format for reading, which takes numbers with and without leading zeros, and letters of any size."""
    return form.replace("%-", "%").replace("%^", "%").replace("%P", "%p")


def _written(times: pd.Series, form: str) -> pd.Series:
    """The texts of times; the formats with letters of one size have no other letters."""
    texts = times.dt.strftime(form.replace("%^b", "%b").replace("%P", "%p"))
    if "%^b" in form:
        texts = texts.str.upper()
    return texts.str.replace("AM", "am").str.replace("PM", "pm") if "%P" in form else texts


def unit_of(form: str) -> str:
    """The unit of the numbers of a format: "s", "min" or "D"."""
    if "[" in form:
        return form.split("[")[1].rstrip("]")
    return "s" if "%S" in form else "min" if re.search("%-?[HI]", form) else "D"


def moments_to_numbers(texts: pd.Series, form: str) -> np.ndarray:
    """Days, minutes or seconds since 1970 (times of day: since midnight); NaN for a text of another format."""
    if form.startswith(("datetime64", "timedelta64")):
        convert = pd.to_datetime if form.startswith("datetime64") else pd.to_timedelta
        parsed = pd.Series(convert(texts, errors="coerce"))
        parsed = parsed.dt.tz_localize(None) if form.startswith("datetime64") else parsed
    else:
        written = texts.map(lambda cell: f"{cell:.0f}" if isinstance(cell, int | float) and cell == cell else cell)
        parsed = pd.to_datetime(written.astype(object), format=_padded(form), errors="coerce")
    numbers = (parsed - _origin(form)) / pd.Timedelta(1, unit_of(form))
    return np.asarray(numbers, dtype=np.float64)


def numbers_to_moments(numbers: np.ndarray, form: str) -> pd.Series:
    """The inverse: texts, None where a number is NaN."""
    if form.startswith(("datetime64", "timedelta64")):
        since = pd.to_timedelta(pd.Series(np.rint(numbers)), unit=unit_of(form))
        return since if form.startswith("timedelta64") else pd.Timestamp(0) + since
    times = _origin(form) + pd.to_timedelta(pd.Series(np.rint(numbers)), unit=unit_of(form))
    return _written(times, form).astype(object).where(times.notna(), None)


def unit_of_times(times: pd.Series) -> str:
    """The largest unit in which all times or durations are whole numbers: "D", "h", "min", "s" or "ms"."""
    form = "timedelta64" if times.dtype.kind == "m" else "datetime64"
    for unit in ("D", "h", "min", "s"):
        numbers = moments_to_numbers(times, f"{form}[{unit}]")
        if np.array_equal(numbers, np.rint(numbers)):
            return unit
    return "ms"


def _origin(form: str) -> pd.Timestamp | pd.Timedelta:
    if form.startswith("timedelta64"):
        return pd.Timedelta(0)
    if form.startswith("datetime64"):
        return pd.Timestamp(0)
    return pd.Timestamp("1970-01-01" if re.search("%[Yy]", form) else "1900-01-01")
