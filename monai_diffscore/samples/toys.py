"""Toy distributions: points in the plane, with details at several scales.

Mean about 0 and standard deviation about 1 in each column. An error of a score model shows in a scatter plot.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from monai_diffscore.data import split_rows
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


def split_points(
    source: str | Path, training: int = 10_000, validation: int = 1_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Training and validation points [N, 2], float32, that share no row.

    Args:
        source: name of a toy distribution, or a .npy file for :func:`monai_diffscore.data.split_rows`.
        training: number of training points; of a file, at most this many.
        validation: number of validation points; of a file, at most this many.
        seed: of the draws or the split.
    Raises:
        DataError: for an unknown distribution, or a file of another content.
    """
    if str(source) in TOYS:
        rows = toy_rows(str(source), training + validation, seed)
        return rows[:training], rows[training:]
    if Path(source).suffix != ".npy":
        raise DataError(
            source, key="dataset_dir", expected=f"one of {', '.join(TOYS)}, or a .npy file of rows [N, 2]",
            got=repr(str(source)), remedy="Give one of these as --dataset_dir.",
        )  # fmt: skip
    return split_rows(source, training, validation, seed)
