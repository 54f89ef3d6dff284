r"""Reads the texts in the cells of a table as numbers, dates and times, and writes them again.

===============  ===============================  =====================================================
kind             examples                         value
===============  ===============================  =====================================================
number           ``27.5``, ``27,5``, ``7,000``    27.5, 27.5, 7000
censored number  ``<5``, ``> 100``                a number just beyond the limit; the text stays
date, month      ``2024-03-01``, ``20240301``     days since 1970
date and time    ``2024-03-01 07:45``             minutes, or seconds where these are written
time of day      ``07:45``                        minutes, or seconds
code             ``007``, ``02139``               the text
===============  ===============================  =====================================================
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

#: marks of a missing value anywhere in a text file; not "None", which may be an answer
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "<NA>", "null", "NULL", "#N/A", "#NA", "#N/A N/A", "NaT")
#: marks of a missing value only among numbers, dates and times; elsewhere "-" and "?" may be answers
MISSING_AMONG_NUMBERS = (".", "..", "-", "--", "?", "*", "#VALUE!", "#DIV/0!", "#REF!", "#NUM!", "#NAME?", "#NULL!")
#: formats of days; the first that fits is used. ``%-d`` has no leading zero, as in C's strftime
_DAYS = (
    "%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y", "%d-%b-%Y", "%d %b %Y",
    "%b %d, %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%y", "%Y%m%d", "%Y-%m", "%m/%Y", "%b %Y",
    "%-d.%-m.%Y", "%-d/%-m/%Y", "%-m/%-d/%Y", "%-d %b %Y", "%b %-d, %Y", "%-d.%-m.%y", "%-m/%-d/%y",
)  # fmt: skip
_TIMES = ("%H:%M", "%H:%M:%S", "%I:%M %p", "%-H:%M", "%-I:%M %p")
#: formats of dates and times of day
MOMENTS = (*_DAYS, *_TIMES)
_DAY_AND_TIME = (
    *(f"{day}{mark}{time}" for day in _DAYS for mark in " T" for time in _TIMES),
    "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ",
)  # fmt: skip

#: the texts of each directive of a format
_DIRECTIVES = {"%Y": r"(?:1[89]|2\d)\d\d", "%b": "[A-Z][a-z]{2}", "%p": "[AP]M"}
_SHAPES = {
    form: re.compile(
        re.sub(
            "%-?[A-Za-z]",
            lambda part: _DIRECTIVES.get(part[0], r"\d{1,2}" if "-" in part[0] else r"\d{2}"),
            form.replace(".", r"\."),
        )
    )
    for form in (*MOMENTS, *_DAY_AND_TIME)
}

_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+|\d*,\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
_POINTS = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?")
_SPACES = re.compile(r"[+-]?[1-9]\d{0,2}([ '\u00a0\u202f\u2019]\d{3})+([.,]\d*)?")
_CODE = re.compile(r"[+-]?0\d+")
_LIMIT = re.compile(r"\s*(<=?|>=?|\u2264|\u2265)\s*(.+)")


def writes_decimal_commas(columns: list[pd.Series], likely: bool) -> bool:
    """Whether numbers have a decimal comma: the commas of some column cannot separate thousands.

    Args:
        columns: texts, without missing ones.
        likely: the answer for ambiguous columns, such as one of ``7,000`` only.
    """
    doubtful = False
    for column in columns:
        texts = [text for text in column if not _LIMIT.fullmatch(text) and text not in MISSING_AMONG_NUMBERS]
        commas = [text for text in texts if "," in text]
        if commas and all(_COMMA.fullmatch(text) or _POINTS.fullmatch(text) for text in texts):
            if not all(_THOUSANDS.fullmatch(text) for text in commas):
                return True
            doubtful = True
    return doubtful and likely


def number_of(text: str, decimal_comma: bool = False) -> float | None:
    """The number in a text, with or without separators of thousands; None for a code (``007``) and other text."""
    text = text.strip()
    if _CODE.fullmatch(text):
        return None
    if _PLAIN.fullmatch(text) and not (decimal_comma and _POINTS.fullmatch(text)):
        return float(text)
    if _SPACES.fullmatch(text):
        text = re.sub(r"[ '\u00a0\u202f\u2019]", "", text)
        return float(text.replace(",", "."))
    if decimal_comma and (_COMMA.fullmatch(text) or _POINTS.fullmatch(text)):
        return float(text.replace(".", "").replace(",", "."))
    if not decimal_comma and _THOUSANDS.fullmatch(text):
        return float(text.replace(",", ""))
    return None


def limit_of(text: str, decimal_comma: bool = False) -> tuple[str, float] | None:
    """Side ("<" or ">") and number of a censored value, such as ``<5``; None for another text."""
    match = _LIMIT.fullmatch(str(text))
    number = None if match is None else number_of(match.group(2), decimal_comma)
    if match is None or number is None:
        return None
    return ("<" if match.group(1)[0] in "<\u2264" else ">"), number


def find_moment(texts: pd.Series) -> str | None:
    """The format that reads all texts as dates or times of day and writes them exactly; None without such a format."""
    different = pd.Series(texts.unique()).astype(str)
    for form, shape in _SHAPES.items():
        if not all(map(shape.fullmatch, different)):
            continue
        parsed = pd.to_datetime(different, format=_padded(form), errors="coerce")
        if parsed.notna().all() and (parsed.dt.strftime(form) == different).all():
            return form
    return None


def looks_like_moment(text: str) -> bool:
    """Whether a text has the shape of a date or a time of day, in any format."""
    return any(shape.fullmatch(text) for shape in _SHAPES.values())


def _padded(form: str) -> str:
    """The format for reading, which takes numbers with and without leading zeros."""
    return form.replace("%-", "%")


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
    return times.dt.strftime(form).astype(object).where(times.notna(), None)


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
