r"""Posterior sampling: the denoiser given a linear measurement with Gaussian noise.

For :math:`y = A x_0 + \sigma_y n` the likelihood of a *noisy* x needs the distribution of :math:`x_0` given x. With the
approximation :math:`N(D, V)`, and the Jacobian J of D in x (which is symmetric),

.. math::  \sigma^2 \nabla_x \ln p(y \mid x) \approx
           \sigma^2 J A^T (A V A^T + \sigma_y^2 I)^{-1} (y - A D) .

The methods differ in V:

===========  ==================================================  =======================================================
method       V                                                   properties
===========  ==================================================  =======================================================
``mmps``     :math:`\sigma^2 J`, the true covariance             exact for every Gaussian prior; conjugate gradients
             (second-order Tweedie)                              with one more backward pass for each iteration
``pigdm``    :math:`r^2 I, r^2 = \sigma^2 s^2/(\sigma^2+s^2)`     exact for the prior N(m, s^2 I); one backward pass
``dps``      :math:`r^2 I`, with a number for :math:`A A^T`      a gradient step on :math:`\lVert y - A D\rVert^2`;
             (its largest eigenvalue)                            :math:`\sigma_y` and A determine its size; one backward
                                                                 pass
``diffpir``  :math:`v I`, with v measured at each level          no backward pass; for trained networks
===========  ==================================================  =======================================================

No method has a weight to tune: :math:`\sigma_y`, the operator and :math:`\sigma` determine the step. For other priors
all methods are approximate, and the samples of a mixture posterior are biased. docs/BENCHMARKS_SAMPLING.md has the
figures.

**Trained networks.** The Jacobian of a trained network is not symmetric, and the error of its estimate is several
times smaller than the r of ``pigdm``. ``diffpir`` puts V in place of :math:`\sigma^2 J`. It returns the x0 of smallest
:math:`\lVert y - A x_0\rVert^2/\sigma_y^2 + \lVert x_0 - D\rVert^2/v`. The residual y - A D gives v, because

.. math::  E \lVert A^T (y - A D)\rVert^2 = v\, \mathrm{tr}\,(A A^T)^2 + \sigma_y^2\, \mathrm{tr}\, A A^T .

So v follows the error of the network. A times the step is never larger than the residual: the guidance cannot diverge.
For white data and many measured values it is exact, like ``pigdm``. Use a stochastic sampler: its noise corrects the
errors of earlier levels.

Sources: Chung et al. 2023, arXiv:2209.14687 (DPS; the step size here is ours); Song et al. 2023, "Pseudoinverse-guided
diffusion models for inverse problems", ICLR (PiGDM); Rozet et al. 2024, arXiv:2405.13712 (MMPS); Meng et al. 2021,
arXiv:2111.04726 (second-order Tweedie); Zhu et al. 2023, arXiv:2305.08995, Algorithm 1 (DiffPIR; there v is a
weight to tune, the measured v is ours).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from monai_diffscore.guidance.data_std import data_std
from monai_diffscore.operators import Mask, Operator, conjugate_gradients
from monai_diffscore.tensors import check_floating, per_sample, per_sample_sigma

logger = logging.getLogger(__name__)

_Product = Callable[[Tensor], Tensor]
#: methods of :class:`PosteriorGuidance`
GuidanceMethod = Literal["mmps", "pigdm", "dps", "diffpir"]


class PosteriorGuidance(nn.Module):
    r"""The denoiser of the posterior given :math:`y = A x_0 + \sigma_y n`. Any sampler draws posterior samples with it.

    One evaluation costs a forward pass of the denoiser and, but for "diffpir", a backward pass, also under
    ``torch.no_grad``. "mmps" adds one backward pass for each iteration of conjugate gradients. It stops them, and warns
    once, where the Jacobian of a trained network is not symmetric or not positive.

    Args:
        denoiser: the prior.
        operator: A, of x in the normalised units of the denoiser.
        y: the measurement, [B, ...], or [1, ...] for all samples. A :class:`~monai_diffscore.operators.Mask` ignores
            hidden values, NaN included.
        noise_std: :math:`\sigma_y > 0`, in units of y. Use 1e-3 for data with almost no noise.
        method: "mmps" (exact for Gaussian priors, highest cost), "pigdm", "dps", or "diffpir" (for trained networks of
            images); see the top of this module.
        sigma_data: s, standard deviation of the data, for "pigdm" and "dps". None takes the value of the denoiser's
            :class:`~monai_diffscore.denoiser.EDMPreconditioning`. A denoiser without one needs the argument.
        iterations: of conjugate gradients, for "mmps".
    Raises:
        ValueError: for another method, noise_std, sigma_data or iterations <= 0, a measurement that is not finite, or
            sigma_data None for a denoiser without a unique one. In the call: if y does not have the shape of A x.
    """

    y: Tensor

    def __init__(
        self,
        denoiser: nn.Module,
        operator: Operator,
        y: Tensor,
        noise_std: float,
        method: GuidanceMethod = "pigdm",
        sigma_data: float | None = None,
        iterations: int = 5,
    ) -> None:
        super().__init__()
        if method not in get_args(GuidanceMethod):
            raise ValueError(f"PosteriorGuidance expects a method of {get_args(GuidanceMethod)}, got {method!r}.")
        if method in ("pigdm", "dps") and sigma_data is None:
            sigma_data = data_std(denoiser, "PosteriorGuidance", ", or use method='mmps', which does not need it")
        if not (noise_std > 0 and (sigma_data is None or sigma_data > 0) and iterations > 0):
            raise ValueError(
                f"PosteriorGuidance needs noise_std, sigma_data and iterations > 0, got {noise_std}, {sigma_data} and "
                f"{iterations}. For a measurement without noise set a small noise_std, such as 1e-3."
            )
        check_floating(y, "y")
        self.denoiser = denoiser
        self.operator = operator
        if isinstance(operator, Mask):
            y = torch.where(operator.mask.to(y.device) > 0, y, 0.0)
        if not bool(torch.isfinite(y).all()):
            raise ValueError(
                f"PosteriorGuidance needs a finite measurement, got {int((~torch.isfinite(y)).sum())} of {y.numel()} "
                "values NaN or infinite. Hide them with a Mask."
            )
        self.register_buffer("y", y, persistent=False)
        self.noise_std = float(noise_std)
        self.method = method
        self.sigma_data = math.nan if sigma_data is None else float(sigma_data)
        self.iterations = iterations
        self._squared_norms: dict[torch.Size, float] = {}  # of each grid of y, for "dps"
        self._traces: dict[torch.Size, tuple[Tensor, Tensor]] = {}  # of each shape of y, for "diffpir"
        self._warned = False

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        sigma = per_sample_sigma(x, sigma)
        if self.method == "diffpir":
            return self._proximal(self.denoiser(x, sigma, **condition), sigma)
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            point = x if differentiable else x.detach().requires_grad_(True)
            denoised = self.denoiser(point, sigma, **condition)

            def vjp(vector: Tensor, keep: bool = True) -> Tensor:
                """J^T times a vector in the shape of x."""
                (product,) = torch.autograd.grad(
                    denoised, point, vector, retain_graph=keep, create_graph=differentiable
                )
                return product

            residual = self._residual(denoised if differentiable else denoised.detach())
            weighted = self._weigh(residual, sigma, vjp)
            shift = per_sample(sigma, x) ** 2 * vjp(self.operator.adjoint(weighted), keep=differentiable)
        guided = denoised + shift
        return guided if differentiable else guided.detach()

    def _residual(self, denoised: Tensor) -> Tensor:
        """y - A D."""
        measured = self.operator(denoised)
        if self.y.shape not in (measured.shape, (1, *measured.shape[1:])):
            raise ValueError(
                f"PosteriorGuidance: expected a measurement of the shape of A x, {tuple(measured.shape)}, or with "
                f"1 as its first axis, got y of shape {tuple(self.y.shape)}."
            )
        return self.y.to(measured) - measured

    def _proximal(self, denoised: Tensor, sigma: Tensor) -> Tensor:
        r""":math:`D + v A^T (v A A^T + \sigma_y^2 I)^{-1} (y - A D)` with v from the residual."""
        residual, noise = self._residual(denoised), self.noise_std**2
        if residual.shape not in self._traces:
            self._traces[residual.shape] = self.operator.traces(residual.detach())
        trace, trace_of_square = self._traces[residual.shape]
        power = self.operator.adjoint(residual).square().flatten(1).sum(1)
        # x itself is an estimate with the variance sigma^2
        variance = ((power - noise * trace) / trace_of_square).clamp_min(0).minimum(sigma**2)
        shift = self.operator.adjoint(self.operator.solve(residual, variance, noise))
        return denoised + per_sample(variance, shift) * shift

    def _warn_of_asymmetry(self) -> None:
        if not self._warned:
            logger.warning(
                "mmps: the Jacobian of this denoiser is not symmetric and positive. Conjugate gradients stop early, "
                'so this is not the guidance of the posterior. Use method "diffpir".'
            )
        self._warned = True

    def _weigh(self, residual: Tensor, sigma: Tensor, vjp: _Product) -> Tensor:
        r""":math:`(A V A^T + \sigma_y^2 I)^{-1}` times the residual."""
        noise = self.noise_std**2
        if self.method == "mmps":
            variance = per_sample(sigma, residual) ** 2

            def covariance(u: Tensor) -> Tensor:
                return variance * self.operator(vjp(self.operator.adjoint(u))) + noise * u

            # half of the noise: rounding may hide a part of it
            return conjugate_gradients(
                covariance, residual, self.iterations, least=noise / 2, on_breakdown=self._warn_of_asymmetry
            )
        prior = sigma**2 * self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        if self.method == "pigdm":
            return self.operator.solve(residual, prior, noise)
        grid = residual.shape[1:]
        if grid not in self._squared_norms:
            self._squared_norms[grid] = self.operator.squared_norm(residual[:1].detach())
        return residual / (per_sample(prior, residual) * self._squared_norms[grid] + noise)
