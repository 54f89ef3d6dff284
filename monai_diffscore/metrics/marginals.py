r"""Agreement column by column: means, variances, zeros, totals, and pairs of columns.

.. math::  \rho = \mathrm{Spearman}_g\big(\bar R_g, \bar S_g\big), \qquad
    \mathrm{median}_g \frac{\mathrm{var}\,S_g}{\max(\mathrm{var}\,R_g, 10^{-6})}, \qquad
    \big\langle |z_g(R) - z_g(S)| \big\rangle_g, \qquad z_g = \text{share of zeros}.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import ks_2samp, spearmanr

from monai_diffscore.metrics.profiles import Comparison, ProfileMetric, Statistic

_TINY = 1e-9  # a value below it counts as zero


class MeanAgreement(ProfileMetric):
    """Spearman correlation over genes of the means of R and S."""

    name = "rho_mean"
    title = "Means of genes"
    unit = "Spearman, 1 best"
    bounds = (-1, 1)
    needs = ("expression",)
    higher_is_better = True
    sees = "Genes that are expressed too much or too little, in their order."
    blind_to = "All but means: spread, zeros, correlations, a factor common to all genes. Copies."

    def statistic(self, comparison: Comparison) -> Statistic:
        real, synthetic = comparison.real.dense, comparison.synthetic.dense
        return lambda i, j: _rank_correlation(real[i].mean(0), synthetic[j].mean(0))


class VarianceAgreement(ProfileMetric):
    """Spearman correlation over genes of the variances of R and S."""

    name = "rho_var"
    title = "Variances of genes"
    unit = "Spearman, 1 best"
    bounds = (-1, 1)
    needs = ("expression",)
    higher_is_better = True
    sees = "Genes whose spread is wrong among genes."
    blind_to = "A factor common to all variances, which the next metric sees. Copies."

    def statistic(self, comparison: Comparison) -> Statistic:
        real, synthetic = comparison.real.dense, comparison.synthetic.dense
        return lambda i, j: _rank_correlation(real[i].var(0), synthetic[j].var(0))


class VarianceRatio(ProfileMetric):
    """Median over columns of the variance of S over that of R."""

    name = "var_ratio"
    title = "Spread"
    unit = "ratio of variances, 1 best"
    bounds = (0, np.inf)
    two_sided = True
    sees = "Samples that are too smooth (below 1) or too noisy (above 1)."
    blind_to = "Everything else; columns that err in both directions cancel. Copies."

    def statistic(self, comparison: Comparison) -> Statistic:
        real, synthetic = comparison.real.dense, comparison.synthetic.dense
        return lambda i, j: float(np.median(synthetic[j].var(0) / np.maximum(real[i].var(0), 1e-6)))


class ZeroError(ProfileMetric):
    """Mean over genes of the absolute difference of the shares of zeros."""

    name = "zero_mae"
    from_zero = True
    title = "Share of zeros"
    unit = "mean error, 0 best"
    bounds = (0, 1)
    needs = ("counts",)
    sees = "Drop-outs that are missing, invented, or made by clamping a continuous model."
    blind_to = "Values above zero, and which cells the zeros are in. Copies."

    def statistic(self, comparison: Comparison) -> Statistic:
        real, synthetic = (part.dense <= _TINY for part in (comparison.real, comparison.synthetic))
        return lambda i, j: float(np.abs(real[i].mean(0) - synthetic[j].mean(0)).mean())


class LibraryDistance(ProfileMetric):
    """Kolmogorov-Smirnov distance of the totals of whole cells."""

    name = "library_ks"
    from_zero = True
    title = "Library size"
    unit = "Kolmogorov-Smirnov, 0 best"
    bounds = (0, 1)
    needs = ("counts",)
    sees = "Totals that are wrong, or all alike, or not those of the type."
    blind_to = "How a total is shared among genes. Copies."

    def statistic(self, comparison: Comparison) -> Statistic:
        real, synthetic = comparison.real.library, comparison.synthetic.library
        if real is None or synthetic is None:
            raise ValueError("LibraryDistance needs the totals of real and synthetic cells.")
        return lambda i, j: float(ks_2samp(real[i], synthetic[j]).statistic)


class ColumnDistance(ProfileMetric):
    """Mean over columns (of more than 500, those that vary most in T) of the Kolmogorov-Smirnov distance."""

    name = "column_ks"
    from_zero = True
    title = "Columns one by one"
    unit = "mean Kolmogorov-Smirnov, 0 best"
    bounds = (0, 1)
    sees = "Any wrong marginal: shift, spread, steps of an integer, shares of categories."
    blind_to = "How columns go together. Copies, which it rewards."

    def statistic(self, comparison: Comparison) -> Statistic:
        columns = comparison.reference.varying[:500]
        real, synthetic = comparison.real.dense[:, columns], comparison.synthetic.dense[:, columns]
        # the distance is the largest gap of two step functions, which change at the pooled values alone
        grids = [np.unique(np.r_[real[:, g], synthetic[:, g]]) for g in range(real.shape[1])]
        ours, theirs = (
            [np.searchsorted(grid, part[:, g]) for g, grid in enumerate(grids)] for part in (real, synthetic)
        )

        def distance(i: np.ndarray, j: np.ndarray) -> float:
            gaps = []
            for grid, a, b in zip(grids, ours, theirs, strict=True):
                first, second = (np.bincount(x, minlength=len(grid)).cumsum() / len(x) for x in (a[i], b[j]))
                gaps.append(np.abs(first - second).max())
            return float(np.mean(gaps))

        return distance


class _Correlations(ProfileMetric):
    #: columns that vary most in T
    columns = 100
    rows_of_a_type = 20

    def statistic(self, comparison: Comparison) -> Statistic:
        columns = comparison.reference.varying[: self.columns]
        real, synthetic = comparison.real.dense[:, columns], comparison.synthetic.dense[:, columns]
        jitter = 1e-9 * np.random.default_rng(0).standard_normal(
            synthetic.shape
        )  # a constant column has no correlation
        if (real.std(0) == 0).any():
            real = real + 1e-9 * np.random.default_rng(1).standard_normal(real.shape)
        synthetic = synthetic + jitter
        return lambda i, j: self.compare(_triangle(real[i]), _triangle(synthetic[j]))

    def compare(self, real: np.ndarray, synthetic: np.ndarray) -> float:
        """The number for the correlations of all pairs of columns."""
        raise NotImplementedError


class CorrelationError(_Correlations):
    """Root mean square difference of the correlations of all pairs of the 100 columns that vary most in T."""

    name = "corr_rmse"
    from_zero = True
    title = "Correlations of columns"
    unit = "RMSE, 0 best"
    bounds = (0, 2)
    sees = "Genes shuffled among cells, joint structure that is missing or invented, attenuation."
    blind_to = "Means and variances; more than pairs. Copies."

    def compare(self, real: np.ndarray, synthetic: np.ndarray) -> float:
        return float(np.sqrt(np.mean((real - synthetic) ** 2)))


class CorrelationAgreement(_Correlations):
    """Pearson correlation of the correlations of R and of S, over the same pairs."""

    name = "corr_r"
    title = "Pattern of correlations"
    unit = "Pearson, 1 best"
    bounds = (-1, 1)
    needs = ("pairs",)
    higher_is_better = True
    sees = "A wrong pattern of which columns go together."
    blind_to = "Attenuation: correlations that are all too weak by one factor pass. Copies."

    def compare(self, real: np.ndarray, synthetic: np.ndarray) -> float:
        return float(np.corrcoef(real, synthetic)[0, 1])


def _triangle(values: np.ndarray) -> np.ndarray:
    correlations = np.nan_to_num(np.atleast_2d(np.corrcoef(values.T)))
    return correlations[np.triu_indices(len(correlations), 1)]


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(spearmanr(first, second).statistic)
