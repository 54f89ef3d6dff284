r"""Sliced Wasserstein distance of small patches: local texture.

The distance of two clouds of patches in dimension d, by random directions, along which it is a matter of sorting:

.. math::  m = \Big\langle W_1\big(\{\theta \cdot u_i\}, \{\theta \cdot v_j\}\big) \Big\rangle_\theta,
    \qquad |\theta| = 1.

Sliced Wasserstein: Rabin et al., SSVM 2011; on patches of generated images: Karras et al., arXiv:1710.10196, section 5.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.metrics.image_metric import ImageMetric
from monai_diffscore.metrics.intensity import quantiles


class PatchSlicedWasserstein(ImageMetric):
    """Sliced W1 of patches drawn at random places, in normalised units.

    Args:
        patch: edge of a patch in voxels (shorter in an image that is smaller).
        patches_per_image: drawn at places that the seed fixes.
        projections: random directions.
        seed: of places and directions.
    """

    name = "texture"
    title = "Patch texture"
    unit = "normalised"
    sees = "Local texture and contrast, noise, shuffled voxels, shifted intensities."
    blind_to = "Anything larger than a patch: wrong anatomy made of right texture. Mild blur nearly so; copies."

    def __init__(self, patch: int = 7, patches_per_image: int = 64, projections: int = 64, seed: int = 0) -> None:
        self.patch, self.patches_per_image, self.projections, self.seed = patch, patches_per_image, projections, seed

    def describe(self, images: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        edges = [min(self.patch, size) for size in images.shape[2:]]
        windows = images.float()
        for axis, edge in enumerate(edges):
            windows = windows.unfold(2 + axis, edge, 1)
        places = windows.shape[2 : 2 + len(edges)]
        number = torch.arange(len(images), device=images.device)[:, None]
        index = [
            torch.randint(size, (len(images), self.patches_per_image), generator=generator).to(images.device)
            for size in places
        ]
        patches = windows.movedim(1, 1 + len(edges))[(number, *index)].flatten(2)
        directions = torch.randn(patches.shape[-1], self.projections, generator=generator).to(images.device)
        return patches @ (directions / directions.norm(dim=0))

    def compare(self, rows: Tensor, reference: Tensor) -> float:
        ours, theirs = rows.flatten(0, 1).T, reference.flatten(0, 1).T
        if ours.shape != theirs.shape:
            ours, theirs = quantiles(ours, 1024), quantiles(theirs, 1024)
        # numpy sorts without an index, several times as fast as torch
        first, second = (np.sort(part.contiguous().cpu().numpy(), axis=1) for part in (ours, theirs))
        return float(np.abs(first - second).mean())
