"""A small example of every network, for the contract of the tests and for ``scripts/check_cuda``.

Add a row for a new network: the tests and ``scripts/check_cuda`` then check it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_diffscore.networks.dit import ScoreDiT
from monai_diffscore.networks.gene_mlp import GeneResidualMLP
from monai_diffscore.networks.hierarchical_unet import HierarchicalUNet
from monai_diffscore.networks.mlp import ScoreMLP
from monai_diffscore.networks.pathway_gnn import PathwayGNN
from monai_diffscore.networks.single_cell import SingleCellNet
from monai_diffscore.networks.unet import ScoreUNet

#: a graph of six genes (the last one has no neighbour) and two gene sets, [2, E]
EDGES = torch.tensor([[0, 1, 2, 3, 0, 4], [1, 2, 3, 4, 6, 7]])
RELATIONS = torch.tensor([0, 1, 0, 0, 0, 0])


class Example(NamedTuple):
    """One row of :data:`EXAMPLES`."""

    #: ``build(width=1, edge=1, **options)`` returns the network, ``width`` times as wide, for shape ``shape_at(edge)``
    build: Callable[..., nn.Module]
    #: shape of the smallest sample, without the batch
    shape: tuple[int, ...]

    def shape_at(self, edge: int = 1) -> tuple[int, ...]:
        """The shape of a sample with ``edge`` times as many genes, or voxels along each axis."""
        if len(self.shape) == 1:
            return (edge * self.shape[0],)
        return (self.shape[0], *[edge * size for size in self.shape[1:]])


def mlp(width: int = 1, edge: int = 1, **options: Any) -> ScoreMLP:
    """A network for 6 features."""
    sizes: dict[str, Any] = {"hidden_size": 32 * width, "depth": 2}
    return ScoreMLP(6 * edge, **{**sizes, **options})


def gene_mlp(width: int = 1, edge: int = 1, **options: Any) -> GeneResidualMLP:
    """A network for 6 genes."""
    sizes: dict[str, Any] = {
        "hidden_size": 24 * width,
        "depth": 2,
        "bottleneck": 8 * width,
        "embedding_size": 32 * width,
    }
    return GeneResidualMLP(6 * edge, **{**sizes, **options})


def pathway_gnn(width: int = 1, edge: int = 1, **options: Any) -> PathwayGNN:
    """A network for 6 genes on :data:`EDGES`. A larger ``edge`` gives copies of this graph."""
    sizes: dict[str, Any] = {"hidden_size": 16 * width, "depth": 2, "embedding_size": 32 * width}
    graph: dict[str, Any] = {"num_sets": 2 * edge, "relations": RELATIONS.repeat(edge)}
    return PathwayGNN(6 * edge, copies_side_by_side(edge), **{**sizes, **graph, **options})


def copies_side_by_side(count: int) -> Tensor:
    """``count`` copies of :data:`EDGES`: all genes first, then all gene sets."""
    is_set = EDGES >= 6
    copies = [torch.where(is_set, EDGES + 6 * (count - 1) + 2 * copy, EDGES + 6 * copy) for copy in range(count)]
    return torch.cat(copies, dim=1)


def single_cell(width: int = 1, edge: int = 1, **options: Any) -> SingleCellNet:
    """A network for 6 genes."""
    sizes: dict[str, Any] = {"hidden_size": 32 * width, "num_modules": 4, "depth": 2}
    return SingleCellNet(6 * edge, **{**sizes, **options})


def unet(dims: int, width: int = 1, edge: int = 1, **options: Any) -> ScoreUNet:
    """A network for 2 channels. It takes any ``edge``."""
    sizes: dict[str, Any] = {
        "channels": (8 * width, 16 * width),
        "attention_levels": (False, True),
        "num_res_blocks": 1,
    }
    return ScoreUNet(dims, 2, 2, **{**sizes, "num_head_channels": 8, **options})


def dit(dims: int, width: int = 1, edge: int = 1, **options: Any) -> ScoreDiT:
    """A network for 2 channels, with patches of 2."""
    sizes: dict[str, Any] = {
        "input_size": 8 * edge,
        "patch_size": 2,
        "hidden_size": 24 * width,
        "depth": 2,
        "num_heads": 2,
    }
    return ScoreDiT(dims, 2, **{**sizes, **options})


def hierarchical(dims: int, width: int = 1, edge: int = 1, **options: Any) -> HierarchicalUNet:
    """A network for 2 channels. It takes any ``edge``."""
    sizes: dict[str, Any] = {"channels": (8 * width, 16 * width), "num_head_channels": 8}
    return HierarchicalUNet(dims, 2, 2, **{**sizes, **options})


def _row(function: Callable[..., nn.Module], shape: tuple[int, ...], *dims: int, **fixed: Any) -> Example:
    def build(width: int = 1, edge: int = 1, **options: Any) -> nn.Module:
        return function(*dims, width=width, edge=edge, **{**options, **fixed})

    return Example(build, shape)


EXAMPLES: dict[str, Example] = {
    "mlp": _row(mlp, (6,)),
    "gene_mlp": _row(gene_mlp, (6,)),
    "pathway_gnn": _row(pathway_gnn, (6,)),
    "pathway_gnn_samplewise": _row(pathway_gnn, (6,), checkpointing=True),
    "single_cell": _row(single_cell, (6,)),
    "unet1d": _row(unet, (2, 16), 1),
    "unet2d": _row(unet, (2, 8, 12), 2),
    "unet3d": _row(unet, (2, 8, 4, 8), 3),
    "dit1d": _row(dit, (2, 16), 1),
    "dit2d": _row(dit, (2, 8, 12), 2),
    "dit3d": _row(dit, (2, 8, 4, 8), 3),
    "dit2d_table": _row(dit, (2, 8, 12), 2, position="table"),
    "dit3d_windows": _row(dit, (2, 8, 4, 8), 3, window_size=2, qk_norm=False),
    "hierarchical1d": _row(hierarchical, (2, 16), 1),
    "hierarchical2d": _row(hierarchical, (2, 8, 12), 2),
    "hierarchical3d": _row(hierarchical, (2, 8, 4, 8), 3),
}


def awaken(network: nn.Module) -> nn.Module:
    """Replaces the initial zeros of the network by noise, and returns it: a zero layer hides the layers before it."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return network
