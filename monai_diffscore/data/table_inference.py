"""The schema of a table, inferred from its values: what cannot be told is refused, not guessed."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.data.delimited import IDENTIFIER
from monai_diffscore.data.tables import names_in
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.table_schema import Column, TableSchema, column_of
from monai_diffscore.transforms.written_values import find_moment, limit_of, moments_to_numbers, unit_of_times

_MOST_DECIMALS = 10
#: numbers of at most so many values, each of so many rows on average, keep these values
_MOST_LEVELS, _ROWS_OF_A_LEVEL = 12, 5


def infer_schema(
    frame: pd.DataFrame,
    label: str | None = None,
    subject: str | None = None,
    exclude: str | Sequence[str] = (),
    categorical: str | Sequence[str] = (),
    most_categories: int = 50,
    source: object = "the table",
) -> TableSchema:
    """The schema of a table, from its values.

    Args:
        frame: the table.
        label, subject, exclude: as :class:`~monai_diffscore.transforms.table_schema.TableSchema` has them.
        categorical: columns of numbers that are codes.
        most_categories: a column of text with more is refused.
        source: for messages.
    Raises:
        DataError: for a column that is empty, of identifiers or free text, of numbers with some text among
            them, or infinite; and for names that are not there.
    """
    exclude, categorical = names_in(exclude), names_in(categorical)
    for role, names in (("label", [label]), ("subject", [subject]), ("exclude", exclude), ("categorical", categorical)):
        for name in names:
            if name is not None:
                column_of(frame, name, role, source)
    left_out = {*exclude, subject}
    columns = [
        _Inference(frame[name], str(name) in categorical, most_categories, source).column()
        for name in frame
        if name not in left_out
    ]
    return TableSchema(tuple(columns), label, subject, tuple(exclude))


def find_schema(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    label: str | None = None,
    subject: str | None = None,
    exclude: str | Sequence[str] = (),
    categorical: str | Sequence[str] = (),
    source: object = "the table",
) -> TableSchema:
    """The schema in a file, if there is a path, else that which :func:`infer_schema` finds.

    A label, a subject and excluded columns take the place of those in the file, or join them.

    Raises:
        DataError: for ``categorical`` beside a file, whose kinds stand in it, and a label that it does not have.
    """
    if path is None:
        return infer_schema(frame, label, subject, exclude, categorical, source=source)
    schema = TableSchema.load(path)
    if categorical:
        raise DataError(
            path, key="categorical", expected="the kinds of the schema", got=f"{list(categorical)}",
            remedy='Change "kind" of these columns in the schema, or give --schema null to infer it anew.',
        )  # fmt: skip
    try:
        return schema.but(label, subject, names_in(exclude))
    except ValueError as error:
        raise DataError(
            path, key="label", expected="a column of the schema", got=str(error), remedy="Name one of them."
        ) from error


@dataclass
class _Inference:
    """What one column is."""

    values: pd.Series
    coded: bool
    most_categories: int
    source: object

    def column(self) -> Column:
        there = self.values.dropna()
        if not len(there):
            raise self._problem("values", "none", self._leave_out)
        self._refuse_identifiers(there)
        kind = there.dtype.kind if isinstance(there.dtype, np.dtype) else ""
        if kind in ("m", "M") or isinstance(there.dtype, pd.DatetimeTZDtype):
            return self._of_times(there)
        if pd.api.types.is_numeric_dtype(there.dtype) and not pd.api.types.is_bool_dtype(there.dtype):
            return self._of_numbers(there.to_numpy(dtype=np.float64))
        return self._of_names(there)

    def _of_numbers(self, numbers: np.ndarray, **further: Any) -> Column:
        bad = int((~np.isfinite(numbers)).sum())
        if bad:
            raise self._problem("finite numbers", f"{bad} infinite", "Set them to missing.")
        whole = bool((numbers == np.rint(numbers)).all())
        different = np.unique(numbers)
        if self.coded or (len(different) <= 2 and not further):
            write = (lambda number: str(int(number))) if whole else (lambda number: str(float(number)))
            names = pd.Series([write(number) for number in numbers])
            return self._categorical(names, [write(n) for n in different], "integer" if whole else "number")
        few = len(different) <= _MOST_LEVELS and len(numbers) >= _ROWS_OF_A_LEVEL * len(different)
        # counts may lack a value by chance; doses of 10, 20 and 50 do not
        regular = whole and len(different) > (different[-1] - different[0] + 1) / 2
        levels = tuple(different.tolist()) if few and not regular and not further else ()
        return Column(
            str(self.values.name),
            "integer" if whole else "continuous",
            self._missing,
            low=float(numbers.min()),
            high=float(numbers.max()),
            decimals=_decimals(numbers),
            mean=float(numbers.mean()),
            std=float(numbers.std()),
            **{"levels": levels, "dtype": self._dtype, **further},
        )

    def _of_times(self, there: pd.Series) -> Column:
        """Dates, times and durations as pandas holds them."""
        moment = f"{'timedelta64' if there.dtype.kind == 'm' else 'datetime64'}[{unit_of_times(there)}]"
        numbers = np.rint(moments_to_numbers(there, moment))
        return self._of_numbers(numbers, moment=moment, levels=_few_levels(numbers), dtype=str(self.values.dtype))

    def _of_names(self, there: pd.Series) -> Column:
        names = there.map(str).astype(object)
        if isinstance(there.dtype, pd.CategoricalDtype):
            return self._categorical(names, [str(category) for category in there.cat.categories], "text")
        if pd.api.types.is_bool_dtype(there.dtype) or set(map(type, there)) == {bool}:
            return self._categorical(names, sorted(names.unique()), "boolean")
        moment = None if self.coded else find_moment(names)
        if moment is not None:
            numbers = moments_to_numbers(names, moment)
            dates = "date" if set(map(type, there)) == {datetime.date} else self._dtype
            return self._of_numbers(numbers, moment=moment, levels=_few_levels(numbers), dtype=dates)
        numbers = pd.to_numeric(names, errors="coerce")
        limits = {text: limit_of(text) for text in names[numbers.isna()].unique()}
        if not self.coded and limits and None not in limits.values():
            return self._of_limits(names, numbers, {text: found for text, found in limits.items() if found})
        codes = names.str.fullmatch(r"[+-]?0\d+").any()
        if not self.coded and not codes and numbers.notna().mean() > 0.5:
            text = names[numbers.isna()]
            got = f"{len(text)} cells of text, such as {text.iloc[0]!r}" if len(text) else "numbers written as text"
            remedy = "Give what stands for a missing value with --missing, or list the column in categorical. "
            raise self._problem("numbers alone, or text alone", got, f"{remedy}{self._leave_out}")
        return self._categorical(names, sorted(names.unique()), "text")

    def _of_limits(self, names: pd.Series, numbers: pd.Series, limits: dict[str, tuple[str, float]]) -> Column:
        """Numbers of which some are known by a limit alone: one below, one above."""
        sides = [side for side, _ in limits.values()]
        known = numbers.dropna()
        if len(set(sides)) < len(sides) or not len(known):
            raise self._problem(
                "one limit below and one above, such as '<5', among numbers", f"{', '.join(limits)}",
                f"Write one limit, or list the column in categorical. {self._leave_out}",
            )  # fmt: skip
        values, further = numbers.copy(), {}
        step = 10.0 ** -(_decimals(known.to_numpy(dtype=np.float64)) or 0)
        for text, (side, limit) in limits.items():
            if (known < limit).any() if side == "<" else (known > limit).any():
                raise self._problem(
                    f"numbers on one side of the limit {text!r}", f"{known.min() if side == '<' else known.max():g}",
                    f"Write all of them, or all by the limit; or list the column in categorical. {self._leave_out}",
                )  # fmt: skip
            # just beyond: the limit itself may be a number that is known
            values[names == text] = round(limit - step if side == "<" else limit + step, _MOST_DECIMALS)
            further["below" if side == "<" else "above"] = text
        return self._of_numbers(values.to_numpy(dtype=np.float64), **further)

    def _refuse_identifiers(self, there: pd.Series) -> None:
        """Whole numbers and texts that name a row or a patient, by the column's name and how many differ."""
        if pd.api.types.is_float_dtype(there.dtype) and (there != there.round()).any():
            return
        different = there.nunique()
        if IDENTIFIER.fullmatch(str(self.values.name)) and not self.coded and different > max(20, len(there) / 10):
            name = self.values.name
            raise self._problem(
                "no identifier among the columns", f"{different} different values in {len(there)} rows",
                f"If rows of one belong together, give --subject {name}. {self._leave_out}",
            )  # fmt: skip

    def _categorical(self, names: pd.Series, order: list[str], kind: str) -> Column:
        if len(order) > self.most_categories or (kind == "text" and len(order) == len(names) > 10):
            raise self._problem(
                f"at most {self.most_categories} categories, which come back",
                f"{len(order)} different values in {len(names)} rows: identifiers, or free text",
                f"Name it as subject, or group its values. {self._leave_out}",
            )
        counts = names.value_counts()
        shares = tuple(float(counts.get(category, 0) / len(names)) for category in order)
        return Column(
            str(self.values.name), "categorical", self._missing, categories=tuple(order), shares=shares, type=kind,
            dtype=self._dtype,
        )  # fmt: skip

    @property
    def _missing(self) -> float:
        return float(self.values.isna().mean())

    @property
    def _leave_out(self) -> str:
        return f"Leave it out with --exclude {self.values.name}."

    @property
    def _dtype(self) -> str | None:
        """The type of the column, if it is none that a text file would give."""
        name = str(self.values.dtype)
        if isinstance(self.values.dtype, pd.CategoricalDtype):
            return "ordered category" if self.values.cat.ordered else "category"
        return None if name in ("int64", "float64", "object", "bool", "str") else name

    def _problem(self, expected: str, got: str, remedy: str) -> DataError:
        return DataError(self.source, key=str(self.values.name), expected=expected, got=got, remedy=remedy)


def _few_levels(numbers: np.ndarray) -> tuple[float, ...]:
    """The different numbers, where each is there often and they are irregular."""
    different = np.unique(numbers)
    return tuple(different.tolist()) if len(different) <= 2 else ()


def _decimals(numbers: np.ndarray) -> int | None:
    """The fewest decimals that all numbers can be written with; None if that is more than ten."""
    for count in range(_MOST_DECIMALS + 1):
        if np.array_equal(np.round(numbers, count), numbers):
            return count
    return None
