"""The dictionary form of an invertible transform, written once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TransformBackends
from torch import Tensor


def recording(image: Any) -> MetaTensor:
    """The image as a ``MetaTensor``, which records the arguments of the inverse of a transform."""
    return image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))


class InvertibleDictionary(MapTransform, InvertibleTransform):
    """Applies ``transform`` to each key, and its ``inverse`` in the inverse; subclasses name the arguments."""

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(self, keys: KeysCollection, transform: Any, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = transform

    def call(self, image: Tensor, key: Hashable, data: Mapping[Hashable, Any]) -> Tensor:
        """The transform of one entry; it may need its key, or other entries."""
        return self.transform(image)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.call(d[key], key, d)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform.inverse(d[key])
        return d


class RecordingDictionary(InvertibleDictionary):
    """An :class:`InvertibleDictionary` that always records the arguments of the inverse, for any type of input."""

    def call(self, image: Tensor, key: Hashable, data: Mapping[Hashable, Any]) -> Tensor:
        return self.transform(recording(image))
