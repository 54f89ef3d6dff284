r"""A residual multilayer perceptron for low-dimensional data and tables.

.. math::  h_{l+1} = h_l + W_2\,\mathrm{SiLU}\bigl((1 + \gamma_l(e))\,\mathrm{norm}(W_1 h_l) + \beta_l(e)\bigr)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import FiLM, zero_init
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning


class ScoreMLP(nn.Module):
    """Raw network F for vectors: x [B, features], c_noise [B] to [B, features]. Zero at the start.

    Args:
        features: number of columns.
        hidden_size: width of the residual stream.
        depth: number of residual blocks.
        condition: declared condition fields; None declares none. A concat field is [B, channels].
    """

    def __init__(
        self, features: int, hidden_size: int = 256, depth: int = 4, condition: ConditionEncoder | None = None
    ) -> None:
        super().__init__()
        self.features = features
        self.conditioning = NoiseConditioning(hidden_size, condition)
        self.input = nn.Linear(features + self.conditioning.concat_channels, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size) for _ in range(depth))
        self.output = zero_init(nn.Linear(hidden_size, features))

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        if x.shape[1:] != (self.features,):
            raise ValueError(
                f"ScoreMLP of {self.features} features expects x [B, {self.features}], got {tuple(x.shape)}."
            )
        x, embedding = self.conditioning(x, c_noise, condition)
        h = self.input(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.output(F.silu(h))


class _Block(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.film = FiLM(hidden_size, hidden_size)
        self.linear_out = zero_init(nn.Linear(hidden_size, hidden_size))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.linear_out(F.silu(self.film(self.norm(self.linear_in(h)), embedding)))
