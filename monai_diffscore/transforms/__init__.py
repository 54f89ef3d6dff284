"""Invertible transforms that MONAI lacks, in array and dictionary form."""

from monai_diffscore.transforms.radiology import PercentileScale, PercentileScaled, WindowIntensity, WindowIntensityd

__all__ = ["PercentileScale", "PercentileScaled", "WindowIntensity", "WindowIntensityd"]
