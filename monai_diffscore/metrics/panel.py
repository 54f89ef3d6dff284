r"""The quality panel: metrics of a model, beside the same metrics of real images and of spoilt ones.

All sets have the same number of images n, because a distance between finite sets is never 0 and its bias depends on n.
**The floor** is the metric of n real images against n others, over random splits of the real images in two: its median,
and the interval that holds 95 % of the splits. A perfect model has this distribution. **The other rows** compare with
one half of the real images. Their 95 % interval is a bootstrap over images of both sets, centred on the estimate,
because draws with replacement have duplicates, which bias it. Images cut from one subject are not independent: with few
subjects the intervals are too narrow, and the number of subjects belongs beside N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from monai_diffscore.metrics.controls import CONTROLS, collapsed, spoil
from monai_diffscore.metrics.diversity import PairSimilarity
from monai_diffscore.metrics.features import RandomFeatureFrechet
from monai_diffscore.metrics.image_metric import Caption, ImageMetric, check_images
from monai_diffscore.metrics.intensity import IntensityDistance
from monai_diffscore.metrics.memorisation import MemorisationRatio
from monai_diffscore.metrics.spectrum import SpectrumError
from monai_diffscore.metrics.texture import PatchSlicedWasserstein
from monai_diffscore.metrics.usefulness import TrainOnSyntheticImages

FLOOR = "real"
_OTHERS = "other real images"


@dataclass(frozen=True)
class Estimate:
    """A number with the interval that holds 95 % of its draws, from ``count`` images."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Row:
    """One metric of every set; ``sets`` holds the floor under the name "real"."""

    metric: Caption
    sets: dict[str, Estimate]

    def beyond_floor(self, name: str) -> bool:
        """Whether a set lies outside the interval of the floor, on the worse side: the test, at 5 %, of the
        hypothesis that its images are real."""
        ours, floor = self.sets[name], self.sets[FLOOR]
        above, below = ours.value > floor.high, ours.value < floor.low
        if self.metric.two_sided:
            return above or below
        return below if self.metric.higher_is_better else above

    def record(self) -> dict[str, Any]:
        """For JSON."""
        metric = self.metric
        return {
            "title": metric.title,
            "unit": metric.unit,
            "two_sided": metric.two_sided,
            "higher_is_better": metric.higher_is_better,
            "sees": metric.sees,
            "blind_to": metric.blind_to,
            "sets": {name: asdict(estimate) for name, estimate in self.sets.items()},
            "beyond_floor": {name: self.beyond_floor(name) for name in self.sets if name != FLOOR},
        }


def image_panel_metrics(
    scale: float = 1.0,
    unit: str = "normalised",
    training: Sequence[Tensor] = (),
    mirrored: bool = False,
    coarse: int = 1,
    signals: bool = False,
    labelled: bool = False,
) -> list[ImageMetric]:
    """The metrics for images: all of them, or all but memorisation where ``training`` is empty.

    Args:
        scale, unit: of the data: data units in a normalised unit, and their name.
        training: volumes [C, *V] that the model was trained on, preprocessed.
        mirrored, coarse: of :func:`~monai_diffscore.metrics.memorisation.nearest_windows`.
        signals: the images are 1-D, for which similarity within the set is not defined: it is left out.
        labelled: the images have labels, so that a classifier can be trained on them.
    """
    metrics: list[ImageMetric] = [
        SpectrumError(),
        IntensityDistance(scale, unit),
        PatchSlicedWasserstein(),
        RandomFeatureFrechet(),
        *([] if signals else [PairSimilarity()]),
        *([TrainOnSyntheticImages()] if labelled else []),
    ]
    return [*metrics, MemorisationRatio(training, mirrored, coarse)] if len(training) else metrics


