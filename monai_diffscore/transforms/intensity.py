r"""Maps intensities of radiological images to [-1, 1] and back.

A transform **measures** an image, applies a map that only its measurement defines, and **records** the measurement in
the ``MetaTensor``. ``Invertd`` therefore restores the units of a generated or restored image, in another process,
without the first image: ``inverse(forward(x)) == clip(x)``. (MONAI's own intensity transforms are not invertible.)

The maps of this module are affine on a range [low, high] after clipping,

.. math::  y = 2\,\frac{\mathrm{clip}(x, low, high) - low}{high - low} - 1,
           \qquad x = low + (y + 1)(high - low)/2,

and differ in the source of the range:

=========================  =========================================  ======================================
transform                  range                                      for
=========================  =========================================  ======================================
:class:`WindowIntensity`   fixed                                      intensities in a physical unit
:class:`PercentileScale`   two percentiles of the image               MR, arbitrary units
:class:`ForegroundZScore`  mean -/+ ``limit`` standard deviations     MR, compared across scanners
=========================  =========================================  ======================================

The output never leaves [-1, 1]. Samples of a model may leave it slightly: the inverse clips them to [-1, 1] and records
the share in ``meta["clipped_share"]``. A **generated** image has no measurement of its own: a :class:`WindowIntensity`
gives it the cohort's range, the medians of the records (:func:`~monai_diffscore.data.patches.measure_statistics`).

All transforms compute in float32, so that integers neither overflow nor round.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TransformBackends, convert_to_tensor

from monai_diffscore.errors import DataError
from monai_diffscore.tensors import per_channel
from monai_diffscore.transforms.dictionary import InvertibleDictionary

NAN_POLICIES = ("raise", "fill")


class IntensityTransform(InvertibleTransform):
    """A map of intensities that a record defines; subclasses implement :meth:`measure`, :meth:`apply`, :meth:`restore`.

    Args:
        nan_policy: "raise" refuses NaN and infinity; "fill" replaces NaN and -inf by the smallest finite value of the
            image, +inf by the largest, and records their number in ``meta["filled_voxels"]``.
    Raises:
        ValueError: for another policy.
        DataError: in the call, for NaN or infinity with "raise", and for an image without a finite value.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(self, nan_policy: str = "raise") -> None:
        if nan_policy not in NAN_POLICIES:
            raise ValueError(f"nan_policy is one of {NAN_POLICIES}, got {nan_policy!r}.")
        self.nan_policy = nan_policy

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        """The record that defines the map of this image; ``key`` is for messages."""
        raise NotImplementedError

    def apply(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        """The image after the map of the record."""
        raise NotImplementedError

    def restore(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        """The inverse of :meth:`apply`."""
        raise NotImplementedError

    def __call__(self, image: Any, key: str = "image") -> torch.Tensor:
        values = self._finite(image, key)
        record = self.measure(values, key)
        mapped = self.apply(values, record)
        self.push_transform(mapped, extra_info=record)
        return mapped

    def inverse(self, image: torch.Tensor) -> torch.Tensor:
        """The image before the map, except for clipped values; removes the record."""
        return self.restore(image, self.pop_transform(image)["extra_info"])

    def _finite(self, image: Any, key: str) -> torch.Tensor:
        values: torch.Tensor = convert_to_tensor(image, dtype=torch.float32, track_meta=True)
        if not values.numel():
            raise DataError(
                source_of(values), key=key, expected="an image with a foreground", got=f"{tuple(values.shape)} voxels",
                remedy="No voxel is above the background (0 for MR, -500 HU for CT). Shift the intensities, or take "
                "the file out of the folder.",
            )  # fmt: skip
        finite = torch.isfinite(values)
        bad = values.numel() - int(finite.sum())
        if not bad:
            return values
        if self.nan_policy == "raise" or bad == values.numel():
            raise DataError(
                source_of(values),
                key=key,
                expected="finite intensities",
                got=f"{bad} of {values.numel()} voxels NaN or infinite in float32",
                remedy='Mask or fill these voxels first, or give nan_policy="fill".',
            )
        low, high = float(values[finite].min()), float(values[finite].max())
        filled = torch.nan_to_num(values, nan=low, posinf=high, neginf=low)
        if isinstance(filled, MetaTensor):
            filled.meta["filled_voxels"] = bad
        return filled


def source_of(image: Any) -> str:
    """The file of an image, for messages."""
    return str(getattr(image, "meta", {}).get("filename_or_obj", "an image"))


def refuse_modality(image: Any, modality: str, key: str, *, remedy: str) -> None:
    """Raises a DataError if the metadata of an image states this ``modality`` ("CT", "MR")."""
    if str(getattr(image, "meta", {}).get("modality", "")).upper() == modality:
        raise DataError(
            source_of(image), key=key, expected=f"another modality than {modality}", got=modality, remedy=remedy
        )


class RangeScale(IntensityTransform):
    """The affine map of a range, and its inverse; subclasses measure the range."""

    def apply(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        low, high = (_each(record[name], image) for name in ("low", "high"))
        # a second clip, because rounding of the product may leave the interval
        return ((image.clip(low, high) - low) * (2 / (high - low)) - 1).clip(-1, 1)

    def restore(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        low, high = (_each(record[name], image) for name in ("low", "high"))
        return clipped_to_unit(image, low + (image.clip(-1, 1) + 1) * ((high - low) / 2))


def _each(limit: Any, image: torch.Tensor) -> Any:
    """A limit of an image [C, *S]: a number for all channels, or a tensor [C, 1, ...] of one for each channel."""
    if not isinstance(limit, Sequence):
        return limit
    return per_channel(torch.as_tensor(limit, dtype=torch.float32, device=image.device), image)


def clipped_to_unit(image: torch.Tensor, restored: torch.Tensor) -> torch.Tensor:
    """``restored``, with the share of the voxels of ``image`` outside [-1, 1] in its metadata."""
    if isinstance(restored, MetaTensor):
        restored.meta["clipped_share"] = float((image.abs() > 1).float().mean())
    return restored


class WindowIntensity(RangeScale):
    """Maps a fixed range [low, high] to [-1, 1]. For images in a physical unit, and for synthetic ones.

    Args:
        low, high: the range, in the unit of the image; lists give each channel its own.
        nan_policy: see :class:`IntensityTransform`.
    Raises:
        ValueError: unless low < high.
    """

    def __init__(self, low: float | Sequence[float], high: float | Sequence[float], nan_policy: str = "raise") -> None:
        super().__init__(nan_policy)
        lows, highs = ([float(v) for v in (limit if isinstance(limit, Sequence) else [limit])] for limit in (low, high))
        if len(lows) != len(highs) or not all(below < above for below, above in zip(lows, highs, strict=True)):
            raise ValueError(f"{type(self).__name__} needs low < high, got {low} and {high}.")
        self.low, self.high = (v if isinstance(low, Sequence) else v[0] for v in (lows, highs))

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        if isinstance(self.low, list) and len(self.low) != len(image):
            raise DataError(
                source_of(image),
                key=key,
                expected=f"{len(self.low)} channels, each with a range of its own",
                got=f"{len(image)}",
                remedy="Give one range for each channel, or one for all.",
            )
        return {"low": self.low, "high": self.high}


class PercentileScale(RangeScale):
    """Maps the range between two percentiles of the image to [-1, 1]. For MR, whose unit is arbitrary.

    Args:
        lower, upper: percentiles, 0 to 100, over all voxels: crop the air first.
        nan_policy: see :class:`IntensityTransform`.
        allow_ct: accept CT, whose unit a range for each image destroys.
        channel_wise: measure the percentiles of each channel, for MR sequences of separate acquisitions.
    Raises:
        ValueError: unless 0 <= lower < upper <= 100.
        DataError: in the call, for equal percentiles (nearly all voxels have one value), and for CT.
    """

    def __init__(
        self,
        lower: float = 0.5,
        upper: float = 99.5,
        nan_policy: str = "raise",
        allow_ct: bool = False,
        channel_wise: bool = False,
    ) -> None:
        super().__init__(nan_policy)
        if not 0 <= lower < upper <= 100:
            raise ValueError(f"PercentileScale needs 0 <= lower < upper <= 100, got {lower} and {upper}.")
        self.lower, self.upper, self.allow_ct, self.channel_wise = lower, upper, allow_ct, channel_wise

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        if not self.allow_ct:
            refuse_modality(image, "CT", key, remedy=_CT_REMEDY)
        if not self.channel_wise:
            low, high = self._range(image, key)
            return {"low": low, "high": high}
        ranges = [self._range(image[channel : channel + 1], f"{key}[{channel}]") for channel in range(len(image))]
        return {"low": [low for low, _ in ranges], "high": [high for _, high in ranges]}

    def _range(self, image: torch.Tensor, key: str) -> tuple[float, float]:
        low, high = percentiles_of(image, (self.lower, self.upper))
        if not low < high:
            raise DataError(
                source_of(image),
                key=key,
                expected=f"different percentiles {self.lower} and {self.upper}",
                got=f"{low:g} for both",
                remedy="The image is nearly constant: remove it, or crop its foreground first.",
            )
        return low, high


class ForegroundZScore(RangeScale):
    r"""Maps mean :math:`\mu` and standard deviation s of the foreground to 0 and 1/``limit``, clipped to [-1, 1].

    A z-score has no bounds, but diffusion on [-1, 1] needs them: the range is :math:`\mu \pm limit \cdot s`. The
    transform clips values beyond it, and records their share in ``meta["clipped_share_forward"]``.

    Args:
        foreground_above: voxels above this value are foreground (0: brain-extracted images, as in MONAI's ``nonzero``).
        limit: half the range, in standard deviations.
        nan_policy: see :class:`IntensityTransform`.
        allow_ct: see :class:`PercentileScale`.
    Raises:
        ValueError: unless limit > 0.
        DataError: in the call, for an empty or constant foreground, and for CT.
    """

    def __init__(
        self,
        foreground_above: float = 0.0,
        limit: float = 4.0,
        nan_policy: str = "raise",
        allow_ct: bool = False,
    ) -> None:
        super().__init__(nan_policy)
        if limit <= 0:
            raise ValueError(f"ForegroundZScore needs limit > 0, got {limit}.")
        self.foreground_above, self.limit, self.allow_ct = foreground_above, limit, allow_ct

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        if not self.allow_ct:
            refuse_modality(image, "CT", key, remedy=_CT_REMEDY)
        values = torch.as_tensor(image)
        foreground = values[values > self.foreground_above].double()
        mean = float(foreground.mean()) if len(foreground) else 0.0
        std = float(foreground.std(correction=0)) if len(foreground) else 0.0
        low, high = mean - self.limit * std, mean + self.limit * std
        if not np.float32(low) < np.float32(high):
            raise DataError(
                source_of(image),
                key=key,
                expected=f"a foreground (voxels above {self.foreground_above:g}) with contrast",
                got=f"{len(foreground)} of {values.numel()} voxels, standard deviation {std:g}",
                remedy="Choose foreground_above for this data, or remove the image.",
            )
        return {"low": low, "high": high, "mean": mean, "std": std}

    def apply(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        scaled = super().apply(image, record)
        if isinstance(scaled, MetaTensor):
            outside = (image < record["low"]) | (image > record["high"])
            scaled.meta["clipped_share_forward"] = float(outside.float().mean())
        return scaled


_CT_REMEDY = "Use WindowHU, which keeps Hounsfield units, or set allow_ct=True to lose them."


def percentiles_of(image: torch.Tensor, percentiles: Any) -> list[float]:
    """Percentiles (0 to 100) of all elements, linearly interpolated."""
    # numpy: torch.quantile refuses more than 16 million elements
    values = torch.as_tensor(image).detach().cpu().numpy()
    return [float(value) for value in np.percentile(values, percentiles)]


class IntensityTransformd(InvertibleDictionary):
    """The dictionary form of an :class:`IntensityTransform`; its errors name the key."""

    def __init__(self, keys: KeysCollection, transform: IntensityTransform, allow_missing_keys: bool) -> None:
        super().__init__(keys, transform, allow_missing_keys)

    def call(self, image: torch.Tensor, key: Hashable, data: Mapping[Hashable, Any]) -> torch.Tensor:
        return self.transform(image, str(key))


class WindowIntensityd(IntensityTransformd):
    """Dictionary form of :class:`WindowIntensity`."""

    def __init__(
        self,
        keys: KeysCollection,
        low: float | Sequence[float],
        high: float | Sequence[float],
        nan_policy: str = "raise",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, WindowIntensity(low, high, nan_policy), allow_missing_keys)


class PercentileScaled(IntensityTransformd):
    """Dictionary form of :class:`PercentileScale`."""

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 0.5,
        upper: float = 99.5,
        nan_policy: str = "raise",
        allow_ct: bool = False,
        allow_missing_keys: bool = False,
        channel_wise: bool = False,
    ) -> None:
        scale = PercentileScale(lower, upper, nan_policy, allow_ct, channel_wise)
        super().__init__(keys, scale, allow_missing_keys)


class ForegroundZScored(IntensityTransformd):
    """Dictionary form of :class:`ForegroundZScore`."""

    def __init__(
        self,
        keys: KeysCollection,
        foreground_above: float = 0.0,
        limit: float = 4.0,
        nan_policy: str = "raise",
        allow_ct: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, ForegroundZScore(foreground_above, limit, nan_policy, allow_ct), allow_missing_keys)
