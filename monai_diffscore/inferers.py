"""Inferers of MONAI's engines: they return the losses, samples, errors or likelihoods of a batch.

MONAI's ``SupervisedTrainer`` computes ``loss_function(inferer(inputs, network, **kwargs), targets).mean()``. A
denoising objective draws its own targets. It is therefore the **inferer** (:class:`LossInferer`) and returns the loss
per sample; the loss function returns that loss unchanged. The inferer of a ``SupervisedEvaluator`` samples, validates
or scores:

==============================  ====================================  ================================================
inferer                         inputs                                ``engine.state.output["pred"]``
==============================  ====================================  ================================================
:class:`LossInferer`            clean data [B, ...]                   loss per sample [B]
:class:`SamplingInferer`        any tensor of the shape of the        samples [B, ...]
                                samples
:class:`DenoisingErrorInferer`  clean data [B, ...]                   squared x0 error [B, levels]
:class:`LikelihoodInferer`      clean data [B, ...]                   nats and standard error per dimension [B, 2]
==============================  ====================================  ================================================

:class:`ScaleSamplingInferer`, :class:`ScaleErrorInferer` and :class:`ScaleLikelihoodInferer` do the same for whole
volumes, with a :class:`~monai_diffscore.multiscale.MultiScale`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from tqdm import tqdm

from monai_diffscore.interrupts import first_interrupt
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.losses import DenoisingLoss, FiniteWatch
from monai_diffscore.multiscale import AtScale, MultiScale, log_likelihood_scales, sample_scales
from monai_diffscore.sampling import Step, asinh_sigmas, sample_adams
from monai_diffscore.tensors import noise_like, per_sample, random_stream

logger = logging.getLogger(__name__)

#: True shows a progress bar. A function with the arguments of tqdm returns another bar, such as one for a server's log.
Progress = bool | Callable[..., tqdm]


def progress_bar(progress: Progress, **options: Any) -> tqdm:
    """The bar of ``progress``. ``options`` are arguments of tqdm."""
    if isinstance(progress, bool):
        return tqdm(disable=not progress, leave=False, **options)
    return progress(**options)


class LossInferer(Inferer):
    """``loss(network, inputs, **condition)``, the loss per sample [B].

    Args:
        loss: a :class:`~monai_diffscore.losses.DenoisingLoss`, a module that holds several, or a function.
    Attributes:
        watches: the finiteness checks of the losses. The trainer settles them before it writes a checkpoint.
    """

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loss = loss
        parts = loss.modules() if isinstance(loss, nn.Module) else ()
        self.watches: list[FiniteWatch] = [part.watch for part in parts if isinstance(part, DenoisingLoss)]

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        return self.loss(network, convert_to_tensor(inputs, track_meta=False), **condition)


#: message of the KeyboardInterrupt that ends a sampling after Ctrl-C
INTERRUPTED = "the finished samples are written"


def std_over_draws(draws: Tensor, dim: int) -> Tensor:
    """The standard deviation over the draws in ``dim``; NaN for a single draw."""
    return draws.std(dim) if draws.shape[dim] > 1 else torch.full_like(draws.select(dim, 0), torch.nan)


def sample_numbers(count: int, seed: Tensor | None) -> list[int]:
    """The number of each sample of a batch, which selects its stream of random numbers.

    Args:
        count: of samples.
        seed: numbers of the samples [count]; None numbers them from 0.
    """
    return list(range(count)) if seed is None else [int(number) for number in seed.tolist()]


class SamplingInferer(Inferer):
    """Samples in the shape of ``inputs``. The values of ``inputs`` have no effect.

    Ctrl-C ends the sampling after the current step. The result is then the current estimate of the denoiser, and the
    command saves it like any sample. The next batch raises ``KeyboardInterrupt``. :meth:`draws` keeps finished draws
    alone.

    Args:
        sampler: one of the functions ``sample_*``, or a partial of one.
        sigmas: grid of noise levels [steps + 1], in units of the normalised data.
        seed: of all samples. The number i of a sample is its ``seed`` entry in the batch, else its index in the batch.
            ``seed`` and i determine the random numbers of a sample: they do not depend on the batch size.
        progress: True shows a progress bar over the steps; see :data:`Progress`.
        callback: called with each :class:`~monai_diffscore.sampling.Step`. It stops the sampling by returning True.
        wrap: maps the network to a denoiser, such as a ``TiledDenoiser`` or a guidance.
    Raises:
        KeyboardInterrupt: in the call: if Ctrl-C stopped an earlier batch.
    """

    def __init__(
        self,
        sampler: Callable[..., Tensor] = sample_adams,
        sigmas: Tensor | None = None,
        seed: int = 0,
        progress: Progress = True,
        callback: Callable[[Step], Any] | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.sigmas = asinh_sigmas(18) if sigmas is None else sigmas
        self.seed = seed
        self.progress = progress
        self.callback = callback
        self.wrap = wrap
        self.stopped = False
        #: number of finished draws of the last :meth:`draws`
        self.finished_draws = 0
        self._unfinished = False  # whether the last sample is an estimate before the last step

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        like, numbers = self.open_batch(inputs, seed)
        denoiser = network if self.wrap is None else self.wrap(network)
        samples = self.sample(denoiser, like, numbers, **condition)
        # a MetaTensor for MetaTensor inputs: Invertd reads the transforms of its metadata
        return convert_to_dst_type(samples, inputs, dtype=samples.dtype)[0]

    def open_batch(self, inputs: Tensor, seed: Tensor | None) -> tuple[Tensor, list[int]]:
        """The inputs in float32 without metadata [B, ...], and the number of each sample.

        Args:
            inputs: of the batch, [B, ...].
            seed: numbers of the samples [B]; None numbers them from 0.
        Raises:
            KeyboardInterrupt: if Ctrl-C stopped an earlier batch.
        """
        if self.stopped:
            raise KeyboardInterrupt(INTERRUPTED)
        values = convert_to_tensor(inputs, track_meta=False).float()
        return values, sample_numbers(len(values), seed)

    def sample(self, denoiser: nn.Module, like: Tensor, numbers: Sequence[int], **options: Any) -> Tensor:
        """Samples in the shape and dtype and on the device of ``like``, one for each number.

        Args:
            denoiser: D.
            like: [B, ...].
            numbers: of the samples, B.
            options: the condition of D; ``start``, the state at ``sigmas[0]`` (None draws noise); ``sigmas`` and
                ``sampler`` in place of those of the inferer.
        """
        with first_interrupt(self._stop, "keeping the current estimate as the sample, and stopping"):
            return self._run(denoiser, like, numbers, **options)

    def draws(self, denoiser: nn.Module, like: Tensor, numbers: Sequence[int], count: int, **options: Any) -> Tensor:
        """``count`` samples for each number, [B, count, ...]: draw d of number i is sample i * count + d.

        After Ctrl-C, or if the callback stops the sampling, it returns the finished draws alone. ``finished_draws`` is
        their number.

        Args:
            denoiser, like, numbers: as for :meth:`sample`.
            count: number of draws of each.
            options: of :meth:`sample`.
        Raises:
            KeyboardInterrupt: if no draw is finished.
        """
        samples: list[Tensor] = []  # one after the other, for the memory of one draw
        with first_interrupt(self._stop, "keeping the finished draws, and stopping"):
            while len(samples) < count and not self.stopped:
                sample = self._run(denoiser, like, [i * count + len(samples) for i in numbers], **options)
                if self._unfinished:
                    break
                samples.append(sample)
        self.finished_draws = len(samples)
        if not samples:
            raise KeyboardInterrupt(INTERRUPTED)
        if len(samples) < count:
            logger.warning(f"keeping the {len(samples)} finished draws of {count}")
        return torch.stack(samples, 1)

    def _run(
        self,
        denoiser: nn.Module,
        like: Tensor,
        numbers: Sequence[int],
        start: Tensor | None = None,
        sigmas: Tensor | None = None,
        sampler: Any = None,
        **condition: Tensor,
    ) -> Tensor:
        generators = [random_stream(self.seed, number) for number in numbers]
        sigmas = self.sigmas if sigmas is None else sigmas
        self._unfinished = False
        with progress_bar(self.progress, total=self._steps(denoiser, sigmas), desc=f"sampling {len(like)}") as bar:

            def on_step(step: Step) -> bool:
                bar.update(1)
                stop = (self.callback is not None and self.callback(step) is True) or self.stopped
                self._unfinished = stop and step.number + 1 < step.steps
                return self._unfinished

            options: dict[str, Any] = {"generator": generators, "callback": on_step, **condition}
            return self._draw(sampler or self.sampler, denoiser, like, sigmas, start, **options)

    def _steps(self, denoiser: nn.Module, sigmas: Tensor) -> int:
        """The number of steps of a sample."""
        return len(sigmas) - 1

    def _draw(
        self,
        sampler: Callable[..., Tensor],
        denoiser: nn.Module,
        like: Tensor,
        sigmas: Tensor,
        start: Tensor | None,
        *,
        generator: Sequence[torch.Generator],
        callback: Callable[[Step], bool],
        **condition: Tensor,
    ) -> Tensor:
        """The sample of ``sampler`` from the start, or from noise."""
        start = noise_like(like, generator) * float(sigmas[0]) if start is None else start
        return sampler(partial(denoiser, **condition), start, sigmas, generator=generator, callback=callback)

    def _stop(self) -> None:
        self.stopped = True


class ScaleSamplingInferer(SamplingInferer):
    """Whole volumes of a :class:`~monai_diffscore.multiscale.MultiScale`. All scales use the grid ``sigmas``.

    Arguments as of :class:`SamplingInferer`; ``wrap`` maps a ``MultiScale`` to a ``MultiScale``. Ctrl-C ends the
    current scale with its current estimate, and each finer scale with its first estimate.

    Raises:
        TypeError: in :meth:`sample`: for a network that is no ``MultiScale``.
        ValueError: in :meth:`sample`: for a ``start``.
    """

    def _steps(self, denoiser: nn.Module, sigmas: Tensor) -> int:
        return (len(sigmas) - 1) * len(multi_scale(denoiser).scales)

    def _draw(
        self,
        sampler: Callable[..., Tensor],
        denoiser: nn.Module,
        like: Tensor,
        sigmas: Tensor,
        start: Tensor | None,
        **options: Any,
    ) -> Tensor:
        if start is not None:
            raise ValueError("ScaleSamplingInferer starts each scale from its own noise: expected no start, got one.")
        grid = sigmas.to(like.device)
        return sample_scales(multi_scale(denoiser), like.shape, grid, sampler, dtype=like.dtype, **options)


def multi_scale(network: nn.Module) -> MultiScale:
    """The network itself, a model of scales.

    Raises:
        TypeError: for another network.
    """
    if not isinstance(network, MultiScale):
        raise TypeError(f"Expected a MultiScale, got {type(network).__name__}. Use the inferer of models of one scale.")
    return network


class DenoisingErrorInferer(Inferer):
    r"""The mean squared error :math:`\lVert D(x_0 + \sigma n) - x_0\rVert^2/d` at noise levels, [B, levels].

    The error is in squared units of x0. It compares runs with different parameterisations, weights and noise densities.
    Each call uses the same noise: the errors of two epochs differ by the network alone.

    Args:
        sigmas: noise levels > 0, in units of the normalised data.
        seed: of the noise.
    Raises:
        ValueError: for no level, or a level <= 0.
    """

    def __init__(self, sigmas: Sequence[float], seed: int = 0) -> None:
        super().__init__()
        if not sigmas or min(sigmas) <= 0:
            raise ValueError(f"DenoisingErrorInferer needs noise levels > 0, got {list(sigmas)}.")
        self.sigmas = tuple(float(sigma) for sigma in sigmas)
        self.seed = seed

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        x0 = convert_to_tensor(inputs, track_meta=False)
        noise = noise_like(x0, torch.Generator().manual_seed(self.seed))
        errors = []
        for level in self.sigmas:
            sigma = x0.new_full((len(x0),), level)
            denoised = network(x0 + per_sample(sigma, x0) * noise, sigma, **condition)
            errors.append((denoised - x0).square().flatten(1).mean(1))
        return torch.stack(errors, dim=1)


class ScaleErrorInferer(DenoisingErrorInferer):
    """The error of each scale of a :class:`~monai_diffscore.multiscale.MultiScale`, [B, scales, levels].

    It measures whole scales, in standardised coefficients (sigma_data 1), with the true coarser scales as condition.
    Arguments as of :class:`DenoisingErrorInferer`.
    """

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        model = multi_scale(network)
        errors = []
        for number, part in enumerate(model.scales.split(convert_to_tensor(inputs, track_meta=False))):
            denoiser = AtScale(model, number, {**part.fields, **condition})
            errors.append(super().__call__(part.coefficients, denoiser))
        return torch.stack(errors, dim=1)


class LikelihoodInferer(Inferer):
    """The log likelihood and its standard error, in nats **per dimension** of the normalised data, [B, 2].

    Args:
        sigmas: grid, as for :func:`~monai_diffscore.likelihood.log_likelihood`.
        probes: number of Hutchinson probes; 0 computes the exact trace, for data of few dimensions.
        seed: of the probes.
        progress: True shows a progress bar over the intervals; see :data:`Progress`.
    """

    def __init__(self, sigmas: Tensor, probes: int = 1, seed: int = 0, progress: Progress = True) -> None:
        super().__init__()
        self.sigmas, self.probes, self.seed, self.progress = sigmas, probes, seed, progress

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        x0 = convert_to_tensor(inputs, track_meta=False)
        generator = torch.Generator().manual_seed(self.seed)
        with progress_bar(self.progress, desc=f"likelihood of {len(x0)}") as bar:

            def on_interval(number: int, intervals: int) -> None:
                bar.total = intervals
                bar.update(number - bar.n)

            options: dict[str, Any] = {
                "divergence": "hutchinson" if self.probes else "exact",
                "probes": max(1, self.probes),
                "generator": generator,
                "callback": on_interval,
            }
            nats, error = self._nats(network, x0, condition, options)
        return torch.stack([nats, error], dim=1) / x0[0].numel()

    def _nats(
        self, network: nn.Module, x0: Tensor, condition: dict[str, Any], options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The log likelihood [B] and its standard error [B], in nats."""
        return log_likelihood(partial(network, **condition), x0, self.sigmas, **options)


class ScaleLikelihoodInferer(LikelihoodInferer):
    """The log likelihood of whole volumes and its standard error, in nats per voxel and channel, [B, 2].

    It is the sum over the scales. Arguments as of :class:`LikelihoodInferer`.
    """

    def _nats(
        self, network: nn.Module, x0: Tensor, condition: dict[str, Any], options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        nats, errors = log_likelihood_scales(multi_scale(network), x0, self.sigmas, **options, **condition)
        return nats.sum(0), errors.square().sum(0).sqrt()
