"""What was measured and what was not: masks of images and profiles."""

from __future__ import annotations

from torch import Tensor

from monai_diffscore.operators.linear_map import Operator, over_samples


class Mask(Operator):
    """Sees some elements and not others: y = mask * x.

    Args:
        mask: 1 where measured, 0 where missing, broadcast against x [B, ...]. Values between are gains.
    Raises:
        ValueError: if the mask holds NaN or negative values, or measures nothing.
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
