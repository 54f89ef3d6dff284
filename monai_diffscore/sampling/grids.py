r"""Grids of noise levels: float64 tensors [steps + 1], strictly descending, that usually end in 0.

The grid affects the error more than the order of the solver. The largest levels hold almost no information, and a last
step from a large level to 0 reduces the order of every solver.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_diffscore.sde import SDE, check_process

#: descending noise levels: a tensor, an array or a list
Grid = Tensor | NDArray[Any] | Sequence[float]


def karras_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    r"""Noise levels at equal distances in :math:`\sigma^{1/\rho}`, descending to 0. Float64 [steps + 1].

    Args:
        steps: number N of intervals. The last interval is from sigma_min to 0.
        sigma_min: smallest positive level, in units of the (normalised) data.
        sigma_max: largest level, in the same units. Choose it well above the standard deviation of the data.
        rho: a larger value puts more steps near sigma_min.
    Raises:
        ValueError: unless 0 < sigma_min < sigma_max, steps >= 1 and rho > 0.

    Source: Karras et al. 2022, Eq. 5.
    """
    if not rho > 0:
        raise ValueError(f"karras_sigmas expects rho > 0, got {rho}. Karras et al. use 7.")
    ramp = _ramp(steps, sigma_min, sigma_max)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return _end_in_zero((high + ramp * (low - high)) ** rho)


def log_uniform_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    r"""Noise levels at equal distances in :math:`\ln\sigma`, descending to 0. Float64 [steps + 1].

    It is the limit of :func:`karras_sigmas` for large rho. Arguments and errors as there.
    """
    ramp = _ramp(steps, sigma_min, sigma_max)
    return _end_in_zero(torch.exp(math.log(sigma_max) + ramp * math.log(sigma_min / sigma_max)))


def cosine_sigmas(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    r"""Noise levels :math:`\tan u` at equally spaced angles u, descending to 0. Float64 [steps + 1].

    It is the cosine schedule :math:`\alpha = \cos u`, uniform in time. Arguments and errors as :func:`karras_sigmas`.
    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, Eq. 17.
    """
    ramp = _ramp(steps, sigma_min, sigma_max)
    high, low = math.atan(sigma_max), math.atan(sigma_min)
    return _end_in_zero(torch.tan(high + ramp * (low - high)))


def asinh_sigmas(steps: int, sigma_max: float = 80.0, scale: float = 0.045, power: float = 1.35) -> Tensor:
    r"""Noise levels :math:`c \sinh(u^p)` at equally spaced u, descending to 0. Float64 [steps + 1].

    The grid is logarithmic above c and linear below: it reaches 0 without a jump from a smallest level. The power p
    moves steps from the largest levels, where the data has little effect, to the details. Use it with
    :func:`sample_adams`.

    Args:
        steps: number of intervals.
        sigma_max: largest level, in units of the (normalised) data. Choose it well above the standard deviation of the
            data.
        scale: c, level of the finest relevant detail, in the same units.
        power: p.
    Raises:
        ValueError: unless 0 < scale < sigma_max < inf, power > 0 and steps >= 1.

    We chose scale and power on Gaussian mixtures that are not those of docs/BENCHMARKS_SAMPLING.md.
    """
    if not (power > 0 and 0 < scale < sigma_max < math.inf):
        raise ValueError(
            f"asinh_sigmas expects power > 0 and 0 < scale < sigma_max < inf, got {power}, {scale} and {sigma_max}."
        )
    _refuse_no_steps(steps)
    u = torch.linspace(math.asinh(sigma_max / scale) ** (1 / power), 0, steps + 1, dtype=torch.float64)
    sigmas = scale * torch.sinh(u**power)
    sigmas[0] = sigma_max  # without the rounding of sinh(asinh)
    return sigmas


def time_uniform_sigmas(steps: int, sde: SDE, t_min: float = 1e-3, t_max: float | None = None) -> Tensor:
    r"""Noise levels :math:`\sigma(t)` of a process at equally spaced t, descending to 0. Float64 [steps + 1].

    Args:
        steps: number of intervals. The last interval is from sigma(t_min) to 0.
        sde: the process.
        t_min: smallest positive time.
        t_max: largest time; default is that of the process.
    Raises:
        ValueError: unless 0 < t_min < t_max <= sde.t_max and steps >= 1.

    Source: Song et al. 2021, Appendix C (t_min = 1e-3 for sampling).
    """
    check_process(sde)
    t_max = sde.t_max if t_max is None else t_max
    if not 0 < t_min < t_max <= sde.t_max:
        raise ValueError(f"Expected 0 < t_min < t_max <= {sde.t_max}, got t_min {t_min} and t_max {t_max}.")
    return _end_in_zero(sde.noise_level(t_max + _ramp(steps) * (t_min - t_max)))


def _ramp(steps: int, sigma_min: float = 0.5, sigma_max: float = 1.0) -> Tensor:
    """Checks the arguments of a grid, and returns ``steps`` points from 0 to 1; a single point is 0."""
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"Expected 0 < sigma_min < sigma_max < inf, got sigma_min {sigma_min} and sigma_max {sigma_max}."
        )
    _refuse_no_steps(steps)
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _refuse_no_steps(steps: int) -> None:
    if not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"A grid needs a whole number of steps, at least one, got {steps!r}. The number comes first.")


def _end_in_zero(levels: Tensor) -> Tensor:
    return torch.cat([levels, levels.new_zeros(1)])


def check_sigmas(sigmas: Grid) -> list[float]:
    """The levels of a grid (a tensor, an array or a list) as Python floats.

    Raises:
        ValueError: unless the grid has one dimension and two levels or more, strictly descending, finite and >= 0; for
            timesteps of a scheduler.
    """
    grid = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
    levels = grid.tolist()
    descending = grid.ndim == 1 and all(a > b for a, b in itertools.pairwise(levels))
    if not descending or len(levels) < 2 or levels[-1] < 0 or not math.isfinite(levels[0]):
        raise ValueError(
            "Expected a grid of at least two finite noise levels >= 0, strictly descending, got shape "
            f"{tuple(grid.shape)}: {levels if len(levels) < 8 else [*levels[:3], '...', *levels[-3:]]}. "
            "Use asinh_sigmas, karras_sigmas, log_uniform_sigmas, cosine_sigmas or time_uniform_sigmas."
        )
    _refuse_timesteps(levels)
    return levels


def _refuse_timesteps(levels: list[float]) -> None:
    """Raises a ValueError for whole numbers at equal distances from 100 or more, such as 999, 979, ..., 19."""
    gaps = [a - b for a, b in itertools.pairwise(levels)]
    whole = all(level == int(level) for level in levels)
    if whole and levels[0] >= 100 and len(levels) > 3 and max(gaps) - min(gaps) <= 1:
        raise ValueError(
            f"Expected noise levels sigma, got what looks like timesteps: {levels[0]:g}, {levels[1]:g}, ..., "
            f"{levels[-1]:g}. The noise level of a timestep is DiscretePreconditioning.of(scheduler).sigmas[timestep]. "
            "Use these levels, or karras_sigmas(steps)."
        )


def check_start(x: Tensor, sigma: float, stacklevel: int = 3) -> None:
    """Warns if the start does not have noise of level ``sigma``, and refuses NaN. (Samplers do not scale the start.)

    The standard deviation of a start is at least sigma, that of the noise. For sigma far above the standard deviation
    of the data it is about sigma. Starts of fewer than 16 elements pass unchecked. The check waits for a start on
    another device once for each sampling.

    Args:
        x: the start [B, ...].
        sigma: first level of the grid.
        stacklevel: of the warning; 3 names the caller of the function that calls this one.
    Raises:
        ValueError: for a start of NaN or infinite values.
    """
    if x.numel() < 16 or torch.compiler.is_compiling():
        return
    std = float(x.detach().double().std())
    if not math.isfinite(std):
        raise ValueError(f"Expected a finite start x, got NaN or infinite values in shape {tuple(x.shape)}.")
    low = 0.5 if x.numel() >= 64 else 0.25  # a chance below 1e-7 for noise of level sigma
    if not low * sigma <= std or (sigma >= 10 and std > 3 * sigma):
        warnings.warn(
            f"Expected a start x with noise of level sigmas[0], of standard deviation {sigma:.4g} or slightly more, "
            f"got {std:.4g}. Start at sigmas[0] * noise, or use a grid that begins at the noise level of x.",
            stacklevel=stacklevel,
        )
