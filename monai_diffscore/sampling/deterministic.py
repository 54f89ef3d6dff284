r"""Deterministic solvers of the probability-flow ODE; ``ORDERS`` declares the order of convergence of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from monai_diffscore.sampling.grids import Grid, check_sigmas, check_start
from monai_diffscore.sampling.steps import Callback, Denoise, Interval, denoise_at, intervals, toward
from monai_diffscore.tensors import Generators, check_finite, noise_like


def sample_euler(
    denoise: Denoise, x: Tensor, sigmas: Grid, *, generator: Generators = None, callback: Callback = None
) -> Tensor:
    r"""Samples by Euler's method, of order 1, with one evaluation for each step. It equals DDIM with :math:`\eta = 0`.

    Args:
        denoise: the denoiser with its condition bound.
        x: the start [B, ...], ``sigmas[0] * noise``. The sampler warns of another standard deviation.
        sigmas: grid [steps + 1], a tensor, an array or a list, in units of the (normalised) data.
        generator: of added noise. Solvers without noise ignore it; all samplers have one signature.
        callback: called with a :class:`Step` after each step.
    Returns:
        the state at sigmas[-1], [B, ...].
    Raises:
        FloatingPointError: for a denoiser that returns NaN or infinite values; on a device other than the CPU up to
            seven steps late.
        ValueError: for a grid that does not descend strictly to a level >= 0, or timesteps of a scheduler.

    Source: Karras et al. 2022, Algorithm 1 without its correction; Song et al. 2021, arXiv:2010.02502, Eq. 12-13.
    """
    for step in intervals(sigmas, x):
        denoised = denoise_at(denoise, x, step.sigma)
        x = toward(x, denoised, step.sigma, step.sigma_next)
        if step.report(callback, x, denoised):
            return denoised
    return x


def sample_heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Grid,
    *,
    generator: Generators = None,
    callback: Callback = None,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
) -> Tensor:
    r"""Samples by Heun's method, of order 2, with optional churn: noise before each step.

    It makes two evaluations for each step, and one for a step to 0.

    Args:
        churn: S_churn; 0 is deterministic. Churn raises the noise level by the factor
            :math:`1 + \min(S_{churn}/N, \sqrt2 - 1)`.
        churn_range: (S_tmin, S_tmax), the noise levels with churn, in units of the data.
        churn_noise: S_noise, factor of the standard deviation of the added noise.
    Raises:
        ValueError: for a negative churn or churn_noise, or a range that does not ascend.

    Other arguments as :func:`sample_euler`. Source: Karras et al. 2022, Algorithm 1 (churn 0) and Algorithm 2.
    """
    if not (churn >= 0 and churn_noise >= 0 and churn_range[0] <= churn_range[1]):
        raise ValueError(
            "sample_heun expects churn >= 0, churn_noise >= 0 and a range of low <= high, got "
            f"{churn}, {churn_noise} and {churn_range}."
        )
    for step in intervals(sigmas, x):
        sigma, sigma_next = step.sigma, step.sigma_next
        if churn > 0 and churn_range[0] <= sigma <= churn_range[1]:
            sigma_hat = sigma * (1 + min(churn / step.steps, math.sqrt(2) - 1))
            x = x + churn_noise * math.sqrt(sigma_hat**2 - sigma**2) * noise_like(x, generator)
            sigma = sigma_hat
        denoised = denoise_at(denoise, x, sigma)
        slope = (x - denoised) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            denoised = denoise_at(denoise, x_next, sigma_next)
            slope = (slope + (x_next - denoised) / sigma_next) / 2
            x_next = x + (sigma_next - sigma) * slope
        x = x_next
        if step.report(callback, x, denoised):
            return denoised
    return x


def sample_dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Grid, *, generator: Generators = None, callback: Callback = None
) -> Tensor:
    r"""Samples by DPM-Solver++(2M), of order 2, with one evaluation for each step.

    It extrapolates D to the middle of a step, linearly in :math:`\lambda = -\ln\sigma` through the last two estimates,
    and makes the step with this constant D. Arguments as :func:`sample_euler`.
    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2.
    """
    previous: tuple[float, Tensor] | None = None  # size in ln(sigma), and estimate, of the previous step
    for step in intervals(sigmas, x):
        denoised = denoise_at(denoise, x, step.sigma)
        extrapolated = denoised
        if step.sigma_next > 0:
            h = math.log(step.sigma / step.sigma_next)
            if previous is not None:
                ratio = h / (2 * previous[0])
                extrapolated = (1 + ratio) * denoised - ratio * previous[1]
            previous = (h, denoised)
        x = toward(x, extrapolated, step.sigma, step.sigma_next)
        if step.report(callback, x, denoised):
            return denoised
    return x


def sample_adams(
    denoise: Denoise,
    x: Tensor,
    sigmas: Grid,
    *,
    generator: Generators = None,
    callback: Callback = None,
    order: int = 4,
    corrector: bool = True,
) -> Tensor:
    r"""Samples by exponential Adams-Bashforth-Moulton of order k, with one evaluation for each step.

    It approximates D by a polynomial in :math:`v = \mathrm{asinh}(\sigma/2)`. The polynomial of the predictor passes
    through the last k estimates. For this polynomial :math:`\frac{s}{\sigma} x + s\int_s^\sigma D(u)/u^2\,du` is exact.

    For small :math:`\sigma` v is linear in :math:`\sigma`: the polynomial extends to 0, and the last step keeps its
    order. For large :math:`\sigma` v is logarithmic; a polynomial in :math:`\sigma` overshoots there.

    The corrector repeats the last step, with the new estimate among its k nodes, before the next step (predict,
    evaluate, correct). It needs no further evaluation, and makes the error several times smaller.

    Args:
        order: k, 1 to 4, number of estimates of a polynomial, and of estimates in memory. Use 2 for strong guidance
            (w of 7) with 10 steps: it is more stable.
        corrector: False is the Adams-Bashforth method; order 1 without a corrector is Euler's method.
    Raises:
        ValueError: for another order, or a bad grid.

    Other arguments as :func:`sample_euler`. Sources: Zhang and Chen 2023, arXiv:2204.13902 (DEIS, the
    predictor); Zhao et al. 2023, arXiv:2302.04867 (UniPC, a corrector without a further evaluation);
    Hochbruck and Ostermann 2010, doi:10.1017/S0962492910000048. The variable v and the grid are ours.
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"sample_adams expects order 1, 2, 3 or 4, got {order}.")
    nodes: list[float] = []  # newest first
    estimates: list[Tensor] = []
    previous: tuple[float, Tensor] | None = None  # level and (corrected) state before the previous step
    for step in intervals(sigmas, x):
        nodes, estimates = nodes[: order - 1], estimates[: order - 1]  # frees the oldest before the evaluation
        denoised = denoise_at(denoise, x, step.sigma)
        nodes, estimates = [step.sigma, *nodes], [denoised, *estimates]
        if corrector and previous is not None:
            x = _adams_step(previous[1], previous[0], step.sigma, nodes, estimates)
        previous = (step.sigma, x)
        x = _adams_step(x, step.sigma, step.sigma_next, nodes, estimates)
        if step.report(callback, x, denoised):
            return denoised
    return x


