"""Columns of numbers that may not be what they seem: codes of missing values, and numbers of rows or patients.

The values alone do not decide it, so a doubt is a sentence with the flag that settles it, and no error.
"""

from __future__ import annotations

import re
import shlex

import numpy as np
import pandas as pd

from monai_diffscore.transforms.table_schema import TableSchema

#: codes of missing values: -1, -7, -8, -9, 9, and 7, 8 or 9 repeated
_CODE = re.compile(r"-1|-[78]|-?(77+|88+|9+)")
#: from this size on, different numbers of one length in each row are more likely names than amounts
_LARGE = 100_000
_FEWEST_ROWS = 20


def doubts(frame: pd.DataFrame, schema: TableSchema) -> list[str]:
    """One sentence for each column of numbers that may hold codes of missing values, or numbers of rows.

    A code, such as -999, is the smallest or the largest value of its column, stands in two rows or more, and is far
    from the other values. Numbers of rows are whole and different, and without gaps, rising, or large.

    Args:
        frame: the table.
        schema: of the table; its columns of plain numbers are looked at.
    """
    columns = {c.name: frame[c.name].dropna() for c in schema.columns if c.numeric and c.moment is None}
    numbers = {name: np.asarray(pd.to_numeric(c, errors="coerce").dropna(), float) for name, c in columns.items()}
    codes = {name: code for name, values in numbers.items() if (code := _code_of_missing(values)) is not None}
    texts = []
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
                f"rows or patients, --exclude {shlex.quote(name)} leaves them out."
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
