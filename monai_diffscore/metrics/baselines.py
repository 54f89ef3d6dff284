r"""Generators without a network, which a model must beat: from rows of T to a synthetic row for each label.

============  =========================================================================================================
copies        training rows of the type, drawn with replacement
smote         a training row plus U(0, 1) times the way to one of its 5 nearest of the type (Chawla et al., JAIR 2002)
negative      independent negative binomials: mean share of each gene in the type, totals drawn from the type,
binomial      dispersion by moments, in [.02, 100]
copula        empirical marginals of each type under one Gaussian copula (as scDesign3 has, Song et al., Nature
              Biotechnology 2024), its correlations shrunk by Ledoit and Wolf
pca_gmm       a mixture of Gaussians on 30 components plus noise of each gene; it ignores types
held_in       training rows, each once: real against real
============  =========================================================================================================

Each takes (T, labels [N], generator of random numbers). Where T has no types, the labels only say how many rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.stats import norm
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

from monai_diffscore.metrics.profiles import Profiles, log_profiles

Generate = Callable[[Profiles, np.ndarray, np.random.Generator], Profiles]
_SCALE = 1e4  # of log_profiles
_DISPERSION = (0.02, 100.0)


def held_in(train: Profiles, labels: np.ndarray, random: np.random.Generator) -> Profiles:
    """Training rows without replacement, at most all of a type: the distance of real from real."""
    parts = [random.permutation(rows)[: len(places)] for rows, places in _types(train, labels)]
    return train.rows(np.concatenate(parts))


def copies(train: Profiles, labels: np.ndarray, random: np.random.Generator) -> Profiles:
    """Training rows of the type, with replacement."""
    index = np.empty(len(labels), dtype=int)
    for rows, places in _types(train, labels):
        index[places] = random.choice(rows, len(places))
    return train.rows(index)


def smote(train: Profiles, labels: np.ndarray, random: np.random.Generator) -> Profiles:
    """Between a training row and one of its 5 nearest of the type. No totals: the rows are no counts."""
    values = np.empty((len(labels), train.values.shape[1]))
    for rows, places in _types(train, labels):
        own = train.dense[rows]
        first = random.integers(len(rows), size=len(places))
        if len(rows) == 1:
            values[places] = own[first]
            continue
        near = NearestNeighbors(n_neighbors=min(5, len(rows) - 1)).fit(own).kneighbors(return_distance=False)
        second = near[first, random.integers(near.shape[1], size=len(places))]
        values[places] = own[first] + random.uniform(size=(len(places), 1)) * (own[second] - own[first])
    return _synthetic(train, values, labels)


def negative_binomial(train: Profiles, labels: np.ndarray, random: np.random.Generator) -> Profiles:
    r"""Counts :math:`x_g \sim NB(l \rho_{kg}, \theta_{kg})`, each gene by itself, as Splatter's (Zappia et al., Genome
    Biology 18, 2017) without its trends.

    :math:`\rho_{kg}` is the mean of :math:`x_g / l` over the cells of type k, l a total drawn from them, and with the
    mean m and the variance v of the counts, :math:`\theta = m^2 / (v - m)`, clipped to [.02, 100].

    Raises:
        ValueError: if T has no totals.
    """
    counts, totals = counts_of(train)
    drawn, libraries = np.zeros((len(labels), counts.shape[1])), np.empty(len(labels))
    for rows, places in _types(train, labels):
        own, library = counts[rows], totals[rows]
        mean, variance = own.mean(0), own.var(0, ddof=min(1, len(rows) - 1))
        theta = np.clip(mean**2 / np.maximum(variance - mean, 1e-8), *_DISPERSION)
        libraries[places] = random.choice(library, len(places))
        expected = libraries[places, None] * (own / library[:, None]).mean(0)
        drawn[places] = random.poisson(random.gamma(theta, np.maximum(expected, 1e-12) / theta))
    return log_profiles(drawn, libraries, labels, train.names)


def copula(train: Profiles, labels: np.ndarray, random: np.random.Generator) -> Profiles:
    """Marginals of each type in T, joined by one Gaussian copula of the scores within types; the totals of
    counts are a further column."""
    values = train.dense if train.library is None else np.c_[train.dense, train.library]
    scores = np.empty_like(values)
    for rows in _rows_of_types(train):
        jitter = random.uniform(size=values[rows].shape)  # ties, as zeros are, get an order by chance
        order = np.lexsort((jitter, values[rows]), axis=0)
        ranks = np.argsort(order, axis=0)
        scores[rows] = norm.ppf((ranks + 0.5) / len(rows))
    covariance, _ = ledoit_wolf(scores)
    spread = np.sqrt(np.diag(covariance))
    correlations = covariance / np.maximum(np.outer(spread, spread), 1e-12)
    drawn = np.empty((len(labels), values.shape[1]))
    normal = random.standard_normal((len(labels), values.shape[1])) @ _root(correlations).T
    for rows, places in _types(train, labels):
        ordered = np.sort(values[rows], axis=0)
        at = np.clip((norm.cdf(normal[places]) * len(rows)).astype(int), 0, len(rows) - 1)
        drawn[places] = np.take_along_axis(ordered, at, axis=0)
    if train.library is None:
        return _synthetic(train, drawn, labels)
    return Profiles(drawn[:, :-1], labels, drawn[:, -1], train.names)


def pca_gmm(train: Profiles, labels: np.ndarray, random: np.random.Generator) -> Profiles:
    """A mixture of Gaussians (two more than types, at most one for 20 rows) on 30 components, plus normal noise of each
    gene. It does not use the types: the requested labels are attached."""
    dense = train.dense
    seed = int(random.integers(2**31))
    pca = PCA(min(30, *(size - 1 for size in dense.shape)), random_state=0).fit(dense)
    scores = pca.transform(dense)
    noise = (dense - pca.inverse_transform(scores)).std(0)
    kinds = 10 if train.labels is None else len(np.unique(train.labels)) + 2
    mixture = GaussianMixture(max(1, min(kinds, len(train) // 20)), reg_covar=1e-2, random_state=seed).fit(scores)
    drawn, _ = mixture.sample(len(labels))
    values = pca.inverse_transform(random.permutation(drawn)) + noise * random.standard_normal(
        (len(labels), dense.shape[1])
    )
    return _synthetic(train, values if train.library is None else np.maximum(values, 0), labels)


#: baselines of a report; the negative binomial needs counts
BASELINES: dict[str, Generate] = {
    "negative binomial": negative_binomial,
    "Gaussian copula": copula,
    "PCA + GMM": pca_gmm,
    "SMOTE copies": smote,
    "copies": copies,
}


def counts_of(profiles: Profiles) -> tuple[np.ndarray, np.ndarray]:
    """Counts [N, G] behind log profiles, and the totals [N].

    Raises:
        ValueError: if the profiles have no totals.
    """
    if profiles.library is None:
        raise ValueError("Counts need the totals of the cells; these profiles have none.")
    return np.rint(np.expm1(profiles.dense) * profiles.library[:, None] / _SCALE), profiles.library


def _types(train: Profiles, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each requested type: rows of T, and the places of ``labels``; all of them if T has no types.

    Raises:
        ValueError: for a type that T lacks.
    """
    if train.labels is None:
        yield np.arange(len(train)), np.arange(len(labels))
        return
    for label in np.unique(labels):
        rows = np.flatnonzero(train.labels == label)
        if not len(rows):
            raise ValueError(f"Expected types of the training rows, {sorted(set(train.labels))}, got {label!r}.")
        yield rows, np.flatnonzero(labels == label)


def _rows_of_types(train: Profiles) -> list[np.ndarray]:
    if train.labels is None:
        return [np.arange(len(train))]
    return [np.flatnonzero(train.labels == label) for label in np.unique(train.labels)]


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    root: np.ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return root


def _synthetic(train: Profiles, values: np.ndarray, labels: np.ndarray) -> Profiles:
    return Profiles(values, None if train.labels is None else labels, None, train.names)
