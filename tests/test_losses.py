"""Noise distributions by their quantiles, weights by identities, and the loss by its exact minimum."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from monai_diffscore.denoiser import (
    Denoiser,
    EDMPreconditioning,
    FlowPreconditioning,
    VelocityPreconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from monai_diffscore.losses import (
    DenoisingLoss,
    FiniteWatch,
    LearnedUncertainty,
    LogNormalNoise,
    LogUniformNoise,
    NotFiniteError,
    UniformTimeNoise,
    edm_weight,
    flow_weight,
    likelihood_weight,
    min_snr_weight,
)
from monai_diffscore.networks import ScoreMLP
from monai_diffscore.sde import VPSDE

DISTRIBUTIONS = [LogNormalNoise(-0.4, 1.0), LogUniformNoise(0.01, 10.0), UniformTimeNoise(VPSDE())]
SIGMA = torch.logspace(-2, 2, 9, dtype=torch.float64)


@pytest.mark.parametrize("noise", DISTRIBUTIONS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("stratified", [True, False])
def test_draws_follow_the_quantiles(noise, stratified, generator):
    draws = noise.sample(4096, generator=generator, stratified=stratified).double()
    probabilities = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    shares = torch.stack([(draws < q).double().mean() for q in noise.quantile(probabilities)])
    five_errors = 0.002 if stratified else 5 * 0.5 / 4096**0.5
    assert (shares - probabilities).abs().max() < five_errors


def test_a_batch_has_one_draw_in_each_slice(generator):
    noise = LogUniformNoise(0.01, 10.0)
    draws = noise.sample(8, generator=generator).double()
    edges = noise.quantile(torch.linspace(0, 1, 9, dtype=torch.float64))
    assert torch.bucketize(draws.sort().values, edges).tolist() == list(range(1, 9))
    assert draws.tolist() != sorted(draws.tolist())  # the order is random


def test_log_normal_has_its_moments(generator):
    logs = LogNormalNoise(-1.2, 1.2).sample(100_000, generator=generator).log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.01)
    assert logs.std().item() == pytest.approx(1.2, abs=0.01)


def test_edm_weight_makes_the_network_loss_uniform():
    torch.testing.assert_close(
        edm_weight(SIGMA, 0.7) * EDMPreconditioning(0.7)(SIGMA).c_out ** 2, torch.ones_like(SIGMA)
    )


def test_weights_agree_where_they_must():
    error = torch.randn(len(SIGMA), dtype=SIGMA.dtype, generator=torch.Generator().manual_seed(0))
    time = SIGMA / (1 + SIGMA)  # D = x_t - t F: an error of the velocity is the error of x0 over t
    torch.testing.assert_close(flow_weight(SIGMA) * error**2, (error / time) ** 2)
    torch.testing.assert_close(likelihood_weight(SIGMA) * SIGMA**2, torch.ones_like(SIGMA))
    torch.testing.assert_close(min_snr_weight(SIGMA, 5.0), likelihood_weight(SIGMA).clamp_max(5.0))


def test_loss_of_a_zero_network_is_one_for_gaussian_white_data(generator):
    """EDM weight x EDM preconditioning: F = 0 leaves the unit variance of the target."""
    x0 = 0.5 * torch.randn(512, 64, generator=generator)
    loss = DenoisingLoss(LogNormalNoise())(Denoiser(ScoreMLP(64, 16, 1), EDMPreconditioning(0.5)), x0, generator)
    assert loss.shape == (512,)
    assert loss.mean().item() == pytest.approx(1.0, abs=5 * (2 / (512 * 64)) ** 0.5)


def test_exact_denoiser_has_a_lower_loss_than_any_bent_one(mixture_2d, generator):
    x0 = mixture_2d.sample(4096, generator)

    class Bent(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x, sigma):
            return self.factor * mixture_2d(x, sigma)

    losses = [
        DenoisingLoss(LogNormalNoise())(Bent(factor), x0, torch.Generator().manual_seed(0)).mean().item()
        for factor in (0.9, 1.0, 1.1)
    ]
    assert losses[1] == min(losses)


def test_uncertainty_is_zero_at_first_and_learns_the_log_error(generator):
    """At its minimum u is the log of the weighted error, here the constant 4."""
    uncertainty = LearnedUncertainty(32)
    sigma = LogNormalNoise().sample(256, generator=generator)
    assert (uncertainty(sigma) == 0).all()
    optimizer = torch.optim.Adam(uncertainty.parameters(), lr=0.05)
    for _ in range(300):
        log_variance = uncertainty(sigma)
        (4.0 * torch.exp(-log_variance) + log_variance).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (uncertainty(sigma) - math.log(4.0)).abs().mean() < 0.05
    loss = DenoisingLoss(LogNormalNoise(), uncertainty=uncertainty)
    assert len(list(loss.parameters())) == 1


def test_a_loss_that_is_not_finite_stops_with_sigma_and_sample():
    x0 = torch.zeros(4, 3)
    x0[2, 1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"samples \[2\].*at sigma.*NOT finite"):
        DenoisingLoss(LogNormalNoise())(Denoiser(ScoreMLP(3, 8, 1), EDMPreconditioning()), x0)


def test_a_watch_that_looks_late_finds_the_first_that_is_not_finite():
    watch = FiniteWatch(lambda value, fact: f"got {value.tolist()} with {fact.item()}", every=4)
    numbers = iter(range(100))
    watch.clock = lambda: next(numbers)
    for value in (1.0, torch.inf, torch.nan):
        watch.add(torch.tensor([value, 2.0]), torch.tensor(7.0))  # not looked at yet
    with pytest.raises(NotFiniteError, match=r"got \[inf, 2.0\] with 7.0") as caught:
        watch.add(torch.tensor([0.0]), torch.tensor(7.0))
    assert caught.value.at == 1
    watch.settle()  # nothing is left


def test_the_denoiser_is_called_so_that_hooks_run():
    calls = []
    denoiser = Denoiser(ScoreMLP(3, 8, 1), EDMPreconditioning())
    denoiser.register_forward_hook(lambda *a: calls.append(1))
    DenoisingLoss(LogNormalNoise())(denoiser, torch.zeros(4, 3))
    assert calls == [1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogNormalNoise(std=0.0),
        lambda: LogUniformNoise(1.0, 0.1),
        lambda: UniformTimeNoise(VPSDE(), t_min=0.0),
        lambda: UniformTimeNoise(VPSDE(), t_max=1.5),
    ],
)
def test_impossible_distributions_are_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()


@pytest.mark.parametrize(
    ("shape", "returned"), [((2, 3, 4, 4), (2, 1, 4, 4)), ((6, 3), (6, 1)), ((5, 1, 8), (1, 1, 8))]
)
def test_a_denoiser_of_another_shape_is_refused_though_it_broadcasts(shape, returned):
    with pytest.raises(ValueError, match="the denoiser") as caught:
        DenoisingLoss(LogNormalNoise())(lambda x, sigma: torch.zeros(returned), torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert str(returned) in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda x: (x, x), lambda x: {"sample": x}, lambda x: None])
def test_a_denoiser_that_returns_no_tensor_is_refused(wrap):
    with pytest.raises(TypeError, match="the denoiser to return one tensor"):
        DenoisingLoss(LogNormalNoise())(lambda x, sigma: wrap(x), torch.zeros(2, 3))


@pytest.mark.parametrize(("weighted", "own"), [(None, 1.15), (0.5, 20.0), (1.0, 0.9)])
def test_a_weight_of_another_standard_deviation_gives_one_warning(weighted, own, recwarn):
    weight = edm_weight if weighted is None else partial(edm_weight, sigma_data=weighted)
    loss, x = DenoisingLoss(LogNormalNoise(), weight), torch.ones(4, 2)
    for _ in range(2):
        loss(Denoiser(ScoreMLP(2, hidden_size=8, depth=1), EDMPreconditioning(own)), x)
    (warning,) = recwarn
    assert f"sigma_data {weighted or 0.5:.4g}, the preconditioning of the denoiser {own:.4g}" in str(warning.message)


@pytest.mark.parametrize("weight", [partial(edm_weight, sigma_data=1.15), likelihood_weight])
def test_a_weight_of_the_same_standard_deviation_gives_none(weight, recwarn):
    denoiser = Denoiser(ScoreMLP(2, hidden_size=8, depth=1), EDMPreconditioning(1.15))
    DenoisingLoss(LogNormalNoise(), weight)(denoiser, torch.ones(4, 2))
    assert not recwarn.list


DATA = {
    "bytes": lambda n: (127.5 + 60 * n).clamp(0, 255), "hounsfield": lambda n: -400 + 500 * n,
    "twelve bits": lambda n: (800 + 300 * n).clamp(0, 4095), "divided twice": lambda n: n / 255,
}  # fmt: skip
KINDS = {
    "edm": lambda: EDMPreconditioning(1.0), "vp": VPPreconditioning, "velocity": VelocityPreconditioning,
    "flow": FlowPreconditioning,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", DATA)
def test_data_of_another_scale_gives_one_warning_with_both_numbers(data, kind, recwarn):
    x0 = DATA[data](torch.randn(64, 2, generator=torch.Generator().manual_seed(0)))
    loss = DenoisingLoss(LogNormalNoise(), likelihood_weight)
    for _ in range(2):
        loss(Denoiser(ScoreMLP(2, hidden_size=8, depth=1), KINDS[kind]()), x0)
    (warning,) = recwarn
    scale = float(x0.double().square().mean().sqrt())
    assert f"root mean square of {scale:.4g}" in str(warning.message)
    assert "assumes 1. Normalise the data" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.0, 3.0])
def test_data_of_the_usual_scales_gives_no_warning(scale, recwarn):
    """Also grey values in [0, 1] and [-1, 1], an empty batch of patches, and a VE process, which assumes none."""
    loss = DenoisingLoss(LogNormalNoise(), likelihood_weight)
    network = ScoreMLP(2, hidden_size=8, depth=1)
    for x0 in (scale * torch.randn(64, 2), torch.rand(64, 2), 2 * torch.rand(64, 2) - 1, torch.zeros(64, 2)):
        loss._compared = False
        loss(Denoiser(network, EDMPreconditioning(1.0)), x0)
    loss._compared = False
    loss(Denoiser(network, VEPreconditioning()), 255 * torch.rand(64, 2))
    assert not recwarn.list


@pytest.mark.parametrize("x0", [torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(4, 2, dtype=torch.long), np.zeros(4)])
def test_data_in_whole_numbers_or_numpy_is_refused(x0):
    with pytest.raises(TypeError, match=r"x0 to be a tensor of floating-point.*torch.as_tensor\(x0\).float"):
        DenoisingLoss(LogNormalNoise())(Denoiser(ScoreMLP(2, 8), EDMPreconditioning()), x0)


def weighted_by(weight, x0):
    return DenoisingLoss(LogNormalNoise(), weight)(lambda x, sigma: x, x0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: DenoisingLoss(VPSDE()), TypeError, r"got VPSDE.*UniformTimeNoise\(sde\)"),
        (lambda x: DenoisingLoss(LogNormalNoise(), 1.0), TypeError, "function of sigma as weight, got 1.0"),
        (lambda x: DenoisingLoss(LogNormalNoise())(ScoreMLP(2, 8), x), TypeError, "got the network ScoreMLP"),
        (lambda x: weighted_by(lambda sigma: sigma[:, None], x), ValueError, r"\(4,\), got \(4, 1\)"),
        (lambda x: weighted_by(lambda sigma: sigma.mean(), x), ValueError, r"\(4,\), got \(\)"),
        (lambda x: LogNormalNoise(-1.2, math.nan), ValueError, "nan"),
        (lambda x: LogUniformNoise(0.002, math.inf), ValueError, "sigma_max < inf"),
        (lambda x: UniformTimeNoise(VPSDE), TypeError, "got the class VPSDE"),
        (lambda x: edm_weight(x, 0.0), ValueError, "sigma_data.* > 0, got 0"),
        (lambda x: min_snr_weight(x, -5.0), ValueError, "gamma > 0, got -5"),
    ],
)  # fmt: skip
def test_mistyped_calls_are_told_what_is_right(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.ones(4, 2) if "ScoreMLP" in words else torch.ones(4, 1))
