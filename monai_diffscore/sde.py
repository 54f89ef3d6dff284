r"""Linear stochastic differential equations, in terms of their kernel.

Every linear SDE has a Gaussian kernel

.. math::  x_t = \alpha(t)\,x_0 + \mathrm{std}(t)\,n, \qquad n \sim N(0, I), \quad t \in [0, 1].

Division by :math:`\alpha` gives :math:`x = x_t/\alpha = x_0 + \sigma n` with the **noise level**
:math:`\sigma = \mathrm{std}/\alpha`. Networks, losses, samplers and the likelihood work in this one coordinate. An
:class:`SDE` maps t to :math:`\sigma`. Formulations then differ in four choices alone: the preconditioning, the noise
levels of the training, their weights, and the grid of the sampler.

The process is :math:`dx_t = f(x_t, t)\,dt + g(t)\,dw`. The kernel determines drift and diffusion:

.. math::  f = \frac{d \ln \alpha}{dt}\,x_t, \qquad g^2 = \alpha^2\,\frac{d\sigma^2}{dt}.

The subclasses hold closed forms of g; the tests compare them with finite differences.
Other modules use t only as the limits (t_min, t_max) of a schedule that follows an SDE.

Sources: Song et al. 2021, arXiv:2011.13456 (VP, sub-VP, VE); Nichol and Dhariwal 2021, arXiv:2102.09672
(cosine); Liu et al. 2022, arXiv:2209.03003 (rectified flow); Karras et al. 2022, arXiv:2206.00364, Eq. 2-4 and
Appendix B (the common coordinate).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_diffscore.tensors import per_sample


class SDE(ABC):
    """A linear SDE on :math:`t \\in [0, 1]`. Every method takes ``t`` of any shape and returns that shape."""

    #: the largest t of the schedule; the noise level is finite up to it
    t_max: float = 1.0

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        r"""The signal scale :math:`\alpha(t)`, with :math:`\alpha(0) = 1`."""

    @abstractmethod
    def noise_level(self, t: Tensor) -> Tensor:
        r""":math:`\sigma(t) = \mathrm{std}(t) / \alpha(t)`, in units of the data. It increases with t."""

    @abstractmethod
    def time(self, noise_level: Tensor) -> Tensor:
        """The t of a noise level: the inverse of :meth:`noise_level`."""

    @abstractmethod
    def log_alpha_rate(self, t: Tensor) -> Tensor:
        r""":math:`d \ln \alpha / dt`, per unit of t."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        r""":math:`g(t)`, in units of the data per square root of t."""

    def std(self, t: Tensor) -> Tensor:
        r"""The standard deviation of :math:`x_t` given :math:`x_0`, :math:`\alpha \sigma`."""
        return self.alpha(t) * self.noise_level(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        r""":math:`f(x, t) = x\, d\ln\alpha/dt` for x [B, ...] and t [B]."""
        rate = self.log_alpha_rate(t)
        return per_sample(rate, x) * x


def check_process(sde: object) -> None:
    """Raises a TypeError unless ``sde`` is an :class:`SDE`: an object, not its class."""
    if not isinstance(sde, SDE):
        name = sde.__name__ if isinstance(sde, type) else type(sde).__name__
        raise TypeError(
            f"Expected an SDE, an object such as VPSDE(), got {'the class ' if isinstance(sde, type) else ''}{name}."
        )


@dataclass(frozen=True)
class VPSDE(SDE):
    r"""Variance preserving: :math:`\beta(t) = \beta_{min} + t(\beta_{max} - \beta_{min})`.

    With :math:`B(t) = \int_0^t \beta`, :math:`\alpha = e^{-B/2}`, :math:`\sigma = \sqrt{e^B - 1}`,
    :math:`f = -\beta x / 2`, :math:`g^2 = \beta`. Source: Song et al. 2021, Eq. 11 and Eq. 32-33.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min < self.beta_max:
            raise ValueError(
                f"{type(self).__name__} needs 0 <= beta_min < beta_max, got {self.beta_min} and {self.beta_max}."
            )

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integrated_beta(self, t: Tensor) -> Tensor:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def _time_of_integrated_beta(self, integrated: Tensor) -> Tensor:
        # the positive root of (b1-b0)/2 t^2 + b0 t - B = 0; this form has no cancellation at small B
        slope = self.beta_max - self.beta_min
        return 2 * integrated / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integrated))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.integrated_beta(t))

    def noise_level(self, t: Tensor) -> Tensor:
        return torch.sqrt(torch.expm1(self.integrated_beta(t)))

    def time(self, noise_level: Tensor) -> Tensor:
        return self._time_of_integrated_beta(torch.log1p(noise_level**2))

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(self.beta(t))


