r"""Simulates expression from a graph of genes, so that the true dependences are known.

A Gaussian Markov random field on the graph,

.. math::  z \sim N(0, Q^{-1}), \qquad Q = (1 + r) I - D^{-1/2} A D^{-1/2},

has a zero in its precision for two genes without an edge: a gene depends only on its neighbours. Each gene has its own
mean and standard deviation, a shift for the sample's group (two biological groups, which act on connected genes) and
one for its batch (three technical batches). The graph grows by preferential attachment (Barabasi and Albert 1999,
Science 286, 509), so that a few genes regulate many.

The data is **simulated**: it has no biological meaning.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from monai_diffscore.atomic_files import whole_file, whole_folder

GROUPS = ("control", "case")


def attachment_edges(genes: int, links: int = 3, seed: int = 0) -> np.ndarray:
    """Edges [2, E] of a graph that grows by preferential attachment: each new gene links to ``links`` earlier ones."""
    generator = np.random.default_rng(seed)
    ends = list(range(links))
    edges = []
    for gene in range(links, genes):
        neighbours = sorted({ends[i] for i in generator.integers(len(ends), size=links)})
        edges += [(gene, other) for other in neighbours]
        ends += [*neighbours, *[gene] * len(neighbours)]
    return np.array(edges, dtype=np.int64).T


def field_precision(edges: np.ndarray, genes: int, ridge: float = 0.05) -> np.ndarray:
    """Q [genes, genes], dense, for up to a few thousand genes."""
    adjacency = np.zeros((genes, genes))
    adjacency[edges[0], edges[1]] = adjacency[edges[1], edges[0]] = 1
    scale = 1 / np.sqrt(np.maximum(adjacency.sum(0), 1))
    precision: np.ndarray = (1 + ridge) * np.eye(genes) - scale[:, None] * adjacency * scale
    return precision


def draw_field(precision: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """``count`` draws of N(0, Q^-1) [count, genes], by the Cholesky factor of Q."""
    factor = np.linalg.cholesky(precision)
    noise = np.random.default_rng(seed).standard_normal((len(precision), count))
    draws: np.ndarray = np.linalg.solve(factor.T, noise).T
    return draws


def simulate_expression(
    genes: int = 400, samples: int = 480, links: int = 3, seed: int = 0
) -> tuple[np.ndarray, pd.DataFrame, np.ndarray]:
    """Values [samples, genes] in the range of log expression (0 to 16), ``obs`` with group and batch, edges [2, E]."""
    generator = np.random.default_rng(seed)
    edges = attachment_edges(genes, links, seed)
    field = draw_field(field_precision(edges, genes), samples, seed + 1)
    field /= field.std(0)
    group, batch = generator.integers(2, size=samples), generator.integers(3, size=samples)
    affected = np.unique(edges[:, (edges < 8).any(0)])  # hubs and their neighbours
    effect = np.zeros(genes)
    effect[affected] = generator.normal(0, 1.2, len(affected))
    shift = generator.normal(0, 0.5, (3, genes))
    mean, spread = generator.uniform(4, 12, genes), generator.uniform(0.3, 1.0, genes)
    values = mean + spread * (field + group[:, None] * effect + shift[batch])
    obs = pd.DataFrame(
        {"group": np.array(GROUPS)[group], "batch": [f"batch{number + 1}" for number in batch]},
        index=[f"sample{number + 1:04d}" for number in range(samples)],
    )
    return values.astype(np.float32), obs, edges


def write_simulated(folder: Path) -> Path:
    """A folder with expression.h5ad, and the links.tsv of its simulation; the first call writes it."""
    import anndata

    if not folder.is_dir():
        values, obs, edges = simulate_expression()
        names = [f"G{number + 1:04d}" for number in range(values.shape[1])]
        with whole_folder(folder) as draft:
            var = pd.DataFrame(index=pd.Index(names))
            anndata.AnnData(values, obs=obs, var=var).write_h5ad(draft / "expression.h5ad")
            rows = "".join(f"{names[a]}\t{names[b]}\n" for a, b in edges.T)
            with whole_file(draft / "links.tsv") as file:
                file.write(f"source\ttarget\n{rows}".encode())
    return folder
