"""Preconditionings are exact where a perfect network is known; the oracles agree with Tweedie and Bayes."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from monai_diffscore.denoiser import (
    Denoiser,
    EDMPreconditioning,
    FlowPreconditioning,
    GaussianDenoiser,
    MixtureDenoiser,
    VelocityPreconditioning,
    VEPreconditioning,
    VPPreconditioning,
    score,
)
from monai_diffscore.networks import ScoreMLP
from monai_diffscore.tensors import per_sample

PRECONDITIONINGS = {
    "edm": EDMPreconditioning(0.7),
    "vp": VPPreconditioning(),
    "ve": VEPreconditioning(),
    "velocity": VelocityPreconditioning(),
    "flow": FlowPreconditioning(),
}
SIGMA = torch.tensor([0.002, 0.1, 1.0, 80.0], dtype=torch.float64)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, c_noise, **condition):
        return self.function(x, c_noise, **condition)


def clean_and_noise():
    g = torch.Generator().manual_seed(0)
    return [torch.randn(4, 2, 3, dtype=torch.float64, generator=g) for _ in range(2)]


# what the network of each formulation predicts, from the process's own definition
TARGETS = {
    "vp": lambda x0, n, s: n,
    "ve": lambda x0, n, s: -n,
    "velocity": lambda x0, n, s: (n - s * x0) / (1 + s**2).sqrt(),  # alpha n - std x0
    "flow": lambda x0, n, s: n - x0,
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_true_target_gives_back_the_clean_data(name):
    x0, noise = clean_and_noise()
    sigma = per_sample(SIGMA, x0)
    network = Lambda(lambda x, c_noise: TARGETS[name](x0, noise, sigma))
    denoised = Denoiser(network, PRECONDITIONINGS[name])(x0 + sigma * noise, SIGMA)
    torch.testing.assert_close(denoised, x0, rtol=0, atol=1e-12 * 80)


def test_edm_inputs_and_targets_have_unit_variance():
    sigma_data = 0.7
    c = EDMPreconditioning(sigma_data)(SIGMA)
    torch.testing.assert_close(c.c_in**2 * (sigma_data**2 + SIGMA**2), torch.ones_like(SIGMA))
    # target (x0 - c_skip x) / c_out for independent x0 and noise
    variance = ((1 - c.c_skip) ** 2 * sigma_data**2 + c.c_skip**2 * SIGMA**2) / c.c_out**2
    torch.testing.assert_close(variance, torch.ones_like(SIGMA))


def test_sigma_data_travels_in_the_state_dict():
    trained, fresh = (
        Denoiser(nn.Linear(1, 1), EDMPreconditioning(0.31)),
        Denoiser(nn.Linear(1, 1), EDMPreconditioning()),
    )
    fresh.load_state_dict(trained.state_dict())
    assert fresh.preconditioning.sigma_data.item() == pytest.approx(0.31)


def test_weights_of_another_preconditioning_are_refused():
    """Velocity and flow weights fit each other's shapes."""
    trained = Denoiser(nn.Linear(1, 1), VelocityPreconditioning()).state_dict()
    with pytest.raises(ValueError, match=r"weights of FlowPreconditioning.*trained with VelocityPreconditioning"):
        Denoiser(nn.Linear(1, 1), FlowPreconditioning()).load_state_dict(trained)


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_the_network_sees_one_noise_embedding_whatever_the_formulation(name):
    seen = []
    Denoiser(Lambda(lambda x, c_noise: seen.append(c_noise) or x), PRECONDITIONINGS[name])(clean_and_noise()[0], SIGMA)
    torch.testing.assert_close(seen[0], SIGMA.log() / 4)


def test_float64_states_pass_through_a_float32_network():
    network = nn.Sequential()
    linear = nn.Linear(3, 3)
    network = Lambda(lambda x, c_noise: linear(x))
    network.linear = linear
    x = torch.randn(4, 3, dtype=torch.float64)
    assert Denoiser(network, EDMPreconditioning())(x, 1.0).dtype == torch.float64


def test_autocast_runs_the_network_alone_in_low_precision():
    seen = []
    linear = nn.Linear(3, 3)
    network = Lambda(lambda x, c_noise: seen.append(linear(x).dtype) or linear(x))
    network.linear = linear
    x = torch.randn(4, 3)
    denoised = Denoiser(network, EDMPreconditioning(), autocast_dtype=torch.bfloat16)(x, 1.0)
    assert seen == [torch.bfloat16]
    assert denoised.dtype == torch.float32