def _adams_step(x: Tensor, sigma: float, sigma_next: float, nodes: list[float], estimates: list[Tensor]) -> Tensor:
    x = sigma_next / sigma * x
    for weight, estimate in zip(_adams_weights(nodes, sigma, sigma_next), estimates, strict=True):
        x.add_(estimate, alpha=weight)  # in place, for the memory of one volume less: no one else holds this x
    return x


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the quadrature rule on [-1, 1] (Golub and Welsch 1969, doi:10.2307/2004418)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off_diagonal = k / torch.sqrt(4 * k**2 - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return nodes, 2 * vectors[0] ** 2


_GAUSS_NODES, _GAUSS_WEIGHTS = _gauss_legendre(24)


def _adams_weights(nodes: list[float], sigma: float, sigma_next: float) -> list[float]:
    r""":math:`s \int_s^{\sigma} L_j(v(u))/u^2\,du` for the Lagrange polynomials in v through the nodes.

    At s = 0 the limit is :math:`L_j(v(0))`.
    """
    if sigma_next == 0:
        points, measure = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    else:
        half = math.log(sigma / sigma_next) / 2
        points = sigma_next * torch.exp(half * (_GAUSS_NODES + 1))
        measure = _GAUSS_WEIGHTS * half * sigma_next / points
    v, v_nodes = torch.asinh(points / 2), torch.asinh(torch.tensor(nodes, dtype=torch.float64) / 2)
    weights = []
    for j in range(len(nodes)):
        others = torch.cat([v_nodes[:j], v_nodes[j + 1 :]])
        lagrange = ((v[:, None] - others) / (v_nodes[j] - others)).prod(1)
        weights.append(float(measure @ lagrange))
    return weights


class _Stopped(Exception):
    """A callback stops the sampling inside scipy's loop."""

    def __init__(self, denoised: Tensor) -> None:
        super().__init__()
        self.denoised = denoised


def sample_rk45(
    denoise: Denoise,
    x: Tensor,
    sigmas: Grid,
    *,
    generator: Generators = None,
    callback: Callback = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    r"""Samples by Dormand-Prince of order 5(4) with adaptive steps, by scipy.

    The tolerance determines the number of evaluations. It integrates from sigmas[0] to the last positive level, and
    denoises there if the grid ends in 0; it ignores the other levels. scipy holds the state on the CPU in float64. It
    controls the error of the batch as a whole: a sample depends slightly (within the tolerance) on its batch.

    Args:
        rtol: relative tolerance of a step.
        atol: absolute tolerance of a step, in units of the (normalised) data.
    Raises:
        RuntimeError: if the solver fails.
        ValueError: for a bad grid, or a tolerance <= 0.

    Other arguments as :func:`sample_euler`. The callback gets step number 0 at each evaluation.
    Source: Song et al. 2021, Appendix D.4; Dormand and Prince 1980.
    """
    from scipy.integrate import solve_ivp

    if not (rtol > 0 and atol > 0):
        raise ValueError(f"sample_rk45 expects rtol > 0 and atol > 0, got {rtol} and {atol}.")
    levels = check_sigmas(sigmas)
    check_start(x, levels[0])
    end = levels[-1] if levels[-1] > 0 else levels[-2]
    shape, like = x.shape, x

    def slope(sigma: float, flat: Any) -> Any:
        state = torch.from_numpy(flat).reshape(shape).to(like)
        denoised = denoise_at(denoise, state, sigma)
        check_finite(denoised, f"at sigma {sigma:.4g}")
        if Interval(0, 1, sigma, end).report(callback, state, denoised):
            raise _Stopped(denoised)
        return ((state - denoised) / sigma).to("cpu", torch.float64).flatten().numpy()

    if end < levels[0]:
        start = x.detach().to("cpu", torch.float64).flatten().numpy()
        try:
            solution = solve_ivp(slope, (levels[0], end), start, method="RK45", rtol=rtol, atol=atol, t_eval=[end])
        except _Stopped as stopped:
            return stopped.denoised
        if not solution.success:
            raise RuntimeError(
                f"sample_rk45 expected to reach sigma {end}, got from scipy: {solution.message} Raise rtol or atol."
            )
        x = torch.from_numpy(solution.y[:, -1].copy()).reshape(shape).to(like)
    return x if levels[-1] > 0 else denoise_at(denoise, x, end)


#: order of convergence of the deterministic solvers, in the largest step of ln(sigma)
ORDERS: dict[Callable[..., Tensor], int] = {sample_euler: 1, sample_heun: 2, sample_dpmpp_2m: 2, sample_adams: 4}


@torch.no_grad()
def encode(denoise: Denoise, x: Tensor, sigmas: Grid) -> Tensor:
    r"""The state at the highest level that the probability-flow ODE maps to x: an inverted sampler.

    It solves :math:`dx/d\sigma = (x - D(x, \sigma))/\sigma` from the lowest positive level of the grid to its highest,
    by Heun's method (Karras et al. 2022, Algorithm 1 in the opposite direction).

    Args:
        denoise: the denoiser with its condition bound.
        x: data [B, ...] with noise of the lowest positive level. For a small level, data without noise.
        sigmas: descending grid, in units of the (normalised) data.
    Raises:
        FloatingPointError: for a denoiser that returns NaN or infinite values.
        ValueError: for a bad grid.
    """
    levels = [sigma for sigma in check_sigmas(sigmas) if sigma > 0][::-1]
    for low, high in pairwise(levels):
        slope = (x - denoise_at(denoise, x, low)) / low
        euler = x + (high - low) * slope
        x = x + (high - low) / 2 * (slope + (euler - denoise_at(denoise, euler, high)) / high)
    check_finite(x, "while encoding")
    return x
