"""What MONAI's engines call on a batch: a loss, a sample, an error or a likelihood.

MONAI's ``SupervisedTrainer`` computes ``loss_function(inferer(inputs, network, **kwargs), targets).mean()``. A
denoising objective draws its own targets, so it sits in the **inferer** slot (:class:`LossInferer`), which returns the
loss per sample, and the loss slot passes it on. A ``SupervisedEvaluator`` samples, validates or scores, by its inferer:

==============================  ====================================  ================================================
inferer                         inputs                                ``engine.state.output["pred"]``
==============================  ====================================  ================================================
:class:`LossInferer`            clean data [B, ...]                   loss per sample [B]
:class:`SamplingInferer`        anything of the wanted shape          samples [B, ...]
:class:`DenoisingErrorInferer`  clean data [B, ...]                   squared x0 error [B, levels]
:class:`LikelihoodInferer`      clean data [B, ...]                   nats and standard error per dimension [B, 2]
==============================  ====================================  ================================================

:class:`ScaleSamplingInferer`, :class:`ScaleErrorInferer` and :class:`ScaleLikelihoodInferer` do the same with a
:class:`~monai_diffscore.multiscale.MultiScale`, on whole volumes.
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

#: whether to show a bar, or what makes one, called as tqdm is (a server writes its progress to the log)
Progress = bool | Callable[..., tqdm]


def progress_bar(progress: Progress, **options: Any) -> tqdm:
    """The bar over evaluations that ``progress`` asks for."""
    if isinstance(progress, bool):
        return tqdm(disable=not progress, leave=False, **options)
    return progress(**options)


class LossInferer(Inferer):
    """``loss(network, inputs, **condition)`` as an inferer: the loss per sample [B].

    Args:
        loss: a :class:`~monai_diffscore.losses.DenoisingLoss`, a module that holds several, or a function.
    Attributes:
        watches: the checks of the losses that the trainer must settle before it writes a checkpoint.
    """

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loss = loss
        parts = loss.modules() if isinstance(loss, nn.Module) else ()
        self.watches: list[FiniteWatch] = [part.watch for part in parts if isinstance(part, DenoisingLoss)]

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        return self.loss(network, convert_to_tensor(inputs, track_meta=False), **condition)


#: what a command that samples says after Ctrl-C
INTERRUPTED = "what was finished until then is written"


def std_over_draws(draws: Tensor, dim: int) -> Tensor:
    """The standard deviation over ``dim``; NaN for one draw, which has none."""
    return draws.std(dim) if draws.shape[dim] > 1 else torch.full_like(draws.select(dim, 0), torch.nan)


class SamplingInferer(Inferer):
    """Samples of the shape of ``inputs``, whose values are ignored.

    Ctrl-C ends the sampling after the step that it is in, with the denoiser's current estimate, which is saved like any
    other sample; the next batch then raises ``KeyboardInterrupt``. Of several :meth:`draws` the finished ones alone are
    kept.

    Args:
        sampler: one of the functions ``sample_*``, or a partial of one.
        sigmas: grid of noise levels [steps + 1].
        seed: sample number i (the batch's ``seed`` entry, else its place in the batch) has a random stream of its own,
            made of ``seed`` and i: the same sample comes out whatever the batch size.
        progress: show a progress bar over the steps, or what makes it.
        callback: called with each :class:`~monai_diffscore.sampling.Step`; returning True stops the sampling likewise.
        wrap: makes another denoiser of the network, such as a ``TiledDenoiser`` or a guidance.
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
        #: how many samples the last :meth:`draws` has of each number
        self.finished_draws = 0
        self._cut = False  # whether the last sample is an estimate on the way

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        if self.stopped:
            raise KeyboardInterrupt(INTERRUPTED)
        like = convert_to_tensor(inputs, track_meta=False).float()
        denoiser = network if self.wrap is None else self.wrap(network)
        numbers = range(len(like)) if seed is None else seed.tolist()
        samples = self.sample(denoiser, like, [int(number) for number in numbers], **condition)
        # a MetaTensor again where the inputs were one, so that Invertd finds what to invert
        return convert_to_dst_type(samples, inputs, dtype=samples.dtype)[0]

    def sample(self, denoiser: nn.Module, like: Tensor, numbers: Sequence[int], **options: Any) -> Tensor:
        """Samples of the shape, dtype and device of ``like``, one for each number.

        Args:
            denoiser: D.
            options: the condition that D takes; ``start``, the state at ``sigmas[0]`` (None draws noise); ``sigmas``
                and ``sampler`` in place of the inferer's own.
        """
        with first_interrupt(self._stop, "keeping the current estimate as the sample, and stopping"):
            return self._run(denoiser, like, numbers, **options)

    def draws(self, denoiser: nn.Module, like: Tensor, numbers: Sequence[int], count: int, **options: Any) -> Tensor:
        """``count`` samples for each number, [B, count, ...]: draw d of number i is sample i * count + d.

        Fewer after Ctrl-C, or where the callback stops: a draw that was not finished is no draw, and is left out.
        ``finished_draws`` says how many there are.

        Args:
            denoiser, like, numbers: as for :meth:`sample`.
            count: draws of each.
            options: of :meth:`sample`.
        Raises:
            KeyboardInterrupt: if none was finished.
        """
        drawn: list[Tensor] = []  # one after the other: memory is that of one
        with first_interrupt(self._stop, "keeping the draws that are finished, and stopping"):
            while len(drawn) < count and not self.stopped:
                sample = self._run(denoiser, like, [i * count + len(drawn) for i in numbers], **options)
                if self._cut:
                    break
                drawn.append(sample)
        self.finished_draws = len(drawn)
        if not drawn:
            raise KeyboardInterrupt(INTERRUPTED)
        if len(drawn) < count:
            logger.warning(f"{len(drawn)} of {count} draws were finished, and are kept")
        return torch.stack(drawn, 1)

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
        self._cut = False
        with progress_bar(self.progress, total=self._steps(denoiser, sigmas), desc=f"sampling {len(like)}") as bar:

            def on_step(step: Step) -> bool:
                bar.update(1)
                asked = self.callback is not None and self.callback(step) is True
                self._cut = (asked or self.stopped) and step.number + 1 < step.steps  # after the last it is whole
                return self._cut

            run = partial(self.sampler if sampler is None else sampler, generator=generators, callback=on_step)
            return self._draw(denoiser, like, sigmas, run, start, generators, condition)

    def _steps(self, denoiser: nn.Module, sigmas: Tensor) -> int:
        """How many steps a sample takes."""
        return len(sigmas) - 1

    def _draw(
        self,
        denoiser: nn.Module,
        like: Tensor,
        sigmas: Tensor,
        run: Callable[..., Tensor],
        start: Tensor | None,
        generators: list[torch.Generator],
        condition: dict[str, Tensor],
    ) -> Tensor:
        """What the sampler ``run`` makes of the start, or of noise."""
        start = noise_like(like, generators) * float(sigmas[0]) if start is None else start
        return run(partial(denoiser, **condition), start, sigmas)

    def _stop(self) -> None:
        self.stopped = True


class ScaleSamplingInferer(SamplingInferer):
    """Whole volumes of a :class:`~monai_diffscore.multiscale.MultiScale`: each scale takes the grid of noise levels.

    Arguments as of :class:`SamplingInferer`; ``wrap`` makes another ``MultiScale``. Ctrl-C ends the scale that is being
    drawn with its current estimate, and each finer one with its first.

    Raises:
        ValueError: in :meth:`sample` for a ``start``, of which the scales have none in common.
    """

    def _steps(self, denoiser: nn.Module, sigmas: Tensor) -> int:
        return (len(sigmas) - 1) * len(_scales_of(denoiser).scales)

    def _draw(
        self,
        denoiser: nn.Module,
        like: Tensor,
        sigmas: Tensor,
        run: Callable[..., Tensor],
        start: Tensor | None,
        generators: list[torch.Generator],
        condition: dict[str, Tensor],
    ) -> Tensor:
        if start is not None:
            raise ValueError("A model of scales starts each scale from its own noise: expected no start, got one.")
        model = _scales_of(denoiser)

        def sampler(denoise: nn.Module, noise: Tensor, grid: Tensor, **_options: Any) -> Tensor:
            return run(denoise, noise, grid)

        return sample_scales(
            model, like.shape, sigmas.to(like.device), sampler, generator=generators, dtype=like.dtype, **condition
        )


def _scales_of(network: nn.Module) -> MultiScale:
    if not isinstance(network, MultiScale):
        raise TypeError(f"Expected a MultiScale, got {type(network).__name__}. Use the inferer of models of one scale.")
    return network


class DenoisingErrorInferer(Inferer):
    r"""Mean squared error :math:`\lVert D(x_0 + \sigma n) - x_0\rVert^2/d` at fixed noise levels, [B, levels].

    In x0 units, so that runs with different parameterisations, weights and noise densities compare. The noise is the
    same at each call, so that the numbers of two epochs differ by the network alone.

    Args:
        sigmas: noise levels to measure at, all > 0.
        seed: of the noise.
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

    Each scale is measured whole, on standardised coefficients, given the true coarser ones: sigma_data is 1.
    """

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        model = _scales_of(network)
        errors = []
        for number, part in enumerate(model.scales.split(convert_to_tensor(inputs, track_meta=False))):
            denoiser = AtScale(model, number, {**part.fields, **condition})
            errors.append(super().__call__(part.coefficients, denoiser))
        return torch.stack(errors, dim=1)


class LikelihoodInferer(Inferer):
    """Log likelihood and its standard error, both in nats **per dimension** of the normalised data, [B, 2].

    Args:
        sigmas: grid, as for :func:`~monai_diffscore.likelihood.log_likelihood`.
        probes: Hutchinson probes; 0 computes the exact trace, for data of few dimensions.
        seed: of the probes.
        progress: show a progress bar over the intervals, or what makes it.
    """

    def __init__(self, sigmas: Tensor, probes: int = 1, seed: int = 0, progress: Progress = True) -> None:
        super().__init__()
        self.sigmas, self.probes, self.seed, self.progress = sigmas, probes, seed, progress

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        x0 = convert_to_tensor(inputs, track_meta=False)
        generator = torch.Generator().manual_seed(self.seed)
        with progress_bar(self.progress, desc=f"likelihood of {len(x0)}") as bar:

            def on_interval(done: int, intervals: int) -> None:
                bar.total = intervals
                bar.update(done - bar.n)

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
        """Log likelihood and standard error [B], in nats."""
        return log_likelihood(partial(network, **condition), x0, self.sigmas, **options)


class ScaleLikelihoodInferer(LikelihoodInferer):
    """The log likelihood of whole volumes [B, 2]: the sum over the scales, per voxel. Arguments as there."""

    def _nats(
        self, network: nn.Module, x0: Tensor, condition: dict[str, Any], options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        nats, errors = log_likelihood_scales(_scales_of(network), x0, self.sigmas, **options, **condition)
        return nats.sum(0), errors.square().sum(0).sqrt()
