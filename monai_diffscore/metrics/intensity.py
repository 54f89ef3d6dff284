r"""Distance of two intensity histograms, in the unit of the data.

.. math::  m = \frac{s}{Q} \sum_{q=1}^{Q} \big| F^{-1}(\tfrac{q - 1/2}{Q}) - F'^{-1}(\tfrac{q - 1/2}{Q}) \big|,

the mean absolute difference of Q quantiles of all voxels, which is the one-dimensional Wasserstein distance: a shift of
all voxels by 50 HU gives 50. s converts normalised units to the data's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_diffscore.metrics.image_metric import ImageMetric


def quantiles(values: Tensor, count: int = 512) -> Tensor:
    """Quantiles (q - 1/2)/count along the last axis, [..., count], with linear interpolation."""
    ordered = values.float().sort(dim=-1).values
    places = ((torch.arange(count) + 0.5) / count * ordered.shape[-1] - 0.5).clamp(0, ordered.shape[-1] - 1)
    below = places.floor().long().to(ordered.device)
    above = (below + 1).clamp(max=ordered.shape[-1] - 1)
    return torch.lerp(ordered[..., below], ordered[..., above], (places.to(ordered.device) - below))


class IntensityDistance(ImageMetric):
    """Mean absolute difference of the pooled quantiles, in the unit of the data.

    Args:
        scale: data units in a normalised unit, (high - low)/2.
        unit: name of the data's unit, such as "HU".
        count: quantiles.
    """

    name = "intensity"
    title = "Intensity histogram"
    sees = "A shift or stretch of the intensities, missing or invented tissue, values that pile up at the limits."
    blind_to = (
        "All structure: the voxels of an image may change places at will. Blur nearly so; copies, which it rewards."
    )

    def __init__(self, scale: float = 1.0, unit: str = "normalised", count: int = 512) -> None:
        self.scale, self.unit, self.count = scale, unit, count

    def describe(self, images: Tensor) -> Tensor:
        return quantiles(images.flatten(1), self.count)

    def compare(self, rows: Tensor, reference: Tensor) -> float:
        ours, theirs = (quantiles(part.flatten(), self.count) for part in (rows, reference))
        return self.scale * float((ours - theirs).abs().mean())
