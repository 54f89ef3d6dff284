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
from monai_diffscore.transforms.pathology import (
    JitterStains,
    NormalizeReinhard,
    NormalizeStains,
    RandJitterStains,
    ScaleRGB,
    ToRGB,
)
from monai_diffscore.transforms.pathology_dictionary import (
    NormalizeReinhardd,
    NormalizeStainsd,
    RandJitterStainsd,
    ScaleRGBd,
    ToRGBd,
)
from monai_diffscore.transforms.pathology_stains import (
    LabStatistics,
    Stains,
    fit_macenko,
    fit_reinhard,
    fit_slide,
    fit_slides,
    fit_vahadane,
)

__all__ = [
    "WINDOWS_HU",
    "ForegroundZScore",
    "ForegroundZScored",
    "HounsfieldUnits",
    "HounsfieldUnitsd",
    "IntensityTransform",
    "IntensityTransformd",
    "JitterStains",
    "LabStatistics",
    "N4BiasCorrect",
    "N4BiasCorrectd",
    "NormalizeReinhard",
    "NormalizeReinhardd",
    "NormalizeStains",
    "NormalizeStainsd",
    "NyulStandardize",
    "NyulStandardized",
    "PercentileScale",
    "PercentileScaled",
    "RandJitterStains",
    "RandJitterStainsd",
    "ReplacePadding",
    "ReplacePaddingd",
    "ScaleRGB",
    "ScaleRGBd",
    "Stains",
    "ToRGB",
    "ToRGBd",
    "WindowHU",
    "WindowHUd",
    "WindowIntensity",
    "WindowIntensityd",
    "fit_macenko",
    "fit_reinhard",
    "fit_slide",
    "fit_slides",
    "fit_vahadane",
]
