r"""The exact denoiser of Gaussian images with a few modes of variation: a start that a network corrects.

With :math:`x_0 \sim N(m, I + U (\Lambda - I) U^T)` and orthonormal modes U

.. math::  D(x, \sigma) = m + \frac{x - m}{1 + \sigma^2}
           + U \Bigl(\frac{\Lambda}{\Lambda + \sigma^2} - \frac{1}{1 + \sigma^2}\Bigr) U^T (x - m).

The size of an organ, or the brightness of a whole image, is one number that all voxels share. At noise levels of this
number a voxel says nothing about it, and a network that normalises each voxel hardly learns it: its samples vary too
little. A few dozen images determine such modes well. In all other directions, D is the preconditioning of data of
standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.tensors import per_sample


class LowRankStart(nn.Module):
    """The denoiser of images with ``modes``: x [B, C, *S], sigma [B] to [B, C, *S].

    The modes are constant in blocks of two voxels along each axis, where all sides are even. Without images, m is 0 and
    Lambda is I; the state_dict of trained weights replaces them. Images of another size have the same centre: the mean
    continues as at its border, and the modes end there.

    Args:
        shape: [C, *S] of the training images, of standard deviation 1.
        modes: number of columns of U.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(self, shape: Sequence[int], modes: int) -> None:
        super().__init__()
        self.block = 2 if all(side % 2 == 0 for side in shape[1:]) else 1
        blocks = [side // self.block for side in shape[1:]]
        self.register_buffer("mean", torch.zeros(tuple(shape)))
        self.register_buffer("axes", torch.zeros(modes, shape[0], *blocks))
        self.register_buffer("variances", torch.ones(modes))

    @classmethod
    def of_images(cls, images: Tensor, modes: int) -> LowRankStart:
        """The start with the mean of images [N, C, *S] and their modes of most variance; Lambda >= 1.

        Modes beyond N have no effect.
        """
        start = cls(images.shape[1:], modes)
        start.mean.copy_(images.mean(0))
        pool = getattr(F, f"avg_pool{images.ndim - 2}d")
        blocks = pool(images.to(start.mean) - start.mean, start.block) / start._unit  # along unit vectors
        _, sizes, axes = torch.linalg.svd(blocks.flatten(1), full_matrices=False)
        count = min(modes, len(images))
        start.axes[:count] = axes[:count].reshape(-1, *start.axes.shape[1:])
        start.variances[:count] = (sizes[:count] ** 2 / len(images)).clamp_min(1)
        return start

    def forward(self, x: Tensor, sigma: Tensor, **_condition: Tensor) -> Tensor:
        mean = centred(self.mean[None].to(x), x.shape[2:], "replicate")
        axes = F.interpolate(self.axes.to(x), scale_factor=float(self.block)) * self._unit
        axes = centred(axes, x.shape[2:], "constant").flatten(1)
        variances, noise = self.variances.to(x), (sigma**2)[:, None]
        rest = x - mean
        gain = variances / (variances + noise) - 1 / (1 + noise)
        shared = (gain * (rest.flatten(1) @ axes.T)) @ axes
        return mean + rest / per_sample(1 + sigma**2, x) + shared.reshape(x.shape)

    @property
    def _unit(self) -> float:
        """The value in each voxel of a block, of the unit vector along it."""
        return float(self.block) ** (-0.5 * (self.mean.ndim - 1))


def centred(images: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """Images [N, C, *S] cut and padded to another ``size`` about their centre.

    Args:
        images: the images.
        size: of the result.
        mode: of the padding, as of ``torch.nn.functional.pad``.
    """
    if tuple(images.shape[2:]) == tuple(size):
        return images
    pads = []
    for axis, (old, new) in enumerate(zip(images.shape[2:], size, strict=True), start=2):
        images = images.narrow(axis, max(0, old - new) // 2, min(old, new))
        before = max(0, new - old) // 2
        pads.append((before, max(0, new - old) - before))
    flat = [pad for pair in reversed(pads) for pad in pair]
    return F.pad(images, flat, mode=mode)
