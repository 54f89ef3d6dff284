r"""Normal scores: maps values to those of a standard normal variable at the same rank, and back.

.. math::  z = \Phi^{-1}\!\Bigl(\frac{(n - 1)\,\ell + 1/2}{n}\Bigr), \qquad \ell = F(x) \in [0, 1],

with F the empirical distribution of n training rows, linear between its quantiles, so that n values get the scores of n
normal draws. Beyond the range of the training rows z continues linearly: a standard deviation of the values is 1 in z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TransformBackends, convert_to_tensor
from scipy.special import ndtr, ndtri
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.dictionary import RecordingDictionary


def score_of_level(level: Any, rows: int) -> Any:
    r"""z of levels :math:`\ell` in [0, 1] of n = ``rows`` training rows."""
    return ndtri((np.asarray(level) * (rows - 1) + 0.5) / rows)


def level_of_score(score: Any, rows: int) -> Any:
    r"""The inverse, :math:`\ell` of z; 0 and 1 beyond the scores of the ends."""
    return np.clip((ndtr(score) * rows - 0.5) / (rows - 1), 0, 1)


@dataclass(frozen=True)
class GeneQuantiles:
    """Evenly spaced quantiles [Q, G] of each gene in the training rows, each a value of a row; their standard deviation
    [G]; and the number of the rows."""

    quantiles: np.ndarray
    std: np.ndarray
    rows: int

    def as_dict(self) -> dict[str, Any]:
        """The arguments of :class:`NormalScores`, for JSON; nine digits are exact for float32."""
        return {
            "quantiles": [[float(f"{value:.9g}") for value in level] for level in self.quantiles],
            "std": [float(f"{value:.9g}") for value in self.std],
            "rows": self.rows,
        }


def measure_quantiles(rows: Any, most: int = 100) -> GeneQuantiles:
    """Measures at most ``most`` quantiles of training rows [N, G], in float32 like the rows: so a value equals its own
    quantile.

    Raises:
        DataError: for fewer than two rows, or a value that is not finite.
    """
    values = np.asarray(rows, dtype=np.float32).astype(np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise DataError(
            "the training rows", expected="at least two, all finite", got=f"{len(values)} rows, "
            f"{int((~np.isfinite(values)).sum())} values of them not finite", remedy="Give more rows, without NaN.",
        )  # fmt: skip
    levels = np.linspace(0, 1, min(most, len(values)))
    return GeneQuantiles(np.quantile(values, levels, axis=0, method="nearest"), values.std(0), len(values))


class NormalScores(InvertibleTransform):
    """Maps x [..., G] to normal scores gene by gene, and back.

    A value of several training rows gets the middle of their levels. A constant gene has score 0. The inverse restores
    both.

    Args:
        quantiles, std, rows: of :func:`measure_quantiles`: [Q, G], [G] and a number.
    Raises:
        ValueError: for sizes that do not fit, here and in the call, or quantiles that fall.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(self, quantiles: Sequence[Any], std: Sequence[float], rows: int) -> None:
        nodes = torch.as_tensor(np.asarray(quantiles, dtype=np.float32)).double()
        self.std, self.rows = torch.as_tensor(np.asarray(std, dtype=np.float64)), int(rows)
        if (
            nodes.ndim != 2
            or len(nodes) < 2
            or nodes.shape[1:] != self.std.shape
            or bool((nodes.diff(dim=0) < 0).any())
        ):
            raise ValueError(
                f"NormalScores needs two or more rising quantiles of each gene [Q, G] and a std [G], got "
                f"{tuple(nodes.shape)} and {tuple(self.std.shape)}."
            )
        self.nodes = nodes.T.contiguous()  # [G, Q], the layout of searchsorted
        self.end = float(score_of_level(1.0, self.rows))

    def __call__(self, image: Any) -> Tensor:
        x: Tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        values = self._columns(x)
        # the first and the last of the levels of a value with ties
        below = self._level(values, right=False)
        above = self._level(values, right=True)
        beyond = (values - values.clamp(self.nodes[:, :1], self.nodes[:, -1:])) / self.std.clamp_min(1e-300)[:, None]
        score = torch.as_tensor(score_of_level((below + above) / 2, self.rows))
        constant = (self.std == 0)[:, None]
        mapped = torch.where(constant, 0.0, score + beyond).T.reshape(x.shape).to(x.device, torch.float32)
        if isinstance(x, MetaTensor):
            mapped = MetaTensor(mapped, meta=x.meta, applied_operations=x.applied_operations)
            self.push_transform(mapped)
        return mapped

    def inverse(self, image: Tensor) -> Tensor:
        """x; removes the record of a ``MetaTensor``."""
        score = self._columns(image)
        if isinstance(image, MetaTensor):
            self.pop_transform(image)
        last = self.nodes.shape[1] - 1
        place = torch.as_tensor(level_of_score(score, self.rows)) * last
        lower = place.floor().long().clamp(0, last - 1)
        low, high = self.nodes.gather(1, lower), self.nodes.gather(1, lower + 1)
        beyond = (score - score.clamp(-self.end, self.end)) * self.std[:, None]
        values = low + (place - lower) * (high - low) + beyond
        plain: Tensor = values.T.reshape(image.shape).to(image.device, torch.float32)
        if isinstance(image, MetaTensor):  # with the record of the steps before
            return MetaTensor(plain, meta=image.meta, applied_operations=image.applied_operations)
        return plain

    def _level(self, values: Tensor, right: bool) -> Tensor:
        """Levels [G, N] of values, linear between the quantiles."""
        last = self.nodes.shape[1] - 1
        upper = torch.searchsorted(self.nodes, values, right=right).clamp(1, last)
        low, high = self.nodes.gather(1, upper - 1), self.nodes.gather(1, upper)
        step = high - low
        # at a step of F (high = low): its upper end from the right, its lower end from the left
        share = torch.where(step > 0, (values - low) / step.clamp_min(1e-300), float(right))
        level = (upper - 1 + share) / last
        return torch.where(values < self.nodes[:, :1], 0.0, torch.where(values > self.nodes[:, -1:], 1.0, level))

    def _columns(self, x: Tensor) -> Tensor:
        if x.shape[-1] != len(self.nodes):
            raise ValueError(f"NormalScores has {len(self.nodes)} genes, got an input of shape {tuple(x.shape)}.")
        plain = convert_to_tensor(x, track_meta=False).detach().cpu().double()
        return plain.reshape(-1, len(self.nodes)).T.contiguous()


class NormalScoresd(RecordingDictionary):
    """Dictionary form of :class:`NormalScores`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **quantiles: Any) -> None:
        super().__init__(keys, NormalScores(**quantiles), allow_missing_keys)
