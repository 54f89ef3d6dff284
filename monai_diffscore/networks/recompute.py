r"""Activations recomputed sample by sample.

For samples that do not influence each other, :math:`y_i = f(x_i)`, the backward pass can visit one sample after the
other: compute f(x_i) again, pull its gradient back, forget it. The activations that exist at any time are those of one
sample, whatever the batch, and they fit in a processor's cache: on a CPU the step can take less time than without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def run_samplewise(module: nn.Module, *inputs: Tensor, size: int = 1) -> Tensor:
    """``module(*inputs)`` of inputs and output [B, ...], forward and backward ``size`` samples at a time.

    Args:
        module: samples must not influence each other, and nothing in it may be random.
        inputs: [B, ...] each.
        size: samples at a time.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    output: Tensor = _Samplewise.apply(module, size, len(inputs), *inputs, *parameters)
    return output


class _Samplewise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], size: int, count: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.size, ctx.count = function, size, count
        device = tensors[0].device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        ctx.save_for_backward(*tensors)
        output: Tensor | None = None
        for place in _slices(tensors[0], size):
            part = function(*(value[place] for value in tensors[:count]))
            if output is None:  # one tensor from the start: many small ones would tear the memory into pieces
                output = part.new_empty(len(tensors[0]), *part.shape[1:])
            output[place] = part
        assert output is not None, "an empty batch"
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, parameters = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needed = ctx.needs_input_grad[3 : 3 + ctx.count]
        found = [torch.zeros_like(value) if need else None for value, need in zip(inputs, needed, strict=True)]
        totals = [torch.zeros_like(parameter) for parameter in parameters]
        for place in _slices(inputs[0], ctx.size):
            parts = [v[place].detach().requires_grad_(n) for v, n in zip(inputs, needed, strict=True)]
            sources = [part for part, need in zip(parts, needed, strict=True) if need]
            pulled = _pull(ctx.function, parts, [*sources, *parameters], gradient[place], ctx.autocast)
            targets = [value[place] for value in found if value is not None] + totals
            for target, part in zip(targets, pulled, strict=True):
                if part is not None:
                    target.add_(part)
        return None, None, None, *found, *totals


def _slices(batch: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(batch), size)]


def _pull(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    sources: Sequence[Tensor],
    gradient: Tensor,
    autocast: tuple[str, torch.dtype, bool],
) -> tuple[Tensor | None, ...]:
    device, dtype, enabled = autocast
    with torch.enable_grad(), torch.autocast(device, dtype, enabled, cache_enabled=False):
        output = function(*inputs)
    return torch.autograd.grad(output, sources, gradient, allow_unused=True)
