"""Numbers that compare models, and sets of images.

``denoising`` compares models on held-out data while they train. The rest is the quality panel of what they generate: a
module for each figure, ``controls`` that the figures must see, and the ``panel`` that sets all side by side.
"""

from monai_diffscore.metrics.controls import CONTROLS, blurred, collapsed, noisy, shifted, shuffled, spoil
from monai_diffscore.metrics.denoising import DenoisingError, PredictionMean, level_errors, lower_is_better
from monai_diffscore.metrics.diversity import PairSimilarity
from monai_diffscore.metrics.features import RandomFeatureFrechet, frechet_distance, random_features
from monai_diffscore.metrics.figure import Figure, SetMetric
from monai_diffscore.metrics.intensity import IntensityDistance, quantiles
from monai_diffscore.metrics.memorisation import (
    MemorisationRatio,
    Neighbours,
    nearest_windows,
    suspected_copies,
)
from monai_diffscore.metrics.panel import FLOOR, Estimate, Row, assess, image_figures
from monai_diffscore.metrics.seams import seam_ratio
from monai_diffscore.metrics.spectrum import SpectrumError, radial_power, ring_frequencies
from monai_diffscore.metrics.texture import PatchSlicedWasserstein
from monai_diffscore.metrics.usefulness import Usefulness, train_on_synthetic

__all__ = [
    "CONTROLS",
    "FLOOR",
    "DenoisingError",
    "Estimate",
    "Figure",
    "IntensityDistance",
    "MemorisationRatio",
    "Neighbours",
    "PairSimilarity",
    "PatchSlicedWasserstein",
    "PredictionMean",
    "RandomFeatureFrechet",
    "Row",
    "SetMetric",
    "SpectrumError",
    "Usefulness",
    "assess",
    "blurred",
    "collapsed",
    "frechet_distance",
    "image_figures",
    "level_errors",
    "lower_is_better",
    "nearest_windows",
    "noisy",
    "quantiles",
    "radial_power",
    "random_features",
    "ring_frequencies",
    "seam_ratio",
    "shifted",
    "shuffled",
    "spoil",
    "suspected_copies",
    "train_on_synthetic",
]
