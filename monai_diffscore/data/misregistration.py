r"""The shift between two images of different contrast that should lie at one place.

World coordinates may be wrong: a patient moves between two series. Edges lie at the same places in all contrasts. The
shift s between two images is that of the largest correlation of their edges,

.. math::  \hat s = \arg\max_s \sum_i e_a(i)\, e_b(i + s), \qquad e = |\nabla x| - \overline{|\nabla x|} .

:func:`misregistration_mm` measures it in each octant of the volume, and takes the median of the lengths. Octants also
show a rotation, whose mean shift is zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_SHORT = 16  # voxels: an axis that is not halved
_ENERGY = 0.1  # of the edges of an octant, as a share of the largest: less is background


def misregistration_mm(image: Tensor, other: Tensor, spacing_mm: Sequence[float], largest_mm: float = 10.0) -> float:
    """The shift between two images of one grid in mm, in whole voxels of each axis: the formula of the module.

    Args:
        image, other: [*S], of any two contrasts; NaN is missing.
        spacing_mm: edges of a voxel.
        largest_mm: of the search along each axis.
    Returns:
        The median over the octants with edges of both images; NaN without such an octant.
    """
    halves = [_halves(size) for size in image.shape]
    edges = [_edges(image), _edges(other)]
    parts = [[edge[place] for edge in edges] for place in itertools.product(*halves)]
    energy = torch.tensor([[float(part.square().sum()) for part in pair] for pair in parts])
    enough = ((energy >= _ENERGY * energy.amax(0)) & (energy > 0)).all(1)
    shifts = [_length_mm(a, b, spacing_mm, largest_mm) for (a, b), use in zip(parts, enough, strict=True) if use]
    return float(np.median(shifts)) if shifts else math.nan


def _halves(size: int) -> list[slice]:
    return [slice(None)] if size < _SHORT else [slice(0, size // 2), slice(size // 2, size)]


def _edges(image: Tensor) -> Tensor:
    """The length of the gradient [*S], 0 beside a missing voxel: the border of a field of view is no edge."""
    axes = [axis for axis, size in enumerate(image.shape) if size > 1]
    gradients = torch.gradient(image.float(), dim=axes)
    return torch.stack(list(gradients)).square().sum(0).sqrt().nan_to_num(0.0)


def _length_mm(image: Tensor, other: Tensor, spacing_mm: Sequence[float], largest_mm: float) -> float:
    """The length in mm of the shift of largest correlation of two images of edges."""
    most = [min(int(largest_mm / step), size // 2) for step, size in zip(spacing_mm, image.shape, strict=True)]
    # zeros as wide as the search: no edge meets the copies of a periodic image
    size = [length + reach for length, reach in zip(image.shape, most, strict=True)]
    a, b = (torch.fft.rfftn(part - part.mean(), s=size) for part in (image, other))
    correlation = torch.fft.irfftn(a.conj() * b, s=size)
    lags = [torch.arange(-reach, reach + 1) for reach in most]
    near = correlation[torch.meshgrid(*lags, indexing="ij")]  # negative lags stand at the end
    place = np.unravel_index(int(near.argmax()), near.shape)
    shift = [(int(p) - reach) * step for p, reach, step in zip(place, most, spacing_mm, strict=True)]
    return math.hypot(*shift)
