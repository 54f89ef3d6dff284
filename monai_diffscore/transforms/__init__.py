"""Invertible transforms that MONAI lacks, in array and dictionary form."""

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
from monai_diffscore.transforms.radiology import PercentileScale, PercentileScaled, WindowIntensity, WindowIntensityd

__all__ = [
    "JitterStains",
    "LabStatistics",
    "NormalizeReinhard",
    "NormalizeReinhardd",
    "NormalizeStains",
    "NormalizeStainsd",
    "PercentileScale",
    "PercentileScaled",
    "RandJitterStains",
    "RandJitterStainsd",
    "ScaleRGB",
    "ScaleRGBd",
    "Stains",
    "ToRGB",
    "ToRGBd",
    "WindowIntensity",
    "WindowIntensityd",
    "fit_macenko",
    "fit_reinhard",
    "fit_slide",
    "fit_slides",
    "fit_vahadane",
]
