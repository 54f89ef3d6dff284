r"""Maps profiles to a few principal components, and back, for data with far more genes than samples.

.. math::  z_k = v_k^\top (x - m) / s_k, \qquad x = m + \sum_k s_k z_k v_k + r \odot \epsilon, \quad
           \epsilon \sim N(0, I),

with the axes :math:`v_k` and standard deviations :math:`s_k` of the training rows, and r the standard deviation of the
rest of each gene, which the components do not explain. The inverse draws the rest from its **distribution**, so that
every gene keeps its variance; it does not restore the rest of a measured row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TransformBackends, convert_to_tensor
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.dictionary import RecordingDictionary


@dataclass(frozen=True)
class Components:
    """Axes [K, G] (orthonormal), standard deviations [K], mean and rest [G] of the training rows."""

    axes: np.ndarray
    scales: np.ndarray
    mean: np.ndarray
    rest: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """The arguments of :class:`PrincipalComponents`, for JSON, to six digits."""
        return {
            name: np.vectorize(_rounded)(getattr(self, name)).tolist() for name in ("axes", "scales", "mean", "rest")
        }


def measure_components(rows: Any, count: int) -> Components:
    """Measures the first ``count`` principal components of training rows [N, G], without scaling of genes.

    Raises:
        DataError: unless 1 <= count <= N - 2 and the rows have rank ``count``, which few genes or subtracted group
            means may lower.
    """
    values = np.asarray(rows, dtype=np.float64)
    mean = values.mean(0)
    _, singular, axes = np.linalg.svd(values - mean, full_matrices=False)
    most = min(int((singular > 1e-6 * singular[0]).sum()), len(values) - 2)
    if not 1 <= count <= most:
        raise DataError(
            "the training rows", key="components", expected=f"1 to {most} components of {len(values)} rows",
            got=str(count), remedy="Ask for fewer components, or give more rows.",
        )  # fmt: skip
    axes = axes[:count]
    rest = values - mean - (values - mean) @ axes.T @ axes
    return Components(axes, singular[:count] / np.sqrt(len(values)), mean, rest.std(0))


class PrincipalComponents(InvertibleTransform):
    """Maps x [..., G] to z [..., K] and back.

    Args:
        axes, scales, mean, rest: of :func:`measure_components`.
        seed: of the rest that the inverse adds; the rest is a function of the seed and of z.
    Raises:
        ValueError: for sizes that do not fit, here and in the call.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(
        self, axes: Sequence[Any], scales: Sequence[float], mean: Sequence[float], rest: Sequence[float], seed: int = 0
    ) -> None:
        self.axes, self.scales, self.mean, self.rest = (
            torch.as_tensor(np.asarray(values), dtype=torch.float64) for values in (axes, scales, mean, rest)
        )
        self.seed = seed
        if self.axes.shape != (len(self.scales), len(self.mean)) or self.rest.shape != self.mean.shape:
            raise ValueError(
                f"PrincipalComponents needs axes [K, G], scales [K], mean and rest [G], got {tuple(self.axes.shape)}, "
                f"{len(self.scales)}, {len(self.mean)} and {len(self.rest)}."
            )

    def __call__(self, image: Any) -> Tensor:
        x: Tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        self._check(x, len(self.mean))
        mapped = (((x.double() - self.mean) @ self.axes.T) / self.scales).float()
        if isinstance(mapped, MetaTensor):
            self.push_transform(mapped)
        return mapped

    def inverse(self, image: Tensor) -> Tensor:
        """x with a random rest; removes the record of a ``MetaTensor``."""
        self._check(image, len(self.scales))
        if isinstance(image, MetaTensor):
            self.pop_transform(image)
        plain = convert_to_tensor(image, track_meta=False).detach().cpu()
        key = hashlib.sha256(plain.float().numpy().tobytes() + str(self.seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
        noise = torch.randn(*image.shape[:-1], len(self.mean), dtype=torch.float64, generator=generator)
        rows = (image.cpu().double() * self.scales) @ self.axes + self.mean + self.rest * noise
        return rows.float()

    def _check(self, x: Tensor, expected: int) -> None:
        if x.shape[-1] != expected:
            raise ValueError(
                f"PrincipalComponents has {len(self.mean)} genes and {len(self.scales)} components: expected "
                f"[..., {expected}], got {tuple(x.shape)}."
            )


class PrincipalComponentsd(RecordingDictionary):
    """Dictionary form of :class:`PrincipalComponents`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **components: Any) -> None:
        super().__init__(keys, PrincipalComponents(**components), allow_missing_keys)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
