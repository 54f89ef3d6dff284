"""Diversity: the similarity of two images of a set.

Mean multi-scale structural similarity (Wang et al., Asilomar 2003) of pairs *within* the set, by MONAI: near 1 if all
images are one. Real images have a value of their own. A set with a larger similarity has collapsed, and a set with a
much smaller similarity is noise.
"""

from __future__ import annotations

import torch
from monai.metrics.regression import compute_ms_ssim
from torch import Tensor

from monai_diffscore.metrics.image_metric import ImageMetric

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, Wang et al., section 3.2
_KERNEL = 7


class PairSimilarity(ImageMetric):
    """Mean MS-SSIM of pairs of the set, over the same mean of the real images: 1 is the diversity of real images.

    Each image is in one pair, so that the pairs, the rows of this metric, are independent and its intervals are valid.
    It uses as many of the five scales as fit into the image, with weights that sum to 1, and a kernel of 7 voxels (less
    in smaller images).

    Args:
        seed: seed of the random order of the pairs.
    """

    name = "diversity"
    title = "Similarity within the set"
    unit = "ratio of MS-SSIM"
    two_sided = True
    sees = "Collapse to few images (higher than real), and sets that are noise (lower than real)."
    blind_to = (
        "What the images show: a set of different wrong images passes. Collapse to a handful of images, when N is "
        "small: pairs of copies are then rare."
    )

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def describe(self, images: Tensor) -> Tensor:
        """A row [N // 2] for each pair."""
        if len(images) < 2:
            raise ValueError(f"Similarity within a set needs two images or more, got {len(images)}.")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
        pairs = len(images) // 2
        return _similarity(images[order[:pairs]].float(), images[order[pairs : 2 * pairs]].float())

    def compare(self, rows: Tensor, reference: Tensor) -> float:
        return float(rows.mean() / reference.mean().clamp(min=1e-6))


def _similarity(ours: Tensor, theirs: Tensor) -> Tensor:
    """MS-SSIM [N] of the pairs of images [N, C, *S] in normalised units."""
    dims = ours.ndim - 2
    if dims == 1:  # MONAI has two and three dimensions, and a picture of 7 equal rows is no signal
        raise ValueError("Similarity within a set is defined for pictures and volumes, got signals.")
    shortest = min(ours.shape[2:])
    kernel = min(_KERNEL, shortest - 1 + shortest % 2)
    scales = max(
        s for s in range(1, 6) if s == 1 or (shortest // (s - 1) ** 2 >= kernel and shortest >> (s - 1) >= kernel)
    )
    weights = [weight / sum(_WEIGHTS[:scales]) for weight in _WEIGHTS[:scales]]
    parts = [
        compute_ms_ssim(a, b, spatial_dims=dims, data_range=2.0, kernel_size=kernel, weights=weights)
        for a, b in zip(ours.split(16), theirs.split(16), strict=True)
    ]
    return torch.cat(parts).flatten()
