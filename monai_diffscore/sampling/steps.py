r"""The steps of a solver: intervals of a grid, the step with a constant D, and the callback.

The solver calls the callback after each step. The callback **stops** the sampling by returning True.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from monai_diffscore.sampling.grids import Grid, check_sigmas, check_start
from monai_diffscore.tensors import check_estimate

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
        """Calls the callback. Returns True if it stops the sampling."""
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
        TypeError: for an estimate that is no tensor.
        ValueError: for an estimate of another shape than x, even if it broadcasts.
    """
    denoised = denoise(x, x.new_full((x.shape[0],), sigma))
    check_estimate(denoised, x, "the denoiser")
    return denoised


def toward(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exact solution at sigma_next for a constant D."""
    return denoised + sigma_next / sigma * (x - denoised)