class SubVPSDE(VPSDE):
    r"""Sub-VP: the signal scale of VP with std :math:`1 - e^{-B}`, so :math:`\sigma = 2 \sinh(B/2)`.

    :math:`g^2 = \beta (1 - e^{-2B})`. Source: Song et al. 2021, Eq. 12, Eq. 29 and Eq. 34.
    """

    def noise_level(self, t: Tensor) -> Tensor:
        return 2 * torch.sinh(0.5 * self.integrated_beta(t))

    def time(self, noise_level: Tensor) -> Tensor:
        return self._time_of_integrated_beta(2 * torch.asinh(0.5 * noise_level))

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(-self.beta(t) * torch.expm1(-2 * self.integrated_beta(t)))


@dataclass(frozen=True)
class VESDE(SDE):
    r"""Variance exploding: :math:`\alpha = 1`, :math:`\sigma(t) = \sigma_{min} (\sigma_{max}/\sigma_{min})^t`.

    :math:`f = 0`, :math:`g = \sigma \sqrt{2 \ln(\sigma_{max}/\sigma_{min})}`. The process starts at
    :math:`\sigma_{min}`, not at 0: the data of this SDE are :math:`x_0 + \sigma_{min} n`.
    Source: Song et al. 2021, Eq. 9 and Eq. 30.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"VESDE needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}.")

    @property
    def log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def noise_level(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * self.log_ratio)

    def time(self, noise_level: Tensor) -> Tensor:
        return torch.log(noise_level / self.sigma_min) / self.log_ratio

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.noise_level(t) * math.sqrt(2 * self.log_ratio)


@dataclass(frozen=True)
class CosineVPSDE(SDE):
    r"""Variance preserving with a cosine schedule, in continuous time.

    :math:`\alpha(t) = \cos u(t) / \cos u(0)`, :math:`u(t) = \frac{\pi}{2} \frac{t + s}{1 + s}`,
    :math:`\sigma = \sqrt{\alpha^{-2} - 1}`, :math:`g^2 = -2\, d\ln\alpha/dt = 2 u' \tan u`.
    At t = 1 the signal is 0 and :math:`\sigma` is infinite; the schedule ends at ``t_max`` < 1.
    Source: Nichol and Dhariwal 2021, Eq. 17 (s = 0.008). Its :math:`\bar\alpha` is :math:`\alpha^2` here.
    """

    offset: float = 0.008
    t_max: float = 0.999

    def __post_init__(self) -> None:
        if self.offset < 0 or not 0 < self.t_max < 1:
            raise ValueError(f"CosineVPSDE needs offset >= 0 and 0 < t_max < 1, got {self.offset} and {self.t_max}.")

    @property
    def _angle_rate(self) -> float:
        return 0.5 * math.pi / (1 + self.offset)

    def _angle(self, t: Tensor) -> Tensor:
        return self._angle_rate * (t + self.offset)

    @property
    def _start_angle(self) -> float:
        return self._angle_rate * self.offset

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(self._angle(t)) / math.cos(self._start_angle)

    def noise_level(self, t: Tensor) -> Tensor:
        # 1/alpha^2 - 1 = sin(u - u0) sin(u + u0) / cos^2 u: exact at small t, where alpha is nearly 1
        angle, start = self._angle(t), self._start_angle
        return torch.sqrt(torch.sin(angle - start) * torch.sin(angle + start)) / torch.cos(angle)

    def time(self, noise_level: Tensor) -> Tensor:
        # tan^2 u = (1 + sigma^2) / cos^2 u0 - 1
        tangent = torch.sqrt(noise_level**2 + math.sin(self._start_angle) ** 2) / math.cos(self._start_angle)
        return torch.atan(tangent) / self._angle_rate - self.offset

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -self._angle_rate * torch.tan(self._angle(t))

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(-2 * self.log_alpha_rate(t))


@dataclass(frozen=True)
class FlowSDE(SDE):
    r"""Rectified flow, the straight line :math:`x_t = (1-t) x_0 + t n`, as an SDE.

    :math:`\alpha = 1 - t`, :math:`\sigma = t / (1-t)`, :math:`g^2 = 2t/(1-t)`. Its probability-flow ODE has the
    velocity :math:`E[n - x_0 \mid x_t]`. At t = 1 :math:`\sigma` is infinite; the schedule ends at ``t_max`` < 1.
    Source: Liu et al. 2022, Eq. 1; g follows from the identity at the top of this module.
    """

    t_max: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.t_max < 1:
            raise ValueError(f"FlowSDE needs 0 < t_max < 1, got {self.t_max}.")

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def noise_level(self, t: Tensor) -> Tensor:
        return t / (1 - t)

    def time(self, noise_level: Tensor) -> Tensor:
        return noise_level / (1 + noise_level)

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -1 / (1 - t)

    def diffusion(self, t: Tensor) -> Tensor:
        return torch.sqrt(2 * t / (1 - t))
