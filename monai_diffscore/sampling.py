r"""From noise to data: grids of noise levels, and solvers that walk down them.

In noise coordinates the probability-flow ODE of every SDE is (Karras et al. 2022, Eq. 1 and 3)

.. math::  \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma}
           \quad\Longleftrightarrow\quad
           x_{s} = \frac{s}{\sigma}\, x_\sigma + s \int_s^\sigma \frac{D(x_u, u)}{u^2}\, du .

The right-hand form is exact, with the linear part solved; the exponential integrators approximate D alone. With D
frozen it gives :math:`x_s = D + \frac{s}{\sigma}(x - D)`, which is Euler, and DDIM.

A **grid** is a float64 tensor [steps + 1] of descending noise levels that usually ends in 0. A **solver** is a
pure function of ``(denoise, x, sigmas)``: it keeps no state and is told each level that it steps between, so that
any grid serves any solver. ``denoise(x, sigma)`` gets sigma as [B] in the dtype of x, and has its condition bound
(``functools.partial(denoiser, **condition)``); guidance, inverse problems and tiling wrap it.

``x`` starts at the largest level: ``x = sigmas[0] * noise``, plus a mean if the data has one. (Noise of mean 0 at
sigma_max scales the mean of the samples by about :math:`1 - s/\sigma_{max}`.) Steps to 0 end on the denoiser.
Nothing is clipped.

``ORDERS`` declares the order of convergence of the deterministic solvers; the tests measure it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monai_diffscore.denoiser import Generators, noise_like
from monai_diffscore.sde import SDE

Denoise = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What a callback sees after each step."""

    number: int
    steps: int
    sigma: float  # the level that was stepped from
    x: Tensor  # the state after the step
    denoised: Tensor  # the denoiser's last estimate of x0


Callback = Callable[[Step], Any] | None


# ---- grids ----------------------------------------------------------------------------------------------------


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    r"""Noise levels spaced evenly in :math:`\sigma^{1/\rho}`, descending, ending in 0.

    Args:
        steps: number of intervals N, the last of which goes from sigma_min to 0.
        sigma_min: smallest positive level, in units of the (normalised) data.
        sigma_max: largest level; well above the standard deviation of the data.
        rho: larger puts more steps near sigma_min.
    Returns:
        float64 [steps + 1].
    Raises:
        ValueError: if not 0 < sigma_min < sigma_max, or fewer than one step.

    Source: Karras et al. 2022, Eq. 5.
    """
    ramp = _ramp(steps, sigma_min, sigma_max)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return _end_in_zero((high + ramp * (low - high)) ** rho)


def log_uniform_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    r"""Noise levels spaced evenly in :math:`\ln\sigma`, descending, ending in 0. Float64 [steps + 1].

    Arguments and errors as :func:`karras_sigmas`, whose limit for large rho this is.
    """
    ramp = _ramp(steps, sigma_min, sigma_max)
    return _end_in_zero(torch.exp(math.log(sigma_max) + ramp * math.log(sigma_min / sigma_max)))


def cosine_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    r"""Noise levels :math:`\tan u` at evenly spaced angles u, descending, ending in 0. Float64 [steps + 1].

    The cosine schedule :math:`\alpha = \cos u`, uniform in time. Arguments and errors as :func:`karras_sigmas`.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, Eq. 17.
    """
    ramp = _ramp(steps, sigma_min, sigma_max)
    high, low = math.atan(sigma_max), math.atan(sigma_min)
    return _end_in_zero(torch.tan(high + ramp * (low - high)))


