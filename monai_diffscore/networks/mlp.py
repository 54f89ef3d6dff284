r"""A residual multilayer perceptron for low-dimensional data and tables.

.. math::  h_{l+1} = h_l + W_2\,\mathrm{SiLU}\bigl((1 + \gamma_l(e))\,\mathrm{norm}(W_1 h_l) + \beta_l(e)\bigr)
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import FiLM, named_size, run_checkpointed, zero_init
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning

#: constructor options by the name of the size
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 128, "depth": 4},
    "base": {"hidden_size": 256, "depth": 4},
    "large": {"hidden_size": 1024, "depth": 8},
}


class ScoreMLP(nn.Module):
    """Raw network F for vectors: x [B, features], c_noise [B] to [B, features]. It returns 0 before training.

    Args:
        features: number of columns of x.
        hidden_size: width of the residual stream.
        depth: number of residual blocks.
        condition: declared condition fields; None declares none. A concat field is [B, channels].
        checkpointing: True recomputes activations in the backward pass.
    Raises:
        ValueError: in the call: for x of another shape.
    """

    def __init__(
        self,
        features: int,
        hidden_size: int = 256,
        depth: int = 4,
        condition: ConditionEncoder | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.checkpointing = checkpointing
        self.conditioning = NoiseConditioning(hidden_size, condition)
        self.input = nn.Linear(features + self.conditioning.concat_channels, hidden_size)
        self.blocks = nn.ModuleList(_Block(hidden_size) for _ in range(depth))
        self.output = zero_init(nn.Linear(hidden_size, features))

    @classmethod
    def preset(cls, name: str, features: int, **options: Any) -> ScoreMLP:
        """A network of a named size: "small", "base" or "large". Other options as of the constructor."""
        return cls(features, **{**named_size(PRESETS, name), **options})

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of a small valid input, without the batch."""
        return (self.features,)

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        if x.shape[1:] != (self.features,):
            raise ValueError(
                f"ScoreMLP of {self.features} features expects x [B, {self.features}], got {tuple(x.shape)}."
            )
        x, embedding = self.conditioning(x, c_noise, condition)
        h = self.input(x)
        for block in self.blocks:
            h = run_checkpointed(block, h, embedding, checkpointing=self.checkpointing)
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
