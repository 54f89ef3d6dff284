r"""Message passing over a graph of genes.

Each gene g of each sample is a token :math:`h_g`. A layer is

.. math::  m_g = \mathrm{FiLM}_e(\mathrm{norm}(h_g)), \qquad
           u_g = W_0 m_g + \sum_k \sum_{g'} A^{(k)}_{g g'} W_k m_{g'} + \sum_j Q_{gj} W_t\, t_j, \qquad
           h_g \leftarrow h_g + W_{out}\,\mathrm{SiLU}(u_g),

with the matrices :math:`A^{(k)} = D^{-1/2} A D^{-1/2}` of the graph, one for each relation (such as activation and
inhibition), and a few **global tokens** :math:`t_j = \sum_g P_{jg} m_g / \sqrt{G}`, which read all genes. (Two or three
layers of a graph reach two or three edges.) P and Q are learned.

The sums over neighbours are sparse products (:mod:`monai_diffscore.networks.sparse`) of features [genes, B H]. The
network never allocates a matrix [genes, genes], or a tensor of edges times features.

Gene sets are nodes, too. An edge between a gene and a set makes the gene a member. The first token of a set has no
value.

Sources: Kipf and Welling 2017, arXiv:1609.02907, Eq. 2 (the normalised sum; :math:`W_0` replaces its self-loops);
Schlichtkrull et al. 2018, arXiv:1703.06103, Eq. 2 (a matrix for each relation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import modulate, named_size, zero_init
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning
from monai_diffscore.networks.gene_mlp import GeneGate, check_profile
from monai_diffscore.networks.recompute import run_samplewise
from monai_diffscore.networks.sparse import SparseMatrix

#: constructor options by the name of the size
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 32, "depth": 2, "embedding_size": 64},
    "base": {"hidden_size": 64, "depth": 3, "embedding_size": 128},
    "large": {"hidden_size": 128, "depth": 4, "embedding_size": 256},
}


class PathwayGNN(nn.Module):
    """Raw network F for profiles on a graph: x [B, num_genes], c_noise [B] to [B, num_genes].

    It returns 0 before training. The graph is part of the state_dict: weights contain the graph of their training.

    Args:
        num_genes: number of genes, in the order of the data.
        edges: integers [2, E], pairs of nodes. Nodes 0 to num_genes - 1 are the genes, later nodes are gene sets.
            Edges are undirected. Repetitions count once; loops do not count.
        hidden_size: width of the token of a gene.
        depth: number of layers.
        condition: declared condition fields; None declares none. A concat field is [B, channels].
        checkpointing: True recomputes activations in the backward pass, sample by sample, for less memory and often
            less time.
        weights: weight > 0 of each edge, [E]; default 1. The largest weight of repeated edges counts.
        relations: kind of each edge, integers [E] from 0; default is one kind.
        num_sets: number of gene sets.
        num_tokens: number of global tokens; 0 is no token.
        embedding_size: width of the embedding of noise level and condition.
        gate_rank: rank of the gates of the genes (:class:`GeneGate`); 0 is no gate.

    Raises:
        ValueError: for edges that are not pairs of nodes, another number of weights or relations than edges, or sizes
            below 1. In the call: for x of another shape.
    """

    def __init__(
        self,
        num_genes: int,
        edges: Tensor,
        hidden_size: int = 64,
        depth: int = 3,
        condition: ConditionEncoder | None = None,
        checkpointing: bool = False,
        weights: Tensor | None = None,
        relations: Tensor | None = None,
        num_sets: int = 0,
        num_tokens: int = 4,
        embedding_size: int = 128,
        gate_rank: int = 8,
    ) -> None:
        super().__init__()
        if min(num_genes, hidden_size, depth) < 1 or min(num_sets, num_tokens, gate_rank) < 0:
            raise ValueError(
                "PathwayGNN expects num_genes, hidden_size and depth of at least 1, num_sets, num_tokens and gate_rank "
                f"of at least 0, got {num_genes}, {hidden_size}, {depth}, {num_sets}, {num_tokens} and {gate_rank}."
            )
        self.num_genes = num_genes
        self.checkpointing = checkpointing
        self.conditioning = NoiseConditioning(embedding_size, condition)
        graph = relation_matrices(num_genes + num_sets, edges, weights, relations)
        self.trunk = _Trunk(
            num_genes, graph, hidden_size, depth, embedding_size, num_tokens, self.conditioning.concat_channels
        )
        self.gate = GeneGate(num_genes, embedding_size, gate_rank) if gate_rank else None

    @classmethod
    def preset(cls, name: str, num_genes: int, edges: Tensor, **options: Any) -> PathwayGNN:
        """A network of a named size: "small", "base" or "large". Other options as of the constructor."""
        return cls(num_genes, edges, **{**named_size(PRESETS, name), **options})

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of a small valid input, without the batch."""
        return (self.num_genes,)

    def forward(self, x: Tensor, c_noise: Tensor, **condition: Tensor) -> Tensor:
        check_profile(self, x, self.num_genes)
        attached, embedding = self.conditioning(x, c_noise, condition)
        if self.checkpointing and self.training and torch.is_grad_enabled():
            output = run_samplewise(self.trunk, attached, embedding)
        else:
            output = self.trunk(attached, embedding)
        return output if self.gate is None else output + self.gate(x, embedding)