def time_uniform_sigmas(steps: int, sde: SDE, t_min: float = 1e-3, t_max: float | None = None) -> Tensor:
    r"""Noise levels :math:`\sigma(t)` of a process at evenly spaced t, descending, ending in 0. Float64 [steps + 1].

    Args:
        steps: number of intervals, the last of which goes from sigma(t_min) to 0.
        sde: the process.
        t_min: smallest positive time.
        t_max: largest; default is the process's own.
    Raises:
        ValueError: if not 0 < t_min < t_max <= sde.t_max, or fewer than one step.

    Source: Song et al. 2021, Appendix C (t_min = 1e-3 for sampling).
    """
    t_max = sde.t_max if t_max is None else t_max
    if not 0 < t_min < t_max <= sde.t_max:
        raise ValueError(f"Expected 0 < t_min < t_max <= {sde.t_max}, got t_min {t_min} and t_max {t_max}.")
    return _end_in_zero(sde.noise_level(t_max + _ramp(steps) * (t_min - t_max)))


def _ramp(steps: int, sigma_min: float = 0.5, sigma_max: float = 1.0) -> Tensor:
    """0 to 1 in ``steps`` points (a single step starts at 0), after checking the arguments of a grid."""
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"Expected 0 < sigma_min < sigma_max, got sigma_min {sigma_min} and sigma_max {sigma_max}.")
    if steps < 1:
        raise ValueError(f"A grid needs at least one step, got {steps}.")
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _end_in_zero(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])


def check_sigmas(sigmas: Tensor) -> list[float]:
    """The grid as Python floats.

    Raises:
        ValueError: unless it is one-dimensional, strictly descending, finite, not negative and has two levels or more.
    """
    levels = sigmas.to(torch.float64).tolist()
    descending = sigmas.ndim == 1 and all(a > b for a, b in itertools.pairwise(levels))
    if not descending or len(levels) < 2 or levels[-1] < 0 or not math.isfinite(levels[0]):
        raise ValueError(
            "Expected a grid of at least two finite noise levels, strictly descending to 0 or above, got shape "
            f"{tuple(sigmas.shape)}: {levels if len(levels) < 8 else [*levels[:3], '...', *levels[-3:]]}. "
            "Make one with karras_sigmas, log_uniform_sigmas, cosine_sigmas or time_uniform_sigmas."
        )
    return levels


# ---- deterministic solvers ------------------------------------------------------------------------------------


def sample_euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, generator: Generators = None, callback: Callback = None
) -> Tensor:
    r"""Euler's method, order 1; identical to DDIM with :math:`\eta = 0`. One evaluation a step.

    Args:
        denoise: the denoiser with its condition bound.
        x: noise at level sigmas[0], [B, ...].
        sigmas: grid [steps + 1].
        generator: not used by the deterministic solvers; one signature serves all.
        callback: called with a :class:`Step` after each.
    Returns:
        the state at sigmas[-1], [B, ...].

    Source: Karras et al. 2022, Algorithm 1 without its correction; Song et al. 2021, arXiv:2010.02502, Eq. 12-13.
    """
    for step in _steps(sigmas):
        denoised = _at(denoise, x, step.sigma)
        x = _toward(x, denoised, step.sigma, step.sigma_next)
        step.report(callback, x, denoised)
    return x


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: Generators = None,
    callback: Callback = None,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
) -> Tensor:
    r"""Heun's method, order 2, with optional churn (noise before each step). Two evaluations a step, one in the last.

    Args:
        churn: S_churn; 0 is deterministic. The noise level is raised by the factor
            :math:`1 + \min(S_{churn}/N, \sqrt2 - 1)`.
        churn_range: (S_tmin, S_tmax), the noise levels at which noise is added.
        churn_noise: S_noise, standard deviation of the added noise.

    Other arguments as :func:`sample_euler`. Source: Karras et al. 2022, Algorithm 1 (churn 0) and Algorithm 2.
    """
    for step in _steps(sigmas):
        sigma, sigma_next = step.sigma, step.sigma_next
        if churn > 0 and churn_range[0] <= sigma <= churn_range[1]:
            raised = sigma * (1 + min(churn / step.steps, math.sqrt(2) - 1))
            x = x + churn_noise * math.sqrt(raised**2 - sigma**2) * noise_like(x, generator)
            sigma = raised
        denoised = _at(denoise, x, sigma)
        slope = (x - denoised) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            denoised = _at(denoise, x_next, sigma_next)
            slope = (slope + (x_next - denoised) / sigma_next) / 2
            x_next = x + (sigma_next - sigma) * slope
        x = x_next
        step.report(callback, x, denoised)
    return x


