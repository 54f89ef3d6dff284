"""Gradients of bounded norm: one bad batch must not throw a training off its way."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from torch.optim import Optimizer


class ClipGradients:
    """Scales the gradients of all parameters together down to ``max_norm`` before each step of the optimizer.

    It hooks the optimizer's step rather than an event of the engine: there gradients are complete when several
    batches are accumulated, and a GradScaler has unscaled them (fused optimizers, which unscale inside their step,
    say by what). A GradScaler skips the steps whose gradients are not finite; any other such step ends the training
    before the weights are touched.

    Args:
        optimizer: whose parameters are clipped.
        max_norm: largest Euclidean norm of all gradients together; None only measures.
    Attributes:
        norm: of the last step, before clipping.
    Raises:
        FloatingPointError: if the norm is not finite.
    """

    def __init__(self, optimizer: Optimizer, max_norm: float | None = 1.0) -> None:
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"max_norm must be positive, got {max_norm}.")
        self.optimizer = optimizer
        self.max_norm = max_norm
        self.norm: torch.Tensor | None = None

    def attach(self, _engine: Engine) -> None:
        self.optimizer.register_step_pre_hook(self.clip)

    def clip(self, optimizer: Optimizer, *_arguments: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        scale = getattr(optimizer, "grad_scale", None)  # set by a GradScaler for the step of a fused optimizer
        if scale is None and not torch.isfinite(norm):
            raise FloatingPointError(
                f"Expected finite gradients, got a norm of {norm.item()}. The weights are as before this step. Lower "
                "the learning rate, or train in bfloat16 or float32."
            )
        self.norm = norm if scale is None else norm / scale
        if self.max_norm is not None:
            limit = self.max_norm if scale is None else float(self.max_norm * scale)
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
