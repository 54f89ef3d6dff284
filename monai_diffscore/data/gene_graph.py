r"""Reads a graph over the genes of a data set from published links between names.

==================  ===================================================================================  ===============
file                a row                                                                                relation
==================  ===================================================================================  ===============
``.tsv .csv .txt``  two names, optionally a weight and a sign; the first row names the columns           one, or by sign
STRING links        ``protein1 protein2 ... combined_score`` (0 to 1000), also ``.gz``                   one
``.sif``            source, kind of interaction, target, further targets                                 by kind
``.gmt``            name of a gene set, description, its genes: an edge from each gene to the set        "in set"
==================  ===================================================================================  ===============

A name matches a gene of the data exactly, else by a table of aliases, else without the version of an Ensembl id (after
the point) or the species of a STRING id (before the point). :class:`Matching` counts and names the names without a
match; they are not guessed. A gene without an edge stays in the graph.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.data.gene_links import Links, read_aliases, read_links
from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Matching:
    """Numbers of matches between the names of a file and the genes of the data.

    Args:
        links: links in the file, of at least the minimum weight.
        kept: links with both ends among the genes.
        exact, by_alias: names that match a gene exactly, and by an alias or a shortened id.
        unmatched: names without a match, in the order of the file.
        connected: genes with an edge.
        genes: genes of the data.
    """

    links: int = 0
    kept: int = 0
    exact: int = 0
    by_alias: int = 0
    unmatched: tuple[str, ...] = ()
    connected: int = 0
    genes: int = 0

    def __str__(self) -> str:
        names = f", such as {', '.join(self.unmatched[:5])}" if self.unmatched else ""
        return (
            f"{self.kept} of {self.links} links kept; {self.exact} names matched, {self.by_alias} more by alias, "
            f"{len(self.unmatched)} not{names}; {self.connected} of {self.genes} genes have an edge"
        )


@dataclass(frozen=True)
class GeneGraph:
    """Undirected edges between genes, and between genes and gene sets.

    Args:
        genes: names of the nodes 0 to G - 1, in the order of the data.
        sets: names of the nodes from G on.
        edges: int64 [2, E].
        weights: float32 [E], > 0.
        relations: int64 [E], numbers of ``kinds``.
        kinds: names of the relations.
        matching: numbers of matched names.
    """

    genes: tuple[str, ...]
    edges: Tensor
    weights: Tensor
    relations: Tensor
    kinds: tuple[str, ...] = ("link",)
    sets: tuple[str, ...] = ()
    matching: Matching = field(default_factory=Matching)

    @property
    def degrees(self) -> Tensor:
        """Number of edges of each node, int64 [G + sets]."""
        return torch.bincount(self.edges.flatten(), minlength=len(self.genes) + len(self.sets))

    def permuted(self, seed: int = 0, rounds: int = 30) -> GeneGraph:
        """A random graph with the same degrees, of every node and in each relation, as a control.

        Pairs of edges a-b and c-d become a-d and c-b, except where that gives a loop or an existing edge, in ``rounds``
        rounds over all edges. Weights keep the place of their edge. Source: Maslov and Sneppen 2002, Science 296, 910.
        """
        generator = np.random.default_rng(seed)
        nodes = len(self.genes) + len(self.sets)
        original = self.edges.numpy()
        edges = original.copy()
        # edges swap within their relation, and within gene-gene or gene-set edges
        classes = 2 * self.relations.numpy() + (edges.max(0) >= len(self.genes)) if edges.size else np.zeros(0, int)
        for kind in np.unique(classes):
            place = np.flatnonzero(classes == kind)
            edges[:, place] = _swap(original[:, place], nodes, generator, rounds, flip=kind % 2 == 0)
        new = 1 - float(np.isin(_keys(edges, nodes), _keys(original, nodes)).mean()) if edges.size else 0.0
        logger.warning(
            f"CONTROL: the graph is permuted (seed {seed}): degrees are kept, {new:.1%} of the edges are new"
        )
        return replace(self, edges=torch.from_numpy(edges))

    def as_dict(self) -> dict[str, Any]:
        """The graph for JSON, without the matching; see :meth:`of`."""
        return {
            "genes": list(self.genes),
            "sets": list(self.sets),
            "kinds": list(self.kinds),
            "edges": self.edges.tolist(),
            "weights": [round(weight, 6) for weight in self.weights.tolist()],
            "relations": self.relations.tolist(),
        }

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> GeneGraph:
        """The inverse of :meth:`as_dict`."""
        return cls(
            tuple(content["genes"]),
            torch.tensor(content["edges"], dtype=torch.int64).reshape(2, -1),
            torch.tensor(content["weights"], dtype=torch.float32),
            torch.tensor(content["relations"], dtype=torch.int64),
            tuple(content["kinds"]),
            tuple(content["sets"]),
        )


def read_gene_graph(
    sources: str | Path | Sequence[str | Path],
    genes: Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    minimum_weight: float | None = None,
    aliases: str | Path | None = None,
    complex_separator: str | None = None,
    smallest_set: int = 2,
) -> GeneGraph:
    """Reads the graph of one file or several over ``genes``; logs the numbers of matched names.

    Args:
        sources: files, see the table above.
        genes: names in the order of the data.
        columns: names of the columns of source and target; None takes one of the usual pairs.
        minimum_weight: smallest weight of a link (STRING: 400 is medium, 700 high confidence).
        aliases: .tsv, .csv or .txt of two columns: a name in the links, and its gene.
        complex_separator: between the members of a complex ("_" in OmniPath and LIANA); links each member.
        smallest_set: smallest number of genes of the data in a gene set.
    Raises:
        DataError: for a file of another kind, or no link between genes of the data.
    """
    files = [sources] if isinstance(sources, str | Path) else list(sources)
    places = _Places(genes, {} if aliases is None else read_aliases(aliases))
    kinds: dict[str, int] = {}
    sets: list[str] = []
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    read = 0
    for file in files:
        links = read_links(file, columns, minimum_weight, complex_separator)
        read += len(links.sources)
        ends = _set_edges(links, places, sets, smallest_set) if links.sets else _gene_edges(links, places)
        edges, places_of_links = ends
        numbers = np.array([kinds.setdefault(links.kinds[k], len(kinds)) for k in range(len(links.kinds))])
        parts.append((edges, links.weights[places_of_links], numbers[links.relations[places_of_links]]))
    edges, weights, relations = (np.concatenate(values, axis=-1) for values in zip(*parts, strict=True))
    graph = GeneGraph(
        tuple(genes),
        torch.from_numpy(edges),
        torch.from_numpy(weights.astype(np.float32)),
        torch.from_numpy(relations.astype(np.int64)),
        tuple(kinds) or ("link",),
        tuple(sets),
    )
    connected = int((graph.degrees[: len(genes)] > 0).sum())
    matching = places.matching(read, edges.shape[1], connected)
    if not edges.size:
        raise DataError(
            ", ".join(map(str, files)),
            expected=f"links between the genes of the data, such as {', '.join(list(genes)[:3])}",
            got=str(matching),
            remedy="Give a table of names in the links and their genes (--graph_aliases TABLE), or use gene symbols in "
            "both.",
        )
    logger.info(f"gene graph: {matching}")
    return replace(graph, matching=matching)


class _Places:
    """Matches the names of links with the genes, and counts the matches."""

    def __init__(self, genes: Sequence[str], aliases: Mapping[str, str]) -> None:
        self.place = {name: number for number, name in enumerate(genes)}
        self.aliases = aliases
        self.places: dict[str, int] = {}
        self.exact = 0

    def __call__(self, names: Iterable[str]) -> np.ndarray:
        return np.array(
            [self.places[name] if name in self.places else self._find(name) for name in names], dtype=np.int64
        )

    def _find(self, name: str) -> int:
        place = self.place.get(name, -1)
        self.exact += place >= 0
        if place < 0:
            short = name.split(".", 1)[1] if name.split(".", 1)[0].isdigit() and "." in name else name
            stem = short.split(".", 1)[0] if short.startswith("ENS") else short
            for other in (name, short, stem):
                place = max(place, self.place.get(other, -1), self.place.get(self.aliases.get(other, ""), -1))
        self.places[name] = place
        return place

    def matching(self, links: int, kept: int, connected: int) -> Matching:
        unmatched = tuple(name for name, place in self.places.items() if place < 0)
        matched = len(self.places) - len(unmatched)
        return Matching(links, kept, self.exact, matched - self.exact, unmatched, connected, len(self.place))


def _gene_edges(links: Links, places: _Places) -> tuple[np.ndarray, np.ndarray]:
    """Edges [2, K] between genes, and the places [K] of their links."""
    edges = np.stack([places(links.sources), places(links.targets)])
    inside = np.flatnonzero((edges >= 0).all(0) & (edges[0] != edges[1]))
    return edges[:, inside], inside


def _set_edges(links: Links, places: _Places, sets: list[str], smallest: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges [2, K] from genes to sets, and the places [K] of their links; appends the names of the sets to ``sets``."""
    genes = places(links.sources)
    names, numbers = np.unique(np.array(links.targets, dtype=object).astype(str), return_inverse=True)
    sizes = np.bincount(numbers[genes >= 0], minlength=len(names))
    large = sizes >= smallest
    node = np.cumsum(large) - 1 + len(places.place) + len(sets)
    inside = np.flatnonzero((genes >= 0) & large[numbers])
    sets += names[large].tolist()
    return np.stack([genes[inside], node[numbers[inside]]]), inside


