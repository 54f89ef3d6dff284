"""tabular_mlp on scikit-learn's tables, against a Gaussian copula, real rows and other packages: fidelity, usefulness,
privacy.

    python -m benchmarks.tables breast_cancer --peers
    python -m benchmarks.tables diabetes --peers
    python -m benchmarks.tables wine --inner --set learning_rate=0.001   (to look for settings)

60 of 100 rows train; a fifth of them decides when to stop. No part of a training sees the others. For each seed the
bundle trains and samples as its README says, and once more with all of the 60 (all_rows.json). Metrics and baselines
are the package's. ``--inner`` splits the training rows alone, by the seed. It serves the choice of settings, so that
the held-out rows of a reported table have no part in it.

Peers, with the defaults of their authors (``--epochs-times`` multiplies the epochs), see the same rows:

- CTGAN and TVAE of ctgan (300 epochs of one batch of 500 rows): ``pip install -c constraints.txt ctgan``. Its licence,
  BUSL-1.1, is not open: no extra of this package installs it.
- TabDM of tabdm (120 epochs of one batch), a DDPM as TabDDPM is, in a space of scaled numbers and one-hot categories:
  ``pip install --no-deps tabdm``; Apache-2.0.

TabDDPM itself does not install beside constraints.txt: synthcity requires torch < 2.3 and numpy < 2, and without its
dependencies it needs a torchvision that finds CUDA's libraries.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

from benchmarks.cells import run
from monai_diffscore import samples
from monai_diffscore.data import infer_schema, read_table, split_table, write_table
from monai_diffscore.metrics import (
    ClosestRecord,
    Comparison,
    CorrelationError,
    ForestTwoSample,
    KernelDiscrepancy,
    LogisticTwoSample,
    ProfileMetric,
    Profiles,
    Reference,
    TrainOnSyntheticAccuracy,
    TrainOnSyntheticF1,
    privacy_gate,
)
from monai_diffscore.metrics.baselines import copies, copula, held_in
from monai_diffscore.report.profile_sources import ProfileFields, ProfileMaterial, gather_profiles

BUNDLE = Path(__file__).parent.parent / "bundles/tabular_mlp"
HELD_OUT = 0.4
BASELINES = {"Gaussian copula": copula, "copies of training rows": copies, "real training rows": held_in}
#: training rows, label, number of rows, seed, factor of the epochs -> synthetic rows
Generate = Callable[[pd.DataFrame, str, int, int, int], pd.DataFrame]


def wine() -> pd.DataFrame:
    """178 wines x 13 numbers and the cultivar."""
    bunch = load_wine(as_frame=True)
    return bunch.data.assign(cultivar=bunch.target_names[bunch.target])


TABLES = {
    "breast_cancer": (lambda: read_table(samples.breast_cancer()), "diagnosis"),
    "diabetes": (lambda: read_table(samples.diabetes()), "progression"),
    "wine": (wine, "cultivar"),
    "wine_by_alcohol": (wine, "alcohol"),
}


def ctgan(model: str) -> Generate:
    """CTGAN or TVAE (Xu et al. 2019, arXiv:1907.00503) of the package ctgan."""

    def make(train: pd.DataFrame, _label: str, count: int, seed: int, times: int) -> pd.DataFrame:
        synthesizer = getattr(importlib.import_module("ctgan"), model)(epochs=300 * times, enable_gpu=False)
        synthesizer.set_random_state(seed)
        synthesizer.fit(train, categories(train))
        return synthesizer.sample(count)

    return make


def tabdm(train: pd.DataFrame, label: str, count: int, seed: int, times: int) -> pd.DataFrame:
    """TabDM of the package tabdm."""
    rows: pd.DataFrame = importlib.import_module("tabdm").generate_synthetic_data(
        train,
        num_rows=count,
        discrete_columns=categories(train),
        target_column=label,
        epochs=120 * times,
        random_state=seed,
    )
    return rows


#: name -> (package, function that draws its rows)
PEERS: dict[str, tuple[str, Generate]] = {
    "CTGAN": ("ctgan", ctgan("CTGAN")),
    "TVAE": ("ctgan", ctgan("TVAE")),
    "TabDM": ("tabdm", tabdm),
}


def categories(frame: pd.DataFrame) -> list[str]:
    """Names of the columns that are categories, as the bundle infers them."""
    return [column.name for column in infer_schema(frame).columns if not column.numeric]


def whole_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with columns of whole numbers as integers, which tells a peer to round them."""
    kinds = {column.name: "int64" for column in infer_schema(frame).columns if column.kind == "integer"}
    return frame.reset_index(drop=True).astype(kinds)


