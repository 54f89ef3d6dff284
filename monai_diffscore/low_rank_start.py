r"""The exact denoiser of Gaussian images with a few modes of variation: a start that a network corrects.

With :math:`x_0 \sim N(m, I + U (\Lambda - I) U^T)` and orthonormal modes U

.. math::  D(x, \sigma) = m + \frac{x - m}{1 + \sigma^2}
           + U \Bigl(\frac{\Lambda}{\Lambda + \sigma^2} - \frac{1}{1 + \sigma^2}\Bigr) U^T (x - m).

The mean is linear in the conditions c, :math:`m = m_0 + \sum_k c_k E_k`. The training learns the effects E.

The size of an organ, or the brightness of a whole image, is one number that all voxels share. At noise levels of this
number a voxel says nothing about it, and a network that normalises each voxel hardly learns it: its samples vary too
little. A few dozen images determine such modes well. In all other directions, D is the preconditioning of data of
standard deviation 1. What a condition changes has a place in the image, and at these noise levels x has no places: a
convolutional network learns little of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
        categorical: number of classes of each condition, by name: integers [B], -1 is missing.
        continuous: (mean, standard deviation) of each condition, by name: numbers [B], or [B, n] for n means; NaN
            anywhere in it is missing.

    A class is one of the c_k, 0 or 1; a number is c_k in standard deviations. Conditions that are missing, or that are
    not declared, have no effect.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        modes: int,
        categorical: Mapping[str, int] | None = None,
        continuous: Mapping[str, Sequence[float | Sequence[float]]] | None = None,
    ) -> None:
        super().__init__()
        self.categorical, self.continuous = dict(categorical or {}), dict(continuous or {})
        sizes = self.categorical | {name: torch.tensor(mean).numel() for name, (mean, _) in self.continuous.items()}
        self.effects = nn.ParameterDict({n: nn.Parameter(torch.zeros(size, *shape)) for n, size in sizes.items()})
        self.block = 2 if all(side % 2 == 0 for side in shape[1:]) else 1
        blocks = [side // self.block for side in shape[1:]]
        self.register_buffer("mean", torch.zeros(tuple(shape)))
        self.register_buffer("axes", torch.zeros(modes, shape[0], *blocks))
        self.register_buffer("variances", torch.ones(modes))

    @classmethod
    def of_images(
        cls,
        images: Tensor,
        modes: int,
        categorical: Mapping[str, int] | None = None,
        continuous: Mapping[str, Sequence[float | Sequence[float]]] | None = None,
    ) -> LowRankStart:
        """The start with the mean of images [N, C, *S] and their modes of most variance; Lambda >= 1.

        Modes beyond N have no effect. The effects of conditions are 0 before training.
        """
        start = cls(images.shape[1:], modes, categorical, continuous)
        start.mean.copy_(images.mean(0))
        pool = getattr(F, f"avg_pool{images.ndim - 2}d")
        blocks = pool(images.to(start.mean) - start.mean, start.block) / start._unit  # along unit vectors
        _, sizes, axes = torch.linalg.svd(blocks.flatten(1), full_matrices=False)
        count = min(modes, len(images))
        start.axes[:count] = axes[:count].reshape(-1, *start.axes.shape[1:])
        start.variances[:count] = (sizes[:count] ** 2 / len(images)).clamp_min(1)
        return start

    def forward(self, x: Tensor, sigma: Tensor, **condition: Tensor) -> Tensor:
        mean = centred(self.mean.to(x) + self._shift(x, condition), x.shape[2:], "replicate")
        axes = F.interpolate(self.axes.to(x), scale_factor=float(self.block)) * self._unit
        axes = centred(axes, x.shape[2:], "constant").flatten(1)
        variances, noise = self.variances.to(x), (sigma**2)[:, None]
        rest = x - mean
        gain = variances / (variances + noise) - 1 / (1 + noise)
        shared = (gain * (rest.flatten(1) @ axes.T)) @ axes
        return mean + rest / per_sample(1 + sigma**2, x) + shared.reshape(x.shape)

    def _shift(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The sum of c_k E_k, [B, C, *S of the training]; one for all samples without conditions."""
        shift = x.new_zeros(1, *self.mean.shape)
        for name, effects in self.effects.items():
            if name not in condition:
                continue
            if name in self.categorical:
                amounts = F.one_hot(condition[name] + 1, len(effects) + 1)[:, 1:].to(x)
            else:
                mean, std = (torch.as_tensor(number).to(x) for number in self.continuous[name])
                amounts = ((condition[name].to(x) - mean) / std).reshape(len(x), -1)
                amounts = torch.where(amounts.isnan().any(1, keepdim=True), 0, amounts)
            shift = shift + (amounts @ effects.to(x).flatten(1)).reshape(len(x), *self.mean.shape)
        return shift

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
