r"""Memorisation: are the samples copies of the training data?

A model that trains on random patches may copy a patch at *any* place of a training volume, also mirrored, so a
comparison with a list of patches is not enough. The distance of a sample g to a volume T is that to its nearest window,

.. math::  d(g, T)^2 = \min_o \frac{1}{n} \sum_v \big(g(v) - T(v + o)\big)^2
           = \min_o \frac{1}{n} \Big( \lVert g \rVert^2 + \big(1 * T^2\big)(o) - 2\,(g \star T)(o) \Big),

all offsets o at once by the Fourier transform. The metric is the median of d over samples divided by the median of d
over real images *outside of the training*: 1 is as new as real, 0 is a copy. (The common division by distances within
the training set compares with neighbouring patches of one subject.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_diffscore.metrics.image_metric import ImageMetric


@dataclass(frozen=True)
class Neighbours:
    """The nearest training window of each image.

    ``distance`` [N], root mean square over voxels; ``windows`` [N, C, *S]; ``places``: volume, mirrored, first voxel.
    """

    distance: Tensor
    windows: Tensor
    places: list[tuple[int, bool, tuple[int, ...]]]


def nearest_windows(
    images: Tensor, volumes: Sequence[Tensor], mirrored: bool = False, coarse: int = 1, candidates: int = 4
) -> Neighbours:
    """Finds for each image [N, C, *S] the nearest window of the training ``volumes`` (each [C, *V], V >= S).

    Args:
        images: images in the normalised units of the network.
        volumes: training volumes after the same preprocessing, whole.
        mirrored: also search volumes mirrored along the first spatial axis (``RandFlipd`` mirrors them in a training).
        coarse: search at this many times fewer voxels an axis, then at all voxels around the best ``candidates``. 1 is
            exact; 2 is 8 times faster in three dimensions, and may miss a copy of an image without low frequencies.
        candidates: coarse places that the fine search refines.
    Raises:
        ValueError: if ``volumes`` is empty, or one is smaller than the images or has other channels.
    """
    _check_volumes(images, volumes)
    images = images.float()
    best = Neighbours(torch.full((len(images),), torch.inf), torch.zeros_like(images), [(-1, False, ())] * len(images))
    for number, volume in enumerate(volumes):
        for flip in (False, True) if mirrored else (False,):
            searched = volume.float().flip(1) if flip else volume.float()
            offsets = _offsets(images, searched, coarse, candidates if coarse > 1 else 1)
            for index, places in enumerate(offsets):
                distance, place, window = _closest(images[index], searched, places, coarse - 1)
                if distance < best.distance[index]:
                    best.distance[index], best.windows[index] = distance, window
                    best.places[index] = (number, flip, place)
    return best


class MemorisationRatio(ImageMetric):
    """Median distance to the training data over that of unseen real images; 1 is as new as real.

    Args:
        volumes: training volumes [C, *V], preprocessed.
        scale: data units in a normalised unit, for the distances that :meth:`neighbours` reports.
        mirrored, coarse: see :func:`nearest_windows`.
    """

    name = "memorisation"
    title = "Distance to the training data"
    unit = "ratio"
    two_sided = True
    sees = "Copies of training images, at any offset and mirrored (near 0), and samples far from all data (above 1)."
    blind_to = (
        "Copies that were changed (contrast, warp, noise): an identifying feature can survive a large distance. Blur "
        "brings an image nearer to everything. Says nothing about training data that were not searched, and no privacy "
        "guarantee follows from it."
    )

    def __init__(self, volumes: Sequence[Tensor], mirrored: bool = False, coarse: int = 1) -> None:
        self.volumes, self.mirrored, self.coarse = volumes, mirrored, coarse

    def neighbours(self, images: Tensor) -> Neighbours:
        """The nearest training windows of the images."""
        return nearest_windows(images, self.volumes, self.mirrored, self.coarse)

    def describe(self, images: Tensor) -> Tensor:
        return self.neighbours(images).distance

    def compare(self, rows: Tensor, reference: Tensor) -> float:
        return float(rows.median() / reference.median().clamp(min=1e-12))


def suspected_copies(images: Tensor, distance: Tensor, unseen: Tensor, unseen_distance: Tensor) -> Tensor:
    """Booleans [N]: whether an image is nearer to the training data than half the distance of any unseen real image.

    The distances are relative to the contrast of the image. A window of air is near to every other window of air, and
    is no copy. An image with (nearly) no contrast is never suspected.
    """

    def relative(of: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
        contrast = of.float().flatten(1).std(1)
        return distances / contrast.clamp(min=1e-6), contrast > 0.02  # 1 % of the range

    ours, has_contrast = relative(images, distance)
    theirs, unseen_has_contrast = relative(unseen, unseen_distance)
    limit = theirs[unseen_has_contrast].min() if bool(unseen_has_contrast.any()) else torch.tensor(0.0)
    return (ours < 0.5 * limit) & has_contrast


def _check_volumes(images: Tensor, volumes: Sequence[Tensor]) -> None:
    shapes = [tuple(volume.shape) for volume in volumes]
    size = tuple(images.shape[1:])
    fits = [
        len(shape) == len(size)
        and shape[0] == size[0]
        and all(v >= s for v, s in zip(shape[1:], size[1:], strict=True))
        for shape in shapes
    ]
    if not shapes or not all(fits):
        raise ValueError(
            f"Expected training volumes of {size[0]} channel(s) and at least {size[1:]} voxels, got {shapes}. "
            "Pad or leave out the small ones."
        )


def _offsets(images: Tensor, volume: Tensor, coarse: int, candidates: int) -> list[list[tuple[int, ...]]]:
    """The most promising first voxels in the volume for each image."""
    dims = images.ndim - 2
    if volume.shape == images.shape[1:]:  # a single window
        return [[(0,) * dims]] * len(images)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    if coarse > 1:
        images, volume = pool(images, coarse), pool(volume[None], coarse)[0]
    axes = tuple(range(-dims, 0))
    size, shape = images.shape[2:], volume.shape[1:]
    places = tuple(v - s + 1 for v, s in zip(shape, size, strict=True))
    inside = (slice(None), *[slice(0, p) for p in places])
    spectrum = torch.fft.rfftn(volume, dim=axes)
    energy = torch.fft.irfftn(
        torch.fft.rfftn(volume.square().sum(0), dim=axes)
        * torch.fft.rfftn(torch.ones(size, device=volume.device), s=shape, dim=axes).conj(),
        s=shape,
        dim=axes,
    )[inside[1:]]
    corners: list[list[tuple[int, ...]]] = []
    for batch in images.split(8):
        product = (spectrum * torch.fft.rfftn(batch, s=shape, dim=axes).conj()).sum(1)
        score = energy - 2 * torch.fft.irfftn(product, s=shape, dim=axes)[inside]
        flat = score.flatten(1)
        best = flat.topk(min(candidates, flat.shape[1]), dim=1, largest=False).indices
        for row in best:
            voxels = torch.stack(torch.unravel_index(row, places), dim=1) * coarse
            corners.append([tuple(place) for place in voxels.tolist()])
    return corners


def _closest(
    image: Tensor, volume: Tensor, places: list[tuple[int, ...]], around: int
) -> tuple[float, tuple[int, ...], Tensor]:
    """The nearest window, at full resolution, at the places and up to ``around`` voxels beside them."""
    steps = torch.arange(-around, around + 1)
    moves = torch.cartesian_prod(*[steps] * (image.ndim - 1)).reshape(-1, image.ndim - 1)
    size = torch.tensor(image.shape[1:])
    last = torch.tensor(volume.shape[1:]) - size
    starts = torch.unique(
        torch.cat([(torch.tensor(place) + moves).clamp(min=0).minimum(last) for place in places]), dim=0
    )
    nearest: tuple[float, tuple[int, ...], Tensor] | None = None
    for start in starts.tolist():
        window = volume[(slice(None), *[slice(a, a + s) for a, s in zip(start, size.tolist(), strict=True)])]
        distance = float((image - window).square().mean().sqrt())
        if nearest is None or distance < nearest[0]:
            nearest = (distance, tuple(start), window)
    assert nearest is not None
    return nearest
