"""Train on synthetic, test on real: the use of labelled samples.

A simple classifier is trained on labelled samples and tested on real cases. The floor is the same classifier trained on
as many real cases: the difference is the deficit of the samples. Images are described by the features of a random
network, profiles and tables by their standardised columns (Esteban et al., arXiv:1706.02633, section 5.1, who named the
test).
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from monai_diffscore.metrics.features import random_features
from monai_diffscore.metrics.image_metric import ImageMetric
from monai_diffscore.metrics.profiles import Comparison, ProfileMetric, Statistic


class TrainOnSyntheticImages(ImageMetric):
    r"""Balanced accuracy on labelled real images of a classifier that was trained on labelled samples.

    A ridge classifier (alpha = 10) on the standardised features of a random network: a better network is not
    needed, because the result is the difference to the floor, the same classifier trained on as many real images.

    Args:
        seed: seed of the network.
    """

    name = "tstr"
    title = "Train on synthetic, test on real"
    unit = "balanced accuracy"
    bounds = (0, 1)
    higher_is_better = True
    labelled = True
    sees = "Labels that were ignored or mixed up, classes missing or drawn together."
    blind_to = "Whether images look real, and their variety within a class: one typical image might do. Copies."

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def describe(self, images: Tensor) -> Tensor:
        return random_features(images, self.seed)

    def compare(self, rows: Tensor, reference: Tensor) -> float:
        (features, labels), (test, truth) = ((part[:, :-1].numpy(), part[:, -1].numpy()) for part in (rows, reference))
        if len(np.unique(labels)) == 1:
            predicted = np.repeat(labels[:1], len(truth))
        else:
            predicted = make_pipeline(StandardScaler(), RidgeClassifier(10.0)).fit(features, labels).predict(test)
        return float(recall_score(truth, predicted, labels=np.unique(truth), average="macro"))


class _TrainOnSynthetic(ProfileMetric):
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
    """Labels of R, and their prediction by a classifier trained on S; a single label of S predicts itself."""
    labels, truth = comparison.synthetic.labels, comparison.real.labels
    if labels is None or truth is None:
        raise ValueError("Train on synthetic, test on real needs the labels of synthetic and real rows.")
    if len(np.unique(labels)) == 1:
        return truth, np.repeat(labels[:1], len(truth))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    return truth, classifier.fit(comparison.synthetic.dense, labels).predict(comparison.real.dense)
