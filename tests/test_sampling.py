"""Grids, the contract that every sampler passes, measured orders of convergence, recovered distributions."""

from __future__ import annotations

import inspect
import itertools
import math

import numpy as np
import pytest
import torch

from monai_diffscore import sampling
from monai_diffscore.networks import ScoreMLP
from monai_diffscore.sampling import (
    ORDERS,
    asinh_sigmas,
    check_sigmas,
    cosine_sigmas,
    encode,
    karras_sigmas,
    log_uniform_sigmas,
    sample_adams,
    sample_ancestral,
    sample_dpmpp_2m_sde,
    sample_euler,
    sample_heun,
    sample_predictor_corrector,
    sample_repaint,
    sample_reverse_sde,
    sample_rk45,
    time_uniform_sigmas,
)
from monai_diffscore.sampling.steps import Interval
from monai_diffscore.sde import VPSDE, FlowSDE

SAMPLERS = {name: f for name, f in inspect.getmembers(sampling, inspect.isfunction) if name.startswith("sample_")}
STOCHASTIC = {sample_ancestral, sample_repaint, sample_dpmpp_2m_sde, sample_reverse_sde, sample_predictor_corrector}
GRIDS = {
    "asinh": asinh_sigmas,
    "karras": karras_sigmas,
    "log_uniform": log_uniform_sigmas,
    "cosine": cosine_sigmas,
    "vp": lambda steps: time_uniform_sigmas(steps, VPSDE()),
    "flow": lambda steps: time_uniform_sigmas(steps, FlowSDE()),
}


# ---- grids ----


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_grids_descend_to_zero_in_float64(grid, steps):
    sigmas = grid(steps)
    assert sigmas.shape == (steps + 1,)
    assert sigmas.dtype == torch.float64
    assert (sigmas.diff() < 0).all()
    assert sigmas[-1] == 0


def test_karras_grid_has_its_ends_and_its_formula():
    sigmas = karras_sigmas(5, sigma_min=0.1, sigma_max=10.0, rho=3.0)
    expected = (10 ** (1 / 3) + 2 / 4 * (0.1 ** (1 / 3) - 10 ** (1 / 3))) ** 3
    torch.testing.assert_close(sigmas[[0, 2, 4]], torch.tensor([10.0, expected, 0.1], dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: karras_sigmas(0),
        lambda: karras_sigmas(4, 2.0, 1.0),
        lambda: time_uniform_sigmas(4, VPSDE(), t_min=0.0),
        lambda: sample_euler(None, torch.zeros(1, 2), torch.tensor([1.0, 2.0])),
        lambda: sample_euler(None, torch.zeros(1, 2), torch.tensor([1.0])),
        lambda: sample_euler(None, torch.zeros(1, 2), torch.tensor([math.inf, 0.0])),
        lambda: sample_euler(None, torch.zeros(1, 2), torch.tensor([1.0, -1.0])),
    ],
)
def test_bad_grids_are_refused(make):
    with pytest.raises(ValueError, match=r"[Ee]xpect|at least one"):
        make()


# ---- the contract of every sampler ----


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_sampler_contract(name, steps, mixture_64d):
    sampler, sigmas = SAMPLERS[name], karras_sigmas(steps)
    x = sigmas[0] * torch.randn(3, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    x = x.float()
    before = x.clone()
    seen = []

    def run():
        return sampler(mixture_64d, x, sigmas, generator=torch.Generator().manual_seed(1), callback=seen.append)

    samples = run()
    assert samples.shape == x.shape
    assert samples.dtype == x.dtype
    assert torch.isfinite(samples).all()
    torch.testing.assert_close(x, before, rtol=0, atol=0)  # the argument is left alone
    torch.testing.assert_close(run(), samples, rtol=0, atol=0)  # the generator is all the randomness there is
    if sampler is not sample_rk45:
        assert [step.number for step in seen] == 2 * list(range(steps))
        assert [step.sigma for step in seen[:steps]] == sigmas[:-1].tolist()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sample_does_not_depend_on_its_batch(name, mixture_2d):
    """With one generator per sample; to the tolerance of its step control for the adaptive solver."""
    sampler, sigmas = SAMPLERS[name], karras_sigmas(6)

    def run(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(2, generator=g, dtype=torch.float64) for g in generators])
        return sampler(mixture_2d, sigmas[0] * noise, sigmas, generator=generators)

    atol = 1e-3 if sampler is sample_rk45 else 1e-12
    torch.testing.assert_close(run([3, 5, 8])[1:2], run([5]), rtol=0, atol=atol)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_denoiser(name, mixture_2d):
    x = 80 * torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = SAMPLERS[name](mixture_2d, x, karras_sigmas(1))
    torch.testing.assert_close(samples, mixture_2d(x, 80.0), rtol=1e-9, atol=1e-9)


