r"""Intensities of radiological images to [-1, 1] and back.

Each transform is an affine map of a range [low, high] after clipping,

.. math::  y = 2\,\frac{\mathrm{clip}(x, low, high) - low}{high - low} - 1,
           \qquad x = low + (y + 1)(high - low)/2,

and **records** the range in the ``MetaTensor``, so that ``Invertd`` can give a generated or restored image its units
back: ``inverse(forward(x)) == clip(x)``. (MONAI's own intensity transforms are not invertible.)
The inverse clips to [-1, 1], which a model may leave slightly, and says so in ``meta["clipped_share"]``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TransformBackends

from monai_diffscore.data.problems import DataError


class _RangeToUnit(InvertibleTransform):
    """The affine map of a range, and its inverse; subclasses say where the range comes from."""

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def range_of(self, image: torch.Tensor) -> tuple[float, float]:
        raise NotImplementedError

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        low, high = self.range_of(image)
        scaled = (image.to(torch.float32).clip(low, high) - low) * (2 / (high - low)) - 1
        # the last bit of the float product may leave the interval
        scaled = scaled.clip(-1, 1)
        self.push_transform(scaled, extra_info={"low": low, "high": high})
        return scaled

    def inverse(self, image: torch.Tensor) -> torch.Tensor:
        """The image in its own units; clipped to the recorded range."""
        record = self.pop_transform(image)["extra_info"]
        low, high = record["low"], record["high"]
        restored = low + (image.clip(-1, 1) + 1) * ((high - low) / 2)
        if isinstance(restored, MetaTensor):
            restored.meta["clipped_share"] = float((image.abs() > 1).float().mean())
        return restored


class WindowIntensity(_RangeToUnit):
    """A fixed range [low, high] to [-1, 1]. For images whose unit means something, and for synthetic ones.

    Args:
        low, high: the range, in the unit of the image.
    Raises:
        ValueError: unless low < high.
    """

    def __init__(self, low: float, high: float) -> None:
        if not low < high:
            raise ValueError(f"WindowIntensity needs low < high, got {low} and {high}.")
        self.low, self.high = float(low), float(high)

    def range_of(self, image: torch.Tensor) -> tuple[float, float]:
        return self.low, self.high


class PercentileScale(_RangeToUnit):
    """The range between two percentiles of the image itself to [-1, 1]. For MR, whose unit is arbitrary.

    Args:
        lower, upper: percentiles, 0 to 100, over all voxels: crop the air away first.
    Raises:
        ValueError: unless 0 <= lower < upper <= 100.
        DataError: if both percentiles are equal: nearly all of the image is one value.
    """

    def __init__(self, lower: float = 0.5, upper: float = 99.5) -> None:
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"PercentileScale needs 0 <= lower < upper <= 100, got {lower} and {upper}.")
        self.lower, self.upper = lower, upper

    def range_of(self, image: torch.Tensor) -> tuple[float, float]:
        # numpy: torch.quantile refuses more than 16 million elements
        values = torch.as_tensor(image).detach().cpu().numpy()
        low, high = (float(p) for p in np.percentile(values, (self.lower, self.upper)))
        if not low < high:
            raise DataError(
                getattr(image, "meta", {}).get("filename_or_obj", "an image"),
                expected=f"different percentiles {self.lower} and {self.upper}",
                got=f"{low:g} for both" if low == high else "NaN",
                remedy="The image is nearly constant (or not finite): take it out, or crop its foreground first.",
            )
        return low, high


class _Dictionary(MapTransform, InvertibleTransform):
    """The dictionary form of one of the transforms above."""

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(self, keys: KeysCollection, transform: _RangeToUnit, allow_missing_keys: bool) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key])
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform.inverse(d[key])
        return d


class WindowIntensityd(_Dictionary):
    """Dictionary form of :class:`WindowIntensity`."""

    def __init__(self, keys: KeysCollection, low: float, high: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, WindowIntensity(low, high), allow_missing_keys)


class PercentileScaled(_Dictionary):
    """Dictionary form of :class:`PercentileScale`."""

    def __init__(
        self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, PercentileScale(lower, upper), allow_missing_keys)
