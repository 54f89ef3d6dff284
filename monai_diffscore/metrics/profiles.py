r"""Sets of profiles (cells, samples, rows of a table) and metrics that compare them.

R are real rows outside of the training, S synthetic rows, T the training rows. Expression is in log space,
:math:`\log(1 + 10^4 x_g / l)` with l the total of the **whole** cell. Neighbours and kernels live in E(.), the first
principal components (at most 30, unscaled) of all real rows, R and T.

A :class:`ProfileMetric` does the costly work once (folds, distances, kernels) and returns a :data:`Statistic`, a number
for rows i of R and rows j of S. Bootstrap intervals and the metric of each type then share one implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist, pdist
from sklearn.decomposition import PCA

from monai_diffscore.metrics.image_metric import Caption

#: a number for rows of R and rows of S by their places; a place may occur several times
Statistic = Callable[[np.ndarray, np.ndarray], float]
#: rows at most in the fit of the principal components
_FITTED = 5000


@dataclass(frozen=True)
class Profiles:
    """Rows of expression in log space, or of a table.

    Args:
        values: [N, G], dense or CSR.
        labels: [N], type of each row; None has none.
        library: [N], total of each whole cell in counts; None for data that are no counts.
        names: of the columns.
    Raises:
        ValueError: if lengths differ or a value is not finite.
    """

    values: Any  # an array or a sparse matrix
    labels: np.ndarray | None = None
    library: np.ndarray | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.values.shape
        for name, part in (("labels", self.labels), ("totals", self.library)):
            if part is not None and len(part) != shape[0]:
                raise ValueError(f"Expected {shape[0]} {name}, one for each row, got {len(part)}.")
        if self.names and len(self.names) != shape[1]:
            raise ValueError(f"Expected {shape[1]} names of columns, got {len(self.names)}.")
        stored = self.values.data if sparse.issparse(self.values) else self.values
        if not np.isfinite(stored).all():
            raise ValueError(
                f"Expected finite values, got {int((~np.isfinite(stored)).sum())} NaN or infinite of shape {shape}."
            )

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @cached_property
    def dense(self) -> np.ndarray:
        """The values [N, G] as an array, float64."""
        return np.asarray(self.values.toarray() if sparse.issparse(self.values) else self.values, dtype=np.float64)

    def rows(self, places: np.ndarray) -> Profiles:
        """The rows at these places, in their order."""
        return replace(
            self,
            values=self.values[places],
            labels=None if self.labels is None else self.labels[places],
            library=None if self.library is None else self.library[places],
        )

    def columns(self, places: np.ndarray) -> Profiles:
        """The columns at these places."""
        return replace(self, values=self.values[:, places], names=tuple(np.array(self.names, dtype=object)[places]))


def log_profiles(
    counts: Any,
    library: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    names: Sequence[str] = (),
    target_sum: float = 1e4,
) -> Profiles:
    r"""Counts x [N, G] as :math:`\log(1 + s x / l)` with the totals l of whole cells; None sums the columns.

    Raises:
        ValueError: for negative counts, or a total that is not > 0.
    """
    matrix: Any = counts.tocsr().astype(float) if sparse.issparse(counts) else np.asarray(counts, dtype=np.float64)
    total = np.asarray(matrix.sum(1)).ravel() if library is None else np.asarray(library, dtype=np.float64)
    if matrix.min() < 0 or not (total > 0).all():
        raise ValueError(f"Expected counts from 0 and totals > 0, got from {matrix.min():g}, totals {total.min():g}.")
    if sparse.issparse(matrix):
        values = sparse.diags(target_sum / total) @ matrix
        values.data = np.log1p(values.data)
    else:
        values = np.log1p(matrix * (target_sum / total)[:, None])
    return Profiles(values, None if labels is None else np.asarray(labels), total, tuple(names))


class Reference:
    """Real rows, held out (R) and trained on (T), with what all comparisons share.

    Args:
        real, train: R and T, with the same columns.
        components: of the embedding E, at most.
    Raises:
        ValueError: for fewer than 3 rows in one of them, or other columns.
    """

    def __init__(self, real: Profiles, train: Profiles, components: int = 30) -> None:
        if min(len(real), len(train)) < 3 or real.values.shape[1] != train.values.shape[1]:
            raise ValueError(
                f"Expected two sets of 3 or more rows with the same columns, got shapes {real.values.shape} and "
                f"{train.values.shape}."
            )
        self.real, self.train = real, train
        self._components = components

    @cached_property
    def _pca(self) -> PCA:
        pooled = np.concatenate([self.real.dense, _few(self.train, _FITTED).dense])
        return PCA(min(self._components, *(size - 1 for size in pooled.shape)), random_state=0).fit(pooled)

    @cached_property
    def real_points(self) -> np.ndarray:
        """E(R) [N, d]."""
        return self.embed(self.real)

    @cached_property
    def train_points(self) -> np.ndarray:
        """E(T) [N, d]."""
        return self.embed(self.train)

    @cached_property
    def kernel_scale(self) -> float:
        """g, one over the median squared distance of two training rows."""
        points = self.train_points[_spread(len(self.train), _FITTED)]
        return 1 / max(float(np.median(pdist(points, "sqeuclidean"))), 1e-12)

    @cached_property
    def real_distance(self) -> np.ndarray:
        """From each row of E(R) to the nearest of E(T), [N]."""
        return nearest_distance(self.real_points, self.train_points)

    @cached_property
    def varying(self) -> np.ndarray:
        """Columns in falling order of their variance in T."""
        return np.argsort(-self.train.dense.var(0), kind="stable")

    def embed(self, profiles: Profiles) -> np.ndarray:
        """E of rows, [N, d]; sparse ones a block at a time."""
        starts = range(0, len(profiles), _FITTED)
        parts = (profiles.rows(np.arange(s, min(s + _FITTED, len(profiles)))).dense for s in starts)
        return np.concatenate([self._pca.transform(part) for part in parts])

    def split(self, real: np.ndarray, train: np.ndarray) -> Reference:
        """Other R and T out of the rows of R followed by those of T, in the same embedding."""
        pooled, points = self.pooled, np.concatenate([self.real_points, self.train_points])
        part = Reference(pooled.rows(real), pooled.rows(train), self._components)
        vars(part).update(_pca=self._pca, real_points=points[real], train_points=points[train])
        return part

    @cached_property
    def pooled(self) -> Profiles:
        """R, then T."""
        real, train = self.real, self.train
        stack = sparse.vstack if sparse.issparse(real.values) else np.concatenate
        library = None if real.library is None or train.library is None else np.r_[real.library, train.library]
        labels = None if real.labels is None or train.labels is None else np.r_[real.labels, train.labels]
        values: Any = stack([real.values, train.values])
        return Profiles(values.tocsr() if sparse.issparse(values) else values, labels, library, real.names)


class Comparison:
    """Synthetic rows S beside a :class:`Reference`.

    Raises:
        ValueError: for fewer than 3 synthetic rows, or other columns.
    """

    def __init__(self, reference: Reference, synthetic: Profiles) -> None:
        if len(synthetic) < 3 or synthetic.values.shape[1] != reference.real.values.shape[1]:
            raise ValueError(
                f"Expected 3 or more synthetic rows with {reference.real.values.shape[1]} columns, got shape "
                f"{synthetic.values.shape}."
            )
        self.reference, self.synthetic = reference, synthetic

    @property
    def real(self) -> Profiles:
        return self.reference.real

    @property
    def train(self) -> Profiles:
        return self.reference.train

    @property
    def real_points(self) -> np.ndarray:
        return self.reference.real_points

    @cached_property
    def synthetic_points(self) -> np.ndarray:
        """E(S) [N, d]."""
        return self.reference.embed(self.synthetic)

    @cached_property
    def synthetic_distance(self) -> np.ndarray:
        """From each row of E(S) to the nearest of E(T), [N]."""
        return nearest_distance(self.synthetic_points, self.reference.train_points)

    @property
    def labelled(self) -> bool:
        """Whether all three sets have labels."""
        return all(part.labels is not None for part in (self.real, self.train, self.synthetic))

    @property
    def counted(self) -> bool:
        """Whether real and synthetic rows are counts with totals."""
        return self.real.library is not None and self.synthetic.library is not None

    def of_type(self, label: Any) -> Comparison | None:
        """The rows of one type, in the embedding of all; None if a set has fewer than 3 of them."""
        parts = (self.real, self.train, self.synthetic)
        places = [np.flatnonzero(part.labels == label) for part in parts if part.labels is not None]
        if len(places) < 3 or min(map(len, places)) < 3:
            return None
        comparison = Comparison(
            self.reference.split(places[0], len(self.real) + places[1]), self.synthetic.rows(places[2])
        )
        vars(comparison).update(synthetic_points=self.synthetic_points[places[2]])
        return comparison


class ProfileMetric(Caption, ABC):
    """A number for synthetic and held-out rows, beside the training rows."""

    from_zero = False
    #: requirements of the data: "labels", "counts" (and with them totals), "expression" (columns of one unit),
    #: "pairs" (three columns or more)
    needs: ClassVar[tuple[str, ...]] = ()
    #: too costly for many draws
    costly: ClassVar[bool] = False
    #: rows of a type that each set needs for the metric of the type; None: the metric needs all types together
    rows_of_a_type: ClassVar[int | None] = 8

    @abstractmethod
    def statistic(self, comparison: Comparison) -> Statistic:
        """The number as a function of the rows."""

    def __call__(self, comparison: Comparison) -> float:
        """The number for all rows."""
        rows = np.arange(len(comparison.real)), np.arange(len(comparison.synthetic))
        return self.statistic(comparison)(*rows)


def nearest_distance(points: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Euclidean distance of each point [N, d] to the nearest of others [M, d], exact: differences, no expansion."""
    return np.concatenate([cdist(part, among).min(1) for part in np.array_split(points, -(-len(points) // 256))])


def _few(profiles: Profiles, count: int) -> Profiles:
    return profiles if len(profiles) <= count else profiles.rows(_spread(len(profiles), count))


def _spread(length: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(length, count)).astype(int))
