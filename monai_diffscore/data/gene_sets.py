"""Reads gene sets from a GMT file as the modules of a gene attention.

Each set is a module. One more module has the genes of no set, so that the network sees every gene. Names match as for a
graph (:mod:`~monai_diffscore.data.gene_graph`); the log has the numbers of matched names.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_diffscore.data.gene_graph import Matching, read_gene_graph
from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)

#: name of the module of the genes of no set
REST = "genes in no set"


@dataclass(frozen=True)
class GeneSets:
    """Modules by name, and the places of their genes.

    Args:
        num_genes: G, of the data.
        members: name of each module to the places of its genes in the order of the data.
        matching: numbers of matched names.
    """

    num_genes: int
    members: Mapping[str, Sequence[int]]
    matching: Matching = field(default_factory=Matching)

    def __len__(self) -> int:
        """M, number of modules."""
        return len(self.members)

    @property
    def mask(self) -> Tensor:
        """Boolean [M, G]: the genes of each module."""
        mask = torch.zeros(len(self), self.num_genes, dtype=torch.bool)
        for row, places in zip(mask, self.members.values(), strict=True):
            row[list(places)] = True
        return mask

    def as_dict(self) -> dict[str, Any]:
        """The sets for JSON; see :meth:`of`."""
        return {"num_genes": self.num_genes, "members": {name: list(places) for name, places in self.members.items()}}

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> GeneSets | None:
        """The inverse of :meth:`as_dict`; None for a model without sets."""
        return None if content is None else cls(content["num_genes"], content["members"])


def read_gene_sets(source: str | Path | None, genes: Sequence[str], smallest_set: int = 2) -> GeneSets | None:
    """Reads the modules of ``genes`` from a GMT file; None without a file.

    Args:
        source: the file.
        genes: names in the order of the data.
        smallest_set: smallest number of genes of the data in a set.
    Raises:
        DataError: for a file of another kind, no set with genes of the data, or a single module, which has nothing to
            attend to.
    """
    if source is None:
        return None
    graph = read_gene_graph(source, genes, smallest_set=smallest_set)
    if graph.kinds != ("in set",):
        raise DataError(source, key="gene sets", expected="a file of gene sets (.gmt)", got="links between genes",
                        remedy="Give the GMT file; links are for pathway_gnn.")  # fmt: skip
    of_gene, of_set = graph.edges.tolist()
    members: dict[str, list[int]] = {name: [] for name in graph.sets}
    for gene, node in zip(of_gene, of_set, strict=True):
        members[graph.sets[node - len(genes)]].append(gene)
    rest = (graph.degrees[: len(genes)] == 0).nonzero().flatten().tolist()
    if rest:
        members[REST] = rest
    if len(members) < 2:
        raise DataError(source, key="gene sets", expected="at least two modules", got="one set that has all genes",
                        remedy="Give more sets.")  # fmt: skip
    logger.info(f"gene sets: {len(graph.sets)} modules, of {smallest_set} genes or more; {len(rest)} genes in no set")
    return GeneSets(len(genes), {name: sorted(places) for name, places in members.items()}, graph.matching)
