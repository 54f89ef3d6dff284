"""A score model of 76 leukaemia patients, measured on 52 others: fidelity, usefulness, and whether it memorised.

    python scripts/benchmark_leukaemia.py curve     # held-out denoising error over iterations, inner splits of the 76
    python scripts/benchmark_leukaemia.py inner     # the figures on inner splits: what is chosen is chosen here
    python scripts/benchmark_leukaemia.py test      # the figures on the 52, three seeds

With 12,625 probe sets and 76 patients a network learns the patients by heart. What prevents it: normal scores of each
gene (its own marginal comes back by the quantiles), the mean of each group taken out, principal components, a small
network with dropout and weight decay, and few iterations, chosen by the held-out curve.

Needs r-bioc-all (Debian) and rdata; split and figures are those of docs/BENCHMARKS_OMICS.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch
from scipy.stats import norm
from sklearn.model_selection import StratifiedShuffleSplit

from monai_diffscore import (
    ConditionEncoder,
    Denoiser,
    DenoisingLoss,
    EDMPreconditioning,
    GeneResidualMLP,
    LogNormalNoise,
    edm_weight,
    karras_sigmas,
    sample_heun,
)
from monai_diffscore.data.samples import leukaemia
from monai_diffscore.metrics import (
    ClosestRecord,
    Comparison,
    ForestTwoSample,
    KernelDiscrepancy,
    LogisticTwoSample,
    Profiles,
    Reference,
    TrainOnSyntheticF1,
    VarianceRatio,
)

SHARE = 0.79  # components over training rows
ITERATIONS = 200


class Scores:
    """Normal scores of each gene by the quantiles of the training rows, with straight tails beyond them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.quantiles = np.sort(rows, axis=0) + np.arange(len(rows))[:, None] * 1e-9
        knots = norm.ppf((np.arange(len(rows)) + 0.5) / len(rows))
        self.knots = knots / knots.std()

    def forward(self, rows: np.ndarray) -> np.ndarray:
        """Genes with mean 0 and variance 1."""
        columns = [np.interp(rows[:, g], self.quantiles[:, g], self.knots) for g in range(rows.shape[1])]
        return np.stack(columns, axis=1)

    def inverse(self, scores: np.ndarray) -> np.ndarray:
        """Values again."""
        z, q, tail = self.knots, self.quantiles, max(2, len(self.knots) // 10)
        made = np.stack([np.interp(scores[:, g], z, q[:, g]) for g in range(scores.shape[1])], axis=1)
        upper, lower = (q[-1] - q[-tail]) / (z[-1] - z[-tail]), (q[tail - 1] - q[0]) / (z[tail - 1] - z[0])
        beyond: np.ndarray = made + np.maximum(scores - z[-1], 0) * upper + np.minimum(scores - z[0], 0) * lower
        return beyond


class Latent:
    """Training rows as principal components of normal scores without the mean of their group."""

    def __init__(self, rows: np.ndarray, groups: np.ndarray) -> None:
        self.scores = Scores(rows)
        z = self.scores.forward(rows)
        self.centres = np.stack([z[groups == group].mean(0) for group in (0, 1)])
        rest = z - self.centres[groups]
        self.mean, count = rest.mean(0), round(SHARE * len(rows))
        self.axes = np.linalg.svd(rest - self.mean, full_matrices=False)[2][:count]
        components = (rest - self.mean) @ self.axes.T
        self.scales = components.std(0)
        self.noise = (rest - self.mean - components @ self.axes).std(0)

    def encode(self, rows: np.ndarray, groups: np.ndarray) -> torch.Tensor:
        """Components of unit variance."""
        rest = self.scores.forward(rows) - self.centres[groups] - self.mean
        return torch.tensor(rest @ self.axes.T / self.scales, dtype=torch.float32)

    def decode(self, latent: torch.Tensor, groups: np.ndarray, seed: int) -> np.ndarray:
        """Profiles, with noise for what the components leave out."""
        noise = np.random.default_rng(seed).normal(size=(len(groups), len(self.mean))) * self.noise
        z = latent.double().numpy() * self.scales @ self.axes + self.mean + self.centres[groups] + noise
        return self.scores.inverse(z)


def train(
    latent: torch.Tensor, groups: np.ndarray, seed: int, iterations: int = ITERATIONS, held_out: Any = None
) -> tuple[Denoiser, list[tuple[int, float, float]]]:
    """The averaged denoiser, and (iteration, error of held-out rows, of training rows) if there are some."""
    torch.manual_seed(seed)
    size, labels = latent.shape[1], torch.from_numpy(groups)
    condition = ConditionEncoder(categorical={"label": 2}, width=32, dropout=0.1)
    options: dict[str, Any] = {"hidden_size": 64, "depth": 1, "bottleneck": 64, "embedding_size": 32, "dropout": 0.3}
    denoiser, averaged = (
        Denoiser(GeneResidualMLP(size, condition=condition, **options), EDMPreconditioning(1.0)) for _ in range(2)
    )
    averaged.load_state_dict(denoiser.state_dict())
    averaged.eval()
    loss = DenoisingLoss(LogNormalNoise(-0.4, 1.2), lambda sigma: edm_weight(sigma, 1.0))
    optimizer = torch.optim.AdamW(denoiser.parameters(), 2e-3, weight_decay=0.1, betas=(0.9, 0.99))
    curve = []
    for iteration in range(iterations):
        chosen = torch.randint(len(latent), (128,))
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (iteration + 1) / 20)
        loss(denoiser, latent[chosen], label=labels[chosen]).mean().backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for mean, parameter in zip(averaged.parameters(), denoiser.parameters(), strict=True):
                mean.lerp_(parameter, 1 - min(0.99, (1 + iteration) / (10 + iteration)))
        if held_out is not None and (iteration + 1) % 50 == 0:
            errors = [error_of(averaged, *rows) for rows in (held_out, (latent, groups))]
            curve.append((iteration + 1, *errors))
    return averaged, curve


