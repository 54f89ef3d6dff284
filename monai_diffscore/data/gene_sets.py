"""Gene sets as what the modules of a gene attention see: a GMT file over the genes of the data.

Each set is a module. Genes that are in no set are seen by one module more, so that nothing that was measured is lost.
Names are matched as for a graph (:mod:`~monai_diffscore.data.gene_graph`), and what does not match is in the log.
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

#: name of the module of the genes that are in no set
REST = "genes in no set"


@dataclass(frozen=True)
class GeneSets:
    """Modules by name, and the places of their genes.

    Args:
        num_genes: G, of the data.
        members: name of each module to the places of its genes in the order of the data.
        matching: how the names met.
    """

    num_genes: int
    members: Mapping[str, Sequence[int]]
    matching: Matching = field(default_factory=Matching)

    def __len__(self) -> int:
        """M, number of modules."""
        return len(self.members)

    @property
    def mask(self) -> Tensor:
        """Boolean [M, G]: which genes each module sees."""
        mask = torch.zeros(len(self), self.num_genes, dtype=torch.bool)
        for row, places in zip(mask, self.members.values(), strict=True):
            row[list(places)] = True
        return mask

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the inverse of :meth:`of`."""
        return {"num_genes": self.num_genes, "members": {name: list(places) for name, places in self.members.items()}}

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> GeneSets | None:
        """The inverse of :meth:`as_dict`; None, of a model without sets, stays None."""
        return None if content is None else cls(content["num_genes"], content["members"])


def read_gene_sets(source: str | Path | None, genes: Sequence[str], smallest_set: int = 2) -> GeneSets | None:
    """The modules that a GMT file makes of ``genes``; None without a file.

    Args:
        source: the file.
        genes: names in the order of the data.
        smallest_set: sets with fewer genes in the data are left out.
    Raises:
        DataError: if the file is no GMT, no set meets the genes, or all genes are in one set: a single module has
            nothing to attend to.
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
