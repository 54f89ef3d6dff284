"""The schema of a table: its columns and their roles. JSON stores it for editing, and generated tables follow it.

A table becomes an array of numbers [N, columns] (:class:`~monai_diffscore.transforms.table_column.Column`). The inverse
is exact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.atomic_files import write_json
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.table_column import TYPES, Column, column_of


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table and their roles.

    Args:
        columns: the modelled columns, in order; they include the label.
        label: name of the column that is the condition; None for none.
        subject: name of the column that identifies the subject of a row: all rows of a subject stay on one side of a
            split. The model does not learn it.
        exclude: names of the columns that the model does not learn.
    Raises:
        ValueError: for a repeated name, or a label that is no column.
    """

    columns: tuple[Column, ...]
    label: str | None = None
    subject: str | None = None
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names) or (self.label is not None and self.label not in names) or not self.features:
            raise ValueError(
                "A TableSchema needs columns of different names, and others beside the label, which is one of them; "
                f"got the label {self.label!r} and {names}."
            )

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns without the label."""
        return tuple(column for column in self.columns if column.name != self.label)

    @property
    def label_column(self) -> Column | None:
        return next((column for column in self.columns if column.name == self.label), None)

    @property
    def condition_keys(self) -> list[str]:
        """``["label"]``, or nothing."""
        return [] if self.label is None else ["label"]

    @property
    def condition(self) -> dict[str, Any]:
        """The fields of a ``ConditionEncoder`` for the label: categorical, or attached in its own unit."""
        label = self.label_column
        if label is None:
            return {}
        if not label.numeric:
            return {"categorical": {"label": len(label.categories)}}
        return {"attached": {"label": (label.mean, label.std or 1.0)}}

    def with_choices(
        self, label: str | None = None, subject: str | None = None, exclude: Sequence[str] = ()
    ) -> TableSchema:
        """The schema with another label or subject (None keeps it), and with further columns excluded."""
        subject = subject or self.subject
        excluded = (*self.exclude, *(name for name in exclude if name not in self.exclude))
        columns = tuple(column for column in self.columns if column.name not in (*excluded, subject))
        return TableSchema(columns, label or self.label, subject, excluded)

    def numbers(self, frame: pd.DataFrame, source: object = "the table") -> np.ndarray:
        """The features as numbers [N, columns] float64.

        Raises:
            DataError: for missing columns, and as :meth:`Column.numbers`.
        """
        missing = [column.name for column in self.features if column.name not in frame]
        if missing:
            raise DataError(
                source,
                key="columns",
                expected=f"the {len(self.features)} columns of the schema",
                got=f"{len(missing)} missing: {', '.join(missing[:12])}; there are {', '.join(map(str, frame))[:300]}",
                remedy="Rename the columns to those of the schema, or take them out of it before training.",
            )
        return np.stack([column.numbers(frame[column.name], source) for column in self.features], axis=1)

    def label_numbers(self, frame: pd.DataFrame, source: object = "the table") -> np.ndarray | None:
        """The label as numbers [N]: int64 with -1 where it is missing, or float64 with NaN; None without a label."""
        label = self.label_column
        if label is None:
            return None
        numbers = label.numbers(column_of(frame, label.name, "label", source), source)
        return numbers if label.numeric else np.where(np.isnan(numbers), -1, np.nan_to_num(numbers)).astype(np.int64)

    def frame(self, numbers: np.ndarray, label: np.ndarray | None = None) -> pd.DataFrame:
        """The table of numbers [N, columns] and of label numbers [N], in the order of the schema."""
        values = {c.name: c.values(numbers[:, place]) for place, c in enumerate(self.features)}
        column = self.label_column
        if column is not None and label is not None:
            codes = np.asarray(label, dtype=np.float64)
            values[column.name] = column.values(codes if column.numeric else np.where(codes < 0, np.nan, codes))
        return pd.DataFrame({c.name: values[c.name] for c in self.columns if c.name in values})

    def label_number(self, value: Any) -> float | int:
        """The number of a label, such as "malignant".

        Raises:
            DataError: for an unknown label.
        """
        if self.label_column is None:
            raise DataError("the schema", key="label", expected="a model with a label", got="none", remedy="Drop it.")
        names = self.label_column.categories
        if isinstance(value, int) and str(value) not in names and 0 <= value < len(names):
            value = TYPES[self.label_column.type](names[value])  # by its number
        number = float(self.label_column.numbers(pd.Series([value], name=self.label), "the label asked for")[0])
        if self.label_column.numeric:
            return number
        if not self.label_column.shares[int(number)]:
            raise DataError(
                "the label asked for", key="label", expected="a label of at least one row of the table",
                got=repr(value), remedy="Ask for another label: no row taught the model this one.",
            )  # fmt: skip
        return int(number)

    def describe(self) -> str:
        """The schema for a terminal, a column a line."""
        width = max(len(column.name) for column in self.columns)
        lines = [
            f"{column.name:{width}}  {column.describe()}" + ("  <- label" if column.name == self.label else "")
            for column in self.columns
        ]
        lines += [f"subject: {self.subject}"] if self.subject else []
        return "\n".join([*lines, *([f"left out: {', '.join(self.exclude)}"] if self.exclude else [])])

    def as_dict(self) -> dict[str, Any]:
        """The schema for JSON; each column has the entries of its kind."""
        columns = []
        for column in self.columns:
            other = (
                ("low", "high", "mean", "std", "decimals") if not column.numeric else ("categories", "shares", "type")
            )
            empty = [name for name in ("levels", "moment", "below", "above", "dtype") if not getattr(column, name)]
            fields = asdict(column)
            columns.append({name: value for name, value in fields.items() if name not in (*other, *empty)})
        return {"label": self.label, "subject": self.subject, "exclude": list(self.exclude), "columns": columns}

    @classmethod
    def from_dict(cls, content: Any) -> TableSchema:
        """The inverse of :meth:`as_dict`."""
        return cls(**{**content, "columns": tuple(Column(**column) for column in content["columns"])})

    def save(self, path: str | Path) -> None:
        """Writes the schema as JSON for editing, whole or not at all."""
        write_json(path, self.as_dict(), ensure_ascii=False)

    @classmethod
    def load(cls, path: str | Path) -> TableSchema:
        """Reads a file of :meth:`save`, possibly edited.

        Raises:
            DataError: for a missing file, or an invalid edit, which the message names.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                path,
                expected="a schema as training writes it",
                got=f"{type(error).__name__}: {error}",
                remedy="Correct the edit, or leave --schema out, which infers it again.",
            ) from error
