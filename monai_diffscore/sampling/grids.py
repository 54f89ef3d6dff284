r"""Grids of noise levels: float64 tensors [steps + 1], strictly descending, that usually end in 0.

Where the steps lie matters more than the order of the solver: the largest levels hold hardly any information, and a
last step from a level that is not small to 0 spoils the order of every solver.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_diffscore.sde import SDE

#: descending noise levels, as solvers take them: a tensor, an array or a list
Grid = Tensor | NDArray[Any] | Sequence[float]


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


def asinh_sigmas(steps: int, sigma_max: float = 80.0, scale: float = 0.045, power: float = 1.35) -> Tensor:
    r"""Noise levels :math:`c \sinh(u^p)` at evenly spaced u, descending, ending in 0. Float64 [steps + 1].

    Logarithmic above c and linear below, so that the steps reach 0 without a jump from a smallest level; the power p
    takes steps from the largest levels, where the data hardly shows, to the details. The grid for :func:`sample_adams`.

    Args:
        steps: number of intervals.
        sigma_max: largest level; well above the standard deviation of the data.
        scale: c, the level of the finest detail that matters, in units of the (normalised) data.
        power: p.
    Raises:
        ValueError: unless scale and power are > 0, sigma_max > scale, and there is at least one step.

    Scale and power were chosen on Gaussian mixtures other than those of docs/BENCHMARKS_SAMPLING.md.
    """
    if not power > 0:
        raise ValueError(f"Expected a power > 0, got {power}.")
    _ramp(steps, scale, sigma_max)
    u = torch.linspace(math.asinh(sigma_max / scale) ** (1 / power), 0, steps + 1, dtype=torch.float64)
    sigmas = scale * torch.sinh(u**power)
    sigmas[0] = sigma_max  # without the rounding of sinh(asinh)
    return sigmas


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


def check_sigmas(sigmas: Grid) -> list[float]:
    """The grid, a tensor, an array or a list, as Python floats.

    Raises:
        ValueError: unless it is one-dimensional, strictly descending, finite, not negative and has two levels or more.
    """
    grid = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
    levels = grid.tolist()
    descending = grid.ndim == 1 and all(a > b for a, b in itertools.pairwise(levels))
    if not descending or len(levels) < 2 or levels[-1] < 0 or not math.isfinite(levels[0]):
        raise ValueError(
            "Expected a grid of at least two finite noise levels, strictly descending to 0 or above, got shape "
            f"{tuple(grid.shape)}: {levels if len(levels) < 8 else [*levels[:3], '...', *levels[-3:]]}. "
            "Make one with asinh_sigmas, karras_sigmas, log_uniform_sigmas, cosine_sigmas or time_uniform_sigmas."
        )
    return levels


def check_start(x: Tensor, sigma: float, stacklevel: int = 3) -> None:
    """Warns of a start that is not noise of level ``sigma``: a sampler multiplies nothing.

    It compares standard deviations: that of the start is at least sigma (noise alone), and not much more where sigma is
    well above the standard deviation of the data. Starts of fewer than 16 elements are not checked. A tensor of another
    device is read once for each sampling.

    Args:
        stacklevel: of the warning; 3 names the caller of the function that calls this.
    """
    if x.numel() < 16 or torch.compiler.is_compiling():
        return
    std = float(x.detach().double().std())
    low = 0.5 if x.numel() >= 64 else 0.25  # a chance below 1e-7 for noise of level sigma
    if not low * sigma <= std or (sigma >= 10 and std > 3 * sigma):
        warnings.warn(
            f"Expected a start x with noise of level sigmas[0], of standard deviation {sigma:.4g} or slightly more, "
            f"got {std:.4g}. Start at sigmas[0] * noise, or take a grid that begins at the noise level of x.",
            stacklevel=stacklevel,
        )
