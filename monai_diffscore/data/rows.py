"""Rows of numbers in .npy files, and splits of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.errors import DataError


def split_rows(
    source: str | Path, training: int = 10_000, validation: int = 1_000, seed: int = 0, columns: int = 2
) -> tuple[Tensor, Tensor]:
    """Training and validation rows [N, columns], float32, that share no row.

    Args:
        source: a .npy file of rows, which are split at random: at most a fifth of them for validation.
        training: at most this many training rows.
        validation: at most this many validation rows.
        seed: of the split.
        columns: expected number of columns.
    Raises:
        DataError: for a missing file, or another content.
    """
    rows = _read_rows(Path(source), columns)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    held_out = min(validation, max(1, len(rows) // 5))
    return rows[held_out : held_out + training], rows[:held_out]


def split_indices(
    count: int, share: float, seed: int, labels: Any = None, groups: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and held-out rows, in order, by scikit-learn's splitters.

    Args:
        count: number of rows.
        share: share of the rows, or of the groups, to hold out.
        seed: of the split.
        labels: [count]; each label keeps its share, without groups.
        groups: [count]; rows of one group stay on one side.
    Raises:
        ValueError: for a label with a single row, or an empty side.
    """
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

    splitter = ShuffleSplit if labels is None else StratifiedShuffleSplit
    splitter = splitter if groups is None else GroupShuffleSplit
    split = splitter(n_splits=1, test_size=share, random_state=seed)
    train, held_out = next(split.split(np.arange(count), labels, groups))
    return np.sort(train), np.sort(held_out)


def _read_rows(path: Path, columns: int) -> Tensor:
    expected = f"a .npy file of at least two rows [N, {columns}]"
    if not path.is_file() or path.suffix != ".npy":
        raise DataError(path, expected=expected, got="no such file", remedy="Name such a file.")
    try:
        rows = torch.from_numpy(np.load(path)).float()
    except (ValueError, TypeError, OSError) as error:
        raise DataError(path, expected=expected, got=str(error), remedy="Write it with numpy.save.") from error
    finite = bool(torch.isfinite(rows).all())
    if rows.ndim != 2 or rows.shape[1] != columns or len(rows) < 2 or not finite:
        got = f"shape {tuple(rows.shape)}" + ("" if finite else " with NaN or infinity")
        raise DataError(path, expected=expected, got=got, remedy="Select finite rows and columns.")
    return rows