# ---- accuracy ----


@pytest.fixture(scope="module")
def gaussian_flow():
    """The exact endpoint of the ODE for Gaussian data: each principal axis scales by sqrt((l + s^2)/(l + S^2))."""
    from monai_diffscore.denoiser import GaussianDenoiser

    denoiser = GaussianDenoiser(torch.tensor([0.3, -0.2]), torch.tensor([[1.0, 0.4], [0.4, 0.5]]))
    x = 80 * torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def exact(sigma_end=0.0, sigma_start=80.0):
        on_axes = (x - denoiser.means[0]) @ denoiser.axes[0]
        scale = ((denoiser.variances[0] + sigma_end**2) / (denoiser.variances[0] + sigma_start**2)).sqrt()
        return denoiser.means[0] + (on_axes * scale) @ denoiser.axes[0].T

    return denoiser, x, exact


@pytest.fixture(scope="module")
def mixture_flow(mixture_2d):
    """The flow of three anisotropic modes from 80 to 0.002, by an adaptive solver at 1e-12."""
    x = 80 * torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([80.0, 0.002], dtype=torch.float64)
    return mixture_2d, x, sample_rk45(mixture_2d, x, ends, rtol=1e-12, atol=1e-13)


def measured_order(sampler, flow, steps=256, **options):
    """log2 of the ratio of errors when the number of steps doubles."""
    mixture, x, reference = flow
    errors = [sampler(mixture, x, karras_sigmas(n)[:-1], **options) - reference for n in (steps, 2 * steps)]
    return math.log2(errors[0].square().mean().sqrt() / errors[1].square().mean().sqrt())


