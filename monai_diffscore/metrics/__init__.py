"""Numbers that compare models, and sets of images.

``denoising`` compares models on held-out data while they train. The rest is the quality panel of what they generate: a
module for each figure, ``controls`` that the figures must see, and the ``panel`` that sets all side by side. Profiles
(cells, samples, rows of a table) have figures of their own in ``two_sample``, ``overlap``, ``marginals``, ``markers``,
``usefulness`` and ``privacy``, and ``baselines`` to beat.
"""

from monai_diffscore.metrics.baselines import (
    BASELINES,
    copies,
    copula,
    held_in,
    negative_binomial,
    pca_gmm,
    smote,
)
from monai_diffscore.metrics.controls import CONTROLS, blurred, collapsed, noisy, shifted, shuffled, spoil
from monai_diffscore.metrics.denoising import DenoisingError, PredictionMean, level_errors, lower_is_better
from monai_diffscore.metrics.diversity import PairSimilarity
from monai_diffscore.metrics.features import RandomFeatureFrechet, frechet_distance, random_features
from monai_diffscore.metrics.figure import Figure, SetMetric
from monai_diffscore.metrics.intensity import IntensityDistance, quantiles
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
from monai_diffscore.metrics.memorisation import (
    MemorisationRatio,
    Neighbours,
    nearest_windows,
    suspected_copies,
)
from monai_diffscore.metrics.overlap import AssignmentDistance, KernelDiscrepancy, NeighbourMixing
from monai_diffscore.metrics.panel import FLOOR, Estimate, Row, assess, image_figures
from monai_diffscore.metrics.privacy import ClosestRecord, NearestTrainShare, PrivacyGate, privacy_gate
from monai_diffscore.metrics.profile_panel import (
    MODEL,
    ProfilePanel,
    assess_profiles,
    profile_figures,
    reason_against,
)
from monai_diffscore.metrics.profiles import Comparison, ProfileFigure, Profiles, Reference, log_profiles
from monai_diffscore.metrics.seams import seam_ratio
from monai_diffscore.metrics.spectrum import SpectrumError, radial_power, ring_frequencies
from monai_diffscore.metrics.texture import PatchSlicedWasserstein
from monai_diffscore.metrics.two_sample import ForestTwoSample, LogisticTwoSample
from monai_diffscore.metrics.usefulness import (
    TrainOnSyntheticAccuracy,
    TrainOnSyntheticF1,
    TrainOnSyntheticImages,
)

__all__ = [
    "BASELINES",
    "CONTROLS",
    "FLOOR",
    "MODEL",
    "AssignmentDistance",
    "ClosestRecord",
    "ColumnDistance",
    "Comparison",
    "CorrelationAgreement",
    "CorrelationError",
    "DenoisingError",
    "Estimate",
    "Figure",
    "ForestTwoSample",
    "IntensityDistance",
    "KernelDiscrepancy",
    "LibraryDistance",
    "LogisticTwoSample",
    "MarkerAgreement",
    "MarkerSlope",
    "MeanAgreement",
    "MemorisationRatio",
    "NearestTrainShare",
    "NeighbourMixing",
    "Neighbours",
    "PairSimilarity",
    "PatchSlicedWasserstein",
    "PredictionMean",
    "PrivacyGate",
    "ProfileFigure",
    "ProfilePanel",
    "Profiles",
    "RandomFeatureFrechet",
    "Reference",
    "Row",
    "SetMetric",
    "SpectrumError",
    "TrainOnSyntheticAccuracy",
    "TrainOnSyntheticF1",
    "TrainOnSyntheticImages",
    "VarianceAgreement",
    "VarianceRatio",
    "ZeroError",
    "assess",
    "assess_profiles",
    "blurred",
    "collapsed",
    "copies",
    "copula",
    "frechet_distance",
    "held_in",
    "image_figures",
    "level_errors",
    "log_profiles",
    "lower_is_better",
    "nearest_windows",
    "negative_binomial",
    "noisy",
    "pca_gmm",
    "privacy_gate",
    "profile_figures",
    "quantiles",
    "radial_power",
    "random_features",
    "reason_against",
    "ring_frequencies",
    "seam_ratio",
    "shifted",
    "shuffled",
    "smote",
    "spoil",
    "suspected_copies",
]
