r"""Anomaly maps: what a prior of healthy images takes away when it denoises, as a p-value at each voxel.

Noise of level :math:`\sigma` hides structure of the prior's scale :math:`\sigma`; the denoiser puts back what healthy
images have there, and the residual is what it does not know. With noise in antithetic pairs,

.. math::  r_\sigma = \tfrac1{2K} \sum_k \bigl(x_0 - D(x_0 + \sigma n_k, \sigma)\bigr)
                    + \bigl(x_0 - D(x_0 - \sigma n_k, \sigma)\bigr) .

For a Gaussian prior N(m, C) this is free of the noise and equal to :math:`\sigma^2 (C + \sigma^2 I)^{-1}(x_0 - m)`:
the image whitened. (The antithetic pair cancels what is linear in the noise.) Levels are averaged, each in units of
its root mean square :math:`h_l` in healthy tissue. A lesion that adds a constant inside a ball is then looked for by
its matched filter, the sum over that ball, and since place and size are unknown, by the largest of all balls that
contain the voxel, each size in units of its own root mean square :math:`g_\rho`:

.. math::  r = \tfrac1L \sum_l r_{\sigma_l} / h_l , \qquad
           S_\rho(c) = \frac1{g_\rho} \sum_{|v - c| \le \rho} r(v) , \qquad
           s(v) = S_{\rho^*}(c^*) , \quad (\rho^*, c^*) = \arg\max_{\rho,\ |v - c| \le \rho} |S_\rho(c)| .

The edge of a large lesion alone stands out in the whitened image, its inside looks like healthy tissue of another
kind; the ball's sum carries what the edge says to the inside. The p-value is

.. math::  p = \frac{1 + \#\{\text{healthy voxels with } |s'| \ge |s|\}}{1 + N} ,

a conformal one: whatever the model is like, a healthy voxel that is exchangeable with those of the calibration has
:math:`P(p \le \alpha) \le \alpha`. That is a statement about **one voxel**: among a million healthy ones a thousand
have p below 1e-3, and neighbours have it together.

Sources: Wyatt et al. 2022, AnoDDPM, CVPR Workshops (noise to a chosen level, denoise, residual); Kulldorff 1997,
Communications in Statistics: Theory and Methods 26 (the scan statistic over balls of all places and sizes); Vovk et
al. 2005, Algorithmic Learning in a Random World (conformal p-values). The antithetic pairs and their union are ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import EllipsisType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from monai_diffscore.tensors import Generators, noise_like, per_sample

_RANKS = 512  # of healthy scores that are kept: neighbouring ones differ by 2.5 % in p


def healthy_residuals(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    sigmas: Sequence[float],
    *,
    pairs: int = 1,
    smoothing: float = 0.0,
    channels: Literal["sum", "norm"] = "sum",
    generator: Generators = None,
) -> Tensor:
    r"""Residuals :math:`r_\sigma` [B, L, *S] of the images x0 [B, C, *S], one for each level.

    Costs 2 L ``pairs`` evaluations of the denoiser.

    Args:
        denoise: the denoiser with its condition bound, of healthy images.
        x0: in the normalised units that it was trained in.
        sigmas: noise levels :math:`\sigma_l > 0`: small ones see fine and faint changes, large ones large lesions.
        pairs: K, of noise and its negative.
        smoothing: standard deviation in voxels of a Gaussian filter of each channel; 0 leaves it out.
        channels: "sum" adds the residuals of the channels, with their sign; "norm" takes their Euclidean norm after
            smoothing, without sign: a foreign colour, whose parts are above and below, does not cancel.
        generator: source of the noise; one, or one per sample.
    Raises:
        ValueError: for no levels, levels that are not > 0, no pairs, negative smoothing, or another way of channels.
    """
    if not sigmas or min(sigmas) <= 0 or pairs < 1 or smoothing < 0 or channels not in ("sum", "norm"):
        raise ValueError(
            f"healthy_residuals needs noise levels > 0, pairs >= 1, smoothing >= 0 and channels 'sum' or 'norm', got "
            f"{list(sigmas)}, {pairs}, {smoothing} and {channels!r}."
        )
    maps = []
    for level in sigmas:
        sigma = x0.new_full((len(x0),), float(level))
        estimate = torch.zeros_like(x0)
        for _ in range(pairs):
            noise = level * noise_like(x0, generator)
            estimate += (denoise(x0 + noise, sigma) + denoise(x0 - noise, sigma)) / (2 * pairs)
        residual = smoothed(x0 - estimate, smoothing)
        maps.append(residual.sum(1, keepdim=True) if channels == "sum" else residual.norm(dim=1, keepdim=True))
    return torch.cat(maps, dim=1)


def smoothed(x: Tensor, std: float) -> Tensor:
    """x [B, C, *S] filtered by a Gaussian of ``std`` voxels along each spatial axis; the border is repeated."""
    if std == 0:
        return x
    radius = math.ceil(3 * std)
    offset = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    bell = torch.exp(-0.5 * (offset / std) ** 2)
    bell = (bell / bell.sum()).reshape(1, 1, -1)
    for axis in range(2, x.ndim):
        rows = x.movedim(axis, -1)
        padded = functional.pad(rows.reshape(-1, 1, rows.shape[-1]), (radius, radius), mode="replicate")
        x = functional.conv1d(padded, bell).reshape(rows.shape).movedim(-1, axis)
    return x


def ball_sum(x: Tensor, radius: float) -> Tensor:
    """The sum of x [B, C, *S] over the voxels within ``radius`` voxels of each; outside of the image x is 0."""
    total = torch.zeros_like(x)
    for width, shifts in _rows_of_a_ball(x, radius).items():
        rows = functional.avg_pool1d(_rows(x), width, 1, width // 2).view_as(x) * width
        for here, there in shifts:
            total[here] += rows[there]
    return total


def ball_maximum(x: Tensor, radius: float) -> Tensor:
    """The largest value of x [B, C, *S] within ``radius`` voxels of each voxel."""
    largest = x.clone()
    for width, shifts in _rows_of_a_ball(x, radius).items():
        rows = functional.max_pool1d(_rows(x), width, 1, width // 2).view_as(x)
        for here, there in shifts:
            largest[here] = torch.maximum(largest[here], rows[there])
    return largest


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, x.shape[-1])


Place = tuple[slice | EllipsisType, ...]
Shift = tuple[Place, Place]  # where rows go, and which


def _rows_of_a_ball(x: Tensor, radius: float) -> dict[int, list[Shift]]:
    """A ball is a stack of rows along the last axis: their widths in voxels, and where the rows of a width lie.

    A ball of radius R then costs about pi R^2 additions of images in 3-D, not 4 R^3."""
    reach = math.floor(radius)
    shifts: dict[int, list[Shift]] = {}
    for offset in itertools.product(range(-reach, reach + 1), repeat=x.ndim - 3):
        left = radius**2 - sum(step**2 for step in offset)
        if left < 0 or any(abs(step) >= size for step, size in zip(offset, x.shape[2:-1], strict=True)):
            continue
        half = min(math.floor(math.sqrt(left)), x.shape[-1] - 1)
        shifts.setdefault(2 * half + 1, []).append((_moved(x, offset), _moved(x, [-step for step in offset])))
    return shifts


def _moved(x: Tensor, offset: Sequence[int]) -> Place:
    """The part of an image whose voxels still lie in it when they are moved by ``offset`` along the first axes."""
    places = [slice(max(-step, 0), size - max(step, 0)) for step, size in zip(offset, x.shape[2:-1], strict=True)]
    return (..., *places, slice(None))


@dataclass(frozen=True)
class BallScan:
    """The signed score s of the largest ball sum through each voxel, in units of a healthy case.

    ``radii`` [R] in voxels; ``level_spreads`` [L] and ``ball_spreads`` [R], h and g of the module's formula.
    """

    radii: tuple[float, ...]
    level_spreads: tuple[float, ...]
    ball_spreads: tuple[float, ...]

    @classmethod
    def of(cls, residuals: Tensor, inside: Tensor, radii: Sequence[float]) -> BallScan:
        """With the spreads of the residuals [B, L, *S] of healthy voxels, where ``inside`` [B, 1, *S].

        Raises:
            ValueError: for no radii or negative ones, fewer than 100 voxels, values that are not finite, or none but 0.
        """
        if not radii or min(radii) < 0:
            raise ValueError(f"BallScan needs radii >= 0 in voxels, got {list(radii)}.")
        level_spreads = _spreads(residuals, inside)
        mean = _mean_of_levels(residuals, level_spreads)
        ball_spreads = [_spreads(ball_sum(mean, radius), inside)[0] for radius in radii]
        return cls(tuple(map(float, radii)), level_spreads, tuple(ball_spreads))

    def __call__(self, residuals: Tensor) -> Tensor:
        """s [B, 1, *S] of residuals [B, L, *S]: > 0 brighter than healthy, < 0 darker."""
        mean = _mean_of_levels(residuals, self.level_spreads)
        brighter, darker = torch.full_like(mean, -math.inf), torch.full_like(mean, -math.inf)
        for radius, spread in zip(self.radii, self.ball_spreads, strict=True):
            sums = ball_sum(mean, radius) / spread
            brighter = torch.maximum(brighter, ball_maximum(sums, radius))
            darker = torch.maximum(darker, ball_maximum(-sums, radius))
        return torch.where(brighter >= darker, brighter, -darker)


def _mean_of_levels(residuals: Tensor, spreads: Sequence[float]) -> Tensor:
    """r [B, 1, *S] of residuals [B, L, *S]."""
    along = per_sample(residuals.new_tensor(spreads)[None], residuals)
    return (residuals / along).mean(1, keepdim=True)


def _spreads(maps: Tensor, inside: Tensor) -> tuple[float, ...]:
    """The root mean square of each channel of ``maps`` [B, C, *S] where ``inside`` [B, 1, *S]."""
    voxels = maps.movedim(1, -1)[inside[:, 0]].double()
    spreads = voxels.square().mean(0).sqrt() if len(voxels) >= 100 else voxels.new_zeros(1)
    if not bool(torch.isfinite(spreads).all() & (spreads > 0).all()):
        raise ValueError(
            "A calibration needs finite residuals of at least 100 healthy voxels, not all 0, got "
            f"{len(voxels)} with root mean squares {spreads.tolist()}. Give healthy images with content."
        )
    return tuple(spreads.tolist())


@dataclass(frozen=True)
class HealthyScores:
    """The scores of healthy voxels, from which p-values follow.

    ``ranks``, increasing whole numbers, and the ``scores`` of these ranks among ``count`` healthy voxels, the largest
    first.
    """

    ranks: tuple[int, ...]
    scores: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, scores: Tensor) -> HealthyScores:
        """Of the signed scores of healthy voxels, of any shape.

        Raises:
            ValueError: for fewer than 100, or any that is not finite.
        """
        if scores.numel() < 100 or not bool(torch.isfinite(scores).all()):
            raise ValueError(
                f"HealthyScores needs at least 100 finite scores, got {scores.numel()}, of which "
                f"{int(torch.isfinite(scores).sum())} are finite. Calibrate on more healthy data."
            )
        ordered = scores.double().flatten().abs().sort(descending=True).values
        count = len(ordered)
        ranks = torch.logspace(0, math.log10(count), _RANKS, dtype=torch.float64).round().long().unique()
        return cls(tuple(ranks.tolist()), tuple(ordered[ranks - 1].tolist()), count)

    def p_value(self, scores: Tensor) -> Tensor:
        """p of scores, of their shape, from 1 / (1 + count) to 1; rounded up to the next rank that is kept."""
        ascending = torch.tensor(self.scores[::-1], dtype=torch.float64, device=scores.device)
        reached = len(self.scores) - torch.searchsorted(ascending, scores.abs().double().contiguous(), right=False)
        ranks = torch.tensor([*self.ranks, self.count + 1], dtype=torch.float64, device=scores.device)
        return (ranks[reached] / (self.count + 1)).to(scores.dtype)


@dataclass(frozen=True)
class HealthyReference:
    """What residuals are compared with: the scan in units of a healthy case, and the scores of healthy voxels."""

    scan: BallScan
    healthy: HealthyScores

    @classmethod
    def of(cls, residuals: Tensor, inside: Tensor, radii: Sequence[float]) -> HealthyReference:
        """From the residuals [B, L, *S] of healthy voxels, where ``inside`` [B, 1, *S]; radii of the scan in voxels.

        Raises:
            ValueError: as of :meth:`BallScan.of` and :meth:`HealthyScores.of`.
        """
        scan = BallScan.of(residuals, inside, radii)
        return cls(scan, HealthyScores.of(scan(residuals)[inside]))

    def p_value(self, residuals: Tensor) -> Tensor:
        """p [B, 1, *S] of residuals [B, L, *S]."""
        return self.healthy.p_value(self.scan(residuals))

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it; :meth:`from_dict` makes it again and passes over other entries."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HealthyReference:
        """The inverse of :meth:`as_dict`."""
        parts: list[dict[str, Any]] = [  # JSON made lists of the tuples
            {name: tuple(value) if isinstance(value, list) else value for name, value in values[part].items()}
            for part in ("scan", "healthy")
        ]
        return cls(BallScan(**parts[0]), HealthyScores(**parts[1]))
