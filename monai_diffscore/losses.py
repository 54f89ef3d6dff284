r"""The training objective: one denoising loss for every formulation.

.. math::  L = E_{x_0,\, n,\, \sigma \sim p(\sigma)} \Bigl[ w(\sigma)\,
           \tfrac{1}{d} \lVert D(x_0 + \sigma n, \sigma) - x_0 \rVert^2 \Bigr]

(Karras et al. 2022, Eq. 2, weighted as in Section 5). A formulation is a choice of two functions of the noise level:

====================================  =================================  ====================================
objective                             noise distribution                 weight
====================================  =================================  ====================================
EDM                                   ``LogNormalNoise(-1.2, 1.2)``      ``edm_weight``
DDPM / VP, noise prediction           ``UniformTimeNoise(VPSDE())``      :math:`1/\sigma^2`
maximum likelihood                    ``LogUniformNoise``                ``likelihood_weight``
min-SNR                               ``UniformTimeNoise(VPSDE())``      ``min_snr_weight``
rectified flow                        ``UniformTimeNoise(FlowSDE())``    ``flow_weight``
====================================  =================================  ====================================

Noise levels are **stratified** within a batch: each sample of B takes its quantile from another one of B equal slices,
in random order. Every draw still has the exact distribution, and the batch mean has a lower variance.

Losses of different objectives are not comparable. Compare runs by the held-out error of x0 on a fixed grid of noise
levels (:mod:`monai_diffscore.metrics`).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import NORMALISE, EDMPreconditioning, Preconditioning
from monai_diffscore.networks.blocks import FourierFeatures
from monai_diffscore.sde import SDE, check_process
from monai_diffscore.tensors import check_denoiser, check_estimate, check_floating, noise_like, per_sample


class NoiseDistribution(ABC):
    """A distribution of noise levels. A subclass implements its quantile function."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items())})"

    @abstractmethod
    def quantile(self, probability: Tensor) -> Tensor:
        """The noise level of a cumulative probability in (0, 1). Both are float64, of any shape."""

    def sample(
        self,
        count: int,
        *,
        device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
        stratified: bool = True,
    ) -> Tensor:
        """Noise levels, float32 [count], in units of the (normalised) data.

        Args:
            count: number of levels.
            device: of the result.
            generator: of the draws; None is torch's own on the CPU.
            stratified: True draws one level from each of ``count`` slices of equal probability, in random order. False
                draws independent levels.
        """
        # float64, since a float32 quantile can round to 1, where a normal is infinite
        source = "cpu" if generator is None else generator.device
        quantiles = torch.rand(count, dtype=torch.float64, device=source, generator=generator)
        if stratified:
            slices = torch.randperm(count, device=source, generator=generator)
            quantiles = (slices + quantiles) / count
        tiny = torch.finfo(torch.float64).eps
        return self.quantile(quantiles.clamp(tiny, 1 - tiny)).to(device, torch.float32)


class LogNormalNoise(NoiseDistribution):
    r""":math:`\ln\sigma \sim N(\mathrm{mean}, \mathrm{std}^2)`.

    The defaults are the values of EDM, for data of ``sigma_data`` 0.5. EDM2 uses (-0.4, 1.0) in a latent space.

    Args:
        mean, std: of the natural logarithm of sigma.
    Raises:
        ValueError: unless the mean is finite and std > 0.

    Source: Karras et al. 2022, Table 1; Karras et al. 2024, arXiv:2312.02696, Table 6.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2) -> None:
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"LogNormalNoise needs a finite mean and std > 0, got {mean} and {std}.")
        self.mean, self.std = mean, std

    def quantile(self, probability: Tensor) -> Tensor:
        return torch.exp(self.mean + self.std * torch.special.ndtri(probability))


class LogUniformNoise(NoiseDistribution):
    r""":math:`\ln\sigma` uniform on [ln sigma_min, ln sigma_max]; maximum likelihood with ``likelihood_weight``.

    Args:
        sigma_min, sigma_max: in units of the data.
    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"LogUniformNoise needs 0 < sigma_min < sigma_max < inf, got {sigma_min} and {sigma_max}.")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def quantile(self, probability: Tensor) -> Tensor:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return torch.exp(low + probability * (high - low))


