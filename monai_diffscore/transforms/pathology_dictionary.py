"""The dictionary forms of :mod:`monai_diffscore.transforms.pathology`; they look stains up by the tile's slide."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.dictionary import InvertibleDictionary
from monai_diffscore.transforms.pathology import (
    NormalizeReinhard,
    NormalizeStains,
    RandJitterStains,
    ScaleRGB,
    ToRGB,
)
from monai_diffscore.transforms.pathology_stains import LabStatistics, Stains

_BACKEND = [TransformBackends.TORCH]


class ToRGBd(MapTransform):
    """Dictionary form of :class:`ToRGB`."""

    backend = _BACKEND

    def __init__(
        self,
        keys: KeysCollection,
        value_range: tuple[float, float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = ToRGB(value_range)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key])
        return d


class ScaleRGBd(InvertibleDictionary):
    """Dictionary form of :class:`ScaleRGB`."""

    def __init__(self, keys: KeysCollection, allow_nan: bool = False, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, ScaleRGB(allow_nan), allow_missing_keys)


class _OfSlide(InvertibleDictionary):
    """A transform that needs the record of the tile's slide: ``records[data[slide_key]]``."""

    def __init__(
        self,
        keys: KeysCollection,
        transform: Any,
        records: Mapping[str, Stains | LabStatistics],
        slide_key: str,
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(keys, transform, allow_missing_keys)
        self.records, self.slide_key = records, slide_key

    def record(self, data: Mapping[Hashable, Any]) -> Any:
        """The record of the tile's slide."""
        slide = data.get(self.slide_key)
        if slide not in self.records:
            raise DataError(
                slide,
                key=self.slide_key,
                expected=f"a slide with fitted stains, one of {len(self.records)}",
                got="none of them",
                remedy="Fit its stains: fit_slides(cases).",
            )
        return self.records[str(slide)]

    def call(self, image: Tensor, key: Hashable, data: Mapping[Hashable, Any]) -> Tensor:
        return self.transform(image, self.record(data))


class NormalizeStainsd(_OfSlide):
    """Dictionary form of :class:`NormalizeStains`.

    Args:
        keys: of tiles.
        target: stains of the result.
        records: stains of each slide, from ``fit_slides``.
        slide_key: key of the tile's slide.
        allow_nan: let NaN pass.
    """

    def __init__(
        self,
        keys: KeysCollection,
        target: Stains,
        records: Mapping[str, Stains],
        slide_key: str = "slide",
        allow_nan: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, NormalizeStains(target, allow_nan=allow_nan), records, slide_key, allow_missing_keys)


class NormalizeReinhardd(_OfSlide):
    """Dictionary form of :class:`NormalizeReinhard`; arguments as :class:`NormalizeStainsd`."""

    def __init__(
        self,
        keys: KeysCollection,
        target: LabStatistics,
        records: Mapping[str, LabStatistics],
        slide_key: str = "slide",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, NormalizeReinhard(target), records, slide_key, allow_missing_keys)


class RandJitterStainsd(_OfSlide, RandomizableTransform):
    """Dictionary form of :class:`RandJitterStains`; jitters all keys of an item alike.

    Args:
        keys: of tiles, such as ``["image", "context"]``.
        records: stains of each slide, from ``fit_slides``.
        scale_range, shift_range, prob: of :class:`RandJitterStains`.
        slide_key: key of the tile's slide.
        allow_nan: let NaN pass.
    """

    def __init__(
        self,
        keys: KeysCollection,
        records: Mapping[str, Stains],
        scale_range: float = 0.2,
        shift_range: float = 0.0,
        prob: float = 0.5,
        slide_key: str = "slide",
        allow_nan: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        jitter = RandJitterStains(None, scale_range, shift_range, prob, allow_nan)
        _OfSlide.__init__(self, keys, jitter, records, slide_key, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandJitterStainsd:
        super().set_random_state(seed, state)
        self.transform.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        self.transform.randomize()
        return super().__call__(data)

    def call(self, image: Tensor, key: Hashable, data: Mapping[Hashable, Any]) -> Tensor:
        return self.transform(image, self.record(data), randomize=False)
