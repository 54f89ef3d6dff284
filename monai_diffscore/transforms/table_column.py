"""One column of a table: its kind, its values in files, and their numbers.

============  =======================================  ====================================================
kind          values                                   generated tables keep
============  =======================================  ====================================================
continuous    numbers                                  range, number of decimals, few levels, limits (<5)
integer       whole numbers, dates, times of day       range; whole numbers; the format of dates and times
categorical   text, yes and no, or at most two         the categories, in their order, and their type
              different numbers
============  =======================================  ====================================================

A column with ``missing`` > 0 may lack values. The number of a category is its place, that of a missing value is NaN.
The inverse is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.written_values import moments_to_numbers, numbers_to_moments

KINDS = ("continuous", "integer", "categorical")
#: how the categories of a column are stored
TYPES: dict[str, Callable[[str], Any]] = {
    "text": str,
    "integer": int,
    "number": float,
    "boolean": lambda name: name == "True",
}


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: of the column.
        kind: "continuous", "integer" or "categorical".
        missing: share of the rows that lack a value; 0 requires a value in each row.
        low, high: range of the numbers.
        decimals: number of decimals; None keeps all.
        mean, std: of the numbers.
        categories: their names, in order.
        shares: share of each category, among the rows that have a value.
        type: type of the categories in files: "text", "integer", "number" or "boolean".
        levels: the only numbers of the column, if they are few.
        moment: format of dates or times of day, such as "%Y-%m-%d"; their numbers are days, minutes or seconds. Or a
            type of pandas, such as "datetime64[D]" or "timedelta64[min]"; their numbers are in its unit.
        below, above: text for a number below or above a limit, such as "<5"; it stands for ``low`` or ``high``.
        dtype: type of the column in Parquet, if pandas would choose another.
    Raises:
        ValueError: for an unknown kind or type, low > high, or unequal numbers of categories and shares.
    """

    name: str
    kind: str
    missing: float = 0.0
    low: float | None = None
    high: float | None = None
    decimals: int | None = None
    mean: float | None = None
    std: float | None = None
    categories: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    type: str = "text"
    levels: tuple[float, ...] = ()
    moment: str | None = None
    below: str | None = None
    above: str | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(map(str, self.categories)))  # JSON has lists
        object.__setattr__(self, "shares", tuple(self.shares))
        object.__setattr__(self, "levels", tuple(self.levels))
        numbers = (self.low, self.high, self.mean, self.std)
        problem = ""
        if self.kind not in KINDS or self.type not in TYPES or not 0 <= self.missing < 1:
            problem = f"a kind among {KINDS}, a type among {tuple(TYPES)} and missing in [0, 1)"
        elif self.kind == "categorical" and (
            not self.categories
            or len(set(self.categories)) < len(self.categories)
            or len(self.shares) != len(self.categories)
            or min(self.shares) < 0
            or sum(self.shares) <= 0
        ):
            problem = "different categories and a share for each"
        elif self.kind != "categorical" and (None in numbers or self.low > self.high or self.std < 0):  # type: ignore[operator]
            problem = "low <= high, a mean and a std >= 0"
        if problem:
            raise ValueError(f"The column {self.name!r} needs {problem}, got {self}.")

    @property
    def numeric(self) -> bool:
        return self.kind != "categorical"

    def numbers(self, values: pd.Series, source: object) -> np.ndarray:
        """Values as numbers [N] float64.

        Raises:
            DataError: for text in place of a number, an unknown category, a value out of range, or a missing one.
        """
        is_missing = values.isna().to_numpy()
        if self.numeric:
            numbers = self._numbers_of(values)
            with np.errstate(invalid="ignore"):
                outside = (numbers < self.low) | (numbers > self.high) | (np.isnan(numbers) & ~is_missing)
            fraction = (self.kind == "integer") & (numbers != np.rint(numbers)) & ~np.isnan(numbers)
            self._refuse(values, outside, f"numbers from {self.low:g} to {self.high:g}", source)
            self._refuse(values, fraction, "whole numbers", source)
        else:
            names = pd.Index(
                [None if empty else self._name(value) for value, empty in zip(values, is_missing, strict=True)]
            )
            places = pd.Index(self.categories).get_indexer(names)
            self._refuse(values, (places < 0) & ~is_missing, f"one of {list(self.categories)[:20]}", source)
            numbers = np.where(places < 0, np.nan, places.astype(np.float64))
        if not self.missing:
            self._refuse(values, is_missing, "a value in each row", source)
        return numbers

    def values(self, numbers: np.ndarray) -> pd.Series:
        """The inverse of :meth:`numbers`, in the type of the file."""
        values = self._values(numbers)
        if self.dtype is None:
            return values
        try:
            if self.dtype.endswith("category"):
                return values.astype(pd.CategoricalDtype(list(self.categories), self.dtype.startswith("ordered")))
            if self.dtype in ("date", "time"):
                return getattr(pd.to_datetime(values, format=self.moment).dt, self.dtype)
            zone = getattr(pd.api.types.pandas_dtype(self.dtype), "tz", None)
            if zone is not None:  # in an hour that clocks repeat: the second time
                values = values.dt.tz_localize(zone, ambiguous=np.zeros(len(values), bool), nonexistent="shift_forward")
            return values.astype(self.dtype)
        except (TypeError, ValueError):  # the type has no missing value, as int64
            return values

    def _values(self, numbers: np.ndarray) -> pd.Series:
        is_missing = np.isnan(numbers)
        if self.moment is not None:
            return numbers_to_moments(numbers, self.moment).rename(self.name)
        if self.below or self.above:
            limits = {limit: text for text, limit in ((self.below, self.low), (self.above, self.high)) if text}
            digits = (lambda number: str(round(number))) if self.kind == "integer" else repr
            texts = [
                None if empty else limits.get(n) or digits(float(n))
                for n, empty in zip(numbers, is_missing, strict=True)
            ]
            return pd.Series(texts, name=self.name, dtype=object)
        if self.kind == "continuous":
            return pd.Series(numbers, name=self.name)
        whole = np.where(is_missing, 0, np.rint(np.nan_to_num(numbers))).astype(np.int64)
        if self.kind == "integer" and not self.missing and not is_missing.any():
            return pd.Series(whole, name=self.name)
        if self.kind == "integer":
            return pd.Series(pd.array(whole, dtype="Int64"), name=self.name).mask(is_missing)
        convert = TYPES[self.type]
        names = [
            None if empty else convert(self.categories[place]) for place, empty in zip(whole, is_missing, strict=True)
        ]
        full = not self.missing and not is_missing.any()
        if full and self.type != "text":
            return pd.Series(names, name=self.name)
        kind = {"text": "object", "integer": "Int64", "number": "float64", "boolean": "boolean"}[self.type]
        return pd.Series(pd.array(names, dtype=kind) if kind != "object" else names, name=self.name, dtype=kind)

    def within(self, numbers: np.ndarray) -> np.ndarray:
        """The nearest values that the column allows; NaN stays NaN."""
        if not self.numeric:
            return np.clip(np.rint(numbers), 0, len(self.categories) - 1)
        if self.levels:
            levels = np.array(self.levels)
            near = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, np.nan_to_num(numbers))]
            return np.where(np.isnan(numbers), np.nan, near)
        rounded = np.rint(numbers) if self.kind == "integer" else numbers
        if self.kind == "continuous" and self.decimals is not None:
            rounded = np.round(numbers, self.decimals)
        return np.clip(rounded, self.low, self.high)

    def describe(self) -> str:
        """One line for a terminal."""
        if self.moment is not None:
            first, last = self.values(np.array([self.low, self.high], dtype=float))
            text = f"{first} to {last}, as {self.moment}"
        elif self.numeric:
            text = f"{self.low:g} to {self.high:g}, mean {self.mean:.4g}, std {self.std:.4g}"
            text += f", the levels {', '.join(f'{level:g}' for level in self.levels)}" if self.levels else ""
            text += "".join(f", {limit}" for limit in (self.below, self.above) if limit)
            text += f", {self.decimals} decimals" if self.kind == "continuous" and self.decimals is not None else ""
        else:
            text = ", ".join(f"{n} {share:.0%}" for n, share in zip(self.categories, self.shares, strict=True))
        return f"{self.kind:12} {text}" + (f"; missing {self.missing:.1%}" if self.missing else "")

    def _numbers_of(self, values: pd.Series) -> np.ndarray:
        """Numbers of the cells, NaN for a cell without a number."""
        if self.moment is not None:
            numbers = moments_to_numbers(values, self.moment)
            return np.rint(numbers) if "[" in self.moment else numbers  # a type of pandas may hold parts of a unit
        for text, limit in ((self.below, self.low), (self.above, self.high)):
            if text is not None:
                values = values.where(values != text, limit)
        return pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)

    def _name(self, value: Any) -> str:
        """The name of a category, for any type that pandas chose for the column."""
        convert = {"integer": int, "number": float}.get(self.type)
        return str(value) if convert is None or isinstance(value, str) else str(convert(value))

    def _refuse(self, values: pd.Series, bad: np.ndarray, expected: str, source: object) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(
                source,
                key=self.name,
                expected=expected,
                got=f"{int(bad.sum())} others, the first in row {row}: {values.iloc[row]!r}",
                remedy="Correct the cells, or change the column in the schema (low, high, categories, missing, kind).",
            )


def column_of(frame: pd.DataFrame, name: str, role: str, source: object) -> pd.Series:
    """A column of a table.

    Raises:
        DataError: if the table has no such column.
    """
    if name not in frame:
        raise DataError(
            source, key=role, expected=f"a column {name!r}", got=f"{list(frame.columns)[:20]}",
            remedy=f"Name one of these columns as {role}, or declare none.",
        )  # fmt: skip
    return frame[name]
