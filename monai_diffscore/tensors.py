"""Shapes and random numbers of batches [B, ...]: numbers of samples and channels, noise levels, estimates, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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


def channels_of(like: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Values [C] each, in the dtype and on the device of ``like`` [B, C, *S]: they broadcast against its samples."""
    return tuple(per_channel(value.to(like), like[0]) for value in values)


def positions(image: Tensor, begin: Sequence[int] | None = None, window: Sequence[int] | None = None) -> Tensor:
    """The position of each voxel of images [B, C, *S], from -1 to 1 along each of the D axes, [B, D, *S].

    Args:
        image: the images.
        begin: first voxel of a window, whose positions alone it returns.
        window: size of the window.
    """
    axes = [torch.linspace(-1, 1, size, dtype=image.dtype, device=image.device) for size in image.shape[2:]]
    if begin is not None and window is not None:
        axes = [axis[first : first + size] for axis, first, size in zip(axes, begin, window, strict=True)]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return grid.expand(len(image), *grid.shape)


def check_floating(x: Any, name: str = "x") -> None:
    """Raises a TypeError unless ``x`` is a tensor of floating-point numbers.

    Args:
        x: the batch [B, ...].
        name: its name in the message.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = getattr(x, "dtype", "no numbers")
        raise TypeError(
            f"Expected {name} to be a tensor of floating-point numbers [B, ...], got {kind} in a {type(x).__name__}. "
            f"Convert it, such as torch.as_tensor({name}).float(), and normalise it as in training."
        )


def per_sample_sigma(x: Tensor, sigma: Tensor | float) -> Tensor:
    """Noise levels [B] in the dtype and on the device of ``x``.

    Args:
        x: [B, ...].
        sigma: one level for the batch, or one for each sample [B], in units of the data.
    Raises:
        TypeError: unless ``x`` is a tensor of floating-point numbers.
        ValueError: for another shape of ``sigma``.
    """
    check_floating(x)
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if sigma.ndim == 0:
        return sigma.expand(x.shape[0])
    if sigma.shape != x.shape[:1]:
        raise ValueError(
            f"Expected sigma to be a number or one noise level per sample, of shape ({x.shape[0]},) for x of shape "
            f"{tuple(x.shape)}, got shape {tuple(sigma.shape)}."
        )
    return sigma


def positive_sigma(x: Tensor, sigma: Tensor | float) -> Tensor:
    """Noise levels [B] as of :func:`per_sample_sigma`, with a check of values on the CPU.

    Values on another device pass unchecked: the program would wait for the device at each call.

    Raises:
        ValueError: for a level that is 0, negative, infinite or NaN, or another shape of ``sigma``.
    """
    exported = torch.jit.is_tracing() or torch.compiler.is_compiling()
    on_cpu = not isinstance(sigma, Tensor) or sigma.device.type == "cpu"
    if on_cpu and not exported and not _are_levels(torch.as_tensor(sigma)):
        raise ValueError(
            f"Expected finite noise levels sigma > 0, got {torch.as_tensor(sigma).flatten().tolist()[:8]}. The "
            "denoiser and the score have no value at 0. Stop at a small level such as 1e-3. (Samplers take grids that "
            "end in 0.)"
        )
    return per_sample_sigma(x, sigma)


def _are_levels(sigma: Tensor) -> bool:
    return bool((sigma.isfinite() & (sigma > 0)).all())


def check_estimate(estimate: Any, x: Tensor, source: str) -> None:
    """Checks that a network or a denoiser returns a tensor of the shape of x.

    Args:
        estimate: the result of the network or denoiser.
        x: its input [B, ...].
        source: name of the network or denoiser, for the message.
    Raises:
        TypeError: for a tuple, an output object, or any other object that is no tensor.
        ValueError: for another shape, even if it broadcasts against x.
    """
    if not isinstance(estimate, Tensor):
        raise TypeError(
            f"Expected {source} to return one tensor of the shape of x, {tuple(x.shape)}, got "
            f"{type(estimate).__name__}. Wrap it in a module whose forward returns the tensor alone, such as "
            "network(x, c_noise, **condition)[0]. Use monai_diffscore.discrete.TimestepNetwork for networks of "
            "diffusers."
        )
    if not torch.jit.is_tracing() and estimate.shape != x.shape:
        raise ValueError(
            f"Expected {source} to return the shape of x, {tuple(x.shape)}, got {tuple(estimate.shape)}. Set its "
            "output channels to the channels of x."
        )


def check_denoiser(denoise: Any) -> None:
    """Raises a TypeError for a raw network, which takes ``c_noise`` where a denoiser takes sigma."""
    code = getattr(getattr(denoise, "forward", None), "__code__", None)
    if code is not None and "c_noise" in code.co_varnames[: code.co_argcount]:
        raise TypeError(
            f"Expected a denoiser, called as denoiser(x, sigma), got the network {type(denoise).__name__}, which takes "
            "c_noise. Wrap it: Denoiser(network, EDMPreconditioning(sigma_data))."
        )


def check_finite(estimate: Tensor, place: str) -> None:
    """Checks the estimate of a denoiser for NaN and infinite values. It waits for the device.

    Args:
        estimate: the estimate, or the state of a solver after it, [B, ...].
        place: where it comes from, for the message.
    Raises:
        FloatingPointError: for any value that is not finite.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return
    total = estimate.detach().sum(dtype=torch.float32 if estimate.element_size() < 4 else None)  # no copy of a volume
    if not bool(total.isfinite()):
        bad = (~estimate.detach().isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"Expected finite estimates of the denoiser, got NaN or infinite values {place}, in {len(bad)} of "
            f"{len(estimate)} samples: {bad[:8]}. Check the weights, the input and the condition for NaN. A network in "
            "float16 overflows: use bfloat16 or float32."
        )


def missing_mark(field: Tensor) -> float:
    """What a missing value of a condition is: NaN for numbers, -1 for classes (integers)."""
    return math.nan if field.is_floating_point() else -1


def noise_like(x: Tensor, generator: Generators = None) -> Tensor:
    """Standard normal noise in the shape and dtype and on the device of ``x``.

    Args:
        x: [B, ...].
        generator: one generator for the batch, or one **per sample**. With one per sample the noise of sample i does
            not depend on the rest of the batch. A generator may be on another device than ``x``.
    Raises:
        TypeError: for a seed in place of a generator.
        ValueError: if the number of generators is not the number of samples.
    """
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
    if not isinstance(generator, Sequence):
        raise TypeError(
            f"Expected a torch.Generator, or one for each sample, got {type(generator).__name__} {generator!r}. Give "
            "torch.Generator().manual_seed(seed)."
        )
    if len(generator) != x.shape[0]:
        raise ValueError(f"Expected one generator per sample, {x.shape[0]}, got {len(generator)}.")
    return torch.stack([noise_like(sample, one) for sample, one in zip(x, generator, strict=True)])


def random_stream(*key: int) -> torch.Generator:
    """A generator on the CPU for a key of integers >= 0, such as (seed, number of the sample).

    Different keys of one length have different streams. Zeros at the end of a key do not change the stream.
    """
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))
