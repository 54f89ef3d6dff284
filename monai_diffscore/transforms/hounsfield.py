r"""Computed tomography in Hounsfield units: checks the unit, replaces padding, and maps a window to [-1, 1].

Hounsfield units are :math:`1000\,(\mu - \mu_{water})/\mu_{water}` of the attenuation :math:`\mu`: air -1000, water 0. A
window of width W about level L is the range [L - W/2, L + W/2]. Apply :class:`HounsfieldUnits` and
:class:`ReplacePadding` to the whole volume **before** resampling, which mixes padding into the anatomy, and
:class:`WindowHU` last.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.intensity import (
    IntensityTransform,
    IntensityTransformd,
    WindowIntensity,
    refuse_modality,
    source_of,
)

_OHIF = "OHIF Viewers, extensions/cornerstone/src/customizations/windowLevelPresetsCustomization.ts"
_SLICER = "3D Slicer, Modules/Loadable/Volumes/Resources/VolumeDisplayPresets.json"

#: name to ((low, high) in HU, source). Sources differ: each name is one source's choice, not a standard.
WINDOWS_HU: dict[str, tuple[tuple[float, float], str]] = {
    "ct": ((-1000.0, 1000.0), "ours: from air to dense bone, all soft tissue within"),
    "ct_wide": ((-1024.0, 3071.0), "the range of 12 bits with intercept -1024"),
    "soft_tissue": ((-160.0, 240.0), f"W 400 L 40: {_OHIF}"),
    "lung": ((-1350.0, 150.0), f"W 1500 L -600: {_OHIF}"),
    "liver": ((15.0, 165.0), f"W 150 L 90: {_OHIF}"),
    "bone": ((-770.0, 1730.0), f"W 2500 L 480: {_OHIF}"),
    "brain": ((0.0, 80.0), f"W 80 L 40: {_OHIF}"),
    "abdomen": ((-135.0, 215.0), f"W 350 L 40: {_SLICER}"),
}

#: by the definition of the unit
AIR_HU, WATER_HU = -1000.0, 0.0
#: air and lung are below, tissue is above
BODY_HU = -500.0


def window_range(window_hu: str | Sequence[float]) -> tuple[float, float]:
    """(low, high) in HU of a name in ``WINDOWS_HU``, or of a pair.

    Raises:
        ValueError: for an unknown name, and unless low < high.
    """
    if isinstance(window_hu, str):
        if window_hu not in WINDOWS_HU:
            raise ValueError(
                f"window_hu is a pair (low, high) in HU or one of {sorted(WINDOWS_HU)}, got {window_hu!r}."
            )
        return WINDOWS_HU[window_hu][0]
    if len(window_hu) != 2 or not window_hu[0] < window_hu[1]:
        raise ValueError(f"window_hu is a pair low < high in HU, got {window_hu}.")
    return float(window_hu[0]), float(window_hu[1])


def is_body(image_hu: Tensor) -> Tensor:
    """True where CT is above :data:`BODY_HU`; the shape of ``image_hu``."""
    return image_hu > BODY_HU


class WindowHU(WindowIntensity):
    """Maps a window of Hounsfield units to [-1, 1]; the inverse is exact inside the window.

    Args:
        window_hu: (low, high), or a name in ``WINDOWS_HU``. Choose it wider than the window of a viewer: the model, and
            the user of its samples, lose all values outside.
        nan_policy: see :class:`~monai_diffscore.transforms.intensity.IntensityTransform`.
    Raises:
        ValueError: for an unknown name or an empty window.
        DataError: in the call, for an image whose metadata says MR.
    """

    def __init__(self, window_hu: str | Sequence[float] = (-1000.0, 1000.0), nan_policy: str = "raise") -> None:
        super().__init__(*window_range(window_hu), nan_policy)

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        refuse_modality(image, "MR", key, remedy=_MR_REMEDY)
        return super().measure(image, key)


class HounsfieldUnits(IntensityTransform):
    """Checks that the values of an image are Hounsfield units; some readers silently return stored values.

    A CT contains air at about -1000, or at least fat or noise below 0. A volume without a negative value most likely
    lacks its rescale intercept, and is 1024 HU too high.

    Args:
        assume_intercept: added to an image without a negative value, for files of stored values; usually -1024.
        allow_no_air: accept images without a negative value, such as crops of bone.
        nan_policy: see :class:`~monai_diffscore.transforms.intensity.IntensityTransform`.
    Raises:
        DataError: in the call, for an image without a negative value, unless an argument allows it; for an image with a
            negative value and ``assume_intercept``; and for MR.
    """

    def __init__(
        self, assume_intercept: float | None = None, allow_no_air: bool = False, nan_policy: str = "raise"
    ) -> None:
        super().__init__(nan_policy)
        self.assume_intercept, self.allow_no_air = assume_intercept, allow_no_air

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        refuse_modality(image, "MR", key, remedy=_MR_REMEDY)
        low, high = float(image.min()), float(image.max())
        stored = low >= 0
        if stored and self.assume_intercept is None and not self.allow_no_air:
            raise DataError(
                source_of(image),
                key=key,
                expected="Hounsfield units, in which air is about -1000",
                got=f"values from {low:g} to {high:g}",
                remedy="The rescale intercept is probably missing: convert the series again, or say "
                "--assume_intercept -1024; --allow_no_air True if the image truly holds nothing below 0 HU.",
            )
        if not stored and self.assume_intercept is not None:
            raise DataError(
                source_of(image),
                key=key,
                expected="stored values, none below 0, because assume_intercept is set",
                got=f"values from {low:g} to {high:g}",
                remedy="These are Hounsfield units already: leave out --assume_intercept for them.",
            )
        return {"intercept": float(self.assume_intercept or 0.0)}

    def apply(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        return image + record["intercept"]

    def restore(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        return image - record["intercept"]


class ReplacePadding(IntensityTransform):
    """Replaces padding outside the scanner's field of view (-2000, -3024 and the like) by air.

    The inverse keeps the air, because a generated image has no field of view. ``meta["padding_voxels"]`` is the number
    of replaced voxels; :meth:`field_of_view` is the mask of the others, for a weight of the loss.

    Args:
        at_or_below: largest value of padding, in HU; no tissue is this low.
        value: value that replaces padding, in HU.
        nan_policy: see :class:`~monai_diffscore.transforms.intensity.IntensityTransform`.
    Raises:
        ValueError: unless at_or_below < value.
        DataError: in the call, for an image of only padding.
    """

    def __init__(self, at_or_below: float = -1500.0, value: float = AIR_HU, nan_policy: str = "raise") -> None:
        super().__init__(nan_policy)
        if not at_or_below < value:
            raise ValueError(f"ReplacePadding needs at_or_below < value, got {at_or_below} and {value}.")
        self.at_or_below, self.value = float(at_or_below), float(value)

    def field_of_view(self, image: torch.Tensor) -> torch.Tensor:
        """The mask of voxels that are no padding, of the image's shape."""
        values: torch.Tensor = convert_to_tensor(image, track_meta=False)
        return values > self.at_or_below

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        padding = image.numel() - int(self.field_of_view(image).sum())
        if padding == image.numel():
            raise DataError(
                source_of(image),
                key=key,
                expected=f"values above {self.at_or_below:g} HU inside the field of view",
                got=f"none in {padding} voxels",
                remedy="Remove the image: it shows nothing.",
            )
        return {"padding_voxels": padding}

    def apply(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        replaced = torch.where(self.field_of_view(image), image, self.value)
        if isinstance(replaced, MetaTensor):
            replaced.meta["padding_voxels"] = record["padding_voxels"]
        return replaced

    def restore(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        return image


_MR_REMEDY = "MR intensities have no fixed unit: use PercentileScale, ForegroundZScore or NyulStandardize."


class WindowHUd(IntensityTransformd):
    """Dictionary form of :class:`WindowHU`."""

    def __init__(
        self,
        keys: KeysCollection,
        window_hu: str | Sequence[float] = (-1000.0, 1000.0),
        nan_policy: str = "raise",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, WindowHU(window_hu, nan_policy), allow_missing_keys)


class HounsfieldUnitsd(IntensityTransformd):
    """Dictionary form of :class:`HounsfieldUnits`."""

    def __init__(
        self,
        keys: KeysCollection,
        assume_intercept: float | None = None,
        allow_no_air: bool = False,
        nan_policy: str = "raise",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, HounsfieldUnits(assume_intercept, allow_no_air, nan_policy), allow_missing_keys)


class ReplacePaddingd(IntensityTransformd):
    """Dictionary form of :class:`ReplacePadding`.

    Args:
        mask_key: key for the field of view, a float mask [C, *S] with the geometry of the image; None adds none.
    """

    transform: ReplacePadding

    def __init__(
        self,
        keys: KeysCollection,
        at_or_below: float = -1500.0,
        value: float = AIR_HU,
        mask_key: str | None = None,
        nan_policy: str = "raise",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, ReplacePadding(at_or_below, value, nan_policy), allow_missing_keys)
        self.mask_key = mask_key
        if mask_key is not None and len(self.keys) != 1:
            raise ValueError(f"A mask_key needs exactly one key, got {self.keys} and {mask_key!r}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        replaced = super().__call__(data)
        if self.mask_key is not None:
            image = data[self.keys[0]]
            mask = self.transform.field_of_view(image).float()
            replaced[self.mask_key] = MetaTensor(mask, affine=getattr(image, "affine", None))
        return replaced
