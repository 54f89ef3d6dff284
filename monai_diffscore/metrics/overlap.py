r"""Whether synthetic and real rows fill the same places of the embedding E.

.. math::  \mathrm{MMD}^2 = \frac{\sum_{i \ne i'} k(r_i, r_{i'})}{n(n-1)}
    + \frac{\sum_{j \ne j'} k(s_j, s_{j'})}{m(m-1)} - \frac{2}{nm} \sum_{ij} k(r_i, s_j), \qquad
    k(a, b) = \tfrac13 \sum_{q \in \{1/4, 1, 4\}} e^{-q g \lVert a - b \rVert^2},

unbiased (Gretton et al., JMLR 13, 2012, eq. 3), with 1/g the median squared distance of two training rows. **W1** is
the mean distance of the optimal one-to-one assignment. **Mixing** measures how synthetic and real rows mix among
neighbours: with q the share of synthetic rows among the 15 nearest others of a row, the mean of :math:`1/(q^2 +
(1-q)^2)`, from 1, separated, to 2. It stands in for iLISI (Korsunsky et al., Nature Methods 16, 2019), whose neighbours
are weighted by a perplexity.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from monai_diffscore.metrics.profiles import Comparison, ProfileMetric, Statistic


class KernelDiscrepancy(ProfileMetric):
    """1000 times the unbiased squared maximum mean discrepancy in E; may be negative."""

    name = "mmd2_x1e3"
    title = "Maximum mean discrepancy (MMD²)"
    unit = "x 1000, 0 best"
    sees = "Missing or invented populations, wrong shares, wrong correlations of the leading programmes of genes."
    blind_to = "What the leading components do not hold: zeros, noise of single genes. Copies, which it rewards."

    def statistic(self, comparison: Comparison) -> Statistic:
        points = np.concatenate([comparison.real_points, comparison.synthetic_points])
        count = len(comparison.real_points)
        squared = comparison.reference.kernel_scale * cdist(points, points, "sqeuclidean")
        kernel = sum(np.exp(-q * squared) for q in (0.25, 1.0, 4.0)) / 3

        def discrepancy(real: np.ndarray, synthetic: np.ndarray) -> float:
            # sums over rows weighted by how often they were drawn: no copy of the matrix for each draw
            r = np.bincount(real, minlength=len(points)).astype(float)
            s = np.bincount(count + synthetic, minlength=len(points)).astype(float)
            n, m, kr, ks = len(real), len(synthetic), kernel @ r, kernel @ s
            within = (r @ kr - n) / (n * (n - 1)) + (s @ ks - m) / (m * (m - 1))
            return 1000 * float(within - 2 * (r @ ks) / (n * m))

        return discrepancy


class AssignmentDistance(ProfileMetric):
    """Mean Euclidean distance in E of the optimal one-to-one assignment of R and S (as many pairs as the smaller has);
    of more than 500 rows, 500 spread evenly, because the work grows with their cube."""

    name = "w1_pca"
    title = "Wasserstein distance (W1)"
    unit = "compare with real"
    bounds = (0, np.inf)
    costly = True
    sees = "How far mass must move: shifts, missing populations. Compare with real against real, not with 0."
    blind_to = "What the leading components do not hold; too little spread, which brings it below real. Copies."

    def statistic(self, comparison: Comparison) -> Statistic:
        distance = cdist(comparison.real_points, comparison.synthetic_points)

        def assigned(real: np.ndarray, synthetic: np.ndarray) -> float:
            pairs = distance[np.ix_(_at_most(real, 500), _at_most(synthetic, 500))]
            return float(pairs[linear_sum_assignment(pairs)].mean())

        return assigned


class NeighbourMixing(ProfileMetric):
    """Mean inverse Simpson index of the sets among the 15 nearest neighbours of each row of E(R) and E(S)."""

    name = "ilisi"
    title = "Mixing of neighbours (iLISI)"
    unit = "1 separated, 2 mixed"
    bounds = (1, 2)
    higher_is_better = True
    sees = "Sets side by side without mixing, even where their means agree; wrong joint structure."
    blind_to = "What the leading components do not hold. Falls too if shares of types differ. Copies, which it rewards."
    rows_of_a_type = 16

    def statistic(self, comparison: Comparison) -> Statistic:
        points = np.concatenate([comparison.real_points, comparison.synthetic_points])
        count = len(comparison.real_points)
        neighbours = min(15, len(points) - 1)
        near = NearestNeighbors(n_neighbors=neighbours).fit(points).kneighbors(return_distance=False)
        share = (near >= count).mean(1)
        index = 1 / (share**2 + (1 - share) ** 2)

        def mixing(real: np.ndarray, synthetic: np.ndarray) -> float:
            return float(index[np.r_[real, count + synthetic]].mean())

        return mixing


def _at_most(rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)]
