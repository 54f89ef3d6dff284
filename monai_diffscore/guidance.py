r"""Guidance and inverse problems: denoisers made of denoisers.

Whatever is known besides the prior enters as a likelihood, whose gradient moves the denoiser:

.. math::  D_y(x, \sigma) = E[x_0 \mid x, y] = D(x, \sigma) + \sigma^2\, \nabla_x \ln p_\sigma(y \mid x) .

Every class here is a module with ``forward(x, sigma, **condition)``, wraps a denoiser and is one: each goes with every
sampler, with the likelihood, with :class:`~monai_diffscore.tiling.TiledDenoiser`, and around each other.

**Posterior sampling.** For :math:`y = A x_0 + \sigma_y n` the likelihood of a *noisy* x needs the distribution of
:math:`x_0` given x. Taken as :math:`N(D, V)`, with J the Jacobian of D in x (which is symmetric),

.. math::  \sigma^2 \nabla_x \ln p(y \mid x) \approx
           \sigma^2 J A^T (A V A^T + \sigma_y^2 I)^{-1} (y - A D) ,

and the methods differ in V:

=========  ==================================================  =======================================================
method     V                                                   what follows
=========  ==================================================  =======================================================
``mmps``   :math:`\sigma^2 J`, the true covariance             exact for every Gaussian prior; conjugate gradients,
           (second-order Tweedie)                              each iteration one more backward pass
``pigdm``  :math:`r^2 I, r^2 = \sigma^2 s^2/(\sigma^2+s^2)`     exact for the prior N(m, s^2 I); one backward pass
``dps``    :math:`r^2 I`, and :math:`A A^T` a number           a gradient step on :math:`\lVert y - A D\rVert^2` of
           (its largest eigenvalue)                            the size that :math:`\sigma_y` and A allow; one backward
                                                               pass
=========  ==================================================  =======================================================

None has a weight to tune: the step follows from :math:`\sigma_y`, the operator and :math:`\sigma`. All are approximate
for other priors, and the samples of a mixture posterior are biased; docs/BENCHMARKS_SAMPLING.md has the figures.

Sources: Chung et al. 2023, arXiv:2209.14687 (DPS; the step size here is ours); Song et al. 2023, "Pseudoinverse-guided
diffusion models for inverse problems", ICLR (PiGDM); Rozet et al. 2024, arXiv:2405.13712 (MMPS); Meng et al. 2021,
arXiv:2111.04726 (second-order Tweedie).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import EDMPreconditioning, per_sample_sigma
from monai_diffscore.operators import Mask, Operator, conjugate_gradients
from monai_diffscore.tensors import per_sample

_Pull = Callable[[Tensor], Tensor]


class ClassifierFree(nn.Module):
    r"""Classifier-free guidance, :math:`D_u + w (D_c - D_u)` with the unconditional :math:`D_u`.

    w = 1 is the plain conditional denoiser and costs one evaluation, w > 1 sharpens, w = 0 is unconditional. (The
    paper's weight is ours minus 1.) The network must have learnt its missing tokens: ``ConditionEncoder(dropout=0.1)``.

    Args:
        denoiser: a conditional denoiser.
        scale: w.
        null: what a field is replaced by for :math:`D_u`, by name; a field not named takes *missing*: NaN, or -1 for
            integers.
        keep: fields that are passed to both, such as positions.

    Source: Ho and Salimans 2022, arXiv:2207.12598.
    """

    def __init__(
        self, denoiser: nn.Module, scale: float, null: Mapping[str, Tensor] | None = None, keep: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.scale = float(scale)
        self.null = dict(null or {})
        self.keep = tuple(keep)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        dropped = set(condition) - set(self.keep)
        if not dropped and self.scale != 1:
            raise ValueError(
                f"ClassifierFree with scale {self.scale} needs a condition to drop, got the fields {sorted(condition)} "
                f"of which {list(self.keep)} are kept. Pass the condition, or use the denoiser without guidance."
            )
        if self.scale == 1:
            return self.denoiser(x, sigma, **condition)
        without = self.denoiser(x, sigma, **{n: self._null(n, v) for n, v in condition.items()})
        if self.scale == 0:
            return without
        return without + self.scale * (self.denoiser(x, sigma, **condition) - without)

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
        weaker: D_v: an earlier checkpoint, or a smaller network, of the same data and condition.
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
    """A guided denoiser at noise levels in (low, high], the plain one elsewhere (and its cost).

    Args:
        guided: used inside, such as a :class:`ClassifierFree`.
        plain: used outside, such as its ``denoiser``.
        low, high: in units of the normalised data.

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
    r"""Replacement: what is known is kept, the rest is denoised: :math:`D_y = m y + (1 - m) D(x, \sigma)`.

    The known part of the state then follows :math:`y + \sigma n` of itself, with the noise n that it started from,
    which is what RePaint writes into it at each step. As in RePaint, the unknown part only learns of y through the
    denoiser's receptive field, one noise level late: harmonise with :func:`~monai_diffscore.sampling.sample_repaint`,
    which repeats each step, or use :class:`PosteriorGuidance` with :class:`~monai_diffscore.operators.Mask`. For
    measurements without noise.

    Args:
        denoiser: the prior.
        mask: 1 where known, broadcast against x.
        known: y, the values there, broadcast against x.

    Source: Lugmayr et al. 2022, arXiv:2201.09865.
    """

    mask: Tensor
    known: Tensor

    def __init__(self, denoiser: nn.Module, mask: Tensor, known: Tensor) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.register_buffer("mask", mask.bool(), persistent=False)
        self.register_buffer("known", known, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        return torch.where(self.mask, self.known.to(x), self.denoiser(x, sigma, **condition))


class PosteriorGuidance(nn.Module):
    r"""The denoiser of the posterior given :math:`y = A x_0 + \sigma_y n`: any sampler then draws from it.

    Gradients are taken inside also under ``torch.no_grad``. One evaluation costs a forward and one backward pass of the
    denoiser (``mmps``: one backward pass for each conjugate-gradient iteration more).

    Args:
        denoiser: the prior.
        operator: A.
        y: the measurement, [B, ...], or [1, ...] for all samples alike. Values that a mask hides are
            ignored, NaN included.
        noise_std: :math:`\sigma_y > 0`, in units of the normalised data (1e-3 for data that is nearly free of noise).
        method: "mmps" (exact for Gaussian priors, dearest), "pigdm", or "dps"; see the head of this module.
        sigma_data: s, standard deviation of the data, for "pigdm" and "dps". None takes it from the denoiser's own
            :class:`~monai_diffscore.denoiser.EDMPreconditioning`; there is no other default.
        iterations: of conjugate gradients, for "mmps".
    Raises:
        ValueError: for another method, values that are not > 0, a measurement that is not finite, or no sigma_data
            where the denoiser does not have one. In the call: for a y whose shape is not that of A x.
    """

    y: Tensor

    def __init__(
        self,
        denoiser: nn.Module,
        operator: Operator,
        y: Tensor,
        noise_std: float,
        method: Literal["mmps", "pigdm", "dps"] = "pigdm",
        sigma_data: float | None = None,
        iterations: int = 5,
    ) -> None:
        super().__init__()
        if method not in ("mmps", "pigdm", "dps"):
            raise ValueError(f"method must be 'mmps', 'pigdm' or 'dps', got {method!r}.")
        if method != "mmps" and sigma_data is None:
            sigma_data = _data_std(denoiser, "PosteriorGuidance", ", or take method='mmps', which needs none")
        if not (noise_std > 0 and (sigma_data is None or sigma_data > 0) and iterations > 0):
            raise ValueError(
                f"PosteriorGuidance needs noise_std, sigma_data and iterations > 0, got {noise_std}, {sigma_data} and "
                f"{iterations}. For a measurement without noise take a small noise_std, such as 1e-3."
            )
        self.denoiser = denoiser
        self.operator = operator
        if isinstance(operator, Mask):
            y = torch.where(operator.mask.to(y.device) > 0, y, 0.0)
        if not bool(torch.isfinite(y).all()):
            raise ValueError(
                f"PosteriorGuidance needs a finite measurement, got {int((~torch.isfinite(y)).sum())} of {y.numel()} "
                "values NaN or infinite. Leave them out with a Mask."
            )
        self.register_buffer("y", y, persistent=False)
        self.noise_std = float(noise_std)
        self.method = method
        self.sigma_data = math.nan if sigma_data is None else float(sigma_data)
        self.iterations = iterations
        self._squared_norms: dict[torch.Size, float] = {}  # of each grid of y, for "dps"

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        sigma = per_sample_sigma(x, sigma)
        differentiable = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            point = x if differentiable else x.detach().requires_grad_(True)
            denoised = self.denoiser(point, sigma, **condition)

            def pull(vector: Tensor, keep: bool = True) -> Tensor:
                """J^T times a vector of the shape of x."""
                (pulled,) = torch.autograd.grad(denoised, point, vector, retain_graph=keep, create_graph=differentiable)
                return pulled

            measured = self.operator(denoised if differentiable else denoised.detach())
            if self.y.shape not in (measured.shape, (1, *measured.shape[1:])):
                raise ValueError(
                    f"PosteriorGuidance: expected a measurement of the shape of A x, {tuple(measured.shape)}, or with "
                    f"1 as its first axis, got y of shape {tuple(self.y.shape)}."
                )
            residual = self.y.to(x) - measured
            weighted = self._weigh(residual, sigma, pull)
            shift = per_sample(sigma, x) ** 2 * pull(self.operator.adjoint(weighted), keep=differentiable)
        guided = denoised + shift
        return guided if differentiable else guided.detach()

    def _weigh(self, residual: Tensor, sigma: Tensor, pull: _Pull) -> Tensor:
        r""":math:`(A V A^T + \sigma_y^2 I)^{-1}` times the residual."""
        noise = self.noise_std**2
        if self.method == "mmps":
            variance = per_sample(sigma, residual) ** 2

            def covariance(u: Tensor) -> Tensor:
                return variance * self.operator(pull(self.operator.adjoint(u))) + noise * u

            return conjugate_gradients(covariance, residual, self.iterations)
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
            f"{guidance} needs sigma_data, the standard deviation of the data, where the denoiser does not have one "
            f"EDMPreconditioning: got {sorted(stds) or 'none'}. Pass sigma_data{remedy}."
        )
    return stds.pop()


class LikelihoodGuidance(nn.Module):
    r"""The denoiser of the posterior given numbers y with mean :math:`A m(x_0)` and a variance that follows the mean.

    With :math:`p(x_0 \mid x) \approx N(D, r^2 I)`, :math:`r^2 = \sigma^2 s^2 / (\sigma^2 + s^2)`, the mode of
    :math:`p(x_0 \mid x)\, p(y \mid x_0)` by Fisher scoring,

    .. math::  x_0 \leftarrow x_0 + (J^T V^{-1} J + I/r^2)^{-1} \bigl(J^T V^{-1} (y - A m) - (x_0 - D)/r^2\bigr),
               \qquad J = \partial A m / \partial x_0,\quad V = v(A m),

    which is exact for the score and the information of Poisson and negative binomial counts, and for Gaussian priors
    and linear means with one step. No gradient of the denoiser is needed; the systems are of the size of one x, so
    it is for latents and tables, not for images.

    Args:
        denoiser: the prior, of x [B, d].
        mean: m, of [B, d] to [B, G].
        variance: v, of the means [B, G] to [B, G].
        operator: A, on [B, G]; such as :class:`~monai_diffscore.operators.GeneDropout`, what was observed.
        y: [B, G], A applied to what was measured.
        sigma_data: s, standard deviation of the data. None takes it from the denoiser's own
            :class:`~monai_diffscore.denoiser.EDMPreconditioning`; there is no other default.
        iterations: of Fisher scoring.
    Raises:
        ValueError: for values that are not > 0, or no sigma_data where the denoiser does not have one.

    Source: the approximation of the prior is that of Song et al. 2023 (PiGDM), Eq. 8; scoring: McCullagh and Nelder
    1989, Section 2.5.
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
            weight = 1 / self.variance(mean).clamp_min(1e-12)  # nothing observed has no gradient either
            columns = jacobian(estimate).unbind(-1)  # d of [B, G]
            slope = torch.stack([self.operator(column) for column in columns], 1)  # (B, d, G)
            weighted = slope * weight[:, None]
            gradient = (weighted @ (self.y.to(x) - mean)[:, :, None])[:, :, 0] - precision * (estimate - prior)
            information = weighted @ slope.mT + torch.diag_embed(precision.expand_as(x))
            estimate = estimate + torch.linalg.solve(information, gradient)
        return estimate
