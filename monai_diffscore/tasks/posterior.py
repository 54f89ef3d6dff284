"""How an estimate with a standard deviation at each voxel agrees with the truth, and how it is shown."""

from __future__ import annotations

from torch import Tensor


def rms_error(estimate: Tensor, truth: Tensor) -> float:
    """The root mean square error, in units of the images."""
    return float((estimate - truth).square().mean().sqrt())


def share_within_2_std(mean: Tensor, std: Tensor, truth: Tensor) -> float:
    """The share of voxels whose truth is within two standard deviations of the mean."""
    return float(((mean - truth).abs() <= 2 * std).float().mean())


def std_picture(std: Tensor) -> Tensor:
    """A standard deviation in the range of images: 0 is -1, and its maximum is 1."""
    return std / std.max().clamp_min(1e-6) * 2 - 1