def test_an_image_alone_is_denoised_at_the_default_level(gaussian):
    denoiser = Denoiser(Lambda(lambda x, c_noise: torch.tanh(x)), EDMPreconditioning(), default_sigma=0.3)
    x = torch.randn(5, 3)
    torch.testing.assert_close(denoiser(x), denoiser(x, torch.full((5,), 0.3)))


def test_a_wrong_number_of_noise_levels_is_refused():
    with pytest.raises(ValueError, match=r"per sample, of shape \(4,\)"):
        Denoiser(Lambda(lambda x, c: x), EDMPreconditioning())(torch.zeros(4, 3), torch.ones(3))
    with pytest.raises(ValueError, match="sigma_data"):
        EDMPreconditioning(0.0)


def test_condition_reaches_the_network():
    denoiser = Denoiser(Lambda(lambda x, c_noise, age: x + age[:, None]), VEPreconditioning())
    x = torch.zeros(2, 3)
    torch.testing.assert_close(denoiser(x, 1.0, age=torch.tensor([1.0, 2.0]))[:, 0], torch.tensor([1.0, 2.0]))


def test_gaussian_denoiser_is_the_posterior_mean(gaussian: GaussianDenoiser):
    """D = m + C (C + s^2 I)^-1 (x - m), by a linear solve instead of the eigenbasis."""
    mean = gaussian.means[0]
    covariance = gaussian.axes[0] @ gaussian.variances[0].diag() @ gaussian.axes[0].T
    x = torch.randn(6, 3, dtype=torch.float64)
    for sigma in (0.01, 0.5, 20.0):
        inner = torch.linalg.solve(covariance + sigma**2 * torch.eye(3), (x - mean).T)
        torch.testing.assert_close(gaussian(x, sigma), mean + (covariance @ inner).T)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_score_is_the_gradient_of_the_log_density(mixture_64d: MixtureDenoiser, sigma: float):
    x = mixture_64d.sample(8, torch.Generator().manual_seed(0)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(mixture_64d.log_prob(x, sigma).sum(), x)
    torch.testing.assert_close(score(mixture_64d, x.detach(), sigma), gradient, rtol=1e-9, atol=1e-9)


def test_mixture_samples_have_the_mixture_moments(mixture_2d: MixtureDenoiser, generator):
    count = 20_000
    samples = mixture_2d.sample(count, generator)
    weights, means = mixture_2d.log_weights.exp(), mixture_2d.means
    within = torch.einsum("k,kde,ke,kfe->df", weights, mixture_2d.axes, mixture_2d.variances, mixture_2d.axes)
    mean = weights @ means
    covariance = within + torch.einsum("k,kd,ke->de", weights, means - mean, means - mean)
    five_errors = 5 * covariance.diag().sqrt() / count**0.5
    assert ((samples.mean(0) - mean).abs() < five_errors).all()
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0.05, atol=0.02)


def test_mixture_parameters_of_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="covariances"):
        MixtureDenoiser(torch.ones(2), torch.zeros(2, 3), torch.eye(3))


@pytest.mark.parametrize("sigma", [0, 0.0, -1.0, math.nan, math.inf, torch.tensor(0.0), torch.tensor([1.0, 0.0, 2.0])])
def test_levels_that_are_not_positive_are_refused(sigma, gaussian):
    x = torch.randn(3, 3)
    denoiser = Denoiser(Lambda(lambda x, _: x), EDMPreconditioning())
    for call in (denoiser, lambda x, sigma: score(denoiser, x, sigma), lambda x, sigma: score(gaussian, x, sigma)):
        with pytest.raises(ValueError, match=r"sigma > 0, got \[.*Stop at a small level"):
            call(x, sigma)
    assert denoiser(x, 1e-6).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "returned"),
    [
        ((2, 3, 4, 4), (2, 1, 4, 4)),
        ((2, 3), (2, 1)),
        ((5, 1, 8), (1, 1, 8)),
        ((2, 3), (2, 3, 1)),
        ((2, 1, 4), (2, 2, 4)),
    ],
)
def test_a_network_of_another_shape_is_refused_though_it_broadcasts(shape, returned):
    denoiser = Denoiser(Lambda(lambda x, _: torch.zeros(returned)), EDMPreconditioning())
    with pytest.raises(ValueError, match="the network to return the shape of x") as caught:
        denoiser(torch.zeros(shape), 1.0)
    assert str(shape) in str(caught.value)
    assert str(returned) in str(caught.value)


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x,), lambda x: [x, x], lambda x: {"sample": x}, lambda x: SimpleNamespace(sample=x), lambda x: None],
)
def test_a_network_that_returns_no_tensor_is_refused_with_the_remedy(wrap):
    denoiser = Denoiser(Lambda(lambda x, _: wrap(x)), EDMPreconditioning())
    with pytest.raises(
        TypeError, match=rf"one tensor of the shape of x, \(2, 3\), got {type(wrap(0)).__name__}. Wrap it"
    ):
        denoiser(torch.zeros(2, 3), 1.0)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 3, dtype=torch.uint8),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 3) > 0,
        np.zeros((2, 3)),
    ],
    ids=["uint8", "int64", "bool", "numpy"],
)
def test_images_of_another_type_are_refused(x, gaussian):
    """A level of 0.5 would be 0 in the type of grey values."""
    for denoiser in (Denoiser(nn.Identity(), EDMPreconditioning()), partial(score, gaussian)):
        with pytest.raises(TypeError, match=r"floating-point numbers \[B, \.\.\.\], got .*normalise it"):
            denoiser(x, 0.5)


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0, 2.0, 3.0])])
@pytest.mark.parametrize("kind", ["gaussian", "mixture_2d", "mixture_64d"])
def test_exact_denoisers_refuse_levels_that_are_not_positive(kind, sigma, request):
    exact = request.getfixturevalue(kind)
    with pytest.raises(ValueError, match="finite noise levels sigma > 0"):
        exact(exact.sample(4), sigma)


