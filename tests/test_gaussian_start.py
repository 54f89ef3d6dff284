"""The Gaussian start of a table's model: exact denoisers of its labels, and of a missing label; its moments."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf

from monai_diffscore import Denoiser, EDMPreconditioning, GaussianDenoiser, MixtureDenoiser, ScoreMLP
from monai_diffscore.gaussian_start import LARGEST, GaussianStart, measure_moments

CATEGORIES = {"categorical": {"label": 3}}
NUMBER = {"attached": {"label": (50.0, 20.0)}}


def rows_of(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows of three axes, correlated, with means that depend on the label."""
    random = np.random.default_rng(seed)
    mixing = np.array([[1, 0.6, 0], [0, 0.7, 0.3], [0, 0, 0.5]])
    return random.normal(size=(len(labels), 3)) @ mixing + labels[:, None] * np.array([0.02, -0.5, 0.01])


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0.02, 0.3, 1.0, 2.0, 5.0, 60.0], dtype=torch.float64)


def test_it_is_the_denoiser_of_each_category_and_of_their_mixture(points):
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    moments = json.loads(json.dumps(measure_moments(rows_of(labels), labels, CATEGORIES)))
    mean, offsets, weights, covariance = (
        torch.tensor(moments[n]) for n in ("mean", "offsets", "weights", "covariance")
    )
    start, (x, sigma) = GaussianStart(moments), points
    assert weights.tolist() == pytest.approx([50, 30, 20])
    for label in range(3):
        exact = GaussianDenoiser(mean + offsets[label], covariance)(x, sigma)
        torch.testing.assert_close(start(x, sigma, label=torch.full((6,), label)), exact, atol=2e-5, rtol=1e-5)
    mixture = MixtureDenoiser(weights, mean + offsets, covariance.expand(3, 3, 3))(x, sigma)
    torch.testing.assert_close(start(x, sigma), mixture, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(start(x, sigma, label=torch.full((6,), -1)), mixture, atol=2e-5, rtol=1e-5)


def test_it_is_the_denoiser_of_each_number_and_of_all_numbers(points):
    labels = np.random.default_rng(2).normal(50, 20, 400)
    moments = measure_moments(rows_of(labels / 20), labels, NUMBER)
    mean, slope, covariance = (
        torch.tensor(moments[name], dtype=torch.float64) for name in ("mean", "slope", "covariance")
    )
    start, (x, sigma) = GaussianStart(moments), points
    exact = GaussianDenoiser(mean + 1.5 * slope, covariance)(x, sigma)
    torch.testing.assert_close(start(x, sigma, label=torch.full((6,), 80.0)), exact, atol=2e-5, rtol=1e-5)
    marginal = GaussianDenoiser(mean, covariance + slope[:, None] * slope)(x, sigma)
    torch.testing.assert_close(start(x, sigma, label=torch.full((6,), torch.nan)), marginal, atol=2e-5, rtol=1e-5)


def test_the_moments_are_those_of_the_rows():
    """Means of categories, the slope of least squares, the shrunk covariance of the rest; a row may have no label."""
    labels = np.repeat([0, 1, -1], [40, 40, 20])
    rows = rows_of(labels)
    moments = measure_moments(rows, labels, {"categorical": {"label": 2}})
    for label in range(2):
        centre = np.add(moments["mean"], moments["offsets"][label])
        np.testing.assert_allclose(centre, rows[labels == label].mean(0), atol=2e-6)
    plain = measure_moments(rows, None, {})
    np.testing.assert_allclose(plain["covariance"], ledoit_wolf(rows)[0], atol=1e-6)
    numbers = np.where(labels < 0, np.nan, np.linspace(10, 90, 100))
    known = ~np.isnan(numbers)
    slope = measure_moments(rows, numbers, NUMBER)["slope"]
    units = (numbers[known] - 50) / 20
    np.testing.assert_allclose(slope, units @ (rows - rows.mean(0))[known] / (units @ units), atol=1e-6)
    assert measure_moments(np.zeros((4, LARGEST + 1)), None, {}) is None


def test_an_untrained_network_leaves_the_start_as_it_is(points):
    """A network returns 0 before training; a missing class of a training set is no fault."""
    labels = np.zeros(40, dtype=int)
    start = GaussianStart(measure_moments(rows_of(labels), labels, {"categorical": {"label": 2}}))
    denoiser = Denoiser(ScoreMLP(features=3, hidden_size=8), EDMPreconditioning(1.0), start=start)
    x, sigma = points
    torch.testing.assert_close(denoiser(x, sigma), start(x, sigma))
    assert start(x, sigma, label=torch.ones(6, dtype=torch.long)).isfinite().all()
