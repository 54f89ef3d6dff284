r"""Recomputation of activations, sample by sample.

For samples that do not influence each other, :math:`y_i = f(x_i)`, the backward pass visits one sample after the other:
it computes f(x_i) again, computes its gradient, and frees it. The memory of activations is that of one sample, and does
not depend on the batch size. These activations can fit in the cache of a processor: on a CPU a step can then be faster
than without recomputation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def run_samplewise(module: nn.Module, *inputs: Tensor, size: int = 1) -> Tensor:
    """``module(*inputs)`` [B, ...]. It computes forward and backward passes for ``size`` samples at a time.

    Args:
        module: without randomness. Samples must not influence each other.
        inputs: [B, ...] each.
        size: number of samples at a time.
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
            if output is None:  # one tensor from the start: many small tensors would fragment the memory
                output = part.new_empty(len(tensors[0]), *part.shape[1:])
            output[place] = part
        assert output is not None, "an empty batch"
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, parameters = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        needs = ctx.needs_input_grad[3 : 3 + ctx.count]
        input_grads = [torch.zeros_like(value) if need else None for value, need in zip(inputs, needs, strict=True)]
        parameter_grads = [torch.zeros_like(parameter) for parameter in parameters]
        for place in _slices(inputs[0], ctx.size):
            parts = [v[place].detach().requires_grad_(n) for v, n in zip(inputs, needs, strict=True)]
            sources = [part for part, need in zip(parts, needs, strict=True) if need]
            grads = _gradients(ctx.function, parts, [*sources, *parameters], gradient[place], ctx.autocast)
            totals = [value[place] for value in input_grads if value is not None] + parameter_grads
            for total, grad in zip(totals, grads, strict=True):
                if grad is not None:
                    total.add_(grad)
        return None, None, None, *input_grads, *parameter_grads


def _slices(batch: Tensor, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(batch), size)]


def _gradients(
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
