"""The posterior given measurements whose variance depends on their mean, such as counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_diffscore.guidance.data_std import data_std
from monai_diffscore.operators import Operator
from monai_diffscore.tensors import per_sample_sigma


class LikelihoodGuidance(nn.Module):
    r"""The denoiser of the posterior given y with mean :math:`A m(x_0)` and a variance that depends on the mean.

    With :math:`p(x_0 \mid x) \approx N(D, r^2 I)`, :math:`r^2 = \sigma^2 s^2 / (\sigma^2 + s^2)`, it returns the mode
    of :math:`p(x_0 \mid x)\, p(y \mid x_0)`, by Fisher scoring:

    .. math::  x_0 \leftarrow x_0 + (J^T V^{-1} J + I/r^2)^{-1} \bigl(J^T V^{-1} (y - A m) - (x_0 - D)/r^2\bigr),
               \qquad J = \partial A m / \partial x_0,\quad V = v(A m).

    The score and the information are exact for Poisson and negative binomial counts. For Gaussian priors and linear
    means one step is exact. It needs no gradient of the denoiser. It solves a system of d equations for each sample: it
    suits latents and tables, not images.

    Args:
        denoiser: the prior, of x [B, d].
        mean: m, maps x0 [B, d] to the means [B, G], in units of y.
        variance: v, maps the means [B, G] to the variances [B, G].
        operator: A, on [B, G], such as :class:`~monai_diffscore.operators.GeneDropout`: it selects the measured genes.
        y: A times the measurement, [B, G].
        sigma_data: s, standard deviation of the data. None takes the value of the denoiser's
            :class:`~monai_diffscore.denoiser.EDMPreconditioning`. A denoiser without one needs the argument.
        iterations: of Fisher scoring.
    Raises:
        ValueError: for sigma_data or iterations <= 0, or sigma_data None for a denoiser without a unique one.

    Source: Song et al. 2023 (PiGDM), Eq. 8 (the approximation of the prior); McCullagh and Nelder 1989, Section 2.5
    (scoring).
    """

    y: Tensor

    def __init__(
        self,
        denoiser: nn.Module,
        mean: Callable[[Tensor], Tensor],
        variance: Callable[[Tensor], Tensor],
        operator: Operator,
        y: Tensor,
        sigma_data: float | None = None,
        iterations: int = 4,
    ) -> None:
        super().__init__()
        if sigma_data is None:
            sigma_data = data_std(denoiser, "LikelihoodGuidance")
        if not (sigma_data > 0 and iterations > 0):
            raise ValueError(f"LikelihoodGuidance needs sigma_data, iterations > 0, got {sigma_data}, {iterations}.")
        self.denoiser, self.mean, self.variance, self.operator = denoiser, mean, variance, operator
        self.register_buffer("y", y, persistent=False)
        self.sigma_data, self.iterations = float(sigma_data), iterations

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        sigma = per_sample_sigma(x, sigma)
        prior = self.denoiser(x, sigma, **condition)
        precision = (1 / sigma**2 + 1 / self.sigma_data**2)[:, None]
        jacobian = torch.func.vmap(torch.func.jacfwd(lambda point: self.mean(point[None])[0]))
        estimate = prior
        for _ in range(self.iterations):
            mean = self.operator(self.mean(estimate))
            weight = 1 / self.variance(mean).clamp_min(1e-12)  # genes of mean 0 are not measured: their slope is 0
            columns = jacobian(estimate).unbind(-1)  # d tensors [B, G]
            slope = torch.stack([self.operator(column) for column in columns], 1)  # (B, d, G)
            weighted = slope * weight[:, None]
            gradient = (weighted @ (self.y.to(x) - mean)[:, :, None])[:, :, 0] - precision * (estimate - prior)
            information = weighted @ slope.mT + torch.diag_embed(precision.expand_as(x))
            estimate = estimate + torch.linalg.solve(information, gradient)
        return estimate