def generate(folder: Path, label: str, seed: int, count: int, settings: dict[str, str]) -> dict[str, Path]:
    """Two tables of synthetic rows: of a training on train.csv, and of one more on its held-out rows too."""
    inputs = {"dataset_dir": folder / "train.csv", "label": label, "seed": seed, **settings}
    log = folder / "first/validation.jsonl"
    run(BUNDLE, "training", "train", **inputs, output_dir=folder / "first", ckpt_dir=folder / "first")
    again = {"output_dir": folder / "again", "ckpt_dir": folder / "again", "validation_log": log}
    run(BUNDLE, "training", "train", "all_rows", **inputs, **again)
    shared = {name: value for name, value in settings.items() if name in ("hidden_size", "depth", "bottleneck")}
    folders = {"tabular_mlp": folder / "first", "tabular_mlp, all rows": folder / "again"}
    for where in folders.values():
        options = {"output_dir": where / "samples", "seed": seed, "num_samples": count, **shared}
        run(BUNDLE, "sampling", "inference", checkpoint=where / "model.pt", **options)
    return {name: where / "samples/table.csv" for name, where in folders.items()}


def measure(comparison: Comparison, metrics: Sequence[ProfileMetric]) -> dict[str, float]:
    """The metrics, and the number of suspected copies."""
    return {**{f.name: f(comparison) for f in metrics}, "suspected copies": float(len(privacy_gate(comparison).copies))}


def present(names: Sequence[str]) -> list[str]:
    """Those of the peers that are installed; the others are named."""
    installed = [name for name in names if importlib.util.find_spec(PEERS[name][0])]
    for name in names:
        if name not in installed:
            print(f"{name} is left out: the package {PEERS[name][0]} is not installed (see --help).", flush=True)
    return installed


def one_seed(
    frame: pd.DataFrame, label: str, seed: int, options: argparse.Namespace, peers: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The metrics of the model, the baselines and the peers of one seed."""
    train, test = split_table(frame, infer_schema(frame, label), HELD_OUT)
    if options.inner:
        train, test = split_table(train, infer_schema(train, label), HELD_OUT, seed)
    count = 3 * len(test)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "train.csv", train, synthetic=False)
        write_table(folder / "test.csv", test, synthetic=False)
        tables = {} if options.without_model else generate(folder, label, seed, count, dict(options.set))
        for peer in peers:
            tables[peer] = folder / f"{peer}.csv"
            write_table(tables[peer], PEERS[peer][1](whole_numbers(train), label, count, seed, options.epochs_times))
        fields = ProfileFields(label=label, content=None)
        material = {
            key: gather_profiles([table], folder / "train.csv", folder / "test.csv", fields, seed=seed)
            for key, table in tables.items()
        }
    return compare(material, seed)


def compare(material: dict[str, ProfileMaterial], seed: int) -> dict[str, dict[str, float]]:
    """The metrics of each material, and of the baselines beside the first."""
    first = next(iter(material.values()))
    metrics = [ClosestRecord(), LogisticTwoSample(), ForestTwoSample(), KernelDiscrepancy(), CorrelationError()]
    if first.train.labels is not None:
        metrics += [TrainOnSyntheticAccuracy(), TrainOnSyntheticF1()]
    reference, random = Reference(first.real, first.train), np.random.default_rng(seed)
    sets: dict[str, Profiles] = {key: one.synthetic for key, one in material.items()}
    unlabelled = np.zeros(len(first.synthetic), dtype=int)
    labels = unlabelled if first.synthetic.labels is None else np.asarray(first.synthetic.labels)
    sets |= {name: make(first.train, labels, random) for name, make in BASELINES.items()}
    for key, one in material.items():
        for warning in one.warnings:
            print(f"{seed} {key}: {warning}", flush=True)
    results = {name: measure(Comparison(reference, rows), metrics) for name, rows in sets.items()}
    for name, values in results.items():
        print(seed, name, {key: round(value, 3) for key, value in values.items()}, flush=True)
    return results


def setting(words: str) -> tuple[str, str]:
    """``name=value`` in two."""
    name, _, value = words.partition("=")
    return name, value


def main() -> None:
    """Trains, measures, and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="also run the packages above that are installed")
    parser.add_argument("--without-model", action="store_true", help="measure the peers alone, beside the baselines")
    parser.add_argument("--epochs-times", type=int, default=1, help="times the default epochs of the peers")
    parser.add_argument("--inner", action="store_true", help="split the training rows again, and use them alone")
    parser.add_argument("--set", type=setting, nargs="*", default=[], help="ids of train.json, as name=value")
    options = parser.parse_args()
    source, label = TABLES[options.table]
    frame, peers = source(), present(list(PEERS) if options.peers else [])
    if options.without_model and not peers:
        parser.error("--without-model leaves nothing to measure: give --peers too, and install one of them.")
    results: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        for name, values in one_seed(frame, label, seed, options, peers).items():
            results.setdefault(name, []).append(values)
    mean, spread = ({name: pd.DataFrame(runs).agg(how) for name, runs in results.items()} for how in ("mean", "std"))
    print("| | " + " | ".join(results) + " |\n|---|" + "---|" * len(results))
    for key in next(iter(mean.values())).index:
        print(
            f"| {key} | " + " | ".join(f"{mean[name][key]:.3f} +- {spread[name][key]:.3f}" for name in results) + " |"
        )


if __name__ == "__main__":
    main()
