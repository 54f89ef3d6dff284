"""Types of the columns of text files: numbers, answers, and texts that a schema reads further."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from monai_diffscore.transforms.written_values import (
    LARGEST_WHOLE,
    MISSING,
    MISSING_AMONG_NUMBERS,
    decimal_points,
    find_moment,
    limit_of,
    number_of,
    writes_decimal_commas,
)


def numbers_of_marks(missing: Sequence[str]) -> list[float]:
    """The marks of missing values that are numbers: -999 is -999.0, too."""
    return [number for number in map(number_of, missing) if number is not None]


def type_columns(frame: pd.DataFrame, delimiter: str, missing: Sequence[str]) -> pd.DataFrame:
    """Converts columns of text to numbers or booleans, where all of their cells allow it."""
    # \u2212 is the minus sign of typesetting
    stripped = frame.apply(lambda column: column.str.strip().str.replace("\u2212", "-"))
    texts_of = {name: stripped[name][~stripped[name].isin([*MISSING, *missing])] for name in frame}
    comma = writes_decimal_commas(list(texts_of.values()), likely=delimiter == ";")
    numbers = numbers_of_marks(missing)
    if numbers:
        texts_of = {name: t[~t.map(lambda text: number_of(text, comma)).isin(numbers)] for name, t in texts_of.items()}
    columns = {name: _typed_column(frame[name], texts, comma) for name, texts in texts_of.items()}
    return pd.DataFrame(columns, index=frame.index)


def _typed_column(column: pd.Series, texts: pd.Series, comma: bool) -> pd.Series:
    """Converts one column; ``texts`` are its stripped cells without marks of missing values."""
    is_missing = ~column.index.isin(texts.index)
    if set(texts) <= {"True", "False"} and len(texts):
        answers = column.str.strip().eq("True")
        return answers if not is_missing.any() else answers.astype(object).mask(is_missing)
    plain = texts[~texts.isin(MISSING_AMONG_NUMBERS)]
    groups = not decimal_points(plain)
    parsed = {text: number_of(text, comma, groups) for text in plain.unique()}
    numbers = [number for number in parsed.values() if number is not None]
    if not len(plain):
        return pd.Series(np.nan, index=column.index, name=column.name)
    others = [text for text, number in parsed.items() if number is None]
    dates = find_moment(plain) is not None  # 20240301 is one
    if numbers and not others and not dates:
        values = plain.map(parsed).reindex(column.index).astype(np.float64)
        point = "," if comma else "."
        whole = (values.dropna() == values.dropna().round()).all() and values.abs().max() < LARGEST_WHOLE
        if not whole or any(point in text or "e" in text.lower() for text in parsed):
            return values
        return values.astype(np.int64 if values.notna().all() else "Int64")
    if dates or all(limit_of(text, comma) for text in others):
        written = plain if dates else plain.map(lambda text: _with_point(text, parsed[text], comma))
        return written.reindex(column.index).astype(object)  # marks of missing numbers are missing here too
    # a text keeps the blanks around it
    return column.where(~is_missing, None).astype(object)


def _with_point(text: str, number: float | None, comma: bool) -> str:
    """A number as a decimal text with a point; a limit (``<0,5``) with a point in place of its comma."""
    if number is None:
        return text.replace(",", ".") if comma else text
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text) and not comma:
        return text
    return f"{number:.0f}" if number == round(number) and abs(number) < LARGEST_WHOLE else repr(number)
