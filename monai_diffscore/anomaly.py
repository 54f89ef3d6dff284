r"""Anomaly maps: a p-value at each voxel, from the residual of a denoiser of healthy images.

Noise of level :math:`\sigma` hides the structure of an image that is weaker than :math:`\sigma`. The denoiser restores
the structure of healthy images. The residual holds the structure that healthy images do not have. With noise in
antithetic pairs,

.. math::  r_\sigma = \tfrac1{2K} \sum_k \bigl(x_0 - D(x_0 + \sigma n_k, \sigma)\bigr)
                    + \bigl(x_0 - D(x_0 - \sigma n_k, \sigma)\bigr) .

For a Gaussian prior N(m, C) the residual equals :math:`\sigma^2 (C + \sigma^2 I)^{-1}(x_0 - m)`, a whitened image
without noise: an antithetic pair cancels the terms that are linear in the noise. The mean r over the levels takes each
level in units of its root mean square :math:`h_l` in healthy tissue. The matched filter of a lesion that adds a
constant inside a ball is the sum over that ball. Place and size of the lesion are unknown. The score s of a voxel is
therefore the largest sum of all balls that contain it, with each size in units of its root mean square
:math:`g_\rho`:

.. math::  r = \tfrac1L \sum_l r_{\sigma_l} / h_l , \qquad
           S_\rho(c) = \frac1{g_\rho} \sum_{|v - c| \le \rho} r(v) , \qquad
           s(v) = S_{\rho^*}(c^*) , \quad (\rho^*, c^*) = \arg\max_{\rho,\ |v - c| \le \rho} |S_\rho(c)| .

In the whitened image the edge of a large lesion differs from healthy tissue, and its inside does not. The sum over a
ball carries the evidence of the edge to the inside. The p-value is

.. math::  p = \frac{1 + \#\{\text{healthy voxels with } |s'| \ge |s|\}}{1 + N} ,

a conformal p-value. For every model, a healthy voxel that is exchangeable with the voxels of the calibration has
:math:`P(p \le \alpha) \le \alpha`. This holds for **one voxel**: among a million healthy voxels up to about a thousand
have p below 1e-3, and they lie in clusters.

Sources: Wyatt et al. 2022, AnoDDPM, CVPR Workshops (noise to a chosen level, denoise, residual); Kulldorff 1997,
Communications in Statistics: Theory and Methods 26 (the scan statistic over balls of all places and sizes); Vovk et
al. 2005, Algorithmic Learning in a Random World (conformal p-values). The antithetic pairs, and the combination of
these methods, are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import EllipsisType
from typing import Any, Literal

import torch
from torch import Tensor

from monai_diffscore.balls import Balls
from monai_diffscore.tensors import Generators, noise_like, per_sample

_BLOCK = 2**16  # voxels of a volume that a filter works on at once
_RANKS = 512  # stored healthy scores at most: for a million scores neighbouring p-values differ by 2.7 %


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
    r"""The residuals :math:`r_\sigma` [B, L, *S] of images x0 [B, C, *S], one for each level.

    It costs 2 L ``pairs`` evaluations of the denoiser.

    Args:
        denoise: a denoiser of healthy images, called as ``denoise(x, sigma)``, with its condition bound.
        x0: images, in the normalised units of the training.
        sigmas: noise levels :math:`\sigma_l > 0`, in the same units. Small levels show fine and faint changes, large
            levels show large lesions.
        pairs: K, number of pairs of noise and its negative.
        smoothing: standard deviation of a Gaussian filter of each channel, in voxels; 0 is no filter.
        channels: "sum" adds the signed residuals of the channels. "norm" takes their Euclidean norm after smoothing,
            without sign: the positive and negative parts of an unusual colour do not cancel.
        generator: of the noise; one, or one per sample.
    Raises:
        ValueError: for no levels, a level <= 0, pairs < 1, negative smoothing, or another value of ``channels``.
    """
    if not sigmas or min(sigmas) <= 0 or pairs < 1 or smoothing < 0 or channels not in ("sum", "norm"):
        raise ValueError(
            f"healthy_residuals needs noise levels > 0, pairs >= 1, smoothing >= 0 and channels 'sum' or 'norm', got "
            f"{list(sigmas)}, {pairs}, {smoothing} and {channels!r}."
        )
    maps = []
    for level in sigmas:
        residual = smoothed(level_residual(denoise, x0, float(level), pairs, generator), smoothing)
        maps.append(residual.sum(1, keepdim=True) if channels == "sum" else residual.norm(dim=1, keepdim=True))
    return torch.cat(maps, dim=1)


def level_residual(
    denoise: Callable[[Tensor, Tensor], Tensor], x0: Tensor, level: float, pairs: int, generator: Generators = None
) -> Tensor:
    r"""The residual :math:`r_\sigma` [B, C, *S] of each channel at one level.

    Args:
        denoise, x0, pairs, generator: see :func:`healthy_residuals`.
        level: :math:`\sigma` > 0.
    """
    sigma = x0.new_full((len(x0),), level)
    estimate = torch.zeros_like(x0)
    for _ in range(pairs):
        noise = level * noise_like(x0, generator)
        estimate += (denoise(x0 + noise, sigma) + denoise(x0 - noise, sigma)) / (2 * pairs)
    return x0 - estimate


def smoothed(x: Tensor, std: float) -> Tensor:
    """x [B, C, *S] after a Gaussian filter of ``std`` voxels along each spatial axis. It repeats the border."""
    if std == 0:
        return x
    kernel = torch.exp(-0.5 * (torch.arange(math.ceil(3 * std) + 1, dtype=torch.float64) / std) ** 2)
    weights = (kernel / (2 * kernel.sum() - kernel[0])).tolist()
    for axis in range(2, x.ndim):
        size, inner = x.shape[axis], math.prod(x.shape[axis + 1 :])
        # blocks that stay in the cache of the processor
        rows = x.reshape(-1, size, inner).split(max(1, _BLOCK // (size * inner)))
        blocks = (block.split(max(1, _BLOCK // size), 2) for block in rows)
        x = torch.cat([torch.cat([_filtered(part, weights) for part in block], 2) for block in blocks]).reshape(x.shape)
    return x


def _filtered(x: Tensor, weights: Sequence[float]) -> Tensor:
    """x [N, size, M] after a symmetric filter of the middle axis, whose weights begin in the middle."""
    size, reach = x.shape[1], len(weights) - 1
    padded = torch.cat([x[:, :1].expand(-1, reach, -1), x, x[:, -1:].expand(-1, reach, -1)], 1)
    total = x * weights[0]
    for step, weight in enumerate(weights[1:], start=1):
        total.add_(padded.narrow(1, reach - step, size) + padded.narrow(1, reach + step, size), alpha=weight)
    return total


@dataclass(frozen=True)
class BallScan:
    """The signed score s: the ball sum of largest magnitude through each voxel, in units of healthy tissue.

    Args:
        radii: of the balls [R], in voxels.
        level_spreads: root mean square h of the residuals of each level [L], in units of the normalised data.
        ball_spreads: root mean square g of the ball sums of each radius [R].
    """

    radii: tuple[float, ...]
    level_spreads: tuple[float, ...]
    ball_spreads: tuple[float, ...]

    @classmethod
    def of(cls, residuals: Tensor, inside: Tensor, radii: Sequence[float]) -> BallScan:
        """Measures h and g on healthy images.

        Args:
            residuals: of healthy images, [B, L, *S], in units of the normalised data.
            inside: the healthy voxels, bool [B, 1, *S].
            radii: of the balls, in voxels.
        Raises:
            ValueError: for no radius, a negative radius, fewer than 100 voxels, values that are not finite, or a level
                or radius whose values are all 0.
        """
        if not radii or min(radii) < 0:
            raise ValueError(f"BallScan needs radii >= 0 in voxels, got {list(radii)}.")
        level_spreads = _spreads([residuals.movedim(1, -1)[inside[:, 0]]])
        mean = _mean_of_levels(residuals, level_spreads)
        balls = Balls(radii, mean.shape)
        counted = inside.reshape(balls.volume_shape)[:, 0].unbind(1)
        planes = zip(balls.sums(mean), counted, strict=True)
        ball_spreads = _spreads(sums[:, 0].movedim(1, -1)[place] for sums, place in planes)
        return cls(tuple(map(float, radii)), level_spreads, ball_spreads)

    def __call__(self, residuals: Tensor, inside: Tensor | None = None) -> Tensor:
        """s [B, 1, *S] of residuals [B, L, *S]: > 0 is brighter than healthy tissue, < 0 is darker.

        Args:
            residuals: the residuals of the image.
            inside: voxels [B, 1, *S] whose score counts; s is 0 elsewhere. None are all voxels.
        """
        if inside is not None:
            return self._inside(residuals, inside)
        mean = _mean_of_levels(residuals, self.level_spreads)
        balls = Balls(self.radii, mean.shape)
        spreads = mean.new_tensor(self.ball_spreads)[:, None, None]
        return _decode(balls.maxima(_encode(sums / spreads) for sums in balls.sums(mean)))

    def _inside(self, residuals: Tensor, inside: Tensor) -> Tensor:
        """s in the box of ``inside``. Balls through its voxels reach two radii outside."""
        box: list[slice | EllipsisType] = [...]
        for axis in range(2, inside.ndim):
            places = inside.movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist() or [0]
            margin = 2 * math.floor(max(self.radii))
            box.append(slice(max(places[0] - margin, 0), places[-1] + margin + 1))
        score = torch.zeros_like(residuals[:, :1])
        score[tuple(box)] = self(residuals[tuple(box)])
        return torch.where(inside, score, 0)


def _encode(values: Tensor) -> Tensor:
    """The magnitude of values, with their sign in its last bit: 1 for positive. One maximum then finds the value of
    largest magnitude and its sign."""
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    return (values.abs().view(integer) & -2 | (values >= 0)).view(values.dtype)


def _decode(magnitudes: Tensor) -> Tensor:
    """The values of :func:`_encode`, without the last bit of their magnitude."""
    bits = magnitudes.view(torch.int64 if magnitudes.dtype == torch.float64 else torch.int32)
    return torch.where((bits & 1).bool(), 1, -1) * (bits & -2).view(magnitudes.dtype)


def _mean_of_levels(residuals: Tensor, spreads: Sequence[float]) -> Tensor:
    """r [B, 1, *S] of residuals [B, L, *S]."""
    scale = per_sample(residuals.new_tensor(spreads)[None], residuals)
    return (residuals / scale).mean(1, keepdim=True)


def _spreads(parts: Iterable[Tensor]) -> tuple[float, ...]:
    """The root mean square of each channel over the voxels of all parts [N, C]."""
    count, squares = 0, torch.zeros(1, dtype=torch.float64)
    for voxels in parts:
        count += len(voxels)
        squares = squares + voxels.double().square().sum(0).cpu()
    spreads = (squares / count).sqrt() if count >= 100 else torch.zeros(1)
    if not bool(torch.isfinite(spreads).all() & (spreads > 0).all()):
        raise ValueError(
            "A calibration needs finite residuals of at least 100 healthy voxels, not all 0, got "
            f"{count} voxels with root mean squares {spreads.tolist()}. Pass healthy images with foreground."
        )
    return tuple(spreads.tolist())


@dataclass(frozen=True)
class HealthyScores:
    """Quantiles of the scores of healthy voxels. They give the p-value of a score.

    Args:
        ranks: increasing integers; rank 1 is the largest score.
        scores: magnitudes of the scores of these ranks, the largest first.
        count: number N of healthy voxels.
    """

    ranks: tuple[int, ...]
    scores: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, scores: Tensor) -> HealthyScores:
        """Takes the signed scores of healthy voxels, of any shape.

        Raises:
            ValueError: for fewer than 100 scores, or a score that is not finite.
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
        """p in the shape of the scores, from 1 / (1 + count) to 1, rounded up to the next stored rank."""
        ascending = torch.tensor(self.scores[::-1], dtype=torch.float64, device=scores.device)
        index = len(self.scores) - torch.searchsorted(ascending, scores.abs().double().contiguous(), right=False)
        ranks = torch.tensor([*self.ranks, self.count + 1], dtype=torch.float64, device=scores.device)
        return (ranks[index] / (self.count + 1)).to(scores.dtype)


