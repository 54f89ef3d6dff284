r"""Markers: does the model keep the size of differences between types?

The log fold change of gene g for type k is the difference of means in log space of the rows of the type and all others,
:math:`\Delta_{kg} = \bar x_{g \mid k} - \bar x_{g \mid \neg k}`. For each type the 50 genes with the largest absolute
Welch t statistic **in T** are its markers, so that the choice is independent of R. Then

.. math::  \text{slope} = \frac{\sum \Delta^S \Delta^R}{\sum (\Delta^R)^2}, \qquad
    r = \mathrm{Pearson}(\Delta^S, \Delta^R)

over the markers of a type, and the median over types. Conditional generators attenuate: slopes below 1.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from monai_diffscore.metrics.profiles import Comparison, ProfileMetric, Statistic

#: rows of a type in R, S and T that its markers need
_ROWS = 8
_MARKERS = 50


def fold_changes(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Mean of the rows inside a type minus that of all others, for each column [G], in log units."""
    difference: np.ndarray = values[inside].mean(0) - values[~inside].mean(0)
    return difference


def markers(values: np.ndarray, inside: np.ndarray, count: int = _MARKERS) -> np.ndarray:
    """Places of the columns with the largest absolute Welch t statistic, the rows of a type against all others."""
    error = values[inside].var(0, ddof=1) / inside.sum() + values[~inside].var(0, ddof=1) / (~inside).sum()
    statistic = np.abs(fold_changes(values, inside)) / np.sqrt(np.maximum(error, 1e-12))
    return np.argsort(-statistic, kind="stable")[:count]


class FoldChanges(ProfileMetric):
    """A number for real and synthetic log fold changes, of one type or as the median over types."""

    needs = ("labels", "expression")
    rows_of_a_type = None

    def statistic(self, comparison: Comparison) -> Statistic:
        of_types = {label: self.of_type(comparison, label) for label in _common_types(comparison)}

        def middle(i: np.ndarray, j: np.ndarray) -> float:
            values = [value for of_type in of_types.values() if np.isfinite(value := of_type(i, j))]
            return float(np.median(values)) if values else float("nan")

        return middle

    def by_type(self, comparison: Comparison) -> dict[Any, float]:
        """The number of each type with 8 or more rows in all three sets."""
        rows = np.arange(len(comparison.real)), np.arange(len(comparison.synthetic))
        return {label: self.of_type(comparison, label)(*rows) for label in _common_types(comparison)}

    def of_type(self, comparison: Comparison, label: Any) -> Statistic:
        """The number of one type; NaN for draws that hold no row of it, or no other."""
        inside = [part.labels == label for part in (comparison.train, comparison.real, comparison.synthetic)]
        genes = markers(comparison.train.dense, inside[0])
        real, synthetic = comparison.real.dense[:, genes], comparison.synthetic.dense[:, genes]

        def agreement(i: np.ndarray, j: np.ndarray) -> float:
            theirs, ours = inside[1][i], inside[2][j]
            if not 0 < theirs.sum() < len(i) or not 0 < ours.sum() < len(j):
                return float("nan")
            return self.compare(fold_changes(real[i], theirs), fold_changes(synthetic[j], ours))

        return agreement

    @abstractmethod
    def compare(self, real: np.ndarray, synthetic: np.ndarray) -> float:
        """The number for the fold changes of one type."""


class MarkerSlope(FoldChanges):
    """Slope through 0 of synthetic log fold changes on real ones, median over types."""

    name = "marker_slope"
    title = "Marker log fold changes, slope"
    unit = "slope, 1 best"
    two_sided = True
    sees = "Types that were drawn together (below 1), labels that were mixed up, exaggerated types (above 1)."
    blind_to = "Differences inside a type; types with fewer than 8 rows. Copies."

    def compare(self, real: np.ndarray, synthetic: np.ndarray) -> float:
        return float((real * synthetic).sum() / max(float((real**2).sum()), 1e-12))


class MarkerAgreement(FoldChanges):
    """Pearson correlation of synthetic and real log fold changes, median over types."""

    name = "marker_r"
    title = "Marker log fold changes, r"
    unit = "Pearson, 1 best"
    bounds = (-1, 1)
    higher_is_better = True
    sees = "Labels that were mixed up, markers of the wrong type."
    blind_to = "Attenuation by one factor, which the slope sees; types with fewer than 8 rows. Copies."

    def compare(self, real: np.ndarray, synthetic: np.ndarray) -> float:
        if min(real.std(), synthetic.std()) == 0:
            return 0.0
        return float(np.corrcoef(real, synthetic)[0, 1])


def _common_types(comparison: Comparison) -> list[Any]:
    """Types with enough rows in all three sets, and rows outside them."""
    parts = (comparison.real.labels, comparison.synthetic.labels, comparison.train.labels)
    labels = [part for part in parts if part is not None]
    if len(labels) < 3:
        raise ValueError("Fold changes need the labels of real, synthetic and training rows.")
    return [
        label
        for label in np.unique(labels[0])
        if all(_ROWS <= (part == label).sum() <= len(part) - 2 for part in labels)
    ]
