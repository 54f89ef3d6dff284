"""Guidance that extrapolates from a weaker denoiser to a better one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from monai_diffscore.tensors import missing_mark, per_sample, per_sample_sigma


class ClassifierFree(nn.Module):
    r"""Classifier-free guidance, :math:`D_u + w (D_c - D_u)` with the unconditional :math:`D_u`.

    w = 1 is the conditional denoiser and w = 0 the unconditional one; each costs one evaluation. w > 1 sharpens. (The
    weight of the paper is w - 1.) Train the network with missing conditions: ``ConditionEncoder(dropout=0.1)``.

    Args:
        denoiser: a conditional denoiser.
        scale: w.
        null: the value of each field in :math:`D_u`, by name. A field without an entry is *missing* in :math:`D_u`:
            NaN, or -1 for integers.
        keep: names of fields that stay in :math:`D_u`, such as positions.
    Raises:
        ValueError: in the call: without a field to drop, for w other than 1.
        TypeError: in the call: for a condition that is no tensor.

    Source: Ho and Salimans 2022, arXiv:2207.12598.
    """

    def __init__(
        self, denoiser: nn.Module, scale: float, null: Mapping[str, Tensor] | None = None, keep: Sequence[str] = ()
    ) -> None:
        super().__init__()
        if not isinstance(scale, int | float | Tensor):
            raise TypeError(f"ClassifierFree expects a number as scale, got {scale!r}.")
        self.denoiser = denoiser
        self.scale = float(scale)
        self.null = dict(null or {})
        self.keep = tuple(keep)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        for name, value in condition.items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"ClassifierFree expects the condition {name!r} as a tensor with a value for each sample, got "
                    f"{type(value).__name__}. Give torch.full((len(x),), value)."
                )
        dropped = set(condition) - set(self.keep)
        if not dropped and self.scale != 1:
            raise ValueError(
                f"ClassifierFree with scale {self.scale} needs a condition to drop, got the fields {sorted(condition)} "
                f"with keep={list(self.keep)}. Pass the condition, or use the denoiser without guidance."
            )
        if self.scale == 1:
            return self.denoiser(x, sigma, **condition)
        unconditional = self.denoiser(x, sigma, **{n: self._null(n, v) for n, v in condition.items()})
        if self.scale == 0:
            return unconditional
        return unconditional + self.scale * (self.denoiser(x, sigma, **condition) - unconditional)

    def _null(self, name: str, value: Tensor) -> Tensor:
        if name in self.keep:
            return value
        if name in self.null:
            return self.null[name].to(value.device).expand_as(value)
        return torch.full_like(value, missing_mark(value))


class Autoguidance(nn.Module):
    r"""Guidance by a weaker version of the same model: :math:`D_v + w (D - D_v)`.

    Args:
        denoiser: the good denoiser D.
        weaker: D_v, an earlier checkpoint or a smaller network, for the same data and condition.
        scale: w; 1 is D alone.

    Source: Karras et al. 2024, arXiv:2406.02507.
    """

    def __init__(self, denoiser: nn.Module, weaker: nn.Module, scale: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.weaker = weaker
        self.scale = float(scale)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        good = self.denoiser(x, sigma, **condition)
        if self.scale == 1:
            return good
        weak = self.weaker(x, sigma, **condition)
        return weak + self.scale * (good - weak)


class GuidanceInterval(nn.Module):
    """A guided denoiser at noise levels in (low, high], and the plain denoiser at the others.

    Args:
        guided: the denoiser inside the interval, such as a :class:`ClassifierFree`.
        plain: the denoiser outside, such as the ``denoiser`` of ``guided``.
        low, high: noise levels, in units of the normalised data.
    Raises:
        ValueError: unless 0 <= low < high.

    Source: Kynkäänniemi et al. 2024, arXiv:2404.07724.
    """

    def __init__(self, guided: nn.Module, plain: nn.Module, low: float = 0.0, high: float = math.inf) -> None:
        super().__init__()
        if not 0 <= low < high:
            raise ValueError(f"GuidanceInterval needs 0 <= low < high, got {low} and {high}.")
        self.guided, self.plain, self.low, self.high = guided, plain, float(low), float(high)

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        sigma = per_sample_sigma(x, sigma)
        inside = (sigma > self.low) & (sigma <= self.high)
        if bool(inside.all()):
            return self.guided(x, sigma, **condition)
        if not bool(inside.any()):
            return self.plain(x, sigma, **condition)
        guided, plain = self.guided(x, sigma, **condition), self.plain(x, sigma, **condition)
        return torch.where(per_sample(inside, x), guided, plain)
