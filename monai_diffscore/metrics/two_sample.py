r"""Classifier two-sample tests: can a classifier tell synthetic rows from real ones?

The area under the ROC curve of out-of-fold probabilities, over five stratified folds: .5 if the two sets are drawn from
one distribution, 1 if every synthetic row is recognised. Lopez-Paz and Oquab, arXiv:1610.06545, who take the accuracy;
the area needs no threshold and takes sets of different sizes.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_diffscore.metrics.profiles import Comparison, ProfileMetric, Statistic


class _TwoSample(ProfileMetric):
    unit = "AUROC, 0.5 best"
    bounds = (0, 1)
    costly = True
    rows_of_a_type = 20

    @abstractmethod
    def classifier(self, rows: int, columns: int) -> Any:
        """Unfitted, for folds of so many rows."""

    def statistic(self, comparison: Comparison) -> Statistic:
        parts = comparison.real.dense, comparison.synthetic.dense
        count = len(parts[0])
        values, truth = np.concatenate(parts), np.repeat([0, 1], [len(part) for part in parts])
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        classifier = self.classifier(len(values) * 4 // 5, values.shape[1])
        probability = cross_val_predict(classifier, values, truth, cv=folds, method="predict_proba")[:, 1]

        def area(real: np.ndarray, synthetic: np.ndarray) -> float:
            places = np.r_[real, count + synthetic]
            return float(roc_auc_score(truth[places], probability[places]))

        return area


class LogisticTwoSample(_TwoSample):
    """C2ST by logistic regression (C = .1) on 30 principal components of standardised columns, fitted in each fold."""

    name = "c2st_lr"
    title = "C2ST, logistic regression"
    sees = "Shifts of means and of whole programmes of genes."
    blind_to = "Marginals and spread (a mean in the right place passes); copies, which it rewards."

    def classifier(self, rows: int, columns: int) -> Any:
        components = min(30, rows - 1, columns)
        return make_pipeline(StandardScaler(), PCA(components, random_state=0), LogisticRegression(C=0.1, max_iter=500))


class ForestTwoSample(_TwoSample):
    """C2ST by a random forest: 100 trees, leaves of 3 or more, .05 of the columns at each split."""

    name = "c2st_rf"
    title = "C2ST, random forest"
    sees = "Values off the lattice of counts, zeros clamped or missing, wrong marginals of any column."
    blind_to = "Correlations of many genes, which trees see badly. Copies lie above .5 only by their duplicates."

    def classifier(self, rows: int, columns: int) -> Any:
        share = max(0.05, 1 / columns)
        return RandomForestClassifier(
            100, min_samples_leaf=3, max_features=share, random_state=0, n_jobs=torch.get_num_threads()
        )
