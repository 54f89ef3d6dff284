r"""Spoilt real images: each metric detects the damage, or its ``blind_to`` names it.

A metric that does not separate real from blurred images is no evidence about a model that blurs. So each metric has its
value for spoilt real images beside it. A reader of images notices the amounts:

=========  ==================================================================  ==================================
control    damage to real images                                               model with this fault
=========  ==================================================================  ==================================
blurred    Gaussian filter, standard deviation of one voxel                    short training, over-smooth sampler
noisy      normal noise, 5 % of the range (100 HU of a window of 2000 HU)      too few steps, no final denoising
shifted    2.5 % of the range added (50 HU)                                    a wrong intensity scale
shuffled   the voxels of each image in random order                            right histogram, no structure
copied     training images, unchanged                                          memorisation
collapsed  four images, repeated                                               mode collapse
=========  ==================================================================  ==================================
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor

#: controls from real images alone; "copied" needs training images
CONTROLS = ("blurred", "noisy", "shifted", "shuffled", "collapsed")


def blurred(images: Tensor, sigma: float = 1.0) -> Tensor:
    """A Gaussian filter with a standard deviation in voxels."""
    padding = [4] * (2 * (images.ndim - 2))
    padded = torch.nn.functional.pad(images.float(), padding, mode="replicate")  # the filter's own padding is zeros
    filtered: Tensor = GaussianFilter(images.ndim - 2, sigma)(padded)
    for axis in range(2, images.ndim):
        filtered = filtered.narrow(axis, 4, images.shape[axis])
    return filtered


def noisy(images: Tensor, std: float = 0.1, seed: int = 0) -> Tensor:
    """Normal noise; 0.1 is 5 % of the range of normalised data."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    return images + std * noise


def shifted(images: Tensor, by: float = 0.05) -> Tensor:
    """A constant added; 0.05 is 2.5 % of the range of normalised data."""
    return images + by


def shuffled(images: Tensor, seed: int = 0) -> Tensor:
    """The voxels of each image in an order of its own; channels stay together."""
    generator = torch.Generator().manual_seed(seed)
    flat = images.flatten(2)
    mixed = [image[:, torch.randperm(image.shape[1], generator=generator).to(image.device)] for image in flat]
    return torch.stack(mixed).reshape(images.shape)


def collapsed(images: Tensor, kinds: int = 4) -> Tensor:
    """The first few images, repeated to the size of the set."""
    return images[torch.arange(len(images)) % min(kinds, len(images))]


def spoil(images: Tensor) -> dict[str, Tensor]:
    """Each of :data:`CONTROLS` of the images [N, C, *S]."""
    makers: tuple[Callable[[Tensor], Tensor], ...] = (blurred, noisy, shifted, shuffled, collapsed)
    return {name: make(images) for name, make in zip(CONTROLS, makers, strict=True)}
