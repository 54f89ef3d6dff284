"""The schema of a table, inferred from its values: what cannot be told is refused, not guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.table_schema import Column, TableSchema, column_of

_MOST_DECIMALS = 10


def infer_schema(
    frame: pd.DataFrame,
    label: str | None = None,
    subject: str | None = None,
    exclude: Sequence[str] = (),
    categorical: Sequence[str] = (),
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
        DataError: for a column that is empty, of dates, of identifiers or free text, of numbers with some text among
            them, or infinite; and for names that are not there.
    """
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
    exclude: Sequence[str] = (),
    categorical: Sequence[str] = (),
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
        return schema.but(label, subject, exclude)
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
        if pd.api.types.is_datetime64_any_dtype(there.dtype):
            raise self._problem("numbers or categories", "dates", "Give days since an event, such as the admission.")
        if pd.api.types.is_numeric_dtype(there.dtype) and not pd.api.types.is_bool_dtype(there.dtype):
            return self._of_numbers(there.to_numpy(dtype=np.float64))
        return self._of_names(there)

    def _of_numbers(self, numbers: np.ndarray) -> Column:
        bad = int((~np.isfinite(numbers)).sum())
        if bad:
            raise self._problem("finite numbers", f"{bad} infinite", "Set them to missing.")
        whole = bool((numbers == np.rint(numbers)).all())
        different = np.unique(numbers)
        if self.coded or len(different) <= 2:
            write = (lambda number: str(int(number))) if whole else (lambda number: str(float(number)))
            names = pd.Series([write(number) for number in numbers])
            return self._categorical(names, [write(n) for n in different], "integer" if whole else "number")
        return Column(
            str(self.values.name),
            "integer" if whole else "continuous",
            self._missing,
            low=float(numbers.min()),
            high=float(numbers.max()),
            decimals=_decimals(numbers),
            mean=float(numbers.mean()),
            std=float(numbers.std()),
        )

    def _of_names(self, there: pd.Series) -> Column:
        names = there.map(str).astype(object)
        if isinstance(there.dtype, pd.CategoricalDtype):
            return self._categorical(names, [str(category) for category in there.cat.categories], "text")
        if pd.api.types.is_bool_dtype(there.dtype):
            return self._categorical(names, sorted(names.unique()), "boolean")
        numbers = pd.to_numeric(names, errors="coerce")
        if not self.coded and numbers.notna().mean() > 0.5:
            text = names[numbers.isna()]
            got = f"{len(text)} cells of text, such as {text.iloc[0]!r}" if len(text) else "numbers written as text"
            remedy = f"Mend them, or list the column in categorical. {self._leave_out}"
            raise self._problem("numbers alone, or text alone", got, remedy)
        return self._categorical(names, sorted(names.unique()), "text")

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
            str(self.values.name), "categorical", self._missing, categories=tuple(order), shares=shares, type=kind
        )

    @property
    def _missing(self) -> float:
        return float(self.values.isna().mean())

    @property
    def _leave_out(self) -> str:
        return f"Leave it out with --exclude \"['{self.values.name}']\"."

    def _problem(self, expected: str, got: str, remedy: str) -> DataError:
        return DataError(self.source, key=str(self.values.name), expected=expected, got=got, remedy=remedy)


def _decimals(numbers: np.ndarray) -> int | None:
    """The fewest decimals that all numbers can be written with; None if that is more than ten."""
    for count in range(_MOST_DECIMALS + 1):
        if np.array_equal(np.round(numbers, count), numbers):
            return count
    return None
