r"""Frechet distance of the features of a random network.

A convolutional network with random weights from a seed has features without a training on photographs. It needs no
download and takes any number of channels and dimensions. Two Gaussians fitted to the features of two sets differ by

.. math::  m = \lVert \mu - \mu' \rVert^2 + \operatorname{tr} C + \operatorname{tr} C'
    - 2 \operatorname{tr} (C C')^{1/2}.

This is **not** FID (Heusel et al., arXiv:1706.08500), whose features are Inception's, and its values compare with
nothing outside one report. With centred rows A, A' scaled by 1/sqrt(N - 1), the last trace is the nuclear norm of A
A'^T: exact for any N, also for fewer images than features, where a matrix square root loses its digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_diffscore.metrics.image_metric import ImageMetric


def random_features(images: Tensor, seed: int = 0, widths: tuple[int, ...] = (32, 64, 64)) -> Tensor:
    """Features [N, widths[-1]] of a fixed random network: convolutions of 3 with stride 2, ReLU, global average.

    The weights are normal with variance 2 / fan-in, from ``seed``. They are the same on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    dims = images.ndim - 2
    convolve = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    weights, channels = [], images.shape[1]
    for width in widths:
        fan_in = channels * 3**dims
        weight = torch.randn(width, channels, *[3] * dims, generator=generator) * math.sqrt(2 / fan_in)
        weights.append(weight.to(images.device))
        channels = width
    features = []
    for batch in images.float().split(16):
        for weight in weights:
            batch = F.relu(convolve(batch, weight, stride=2, padding=1))
        features.append(batch.flatten(2).mean(2))
    return torch.cat(features)


def frechet_distance(rows: Tensor, reference: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of rows [N, D] and [M, D]; needs two rows each."""
    means, roots = [], []
    for part in (rows.double(), reference.double()):
        means.append(part.mean(0))
        # the triangular factor replaces all rows: its size is that of the features, not of the set
        roots.append(torch.linalg.qr((part - means[-1]) / math.sqrt(max(1, len(part) - 1)), mode="r").R)
    cross = torch.linalg.matrix_norm(roots[0] @ roots[1].T, "nuc")
    spread = roots[0].square().sum() + roots[1].square().sum() - 2 * cross
    return float(((means[0] - means[1]).square().sum() + spread).clamp(min=0))


class RandomFeatureFrechet(ImageMetric):
    """Frechet distance of :func:`random_features`, in units without a meaning outside of one report.

    Args:
        seed: seed of the network.
    """

    name = "random_features"
    title = "Random-network features"
    unit = "squared features"
    sees = "Gross differences of content and contrast, missing modes, another body part or another patient."
    blind_to = (
        "Mild blur, the commonest failure of a diffusion model; fine detail; copies, which it rewards. It is not FID."
    )

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def describe(self, images: Tensor) -> Tensor:
        return random_features(images, self.seed)

    def compare(self, rows: Tensor, reference: Tensor) -> float:
        return frechet_distance(rows, reference)
