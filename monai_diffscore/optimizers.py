r"""An optimizer of two parts: Muon for matrices and convolutions, AdamW for all other parameters.

Muon sets all singular values of the momentum M of a weight matrix to (nearly) the same value,

.. math::  W \leftarrow W - \eta\, s\, U V^\top, \qquad M = U \Sigma V^\top, \qquad
           s = 0.2 \sqrt{\max(\mathrm{rows}, \mathrm{columns})},

so that all directions train at one speed. The factor s gives its step the size of a step of AdamW (Liu et al. 2025,
arXiv:2502.16982, Section 2.2; Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"). A
convolution is the matrix [out channels, in channels x kernel]. AdamW trains norms, biases, tokens, and matrices with
fewer than 16 rows or columns, such as the first and the last layer of many networks.

With it score networks reach a held-out denoising error in about half of the steps of AdamW (docs/BENCHMARKS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer


def adamw(
    params: Iterable[nn.Parameter],
    lr: float = 2e-3,
    adamw_ratio: float = 0.5,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
) -> AdamW:
    """AdamW at the learning rate ``adamw_ratio`` times ``lr``: as a part of :class:`MuonAdamW`, or for all parameters.

    Args:
        params: parameters to train.
        lr: learning rate of Muon.
        adamw_ratio: learning rate of AdamW over ``lr``.
        betas: decay of both moments.
        weight_decay: decoupled.
    """
    return AdamW(params, adamw_ratio * lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)


class MuonAdamW(Optimizer):
    """``torch.optim.Muon`` and ``torch.optim.AdamW`` with one step, one learning rate and one state.

    Args:
        params: parameters of the network. Do not replace their storage later: Muon works on views of it.
        lr: learning rate of Muon.
        adamw_ratio: learning rate of AdamW over ``lr``.
        momentum: of Muon.
        betas: of AdamW.
        weight_decay: of both, decoupled.
        smallest: number of rows and columns that a matrix needs for Muon.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 2e-3,
        adamw_ratio: float = 0.5,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        smallest: int = 16,
    ) -> None:
        trained = [p for p in params if p.requires_grad]
        matrices = [p for p in trained if p.ndim > 1 and min(len(p), p[0].numel()) >= smallest]
        matrix_ids = {id(p) for p in matrices}
        others = [p for p in trained if id(p) not in matrix_ids]
        self.views = [nn.Parameter(p.detach().view(len(p), -1)) for p in matrices]
        self.parts: list[Optimizer] = []
        groups: list[dict[str, Any]] = []
        if matrices:
            muon = Muon(self.views, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)
            groups.append({"params": matrices, "lr": lr})
        if others:
            self.parts.append(adamw(others, lr, adamw_ratio, betas, weight_decay))
            groups.append({"params": others, "lr": self.parts[-1].param_groups[0]["lr"]})
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Makes one step. Parameters without a gradient do not change."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.views:
            for view, parameter in zip(self.views, self.param_groups[0]["params"], strict=True):
                view.grad = None if parameter.grad is None else parameter.grad.reshape(view.shape)
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]  # schedulers write into self.param_groups
            part.step()
        for view in self.views:
            view.grad = None  # a kept reference would hold the memory of the gradient
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state.

        Raises:
            ValueError: if the state is that of another optimizer or network.
        """
        parts = state_dict.get("parts", ())
        if len(parts) != len(self.parts):
            raise ValueError(
                f"Expected the state of a MuonAdamW with {len(self.parts)} parts, got {len(parts)} (entries "
                f"{sorted(state_dict)}). Continue with the optimizer that the training began with."
            )
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "parts"})
        for part, state in zip(self.parts, parts, strict=True):
            part.load_state_dict(state)
