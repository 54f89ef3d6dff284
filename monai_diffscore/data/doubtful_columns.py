"""Columns that may not be what they seem: codes of missing values, numbers of rows or patients, one category in two
spellings, and a first row without names.

The values alone do not decide it, so a doubt is a sentence with the flag that settles it, and no error.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from monai_diffscore.data.tables import flag_of
from monai_diffscore.transforms.table_schema import TableSchema
from monai_diffscore.transforms.written_values import number_of

#: codes of missing values: -1, -7, -8, -9, 9, and 7, 8 or 9 repeated
_CODE = re.compile(r"-1|-[78]|-?(77+|88+|9+)")
#: from this size on, different numbers of one length in each row are more likely names than amounts
_LARGE = 100_000
_FEWEST_ROWS = 20


def doubts(frame: pd.DataFrame, schema: TableSchema) -> list[str]:
    """One sentence for each doubt.

    A code, such as -999, is the smallest or the largest value of its column, stands in two rows or more, and is far
    from the other values. Numbers of rows are whole and different, and without gaps, rising, or large. Two spellings
    differ by case or blanks. A first row is of values if the name of each column of numbers is a number within it.

    Args:
        frame: the table.
        schema: of the table; its columns of plain numbers are looked at.
    """
    columns = {c.name: frame[c.name].dropna() for c in schema.columns if c.numeric and c.moment is None}
    numbers = {name: np.asarray(pd.to_numeric(c, errors="coerce").dropna(), float) for name, c in columns.items()}
    codes = {name: code for name, values in numbers.items() if (code := _code_of_missing(values)) is not None}
    texts = _without_header(schema) + _spellings(schema)
    for name, code in codes.items():
        rows = int((numbers[name] == code).sum())
        others = [other for other, values in numbers.items() if codes.get(other) != code and code in values]
        rest = numbers[name][numbers[name] != code]
        remedy = f"--missing={code:g} makes it so"
        if others:
            remedy = f"empty these cells, because {code:g} is a value of {others[0]}, too"
        texts.append(
            f"{name}: {code:g} stands in {rows} of {len(frame)} rows, far from the other values ({rest.min():g} to "
            f"{rest.max():g}). If it means missing, {remedy}."
        )
    for name, values in numbers.items():
        if _numbers_of_rows(values) and name != schema.label:
            texts.append(
                f"{name}: each row has another whole number ({values.min():.0f} to {values.max():.0f}). If they number "
                f"rows or patients, {flag_of('exclude', name)} leaves them out."
            )
    return texts


def _without_header(schema: TableSchema) -> list[str]:
    plain = [column for column in schema.columns if column.numeric and column.moment is None]
    names = [(number_of(column.name), column.low or 0.0, column.high or 0.0) for column in plain]
    if not names or not all(name is not None and low <= name <= high for name, low, high in names):
        return []
    if [name for name, _, _ in names] == list(range(1, len(names) + 1)):  # numbered columns
        return []
    first = ", ".join(column.name for column in schema.columns[:6])
    return [f"the first row ({first}) seems to hold values. If so, write the names of the columns above it."]


def _spellings(schema: TableSchema) -> list[str]:
    texts = []
    for column in schema.columns:
        alike: dict[str, list[str]] = {}
        for category in column.categories if column.type == "text" else ():
            alike.setdefault(" ".join(category.casefold().split()), []).append(category)
        pairs = [", ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
        if pairs:
            texts.append(
                f"{column.name}: {'; '.join(pairs[:4])} differ by case or blanks alone. If they mean the same, write "
                "them alike."
            )
    return texts


def _code_of_missing(values: np.ndarray) -> float | None:
    """The code of missing values in a column; None without one."""
    different, counts = np.unique(values, return_counts=True)
    if len(different) < 3:
        return None
    for place, rest in ((0, different[1:]), (-1, different[:-1])):
        code, gap = different[place], abs(different[place] - rest[place])
        if counts[place] < 2 or not _CODE.fullmatch(f"{code:g}"):
            continue
        far = (rest[-1] - rest[0]) / (1 if abs(code) < 10 else 2)
        if gap > max(far, 1) or (code <= -77 and rest[0] >= 0):
            return float(code)
    return None


def _numbers_of_rows(values: np.ndarray) -> bool:
    """Whether whole numbers are all different, and without gaps, rising, or large."""
    if len(values) < _FEWEST_ROWS or (values != np.rint(values)).any() or len(np.unique(values)) < len(values):
        return False
    low, high = values.min(), values.max()
    alike = low >= _LARGE and len(f"{low:.0f}") == len(f"{high:.0f}")
    return bool(high - low == len(values) - 1 or (np.diff(values) > 0).all() or alike)
