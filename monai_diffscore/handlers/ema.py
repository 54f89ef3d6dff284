r"""Power-function exponential moving average of the weights.

.. math::  \beta_t = (1 - 1/t)^{\gamma + 1}, \qquad \hat\theta_t = \beta_t\,\hat\theta_{t-1} + (1 - \beta_t)\,\theta_t

The average covers a constant *share* of the training so far. One setting serves a run of a minute and one of a month;
with a constant decay of 0.9999, the average of 2,000 steps is still mostly the initial weights. The share is
:math:`\sigma_{rel}`, the standard deviation of the averaging profile relative to the training
time, :math:`\sigma_{rel}^2 = (\gamma+1)(\gamma+2)^{-2}(\gamma+3)^{-1}`.

Source: Karras et al. 2024, arXiv:2312.02696, Eq. 1-2 and Appendix C.4 (Eq. 123, 126, 127).
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def power_function_exponent(relative_length: float) -> float:
    r""":math:`\gamma` of a profile with :math:`\sigma_{rel}` = ``relative_length``, by its cubic equation.

    Raises:
        ValueError: unless 0 < relative_length < 0.28. (At :math:`12^{-1/2} = 0.289` the average is the plain mean,
            :math:`\gamma = 0`.)
    """
    if not 0 < relative_length < 0.28:
        raise ValueError(f"relative_length must lie between 0 and 0.28, got {relative_length}.")
    inverse = relative_length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerEMA:
    """Averages the trained weights in ``network``, a module of its own.

    Args:
        network: the trained network; of DistributedDataParallel, the inner module.
        relative_length: length of the average as a share of the training, usually 0.05 to 0.15.
        average: the module of the average, equal to the network at the start; None copies the network. Sharded networks
            cannot be deep-copied: pass one.
    """

    def __init__(self, network: nn.Module, relative_length: float = 0.1, average: nn.Module | None = None) -> None:
        self.source = network.module if isinstance(network, DistributedDataParallel) else network
        self.network = (copy.deepcopy(self.source) if average is None else average).requires_grad_(False).eval()
        self.exponent = power_function_exponent(relative_length)
        self.updates = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)

    @property
    def decay(self) -> float:
        r""":math:`\beta_t` of the last step."""
        return (1 - 1 / self.updates) ** (self.exponent + 1)

    @torch.no_grad()
    def update(self, _engine: Engine | None = None) -> None:
        """One step of the average."""
        self.updates += 1
        beta = self.decay
        averaged, current = self.network.state_dict(), self.source.state_dict()
        floating = [name for name, value in averaged.items() if value.is_floating_point()]
        torch._foreach_lerp_([averaged[name] for name in floating], [current[name] for name in floating], 1 - beta)
        for name in averaged.keys() - floating:
            averaged[name].copy_(current[name])

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = int(state["updates"])
