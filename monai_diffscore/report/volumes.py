"""Real images for a report: volumes with their source and labels, and windows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.data import evenly_spaced
from monai_diffscore.errors import DataError


@dataclass(frozen=True)
class Volumes:
    """Volumes [C, *V], the label of each (-1: none), and the name of their source."""

    images: list[Tensor]
    labels: list[int]
    name: str

    def __len__(self) -> int:
        return len(self.images)

    def sliced(self, dims: int) -> Volumes:
        """The volumes, or their slices along the last axis if the samples, of ``dims`` axes, are slices."""
        if not self.images or self.images[0].ndim != dims + 2:
            return self
        parts = [part for image in self.images for part in image.unbind(-1)]
        labels = [label for image, label in zip(self.images, self.labels, strict=True) for _ in range(image.shape[-1])]
        return Volumes(parts, labels, self.name)

    def checked(self, size: tuple[int, ...], flag: str) -> Volumes:
        """The volumes, after a check of their sizes.

        Raises:
            DataError: if one is smaller than the samples [C, *S] or has other channels.
        """
        for image in self.images:
            fits = image.ndim == len(size) and image.shape[0] == size[0]
            if not fits or any(a < b for a, b in zip(image.shape[1:], size[1:], strict=True)):
                raise DataError(
                    self.name,
                    key=flag.lstrip("-"),
                    expected=f"images of {size[0]} channel(s) and at least {size[1:]} voxels, as the samples",
                    got=f"{tuple(image.shape)}",
                    remedy=f"Use larger images for {flag}, or smaller samples.",
                )
        return self

    def windows(self, size: Sequence[int], count: int, seed: int) -> tuple[Tensor, Tensor]:
        """:func:`random_windows`, and the label of the volume of each."""
        labels = torch.tensor([self.labels[number] for number in _sources(self.images, size, count)])
        return random_windows(self.images, size, count, seed), labels


def random_windows(volumes: Sequence[Tensor], size: Sequence[int], count: int, seed: int = 0) -> Tensor:
    """``count`` windows [count, C, *S] at random places, as many from each volume; whole images are not repeated."""
    random = np.random.default_rng(seed)
    windows = []
    for number in _sources(volumes, size, count):
        volume = volumes[number]
        starts = [int(random.integers(v - s + 1)) for v, s in zip(volume.shape[1:], size[1:], strict=True)]
        cut = tuple(slice(start, start + edge) for start, edge in zip(starts, size[1:], strict=True))
        windows.append(volume[(slice(None), *cut)])
    return torch.stack(windows)


def _sources(volumes: Sequence[Tensor], size: Sequence[int], count: int) -> list[int]:
    """For each window, the place of its volume in ``volumes``."""
    if all(tuple(volume.shape) == tuple(size) for volume in volumes):
        return evenly_spaced(range(len(volumes)), count)
    return [number % len(volumes) for number in range(count)]
