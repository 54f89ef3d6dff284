r"""Models of discrete time (DDPM), such as MONAI's, as denoisers; and denoisers as models of discrete time.

A DDPM knows T noise levels, :math:`x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, n` (Ho et al. 2020,
arXiv:2006.11239, Eq. 4). Divided by :math:`\sqrt{\bar\alpha_t}` that is :math:`x_0 + \sigma_t n` with

.. math::  \sigma_t = \sqrt{(1 - \bar\alpha_t) / \bar\alpha_t},

so a network that was trained to predict the noise, the velocity or the image at the steps t is a denoiser at the levels
:math:`\sigma_t`; between them, t is interpolated in :math:`\ln\sigma`.

=============================  ========================================================================================
a trained DiffusionModelUNet   ``Denoiser(TimestepNetwork(unet), DiscretePreconditioning.of(scheduler))``, for all our
                               samplers, guidance, likelihoods
one of an RFlowScheduler       ``Denoiser(TimestepNetwork(unet), RFlowPreconditioning.of(scheduler))``
UNet2DModel of diffusers       as the first; a DiT with learned variances:
                               ``TimestepNetwork(dit, learned_variance=True)``
a Denoiser of ours             ``TimestepModel(denoiser, scheduler)``, for MONAI's ``DiffusionInferer`` and schedulers
=============================  ========================================================================================

Nothing here imports MONAI or diffusers: a scheduler is anything with ``alphas_cumprod`` and ``prediction_type``.

A schedule of zero terminal SNR (:math:`\bar\alpha_T = 0`) has no finite last level and is refused; the message says how
to leave that step out.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import Coefficients, Preconditioning
from monai_diffscore.tensors import per_sample

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class DiscreteSchedule(Protocol):
    """What is used of a scheduler of MONAI."""

    alphas_cumprod: Tensor
    prediction_type: str


def prediction_of(scheduler: Any) -> str:
    """What a scheduler of MONAI (``prediction_type``) or diffusers (``config.prediction_type``) predicts."""
    return str(getattr(scheduler, "config", scheduler).prediction_type)


class DiscretePreconditioning(Preconditioning):
    r"""Coefficients of a network that was trained on T discrete steps; ``c_noise`` is the (fractional) step t.

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
        prediction: what the network predicts.
    Raises:
        ValueError: for other values.

    Noise levels outside of those that were trained are given the nearest step. Source of v: Salimans and Ho 2022,
    arXiv:2202.00512, Appendix D.
    """

    log_sigmas: Tensor

    def __init__(self, alphas_cumprod: Tensor, prediction: str = "epsilon") -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"Expected a prediction among {PREDICTIONS}, got {prediction!r}.")
        self.prediction = prediction
        self.register_buffer("log_sigmas", level_of_steps(alphas_cumprod).log())

    @classmethod
    def of(cls, scheduler: DiscreteSchedule) -> DiscretePreconditioning:
        """That of a scheduler of MONAI or diffusers."""
        return cls(scheduler.alphas_cumprod, prediction_of(scheduler))

    @property
    def sigmas(self) -> Tensor:
        """The trained noise levels [T], ascending, float64."""
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
    r"""A network that was trained with MONAI's ``RFlowScheduler`` (the recipe of MAISI v2).

    It predicts :math:`F = x_0 - n`, the negative of our velocity, at :math:`x_\tau = (1-\tau) x_0 + \tau n` and the
    step :math:`T \tau`. With :math:`\tau = \sigma/(1+\sigma)`: :math:`D = x_\tau + \tau F`.

    Args:
        num_train_timesteps: T.
    Raises:
        ValueError: unless T > 0.

    Start below :math:`\tau = 1`, where :math:`\sigma` is infinite: at sigma_max 80 :math:`\tau` is 0.988.
    Source: Liu et al. 2022, arXiv:2209.03003, Eq. 1.
    """

    def __init__(self, num_train_timesteps: int = 1000) -> None:
        super().__init__()
        if not num_train_timesteps > 0:
            raise ValueError(f"RFlowPreconditioning needs num_train_timesteps > 0, got {num_train_timesteps}.")
        self.num_train_timesteps = num_train_timesteps

    @classmethod
    def of(cls, scheduler: Any) -> RFlowPreconditioning:
        """That of an ``RFlowScheduler``."""
        return cls(int(scheduler.num_train_timesteps))

    def forward(self, sigma: Tensor) -> Coefficients:
        scale = 1 / (1 + sigma)
        return Coefficients(scale, sigma * scale, scale, self.num_train_timesteps * sigma * scale)


class TimestepNetwork(nn.Module):
    """A network called as ``model(x, timesteps, **keywords)``, the form of MONAI and diffusers, as one of ours.

    Args:
        model: such as ``monai.networks.nets.DiffusionModelUNet``, or ``UNet2DModel`` and ``DiTTransformer2DModel`` of
            diffusers, whose output object's ``sample`` is taken. Its state_dict is that of this module under "model.".
        learned_variance: whether the second half of the output's channels is a variance, which is left out (DiT).

    Conditions go through under the model's names: ``context`` [B, 1, d], ``class_labels`` [B]. A condition ``concat``
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
    r"""A denoiser as a model of discrete time: ``(x_t, timesteps)`` to what the scheduler expects it to predict.

    .. math::  n = (x - D) / \sigma_t, \qquad v = \sqrt{\bar\alpha_t}\, n - \sqrt{1 - \bar\alpha_t}\, D,
               \qquad x = x_t / \sqrt{\bar\alpha_t}

    Args:
        denoiser: ours.
        scheduler: the one that MONAI's inferer is given too; integer and fractional timesteps are understood.
        context_name: the condition field that MONAI's ``context`` [B, 1, d] or [B, d] is passed on as.
    """

    log_sigmas: Tensor

    def __init__(self, denoiser: nn.Module, scheduler: DiscreteSchedule, context_name: str = "context") -> None:
        super().__init__()
        prediction = prediction_of(scheduler)
        if prediction not in PREDICTIONS:
            raise ValueError(f"Expected a scheduler that predicts one of {PREDICTIONS}, got {prediction!r}.")
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

    Raises:
        ValueError: unless :math:`\bar\alpha` decreases and lies in (0, 1); with the remedy where the last is 0.
    """
    table = torch.as_tensor(alphas_cumprod).detach().cpu().double()
    if table.ndim == 1 and len(table) > 2 and table[-1] == 0:
        raise ValueError(
            "alphas_cumprod ends in 0 (zero terminal SNR): the last step is noise alone, at an infinite sigma. Leave "
            "it out: DiscretePreconditioning(scheduler.alphas_cumprod[:-1], prediction), and start the sampling at the "
            f"largest level that is left, sigma {float(((1 - table[-2]) / table[-2]).sqrt()):.6g}."
        )
    if table.ndim != 1 or len(table) < 2 or not (table[-1] > 0 and table[0] < 1 and (table.diff() < 0).all()):
        raise ValueError(
            f"alphas_cumprod must decrease within (0, 1), got {tuple(table.shape)} values from "
            f"{table.flatten()[0]:.6g} to {table.flatten()[-1]:.6g}. (A scheduler that saw half precision has lost its "
            "table: make a new one.)"
        )
    return torch.sqrt((1 - table) / table)


def _interpolate(value: Tensor, table: Tensor) -> Tensor:
    """The fractional index at which the ascending table has this value; at most its ends."""
    table = table.to(value.device)
    upper = torch.searchsorted(table, value.contiguous()).clamp(1, len(table) - 1)
    low, high = table[upper - 1], table[upper]
    return (upper - 1 + (value - low) / (high - low)).clamp(0, len(table) - 1)


def _level_at(index: Tensor, log_sigmas: Tensor) -> Tensor:
    lower = index.floor().long().clamp(0, len(log_sigmas) - 2)
    share = index - lower
    return torch.lerp(log_sigmas[lower], log_sigmas[lower + 1], share).exp()
