"""Rows of three small tables by the protocol of ForestDiffusion, beside its published figures.

    pip install POT xgboost-cpu
    python -m benchmarks.tables_published [--sets iris wine] [--methods tabular_mlp copies] [--out published.json]

The protocol is that of Jolicoeur-Martineau et al. 2024 (arXiv:2309.09968, Section 5): three splits, a fifth of the rows
held out, stratified by the class; five synthetic sets of the size of the training rows. Numbers are divided by the
range of the training rows; two classes have distance 1 (Gower). Figures:

- W1: Wasserstein-1 with the sum of absolute differences as cost, to training and to held-out rows;
- coverage: share of real rows with a synthetic row within the distance of their second nearest real row (more, if many
  rows have a double);
- F1: macro, on held-out rows, of four classifiers that train on synthetic rows: logistic regression without penalty,
  AdaBoost, random forest, XGBoost; forest and AdaBoost in the mean of five seeds, the others draw nothing;
- DCR and suspected copies: the privacy gate of this package. W1 to the training rows rewards copies.

``tabular_mlp`` is the bundle of ``plan`` with its own settings: training, a second training on all rows, sampling.
Copula, SMOTE and copies are the package's, with the labels of the training rows.
Forest-Flow is the package ForestDiffusion with the settings of its authors' script (``pip install ForestDiffusion``).
It draws its labels at random; "in proportion" takes as many of its rows of each class as the training rows have.
CTGAN and TVAE are those of ``benchmarks.tables``.

--out collects the figures of each (set, split, method); a run continues where the last one ended.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.bundle import ConfigWorkflow
from scipy.spatial.distance import cdist
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.ensemble import AdaBoostClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

from benchmarks.tables import ctgan
from monai_diffscore.atomic_files import write_json
from monai_diffscore.data import read_table, write_table
from monai_diffscore.metrics import Comparison, Profiles, Reference, privacy_gate
from monai_diffscore.metrics.baselines import copies, copula, smote
from monai_diffscore.report.profile_tables import encode_tables

SETS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer}
LABEL = "class"
DRAWS = 5
#: set -> method -> W1 to training and held-out rows, coverage of both, F1: the authors' Results/, generation
PUBLISHED = {
    "iris": {
        "Forest-Flow": (0.197, 0.328, 0.936, 0.931, 0.976),
        "TabDDPM": (0.193, 0.329, 0.921, 0.918, 0.966),
        "training rows": (0.0, 0.236, 1.0, 0.933, 0.972),
    },
    "wine": {
        "Forest-Flow": (0.845, 1.421, 0.974, 0.954, 0.944),
        "TabDDPM": (0.712, 1.531, 0.935, 0.907, 0.929),
        "training rows": (0.0, 1.440, 1.0, 0.944, 0.956),
    },
    "breast_cancer": {
        "Forest-Flow": (1.281, 1.749, 0.950, 0.976, 0.944),
        "TabDDPM": (3.024, 3.438, 0.923, 0.953, 0.943),
        "training rows": (0.0, 1.853, 1.0, 0.968, 0.961),
    },
}
FIGURES = ("w1_train", "w1_test", "coverage_train", "coverage_test", "f1", "dcr_ratio", "suspected_copies")
#: training rows, split -> synthetic sets of their size
Generate = Callable[[pd.DataFrame, int], list[pd.DataFrame]]


def rows_of(name: str) -> pd.DataFrame:
    """The columns of a set, and its class as a word."""
    bunch = SETS[name](as_frame=True)
    frame = bunch.data.rename(columns=lambda column: column.replace(" (cm)", "").replace(" ", "_").replace("/", "_"))
    return frame.assign(**{LABEL: bunch.target_names[bunch.target]})


def split_rows(frame: pd.DataFrame, split: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out rows. The classes have the order of the file, on which the draw depends."""
    codes, _ = pd.factorize(frame[LABEL])
    train, test = train_test_split(frame, test_size=0.2, random_state=split, stratify=codes)
    return train.reset_index(drop=True), test.reset_index(drop=True)


# ---- methods ----


def execute(bundle: Path, *configurations: str, **settings: Any) -> None:
    """Runs configurations of a bundle in this process."""
    workflow = ConfigWorkflow(
        [str(bundle / f"configs/{name}.json") for name in configurations],
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type="train" if configurations[0] == "train" else "infer",
        bundle_root=str(bundle),
        **settings,
    )
    workflow.initialize()
    workflow.run()