class UniformTimeNoise(NoiseDistribution):
    r""":math:`\sigma(t)` of an SDE with t uniform on [t_min, t_max]: the training density of score SDEs and DDPM.

    Args:
        sde: the process.
        t_min: excludes the smallest noise levels, at which the score is unbounded.
        t_max: default is the largest t of the process.
    Raises:
        ValueError: unless 0 < t_min < t_max <= sde.t_max.

    Source: Song et al. 2021, Eq. 7 and Appendix C (t_min = 1e-5).
    """

    def __init__(self, sde: SDE, t_min: float = 1e-5, t_max: float | None = None) -> None:
        check_process(sde)
        t_max = sde.t_max if t_max is None else t_max
        if not 0 < t_min < t_max <= sde.t_max:
            raise ValueError(f"UniformTimeNoise needs 0 < t_min < t_max <= {sde.t_max}, got {t_min} and {t_max}.")
        self.sde, self.t_min, self.t_max = sde, t_min, t_max

    def quantile(self, probability: Tensor) -> Tensor:
        return self.sde.noise_level(self.t_min + probability * (self.t_max - self.t_min))


Weight = Callable[[Tensor], Tensor]


def edm_weight(sigma: Tensor, sigma_data: float = 0.5) -> Tensor:
    r""":math:`(\sigma^2 + s^2) / (\sigma s)^2`: weight 1 on the error of a network with EDM's preconditioning.

    Args:
        sigma: noise levels of any shape, in units of the data.
        sigma_data: s, standard deviation of the data.
    Raises:
        ValueError: unless sigma_data > 0.

    Source: Karras et al. 2022, Table 1 and Appendix B.6.
    """
    if not sigma_data > 0:
        raise ValueError(f"edm_weight expects sigma_data, the standard deviation of the data, > 0, got {sigma_data}.")
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def likelihood_weight(sigma: Tensor) -> Tensor:
    r""":math:`1/\sigma^2`: with ``LogUniformNoise`` the weight :math:`g^2` of maximum likelihood.

    In the noise coordinate :math:`g^2\,dt = d\sigma^2 = 2\sigma^2\, d\ln\sigma`, and the squared score error is
    :math:`\lVert D - x_0\rVert^2/\sigma^4`. With ``UniformTimeNoise`` the same weight gives DDPM's loss of noise
    prediction.

    Args:
        sigma: noise levels of any shape, in units of the data.

    Source: Song et al. 2021, arXiv:2101.09258, Eq. 3-4 and Theorem 1; Ho et al. 2020, arXiv:2006.11239, Eq. 14.
    """
    return 1 / sigma**2


def min_snr_weight(sigma: Tensor, gamma: float = 5.0) -> Tensor:
    r""":math:`\min(\mathrm{SNR}, \gamma)`, the weight of the x0 error, with :math:`\mathrm{SNR} = 1/\sigma^2`.

    Args:
        sigma: noise levels of any shape, in units of the data.
        gamma: largest weight.
    Raises:
        ValueError: unless gamma > 0.

    Source: Hang et al. 2023, arXiv:2303.09556, Section 3.4.
    """
    if not gamma > 0:
        raise ValueError(f"min_snr_weight expects gamma > 0, got {gamma}.")
    return (1 / sigma**2).clamp_max(gamma)


def flow_weight(sigma: Tensor) -> Tensor:
    r""":math:`(1 + 1/\sigma)^2`: weight 1 on the velocity error of a rectified flow.

    With :math:`t = \sigma/(1+\sigma)` the velocity is :math:`n - x_0 = (x_t - x_0)/t`. An error e of x0 is then an
    error :math:`e/t = (1 + 1/\sigma)\, e` of the velocity.

    Args:
        sigma: noise levels of any shape, in units of the data.

    Source: Liu et al. 2022, arXiv:2209.03003, Eq. 1.
    """
    return (1 + 1 / sigma) ** 2