@pytest.mark.parametrize("sampler", ORDERS, ids=lambda f: f.__name__)
def test_measured_order_of_convergence_is_the_declared_one(sampler, mixture_flow):
    """The corrector of adams makes the leading error so small that the next term shows for long: 4.8, 4.6 and, at 1024
    steps, 4.1 are measured."""
    steps, tolerance = (1024, 0.2) if sampler is sample_adams else (256, 0.1)
    assert measured_order(sampler, mixture_flow, steps) == pytest.approx(ORDERS[sampler], abs=tolerance)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_has_the_requested_order(order, mixture_flow):
    """Order 4 starts with one step each of lower orders, at noise levels where they hardly matter: 4.2 is measured."""
    measured = measured_order(sample_adams, mixture_flow, order=order, corrector=False)
    assert measured == pytest.approx(order, abs=0.1 if order < 4 else 0.5)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_corrector_makes_adams_several_times_more_accurate_at_no_cost(order, mixture_flow):
    mixture, x, reference = mixture_flow
    calls = []

    def denoise(state, sigma):
        calls.append(sigma)
        return mixture(state, sigma)

    errors = [
        (sample_adams(denoise, x, asinh_sigmas(64)[:-1], order=order, corrector=corrector) - reference).square().mean()
        for corrector in (False, True)
    ]
    assert len(calls) == 2 * 63
    assert errors[0] > 3 * errors[1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_callback_stops_the_sampling_with_the_current_estimate(name, mixture_2d):
    sigmas, seen = karras_sigmas(8), []
    x = sigmas[0] * torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def stop_at_third(step):
        seen.append(step)
        return len(seen) == 3

    stopped = SAMPLERS[name](mixture_2d, x, sigmas, callback=stop_at_third)
    assert len(seen) == 3
    torch.testing.assert_close(stopped, seen[-1].denoised, rtol=0, atol=0)
    whole, other = (
        SAMPLERS[name](mixture_2d, x, sigmas, generator=torch.Generator().manual_seed(1), callback=callback)
        for callback in (None, lambda step: "anything but True")
    )
    torch.testing.assert_close(other, whole, rtol=0, atol=0)
    assert not torch.allclose(stopped, whole)


def test_repaint_without_repeats_is_ancestral_sampling(mixture_2d):
    x = 80 * torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    once, ancestral = (
        f(mixture_2d, x, karras_sigmas(9), generator=torch.Generator().manual_seed(1), **options)
        for f, options in ((sample_repaint, {"repeats": 1}), (sample_ancestral, {}))
    )
    torch.testing.assert_close(once, ancestral)
    with pytest.raises(ValueError, match="repeats >= 1"):
        sample_repaint(mixture_2d, x, karras_sigmas(9), repeats=0)


@pytest.mark.parametrize("sampler", ORDERS, ids=lambda f: f.__name__)
def test_the_step_to_zero_ends_on_the_data(sampler, gaussian_flow):
    denoiser, x, exact = gaussian_flow
    bound = {1: 2e-2, 2: 2e-3, 4: 1e-5}[ORDERS[sampler]]
    assert (sampler(denoiser, x, karras_sigmas(128)) - exact()).square().mean().sqrt() < bound


def test_every_deterministic_sampler_is_declared():
    assert set(SAMPLERS.values()) == set(ORDERS) | STOCHASTIC | {sample_rk45}


def test_adaptive_solver_keeps_its_tolerance(gaussian_flow):
    denoiser, x, exact = gaussian_flow
    sigmas = torch.tensor([80.0, 1e-3], dtype=torch.float64)  # ends above 0: no last denoising step
    loose = sample_rk45(denoiser, x, sigmas, rtol=1e-4, atol=1e-4) - exact(1e-3)
    tight = sample_rk45(denoiser, x, sigmas, rtol=1e-9, atol=1e-9) - exact(1e-3)
    assert tight.abs().max() < 1e-6 < loose.abs().max() < 1e-2


def test_euler_is_ddim():
    """DDIM (Song et al. 2010.02502, Eq. 12, eta 0) on its own variance-preserving state, with its own arithmetic."""
    from monai_diffscore.denoiser import GaussianDenoiser

    denoiser = GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 0.4], [0.4, 0.5]]))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)[torch.linspace(999, 0, 20).long()]
    sigmas = torch.cat([(1 / alpha_bar - 1).sqrt(), torch.zeros(1, dtype=torch.float64)])
    alpha_bar = torch.cat([alpha_bar, torch.ones(1, dtype=torch.float64)])
    state = torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = sample_euler(denoiser, state / alpha_bar[0].sqrt(), sigmas)
    for current, following in itertools.pairwise(alpha_bar):
        predicted = denoiser(state / current.sqrt(), (1 / current - 1).sqrt())
        epsilon = (state - current.sqrt() * predicted) / (1 - current).sqrt()
        state = following.sqrt() * predicted + (1 - following).sqrt() * epsilon
    torch.testing.assert_close(ours, state, rtol=1e-10, atol=1e-10)


def test_ancestral_without_noise_is_euler(mixture_2d):
    x = 80 * torch.randn(5, 2, dtype=torch.float64)
    ddim = sample_ancestral(mixture_2d, x, karras_sigmas(9), eta=0.0)
    torch.testing.assert_close(ddim, sample_euler(mixture_2d, x, karras_sigmas(9)))
    with pytest.raises(ValueError, match="eta"):
        sample_ancestral(mixture_2d, x, karras_sigmas(9), eta=2.0)


def test_adams_of_order_one_is_euler(mixture_2d):
    x = 80 * torch.randn(5, 2, dtype=torch.float64)
    first = sample_adams(mixture_2d, x, karras_sigmas(9), order=1, corrector=False)
    torch.testing.assert_close(first, sample_euler(mixture_2d, x, karras_sigmas(9)))
    with pytest.raises(ValueError, match="order 1, 2, 3 or 4"):
        sample_adams(mixture_2d, x, karras_sigmas(9), order=5)


def test_second_order_sde_solver_without_noise_converges_to_the_ode(gaussian_flow):
    denoiser, x, exact = gaussian_flow
    samples = sample_dpmpp_2m_sde(denoiser, x, karras_sigmas(400), eta=0.0)
    assert (samples - exact()).abs().max() < 1e-3


def test_corrector_refuses_a_step_that_overshoots(mixture_2d):
    with pytest.raises(ValueError, match="snr"):
        sample_predictor_corrector(mixture_2d, torch.zeros(1, 2), karras_sigmas(3), snr=0.8)


