r"""Anomaly maps: what a prior of healthy images takes away when it denoises, as a p-value at each voxel.

Noise of level :math:`\sigma` hides structure of the prior's scale :math:`\sigma`; the denoiser puts back what healthy
images have there, and the residual is what it does not know. With noise in antithetic pairs,

.. math::  r_\sigma = G * \tfrac1{2K} \sum_k \bigl(x_0 - D(x_0 + \sigma n_k, \sigma)\bigr)
                    + \bigl(x_0 - D(x_0 - \sigma n_k, \sigma)\bigr) ,

where the Gaussian G collects what neighbouring voxels say. For a Gaussian prior N(m, C) this is free of the noise and
equal to :math:`G * \sigma^2 (C + \sigma^2 I)^{-1}(x_0 - m)`: the image whitened, which is what a matched filter looks
at. (The antithetic pair cancels what is linear in the noise.) Levels are combined as

.. math::  s = \Bigl|\tfrac1L \sum_l r_{\sigma_l} / h_l\Bigr| , \qquad
           p = \frac{1 + \#\{\text{healthy voxels with a score} \ge s\}}{1 + N} ,

with :math:`h_l` the root mean square of the residual in N voxels of held-out healthy images: a lesion has the same sign
at all levels, errors of the model less so. p is a conformal p-value: whatever the model is like, a healthy voxel that
is exchangeable with those of the calibration has :math:`P(p \le \alpha) \le \alpha`. That is a statement about **one
voxel**: among a million healthy ones a thousand have p below 1e-3, and neighbours have it together.

Sources: Wyatt et al. 2022, AnoDDPM, CVPR Workshops (noise to a chosen level, denoise, residual); Vovk et al. 2005,
Algorithmic Learning in a Random World (conformal p-values). The antithetic pairs and the signed sum are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from monai_diffscore.denoiser import Generators, noise_like

_RANKS = 512  # of healthy scores that are kept: neighbouring ones differ by 2.5 % in p


def healthy_residuals(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    sigmas: Sequence[float],
    *,
    pairs: int = 1,
    smoothing: float = 1.0,
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
        smoothing: standard deviation of G in voxels; 0 leaves it out.
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


@dataclass(frozen=True)
class HealthyScores:
    """What residuals of healthy voxels are like: the scale of each level, and the scores from which p-values follow.

    ``spreads`` [L]; ``ranks``, increasing whole numbers, and the ``scores`` of these ranks among ``count`` healthy
    voxels, the largest first.
    """

    spreads: tuple[float, ...]
    ranks: tuple[int, ...]
    scores: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, residuals: Tensor) -> HealthyScores:
        """Of the residuals [N, L] of healthy voxels.

        Raises:
            ValueError: for fewer than 100 voxels, values that are not finite, or a level without any residual.
        """
        spreads = residuals.double().square().mean(0).sqrt() if residuals.ndim == 2 else residuals.new_zeros(1)
        if residuals.ndim != 2 or len(residuals) < 100 or not bool(torch.isfinite(spreads).all() & (spreads > 0).all()):
            raise ValueError(
                "HealthyScores needs finite residuals [N, L] of at least 100 voxels, not all 0, got shape "
                f"{tuple(residuals.shape)} and root mean squares {spreads.tolist()}. Calibrate on more healthy data."
            )
        ordered = (residuals.double() / spreads).mean(1).abs().sort(descending=True).values
        count = len(ordered)
        ranks = torch.logspace(0, math.log10(count), _RANKS, dtype=torch.float64).round().long().unique()
        return cls(tuple(spreads.tolist()), tuple(ranks.tolist()), tuple(ordered[ranks - 1].tolist()), count)

    def signed_score(self, residuals: Tensor) -> Tensor:
        """The mean of the scaled residuals [B, 1, *S] of [B, L, *S]: > 0 brighter than healthy, < 0 darker."""
        spreads = residuals.new_tensor(self.spreads)
        return (residuals / spreads.reshape(1, -1, *[1] * (residuals.ndim - 2))).mean(1, keepdim=True)

    def p_value(self, residuals: Tensor) -> Tensor:
        """p [B, 1, *S] of residuals [B, L, *S], from 1 / (1 + count) to 1; rounded up to the next rank that is kept."""
        scores = self.signed_score(residuals).abs().double()
        ascending = torch.tensor(self.scores[::-1], dtype=torch.float64, device=residuals.device)
        reached = len(self.scores) - torch.searchsorted(ascending, scores.contiguous(), right=False)
        ranks = torch.tensor([*self.ranks, self.count + 1], dtype=torch.float64, device=residuals.device)
        return (ranks[reached] / (self.count + 1)).to(residuals.dtype)

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it; ``HealthyScores(**...)`` makes it again."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HealthyScores:
        """The inverse of :meth:`as_dict`; other entries are passed over."""
        return cls(tuple(values["spreads"]), tuple(values["ranks"]), tuple(values["scores"]), int(values["count"]))
