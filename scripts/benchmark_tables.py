"""tabular_mlp on scikit-learn's tables, against a Gaussian copula and real rows: fidelity, usefulness, privacy.

    python scripts/benchmark_tables.py breast_cancer
    python scripts/benchmark_tables.py diabetes

60 of 100 rows train (a fifth of them tells when to stop), the others are seen by no part of a training. For each seed
the bundle is trained and sampled as its README says; figures and baselines are the package's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from monai_diffscore.data import infer_schema, read_table, samples, split_table, write_table
from monai_diffscore.metrics import (
    ClosestRecord,
    Comparison,
    CorrelationError,
    ForestTwoSample,
    KernelDiscrepancy,
    LogisticTwoSample,
    ProfileFigure,
    Profiles,
    Reference,
    TrainOnSyntheticAccuracy,
    TrainOnSyntheticF1,
    privacy_gate,
)
from monai_diffscore.metrics.baselines import copies, copula, held_in
from monai_diffscore.report.profile_sources import ProfileFields, gather_profiles

BUNDLE = Path(__file__).parent.parent / "bundles/tabular_mlp"
TABLES = {"breast_cancer": (samples.breast_cancer, "diagnosis"), "diabetes": (samples.diabetes, "progression")}
BASELINES = {"Gaussian copula": copula, "copies of training rows": copies, "real training rows": held_in}


def run(run_id: str, config: str, **flags: object) -> None:
    """One command of the bundle."""
    words = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", f"configs/{config}.json", *words]
    done = subprocess.run(command, cwd=BUNDLE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])


def generate(folder: Path, label: str, seed: int, count: int) -> Path:
    """A table of synthetic rows, of a model trained on train.csv."""
    where = {"output_dir": folder / f"run{seed}", "ckpt_dir": folder / f"models{seed}"}
    run("training", "train", **where, dataset_dir=folder / "train.csv", label=label, seed=seed)
    checkpoint, made = folder / f"models{seed}/model.pt", folder / f"samples{seed}"
    run("sampling", "inference", checkpoint=checkpoint, output_dir=made, seed=seed, num_samples=count)
    return made / "table.csv"


def measure(comparison: Comparison, figures: Sequence[ProfileFigure]) -> dict[str, float]:
    """The figures, and the number of suspected copies."""
    return {**{f.name: f(comparison) for f in figures}, "suspected copies": float(len(privacy_gate(comparison).copies))}


def main() -> None:
    """Trains, measures, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    source, label = TABLES[options.table]
    frame = read_table(source())
    train, test = split_table(frame, infer_schema(frame, label), 0.4)
    figures = [ClosestRecord(), LogisticTwoSample(), ForestTwoSample(), KernelDiscrepancy(), CorrelationError()]
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "train.csv", train, synthetic=False)
        write_table(folder / "test.csv", test, synthetic=False)
        for seed in range(options.seeds):
            made = generate(folder, label, seed, 3 * len(test))
            fields = ProfileFields(label=label, content=None)
            material = gather_profiles([made], folder / "train.csv", folder / "test.csv", fields, seed=seed)
            if material.train.labels is not None and seed == 0:
                figures += [TrainOnSyntheticAccuracy(), TrainOnSyntheticF1()]
            reference, random = Reference(material.real, material.train), np.random.default_rng(seed)
            sets: dict[str, Profiles] = {"tabular_mlp": material.synthetic}
            unlabelled = np.zeros(len(material.synthetic), dtype=int)
            asked = unlabelled if material.synthetic.labels is None else np.asarray(material.synthetic.labels)
            sets |= {name: make(material.train, asked, random) for name, make in BASELINES.items()}
            for name, rows in sets.items():
                found.setdefault(name, []).append(measure(Comparison(reference, rows), figures))
                print(seed, name, {key: round(value, 3) for key, value in found[name][-1].items()}, flush=True)
    mean, spread = ({name: pd.DataFrame(runs).agg(how) for name, runs in found.items()} for how in ("mean", "std"))
    print("| | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for key in mean["tabular_mlp"].index:
        print(f"| {key} | " + " | ".join(f"{mean[name][key]:.3f} +- {spread[name][key]:.3f}" for name in found) + " |")


if __name__ == "__main__":
    main()