@pytest.mark.parametrize("sigma", [-1.0, math.nan, torch.tensor([1.0, -0.1, 2.0, 3.0])])
def test_a_density_refuses_negative_levels_and_takes_zero(sigma, gaussian):
    x = gaussian.sample(4)
    with pytest.raises(ValueError, match="sigma >= 0"):
        gaussian.log_prob(x, sigma)
    assert gaussian.log_prob(x, 0.0).isfinite().all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianDenoiser(torch.zeros(2), -torch.eye(2)), "eigenvalue of -1"),
        (lambda: GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]])), "symmetric"),
        (lambda: GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "eigenvalue of -1"),
        (lambda: MixtureDenoiser(torch.tensor([1.0, -1.0]), torch.zeros(2, 1), torch.ones(2, 1, 1)), "weights > 0"),
        (lambda: MixtureDenoiser(torch.zeros(2), torch.zeros(2, 1), torch.ones(2, 1, 1)), "weights > 0"),
    ],
)
def test_densities_that_are_none_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
    GaussianDenoiser(torch.zeros(2), torch.ones(2, 2))  # of rank 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda net: Denoiser(net, EDMPreconditioning), "got the class EDMPreconditioning"),
        (lambda net: Denoiser(EDMPreconditioning(), net), "got ScoreMLP"),
        (lambda net: Denoiser(net, 0.5), "got float"),
        (lambda net: Denoiser(net, EDMPreconditioning(), autocast_dtype="bfloat16"), "torch.bfloat16 or None"),
    ],
)
def test_arguments_in_another_order_are_refused(make, words):
    with pytest.raises(TypeError, match=words):
        make(ScoreMLP(2, 8))


IMAGES = {
    "bytes": lambda: 255 * torch.rand(2, 1, 8, 8), "hounsfield": lambda: -1000 + 600 * torch.rand(2, 1, 8, 8),
    "twelve bits": lambda: 4095 * torch.rand(2, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(PRECONDITIONINGS) - {"ve"}))
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("sigma", [0.1, 2.0, torch.tensor([0.1, 3.0])])
def test_an_image_that_is_not_normalised_gives_one_warning_with_both_numbers(image, name, sigma, recwarn):
    x, denoiser = IMAGES[image](), Denoiser(Lambda(lambda x, _: 0 * x), PRECONDITIONINGS[name]).eval()
    for _ in range(2):
        denoiser(x, sigma)
    (warning,) = recwarn
    assert f"root mean square of {float(x.double().square().mean().sqrt()):.4g}" in str(warning.message)
    assert "x0 / 127.5 - 1" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("sigma", [0.01, 1.0, 80.0])
def test_an_image_with_its_noise_gives_no_warning(sigma, recwarn):
    """Also without noise, at any level, batched by torch.func, and in training, where the loss looks at the data."""
    x = torch.rand(2, 64) * 2 - 1
    for name, preconditioning in PRECONDITIONINGS.items():
        denoiser = Denoiser(Lambda(lambda x, _: 0 * x), preconditioning).eval()
        denoiser(x if sigma > 2 or name == "ve" else x + sigma * torch.randn(2, 64), sigma)
        Denoiser(Lambda(lambda x, _: 0 * x), preconditioning).train()(255 * x, sigma)
    denoiser = Denoiser(Lambda(lambda x, _: 0 * x), PRECONDITIONINGS["edm"]).eval()
    assert torch.func.vmap(lambda one: denoiser(one[None], 0.5)[0])(x).shape == x.shape
    assert not recwarn.list
