"""A score model of 76 leukaemia patients, measured on 52 others: fidelity, usefulness, memorisation.

    python -m benchmarks.leukaemia curve     # held-out error over iterations; the bundle splits the 76 itself
    python -m benchmarks.leukaemia inner     # the metrics on inner splits, for the choice of settings
    python -m benchmarks.leukaemia test      # the metrics on the 52, three seeds of training, five sets of each

It trains and samples the bundle bulk_expression_mlp with its overlay leukaemia.json. With 12,625 probe sets and 76
patients a network learns the patients by heart. The overlay prevents it: normal scores of each gene (samples get its
own distribution back), the mean of each group subtracted, principal components, a small network with dropout and weight
decay, and few iterations, chosen by the curve.

Needs r-bioc-all (Debian) and rdata; split and metrics are those of docs/BENCHMARKS_OMICS.md.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import anndata
import numpy as np

from benchmarks.cells import mean_of, rows_of_each, run, train
from monai_diffscore.data.anndata import stratified_split
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
from monai_diffscore.samples import leukaemia

BUNDLE = Path(__file__).parent.parent / "bundles/bulk_expression_mlp"
LABEL = "group"
#: where the held-out error of the curve is least; share of the patients that the trainings hold out all the same
ITERATIONS, HELD_OUT = 260, 0.03
METRICS = (
    ForestTwoSample(),
    LogisticTwoSample(),
    KernelDiscrepancy(),
    TrainOnSyntheticF1(),
    ClosestRecord(),
    VarianceRatio(),
)


def profiles(patients: Any) -> Profiles:
    """Values and groups of an AnnData."""
    return Profiles(np.asarray(patients.X, dtype=np.float64), patients.obs[LABEL].astype(str).to_numpy())


def epochs(patients: int) -> int:
    """The number of epochs of the chosen number of iterations."""
    overlay, bundle = (json.loads((BUNDLE / f"configs/{name}.json").read_text()) for name in ("leukaemia", "train"))
    trained = patients - math.ceil(HELD_OUT * patients)
    return round(ITERATIONS / (trained * overlay["repeats"] // bundle["batch_size"]))


def generate(held_out: Any, folder: Path, seed: int) -> Any:
    """Profiles of the model in a folder, as many of each group as ``held_out`` has."""
    counts = rows_of_each(held_out.obs[LABEL])
    where = {"output_dir": folder / f"samples_{seed}", "checkpoint": folder / "models/model.pt"}
    run(BUNDLE, "sampling", "inference", "leukaemia", seed=seed, profiles_per_label=counts, **where)
    return anndata.read_h5ad(where["output_dir"] / "profiles.h5ad")


def curve(trained: Any, folder: Path, seed: int, settings: dict[str, str]) -> np.ndarray:
    """Rows (iteration, denoising error of held-out rows) of a training that does not stop early."""
    longer = {"patience": "0", "max_epochs": "200", "val_interval": "10"}
    train(trained, folder, seed, {**longer, "validation_share": "0.4", **settings}, BUNDLE, "leukaemia")
    lines = map(json.loads, (folder / "training/validation.jsonl").read_text().splitlines())
    return np.array([(line["iteration"], line["denoising_error"]) for line in lines])


def draw(curves: np.ndarray, path: Path) -> None:
    """The held-out error of several splits over iterations."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    iterations, errors = curves[0, :, 0], curves[..., 1]
    axis.plot(iterations, errors.mean(0), label="held-out patients, mean of the splits")
    axis.fill_between(iterations, errors.min(0), errors.max(0), alpha=0.2, label="range")
    axis.axvline(ITERATIONS, color="grey", linestyle=":", label="end of the training")
    axis.set_xlabel("iterations")
    axis.set_ylabel("denoising error")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def splits(patients: Any, part: str, count: int) -> list[tuple[Any, Any]]:
    """Patients to train on and to measure on: inner splits of the 76, or the 76 and the 52."""
    training, testing = stratified_split(patients.obs[LABEL], 0.4, 0)
    if part != "inner":
        return [(patients[training].copy(), patients[testing].copy())] * count
    trained = patients[training].copy()
    inner = [stratified_split(trained.obs[LABEL], 0.4, 1 + number) for number in range(count)]
    return [(trained[a].copy(), trained[b].copy()) for a, b in inner]


def measure(trained: Any, held_out: Any, drawn: Any) -> dict[str, float]:
    """The metrics of the omics tables."""
    comparison = Comparison(Reference(profiles(held_out), profiles(trained)), profiles(drawn))
    return {metric.name: metric(comparison) for metric in METRICS}


def main() -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["curve", "inner", "test"])
    parser.add_argument("--splits", type=int, default=3, help="number of inner splits, or of seeds of the test")
    parser.add_argument("--draws", type=int, default=5, help="sets that each training generates")
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks/leukaemia"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="flags for the training")
    arguments = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in arguments.set)
    results, curves = [], []
    for seed, (trained, held_out) in enumerate(
        splits(anndata.read_h5ad(leukaemia()), arguments.part, arguments.splits)
    ):
        folder = arguments.out.resolve() / f"{arguments.part}_{seed}"
        if arguments.part == "curve":
            curves.append(curve(trained, folder, seed, settings))
            print(curves[-1].round(3).tolist(), flush=True)
            continue
        # three held-out patients are too few for early stopping: the length is that of the curve
        length = {"validation_share": str(HELD_OUT), "patience": "0", "max_epochs": str(epochs(len(trained)))}
        train(trained, folder, seed, {**length, **settings}, BUNDLE, "leukaemia")
        sets = [generate(held_out, folder, 100 * seed + number) for number in range(arguments.draws)]
        each = [measure(trained, held_out, drawn) for drawn in sets]
        results.append(mean_of(each))
        for one in (*each, results[-1]):
            print({name: round(value, 3) for name, value in one.items()}, flush=True)
    if curves:
        draw(np.array(curves), Path("docs/images/leukaemia_curve.png"))
    for name in results[0] if results else ():
        column = [one[name] for one in results]
        print(f"| {name} | {np.mean(column):.3f} +- {np.std(column, ddof=1):.3f} |")


if __name__ == "__main__":
    main()
