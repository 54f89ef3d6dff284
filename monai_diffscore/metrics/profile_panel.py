r"""The panel of profiles: each figure of the model, of real data among themselves, and of the baselines.

**The floor** is the figure of fresh real rows: R and T are pooled and split anew, label by label, into rows that stand
for R, as many that stand for S, and a rest that stands for T, so that S is in no set twice. The median of the draws is
the value, and 95 % of them the interval, in which a perfect model lies. **The other intervals** are a bootstrap over
rows of R and S with everything fitted (folds, neighbours, kernels) held, centred on the estimate.
"""

from __future__ import annotations

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
from monai_diffscore.metrics.markers import MarkerAgreement, MarkerSlope
from monai_diffscore.metrics.overlap import AssignmentDistance, KernelDiscrepancy, NeighbourMixing
from monai_diffscore.metrics.privacy import ClosestRecord, NearestTrainShare
from monai_diffscore.metrics.profiles import Comparison, ProfileFigure
from monai_diffscore.metrics.two_sample import ForestTwoSample, LogisticTwoSample
from monai_diffscore.metrics.usefulness import TrainOnSyntheticAccuracy, TrainOnSyntheticF1

_WANTED = {
    "labels": "no labels in all three sets",
    "counts": "the values are no counts with totals of whole cells",
    "expression": "columns of a table have units of their own",
}


def profile_figures() -> list[ProfileFigure]:
    """All figures of profiles, privacy first."""
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


def reason_against(figure: ProfileFigure, comparison: Comparison, table: bool = False) -> str:
    """Why a figure cannot be taken of a comparison; "" if it can.

    Args:
        figure, comparison: which of what.
        table: the columns are of a table, in units of their own, and not genes.
    """
    has = {"labels": comparison.labelled, "counts": comparison.counted, "expression": not table}
    return "; ".join(_WANTED[need] for need in figure.needs if not has[need])