def sample_dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, generator: Generators = None, callback: Callback = None
) -> Tensor:
    r"""DPM-Solver++(2M), order 2: D is extrapolated to the middle of the step, and frozen there.

    The extrapolation is linear in :math:`\lambda = -\ln\sigma` through the last two estimates.
    One evaluation a step. Arguments as :func:`sample_euler`. Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2.
    """
    previous: tuple[float, Tensor] | None = None  # log step and estimate of the step before
    for step in _steps(sigmas):
        denoised = _at(denoise, x, step.sigma)
        extrapolated = denoised
        if step.sigma_next > 0:
            h = math.log(step.sigma / step.sigma_next)
            if previous is not None:
                ratio = h / (2 * previous[0])
                extrapolated = (1 + ratio) * denoised - ratio * previous[1]
            previous = (h, denoised)
        x = _toward(x, extrapolated, step.sigma, step.sigma_next)
        step.report(callback, x, denoised)
    return x


def sample_adams(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: Generators = None,
    callback: Callback = None,
    order: int = 3,
) -> Tensor:
    r"""Exponential Adams-Bashforth, order k: D a polynomial **in sigma** through the last k estimates.

    The integral in :math:`x_s = \frac{s}{\sigma} x + s\int_s^\sigma D(u)/u^2\,du` is then exact. A polynomial in
    sigma, unlike one in :math:`\ln\sigma`, can be followed down to 0, so the last step keeps its order too.
    One evaluation a step.

    Args:
        order: number of estimates k that the polynomial passes through, 1 (Euler) to 4. With strong guidance 2 is
            the steadier choice.
    Raises:
        ValueError: for another order.

    Other arguments as :func:`sample_euler`. Source: the family is Zhang and Chen 2023, arXiv:2204.13902 (DEIS),
    Section 3; Hochbruck and Ostermann 2010, doi:10.1017/S0962492910000048, Section 2.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"sample_adams has orders 1 to 4, got {order}.")
    nodes: list[float] = []  # newest first
    estimates: list[Tensor] = []
    for step in _steps(sigmas):
        nodes = [step.sigma, *nodes][:order]
        estimates = [_at(denoise, x, step.sigma), *estimates][:order]
        x = step.sigma_next / step.sigma * x
        for weight, estimate in zip(_adams_weights(nodes, step.sigma_next), estimates, strict=True):
            x = x + weight * estimate
        step.report(callback, x, estimates[0])
    return x


def _adams_weights(nodes: list[float], sigma_next: float) -> list[float]:
    r""":math:`s \int_s^{\sigma} L_j(u)/u^2\,du` of the Lagrange polynomials through the nodes (newest, sigma, first).

    In units of sigma: the moments :math:`q\int_q^1 v^{m-2} dv` with q = s / sigma are in closed form, and the weights
    solve the (at most 4 x 4) Vandermonde system that makes them exact for :math:`v^m`.
    """
    q = sigma_next / nodes[0]
    moments = [1 - q, q * math.log(1 / q) if q > 0 else 0.0]
    moments += [q * (1 - q ** (m - 1)) / (m - 1) for m in range(2, len(nodes))]
    scaled = torch.tensor(nodes, dtype=torch.float64) / nodes[0]
    powers = torch.stack([scaled**m for m in range(len(nodes))])  # (m, j)
    weights: list[float] = torch.linalg.solve(powers, torch.tensor(moments[: len(nodes)], dtype=torch.float64)).tolist()
    return weights


def sample_rk45(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: Generators = None,
    callback: Callback = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    r"""Dormand-Prince of order 5(4) with adaptive steps, by scipy. The number of evaluations follows the tolerance.

    Of the grid only the ends count: it integrates from sigmas[0] to the last positive level and denoises from
    there if the grid ends in 0. The state passes through the CPU in float64. The error is controlled for the batch
    as a whole, so that a sample depends slightly (within the tolerance) on the batch that it is in.

    Args:
        rtol, atol: relative and absolute tolerance of a step, in units of the (normalised) data.
    Raises:
        RuntimeError: if the solver gives up.

    Other arguments as :func:`sample_euler`; the callback sees number 0 at every accepted evaluation.
    Source: Song et al. 2021, Appendix D.4; Dormand and Prince 1980.
    """
    from scipy.integrate import solve_ivp

    levels = check_sigmas(sigmas)
    end = levels[-1] if levels[-1] > 0 else levels[-2]
    shape, like = x.shape, x

    def slope(sigma: float, flat: Any) -> Any:
        state = torch.from_numpy(flat).reshape(shape).to(like)
        denoised = _at(denoise, state, sigma)
        if callback is not None:
            callback(Step(0, 1, sigma, state, denoised))
        return ((state - denoised) / sigma).to("cpu", torch.float64).flatten().numpy()

    if end < levels[0]:
        start = x.detach().to("cpu", torch.float64).flatten().numpy()
        solution = solve_ivp(slope, (levels[0], end), start, method="RK45", rtol=rtol, atol=atol, t_eval=[end])
        if not solution.success:
            raise RuntimeError(f"RK45 stopped before sigma {end}: {solution.message} Loosen rtol or atol.")
        x = torch.from_numpy(solution.y[:, -1].copy()).reshape(shape).to(like)
    return x if levels[-1] > 0 else _at(denoise, x, end)


#: order of convergence of the deterministic solvers, in the largest step of ln(sigma)
ORDERS: dict[Callable[..., Tensor], int] = {sample_euler: 1, sample_heun: 2, sample_dpmpp_2m: 2, sample_adams: 3}


# ---- stochastic solvers ---------------------------------------------------------------------------------------


def sample_dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: Generators = None,
    callback: Callback = None,
    eta: float = 1.0,
) -> Tensor:
    r"""SDE-DPM-Solver++(2M): the reverse SDE, linear part exact, D extrapolated as in :func:`sample_dpmpp_2m`.

    Args:
        eta: 0 is deterministic, and the same as :func:`sample_dpmpp_2m`; 1 is the reverse SDE.

    Other arguments as :func:`sample_euler`. Source: Lu et al. 2022, arXiv:2211.01095, Section 5 (eta = 1).
    """
    previous: tuple[float, Tensor] | None = None
    for step in _steps(sigmas):
        denoised = _at(denoise, x, step.sigma)
        if step.sigma_next == 0:
            x = denoised
        else:
            h = math.log(step.sigma / step.sigma_next)
            gain = -math.expm1(-(1 + eta) * h)
            x_next = step.sigma_next / step.sigma * math.exp(-eta * h) * x + gain * denoised
            if previous is not None:
                x_next = x_next + gain * h / (2 * previous[0]) * (denoised - previous[1])
            x = x_next + step.sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise_like(x, generator)
            previous = (h, denoised)
        step.report(callback, x, denoised)
    return x


def sample_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: Generators = None,
    callback: Callback = None,
    eta: float = 1.0,
) -> Tensor:
    r"""Ancestral sampling: an Euler step past sigma_next, then noise back up to it. One evaluation a step.

    The added noise has the variance :math:`\eta^2 s^2 (\sigma^2 - s^2)/\sigma^2` of the posterior
    :math:`x_s \mid x_\sigma, x_0`; with :math:`\eta = 1` this is DDPM.

    Args:
        eta: 0 (DDIM) to 1 (DDPM).
    Raises:
        ValueError: for eta outside [0, 1].

    Other arguments as :func:`sample_euler`.
    Source: Ho et al. 2020, arXiv:2006.11239, Eq. 6-7; Song et al. 2021, arXiv:2010.02502, Eq. 16; in this
    coordinate Song et al. 2021, arXiv:2011.13456, Eq. 47.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be between 0 (DDIM) and 1 (DDPM), got {eta}.")
    for step in _steps(sigmas):
        denoised = _at(denoise, x, step.sigma)
        ratio = step.sigma_next / step.sigma
        noise_std = eta * step.sigma_next * math.sqrt(1 - ratio**2)
        x = _toward(x, denoised, step.sigma, math.sqrt(max(step.sigma_next**2 - noise_std**2, 0.0)))
        if noise_std > 0:
            x = x + noise_std * noise_like(x, generator)
        step.report(callback, x, denoised)
    return x


