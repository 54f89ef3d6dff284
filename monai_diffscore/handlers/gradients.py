"""Gradients of bounded norm: one bad batch must not throw a training off its way."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from torch.optim import Optimizer


class ClipGradients:
    """Scales the gradients of all parameters together down to ``max_norm`` before each step of the optimizer.

    It hooks the optimizer's step rather than an event of the engine: there gradients are complete when several
    batches are accumulated, and unscaled when a GradScaler is used. A norm that is not finite is left for the scaler,
    or the loss's own check, to see.

    Args:
        optimizer: whose parameters are clipped.
        max_norm: largest Euclidean norm of all gradients together; None only measures.
    Attributes:
        norm: of the last step, before clipping; a tensor, so that reading it is the only thing that waits for a GPU.
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
        limit = float("inf") if self.max_norm is None else self.max_norm
        self.norm = torch.nn.utils.clip_grad_norm_(parameters, limit).detach()
