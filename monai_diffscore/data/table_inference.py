"""Infers the schema of a table from its values. Ambiguous columns raise an error."""

from __future__ import annotations

import datetime
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.data.delimited import IDENTIFIER
from monai_diffscore.data.doubtful_columns import doubts
from monai_diffscore.data.tables import columns_in, flag_of
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.table_column import Column, column_of
from monai_diffscore.transforms.table_schema import TableSchema
from monai_diffscore.transforms.written_values import (
    LARGEST_WHOLE,
    find_moment,
    is_code,
    limit_of,
    looks_like_moment,
    moments_to_numbers,
    number_of,
    unit_of_times,
)

logger = logging.getLogger(__name__)

_MOST_DECIMALS = 10
#: a column with at most so many different numbers, of so many rows each on average, keeps these numbers
_MOST_LEVELS, _ROWS_OF_A_LEVEL = 40, 5
#: words for types of cells that Parquet gives back; types of cells that are no values of a column
_MOMENT_OBJECTS = {datetime.date: "date", datetime.time: "time"}
_NO_CELLS = (list, dict, set, tuple, bytes, np.ndarray)
#: so many columns of numbers beside one of names may be a matrix of genes
_COLUMNS_OF_A_MATRIX = 20


def infer_schema(
    frame: pd.DataFrame,
    label: str | None = None,
    subject: str | None = None,
    exclude: str | Sequence[str] = (),
    categorical: str | Sequence[str] = (),
    most_categories: int = 50,
    source: object = "the table",
) -> TableSchema:
    """Infers the schema of a table from its values.

    Args:
        frame: the table.
        label, subject, exclude: of :class:`~monai_diffscore.transforms.table_schema.TableSchema`.
        categorical: names of the columns whose numbers are codes.
        most_categories: largest number of categories of a column.
        source: for messages.
    Raises:
        DataError: for an empty column, identifiers, free text, numbers mixed with text, or infinite numbers; for the
            name of a column that the table lacks.
    """
    exclude, categorical = columns_in(exclude, frame), columns_in(categorical, frame)
    for role, names in (("label", [label]), ("subject", [subject]), ("exclude", exclude), ("categorical", categorical)):
        for name in names:
            if name is not None:
                column_of(frame, name, role, source)
    left_out = {*exclude, subject}
    numbers = sum(pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes)
    matrix = numbers == len(frame.columns) - 1 >= _COLUMNS_OF_A_MATRIX
    columns = [
        _Inference(frame[name], str(name) in categorical, most_categories, source, matrix).column()
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
    """The schema of a file; without a path, that of :func:`infer_schema`, and a warning for each doubtful column.

    ``label`` and ``subject`` replace those of the file, ``exclude`` adds to its excluded columns.

    Raises:
        DataError: for ``categorical`` beside a path, because the file has the kinds; for a label that is no column.
    """
    if path is None:
        schema = infer_schema(frame, label, subject, exclude, categorical, source=source)
        for doubt in doubts(frame, schema):
            logger.warning(f"{source}: {doubt}")
        return schema
    schema = TableSchema.load(path)
    if categorical:
        raise DataError(
            path, key="categorical", expected="the kinds of the schema", got=f"{list(categorical)}",
            remedy='Change "kind" of these columns in the schema, or leave --schema out to infer it anew.',
        )  # fmt: skip
    try:
        return schema.with_choices(label, subject, columns_in(exclude, frame))
    except ValueError as error:
        raise DataError(
            path, key="label", expected="a column of the schema", got=str(error), remedy="Name one of its columns."
        ) from error


@dataclass
class _Inference:
    """Infers one column."""

    values: pd.Series
    coded: bool
    most_categories: int
    source: object
    matrix: bool = False  # all other columns of the table are numbers, and many

    def column(self) -> Column:
        values = self.values.dropna()
        if not len(values):
            raise self._problem("values", "none", self._leave_out)
        self._refuse_objects(values)
        self._refuse_identifiers(values)
        kind = values.dtype.kind if isinstance(values.dtype, np.dtype) else ""
        if kind in ("m", "M") or isinstance(values.dtype, pd.DatetimeTZDtype):
            return self._of_times(values)
        if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
            whole = pd.api.types.is_integer_dtype(values.dtype) and not self.coded
            if whole and max(-int(values.min()), int(values.max())) > LARGEST_WHOLE:  # float64 would change them
                return self._categorical(values.map(str), sorted(values.map(str).unique()), "integer")
            moment = find_moment(values.astype(str)) if whole else None
            if moment is not None:  # 20240301
                return self._of_moments(values.astype(str), moment, str(values.dtype))
            return self._of_numbers(values.to_numpy(dtype=np.float64))
        return self._of_names(values)

    def _of_numbers(self, numbers: np.ndarray, **further: Any) -> Column:
        bad = int((~np.isfinite(numbers)).sum())
        if bad:
            raise self._problem("finite numbers", f"{bad} infinite", "Set them to missing.")
        whole = bool((numbers == np.rint(numbers)).all() and np.abs(numbers).max() <= LARGEST_WHOLE)
        different = np.unique(numbers)
        if self.coded or (len(different) <= 2 and not further):
            write = (lambda number: str(int(number))) if whole else (lambda number: str(float(number)))
            names = pd.Series([write(number) for number in numbers])
            return self._categorical(names, [write(n) for n in different], "integer" if whole else "number")
        decimals = _decimals(numbers)
        few = len(different) <= _MOST_LEVELS and len(numbers) >= _ROWS_OF_A_LEVEL * len(different)
        # counts may lack a value by chance; doses of 10, 20 and 50 do not
        steps = math.inf if decimals is None else (different[-1] - different[0]) * 10.0**decimals
        levels = tuple(different.tolist()) if few and len(different) <= (steps + 1) / 2 else ()
        return Column(
            str(self.values.name),
            "integer" if whole else "continuous",
            self._missing,
            low=float(numbers.min()),
            high=float(numbers.max()),
            decimals=decimals,
            mean=float(numbers.mean()),
            std=float(numbers.std()),
            **{"levels": levels, "dtype": self._dtype, **further},
        )

    def _of_times(self, values: pd.Series) -> Column:
        """A column of dates, times or durations in a type of pandas."""
        moment = f"{'timedelta64' if values.dtype.kind == 'm' else 'datetime64'}[{unit_of_times(values)}]"
        numbers = np.rint(moments_to_numbers(values, moment))
        return self._of_numbers(numbers, moment=moment, levels=_few_levels(numbers), dtype=str(self.values.dtype))

    def _of_names(self, values: pd.Series) -> Column:
        names = values.map(str).astype(object)
        if isinstance(values.dtype, pd.CategoricalDtype):
            return self._categorical(names, [str(category) for category in values.cat.categories], "text")
        if pd.api.types.is_bool_dtype(values.dtype) or set(map(type, values)) == {bool}:
            return self._categorical(names, sorted(names.unique()), "boolean")
        moment = None if self.coded else find_moment(names)
        if moment is not None:
            types = set(map(type, values))
            objects = next((word for kind, word in _MOMENT_OBJECTS.items() if types == {kind}), None)
            return self._of_moments(names, moment, objects or self._dtype)
        if not self.coded:
            self._refuse_unlike_dates(names)
        numbers = pd.to_numeric(names, errors="coerce").replace([np.inf, -np.inf], np.nan)
        limits = {text: limit_of(text) for text in names[numbers.isna()].unique()}
        if not self.coded and limits and None not in limits.values():
            return self._of_limits(names, numbers, {text: limit for text, limit in limits.items() if limit})
        codes = names.map(is_code).any()
        if not self.coded and not codes and numbers.notna().mean() > 0.5:
            text = names[numbers.isna()]
            got = f"{len(text)} cells of text, such as {text.iloc[0]!r}" if len(text) else "numbers stored as text"
            remedy = "Name the mark of a missing value with --missing" if len(text) else "Store them as numbers"
            raise self._problem("numbers alone, or text alone", got, f"{remedy}, or {self._take_as_codes}")
        return self._categorical(names, sorted(names.unique()), "text")

    def _refuse_objects(self, values: pd.Series) -> None:
        """Refuses cells of Parquet that are neither text nor numbers nor dates: lists, mappings, bytes."""
        others = [kind.__name__ for kind in set(map(type, values)) if issubclass(kind, _NO_CELLS)]
        if others:
            raise self._problem("text, numbers, answers or dates", f"cells of the type {others[0]}", self._leave_out)

    def _of_moments(self, texts: pd.Series, moment: str, dtype: str | None) -> Column:
        """A column of dates or times of day in one format."""
        numbers = moments_to_numbers(texts, moment)
        return self._of_numbers(numbers, moment=moment, levels=_few_levels(numbers), dtype=dtype)

    def _refuse_unlike_dates(self, names: pd.Series) -> None:
        """Refuses dates or times of day of several formats, or beside other text."""
        different = names.unique()
        dates = [name for name in different if looks_like_moment(name)]
        if len(dates) <= len(different) / 2:
            return
        others = [name for name in different if name not in set(dates)]
        first = dates[0]
        beside = others[0] if others else next(name for name in dates if find_moment(pd.Series([first, name])) is None)
        raise self._problem(
            "dates or times in one format", repr(first) + (f" beside {beside!r}" if beside != first else ""),
            f"Name the mark of a missing value with --missing, or write all alike (2024-03-01). {self._leave_out}",
        )  # fmt: skip

    def _of_limits(self, names: pd.Series, numbers: pd.Series, limits: dict[str, tuple[str, float]]) -> Column:
        """Numbers, some of them written as a limit: at most one limit below, and one above."""
        sides = [side for side, _ in limits.values()]
        exact = numbers.dropna()
        if not len(exact):
            return self._categorical(names, sorted(limits), "text")
        if len(set(sides)) < len(sides):
            raise self._problem(
                "one limit below and one above, such as '<5', among numbers", f"{', '.join(limits)}",
                f"Write one limit, or {self._take_as_codes}",
            )  # fmt: skip
        values, further = numbers.copy(), {}
        step = 10.0 ** -(_decimals(exact.to_numpy(dtype=np.float64)) or 0)
        for text, (side, limit) in limits.items():
            if (exact < limit).any() if side == "<" else (exact > limit).any():
                raise self._problem(
                    f"numbers on one side of the limit {text!r}", f"{exact.min() if side == '<' else exact.max():g}",
                    f"Write all of them, or all by the limit; or {self._take_as_codes}",
                )  # fmt: skip
            # one step beyond the limit: a cell may hold the limit itself
            values[names == text] = round(limit - step if side == "<" else limit + step, _MOST_DECIMALS)
            further["below" if side == "<" else "above"] = text
        return self._of_numbers(values.to_numpy(dtype=np.float64), **further)

    def _refuse_identifiers(self, values: pd.Series) -> None:
        """Refuses whole numbers and texts that identify a row or a patient: by the column's name and many values."""
        if pd.api.types.is_float_dtype(values.dtype) and (values != values.round()).any():
            return
        different = values.nunique()
        if IDENTIFIER.fullmatch(str(self.values.name)) and not self.coded and different > max(20, len(values) / 10):
            raise self._problem(
                "no identifier among the columns", f"{different} different values in {len(values)} rows",
                f"If a subject has several rows, give {self._flag('subject')}. {self._leave_out}",
            )  # fmt: skip

    def _categorical(self, names: pd.Series, order: list[str], kind: str) -> Column:
        if len(order) > self.most_categories or (kind == "text" and len(order) == len(names) > 10):
            cores = [re.sub(r"^[^\w.+-]+|[^\d.]+$", "", name) for name in order]
            numbers = [core for core in cores if any(number_of(core, comma) is not None for comma in (False, True))]
            if kind == "text" and len(numbers) > 0.9 * len(order):
                raise self._problem(
                    "numbers alone, or categories", f"{len(order)} numbers with other text, such as {order[0]!r}",
                    f"Write the numbers alone, and the unit into the name of the column. {self._leave_out}",
                )  # fmt: skip
            raise self._problem(
                f"at most {self.most_categories} categories, each in several rows",
                f"{len(order)} different values in {len(names)} rows: identifiers, or free text",
                f"If it names subjects, give {self._flag('subject')}; else group its values. {self._leave_out}"
                f"{self._genes_instead}",
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
    def _take_as_codes(self) -> str:
        return f"take the cells as categories with {self._flag('categorical')}. {self._leave_out}"

    @property
    def _leave_out(self) -> str:
        return f"Exclude the column with {self._flag('exclude')}."

    @property
    def _genes_instead(self) -> str:
        return " If it is a matrix of genes, plan with --kind expression." if self.matrix else ""

    def _flag(self, flag: str) -> str:
        return flag_of(flag, str(self.values.name))

    @property
    def _dtype(self) -> str | None:
        """The type of the column; None for the types of columns in text files."""
        name = str(self.values.dtype)
        if isinstance(self.values.dtype, pd.CategoricalDtype):
            return "ordered category" if self.values.cat.ordered else "category"
        numbers = self.values.dropna() if name == "float64" else self.values[:0]
        if len(numbers) and (numbers == numbers.round()).all():
            return name  # whole, but written as 1.0
        return None if name in ("int64", "float64", "object", "bool", "str") else name

    def _problem(self, expected: str, got: str, remedy: str) -> DataError:
        return DataError(self.source, key=str(self.values.name), expected=expected, got=got, remedy=remedy)


def _few_levels(numbers: np.ndarray) -> tuple[float, ...]:
    """The different numbers, if they are at most two; else nothing."""
    different = np.unique(numbers)
    return tuple(different.tolist()) if len(different) <= 2 else ()


def _decimals(numbers: np.ndarray) -> int | None:
    """The fewest decimals that all numbers can be written with; None if that is more than ten."""
    for count in range(_MOST_DECIMALS + 1):
        if np.array_equal(np.round(numbers, count), numbers):
            return count
    return None