@torch.no_grad()
def error_of(denoiser: Denoiser, rows: torch.Tensor, groups: np.ndarray) -> float:
    """EDM-weighted denoising error over five noise levels, four draws each; 1 is every value guessed alone."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    for sigma in (0.2, 0.4, 0.8, 1.6, 3.2):
        for _ in range(4):
            noisy = rows + sigma * torch.randn(rows.shape, generator=generator)
            error = (denoiser(noisy, sigma, label=torch.from_numpy(groups)) - rows).square().mean()
            total += float(error) * (sigma**2 + 1) / sigma**2 / 20
    return total


def generate(rows: np.ndarray, groups: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
    """A profile for each group asked for."""
    latent = Latent(rows, groups)
    denoiser, _ = train(latent.encode(rows, groups), groups, seed)
    labels, generator = torch.from_numpy(asked), torch.Generator().manual_seed(seed)
    start = 40 * torch.randn(len(asked), len(latent.scales), generator=generator)
    with torch.no_grad():
        drawn = sample_heun(
            lambda x, sigma: denoiser(x, sigma.float(), label=labels), start, karras_sigmas(24, 0.05, 40.0)
        )
    return latent.decode(drawn, asked, seed)


FIGURES = (
    ForestTwoSample(),
    LogisticTwoSample(),
    KernelDiscrepancy(),
    TrainOnSyntheticF1(),
    ClosestRecord(),
    VarianceRatio(),
)


def figures(train: Profiles, real: Profiles, made: Profiles) -> dict[str, float]:
    """The figures of the omics tables."""
    comparison = Comparison(Reference(real, train), made)
    return {figure.name: figure(comparison) for figure in FIGURES}


def draw(curves: np.ndarray, path: Path) -> None:
    """The held-out and the training error over iterations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, name in ((1, "held-out patients"), (2, "training patients")):
        values = curves[..., place]
        axis.plot(curves[0, :, 0], values.mean(0), label=name)
        axis.fill_between(curves[0, :, 0], values.min(0), values.max(0), alpha=0.2)
    axis.axvline(ITERATIONS, color="grey", linestyle=":", label="chosen")
    axis.set_xlabel("iterations")
    axis.set_ylabel("denoising error")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["curve", "inner", "test"])
    part = parser.parse_args().part
    data = anndata.read_h5ad(leukaemia())
    values, groups = np.asarray(data.X, dtype=np.float64), (data.obs["group"] == "T").to_numpy().astype(np.int64)
    train_rows, test_rows = next(StratifiedShuffleSplit(1, test_size=0.4, random_state=0).split(values, groups))
    inner = StratifiedShuffleSplit(3, test_size=0.4, random_state=1).split(values[train_rows], groups[train_rows])
    splits = [(train_rows[a], train_rows[b]) for a, b in inner]
    if part == "curve":
        curves = []
        for a, b in splits:
            latent = Latent(values[a], groups[a])
            rows = latent.encode(values[b], groups[b]), groups[b]
            curves.append(train(latent.encode(values[a], groups[a]), groups[a], 0, 800, rows)[1])
        draw(np.array(curves), Path("docs/images/leukaemia_curve.png"))
        for iteration, held_out, training in np.mean(curves, axis=0):
            print(f"| {iteration:.0f} | {held_out:.3f} | {training:.3f} |")
        return
    chosen = splits if part == "inner" else [(train_rows, test_rows)] * 3
    runs = [(a, b, seed) for seed, (a, b) in enumerate(chosen)]
    found = []
    for a, b, seed in runs:
        made = Profiles(generate(values[a], groups[a], groups[b], seed), groups[b])
        found.append(figures(Profiles(values[a], groups[a]), Profiles(values[b], groups[b]), made))
        print({name: round(value, 3) for name, value in found[-1].items()}, flush=True)
    for name in found[0]:
        column = [one[name] for one in found]
        print(f"| {name} | {np.mean(column):.3f} +- {np.std(column):.3f} |")


if __name__ == "__main__":
    main()