@pytest.mark.parametrize(
    "sampler",
    [*STOCHASTIC, lambda *a, **k: sample_heun(*a, churn=40.0, **k), sample_heun],
    ids=lambda f: getattr(f, "__name__", "churn"),
)
def test_samplers_recover_moments_and_mode_weights(sampler, mixture_2d):
    """4,000 samples against the mixture; five standard errors, plus 0.02 for the sampler's own error at 200 steps."""
    count = 4_000
    sigmas = karras_sigmas(200)
    generator = torch.Generator().manual_seed(0)
    x = sigmas[0] * torch.randn(count, 2, dtype=torch.float64, generator=generator)
    samples = sampler(mixture_2d, x, sigmas, generator=generator)
    exact = mixture_2d.sample(200_000, generator)
    tolerance = 5 * exact.std(0) / count**0.5 + 0.02
    assert ((samples.mean(0) - exact.mean(0)).abs() < tolerance).all()
    torch.testing.assert_close(samples.T.cov(), exact.T.cov(), rtol=0.08, atol=0.03)

    def weights(points):
        nearest = torch.cdist(points, mixture_2d.means).argmin(1)
        return nearest.bincount(minlength=3) / len(points)

    assert (weights(samples) - weights(exact)).abs().max() < 5 * 0.5 / count**0.5


# ---- what a newcomer passes ----

LIKE_GRIDS = {
    "list": lambda grid: grid.tolist(),
    "tuple": lambda grid: tuple(grid.tolist()),
    "array": lambda grid: grid.numpy(),
    "float32": lambda grid: np.float32(grid.numpy()),
    "whole": lambda grid: [80, 20, 5, 1, 0],
}


@pytest.mark.parametrize("kind", LIKE_GRIDS)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_lists_and_arrays_are_grids(sampler, kind, gaussian):
    grid = LIKE_GRIDS[kind](karras_sigmas(4))
    same = torch.tensor(np.asarray(grid, dtype=np.float64))
    x = float(same[0]) * torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    ours, expected = (sampler(gaussian, x, g, generator=torch.Generator().manual_seed(2)) for g in (grid, same))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", LIKE_GRIDS)
def test_the_encoder_takes_lists_and_arrays_too(kind, gaussian):
    grid = LIKE_GRIDS[kind](karras_sigmas(4))
    x = torch.randn(4, 3, dtype=torch.float64)
    same = torch.tensor(np.asarray(grid, dtype=np.float64))
    torch.testing.assert_close(encode(gaussian, x, grid), encode(gaussian, x, same), rtol=0, atol=0)
    with pytest.raises(ValueError, match="strictly descending"):
        encode(gaussian, x, [1.0, 2.0])


UNSCALED = {
    "unit noise": lambda n, sigma: n,
    "uniform": lambda n, sigma: torch.rand(n.shape),
    "zeros": lambda n, sigma: torch.zeros_like(n),
    "one level below": lambda n, sigma: 0.3 * sigma * n,
    "twice": lambda n, sigma: sigma**2 * n,
}


@pytest.mark.parametrize("start", UNSCALED)
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_start_that_is_not_scaled_gives_a_warning_with_both_numbers(sampler, start):
    sigmas = torch.tensor([20.0, 1.0], dtype=torch.float64)
    x = UNSCALED[start](torch.randn(200, 2, generator=torch.Generator().manual_seed(1)), 20.0)
    with pytest.warns(
        UserWarning, match=rf"standard deviation 20 or .*got {float(x.double().std()):.4g}\. Start at"
    ) as seen:
        sampler(lambda x, sigma: torch.zeros_like(x), x, sigmas)
    assert seen[0].filename == __file__


@pytest.mark.parametrize("shape", [(1, 2), (16, 1), (4, 8), (200, 2)])
@pytest.mark.parametrize(("sigma", "data"), [(80.0, 1.0), (20.0, 5.0), (0.3, 1.0), (0.01, 100.0)])
def test_a_start_with_its_noise_gives_no_warning(shape, sigma, data, recwarn):
    generator = torch.Generator().manual_seed(3)
    for offset in (0.0, 3.0):
        x = offset + data * torch.randn(shape, generator=generator) + sigma * torch.randn(shape, generator=generator)
        sample_euler(lambda x, sigma: torch.zeros_like(x), x, [sigma, 0])
    assert not recwarn.list


