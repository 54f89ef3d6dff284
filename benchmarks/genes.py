"""Networks over genes: cost by number of genes, PathwayGNN against GCNConv, and the worth of a true graph.

    python -m benchmarks.genes scaling      # seconds a step over 1,000 to 40,000 genes, slope in log-log
    python -m benchmarks.genes graph        # 20,000 genes, 300,000 edges: beside torch_geometric's
    python -m benchmarks.genes knowledge    # held-out denoising error: graph, permuted graph, MLP of equal size

``graph`` runs each network in a process of its own, because a process keeps freed memory. The peak is that of the
resident memory above its value after network and data are built.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from monai_diffscore import Denoiser, DenoisingLoss, EDMPreconditioning, LogNormalNoise, edm_weight
from monai_diffscore.memory import peak_memory_bytes
from monai_diffscore.networks import GeneResidualMLP, PathwayGNN, SingleCellNet
from monai_diffscore.samples.simulated_expression import attachment_edges, draw_field, field_precision

DEPTH, HIDDEN, BATCH = 3, 64, 16


def step_seconds(network: nn.Module, x: Tensor, repeats: int = 3) -> float:
    """The least time of one forward and backward pass and a step of AdamW."""
    optimizer, c_noise = torch.optim.AdamW(network.parameters()), torch.randn(len(x))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        network(x, c_noise).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return min(times)


def scaling(arguments: argparse.Namespace) -> None:
    """Seconds a step by number of genes, and the slope of log time over log genes from 10,000 on and over all."""
    builders: dict[str, Callable[[int], nn.Module]] = {
        "GeneResidualMLP": GeneResidualMLP,
        "SingleCellNet": SingleCellNet,
    }
    for name, build in builders.items():
        genes = [1000, 2500, 5000, 10_000, 20_000, 40_000]
        seconds = [step_seconds(build(count), torch.randn(arguments.batch, count)) for count in genes]
        slope, late = (
            np.polyfit(np.log(genes[first:]), np.log(seconds[first:]), 1)[0] for first in (0, genes.index(10_000))
        )
        for count, value in zip(genes, seconds, strict=True):
            print(f"| {name} | {count} | {value:.3f} |", flush=True)
        print(f"{name}: slope {slope:.2f} over all, {late:.2f} from 10,000 genes on")


def random_edges(genes: int, count: int) -> Tensor:
    """Undirected edges [2, count] with a heavy tail of degrees."""
    generator = torch.Generator().manual_seed(0)
    weights = (torch.rand(genes, generator=generator) + 0.02) ** -1.5
    hubs = torch.multinomial(weights, count, replacement=True, generator=generator)
    return torch.stack([hubs, torch.randint(0, genes, (count,), generator=generator)])


class Convolutions(nn.Module):
    """As many GCNConv of torch_geometric with SiLU between them, and no more: no FiLM, no residuals, no tokens."""

    def __init__(self, edges: Tensor) -> None:
        from torch_geometric.nn import GCNConv

        super().__init__()
        self.edges = torch.cat([edges, edges.flip(0)], 1)
        self.input, self.output = nn.Linear(1, HIDDEN), nn.Linear(HIDDEN, 1)
        self.layers = nn.ModuleList(GCNConv(HIDDEN, HIDDEN, cached=True) for _ in range(DEPTH))

    def forward(self, x: Tensor, _c_noise: Tensor) -> Tensor:
        h = self.input(x[..., None])
        for layer in self.layers:
            h = torch.nn.functional.silu(layer(h, self.edges))
        return self.output(h)[..., 0]


def graph(arguments: argparse.Namespace) -> None:
    """Time and memory of both networks, each in its own process."""
    costs = {}
    for name in ("PathwayGNN", "GCNConv"):
        command = [sys.executable, "-m", __spec__.name, "graph", "--network", name]
        process = subprocess.run(command, check=True, capture_output=True, text=True)
        costs[name] = json.loads(process.stdout.splitlines()[-1])
        print(f"| {name} | {costs[name]['seconds']:.2f} s | {costs[name]['megabytes']:.0f} MB |", flush=True)
    ratios = {key: costs["PathwayGNN"][key] / costs["GCNConv"][key] for key in ("seconds", "megabytes")}
    print(f"PathwayGNN / GCNConv: time {ratios['seconds']:.2f}, memory {ratios['megabytes']:.2f}")


def one_graph(name: str) -> None:
    """Seconds and megabytes of one network, as JSON on the last line."""
    edges = random_edges(20_000, 150_000)
    torch.manual_seed(0)
    network = (
        PathwayGNN(20_000, edges, HIDDEN, DEPTH, checkpointing=True) if name == "PathwayGNN" else Convolutions(edges)
    )
    x = torch.randn(BATCH, 20_000)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    seconds = step_seconds(network, x)
    peak = peak_memory_bytes() - resident
    print(json.dumps({"seconds": seconds, "megabytes": peak / 1e6}))


def held_out_error(network: nn.Module, rows: Tensor, held_out: Tensor, iterations: int, seed: int) -> float:
    """EDM-weighted denoising error of held-out rows at five levels (1: each value guessed alone), the least of ten."""
    torch.manual_seed(seed)
    denoiser = Denoiser(network, EDMPreconditioning(1.0))
    loss = DenoisingLoss(LogNormalNoise(-0.4, 1.2), lambda sigma: edm_weight(sigma, 1.0))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=iterations)
    best = float("inf")
    for iteration in range(1, iterations + 1):
        denoiser.train()
        batch = rows[torch.randint(len(rows), (32,))]
        loss(denoiser, batch).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if iteration % max(1, iterations // 10) == 0:
            best = min(best, denoising_error(denoiser.eval(), held_out))
    return best


@torch.no_grad()
def denoising_error(denoise: Callable[[Tensor, float], Tensor], rows: Tensor) -> float:
    """Mean over sigma of (sigma^2 + 1)/sigma^2 times the squared error, noise the same at each call."""
    generator, errors = torch.Generator().manual_seed(0), []
    for sigma in (0.25, 0.5, 1.0, 2.0, 4.0):
        noisy = rows + sigma * torch.randn(rows.shape, generator=generator)
        errors.append((denoise(noisy, sigma) - rows).square().mean() * (sigma**2 + 1) / sigma**2)
    return float(torch.stack(errors).mean())


def permuted(edges: Tensor, genes: int, seed: int) -> Tensor:
    """The degree-preserving control."""
    from monai_diffscore.data.gene_graph import GeneGraph

    names, ones = tuple(map(str, range(genes))), torch.ones(edges.shape[1])
    return GeneGraph(names, edges, ones, torch.zeros(edges.shape[1], dtype=torch.int64)).permuted(seed).edges


def compared(edges: Tensor, rows: Tensor, held_out: Tensor, iterations: int, seeds: int, exact: float | None) -> None:
    """Prints the error of the true graph, of the permuted one and of an MLP of as many parameters."""
    genes = rows.shape[1]
    size = {"hidden_size": 16, "depth": 3, "embedding_size": 32}
    count = sum(p.numel() for p in PathwayGNN(genes, edges, **size).parameters())

    def mlp(width: int) -> GeneResidualMLP:
        return GeneResidualMLP(genes, width, 2, bottleneck=width, embedding_size=32, gate_rank=1, dropout=0.1)

    # the narrowest of no fewer parameters
    width = next(w for w in range(2, 4096) if sum(p.numel() for p in mlp(w).parameters()) >= count)
    builders: dict[str, Callable[[int], nn.Module]] = {
        "PathwayGNN, graph": lambda _: PathwayGNN(genes, edges, **size),
        "PathwayGNN, permuted": lambda seed: PathwayGNN(genes, permuted(edges, genes, seed), **size),
        "GeneResidualMLP": lambda _: mlp(width),
    }
    for name, build in builders.items():
        values, parameters = [], 0
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = build(seed)
            parameters = sum(p.numel() for p in network.parameters())
            values.append(held_out_error(network, rows, held_out, iterations, seed))
        print(f"| {name} | {parameters} | {np.mean(values):.4f} +- {np.std(values):.4f} |", flush=True)
    if exact is not None:
        print(f"| exact denoiser | | {exact:.4f} |")


def knowledge(arguments: argparse.Namespace) -> None:
    """A Gaussian Markov random field on 300 genes; with --data and --graph_file, real data on a real graph."""
    if arguments.data is None:
        genes, train = 300, 200
        edges = attachment_edges(genes, 2, seed=0)
        precision = field_precision(edges, genes)
        scale = np.sqrt(np.diag(np.linalg.inv(precision)))
        values = torch.from_numpy(draw_field(precision, train + 300, seed=1) / scale).float()
        covariance = torch.from_numpy(np.linalg.inv(precision) / np.outer(scale, scale)).float()
        identity = torch.eye(genes)
        exact = denoising_error(
            lambda x, sigma: x @ torch.linalg.solve(covariance + sigma**2 * identity, covariance), values[train:]
        )
        print(f"simulated: {genes} genes, {edges.shape[1]} edges, {train} training rows")
        compared(torch.from_numpy(edges), values[:train], values[train:], arguments.iterations, arguments.seeds, exact)
        return
    from monai_diffscore.data import Expression, GeneFields
    from monai_diffscore.data.gene_graph import read_gene_graph
    from monai_diffscore.data.profiles import measure_profiles, profile_transforms, split_profiles

    expression = Expression(arguments.data, GeneFields(content=arguments.content))
    columns = {"complex_separator": "_"} if arguments.graph_file.endswith(".csv") else {}
    graph = read_gene_graph(arguments.graph_file, expression.genes, **columns)
    print(f"real: {graph.matching}")
    kept = torch.nonzero(graph.degrees[: len(graph.genes)] > 0)[:, 0]
    train, held_out = split_profiles(expression, 0.3, 0)
    facts = measure_profiles(expression, train)
    steps = profile_transforms(facts)
    dense = torch.stack([torch.from_numpy(expression.row(row)[0]) for row in (*train, *held_out)])
    if facts["fields"]["content"] == "counts":
        from monai_diffscore.transforms.omics import LogNormalize

        dense = LogNormalize()(dense)
    values = steps[-1].transform(dense)[:, kept].float()
    place = torch.full((len(graph.genes) + len(graph.sets),), -1)
    place[kept] = torch.arange(len(kept))
    edges = place[graph.edges]
    edges = edges[:, (edges >= 0).all(0)]
    values = torch.as_tensor(np.asarray(values))
    print(f"{len(kept)} genes with an edge, {edges.shape[1]} edges, {len(train)} training rows")
    compared(edges, values[: len(train)], values[len(train) :], arguments.iterations, arguments.seeds, None)


def main() -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=["scaling", "graph", "knowledge"])
    parser.add_argument("--network", choices=["PathwayGNN", "GCNConv"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data")
    parser.add_argument("--content", default="continuous")
    parser.add_argument("--graph_file")
    arguments = parser.parse_args()
    if arguments.network:
        one_graph(arguments.network)
    else:
        {"scaling": scaling, "graph": graph, "knowledge": knowledge}[arguments.benchmark](arguments)


if __name__ == "__main__":
    main()
