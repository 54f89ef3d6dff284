"""Shapes and random numbers of batches [B, ...]: numbers that belong to a sample or a channel, and noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: one generator for a batch, one generator per sample, or None for torch's own
Generators = torch.Generator | Sequence[torch.Generator] | None


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """``values`` [B] or [B, C] with further axes of length 1: they broadcast against x [B, C, ...].

    A 0-d tensor gets as many axes as ``x``.
    """
    return values.reshape(*values.shape, *[1] * (x.ndim - values.ndim))


def per_channel(values: Tensor, image: Tensor) -> Tensor:
    """``values`` [C] with further axes of length 1: they broadcast against one image [C, *S]."""
    return per_sample(values, image)


def positions(image: Tensor) -> Tensor:
    """The position of each voxel of images [B, C, *S], from -1 to 1 along each of the D axes, [B, D, *S]."""
    axes = [torch.linspace(-1, 1, size, dtype=image.dtype, device=image.device) for size in image.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return grid.expand(len(image), *grid.shape)


def noise_like(x: Tensor, generator: Generators = None) -> Tensor:
    """Standard normal noise in the shape and dtype and on the device of ``x``.

    Args:
        x: [B, ...].
        generator: one generator for the batch, or one **per sample**. With one per sample the noise of sample i does
            not depend on the rest of the batch. A generator may be on another device than ``x``.
    Raises:
        ValueError: if the number of generators is not the number of samples.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
    if len(generator) != x.shape[0]:
        raise ValueError(f"Expected one generator per sample, {x.shape[0]}, got {len(generator)}.")
    return torch.stack([noise_like(sample, one) for sample, one in zip(x, generator, strict=True)])


def random_stream(*key: int) -> torch.Generator:
    """A generator on the CPU for a key of integers >= 0, such as (seed, number of the sample).

    Different keys of one length have different streams. Zeros at the end of a key do not change the stream.
    """
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))
