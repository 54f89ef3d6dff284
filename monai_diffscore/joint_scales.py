r"""All scales of a volume in one state, so that a measurement of the volume guides every scale.

A model of scales draws the coarse image first. A measurement :math:`y = A x + \sigma_y n` of the volume mixes all
scales, and the details are not there yet. :class:`JointScales` therefore denoises all scales together. With the
standardised coefficients :math:`u_j` of scale j (0 is the coarse image) and the orthonormal synthesis W,

.. math::  z = W\,(u_0,\ \lambda^{-1} u_1,\ \dots,\ \lambda^{-J} u_J), \qquad  x = W\,(s_j u_j + m_j) .

White noise of level :math:`\sigma` on z is white noise of level :math:`\lambda^j \sigma` on :math:`u_j`. The **lead**
:math:`\lambda` makes the details the noisier part, as they are in volumes with white noise: the coarse image is known
before the details appear. The denoiser of scale j gets the current estimate of its coarser image,

.. math::  D_j = D\bigl(u_j + \lambda^j \sigma n,\ \lambda^j \sigma \mid \hat a_j\bigr), \qquad
           \hat a_j = \text{the image of } D_0, \dots, D_{j-1} .

For a Gaussian field :math:`E[u_j]` is linear in :math:`a_j`, and the estimate is exact but for what the details tell
about their coarser image. This part vanishes with a growing lead. :class:`JointScales` is a denoiser of z of the shape
of x: all samplers and :class:`~monai_diffscore.guidance.PosteriorGuidance` take it. :class:`StateOperator` is the
measurement as a function of z.

In units of z the coefficients of scale j have the standard deviation :math:`\lambda^{-j}`. Given noise of level
:math:`\sigma`, "pigdm" takes their variance as :math:`r_j^2 = 1 / (\sigma^{-2} + \lambda^{2j})`.

Sources: Kadkhodaie et al. 2023, arXiv:2303.02984 (models of details given the coarser scale); Song et al. 2023,
"Pseudoinverse-guided diffusion models for inverse problems", ICLR (the guidance). The joint state and its lead are
ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_diffscore.multiscale import MultiScale
from monai_diffscore.operators import Operator, conjugate_gradients
from monai_diffscore.operators.linear_map import over_samples
from monai_diffscore.sampling import asinh_sigmas
from monai_diffscore.scales import Scales
from monai_diffscore.tensors import per_sample, per_sample_sigma


def scales_of_pyramid(model: MultiScale) -> Scales:
    """The scales of a model.

    Raises:
        TypeError: for a model of latent images.
    """
    if not isinstance(model.scales, Scales):
        got = type(model.scales).__name__
        raise TypeError(f"Expected a model with the scales of a pyramid, got {got}. Use a model of a pyramid.")
    return model.scales


class JointScales(nn.Module):
    """A denoiser of the state z [B, C, *S] of all scales.

    Args:
        model: of the scales.
        lead: :math:`\\lambda`, at least 1.
        largest_level: largest noise level at which the model of a scale runs, in standard deviations of its data. The
            denoiser scales states with more noise down to it: they tell nothing about the details.
    Raises:
        ValueError: for a lead below 1, or a level that is not positive.
        TypeError: for a model of latent images.
    """

    def __init__(self, model: MultiScale, lead: float = 4.0, largest_level: float = 80.0) -> None:
        super().__init__()
        if not (lead >= 1 and largest_level > 0):
            raise ValueError(f"Expected a lead >= 1 and a largest level > 0, got {lead} and {largest_level}.")
        self.scales = scales_of_pyramid(model)
        self.model, self.lead, self.largest_level = model, float(lead), float(largest_level)

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        """The estimate of z.

        Args:
            x: z with noise, [B, C, *S].
            sigma: level of the noise, one number or [B].
            condition: fields without spatial axes, passed to all scales.
        """
        scales, image = self.scales, None
        sigma = per_sample_sigma(x, sigma)
        estimates = []
        for number, noisy in enumerate(self._parts(x)):
            level = sigma * self.lead**number
            model_level = level.clamp_max(self.largest_level)
            state = noisy * self.lead**number * per_sample(model_level / level, noisy)
            fields: dict[str, Tensor] = {} if image is None else scales.fields(number, image)
            denoised = self.model(state, model_level, scale=number, **fields, **condition)
            image = scales.refine(number, image, denoised)
            estimates.append(denoised * self.lead**-number)
        return self.scales.pyramid.synthesis(estimates[0], estimates[1:])

    def volume(self, state: Tensor) -> Tensor:
        """The volume x [B, C, *S] of a state z."""
        return self.scales.merge([part * self.lead**n for n, part in enumerate(self._parts(state))])

    def state(self, volume: Tensor) -> Tensor:
        """The state z [B, C, *S] of a volume x: the inverse of :meth:`volume`."""
        parts = [scale.coefficients * self.lead**-n for n, scale in enumerate(self.scales.split(volume))]
        return self.scales.pyramid.synthesis(parts[0], parts[1:])

    def scaled(self, state: Tensor) -> Tensor:
        """The linear part of :meth:`volume`. It is symmetric."""
        parts = [part * self._gain(n, part) for n, part in enumerate(self._parts(state))]
        return self.scales.pyramid.synthesis(parts[0], parts[1:])

    def with_variance(self, state: Tensor, variance: Tensor) -> Tensor:
        r"""The state with scale j times :math:`r_j^2 = 1 / (1/r^2 + \lambda^{2j} - 1)`.

        Args:
            variance: :math:`r^2 = 1 / (\sigma^{-2} + 1)` of the coarse image, [B] or [1].
        """
        parts = [
            part / (1 / per_sample(variance, part) + self.lead ** (2 * n) - 1)
            for n, part in enumerate(self._parts(state))
        ]
        return self.scales.pyramid.synthesis(parts[0], parts[1:])

    def sigmas(self, steps: int, sigma_max: float = 80.0) -> Tensor:
        """A grid of noise levels [steps + 1] that reaches the details of all scales."""
        finest = self.lead ** -(len(self.scales) - 1)
        return asinh_sigmas(steps, sigma_max, scale=0.045 * finest)

    def _parts(self, x: Tensor) -> list[Tensor]:
        coarse, details = self.scales.pyramid.analysis(x)
        return [coarse, *details]

    def _gain(self, number: int, part: Tensor) -> Tensor:
        """:math:`\\lambda^j s_j` of each channel."""
        return self.lead**number * self.scales.deviations(number, part)


class StateOperator(Operator):
    r"""A measurement A of volumes as a measurement of the state z of :class:`JointScales`.

    It is the linear part: A x is ``forward(z)`` plus :meth:`offset`.

    Args:
        operator: A.
        joint: whose state z is.
        iterations: of conjugate gradients at most, in :meth:`solve`.
    """

    def __init__(self, operator: Operator, joint: JointScales, iterations: int = 20) -> None:
        super().__init__()
        self.operator, self.iterations = operator, iterations
        self._joint = (joint,)  # not a part of this module: its weights are the model's

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(self._joint[0].scaled(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._joint[0].scaled(self.operator.adjoint(y))

    def offset(self, like: Tensor) -> Tensor:
        """A of the volume of the state 0, for volumes of the shape of ``like``."""
        return self.operator(self._joint[0].volume(torch.zeros_like(like[:1])))

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        r""":math:`(A V A^T + \sigma_y^2 I)^{-1} y` with the variances :math:`r_j^2` of the scales in V.

        Args:
            y: measurements [B, ...].
            prior_variance: :math:`r^2` of the coarse image, below 1, one number or [B].
            noise_variance: :math:`\sigma_y^2` > 0.
        """
        variance = over_samples(prior_variance, y).flatten()

        def covariance(u: Tensor) -> Tensor:
            return self(self._joint[0].with_variance(self.adjoint(u), variance)) + noise_variance * u

        return conjugate_gradients(covariance, y, self.iterations)