def assess(
    metrics: Sequence[ImageMetric],
    samples: Tensor | None,
    real: Tensor,
    copied: Tensor | None = None,
    draws: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    labels: Mapping[str, Tensor] | None = None,
) -> list[Row]:
    """The panel: each metric of the model, the floor and the controls.

    Args:
        metrics: such as :func:`image_panel_metrics`.
        samples: [N, C, *S], normalised; None leaves the model out (to see what the panel sees).
        real: [M, C, *S] that the model was not trained on. Of samples and real, n = min(N, M // 2) are used.
        copied: [>= n, C, *S] training images, for the control "copied"; without them, real images that the metrics
            compare with stand in.
        draws: of each bootstrap, and splits of the floor.
        seed: of all draws.
        progress: called with the name of each metric.
        labels: of the images, for metrics that are ``labelled``: [N] under "model", [M] under "real", and those of
            ``copied`` under "copied".
    Raises:
        ValueError: for fewer than 2 samples or 4 real images, images that differ in size, or metrics that lack labels.
    """
    generator = torch.Generator().manual_seed(seed)
    for other in (samples, copied):
        if other is not None:
            check_images(other, real)
    count = len(real) // 2 if samples is None else min(len(samples), len(real) // 2)
    if count < 2:
        samples_count = "no" if samples is None else len(samples)
        raise ValueError(
            f"Expected 2 samples and 4 real images or more, got {samples_count} samples and {len(real)} real images. "
            "Give more of both."
        )
    order = torch.randperm(len(real), generator=generator)[: 2 * count]
    real = real[order]
    reference, others = real[:count], real[count:]
    sets: dict[str, Tensor] = {} if samples is None else {"model": samples[:count]}
    sets |= spoil(others)
    repeated = torch.arange(count) % (count if copied is None else len(copied))
    sets["copied"] = (reference if copied is None else copied)[repeated]
    set_labels: dict[str, Tensor] = {}
    if labels is not None:
        ours, theirs = labels["real"][order].chunk(2)
        set_labels = {FLOOR: ours} | dict.fromkeys((*CONTROLS, _OTHERS), theirs) | {"collapsed": collapsed(theirs)}
        set_labels["copied"] = (ours if copied is None else labels["copied"])[repeated]
        if "model" in sets:
            set_labels["model"] = labels["model"][:count]
    rows = []
    for metric in metrics:
        if progress is not None:
            progress(metric.title)
        estimates = _estimates(metric, {**sets, FLOOR: reference, _OTHERS: others}, set_labels, draws, generator)
        # rows may stand for pairs of images
        rows.append(Row(metric, {name: replace(estimate, count=count) for name, estimate in estimates.items()}))
    return rows


def _estimates(
    metric: ImageMetric,
    sets: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    draws: int,
    generator: torch.Generator,
) -> dict[str, Estimate]:
    described = {name: metric.rows(images, labels.get(name)) for name, images in sets.items()}
    ours, theirs = described.pop(FLOOR), described.pop(_OTHERS)
    estimates = {FLOOR: _floor(metric, torch.cat([ours, theirs]), draws, generator)}
    for name, rows in described.items():
        estimates[name] = _bootstrap(metric, rows, ours, draws, generator)
    return estimates


def _floor(metric: ImageMetric, rows: Tensor, draws: int, generator: torch.Generator) -> Estimate:
    count = len(rows) // 2
    values = []
    for _ in range(draws):
        order = torch.randperm(len(rows), generator=generator)
        values.append(metric.compare(rows[order[:count]], rows[order[count : 2 * count]]))
    low, middle, high = torch.tensor(values, dtype=torch.float64).quantile(_quantiles(0.5)).tolist()
    return Estimate(middle, low, high, count)


def _bootstrap(
    metric: ImageMetric, rows: Tensor, reference: Tensor, draws: int, generator: torch.Generator
) -> Estimate:
    value = metric.compare(rows, reference)
    values = [
        metric.compare(rows[_again(len(rows), generator)], reference[_again(len(reference), generator)])
        for _ in range(draws)
    ]
    low, middle, high = torch.tensor(values, dtype=torch.float64).quantile(_quantiles(0.5)).tolist()
    least, most = metric.bounds
    return Estimate(value, max(least, value + low - middle), min(most, value + high - middle), len(rows))


def _again(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (count,), generator=generator)


def _quantiles(middle: float) -> Tensor:
    return torch.tensor([0.025, middle, 0.975], dtype=torch.float64)
