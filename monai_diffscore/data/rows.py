"""Rows of numbers: two-dimensional toy distributions, and arrays in .npy files.

The toy distributions have mean about 0 and standard deviation about 1 in each column, and details at several scales:
what a score model gets wrong shows at once in a scatter plot.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.data.problems import DataError

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
        return torch.stack([turn * turn.cos(), turn * turn.sin()]).T / 4.5 + 0.03 * normal
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


def load_rows(source: str | Path, count: int = 10_000, seed: int = 0, columns: int = 2) -> Tensor:
    """Rows [N, columns], float32: of a toy distribution by its name, or of a .npy file, taken as they are.

    Raises:
        DataError: if there is no such distribution or file, or it holds something else.
    """
    if str(source) in TOYS:
        return toy_rows(str(source), count, seed)
    expected = f"one of {TOYS} or a .npy file of rows [N, {columns}]"
    path = Path(source)
    if not path.is_file() or path.suffix != ".npy":
        raise DataError(path, expected=expected, got="no such file", remedy="Give one of these as --dataset_dir.")
    try:
        rows = torch.from_numpy(np.load(path)).float()
    except (ValueError, TypeError, OSError) as error:
        raise DataError(path, expected=expected, got=str(error), remedy="Write it with numpy.save.") from error
    if rows.ndim != 2 or rows.shape[1] != columns or not len(rows) or not torch.isfinite(rows).all():
        finite = "" if torch.isfinite(rows).all() else " with NaN or infinity"
        raise DataError(
            path, expected=expected, got=f"shape {tuple(rows.shape)}{finite}", remedy="Select finite rows and columns."
        )
    return rows
