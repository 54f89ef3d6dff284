r"""Guidance and inverse problems: denoisers that wrap denoisers.

Guidance adds a likelihood to the prior. The gradient of the likelihood shifts the estimate of the denoiser:

.. math::  D_y(x, \sigma) = E[x_0 \mid x, y] = D(x, \sigma) + \sigma^2\, \nabla_x \ln p_\sigma(y \mid x) .

Every class here is a module with ``forward(x, sigma, **condition)``. It wraps a denoiser and is a denoiser. It
therefore combines with every sampler, with the likelihood, with :class:`~monai_diffscore.tiling.TiledDenoiser`, and
with other guidance.

**Posterior sampling.** For :math:`y = A x_0 + \sigma_y n` the likelihood of a *noisy* x needs the distribution of
:math:`x_0` given x. With the approximation :math:`N(D, V)`, and the Jacobian J of D in x (which is symmetric),

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
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import EDMPreconditioning
from monai_diffscore.operators import Mask, Operator, conjugate_gradients
from monai_diffscore.tensors import check_floating, per_sample, per_sample_sigma

logger = logging.getLogger(__name__)

_Product = Callable[[Tensor], Tensor]
#: methods of :class:`PosteriorGuidance`
GuidanceMethod = Literal["mmps", "pigdm", "dps", "diffpir"]


class ClassifierFree(nn.Module):
    r"""Classifier-free guidance, :math:`D_u + w (D_c - D_u)` with the unconditional :math:`D_u`.

    w = 1 is the conditional denoiser and w = 0 the unconditional one; each costs one evaluation. w > 1 sharpens. (The
    weight of the paper is w - 1.) Train the network with missing conditions: ``ConditionEncoder(dropout=0.1)``.

    Args:
        denoiser: a conditional denoiser.
        scale: w.
        null: the value of each field in :math:`D_u`, by name. A field without an entry is *missing* in :math:`D_u`:
            NaN, or -1 for integers.
        keep: names of fields that stay in :math:`D_u`, such as positions.
    Raises:
        ValueError: in the call: without a field to drop, for w other than 1.
        TypeError: in the call: for a condition that is no tensor.

    Source: Ho and Salimans 2022, arXiv:2207.12598.
    """

    def __init__(
        self, denoiser: nn.Module, scale: float, null: Mapping[str, Tensor] | None = None, keep: Sequence[str] = ()
    ) -> None:
        super().__init__()
        if not isinstance(scale, int | float | Tensor):
            raise TypeError(f"ClassifierFree expects a number as scale, got {scale!r}.")
        self.denoiser = denoiser
        self.scale = float(scale)
        self.null = dict(null or {})
        self.keep = tuple(keep)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        for name, value in condition.items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"ClassifierFree expects the condition {name!r} as a tensor with a value for each sample, got "
                    f"{type(value).__name__}. Give torch.full((len(x),), value)."
                )
        dropped = set(condition) - set(self.keep)
        if not dropped and self.scale != 1:
            raise ValueError(
                f"ClassifierFree with scale {self.scale} needs a condition to drop, got the fields {sorted(condition)} "
                f"with keep={list(self.keep)}. Pass the condition, or use the denoiser without guidance."
            )
        if self.scale == 1:
            return self.denoiser(x, sigma, **condition)
        unconditional = self.denoiser(x, sigma, **{n: self._null(n, v) for n, v in condition.items()})
        if self.scale == 0:
            return unconditional
        return unconditional + self.scale * (self.denoiser(x, sigma, **condition) - unconditional)

    def _null(self, name: str, value: Tensor) -> Tensor:
        if name in self.keep:
            return value
        if name in self.null:
            return self.null[name].to(value.device).expand_as(value)
        return torch.full_like(value, math.nan if value.is_floating_point() else -1)


class Autoguidance(nn.Module):
    r"""Guidance by a weaker version of the same model: :math:`D_v + w (D - D_v)`.

    Args:
        denoiser: the good denoiser D.
        weaker: D_v, an earlier checkpoint or a smaller network, for the same data and condition.
        scale: w; 1 is D alone.

    Source: Karras et al. 2024, arXiv:2406.02507.
    """

    def __init__(self, denoiser: nn.Module, weaker: nn.Module, scale: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.weaker = weaker
        self.scale = float(scale)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        good = self.denoiser(x, sigma, **condition)
        if self.scale == 1:
            return good
        weak = self.weaker(x, sigma, **condition)
        return weak + self.scale * (good - weak)


class GuidanceInterval(nn.Module):
    """A guided denoiser at noise levels in (low, high], and the plain denoiser at the others.

    Args:
        guided: the denoiser inside the interval, such as a :class:`ClassifierFree`.
        plain: the denoiser outside, such as the ``denoiser`` of ``guided``.
        low, high: noise levels, in units of the normalised data.
    Raises:
        ValueError: unless 0 <= low < high.

    Source: Kynkäänniemi et al. 2024, arXiv:2404.07724.
    """

    def __init__(self, guided: nn.Module, plain: nn.Module, low: float = 0.0, high: float = math.inf) -> None:
        super().__init__()
        if not 0 <= low < high:
            raise ValueError(f"GuidanceInterval needs 0 <= low < high, got {low} and {high}.")
        self.guided, self.plain, self.low, self.high = guided, plain, float(low), float(high)

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        sigma = per_sample_sigma(x, sigma)
        inside = (sigma > self.low) & (sigma <= self.high)
        if bool(inside.all()):
            return self.guided(x, sigma, **condition)
        if not bool(inside.any()):
            return self.plain(x, sigma, **condition)
        guided, plain = self.guided(x, sigma, **condition), self.plain(x, sigma, **condition)
        return torch.where(per_sample(inside, x), guided, plain)


class Inpaint(nn.Module):
    r"""Inpainting by replacement, :math:`D_y = m y + (1 - m) D(x, \sigma)`, for measurements without noise.

    In a deterministic sampler the known part of the state is :math:`y + \sigma n` at each level, with the noise n of
    the start. RePaint draws it from the same distribution at each step. The unknown part gets y through the receptive
    field of the denoiser, one noise level late. To harmonise both parts, use
    :func:`~monai_diffscore.sampling.sample_repaint`, which repeats each step, or :class:`PosteriorGuidance` with
    :class:`~monai_diffscore.operators.Mask`.

    Args:
        denoiser: the prior.
        mask: m, 1 at known values, broadcast against x.
        known: y, the known values, broadcast against x, in the normalised units of the denoiser. Values where the mask
            is 0, NaN included, have no effect.
    Raises:
        ValueError: for a mask of other values than 0 and 1, or a known value that is not finite. In the call: for a
            mask or known values that do not broadcast to the shape of x.

    Source: Lugmayr et al. 2022, arXiv:2201.09865.
    """

    mask: Tensor
    known: Tensor

    def __init__(self, denoiser: nn.Module, mask: Tensor, known: Tensor) -> None:
        super().__init__()
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"Inpaint expects a mask of 0 and 1, got values from {float(mask.min()):g} to {float(mask.max()):g}. "
                "Compare an image with a threshold, such as image > 0."
            )
        count = int((~torch.isfinite(known) & mask.bool()).sum())
        if count:
            raise ValueError(f"Inpaint expects finite known values, got {count} NaN or infinite where the mask is 1.")
        self.denoiser = denoiser
        self.register_buffer("mask", mask.bool(), persistent=False)
        self.register_buffer("known", known, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        guided = torch.where(self.mask, self.known.to(x), self.denoiser(x, sigma, **condition))
        if guided.shape != x.shape:
            raise ValueError(
                f"Inpaint expects a mask and known values that broadcast to the shape of x, {tuple(x.shape)}, got "
                f"{tuple(self.mask.shape)} and {tuple(self.known.shape)}."
            )
        return guided


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
            sigma_data = _data_std(denoiser, "PosteriorGuidance", ", or use method='mmps', which does not need it")
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


def _data_std(denoiser: nn.Module, guidance: str, remedy: str = "") -> float:
    stds = {float(module.sigma_data) for module in denoiser.modules() if isinstance(module, EDMPreconditioning)}
    if len(stds) != 1:
        raise ValueError(
            f"{guidance} needs sigma_data, the standard deviation of the data: expected one value of it in the "
            f"EDMPreconditioning of the denoiser, got {sorted(stds) or 'none'}. Pass sigma_data{remedy}."
        )
    return stds.pop()


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
            sigma_data = _data_std(denoiser, "LikelihoodGuidance")
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
