"""Likelihoods against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_diffscore.denoiser import GaussianDenoiser
from monai_diffscore.likelihood import bits_per_dim, log_likelihood
from monai_diffscore.sampling import log_uniform_sigmas


def bias_and_error(mixture, points, **options):
    nats, error = log_likelihood(mixture, points, log_uniform_sigmas(64, 1e-3, 400.0), **options)
    return nats - mixture.log_prob(points), error


@pytest.mark.parametrize("name", ["mixture_2d", "mixture_64d"])
def test_exact_likelihood_is_within_a_thousandth_of_a_nat_per_dimension(name, request):
    mixture = request.getfixturevalue(name)
    points = mixture.sample(32, torch.Generator().manual_seed(0))
    difference, error = bias_and_error(mixture, points)
    assert (difference.abs() / points[0].numel()).max() < 1e-3
    assert (error == 0).all()


def test_hutchinson_mean_is_within_three_of_its_standard_errors(mixture_64d):
    points = mixture_64d.sample(16, torch.Generator().manual_seed(0))
    difference, error = bias_and_error(
        mixture_64d, points, divergence="hutchinson", probes=12, generator=torch.Generator().manual_seed(1)
    )
    assert error.min() > 0
    combined = error.square().sum().sqrt() / len(points)  # of the mean over points
    assert difference.mean().abs() < 3 * combined + 1e-3 * 64
    # each point on its own: the ratio is a t-statistic with 11 degrees of freedom, beyond 5 with probability 4e-4
    assert (difference.abs() < 5 * error + 1e-3 * 64).all()


def test_single_probe_has_no_standard_error(mixture_2d):
    points = mixture_2d.sample(4, torch.Generator().manual_seed(0))
    nats, error = bias_and_error(mixture_2d, points, divergence="hutchinson", probes=1)
    assert torch.isfinite(nats).all()
    assert error.isnan().all()


def test_moments_of_the_data_make_the_prior_exact(gaussian):
    """The marginal of isotropic Gaussian data at sigma_max 3 is N(m, s^2 + sigma_max^2), as the prior then is."""
    from monai_diffscore.denoiser import GaussianDenoiser

    mean = torch.tensor([0.5, -0.3, 0.2])
    denoiser = GaussianDenoiser(mean, 0.25 * torch.eye(3))
    points = denoiser.sample(8, torch.Generator().manual_seed(0))
    sigmas = log_uniform_sigmas(64, 1e-4, 3.0)
    nats, _ = log_likelihood(denoiser, points, sigmas, prior_mean=mean, prior_std=0.5)
    torch.testing.assert_close(nats, denoiser.log_prob(points), rtol=0, atol=1e-4)
    plain, _ = log_likelihood(denoiser, points, sigmas)
    assert (plain - denoiser.log_prob(points)).abs().max() > 1e-2


def test_bits_per_dim_of_uniform_grey_values_is_eight():
    """Uniform over [-1, 1] in 10 dimensions has density 2^-10; 256 equally likely grey values carry 8 bits each."""
    nats = torch.tensor([-10 * math.log(2.0)])
    torch.testing.assert_close(bits_per_dim(nats, 10), torch.tensor([8.0]))
    torch.testing.assert_close(bits_per_dim(nats, 10, levels=4096), torch.tensor([12.0]))


def test_wrong_requests_are_refused(mixture_2d):
    points = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="'exact' or 'hutchinson'"):
        log_likelihood(mixture_2d, points, log_uniform_sigmas(4), divergence="guess")
    with pytest.raises(ValueError, match="at least one probe"):
        log_likelihood(mixture_2d, points, log_uniform_sigmas(4), divergence="hutchinson", probes=0)
    with pytest.raises(ValueError, match="at least 2"):
        log_likelihood(mixture_2d, points, log_uniform_sigmas(1))


@pytest.mark.parametrize(("mean", "sigma_max"), [(1.0, 20.0), (3.0, 20.0), (3.0, 80.0)])
def test_a_prior_without_the_mean_is_off_by_what_the_docstring_says(mean, sigma_max):
    """m^2 / (2 sigma_max^2) a dimension on average; antithetic draws leave out what is linear in the noise."""
    dims = 4
    denoiser = GaussianDenoiser(torch.full((dims,), mean), torch.eye(dims))
    draws = torch.randn(20, dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, sigmas = mean + torch.cat([draws, -draws]), log_uniform_sigmas(48, 1e-3, sigma_max)
    centred, _ = log_likelihood(denoiser, x, sigmas, prior_mean=mean, prior_std=1.0)
    plain, _ = log_likelihood(denoiser, x, sigmas, prior_std=1.0)
    torch.testing.assert_close(centred, denoiser.log_prob(x, 1e-3), rtol=0, atol=2e-3)
    bias = float((plain - centred).mean() / dims)
    assert bias == pytest.approx(-(mean**2) / 2 / (sigma_max**2 + 1), rel=0.02)


@pytest.mark.parametrize("kind", [list, tuple, np.asarray, lambda levels: np.asarray(levels, dtype=np.float32)])
def test_lists_and_arrays_are_grids(kind, gaussian):
    sigmas = log_uniform_sigmas(8, 0.01, 20.0)
    x = torch.randn(2, 3, dtype=torch.float64)
    nats, _ = log_likelihood(gaussian, x, kind(sigmas.tolist()))
    torch.testing.assert_close(nats, log_likelihood(gaussian, x, sigmas)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mean", [torch.zeros(4), torch.zeros(2, 1), torch.zeros(5, 3), np.zeros((5, 5, 3))])
def test_a_prior_of_another_shape_is_refused(mean, gaussian):
    with pytest.raises(ValueError, match=rf"shape of one sample, \(3,\), got \({', '.join(map(str, mean.shape))}"):
        log_likelihood(gaussian, gaussian.sample(5), log_uniform_sigmas(4), prior_mean=mean)


@pytest.mark.parametrize(
    "mean", [0.3, [0.3, 0.3, 0.3], np.full(3, 0.3), torch.full((1,), 0.3), torch.full((1, 3), 0.3)]
)
def test_a_prior_is_a_number_or_one_sample(mean, gaussian):
    x = gaussian.sample(5, torch.Generator().manual_seed(0))
    nats, _ = log_likelihood(gaussian, x, log_uniform_sigmas(8), prior_mean=mean)
    same, _ = log_likelihood(gaussian, x, log_uniform_sigmas(8), prior_mean=torch.full((3,), 0.3))
    torch.testing.assert_close(nats, same)


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf])
def test_a_prior_has_a_finite_standard_deviation(std, gaussian):
    with pytest.raises(ValueError, match=f"prior_std.*got {std}"):
        log_likelihood(gaussian, gaussian.sample(5), log_uniform_sigmas(4), prior_std=std)


@pytest.mark.parametrize(
    ("std", "sigma_max", "prior"), [(1.0, 1.0, {}), (30.0, 20.0, {}), (1.0, 3.0, {"prior_std": 9.0})]
)
def test_a_grid_that_ends_far_from_its_prior_gives_a_warning(std, sigma_max, prior, recwarn):
    """And none where the moments of the data are given, or sigma_max is far above them."""
    exact = GaussianDenoiser(torch.zeros(2), std**2 * torch.eye(2))
    x, sigmas = exact.sample(200, torch.Generator().manual_seed(0)), log_uniform_sigmas(24, 1e-3 * std, sigma_max)
    with pytest.warns(UserWarning, match=rf"largest noise level {sigma_max:g} the states deviate by") as seen:
        wrong, _ = log_likelihood(exact, x, sigmas, **prior)
    assert seen[0].filename == __file__
    right, _ = log_likelihood(exact, x, sigmas, prior_std=std)
    log_likelihood(exact, x, log_uniform_sigmas(24, 1e-3 * std, 80 * std))
    assert not recwarn.list
    assert (wrong - exact.log_prob(x)).mean().abs() > 0.1 > (right - exact.log_prob(x)).mean().abs()


@pytest.mark.parametrize("sigma_min", [1.0, 5.0])
def test_a_smallest_level_above_the_data_gives_a_warning(sigma_min, gaussian):
    with pytest.warns(UserWarning, match=f"smallest noise level {sigma_min:g} is not small against x"):
        log_likelihood(gaussian, gaussian.sample(40), log_uniform_sigmas(8, sigma_min, 80.0))


@pytest.mark.parametrize("level", [100.0, 1.0, 0.01])
def test_an_estimate_of_nan_is_told_with_its_level(level, gaussian):
    def denoise(x, sigma):
        return torch.where(sigma[:, None] > level / 2, math.nan, gaussian(x, sigma))

    with pytest.raises(FloatingPointError, match="at sigma "):
        log_likelihood(denoise, gaussian.sample(5), [level, level / 4, level / 100])


@pytest.mark.parametrize(("dims", "levels"), [(0, 256), (4, 0)])
def test_bits_need_dimensions_and_levels(dims, levels):
    with pytest.raises(ValueError, match=f"got {dims}, {levels} and 2"):
        bits_per_dim(torch.ones(2), dims, levels=levels)


def test_data_in_whole_numbers_is_refused(gaussian):
    with pytest.raises(TypeError, match="floating-point"):
        log_likelihood(gaussian, torch.ones(4, 3, dtype=torch.long), log_uniform_sigmas(4))
