r"""Attention among genes, at a cost linear in their number.

Every gene g is a token that depends on its value :math:`x_g` (Gorishniy et al. 2021, arXiv:2106.11959):

.. math::  \tau_g = e_g + x_g u_g .

(Attention over a cell as one vector is attention over a single token. It does nothing: the softmax of one number is 1.)

M learned **module** queries :math:`q_m` read the genes (the first half of the induced set attention of Lee et al. 2019,
arXiv:1810.00825, Eq. 9). The modules attend to each other. The genes read the modules:

.. math::  h_m = \sum_g \operatorname{softmax}_g\!\bigl(q_m^\top K \tau_g / \sqrt d\bigr)\, V \tau_g, \qquad
           h \leftarrow \mathrm{blocks}(h, \mathrm{FiLM}(\sigma, \mathrm{condition})), \qquad
           F_g = \sum_m \operatorname{softmax}_m\!\bigl((Q \tau_g)^\top k_m / \sqrt d\bigr)\, w_g^\top v_m .

A token is affine in one number, and so is its logit: :math:`q_m^\top K \tau_g = a_{mg} + b_{mg} x_g`, with the same a
and b for all cells. The network never allocates a token, key or value of a gene for each cell; time and memory are
proportional to B M G.

A gene set (a row of a GMT file) can select the genes of a module: the logits of all other genes are minus infinity.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import FiLM, SelfAttention, named_size, run_checkpointed, zero_init
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning

#: constructor options by the name of the size
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 64, "num_modules": 16, "depth": 2},
    "base": {"hidden_size": 128, "num_modules": 32, "depth": 4},
    "large": {"hidden_size": 512, "num_modules": 64, "depth": 8},
}


class GeneTokens(nn.Module):
    r"""The identity :math:`e_g` and the slope :math:`u_g` of the token of each gene.

    Args:
        num_genes: G.
        hidden_size: heads * d.
        num_heads: number of heads of the attention.
    """

    def __init__(self, num_genes: int, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.embedding = nn.Parameter(torch.randn(2, num_genes, hidden_size))

    def project(self, linear: nn.Linear) -> Tensor:
        """The projection of e_g and u_g by ``linear``, [2, heads, G, d]. Its bias is added to e_g alone."""
        projected = F.linear(self.embedding, linear.weight)
        if linear.bias is not None:
            projected = torch.stack([projected[0] + linear.bias, projected[1]])
        return projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class GenePooling(nn.Module):
    """Maps values of genes [B, G] to module tokens [B, hidden_size, M], by multi-head cross-attention.

    Args:
        num_genes: G.
        hidden_size: size of a token.
        num_modules: M, at least 2.
        num_heads: number of heads, a divisor of hidden_size.
        gene_sets: optional boolean [M, G]; row m selects the genes of module m.
    Raises:
        ValueError: for sizes or gene sets that do not fit together.
    """

    gene_sets: Tensor | None

    def __init__(
        self,
        num_genes: int,
        hidden_size: int,
        num_modules: int,
        num_heads: int = 4,
        gene_sets: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_sizes(num_genes, hidden_size, num_modules, num_heads, gene_sets)
        self.tokens = GeneTokens(num_genes, hidden_size, num_heads)
        self.queries = nn.Parameter(torch.randn(num_heads, num_modules, hidden_size // num_heads))
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.register_buffer("gene_sets", gene_sets)
        self.norm = nn.LayerNorm(hidden_size)
        self.module = nn.Parameter(0.02 * torch.randn(num_modules, hidden_size))

    def attention(self, x: Tensor) -> Tensor:
        """The weights of the genes for each module, [B, heads, M, G]. Their sum over the genes is 1."""
        keys = self.tokens.project(self.key)
        offset, slope = self.queries @ keys.mT / math.sqrt(keys.shape[-1])  # each (heads, M, G)
        logits = offset + slope * x[:, None, None, :]
        if self.gene_sets is not None:
            logits = logits.masked_fill(~self.gene_sets, -torch.inf)
        return logits.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.attention(x)
        identity, slope = self.tokens.project(self.value)
        pooled = weights @ identity + (weights * x[:, None, None, :]) @ slope  # (B, heads, M, d)
        pooled = pooled.transpose(1, 2).flatten(2)  # (B, M, hidden)
        return (self.norm(pooled) + self.module).mT


class GeneReadout(nn.Module):
    """Maps module tokens [B, hidden_size, M] and values of genes x [B, G] to one number for each gene [B, G].

    Arguments as of :class:`GenePooling`.
    """

    def __init__(self, num_genes: int, hidden_size: int, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.tokens = GeneTokens(num_genes, hidden_size, num_heads)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.weight = nn.Parameter(torch.zeros(num_heads, num_genes, hidden_size // num_heads))
        self.bias = nn.Parameter(torch.zeros(num_genes))

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        key, value = self.key_value(self.norm(h.mT)).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        identity, slope = self.tokens.project(self.query) / math.sqrt(key.shape[-1])
        logits = identity @ key.mT + x[:, None, :, None] * (slope @ key.mT)  # (B, heads, G, M)
        return (logits.softmax(-1) * (self.weight @ value.mT)).sum((1, 3)) + self.bias


class ModuleBlock(nn.Module):
    """Self-attention among modules, then a residual perceptron with FiLM. It keeps the shape [B, hidden_size, M]."""

    def __init__(
        self, hidden_size: int, num_heads: int, embedding_size: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(hidden_size, hidden_size // num_heads)
        self.norm = nn.LayerNorm(hidden_size)
        self.linear_in = nn.Linear(hidden_size, 2 * hidden_size)
        self.film = None if embedding_size is None else FiLM(embedding_size, 2 * hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.linear_out = zero_init(nn.Linear(2 * hidden_size, hidden_size))

    def forward(self, h: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.attention(h)
        inner = self.linear_in(self.norm(h.mT)).mT
        if self.film is not None and embedding is not None:
            inner = self.film(inner, embedding)
        return h + self.linear_out(self.dropout(F.silu(inner.mT))).mT


class SingleCellNet(nn.Module):
    """Raw network F for cells: x [B, genes], c_noise [B] to [B, genes]. It returns 0 before training.

    Args:
        num_genes: number of genes, or of coordinates of a latent space.
        hidden_size: size of a module token.
        num_modules: M, number of modules; with ``gene_sets``, the number of sets.
        depth: number of blocks of self-attention among the modules.
        num_heads: number of heads of all attentions, a divisor of hidden_size.
        gene_sets: optional boolean [M, genes]; row m selects the genes of module m.
        condition: declared condition fields, such as cell type and batch; None declares none. The modules read the
            channels of a concat field [B, channels] as further genes.
        dropout: probability in the residual perceptrons.
        checkpointing: True recomputes activations in the backward pass.

    Raises:
        ValueError: for sizes or gene sets that do not fit together. In the call: for x of another shape.
    """

    def __init__(
        self,
        num_genes: int,
        hidden_size: int = 128,
        num_modules: int = 32,
        depth: int = 4,
        num_heads: int = 4,
        gene_sets: Tensor | None = None,
        condition: ConditionEncoder | None = None,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.num_genes = num_genes
        self.checkpointing = checkpointing
        self.conditioning = NoiseConditioning(hidden_size, condition)
        channels = self.conditioning.concat_channels
        if gene_sets is not None and channels:  # all modules read the concat fields
            gene_sets = torch.cat([gene_sets, gene_sets.new_ones(num_modules, channels)], 1)
        self.pooling = GenePooling(num_genes + channels, hidden_size, num_modules, num_heads, gene_sets)
        self.embed = nn.Linear(hidden_size, hidden_size)
        self.blocks = nn.ModuleList(ModuleBlock(hidden_size, num_heads, hidden_size, dropout) for _ in range(depth))
        self.readout = GeneReadout(num_genes, hidden_size, num_heads)

    @classmethod
    def preset(cls, name: str, num_genes: int, **options: Any) -> SingleCellNet:
        """A network of a named size: "small", "base" or "large". Other options as of the constructor."""
        return cls(num_genes, **{**named_size(PRESETS, name), **options})

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of a small valid input, without the batch."""
        return (self.num_genes,)

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        if x.shape[1:] != (self.num_genes,):
            raise ValueError(
                f"SingleCellNet of {self.num_genes} genes expects x [B, {self.num_genes}], got {tuple(x.shape)}."
            )
        values, embedding = self.conditioning(x, c_noise, condition)
        h = run_checkpointed(self.pooling, values, checkpointing=self.checkpointing)
        h = h + self.embed(embedding)[:, :, None]
        for block in self.blocks:
            h = run_checkpointed(block, h, embedding, checkpointing=self.checkpointing)
        return run_checkpointed(self.readout, h, x, checkpointing=self.checkpointing)


def check_sizes(
    num_genes: int, hidden_size: int, num_modules: int, num_heads: int, gene_sets: Tensor | None = None
) -> None:
    """Raises a ValueError for sizes or gene sets of a gene attention that do not fit together."""
    if num_modules < 2 or hidden_size % num_heads:
        raise ValueError(
            f"Attention among genes expects at least two modules (one does nothing) and a hidden_size divisible by "
            f"num_heads, got {num_modules} modules, hidden_size {hidden_size} and {num_heads} heads."
        )
    if gene_sets is not None and (
        gene_sets.shape != (num_modules, num_genes) or gene_sets.dtype != torch.bool or not gene_sets.any(1).all()
    ):
        raise ValueError(
            f"Expected gene_sets boolean [modules, genes] = [{num_modules}, {num_genes}] with at least one gene in "
            f"each set, got {gene_sets.dtype} {tuple(gene_sets.shape)} with {int((~gene_sets.bool().any(-1)).sum())} "
            "empty sets. Remove the sets without a measured gene."
        )