class _Trunk(nn.Module):
    """Maps values [B, num_genes + channels] and embedding [B, E] to [B, num_genes], with tokens [nodes, B, H]."""

    def __init__(
        self,
        num_genes: int,
        graph: Sequence[SparseMatrix],
        hidden_size: int,
        depth: int,
        embedding_size: int,
        num_tokens: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.num_genes = num_genes
        self.graph = nn.ModuleList(graph)
        nodes = graph[0].shape[0]
        self.num_sets = nodes - num_genes
        self.names = nn.Parameter(torch.randn(nodes, hidden_size))
        self.value = nn.Parameter(torch.randn(hidden_size))
        self.extra = nn.Linear(channels, hidden_size) if channels else None
        self.num_tokens = num_tokens
        if num_tokens:
            self.pool = nn.Parameter(torch.randn(num_tokens, num_genes))
            self.spread = nn.Parameter(torch.randn(num_genes, num_tokens) / math.sqrt(num_tokens))
        self.blocks = nn.ModuleList(
            _Layer(hidden_size, embedding_size, len(graph), num_tokens > 0) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.output = zero_init(nn.Linear(hidden_size, 1))

    def forward(self, attached: Tensor, embedding: Tensor) -> Tensor:
        h = self._tokens(attached)
        ways = (self.pool, self.spread) if self.num_tokens else None
        for block in self.blocks:
            h = block(h, embedding, self.graph, ways)
        output: Tensor = self.output(self.norm(h[: self.num_genes] if self.num_sets else h))
        return output[..., 0].T

    def _tokens(self, attached: Tensor) -> Tensor:
        """The first tokens [nodes, B, H]: a vector of the node, plus a common vector times the gene's value."""
        values = attached.T[: self.num_genes]
        values = F.pad(values, (0, 0, 0, self.num_sets)) if self.num_sets else values
        h = torch.addcmul(self.names[:, None], values[..., None], self.value)
        return h if self.extra is None else h + self.extra(attached[:, self.num_genes :])


class _Layer(nn.Module):
    def __init__(self, hidden_size: int, embedding_size: int, relations: int, tokens: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)  # FiLM scales and shifts
        self.film = zero_init(nn.Linear(embedding_size, 2 * hidden_size))
        self.own = nn.Linear(hidden_size, hidden_size)
        self.messages = nn.ModuleList(nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(relations))
        self.tokens = nn.Linear(hidden_size, hidden_size, bias=False) if tokens else None
        self.out = zero_init(nn.Linear(hidden_size, hidden_size))

    def forward(self, h: Tensor, embedding: Tensor, graph: nn.ModuleList, ways: tuple[Tensor, Tensor] | None) -> Tensor:
        m = modulate(self.norm(h), *self.film(embedding).chunk(2, dim=1))
        u = self.own(m)  # a new tensor, for in-place addition
        for matrix, message in zip(graph, self.messages, strict=True):
            # the layer runs before the sum: autograd then saves nothing for the sum
            u += matrix(message(m).flatten(1)).view(h.shape)
        if self.tokens is not None and ways is not None:
            u += self._global(m, *ways)
        return h + self.out(F.silu(u))

    def _global(self, m: Tensor, pool: Tensor, spread: Tensor) -> Tensor:
        """The messages of the global tokens to the genes, [nodes, B, H]; 0 for gene sets."""
        assert self.tokens is not None
        sets = len(m) - len(spread)
        genes = m[: len(spread)] if sets else m  # a slice costs a copy in the backward pass
        pooled = (pool / math.sqrt(len(spread))) @ genes.flatten(1)  # (tokens, B * H)
        messages = (spread @ self.tokens(pooled.unflatten(1, m.shape[1:])).flatten(1)).view(genes.shape)
        return F.pad(messages, (0, 0, 0, 0, 0, sets)) if sets else messages


def relation_matrices(
    nodes: int, edges: Tensor, weights: Tensor | None = None, relations: Tensor | None = None
) -> list[SparseMatrix]:
    r"""The symmetric :math:`D^{-1/2} A D^{-1/2}` of each relation, without loops and repetitions.

    Args:
        nodes: number of nodes.
        edges: integers [2, E], pairs of nodes.
        weights: > 0, [E]; default 1. The largest weight of repeated edges counts.
        relations: kind of each edge, integers [E] from 0; default is one kind.

    Raises:
        ValueError: for edges that are not pairs of nodes, or without one finite weight > 0 and one relation each.
    """
    if edges.ndim != 2 or len(edges) != 2 or edges.is_floating_point():
        raise ValueError(f"A graph expects edges [2, E] of integers, got {edges.dtype} {tuple(edges.shape)}.")
    count = edges.shape[1]
    weights = edges.new_ones(count, dtype=torch.float32) if weights is None else weights.float()
    relations = edges.new_zeros(count) if relations is None else relations
    if weights.shape != (count,) or relations.shape != (count,) or relations.is_floating_point():
        raise ValueError(
            f"A graph of {count} edges expects weights [{count}] and integer relations [{count}], got "
            f"{tuple(weights.shape)} and {relations.dtype} {tuple(relations.shape)}."
        )
    if count and not (float(weights.min()) > 0 and math.isfinite(float(weights.max())) and int(relations.min()) >= 0):
        raise ValueError(
            f"A graph expects finite weights > 0 and relations >= 0, got weights from {float(weights.min()):.4g} to "
            f"{float(weights.max()):.4g} and relations from {int(relations.min())}. Make a negative sign a relation."
        )
    number = 1 + int(relations.max()) if count else 1
    return [_normalised(nodes, edges[:, relations == k].long(), weights[relations == k]) for k in range(number)]


def _normalised(nodes: int, edges: Tensor, weights: Tensor) -> SparseMatrix:
    proper = edges[0] != edges[1]  # no loop
    low, high = edges[:, proper].amin(0), edges[:, proper].amax(0)
    if len(low) and not (int(low.min()) >= 0 and int(high.max()) < nodes):
        raise ValueError(
            f"A graph of {nodes} nodes expects edges between 0 and {nodes - 1}, got {int(low.min())} to "
            f"{int(high.max())}. Nodes from num_genes on are gene sets: set num_sets."
        )
    pairs, place = torch.unique(low * nodes + high, return_inverse=True)
    largest = weights.new_zeros(len(pairs)).scatter_reduce(0, place, weights[proper], "amax")
    low, high = pairs // nodes, pairs % nodes
    rows, columns, values = torch.cat([low, high]), torch.cat([high, low]), largest.repeat(2)
    degrees = values.new_zeros(nodes).index_add(0, rows, values)
    scale = degrees.clamp_min(torch.finfo(degrees.dtype).tiny).rsqrt()
    return SparseMatrix(torch.stack([rows, columns]), values * scale[rows] * scale[columns], (nodes, nodes))
