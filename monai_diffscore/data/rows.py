"""Rows of numbers: two-dimensional toy distributions, and arrays in .npy files.

The toy distributions have mean about 0 and standard deviation about 1 in each column, and details at several scales:
what a score model gets wrong shows at once in a scatter plot.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.errors import DataError

TOYS = ("moons", "spiral", "checkerboard", "rings")


def toy_rows(name: str, count: int, seed: int = 0) -> Tensor:
    """``count`` independent draws [count, 2] of a toy distribution, float32.

    Args:
        name: "moons", "spiral", "checkerboard" or "rings".
        count: number of rows.
        seed: of the draws.
    Raises:
        ValueError: for another name.
    """
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.rand(2, count, generator=generator)
    normal = torch.randn(count, 2, generator=generator)
    if name == "moons":
        side = (v < 0.5).float()
        angle = math.pi * u
        rows = torch.stack(
            [(1 - 2 * side) * angle.cos() - 0.5 + side, (1 - 2 * side) * angle.sin() - 0.25 + 0.5 * side]
        )
        return 1.15 * (rows.T + 0.06 * normal)
    if name == "spiral":
        turn = 3 * math.pi * u.sqrt()
        centre = torch.tensor([-0.09, 0.43])
        return torch.stack([turn * turn.cos(), turn * turn.sin()]).T / 4.5 - centre + 0.03 * normal
    if name == "checkerboard":
        column = (4 * u).floor()
        row = 2 * (2 * v).floor() + column % 2
        inside = torch.rand(2, count, generator=generator)
        return (torch.stack([column, row]) + inside - 2).T / 1.155
    if name == "rings":
        radius = torch.where(v < 0.4, 0.6, 1.7)
        angle = 2 * math.pi * u
        return torch.stack([radius * angle.cos(), radius * angle.sin()]).T + 0.05 * normal
    raise ValueError(f"Expected one of the toy distributions {TOYS}, got {name!r}.")


def split_rows(
    source: str | Path, training: int = 10_000, validation: int = 1_000, seed: int = 0, columns: int = 2
) -> tuple[Tensor, Tensor]:
    """Training and validation rows [N, columns], float32, that share no row.

    Args:
        source: name of a toy distribution, which new rows are drawn from, or a .npy file of rows, which are split at
            random: at most a fifth of them for validation.
        training: at most this many training rows.
        validation: at most this many validation rows.
        seed: of the draws or the split.
        columns: expected number of columns.
    Raises:
        DataError: for an unknown distribution, a missing file, or another content.
    """
    if str(source) in TOYS:
        rows = toy_rows(str(source), training + validation, seed)
        return rows[:training], rows[training:]
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
    expected = f"one of {TOYS} or a .npy file of at least two rows [N, {columns}]"
    if not path.is_file() or path.suffix != ".npy":
        raise DataError(path, expected=expected, got="no such file", remedy="Give one of these as --dataset_dir.")
    try:
        rows = torch.from_numpy(np.load(path)).float()
    except (ValueError, TypeError, OSError) as error:
        raise DataError(path, expected=expected, got=str(error), remedy="Write it with numpy.save.") from error
    finite = bool(torch.isfinite(rows).all())
    if rows.ndim != 2 or rows.shape[1] != columns or len(rows) < 2 or not finite:
        got = f"shape {tuple(rows.shape)}" + ("" if finite else " with NaN or infinity")
        raise DataError(path, expected=expected, got=got, remedy="Select finite rows and columns.")
    return rows