def _keys(edges: np.ndarray, nodes: int) -> np.ndarray:
    keys: np.ndarray = edges.min(0) * nodes + edges.max(0)
    return keys


def _swap(edges: np.ndarray, nodes: int, generator: np.random.Generator, rounds: int, flip: bool) -> np.ndarray:
    edges = edges.copy()
    count = edges.shape[1] // 2
    for _ in range(rounds):
        order = generator.permutation(edges.shape[1])
        first, second = order[:count], order[count : 2 * count]
        if flip:  # an edge between genes may swap either end
            turned = second[generator.random(count) < 0.5]
            edges[:, turned] = edges[::-1, turned]
        swapped = np.stack([edges[0, first], edges[1, second]]), np.stack([edges[0, second], edges[1, first]])
        keys = np.stack([_keys(part, nodes) for part in swapped])
        _, places, repeats = np.unique(keys, return_inverse=True, return_counts=True)
        fresh = (repeats[places.reshape(keys.shape)] == 1) & ~np.isin(keys, _keys(edges, nodes))
        loops = (swapped[0][0] == swapped[0][1]) | (swapped[1][0] == swapped[1][1])
        good = fresh.all(0) & ~loops
        edges[1, first[good]], edges[1, second[good]] = swapped[0][1][good], swapped[1][1][good]
    return edges
