"""Masks of the measured elements of images and profiles."""

from __future__ import annotations

from torch import Tensor

from monai_diffscore.operators.linear_map import Operator, over_samples


class Mask(Operator):
    """A measurement of some elements, y = mask * x.

    Args:
        mask: 1 for measured and 0 for missing elements, broadcast against x [B, ...]. Other values > 0 are gains.
    Raises:
        ValueError: for a mask with NaN or negative values, or without a value > 0.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        mask = mask.float()
        if not bool((mask >= 0).all()) or not bool((mask > 0).any()):
            raise ValueError(
                f"{type(self).__name__} needs a mask of values >= 0 with one > 0, got {int((mask > 0).sum())} of "
                f"{mask.numel()} > 0, {int(mask.isnan().sum())} NaN, minimum {float(mask.min()):g}. 1 means measured."
            )
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self.mask.to(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        return y / (over_samples(prior_variance, y) * self.mask.to(y) ** 2 + noise_variance)
