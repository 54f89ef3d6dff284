r"""Radially averaged power spectrum: the power at each size of detail.

Of a picture p with a Hann window w, which keeps the jump between opposite borders out of it,

.. math::  P(k) = \Big\langle \big|\mathcal F[w\,(p - \bar p)](f)\big|^2 \Big\rangle_{|f| \in \text{ring } k},
    \qquad m = \sqrt{\big\langle (\log_{10} P_k - \log_{10} P'_k)^2 \big\rangle_k},

with the rings from 0 to the Nyquist frequency, 0.5 cycles a voxel. A volume is taken as its slices in three
orthogonal planes, one spectrum for each: an anisotropic blur shows in two of them. The power is the mean over the
set, then the logarithm.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from monai_diffscore.metrics.image_metric import ImageMetric


def radial_power(images: Tensor) -> Tensor:
    """Power spectrum [N, planes, rings] of each image [N, C, *S], mean over channels and parallel slices.

    ``planes`` is 1 for signals and pictures, 3 for volumes: the planes normal to axis 0, 1 and 2. ``rings`` is half the
    shortest axis; see :func:`ring_frequencies`. In squared data units; its sum is not normalised.
    """
    spatial = images.shape[2:]
    rings = min(spatial) // 2
    if len(spatial) < 3:
        return _power(images.flatten(1, 1), rings).mean(1)[:, None]
    return torch.stack([_power(images.movedim(2 + axis, 2).flatten(1, 2), rings).mean(1) for axis in range(3)], dim=1)


def ring_frequencies(shape: tuple[int, ...]) -> Tensor:
    """Centres of the rings in cycles a voxel, [rings], for images of this spatial shape."""
    rings = min(shape) // 2
    return (torch.arange(rings) + 0.5) * (0.5 / rings)


class SpectrumError(ImageMetric):
    """Root mean square difference of log10 power over the rings (and planes). 0.3 is a factor of two."""

    name = "spectrum"
    title = "Power spectrum"
    unit = "log10"
    sees = "Blur, noise, checkerboards, wrong texture scale, anisotropic resolution."
    blind_to = (
        "Phase: images with the right amount of every size in the wrong places, so wrong anatomy; a shift of all "
        "intensities; copies, which it rewards."
    )

    def describe(self, images: Tensor) -> Tensor:
        return radial_power(images)

    def compare(self, rows: Tensor, reference: Tensor) -> float:
        tiny = 1e-12  # a set of constant images has no power at all
        difference = (rows.mean(0) + tiny).log10() - (reference.mean(0) + tiny).log10()
        return float(difference.square().mean().sqrt())


def _power(pictures: Tensor, rings: int) -> Tensor:
    """[N, K, *plane] -> [N, K, rings], the mean over each ring."""
    plane = tuple(pictures.shape[2:])
    window, index, count = _geometry(plane, rings)
    axes = tuple(range(2, pictures.ndim))
    pictures = pictures.float()
    centred = pictures - pictures.mean(axes, keepdim=True)
    power = torch.fft.fftn(centred * window.to(pictures.device), dim=axes).abs().square().flatten(2)
    summed = power.new_zeros(*power.shape[:2], rings + 1)
    summed.index_add_(2, index.to(power.device), power)
    return summed[..., :rings] / count.to(power.device)


@lru_cache(maxsize=16)
def _geometry(plane: tuple[int, ...], rings: int) -> tuple[Tensor, Tensor, Tensor]:
    window = torch.ones(())
    squared = torch.zeros(())
    for size in plane:
        window = window[..., None] * torch.hann_window(size, periodic=False)
        squared = squared[..., None] + torch.fft.fftfreq(size).square()
    # the corners beyond the Nyquist circle go into a last ring, which is dropped
    index = (squared.sqrt() * (rings / 0.5)).long().clamp(max=rings).flatten()
    count = torch.bincount(index, minlength=rings + 1)[:rings].clamp(min=1).float()
    return window, index, count
