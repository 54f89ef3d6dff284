r"""The panel of profiles: each metric of the model, of real data among themselves, and of the baselines.

**The floor** is the metric of fresh real rows: a draw pools R and T and splits them, label by label, into rows in place
of R, as many in place of S (at most two thirds of the rest), and the remainder in place of T, so that no row is in two
sets. Its value is the mean over draws, its interval 1.96 standard deviations to either side. A perfect model lies
there. **The other intervals** are a bootstrap over rows of R and S with fixed folds, neighbours and kernels, centred on
the estimate, because draws with replacement have duplicates, which bias it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from monai_diffscore.metrics.baselines import BASELINES, Generate
from monai_diffscore.metrics.marginals import (
    ColumnDistance,
    CorrelationAgreement,
    CorrelationError,
    LibraryDistance,
    MeanAgreement,
    VarianceAgreement,
    VarianceRatio,
    ZeroError,
)
from monai_diffscore.metrics.markers import FoldChanges, MarkerAgreement, MarkerSlope
from monai_diffscore.metrics.overlap import AssignmentDistance, KernelDiscrepancy, NeighbourMixing
from monai_diffscore.metrics.panel import FLOOR, Estimate, Row
from monai_diffscore.metrics.privacy import ClosestRecord, NearestTrainShare, PrivacyGate, privacy_gate
from monai_diffscore.metrics.profiles import Comparison, ProfileMetric, Profiles, Reference
from monai_diffscore.metrics.two_sample import ForestTwoSample, LogisticTwoSample
from monai_diffscore.metrics.usefulness import TrainOnSyntheticAccuracy, TrainOnSyntheticF1

MODEL = "model"
_REQUIREMENTS = {
    "labels": "not all three sets have labels",
    "counts": "not both real and synthetic rows are counts with totals of whole cells",
    "expression": "the columns of a table have units of their own",
    "pairs": "two columns have one correlation, which is no pattern",
}


@dataclass(frozen=True)
class ProfilePanel:
    """The measurements of a set of samples.

    Args:
        rows: a row for each metric: the model, the floor, the baselines.
        gates: privacy of the model and of each baseline.
        by_type: type -> name of a metric -> (model, mean of the floor).
        left_out: title of a metric -> the reason for its omission.
    """

    rows: list[Row]
    gates: dict[str, PrivacyGate]
    by_type: dict[Any, dict[str, tuple[float, float]]]
    left_out: dict[str, str]

    @property
    def gate(self) -> PrivacyGate:
        """Of the model."""
        return self.gates[MODEL]

    def record(self) -> dict[str, Any]:
        """For JSON: the gate first."""
        gates = {
            name: {**asdict(gate), "passed": gate.passed, "reason": gate.reason} for name, gate in self.gates.items()
        }
        return {
            "privacy_gate": gates[MODEL],
            "metrics_valid": self.gate.passed,
            "metrics": {row.metric.name: row.record() for row in self.rows},
            "by_type": {
                str(label): {name: {"model": ours, "real": real} for name, (ours, real) in values.items()}
                for label, values in self.by_type.items()
            },
            "left_out": self.left_out,
            "privacy_gates_of_baselines": {name: gate for name, gate in gates.items() if name != MODEL},
        }


def profile_panel_metrics() -> list[ProfileMetric]:
    """All metrics of profiles, privacy first."""
    return [
        ClosestRecord(),
        NearestTrainShare(),
        LogisticTwoSample(),
        ForestTwoSample(),
        KernelDiscrepancy(),
        AssignmentDistance(),
        NeighbourMixing(),
        MeanAgreement(),
        VarianceAgreement(),
        VarianceRatio(),
        ZeroError(),
        LibraryDistance(),
        ColumnDistance(),
        CorrelationError(),
        CorrelationAgreement(),
        MarkerSlope(),
        MarkerAgreement(),
        TrainOnSyntheticAccuracy(),
        TrainOnSyntheticF1(),
    ]


def reason_against(metric: ProfileMetric, comparison: Comparison, table: bool = False) -> str:
    """The reason against a metric of a comparison; "" without one.

    Args:
        metric, comparison: the metric and its data.
        table: the columns are those of a table, in units of their own, not genes.
    """
    has = {
        "labels": comparison.labelled,
        "counts": comparison.counted,
        "expression": not table,
        "pairs": comparison.real.values.shape[1] > 2,
    }
    return "; ".join(_REQUIREMENTS[need] for need in metric.needs if not has[need])


def assess_profiles(
    reference: Reference,
    synthetic: Profiles,
    baselines: Mapping[str, Generate] = BASELINES,
    draws: int = 200,
    floor_draws: int = 20,
    seed: int = 0,
    table: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ProfilePanel:
    """Every metric that the data allow, of the model, of fresh real rows, and of baselines fitted to T.

    Args:
        reference: R and T.
        synthetic: S; the labels of R, row by row as many of each, make it comparable with published tables.
        baselines: generators, called with the labels of S.
        draws: draws of each bootstrap; a quarter for baselines and costly metrics.
        floor_draws: splits of the floor; a third for costly metrics.
        seed: seed of all draws.
        table: the columns are those of a table, not genes.
        progress: called with the name of each set.
    """
    say = progress or (lambda name: None)
    comparisons = {MODEL: Comparison(reference, synthetic)}
    comparisons |= {
        name: Comparison(reference, rows) for name, rows in _generated(reference, synthetic, baselines, seed).items()
    }
    reasons = {metric: reason_against(metric, comparisons[MODEL], table) for metric in profile_panel_metrics()}
    metrics = [metric for metric, reason in reasons.items() if not reason]
    say("real against real")
    splits = [_fresh(reference, len(synthetic), np.random.default_rng((seed, draw))) for draw in range(floor_draws)]
    sets: dict[ProfileMetric, dict[str, Estimate]] = {f: {FLOOR: _floor(f, splits)} for f in metrics}
    for name, comparison in comparisons.items():
        say(name)
        for metric in metrics:
            if not reason_against(metric, comparison, table):
                few = 4 if name != MODEL else 1
                sets[metric][name] = _bootstrap(metric, comparison, draws // few, np.random.default_rng(seed))
    say("type by type")
    return ProfilePanel(
        rows=[Row(metric, {MODEL: estimates.pop(MODEL), **estimates}) for metric, estimates in sets.items()],
        gates={name: privacy_gate(comparison) for name, comparison in comparisons.items()},
        by_type=_by_type(metrics, comparisons[MODEL], splits[:5]),
        left_out={metric.title: reason for metric, reason in reasons.items() if reason},
    )


def _generated(
    reference: Reference, synthetic: Profiles, baselines: Mapping[str, Generate], seed: int
) -> dict[str, Profiles]:
    train, labels = reference.train, synthetic.labels
    if labels is None or train.labels is None:
        train, labels = Profiles(train.values, None, train.library, train.names), np.zeros(len(synthetic), dtype=int)
    elif not set(labels) <= set(train.labels):  # a type that was never seen
        labels = labels[np.isin(labels, train.labels)]
    generated = {}
    for name, generate in baselines.items():
        if train.library is None and name == "negative binomial":
            continue
        generated[name] = generate(train, labels, np.random.default_rng(seed))
    return generated


def _fresh(reference: Reference, count: int, random: np.random.Generator) -> Comparison:
    """Real rows in place of synthetic rows, other rows held out, the rest for training, with the shares of types."""
    pooled, size = reference.pooled, len(reference.real)
    labels = np.zeros(len(pooled), dtype=int) if pooled.labels is None else pooled.labels
    order = random.permutation(len(pooled))
    # rows of each type in random order, their places evenly from 0 to 1: a cut gives each its share
    place = np.empty(len(pooled))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        place[rows] = (np.arange(len(rows)) + random.uniform()) / len(rows)
    order = np.argsort(place, kind="stable")
    size_of_synthetic = min(count, 2 * (len(pooled) - size) // 3)
    held_out, synthetic, train = np.split(order, [size, size + size_of_synthetic])
    points = np.concatenate([reference.real_points, reference.train_points])
    fresh = Comparison(reference.split(held_out, train), pooled.rows(synthetic))
    vars(fresh).update(synthetic_points=points[synthetic])
    return fresh


def _floor(metric: ProfileMetric, splits: list[Comparison]) -> Estimate:
    subset = splits[: max(3, len(splits) // 3)] if metric.costly else splits
    values = np.array([metric(split) for split in subset])
    values = values[np.isfinite(values)]
    low, high = metric.bounds
    mean, spread = float(values.mean()), 1.96 * float(values.std(ddof=1))
    return Estimate(mean, max(low, mean - spread), min(high, mean + spread), len(splits[0].synthetic))


def _bootstrap(metric: ProfileMetric, comparison: Comparison, draws: int, random: np.random.Generator) -> Estimate:
    statistic = metric.statistic(comparison)
    n, m = len(comparison.real), len(comparison.synthetic)
    value = statistic(np.arange(n), np.arange(m))
    repeated = max(2, draws // 4 if metric.costly else draws)
    values = [statistic(random.integers(n, size=n), random.integers(m, size=m)) for _ in range(repeated)]
    low, middle, high = np.nanquantile(values, (0.025, 0.5, 0.975))
    least, most = metric.bounds
    return Estimate(value, max(least, value + float(low - middle)), min(most, value + float(high - middle)), m)


def _by_type(
    metrics: list[ProfileMetric], comparison: Comparison, splits: list[Comparison]
) -> dict[Any, dict[str, tuple[float, float]]]:
    if not comparison.labelled:
        return {}
    by_label: dict[Any, dict[str, tuple[float, float]]] = {}
    labels = np.unique(np.asarray(comparison.real.labels))
    for label in labels:
        parts = [part.of_type(label) for part in (comparison, *splits)]
        ours = parts[0]
        floors = [part for part in parts[1:] if part is not None]
        if ours is None or not floors:
            continue
        rows = min(len(ours.real), len(ours.synthetic), *(len(part.synthetic) for part in floors))
        values = {}
        for metric in metrics:
            needed = metric.rows_of_a_type
            if needed is not None and rows >= needed:
                subset = floors[:1] if metric.costly else floors
                values[metric.name] = metric(ours), float(np.nanmean([metric(part) for part in subset]))
        by_label[label] = values
    for metric in metrics:
        if isinstance(metric, FoldChanges):
            floor = [metric.by_type(split) for split in splits]
            for label, value in metric.by_type(comparison).items():
                real = [values[label] for values in floor if label in values]
                if label in by_label and real:
                    by_label[label][metric.name] = value, float(np.mean(real))
    return {label: values for label, values in by_label.items() if values}