def sample_reverse_sde(
    denoise: Denoise, x: Tensor, sigmas: Tensor, *, generator: Generators = None, callback: Callback = None
) -> Tensor:
    r"""Euler-Maruyama on the reverse SDE, in the time :math:`\sigma^2` in which its diffusion is 1.

    :math:`x \leftarrow x + \delta\, \nabla\ln p_\sigma(x) + \sqrt\delta\, z` with
    :math:`\delta = \sigma^2 - s^2`. The last step adds no noise. One evaluation a step; needs many.
    Arguments as :func:`sample_euler`. Source: Song et al. 2021, Eq. 6 and Eq. 46, for VE the
    predictor of Algorithm 2.
    """
    for step in _steps(sigmas):
        denoised = _at(denoise, x, step.sigma)
        x = _reverse_diffusion(x, denoised, step.sigma, step.sigma_next, generator)
        step.report(callback, x, denoised)
    return x


def sample_predictor_corrector(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: Generators = None,
    callback: Callback = None,
    corrector_steps: int = 1,
    snr: float = 0.16,
) -> Tensor:
    r"""Reverse-diffusion predictor, then Langevin corrector steps at the new noise level.

    :math:`x \leftarrow x + \epsilon \nabla\ln p_s(x) + \sqrt{2\epsilon}\, z`, :math:`\epsilon = 2 (r s)^2`. Song et al.
    take :math:`\epsilon = 2 (r \lVert z\rVert / \lVert \nabla\ln p \rVert)^2`; its value for a score of the norm
    :math:`\sqrt d / s` that it has in the mean is ours, which needs no statistics of the batch and never divides
    by 0. 1 + ``corrector_steps`` evaluations a step.

    Args:
        corrector_steps: Langevin steps at each level.
        snr: r, the size of a Langevin step; below 0.7, where it would overshoot.
    Raises:
        ValueError: unless 0 < snr < 0.7.

    Other arguments as :func:`sample_euler`. Source: Song et al. 2021, Algorithm 2 and Algorithm 4.
    """
    if not 0 < snr < 0.7:
        raise ValueError(f"snr must be between 0 and 0.7 for a stable Langevin step, got {snr}.")
    for step in _steps(sigmas):
        denoised = _at(denoise, x, step.sigma)
        x = _reverse_diffusion(x, denoised, step.sigma, step.sigma_next, generator)
        if step.sigma_next > 0:
            for _ in range(corrector_steps):
                denoised = _at(denoise, x, step.sigma_next)
                x = x + 2 * snr**2 * (denoised - x) + 2 * snr * step.sigma_next * noise_like(x, generator)
        step.report(callback, x, denoised)
    return x


# ---- what the solvers share -----------------------------------------------------------------------------------


class _Interval(NamedTuple):
    number: int
    steps: int
    sigma: float
    sigma_next: float

    def report(self, callback: Callback, x: Tensor, denoised: Tensor) -> None:
        if callback is not None:
            callback(Step(self.number, self.steps, self.sigma, x, denoised))


def _steps(sigmas: Tensor) -> Iterator[_Interval]:
    levels = check_sigmas(sigmas)
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        yield _Interval(i, len(levels) - 1, sigma, sigma_next)


def _at(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    return denoise(x, x.new_full((x.shape[0],), sigma))


def _toward(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exact solution from sigma to sigma_next with D frozen."""
    return denoised + sigma_next / sigma * (x - denoised)


def _reverse_diffusion(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float, generator: Generators) -> Tensor:
    mean = x + (1 - (sigma_next / sigma) ** 2) * (denoised - x)
    if sigma_next == 0:
        return mean
    return mean + math.sqrt(sigma**2 - sigma_next**2) * noise_like(x, generator)