def planned(train: pd.DataFrame, split: int, overlays: Sequence[str] = ("all_rows",)) -> list[pd.DataFrame]:
    """The sets of the bundle that ``plan`` writes for the training rows, with its own settings."""
    with tempfile.TemporaryDirectory() as name:
        table, bundle = Path(name, "rows.csv"), Path(name, "bundle")
        write_table(table, train, synthetic=False)
        command = ["plan", str(table), "--condition", LABEL, "--out", str(bundle), "--no-trial"]
        subprocess.run([sys.executable, "-m", "monai_diffscore", *command], check=True, capture_output=True)
        execute(bundle, "train", seed=split)
        for overlay in overlays:
            execute(bundle, "train", overlay, seed=split)
        checkpoint = bundle.joinpath("models", *overlays, "model.pt")
        sets = []
        for draw in range(DRAWS):
            folder, seed = bundle / f"draw{draw}", DRAWS * split + draw
            options = {"num_samples": len(train), "checkpoint": str(checkpoint), "output_dir": str(folder)}
            execute(bundle, "inference", seed=seed, **options)
            sets.append(read_table(folder / "table.csv")[list(train.columns)])
    return sets


def baseline(make: Callable[[Profiles, np.ndarray, np.random.Generator], Profiles]) -> Generate:
    """A generator of ``metrics.baselines``, with the labels of the training rows."""

    def generate(train: pd.DataFrame, split: int) -> list[pd.DataFrame]:
        features, labels = train.drop(columns=LABEL), train[LABEL].to_numpy(dtype=object)
        rows, random = Profiles(features.to_numpy(float), labels), np.random.default_rng(split)
        drawn = [make(rows, labels, random) for _ in range(DRAWS)]
        return [pd.DataFrame(one.dense, columns=features.columns).assign(**{LABEL: one.labels}) for one in drawn]

    return generate


def forest_flow(train: pd.DataFrame, split: int) -> list[pd.DataFrame]:
    """Forest-Flow: the first sets with its own labels, further sets with the classes in proportion."""
    features, (codes, names) = train.drop(columns=LABEL), pd.factorize(train[LABEL], sort=True)
    model = importlib.import_module("ForestDiffusion").ForestDiffusionModel(
        X=features.to_numpy(float), label_y=codes.astype(float), n_t=50, duplicate_K=100, diffusion_type="flow",
        n_batch=1, n_jobs=1, seed=split,
    )  # fmt: skip
    rows = pd.DataFrame(model.generate(batch_size=2 * DRAWS * len(train)), columns=train.columns)
    rows[LABEL] = names[rows[LABEL].astype(int)]
    own = [rows[len(train) * draw :][: len(train)].reset_index(drop=True) for draw in range(DRAWS)]
    counts = train[LABEL].value_counts()
    places = {label: np.flatnonzero(rows[LABEL] == label) for label in names}
    row_sets = [np.concatenate([p[counts[c] * d :][: counts[c]] for c, p in places.items()]) for d in range(DRAWS)]
    return own + [rows.iloc[places_of_set].reset_index(drop=True) for places_of_set in row_sets]


def neural(model: str) -> Generate:
    """CTGAN or TVAE, one training and five sets."""

    def generate(train: pd.DataFrame, split: int) -> list[pd.DataFrame]:
        rows = ctgan(model)(train, LABEL, DRAWS * len(train), split, 1)
        return [rows[len(train) * draw :][: len(train)].reset_index(drop=True) for draw in range(DRAWS)]

    return generate


#: name -> (what a run must import, how it generates)
METHODS: dict[str, tuple[str, Generate]] = {
    "training rows": ("ot", lambda train, split: [train]),
    "copies": ("ot", baseline(copies)),
    "SMOTE": ("ot", baseline(smote)),
    "Gaussian copula": ("ot", baseline(copula)),
    "tabular_mlp": ("ot", planned),
    "tabular_mlp, first training": ("ot", lambda train, split: planned(train, split, ())),
    "TVAE": ("ctgan", neural("TVAE")),
    "CTGAN": ("ctgan", neural("CTGAN")),
    "Forest-Flow": ("ForestDiffusion", forest_flow),
}


# ---- figures ----


class Gower:
    """Rows as points whose city-block distance is the sum over columns of differences, in ranges of the training rows.

    Args:
        train: the training rows.
    """

    def __init__(self, train: pd.DataFrame) -> None:
        self.scaler = MinMaxScaler().fit(train.drop(columns=LABEL).to_numpy(float))
        self.classes = sorted(train[LABEL].unique())

    def __call__(self, rows: pd.DataFrame) -> np.ndarray:
        numbers = self.scaler.transform(rows.drop(columns=LABEL).to_numpy(float))
        return np.hstack([numbers, (rows[[LABEL]].to_numpy() == self.classes) / 2])


def wasserstein(first: np.ndarray, second: np.ndarray) -> float:
    """W1 between equally weighted points, with city-block cost."""
    transport = importlib.import_module("ot")
    weights = (transport.unif(len(points)) for points in (first, second))
    return float(transport.emd2(*weights, cdist(first, second, "cityblock")))


