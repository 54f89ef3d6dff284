"""The bundle scrna_attention on real cells, trained and sampled through its JSON files, beside baselines.

    pip install -e '.[omics]'
    python -m benchmarks.cells [--seeds 0 1 2] [--draws 5] [--split 0] [--out FOLDER] [--set NAME=VALUE ...]

pbmc68k_reduced with its counts recovered, 700 cells, split 60/40 by cell type (scikit-learn's stratified shuffle,
``random_state`` --split). Each seed trains on the 420 cells. It then draws, --draws times, as many cells of each type
as the 280 held-out ones have, and reads the AnnData files. The metrics of ``monai_diffscore.metrics`` are means over
the draws. CPU seconds are user and system time of the training process, with the start of Python and libraries. No
baseline reaches all targets together.

``--floor`` trains nothing. It prints the metrics of real cells in the place of synthetic ones. 700 cells give smaller
sets: half of the held-out cells are R, two thirds of the training cells T, the other third stands for S. T itself
cannot stand for S, because the embedding of the metrics is fitted on R and T.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np

from monai_diffscore.data.anndata import stratified_split
from monai_diffscore.metrics import Comparison, Reference, log_profiles, profile_panel_metrics
from monai_diffscore.metrics.baselines import BASELINES
from monai_diffscore.samples import pbmc68k

BUNDLE = Path(__file__).parent.parent / "bundles/scrna_attention"
LABEL, TOTAL = "bulk_labels", "n_counts"
#: metric -> (1 if more is better, else -1; threshold)
TARGETS = {
    "c2st_rf": (-1, 0.80),
    "c2st_lr": (-1, 0.62),
    "mmd2_x1e3": (-1, 7.0),
    "zero_mae": (-1, 0.035),
    "corr_rmse": (-1, 0.095),
    "tstr_f1": (1, 0.60),
    "ilisi": (1, 1.60),
    "dcr_ratio": (1, 0.85),
}


def profiles(cells: Any) -> Any:
    """Log-normalised profiles of an AnnData with counts."""
    labels = cells.obs[LABEL].astype(str).to_numpy()
    return log_profiles(cells.layers["counts"], cells.obs[TOTAL].to_numpy(), labels, list(cells.var_names))


def run(bundle: Path, run_id: str, *configurations: str, **options: Any) -> float:
    """``python -m monai.bundle run`` with these files of the bundle; the CPU seconds that it took."""
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    files = str([f"configs/{name}.json" for name in configurations])
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", files]
    done = subprocess.run([*command, *flags], cwd=bundle, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def train(rows: Any, folder: Path, seed: int, settings: dict[str, str], bundle: Path, *overlays: str) -> float:
    """Trains a bundle in a folder: ``train.h5ad``, ``training`` and ``models``; the CPU seconds of it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_h5ad(folder / "train.h5ad")
    where = {"output_dir": folder / "training", "ckpt_dir": folder / "models", "dataset_dir": folder / "train.h5ad"}
    return run(bundle, "training", "train", *overlays, seed=seed, **where, **settings)


def rows_of_each(labels: Any) -> dict[str, int]:
    """The number of rows of each label that has any."""
    return {str(name): int(count) for name, count in labels.value_counts().items() if count}


def mean_of(sets: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over several sets."""
    return {name: float(np.mean([one[name] for one in sets])) for name in sets[0]}


def generate(held_out: Any, folder: Path, seed: int, bundle: Path = BUNDLE) -> Any:
    """Cells of the model in a folder, as many of each type as ``held_out`` has."""
    counts = rows_of_each(held_out.obs[LABEL])
    where = {"output_dir": folder / f"samples_{seed}", "checkpoint": folder / "models/model.pt"}
    run(bundle, "sampling", "inference", seed=seed, cells_per_type=counts, dataset_dir=folder / "train.h5ad", **where)
    return anndata.read_h5ad(where["output_dir"] / "cells.h5ad")


def metrics_of(reference: Reference, cells: Any) -> dict[str, float]:
    """The metrics with a target, and some more."""
    comparison = Comparison(reference, cells)
    names = {*TARGETS, "rho_mean", "rho_var", "var_ratio", "library_ks", "marker_slope"}
    return {metric.name: metric(comparison) for metric in profile_panel_metrics() if metric.name in names}


def floor(cells: Any, split: int) -> dict[str, dict[str, float]]:
    """Metrics of real cells outside of R and T, and of as many cells of T, in the place of S."""
    training, testing = stratified_split(cells.obs[LABEL], 0.4, split)

    def part(rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
        first, second = stratified_split(cells.obs[LABEL].iloc[rows], share, split)
        return rows[first], rows[second]

    held_out, (seen, fresh) = part(testing, 0.5)[1], part(training, len(testing) / 2 / len(training))
    copied = part(seen, len(fresh) / len(seen))[1]
    reference = Reference(profiles(cells[held_out]), profiles(cells[seen]))
    sets = {"real, in neither R nor T": fresh, "real, of T": copied}
    return {name: metrics_of(reference, profiles(cells[rows])) for name, rows in sets.items()}


def row(name: str, results: list[dict[str, float]], seconds: list[float] | None = None) -> str:
    """A line of the table: the mean, and ± the standard deviation of several results."""
    cells = []
    for key in results[0]:
        values = np.array([one[key] for one in results])
        mark = ""
        if key in TARGETS:
            sign, threshold = TARGETS[key]
            mark = "" if sign * values.mean() >= sign * threshold else " ✗"
        spread = f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else ""
        cells.append(f"{values.mean():.3g}{spread}{mark}")
    cells.append("" if seconds is None else f"{np.mean(seconds):.0f}")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=5, help="sets that each training generates")
    parser.add_argument("--split", type=int, default=0, help="random state of the split")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks/cells"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="flags for the training")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--floor", action="store_true", help="metrics of real cells, without training")
    arguments = parser.parse_args()
    cells = anndata.read_h5ad(pbmc68k())
    if arguments.floor:
        for name, metrics in floor(cells, arguments.split).items():
            print(f"| {name} | {' | '.join(f'{key} {value:.3g}' for key, value in metrics.items())} |")
        return
    training, testing = stratified_split(cells.obs[LABEL], 0.4, arguments.split)
    trained, held_out = cells[training].copy(), cells[testing].copy()
    reference = Reference(profiles(held_out), profiles(trained))
    # 280 cells are held out already: few need validate
    settings = {"validation_share": "0.02", **dict(pair.split("=", 1) for pair in arguments.set)}
    results, seconds = [], []
    for seed in arguments.seeds:
        folder = arguments.out.resolve() / f"split_{arguments.split}_seed_{seed}"
        seconds.append(train(trained, folder, seed, settings, BUNDLE))
        sets = [generate(held_out, folder, 100 * seed + number) for number in range(arguments.draws)]
        results.append(mean_of([metrics_of(reference, profiles(drawn)) for drawn in sets]))
        if seed == arguments.seeds[0]:
            print(
                f"| generator | {' | '.join(results[0])} | CPU s of training |\n|---|{'---|' * (len(results[0]) + 1)}"
            )
        print(row(f"scrna_attention, seed {seed}", results[-1:], seconds[-1:]), flush=True)
    print(row("scrna_attention, mean", results, seconds), flush=True)
    labels = reference.real.labels
    for name, baseline in {} if arguments.no_baselines else BASELINES.items():
        draws = [baseline(reference.train, labels, np.random.default_rng(seed)) for seed in arguments.seeds]
        print(row(name, [metrics_of(reference, drawn) for drawn in draws]), flush=True)


if __name__ == "__main__":
    main()
