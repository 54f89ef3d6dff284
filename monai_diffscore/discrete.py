r"""Models of discrete time (DDPM), such as MONAI's, as denoisers; and denoisers as models of discrete time.

A DDPM has T noise levels, :math:`x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, n` (Ho et al. 2020,
arXiv:2006.11239, Eq. 4). Division by :math:`\sqrt{\bar\alpha_t}` gives :math:`x_0 + \sigma_t n` with

.. math::  \sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t} .

A network that predicts the noise, the velocity or the image at the steps t is therefore a denoiser at the levels
:math:`\sigma_t`. Between these levels, interpolation in :math:`\ln\sigma` gives t.

=============================  ========================================================================================
a trained DiffusionModelUNet   ``Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(scheduler))``, for all our
                               samplers, guidance, likelihoods
one of an RFlowScheduler       ``Denoiser(TimestepNetwork(unet), RFlowPreconditioning.of(scheduler))``
UNet2DModel of diffusers       as the first; a DiT with learned variances:
                               ``TimestepNetwork(dit, learned_variance=True)``
a Denoiser of ours             ``TimestepModel(denoiser, scheduler)``, for MONAI's ``DiffusionInferer`` and schedulers
=============================  ========================================================================================

This module does not import MONAI or diffusers. A scheduler is any object with ``alphas_cumprod`` and
``prediction_type``.

A schedule of zero terminal SNR (:math:`\bar\alpha_T = 0`) has an infinite last level. The module refuses it, and the
message says how to remove that step.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import Coefficients, Preconditioning
from monai_diffscore.tensors import per_sample

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class DiscreteSchedule(Protocol):
    """A scheduler of MONAI, as far as this module reads it."""

    alphas_cumprod: Tensor
    prediction_type: str


def prediction_of(scheduler: Any) -> str:
    """``prediction_type`` of a scheduler of MONAI, or ``config.prediction_type`` of one of diffusers."""
    return str(getattr(scheduler, "config", scheduler).prediction_type)


class DiscretePreconditioning(Preconditioning):
    r"""Preconditioning of a network that was trained on T discrete steps. ``c_noise`` is the (fractional) step t.

    With :math:`\alpha = 1/\sqrt{1+\sigma^2}` (the :math:`\sqrt{\bar\alpha}` of the level) and :math:`c_{in} = \alpha`:

    ================  ===========================================  ==========================
    prediction        the network's output                         D
    ================  ===========================================  ==========================
    epsilon           the noise n                                  :math:`x - \sigma F`
    v_prediction      :math:`\alpha n - \sigma\alpha x_0`          :math:`\alpha^2 x - \sigma\alpha F`
    sample            :math:`x_0`                                  :math:`F`
    ================  ===========================================  ==========================

    Args:
        alphas_cumprod: :math:`\bar\alpha_t` [T], decreasing, in (0, 1).
        prediction: output of the network, a row of the table.
    Raises:
        ValueError: for another prediction, or another ``alphas_cumprod``.

    A noise level outside the trained range gets the nearest step. Source of v: Salimans and Ho 2022, arXiv:2202.00512,
    Appendix D.
    """

    log_sigmas: Tensor

    def __init__(self, alphas_cumprod: Tensor, prediction: str = "epsilon") -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"DiscretePreconditioning expects a prediction of {PREDICTIONS}, got {prediction!r}.")
        self.prediction = prediction
        self.register_buffer("log_sigmas", level_of_steps(alphas_cumprod).log())

    @classmethod
    def of(cls, scheduler: DiscreteSchedule) -> DiscretePreconditioning:
        """The preconditioning of a scheduler of MONAI or diffusers.

        Raises:
            TypeError: for a scheduler of rectified flow, or any other without ``alphas_cumprod``.
        """
        if not hasattr(scheduler, "alphas_cumprod"):
            raise TypeError(
                "DiscretePreconditioning expects a scheduler of DDPM or DDIM, with alphas_cumprod, got "
                f"{type(scheduler).__name__}. Use RFlowPreconditioning.of for MONAI's RFlowScheduler."
            )
        return cls(scheduler.alphas_cumprod, prediction_of(scheduler))

    @property
    def sigmas(self) -> Tensor:
        """The trained noise levels [T], ascending, float64, in units of the data."""
        return self.log_sigmas.exp()

    def forward(self, sigma: Tensor) -> Coefficients:
        step = _interpolate(sigma.double().log(), self.log_sigmas).to(sigma.dtype)
        alpha = 1 / torch.sqrt(1 + sigma**2)
        if self.prediction == "epsilon":
            return Coefficients(torch.ones_like(sigma), -sigma, alpha, step)
        if self.prediction == "v_prediction":
            return Coefficients(alpha**2, -sigma * alpha, alpha, step)
        return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), alpha, step)

    def extra_repr(self) -> str:
        low, high = self.sigmas[0].item(), self.sigmas[-1].item()
        return f"{self.prediction}, {len(self.log_sigmas)} levels from {low:.4g} to {high:.4g}"


class RFlowPreconditioning(Preconditioning):
    r"""Preconditioning of a network that was trained with MONAI's ``RFlowScheduler`` (the recipe of MAISI v2).

    The network predicts :math:`F = x_0 - n`, the negative of our velocity, at :math:`x_\tau = (1-\tau) x_0 + \tau n`
    and the step :math:`T \tau`. With :math:`\tau = \sigma/(1+\sigma)`: :math:`D = x_\tau + \tau F`.

    Args:
        num_train_timesteps: T.
    Raises:
        ValueError: unless T > 0.

    Start a sampling below :math:`\tau = 1`, where :math:`\sigma` is infinite. At sigma_max 80 :math:`\tau` is 0.988.
    Source: Liu et al. 2022, arXiv:2209.03003, Eq. 1.
    """

    def __init__(self, num_train_timesteps: int = 1000) -> None:
        super().__init__()
        if not num_train_timesteps > 0:
            raise ValueError(f"RFlowPreconditioning needs num_train_timesteps > 0, got {num_train_timesteps}.")
        self.num_train_timesteps = num_train_timesteps

    @classmethod
    def of(cls, scheduler: Any) -> RFlowPreconditioning:
        """The preconditioning of an ``RFlowScheduler``.

        Raises:
            TypeError: for another scheduler. Its networks predict other targets.
        """
        if hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "use_timestep_transform"):
            raise TypeError(
                f"RFlowPreconditioning expects MONAI's RFlowScheduler, got {type(scheduler).__name__}. Use "
                "DiscretePreconditioning.of for DDPM and DDIM. A flow of diffusers predicts n - x0, the negative."
            )
        return cls(int(scheduler.num_train_timesteps))

    def forward(self, sigma: Tensor) -> Coefficients:
        scale = 1 / (1 + sigma)
        return Coefficients(scale, sigma * scale, scale, self.num_train_timesteps * sigma * scale)


class TimestepNetwork(nn.Module):
    """Wraps a network with the call ``model(x, timesteps, **keywords)`` of MONAI and diffusers as a network of ours.

    Args:
        model: such as ``monai.networks.nets.DiffusionModelUNet``, or ``UNet2DModel`` and ``DiTTransformer2DModel`` of
            diffusers. From an output object it takes ``sample``. The keys of its state_dict get the prefix "model.".
        learned_variance: True drops the second half of the output channels, a variance (DiT).

    Conditions keep the names of the model: ``context`` [B, 1, d], ``class_labels`` [B]. A condition ``concat``
    [B, C, *S], MONAI's mode of that name, becomes further channels of x.
    """

    def __init__(self, model: nn.Module, learned_variance: bool = False) -> None:
        super().__init__()
        self.model = model
        self.learned_variance = learned_variance

    def forward(self, x: Tensor, c_noise: Tensor, concat: Tensor | None = None, **condition: Tensor) -> Tensor:
        x = x if concat is None else torch.cat([x, concat.to(x)], dim=1)
        output = self.model(x, c_noise, **condition)
        prediction: Tensor = output if isinstance(output, Tensor) else getattr(output, "sample", output)
        return prediction.chunk(2, dim=1)[0] if self.learned_variance else prediction


class TimestepModel(nn.Module):
    r"""A denoiser as a model of discrete time: it maps ``(x_t, timesteps)`` to the prediction of the scheduler.

    .. math::  n = (x - D) / \sigma_t, \qquad v = \sqrt{\bar\alpha_t}\, n - \sqrt{1 - \bar\alpha_t}\, D,
               \qquad x = x_t / \sqrt{\bar\alpha_t}

    Args:
        denoiser: a denoiser of this package.
        scheduler: that of MONAI's inferer. Timesteps may be integers or fractions.
        context_name: name of the condition field that gets MONAI's ``context`` [B, 1, d] or [B, d].
    Raises:
        ValueError: for a scheduler with another prediction, or another ``alphas_cumprod``.
    """

    log_sigmas: Tensor

    def __init__(self, denoiser: nn.Module, scheduler: DiscreteSchedule, context_name: str = "context") -> None:
        super().__init__()
        prediction = prediction_of(scheduler)
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"TimestepModel expects a scheduler that predicts one of {PREDICTIONS}, got {prediction!r}."
            )
        self.denoiser = denoiser
        self.prediction = prediction
        self.context_name = context_name
        self.register_buffer("log_sigmas", level_of_steps(scheduler.alphas_cumprod).log(), persistent=False)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, **condition: Any) -> Tensor:
        if context is not None:
            condition[self.context_name] = context.flatten(1)
        sigma = _level_at(timesteps.to(x.device).expand(len(x)).double(), self.log_sigmas).to(x.dtype)
        scale = per_sample(torch.sqrt(1 + sigma**2), x)  # 1 / sqrt(alpha_bar)
        level = per_sample(sigma, x)
        denoised: Tensor = self.denoiser(scale * x, sigma, **condition)
        if self.prediction == "sample":
            return denoised
        noise = (scale * x - denoised) / level
        return noise if self.prediction == "epsilon" else (noise - level * denoised) / scale


def level_of_steps(alphas_cumprod: Tensor) -> Tensor:
    r""":math:`\sigma_t = \sqrt{(1-\bar\alpha_t)/\bar\alpha_t}` [T], ascending, float64.

    Args:
        alphas_cumprod: :math:`\bar\alpha_t` [T].
    Raises:
        ValueError: unless :math:`\bar\alpha` decreases and lies in (0, 1).
    """
    table = torch.as_tensor(alphas_cumprod).detach().cpu().double()
    if table.ndim == 1 and len(table) > 2 and table[-1] == 0:
        raise ValueError(
            "alphas_cumprod must be > 0, got 0 at the last step (zero terminal SNR): this step is noise alone, at an "
            "infinite sigma. Remove it: DiscretePreconditioning(scheduler.alphas_cumprod[:-1], prediction), and start "
            f"the sampling at the largest level left, sigma {float(((1 - table[-2]) / table[-2]).sqrt()):.6g}."
        )
    if table.ndim != 1 or len(table) < 2 or not (table[-1] > 0 and table[0] < 1 and (table.diff() < 0).all()):
        raise ValueError(
            f"alphas_cumprod must decrease within (0, 1), got {tuple(table.shape)} values from "
            f"{table.flatten()[0]:.6g} to {table.flatten()[-1]:.6g}. (Half precision destroys the table of a "
            "scheduler: build the scheduler again.)"
        )
    return torch.sqrt((1 - table) / table)


def _interpolate(value: Tensor, table: Tensor) -> Tensor:
    """The fractional index of a value in an ascending table; outside, the index of the nearest end."""
    table = table.to(value.device)
    upper = torch.searchsorted(table, value.contiguous()).clamp(1, len(table) - 1)
    low, high = table[upper - 1], table[upper]
    return (upper - 1 + (value - low) / (high - low)).clamp(0, len(table) - 1)


def _level_at(index: Tensor, log_sigmas: Tensor) -> Tensor:
    lower = index.floor().long().clamp(0, len(log_sigmas) - 2)
    share = index - lower
    return torch.lerp(log_sigmas[lower], log_sigmas[lower + 1], share).exp()
