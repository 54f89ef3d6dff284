"""Invertible transforms that MONAI lacks, in array and dictionary form."""

from monai_diffscore.transforms.bias_field import N4BiasCorrect, N4BiasCorrectd
from monai_diffscore.transforms.hounsfield import (
    WINDOWS_HU,
    HounsfieldUnits,
    HounsfieldUnitsd,
    ReplacePadding,
    ReplacePaddingd,
    WindowHU,
    WindowHUd,
)
from monai_diffscore.transforms.intensity import (
    ForegroundZScore,
    ForegroundZScored,
    IntensityTransform,
    IntensityTransformd,
    PercentileScale,
    PercentileScaled,
    WindowIntensity,
    WindowIntensityd,
)
from monai_diffscore.transforms.nyul import NyulStandardize, NyulStandardized

__all__ = [
    "WINDOWS_HU",
    "ForegroundZScore",
    "ForegroundZScored",
    "HounsfieldUnits",
    "HounsfieldUnitsd",
    "IntensityTransform",
    "IntensityTransformd",
    "N4BiasCorrect",
    "N4BiasCorrectd",
    "NyulStandardize",
    "NyulStandardized",
    "PercentileScale",
    "PercentileScaled",
    "ReplacePadding",
    "ReplacePaddingd",
    "WindowHU",
    "WindowHUd",
    "WindowIntensity",
    "WindowIntensityd",
]