class LearnedUncertainty(nn.Module):
    r"""A learned log variance :math:`u(\sigma)` that balances the noise levels.

    The objective becomes :math:`w(\sigma) e^{-u} \lVert D - x_0\rVert^2/d + u`. The u of its minimum is the log of the
    weighted error at that noise level. u is 0 before training, so that training begins with the plain objective.

    Pass its parameters to the optimizer: ``[*network.parameters(), *loss.parameters()]``. They are outside the network
    that DistributedDataParallel wraps. :class:`~monai_diffscore.engines.ScoreTrainer` averages their gradients over the
    ranks; a training loop of your own must do the same.

    Args:
        features: number of Fourier features of :math:`\ln(\sigma)/4`.

    Source: Karras et al. 2024, arXiv:2312.02696, Eq. 21 and Eq. 26 (Appendix B.2).
    """

    def __init__(self, features: int = 128) -> None:
        super().__init__()
        self.embed = FourierFeatures(features)
        self.linear = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, sigma: Tensor) -> Tensor:
        """:math:`u` [B] of the noise levels [B]."""
        return self.linear(self.embed(sigma.log() / 4)).squeeze(-1)


class NotFiniteError(FloatingPointError):
    """A loss or a gradient of a training is not finite.

    Attributes:
        at: its iteration, by the clock of the watch; None without a clock.
    """

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


