r"""What every solver shares: the intervals of a grid, the step with D frozen, and what a callback sees.

A callback is called after each step, and **stops** the sampling by returning True.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from monai_diffscore.sampling.grids import Grid, check_sigmas, check_start

Denoise = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What a callback sees after each step."""

    number: int
    steps: int
    sigma: float  # the level that was stepped from
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
        """Tells the callback; returns whether it wants the sampling to stop."""
        return callback is not None and callback(Step(self.number, self.steps, self.sigma, x, denoised)) is True


def intervals(sigmas: Grid, start: Tensor) -> Iterator[Interval]:
    """The intervals of a grid, in order, after a check of the grid and of the start at its first level."""
    levels = check_sigmas(sigmas)
    check_start(start, levels[0], stacklevel=4)
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        yield Interval(i, len(levels) - 1, sigma, sigma_next)


def denoise_at(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    """The denoiser with one noise level for the whole batch."""
    return denoise(x, x.new_full((x.shape[0],), sigma))


def toward(x: Tensor, denoised: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exact solution from sigma to sigma_next with D frozen."""
    return denoised + sigma_next / sigma * (x - denoised)
