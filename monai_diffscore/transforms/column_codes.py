r"""Encodes one column of a table as axes of a vector: normal scores, standard units, corners of a cube.

The distribution F of a column of numbers is linear between **quantiles** of its training values. Evenly spaced
quantiles are accurate in the middle. In a heavy tail the line from the last but one to the largest value has a mean far
above that of its rows (five times, for incomes). If decoded normal draws would not have the mean and the standard
deviation of the training values, both tails therefore get more quantiles: the values of rank 1, 2, 3, ... from the end,
with gaps that grow by :data:`RATIO`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from monai_diffscore.transforms.normal_scores import level_of_score, score_of_level
from monai_diffscore.transforms.table_column import Column

#: ratio of the ranks of neighbouring quantiles in a tail
RATIO = 1.15
#: largest errors of evenly spaced quantiles: of the mean, as a share of the mean size; of the standard deviation
MEAN_OFF, STD_OFF = 0.05, 0.1
_DRAWS = 20_000


@dataclass(frozen=True)
class Quantiles:
    """Values of training rows at rising levels in [0, 1]; without levels these are evenly spaced."""

    nodes: tuple[float, ...] = ()
    levels: tuple[float, ...] = ()

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and levels, both rising."""
        levels = np.array(self.levels) if self.levels else np.linspace(0, 1, len(self.nodes))
        return np.maximum.accumulate(np.array(self.nodes)), levels

    def values_at(self, level: np.ndarray) -> np.ndarray:
        """The values at levels, linear between the quantiles."""
        nodes, levels = self.arrays
        return np.interp(level, levels, nodes)


def measure_column(values: np.ndarray, count: int, rows: int) -> Quantiles:
    """Measures the quantiles of a column of training values, each the value of a row: ``count`` evenly spaced ones, and
    more in its tails if these alone would misplace its mean or its standard deviation.

    Args:
        values: the values of the column, without missing ones.
        count: number of evenly spaced quantiles, at least 2; they include the smallest and the largest value.
        rows: number of training rows.
    """
    if not len(values):
        return Quantiles()
    even = np.linspace(0, 1, min(count, len(values)))
    plain = Quantiles(tuple(np.quantile(values, even, method="nearest").tolist()))
    if len(values) <= count or not _misplaces(plain, values, rows):
        return plain
    last = len(values) - 1
    ranks = np.unique(np.floor(RATIO ** np.arange(math.log(2 * last / count) / math.log(RATIO))) - 1) / last
    levels = np.unique(np.concatenate([even, ranks, 1 - ranks]))
    nodes = np.quantile(values, levels, method="nearest")
    return Quantiles(tuple(nodes.tolist()), tuple(levels.tolist()))


def _misplaces(quantiles: Quantiles, values: np.ndarray, rows: int) -> bool:
    """Whether decoded normal draws would have another mean or standard deviation than the values."""
    level = level_of_score(ndtri((np.arange(_DRAWS) + 0.5) / _DRAWS), rows)
    decoded = quantiles.values_at(level)
    mean_off = abs(decoded.mean() - values.mean()) > MEAN_OFF * np.abs(values).mean()
    return bool(mean_off or abs(decoded.std() - values.std()) > STD_OFF * values.std())


class Scores:
    """Normal scores of a column of numbers."""

    width = 1

    def __init__(self, column: Column, quantiles: Quantiles, rows: int) -> None:
        self.nodes, self.levels = quantiles.arrays
        self.rows = rows
        self.slope = column.std or 1.0
        self.filler = float(self.nodes[0])
        self.end = float(score_of_level(1.0, rows))

    def encode(self, values: np.ndarray) -> np.ndarray:
        low = np.interp(-values, -self.nodes[::-1], self.levels[::-1])  # ties: the first level
        high = np.interp(values, self.nodes, self.levels)  # ties: the last
        # numpy returns either end of a step: order them
        low, high = np.minimum(low, high), np.maximum(low, high)
        ends = score_of_level(np.stack([low, high], 1), self.rows)
        beyond = (values - np.clip(values, self.nodes[0], self.nodes[-1])) / self.slope
        return (ends + beyond[:, None])[:, :, None]

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        z = vectors[:, 0]
        values = np.interp(level_of_score(z, self.rows), self.levels, self.nodes)
        return values + (z - np.clip(z, -self.end, self.end)) * self.slope


class Units:
    """A column of numbers in units of its standard deviation."""

    width = 1

    def __init__(self, column: Column, mean: float, std: float) -> None:
        self.mean, self.std, self.filler = mean, std or 1.0, mean

    def encode(self, values: np.ndarray) -> np.ndarray:
        z = (values - self.mean) / self.std
        return np.stack([z, z], 1)[:, :, None]

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        return self.mean + self.std * vectors[:, 0]


class Corners:
    """Corners of a cube, one for each category; two categories need one axis, a single one none."""

    filler = 0.0

    def __init__(self, column: Column, codes: str) -> None:
        count = len(column.categories)
        digits = math.ceil(math.log2(count)) if count > 1 else 0
        if codes == "bits" or count <= 2:
            self.corners = 2.0 * (np.arange(count)[:, None] >> np.arange(digits) & 1) - 1
        else:
            self.corners = 2 * np.eye(count) - 1
        shares = np.array(column.shares) / sum(column.shares)
        self.corners = self.corners - shares @ self.corners
        self.width = self.corners.shape[1]

    def encode(self, values: np.ndarray) -> np.ndarray:
        corners = self.corners[values.astype(np.int64)]
        return np.stack([corners, corners], 1)

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        distance = np.square(vectors[:, None] - self.corners).sum(2)
        return distance.argmin(1).astype(np.float64)