VARIANCE_ERRORS = {  # the tables of the docstrings, in percent
    sample_ancestral: {18: -42, 50: -20, 100: -10, 500: -2},
    sample_reverse_sde: {18: 86, 50: 22, 100: 11, 500: 2},
    sample_predictor_corrector: {18: 69, 50: 18, 100: 6, 500: 1},
}


@pytest.mark.parametrize("steps", [18, 50, 100])
@pytest.mark.parametrize("sampler", VARIANCE_ERRORS)
def test_the_variance_error_is_that_of_the_docstring(sampler, steps):
    generator, errors = torch.Generator().manual_seed(4), VARIANCE_ERRORS[sampler]
    sigmas = karras_sigmas(steps)
    x = sigmas[0] * torch.randn(10_000, 1, generator=generator)
    variance = float(sampler(lambda x, s: x / (1 + s[:, None] ** 2), x, sigmas, generator=generator).var())
    # four standard errors of a variance of 10,000 draws, and of the 40,000 of the table
    assert 100 * (variance - 1) == pytest.approx(errors[steps], abs=0.5 + 400 * variance * (2e-4**0.5 + 5e-5**0.5))
    row = [f"{errors[count]:+d} %" for count in (18, 50, 100, 500)]
    assert " ".join(row) in " ".join(sampler.__doc__.split())


WRONG_ESTIMATES = {
    "a tuple": (lambda x: (x,), TypeError), "an output object": (lambda x: {"sample": x}, TypeError),
    "a mean": (lambda x: x.mean(1, keepdim=True), ValueError), "one sample": (lambda x: x[:1], ValueError),
    "a number": (lambda x: x.mean(), ValueError),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_ESTIMATES)
@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), encode], ids=[*SAMPLERS, "encode"])
def test_an_estimate_of_another_kind_is_refused_though_it_broadcasts(sampler, name):
    wrong, error = WRONG_ESTIMATES[name]
    with pytest.raises(error, match=r"Expected the denoiser to return .*\(4, 2\), got"):
        sampler(lambda x, sigma: wrong(x), 80 * torch.ones(4, 2), [80.0, 1.0, 0.0])


@pytest.mark.parametrize("steps", [80.0, 0, -3, "18", None])
def test_a_grid_has_a_whole_number_of_steps(steps):
    for grid in (karras_sigmas, log_uniform_sigmas, cosine_sigmas, asinh_sigmas):
        with pytest.raises(ValueError, match=f"whole number of steps.*got {steps!r}"):
            grid(steps)
    assert torch.equal(karras_sigmas(np.int64(5)), karras_sigmas(5))


# ---- what is not finite, and what is no grid ----


def nan_below(level: float, samples: int):
    """A denoiser of N(0, 1) that returns NaN for the last samples below a noise level."""

    def denoise(x, sigma):
        denoised = x / (1 + sigma[:, None] ** 2)
        denoised[-samples:] = torch.where(sigma[-samples:, None] < level, math.nan, denoised[-samples:])
        return denoised

    return denoise


