"""Tables of patients as comparable numbers.

The statistics of the **training** rows encode the columns. A number is centred and divided by its standard deviation. A
category becomes a column of 0 and 1 for each of its values. A missing value becomes the median, and a column of
its own marks it, so that the report sees a model which misplaces gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.errors import DataError
from monai_diffscore.metrics import Profiles

TABLES, ROWS = (".csv", ".tsv", ".parquet"), ".npy"
#: values that a category may have
_KINDS = 20


def encode_tables(
    frames: Sequence[pd.DataFrame], sources: Sequence[Any], label: str | None
) -> tuple[list[Profiles], list[str]]:
    """Training, held-out and synthetic rows as numbers, and warnings about columns that they leave out."""
    columns = [name for name in frames[2].columns if name != "synthetic"]
    for source, frame in zip(sources, frames, strict=True):
        missing = [name for name in columns if name not in frame.columns]
        if missing:
            raise DataError(
                source, key="columns", expected="the columns of the synthetic table",
                got=f"{len(missing)} missing: {', '.join(missing[:8])}", remedy="Use tables with the same columns.",
            )  # fmt: skip
    real_only = [str(name) for name in frames[0].columns if name not in columns]
    if label is not None and label not in columns:
        raise DataError(
            sources[2], key="label", expected=f"a column {label!r}", got=", ".join(columns[:12]),
            remedy="Name a column with --label-key, or leave it out.",
        )  # fmt: skip
    warnings = [f"Columns that were not generated: {', '.join(real_only)}."] if real_only else []
    numeric = label is not None and pd.api.types.is_numeric_dtype(frames[0][label])
    if numeric and frames[0][label].nunique() > _KINDS:
        warnings.append(f"{label} is a number with many values: it is compared as a column, and rows have no types.")
        label = None
    features = [name for name in columns if name != label]
    encoded = [_columns_of(name, [frame[name] for frame in frames], sources) for name in features]
    names = tuple(name for part in encoded for name in part[0])
    sets = [
        Profiles(
            np.concatenate([part[1][number] for part in encoded], axis=1),
            None if label is None else frame[label].astype(str).to_numpy(dtype=object),
            None,
            names,
        )
        for number, frame in enumerate(frames)
    ]
    return sets, warnings


def _columns_of(name: str, columns: Sequence[pd.Series], sources: Sequence[Any]) -> tuple[list[str], list[np.ndarray]]:
    """Names and values [N, k] of one column of each table; the first table defines the encoding."""
    train = columns[0]
    gaps = [column.isna().to_numpy() for column in columns]
    if pd.api.types.is_numeric_dtype(train) and not pd.api.types.is_bool_dtype(train):
        numbers = []
        for column, gap, source in zip(columns, gaps, sources, strict=True):
            values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            bad = np.isnan(values) & ~gap | np.isinf(values)
            if bad.any():
                raise DataError(
                    source, key=name, expected="finite numbers, as in the training rows",
                    got=f"{column[bad].iloc[0]!r} and {int(bad.sum()) - 1} more", remedy="Mend the column, or drop it.",
                )  # fmt: skip
            numbers.append(values)
        median, std = float(np.nanmedian(numbers[0])), float(np.nanstd(numbers[0])) or 1.0
        names, parts = [name], [(np.nan_to_num(values, nan=median) - median)[:, None] / std for values in numbers]
    else:
        kinds = sorted({str(value) for column, gap in zip(columns, gaps, strict=True) for value in column[~gap]})
        if len(kinds) > max(_KINDS, len(train) // 10):
            raise DataError(
                sources[0], key=name, expected="a category with few values", got=f"{len(kinds)}, such as {kinds[:4]}",
                remedy="Drop names, case numbers and free text: they are no columns of a model, and tell of people.",
            )  # fmt: skip
        names = [f"{name}={kind}" for kind in kinds]
        parts = [(column.astype(str).to_numpy()[:, None] == np.array(kinds)).astype(float) for column in columns]
        parts = [np.where(gap[:, None], 0.0, part) for part, gap in zip(parts, gaps, strict=True)]
    if any(gap.any() for gap in gaps):
        names, parts = [*names, f"{name} missing"], [np.c_[p, gap] for p, gap in zip(parts, gaps, strict=True)]
    return names, parts


def read_frame(path: Path) -> pd.DataFrame:
    """The rows of a file (.csv, .tsv, .parquet, .npy), without the index that pandas writes.

    Raises:
        DataError: if the file cannot be read.
    """
    try:
        if path.suffix == ROWS:
            return numbered_frame(np.load(path, allow_pickle=False))
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    except Exception as error:
        raise DataError(
            path, expected=f"a readable table ({', '.join(TABLES)})",
            got=f"{type(error).__name__}: {str(error).splitlines()[0]}", remedy="Replace it.",
        ) from error  # fmt: skip
    if frame.columns[0].startswith("Unnamed"):
        frame = frame.drop(columns=frame.columns[0])
    return frame


def numbered_frame(rows: np.ndarray) -> pd.DataFrame:
    """Rows [N, columns] as a table with the columns x1, x2, ..."""
    return pd.DataFrame(rows, columns=[f"x{column + 1}" for column in range(rows.shape[1])])