def coverage(real: np.ndarray, synthetic: np.ndarray) -> float:
    """Share of real points with a synthetic point nearer than their k-th nearest real one (Naeem et al. 2020).

    k is one more than the least number at which 95 % of the real points cover themselves, as in the authors' script: 2,
    and more if many points have a double.
    """
    distances = np.sort(cdist(real, real, "cityblock"), axis=1)
    least = next(k for k in range(1, len(real)) if (distances[:, 0] < distances[:, k]).mean() >= 0.95)
    nearest = cdist(real, synthetic, "cityblock").min(1)
    return float((nearest < distances[:, least + 1]).mean())


def usefulness(train: pd.DataFrame, test: pd.DataFrame, seeds: int = 5) -> float:
    """Macro F1 on ``test`` of four classifiers of ``train``; 0 if a class is missing in it."""
    boosted = importlib.import_module("xgboost").XGBClassifier
    if not set(test[LABEL]) <= set(train[LABEL]):
        return 0.0
    codes, names = pd.factorize(train[LABEL], sort=True)
    inputs, test_inputs = train.drop(columns=LABEL).to_numpy(float), test.drop(columns=LABEL).to_numpy(float)
    truth = names.get_indexer(test[LABEL])
    families: list[list[Any]] = [
        [LogisticRegression(C=np.inf, max_iter=500)],
        [AdaBoostClassifier(random_state=seed) for seed in range(seeds)],
        [RandomForestClassifier(max_depth=28, random_state=seed) for seed in range(seeds)],
        [boosted(reg_lambda=0.0, random_state=0, n_jobs=1)],
    ]
    scores = [
        [f1_score(truth, model.fit(inputs, codes).predict(test_inputs), average="macro") for model in family]
        for family in families
    ]
    return float(np.mean([np.mean(family) for family in scores]))


def measure(train: pd.DataFrame, test: pd.DataFrame, synthetic: pd.DataFrame) -> dict[str, float]:
    """The figures of one synthetic set."""
    points = Gower(train)
    own, held_out, fakes = points(train), points(test), points(synthetic)
    (trained, real, drawn), _ = encode_tables([train, test, synthetic], ("train", "test", "synthetic"), LABEL)
    gate = privacy_gate(Comparison(Reference(real, trained), drawn))
    values = (
        wasserstein(own, fakes), wasserstein(held_out, fakes), coverage(own, fakes), coverage(held_out, fakes),
        usefulness(synthetic, test), gate.ratio, len(gate.copies),
    )  # fmt: skip
    return dict(zip(FIGURES, map(float, values), strict=True))


# ---- a run ----


def read_results(path: Path) -> dict[str, list[dict[str, float]]]:
    """Figures of each synthetic set by "set/split/method"; empty without the file."""
    return json.loads(path.read_text()) if path.exists() else {}


def table_of(results: dict[str, list[dict[str, float]]], name: str) -> str:
    """The rows of one set: mean over splits, and the standard deviation of their means."""
    methods = dict.fromkeys(key.split("/")[2] for key in results if key.startswith(f"{name}/"))
    lines = []
    for method in methods:
        splits = [pd.DataFrame(sets).mean() for key, sets in results.items() if key.split("/")[::2] == [name, method]]
        mean, spread = pd.DataFrame(splits).mean(), pd.DataFrame(splits).std().fillna(0)
        cells = [f"{mean[figure]:.3f} +- {spread[figure]:.3f}" for figure in FIGURES]
        lines.append(f"| {method} ({len(splits)}) | " + " | ".join(cells) + " |")
    for method, values in PUBLISHED[name].items():
        lines.append(f"| {method}, published | " + " | ".join(f"{value:.3f}" for value in values) + " | | |")
    return "\n".join([f"| {name} (splits) | " + " | ".join(FIGURES) + " |", "|---" * 8 + "|", *lines])


def main() -> None:
    """Generates and measures what --out lacks, and prints a table in Markdown for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--splits", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("published.json"), help="figures, read and written")
    options = parser.parse_args()
    results = read_results(options.out)
    for name, split, method in [(n, s, m) for n in options.sets for m in options.methods for s in options.splits]:
        key = f"{name}/{split}/{method}"
        package, generate = METHODS[method]
        if key in results or not importlib.util.find_spec(package):
            print(f"{key}: {'is there' if key in results else f'left out, {package} is not installed'}", flush=True)
            continue
        train, test = split_rows(rows_of(name), split)
        figures = [measure(train, test, rows) for rows in generate(train, split)]
        results = read_results(options.out) | {key: figures[:DRAWS]}  # another run may have written meanwhile
        if len(figures) > DRAWS:
            results[f"{key}, in proportion"] = figures[DRAWS:]
        write_json(options.out, results)
        print(key, pd.DataFrame(results[key]).mean().round(3).to_dict(), flush=True)
    for name in options.sets:
        print(f"\n{table_of(results, name)}")


if __name__ == "__main__":
    main()
