"""Gradients of bounded norm, so that one bad batch does not derail a training."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine
from torch.optim import Optimizer

from monai_diffscore.engines import ScoreTrainer
from monai_diffscore.losses import FiniteWatch
from monai_diffscore.sharding import total_norm


class ClipGradients:
    """Scales the gradients of all parameters together down to ``max_norm`` before each step of the optimizer.

    It hooks the optimizer's step, not an event of the engine. There the gradients of accumulated batches are complete,
    and a GradScaler has unscaled them (a fused optimizer unscales inside its step and states the scale). A GradScaler
    skips a step whose gradients are not finite. Without one such a step ends the training: on a CPU before the weights
    change, elsewhere within 16 steps and before a checkpoint (see :class:`~monai_diffscore.losses.FiniteWatch`).

    Args:
        optimizer: the optimizer whose gradients are clipped.
        max_norm: largest Euclidean norm of all gradients together; None only measures.
    Attributes:
        norm: norm in the last step, before clipping.
    Raises:
        NotFiniteError: if the norm is not finite.
    """

    def __init__(self, optimizer: Optimizer, max_norm: float | None = 1.0) -> None:
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"max_norm must be positive, got {max_norm}.")
        self.optimizer = optimizer
        self.max_norm = max_norm
        self.norm: torch.Tensor | None = None
        self.watch = FiniteWatch(_describe_not_finite)

    def attach(self, engine: Engine) -> None:
        if isinstance(engine, ScoreTrainer):
            self.watch.clock = lambda: engine.state.iteration
            engine.watches.append(self.watch)
        self.optimizer.register_step_pre_hook(self.clip)

    def clip(self, optimizer: Optimizer, *_arguments: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm([p.grad for p in parameters if p.grad is not None])
        scale = getattr(optimizer, "grad_scale", None)  # a GradScaler sets it for the step of a fused optimizer
        if scale is None:
            self.watch.add(norm)
        self.norm = norm if scale is None else norm / scale
        if self.max_norm is not None:
            limit = self.max_norm if scale is None else float(self.max_norm * scale)
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)


def _describe_not_finite(norm: torch.Tensor) -> str:
    untouched = "The weights are as before this step. " if norm.device.type == "cpu" else ""
    return (
        f"Expected finite gradients, got a norm of {norm.item()}. {untouched}Lower the learning rate, or train in "
        "bfloat16 or float32."
    )
