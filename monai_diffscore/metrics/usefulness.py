"""Train on synthetic, test on real: what labelled samples are good for.

A logistic regression on the features of a random network is trained on labelled samples and tested on real cases.
Beside it stands the same classifier trained on as many real cases: the difference is what the samples lack.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from monai_diffscore.metrics.features import random_features


@dataclass(frozen=True)
class Usefulness:
    """Balanced accuracies on real test cases, after training on each; ``chance`` is one over the number of classes."""

    synthetic: float
    real: float
    chance: float
    test_cases: int
    interval: tuple[float, float]  # of ``synthetic``, bootstrap over test cases, 95 %


def train_on_synthetic(
    samples: tuple[Tensor, Tensor],
    real: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    draws: int = 200,
    seed: int = 0,
) -> Usefulness:
    """Balanced accuracy on ``test`` of a classifier trained on ``samples``, and of one trained on ``real``.

    Args:
        samples, real, test: images [N, C, *S] and their labels [N], integers. No subject of ``test`` is in ``real``.
        draws: bootstrap draws over the test cases.
        seed: of network and bootstrap.
    Raises:
        ValueError: unless samples and real hold two classes or more, and the same ones as the test cases.
    """
    classes = [set(labels.tolist()) for _, labels in (samples, real, test)]
    if len(classes[2]) < 2 or any(found != classes[2] for found in classes):
        raise ValueError(f"Expected the same two or more labels in samples, real and test, got {classes}.")
    features = [random_features(images, seed).cpu().numpy() for images, _ in (samples, real, test)]
    truth = test[1].cpu().numpy()
    predictions = []
    for rows, (_, labels) in zip(features[:2], (samples, real), strict=True):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        predictions.append(classifier.fit(rows, labels.cpu().numpy()).predict(features[2]))
    random = np.random.default_rng(seed)
    places = [random.integers(len(truth), size=len(truth)) for _ in range(draws)]
    scores = [_recall(truth[place], predictions[0][place]) for place in places]
    low, high = np.quantile(scores, (0.025, 0.975))
    return Usefulness(
        synthetic=float(balanced_accuracy_score(truth, predictions[0])),
        real=float(balanced_accuracy_score(truth, predictions[1])),
        chance=1 / len(classes[2]),
        test_cases=len(truth),
        interval=(float(low), float(high)),
    )


def _recall(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes that a bootstrap draw holds."""
    return float(np.mean([(predicted[truth == label] == label).mean() for label in np.unique(truth)]))


def labels_tensor(names: list[str]) -> tuple[Tensor, list[str]]:
    """Integer labels [N] of label names, and the sorted names that they stand for."""
    known = sorted(set(names))
    return torch.tensor([known.index(name) for name in names]), known