class FiniteWatch:
    """Batches finiteness checks, to avoid one device synchronisation per value.

    On a CPU it checks each value at once. On any other device it collects ``every`` values and checks them together.
    Call :meth:`settle` before you write a checkpoint.

    Args:
        explain: returns the message of the error, from the arguments of :meth:`add`.
        every: number of values in one check; None is 1 on a CPU and 16 elsewhere.
    Attributes:
        clock: returns the present iteration, for the error.
    """

    def __init__(self, explain: Callable[..., str], every: int | None = None) -> None:
        self.explain, self.every = explain, every
        self.clock: Callable[[], int] | None = None
        self._waiting: list[tuple[Tensor, int | None, tuple[Tensor, ...]]] = []

    def add(self, value: Tensor, *facts: Tensor) -> None:
        """Adds a value to check, of any shape, and the facts for the message.

        Raises:
            NotFiniteError: if this value, or an earlier one that waits for its check, is not finite.
        """
        now = None if self.clock is None else self.clock()
        detached = tuple(tensor.detach() for tensor in (value, *facts))
        self._waiting.append((torch.isfinite(detached[0]).all(), now, detached))
        if len(self._waiting) >= (self.every or (1 if value.device.type == "cpu" else 16)):
            self.settle()

    def settle(self) -> None:
        """Checks all values that wait.

        Raises:
            NotFiniteError: for the first value that is not finite.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            finite = torch.stack([flag for flag, _, _ in waiting]).tolist()
            if not all(finite):
                _, at, facts = waiting[finite.index(False)]
                raise NotFiniteError(self.explain(*facts), at)


class DenoisingLoss(nn.Module):
    """The weighted squared error of the denoiser **per sample** [B], at drawn noise levels.

    The loss draws noise levels, adds noise and calls the denoiser. It calls the module and no method of it, so that
    hooks of DistributedDataParallel run.

    Args:
        noise: distribution of the noise levels.
        weight: maps the noise levels [B] to the weights [B] of the mean squared x0 error: :func:`edm_weight` or a
            partial of it, :func:`likelihood_weight`, :func:`min_snr_weight`, :func:`flow_weight`.
        uncertainty: optional :class:`LearnedUncertainty`.
    Raises:
        TypeError: for another noise, such as an SDE, or a weight that is no function.
    Attributes:
        watch: the :class:`FiniteWatch` of the loss.
    """

    def __init__(
        self, noise: NoiseDistribution, weight: Weight = edm_weight, uncertainty: LearnedUncertainty | None = None
    ) -> None:
        super().__init__()
        if not hasattr(noise, "sample"):
            raise TypeError(
                f"DenoisingLoss expects a distribution of noise levels, got {type(noise).__name__}. Give "
                "LogNormalNoise(), or UniformTimeNoise(sde) for a process."
            )
        if not callable(weight):
            raise TypeError(f"DenoisingLoss expects a function of sigma as weight, got {weight!r}, such as edm_weight.")
        self.noise = noise
        self.weight = weight
        self.uncertainty = uncertainty
        self.watch = FiniteWatch(_describe_not_finite)
        self._compared = False

    def forward(
        self, denoiser: nn.Module, x0: Tensor, generator: torch.Generator | None = None, **condition: Tensor
    ) -> Tensor:
        """The loss per sample [B] for clean data ``x0`` [B, ...].

        Args:
            denoiser: called as ``denoiser(x, sigma, **condition)``.
            x0: clean data, in the normalised units.
            generator: of noise levels and noise.
            condition: fields of the denoiser.
        Raises:
            NotFiniteError: if the loss of any sample is not finite; names the samples and their noise levels. On a
                device other than the CPU it comes up to 15 calls late: see :class:`FiniteWatch`.
            ValueError: if the denoiser returns another shape than ``x0``, or the weight another shape than sigma.
            TypeError: for ``x0`` in whole numbers, a network in place of a denoiser, or one that returns no tensor.

        The first call warns of data or a weight of another standard deviation than that of the preconditioning.
        """
        if not self._compared:
            check_floating(x0, "x0")
            check_denoiser(denoiser)
            self._compared = True
            _warn_of_another_std(self.weight, denoiser)
            _warn_of_other_data(x0, denoiser)
        sigma = self.noise.sample(x0.shape[0], device=x0.device, generator=generator)
        x = x0 + per_sample(sigma, x0) * noise_like(x0, generator)
        denoised = denoiser(x, sigma, **condition)
        check_estimate(denoised, x0, "the denoiser")
        error = (denoised - x0).square().flatten(1).mean(1)
        weight = self.weight(sigma)
        if weight.shape != sigma.shape:
            raise ValueError(
                f"Expected the weight to return a weight for each noise level, of shape {tuple(sigma.shape)}, got "
                f"{tuple(weight.shape)}."
            )
        loss = weight * error
        if self.uncertainty is not None:
            log_variance = self.uncertainty(sigma)
            loss = loss * torch.exp(-log_variance) + log_variance
        self.watch.add(loss, sigma, torch.isfinite(x0).all())
        return loss


def _warn_of_another_std(weight: Weight, denoiser: nn.Module) -> None:
    """Warns if EDM's weight has another sigma_data than the denoiser's EDM preconditioning."""
    weighted = getattr(weight, "func", weight) is edm_weight
    modules = denoiser.modules() if isinstance(denoiser, nn.Module) else ()
    stds = {float(m.sigma_data) for m in modules if isinstance(m, EDMPreconditioning)}
    std = float(getattr(weight, "keywords", {}).get("sigma_data", 0.5))
    own = stds.pop() if len(stds) == 1 else std
    if weighted and not math.isclose(own, std, rel_tol=0.02):
        warnings.warn(
            f"edm_weight has sigma_data {std:.4g}, the preconditioning of the denoiser {own:.4g}: the weights of "
            "the noise levels are not EDM's. Use DenoisingLoss(noise, partial(edm_weight, sigma_data=...)).",
            stacklevel=5,
        )


def _warn_of_other_data(x0: Tensor, denoiser: nn.Module) -> None:
    """Warns if the first batch is far from the scale that the preconditioning assumes, such as grey values of 255."""
    modules = denoiser.modules() if isinstance(denoiser, nn.Module) else ()
    kinds = {m.assumed_std: type(m).__name__ for m in modules if isinstance(m, Preconditioning)}
    stds = [std for std in kinds if std is not None]
    scale = float(x0.detach().double().square().mean().sqrt()) if len(stds) == 1 and x0.numel() >= 64 else 0.0
    std = stds.pop() if scale else 1.0
    if scale > 5 * std or 0 < scale < std / 20:
        warnings.warn(
            f"The first batch x0 has a root mean square of {scale:.4g}, the {kinds[std]} of the denoiser assumes "
            f"{std:.4g}. {NORMALISE}",
            stacklevel=5,
        )


def _describe_not_finite(loss: Tensor, sigma: Tensor, clean: Tensor) -> str:
    bad = (~torch.isfinite(loss)).nonzero().flatten().tolist()
    return (
        f"Expected a finite loss, got {loss[bad].tolist()} for samples {bad} of the batch at sigma "
        f"{[round(value, 4) for value in sigma[bad].tolist()]}; the clean batch is {'' if clean else 'NOT '}finite. "
        + ("Lower the learning rate, or train in bfloat16 or float32." if clean else "Check the data.")
    )