@dataclass(frozen=True)
class HealthyReference:
    """The calibration of a p-value map: a scan in units of healthy tissue, and the scores of healthy voxels."""

    scan: BallScan
    healthy: HealthyScores

    @classmethod
    def of(cls, residuals: Tensor, inside: Tensor, radii: Sequence[float]) -> HealthyReference:
        """Calibrates on healthy images.

        Args:
            residuals: of healthy images, [B, L, *S].
            inside: the healthy voxels, bool [B, 1, *S].
            radii: of the balls, in voxels.
        Raises:
            ValueError: as of :meth:`BallScan.of` and :meth:`HealthyScores.of`.
        """
        scan = BallScan.of(residuals, inside, radii)
        return cls(scan, HealthyScores.of(scan(residuals, inside)[inside]))

    def p_value(self, residuals: Tensor) -> Tensor:
        """p [B, 1, *S] of residuals [B, L, *S]."""
        return self.healthy.p_value(self.scan(residuals))

    def as_dict(self) -> dict[str, Any]:
        """A dictionary for JSON. :meth:`from_dict` inverts it and ignores other entries."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HealthyReference:
        """The reference of a dictionary of :meth:`as_dict`."""
        parts: list[dict[str, Any]] = [  # JSON stores tuples as lists
            {name: tuple(value) if isinstance(value, list) else value for name, value in values[part].items()}
            for part in ("scan", "healthy")
        ]
        return cls(BallScan(**parts[0]), HealthyScores(**parts[1]))