@pytest.mark.parametrize(("level", "samples"), [(1.0, 3), (100.0, 32), (0.003, 1)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_an_estimate_of_nan_ends_the_sampling_with_its_level_and_samples(name, level, samples):
    sigmas, seen = karras_sigmas(12), []

    def denoise(x, sigma):
        seen.append(float(sigma[0]))
        return nan_below(level, samples)(x, sigma)

    x = sigmas[0] * torch.randn(32, 2, generator=torch.Generator().manual_seed(1))
    bad = ", ".join(map(str, range(32 - samples, 32)[:8]))
    with pytest.raises(FloatingPointError, match=rf"at sigma .*in {samples} of 32 samples: \[{bad}\]") as caught:
        SAMPLERS[name](denoise, x, sigmas)
    assert f"at sigma {seen[-1]:.4g}," in str(caught.value)
    assert seen[-1] < level <= min([100.0, *seen[:-1]])  # the first of them


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_encoder_and_a_start_that_is_not_finite_are_told(value):
    with pytest.raises(FloatingPointError, match="at sigma 5"):
        encode(lambda x, sigma: x * value if float(sigma[0]) >= 5 else x / 2, torch.ones(4, 2), [5.0, 1.0])
    x = torch.randn(32, 2)
    x[3] = value
    with pytest.raises(ValueError, match="a finite start x"):
        sample_euler(lambda x, sigma: x / 2, x, [1.0, 0.0])


def test_on_a_device_the_state_is_checked_every_eighth_step_and_in_the_last():
    """On a device each check waits for it: a meta tensor has no values to wait for, so a wait is an error."""
    x = torch.zeros(2, 3, device="meta")
    waits = [step for step in range(20) if waited(Interval(step, 20, 2.0, 1.0), x)]
    assert waits == [7, 15, 19]


def waited(interval: Interval, x: torch.Tensor) -> bool:
    try:
        interval.report(None, x, x)
    except (NotImplementedError, RuntimeError):
        return True
    return False


TIMESTEPS = {
    "all": list(range(999, -1, -1)), "spaced": list(range(981, 0, -20)),
    "linspace": np.linspace(0, 999, 30).round()[::-1].copy(), "tensor": torch.arange(999, -1, -50),
    "of a flow": torch.linspace(1000, 1, 28).round(),
}  # fmt: skip


@pytest.mark.parametrize("kind", TIMESTEPS)
def test_timesteps_are_no_noise_levels(kind, gaussian):
    with pytest.raises(ValueError, match=r"looks like timesteps: .*DiscretePreconditioning.of\(scheduler\).sigmas"):
        sample_euler(gaussian, torch.randn(4, 3), TIMESTEPS[kind])


@pytest.mark.parametrize("grid", [[300, 100, 30, 10, 3, 1, 0], [200, 100, 0], [3, 2, 1, 0], [100.5, 75.5, 50.5, 25.5]])
def test_grids_of_whole_numbers_are_grids(grid):
    assert check_sigmas(grid) == grid


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda g, x: karras_sigmas(8, rho=0), ValueError, "rho > 0, got 0"),
        (lambda g, x: karras_sigmas(8, rho=-7.0), ValueError, "rho > 0, got -7"),
        (lambda g, x: asinh_sigmas(8, math.inf), ValueError, "inf"),
        (lambda g, x: log_uniform_sigmas(8, sigma_max=math.inf), ValueError, "sigma_max < inf"),
        (lambda g, x: time_uniform_sigmas(8, VPSDE), TypeError, "got the class VPSDE"),
        (lambda g, x: time_uniform_sigmas(8, "vp"), TypeError, "such as VPSDE.., got str"),
        (lambda g, x: sample_ancestral(g, x, [80.0, 1.0], generator=0), TypeError, "got int 0.*manual_seed"),
        (lambda g, x: sample_dpmpp_2m_sde(g, x, [80.0, 1.0], eta=-1.0), ValueError, "eta >= 0, got -1"),
        (lambda g, x: sample_heun(g, x, [80.0, 1.0], churn=-1.0), ValueError, "churn >= 0"),
        (lambda g, x: sample_heun(g, x, [80.0, 1.0], churn_range=(50, 0.05)), ValueError, "low <= high"),
        (lambda g, x: sample_predictor_corrector(g, x, [80.0, 1.0], corrector_steps=-1), ValueError, "got -1"),
        (lambda g, x: sample_predictor_corrector(g, x, [80.0, 1.0], corrector_steps=0.5), ValueError, "whole"),
        (lambda g, x: sample_repaint(g, x, [80.0, 1.0], repeats=1.5), ValueError, "whole number of repeats"),
        (lambda g, x: sample_rk45(g, x, [80.0, 1.0], rtol=0.0), ValueError, "rtol > 0"),
        (lambda g, x: sample_euler(ScoreMLP(3, 8), x, [80.0, 1.0]), TypeError, "got the network ScoreMLP.*Wrap it"),
        (lambda g, x: sample_euler(g, x[:, :2], [80.0, 1.0]), ValueError, r"3 elements in each sample, got \(4, 2\)"),
        (lambda g, x: sample_euler(g, x[0], [80.0, 1.0]), ValueError, r"got \(3,\)"),
    ],
)  # fmt: skip
def test_mistyped_calls_are_told_what_is_right(call, error, words, gaussian):
    with pytest.raises(error, match=words):
        call(gaussian, 80 * torch.randn(4, 3, dtype=torch.float64))
