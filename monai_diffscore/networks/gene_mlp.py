r"""A residual multilayer perceptron for expression profiles of tens of thousands of genes.

.. math::  h_0 = W_{up} W_{in} x, \qquad
           h_{l+1} = h_l + W_2\,\mathrm{SiLU}\bigl(W_1\,\mathrm{FiLM}_e(\mathrm{norm}(h_l))\bigr), \qquad
           F = W_{out} W_{down}\,\mathrm{norm}(h_L) + (P\, s(e)) \odot x .

A **bottleneck** splits the two matrices of the size of the genome. Their cost is linear in the number of genes, and
small compared with the blocks. A bottleneck loses the part of x outside its span, which is most of x at low noise. The
**gate** P s(e), one number for each gene and embedding, restores this part. This form is exact for the factor model
:math:`x_0 \sim N(0, \Lambda\Lambda^\top + \Psi)` with diagonal :math:`\Psi`: its denoiser
:math:`D = (\Lambda\Lambda^\top + \Psi)(\Lambda\Lambda^\top + \Psi + \sigma^2)^{-1} x` is a diagonal plus a matrix of
low rank (Woodbury), and so is F.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import FiLM, named_size, run_checkpointed, zero_init
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning

#: constructor options by the name of the size
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 512, "depth": 4, "bottleneck": 128, "embedding_size": 128},
    "base": {"hidden_size": 2048, "depth": 6, "bottleneck": 512, "embedding_size": 512},
    "large": {"hidden_size": 4096, "depth": 8, "bottleneck": 1024, "embedding_size": 1024},
}


class GeneResidualMLP(nn.Module):
    """Raw network F for profiles: x [B, num_genes], c_noise [B] to [B, num_genes]. It returns 0 before training.

    Args:
        num_genes: number of genes, in the order of the data.
        hidden_size: width of the residual stream.
        depth: number of residual blocks.
        condition: declared condition fields; None declares none. A concat field is [B, channels].
        checkpointing: True recomputes activations in the backward pass.
        bottleneck: width between the genes and the residual stream, at the input and at the output.
        embedding_size: width of the embedding of noise level and condition.
        gate_rank: rank of the gates of the genes, as functions of the embedding; 0 is no gate.
        dropout: share of dropped hidden units of a block in training, for small data.

    Raises:
        ValueError: for a size below 1, or dropout outside [0, 1). In the call: for x of another shape.
    """

    def __init__(
        self,
        num_genes: int,
        hidden_size: int = 2048,
        depth: int = 6,
        condition: ConditionEncoder | None = None,
        checkpointing: bool = False,
        bottleneck: int = 512,
        embedding_size: int = 512,
        gate_rank: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(num_genes, hidden_size, depth, bottleneck) < 1 or gate_rank < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "GeneResidualMLP expects num_genes, hidden_size, depth and bottleneck of at least 1, gate_rank of at "
                f"least 0 and dropout in [0, 1), got {num_genes}, {hidden_size}, {depth}, {bottleneck}, {gate_rank} "
                f"and {dropout}."
            )
        self.num_genes = num_genes
        self.checkpointing = checkpointing
        self.conditioning = NoiseConditioning(embedding_size, condition)
        self.input = nn.Sequential(
            nn.Linear(num_genes + self.conditioning.concat_channels, bottleneck), nn.Linear(bottleneck, hidden_size)
        )
        self.blocks = nn.ModuleList(_Block(hidden_size, embedding_size, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden_size)
        self.output = nn.Sequential(nn.Linear(hidden_size, bottleneck), zero_init(nn.Linear(bottleneck, num_genes)))
        self.gate = GeneGate(num_genes, embedding_size, gate_rank) if gate_rank else None

    @classmethod
    def preset(cls, name: str, num_genes: int, **options: Any) -> GeneResidualMLP:
        """A network of a named size: "small", "base" or "large". Other options as of the constructor."""
        return cls(num_genes, **{**named_size(PRESETS, name), **options})

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of a small valid input, without the batch."""
        return (self.num_genes,)

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        check_profile(self, x, self.num_genes)
        attached, embedding = self.conditioning(x, c_noise, condition)
        h = self.input(attached)
        for block in self.blocks:
            h = run_checkpointed(block, h, embedding, checkpointing=self.checkpointing)
        output = self.output(self.norm(h))
        return output if self.gate is None else output + self.gate(x, embedding)


class GeneGate(nn.Module):
    r""":math:`(P\, s(e)) \odot x` of x [B, num_genes] and e [B, embedding_size]; 0 before training.

    Args:
        num_genes: number of genes.
        embedding_size: width of e.
        rank: number of columns of P. The gate of a gene is a mixture of this number of functions of e.
    """

    def __init__(self, num_genes: int, embedding_size: int, rank: int) -> None:
        super().__init__()
        self.loadings = nn.Parameter(torch.randn(num_genes, rank) / math.sqrt(rank))
        self.shapes = zero_init(nn.Linear(embedding_size, rank))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return F.linear(self.shapes(embedding), self.loadings) * x


class _Block(nn.Module):
    def __init__(self, hidden_size: int, embedding_size: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.film = FiLM(embedding_size, hidden_size)
        self.linear_in = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.linear_out = zero_init(nn.Linear(hidden_size, hidden_size))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.linear_out(self.dropout(F.silu(self.linear_in(self.film(self.norm(h), embedding)))))


def check_profile(network: nn.Module, x: Tensor, num_genes: int) -> None:
    """Raises a ValueError unless x is [B, num_genes]."""
    if x.ndim != 2 or x.shape[1] != num_genes:
        raise ValueError(
            f"{type(network).__name__} of {num_genes} genes expects x [B, {num_genes}], got {tuple(x.shape)}. Order "
            "the genes of the data as in the training, and include missing genes."
        )
