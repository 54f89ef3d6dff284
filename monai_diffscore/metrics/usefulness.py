"""Train on synthetic, test on real: what labelled samples are good for.

Images: a logistic regression on the features of a random network is trained on labelled samples and tested on real
cases. Beside it stands the same classifier trained on as many real cases: the difference is what the samples lack.
Profiles and tables: the same on standardised columns, with the labels that were asked for (Esteban et al.,
arXiv:1706.02633, section 5.1, who named the test).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from monai_diffscore.metrics.features import random_features
from monai_diffscore.metrics.profiles import Comparison, ProfileFigure, Statistic


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


class _TrainOnSynthetic(ProfileFigure):
    needs = ("labels",)
    bounds = (0, 1)
    higher_is_better = True
    rows_of_a_type = None
    sees = "Train on synthetic, test on real: labels that were mixed up or ignored, types missing or drawn together."
    blind_to = "Whether rows look real: the mean of each type would do. Copies, which it rewards."

    def statistic(self, comparison: Comparison) -> Statistic:
        truth, predicted = _predictions(comparison)
        return lambda i, j: self.score(truth[i], predicted[i])

    def score(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        """The number for labels of held-out rows and their prediction."""
        raise NotImplementedError


class TrainOnSyntheticAccuracy(_TrainOnSynthetic):
    """Accuracy on R of a logistic regression (C = .01, standardised columns) trained on S."""

    name = "tstr_acc"
    title = "TSTR accuracy"
    unit = "share, 1 best"

    def score(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(accuracy_score(truth, predicted))


class TrainOnSyntheticF1(_TrainOnSynthetic):
    """Macro F1, over the types, of the same classifier."""

    name = "tstr_f1"
    title = "TSTR F1"
    unit = "macro, 1 best"

    def score(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(f1_score(truth, predicted, average="macro", zero_division=0))


def _predictions(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """Labels of R, and what a classifier trained on S says; the one label of S if it has one."""
    asked, truth = comparison.synthetic.labels, comparison.real.labels
    if asked is None or truth is None:
        raise ValueError("Train on synthetic, test on real needs the labels of synthetic and real rows.")
    if len(np.unique(asked)) == 1:
        return truth, np.repeat(asked[:1], len(truth))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return truth, classifier.fit(comparison.synthetic.dense, asked).predict(comparison.real.dense)


def _recall(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes that a bootstrap draw holds."""
    return float(np.mean([(predicted[truth == label] == label).mean() for label in np.unique(truth)]))


def labels_tensor(names: list[str]) -> tuple[Tensor, list[str]]:
    """Integer labels [N] of label names, and the sorted names that they stand for."""
    known = sorted(set(names))
    return torch.tensor([known.index(name) for name in names]), known
