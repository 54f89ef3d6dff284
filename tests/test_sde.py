"""Drift and diffusion follow from the kernel, and time inverts the noise level."""

from __future__ import annotations

import pytest
import torch

from monai_diffscore.sde import SDE, VESDE, VPSDE, CosineVPSDE, FlowSDE, SubVPSDE

PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), CosineVPSDE(), FlowSDE()]
named = pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
TIMES = torch.linspace(0.05, 0.95, 37, dtype=torch.float64)


def derivative(function, t, h=1e-5):
    """Central difference of order four: its error is about h^4 + eps/h, below 1e-9 here."""
    return (8 * (function(t + h) - function(t - h)) - function(t + 2 * h) + function(t - 2 * h)) / (12 * h)


@named
def test_diffusion_is_the_growth_of_the_noise_variance(sde: SDE):
    """g^2 = alpha^2 d(sigma^2)/dt."""
    expected = sde.alpha(TIMES) ** 2 * derivative(lambda t: sde.noise_level(t) ** 2, TIMES)
    torch.testing.assert_close(sde.diffusion(TIMES) ** 2, expected, rtol=1e-6, atol=0)


@named
def test_drift_is_the_rate_of_the_signal_scale(sde: SDE):
    """f = x d ln(alpha)/dt."""
    x = torch.randn(len(TIMES), 2, 3, dtype=torch.float64)
    rate = derivative(lambda t: sde.alpha(t).log(), TIMES)
    torch.testing.assert_close(sde.drift(x, TIMES), rate[:, None, None] * x, rtol=1e-6, atol=1e-9)


@named
def test_variance_of_the_kernel_solves_its_own_equation(sde: SDE):
    """d(std^2)/dt = 2 (d ln alpha/dt) std^2 + g^2, which uses drift and diffusion together."""
    rate = derivative(lambda t: sde.std(t) ** 2, TIMES)
    expected = 2 * sde.log_alpha_rate(TIMES) * sde.std(TIMES) ** 2 + sde.diffusion(TIMES) ** 2
    torch.testing.assert_close(rate, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@named
def test_time_inverts_noise_level_even_near_zero(sde: SDE):
    t = torch.cat([torch.tensor([1e-6, 1e-4, 1e-2], dtype=torch.float64), TIMES])
    torch.testing.assert_close(sde.time(sde.noise_level(t)), t, rtol=1e-8, atol=1e-11)


@named
def test_noise_level_increases(sde: SDE):
    t = torch.linspace(1e-3, sde.t_max, 100, dtype=torch.float64)
    assert (sde.noise_level(t).diff() > 0).all()
    assert torch.isfinite(sde.noise_level(t)).all()


@pytest.mark.parametrize("sde", [VPSDE(), CosineVPSDE()], ids=["VP", "cosine"])
def test_variance_preserving_processes_preserve_variance(sde: SDE):
    total = sde.alpha(TIMES) ** 2 + sde.std(TIMES) ** 2
    torch.testing.assert_close(total, torch.ones_like(TIMES), rtol=1e-12, atol=0)


def test_sub_vp_has_the_published_std():
    """1 - exp(-B), Song et al. 2021, Eq. 29; smaller than the std of VP."""
    sde = SubVPSDE()
    torch.testing.assert_close(sde.std(TIMES), -torch.expm1(-sde.integrated_beta(TIMES)), rtol=1e-12, atol=0)
    assert (sde.std(TIMES) < VPSDE().std(TIMES)).all()


def test_flow_is_the_straight_line():
    torch.testing.assert_close(FlowSDE().alpha(TIMES) + FlowSDE().std(TIMES), torch.ones_like(TIMES))


@pytest.mark.parametrize(
    "make",
    [lambda: VPSDE(20.0, 0.1), lambda: VESDE(0.0, 1.0), lambda: CosineVPSDE(t_max=1.0), lambda: FlowSDE(t_max=2.0)],
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()
