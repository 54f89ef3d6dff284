r"""The steps of a solver: intervals of a grid, the step with a constant D, and the callback.

The solver calls the callback after each step. The callback **stops** the sampling by returning True.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from monai_diffscore.sampling.grids import Grid, check_sigmas, check_start
from monai_diffscore.tensors import check_denoiser, check_estimate, check_finite

#: steps between checks for NaN where a check waits for the device
_STEPS_UNCHECKED = 8

Denoise = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """The argument of a callback."""

    number: int
    steps: int
    sigma: float  # the level before the step
    x: Tensor  # the state after the step
    denoised: Tensor  # the denoiser's last estimate of x0


Callback = Callable[[Step], Any] | None


class Interval(NamedTuple):
    """One interval of a grid, from ``sigma`` down to ``sigma_next``."""

    number: int
    steps: int
    sigma: float
    sigma_next: float

    def report(self, callback: Callback, x: Tensor, denoised: Tensor) -> bool:
        """Calls the callback. Returns True if it stops the sampling.

        Raises:
            FloatingPointError: on a device other than the CPU, in some steps and the last, if x is not finite.
        """
        last = self.number == self.steps - 1
        if x.device.type != "cpu" and (last or self.number % _STEPS_UNCHECKED == _STEPS_UNCHECKED - 1):
            check_finite(x, f"at sigma {self.sigma:.4g} or in the {_STEPS_UNCHECKED - 1} steps before")
        return callback is not None and callback(Step(self.number, self.steps, self.sigma, x, denoised)) is True


def intervals(sigmas: Grid, start: Tensor) -> Iterator[Interval]:
    """Checks the grid and the start at its first level, and returns the intervals in order."""
    levels = check_sigmas(sigmas)
    check_start(start, levels[0], stacklevel=4)
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        yield Interval(i, len(levels) - 1, sigma, sigma_next)


def denoise_at(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    """The estimate of the denoiser at one noise level for the whole batch.

    Raises:
        FloatingPointError: on the CPU, for NaN or infinite values. On other devices :meth:`Interval.report` checks.
        TypeError: for an estimate that is no tensor, or a network in place of a denoiser.
        ValueError: for an estimate of another shape than x, even if it broadcasts.
    """
    check_denoiser(denoise)
    denoised = denoise(x, x.new_full((x.shape[0],), sigma))
    check_estimate(denoised, x, "the denoiser")
    if denoised.device.type == "cpu":
        check_finite(denoised, f"at sigma {sigma:.4g}")
    return denoised


def toward(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exact solution at sigma_next for a constant D."""
    return denoised + sigma_next / sigma * (x - denoised)
