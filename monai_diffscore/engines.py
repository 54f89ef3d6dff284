"""The bridge to MONAI's engines: where a batch becomes a loss, a sample, an error or a likelihood.

MONAI's ``SupervisedTrainer`` computes ``loss_function(inferer(inputs, network, **kwargs), targets).mean()``. A
denoising objective draws its own targets, so it sits in the **inferer** slot (:class:`LossInferer`), which returns the
loss per sample, and the loss slot passes it on. Nothing of the trainer's iteration (accumulation, autocast, GradScaler,
compile) is written again here. Likewise a ``SupervisedEvaluator`` samples, validates or scores, by its inferer:

=============================  ==========================================  ===========================================
inferer                        inputs                                      ``engine.state.output["pred"]``
=============================  ==========================================  ===========================================
:class:`LossInferer`           clean data [B, ...]                         loss per sample [B]
:class:`SamplingInferer`       anything of the wanted shape [B, ...]       samples [B, ...]
:class:`DenoisingErrorInferer` clean data [B, ...]                         squared x0 error [B, levels]
:class:`LikelihoodInferer`     clean data [B, ...]                         nats and standard error per dimension [B, 2]
=============================  ==========================================  ===========================================
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import EventEnum, Events
from monai.engines import PrepareBatch, SupervisedTrainer
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn
from tqdm import tqdm

from monai_diffscore.data.problems import DataError
from monai_diffscore.denoiser import noise_like, per_sample
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.losses import DenoisingLoss
from monai_diffscore.sampling import Step, asinh_sigmas, sample_adams

logger = logging.getLogger(__name__)


class PrepareScoreBatch(PrepareBatch):
    """Takes the image and the declared condition fields out of a batch dictionary: (image, image, (), condition).

    Args:
        condition_keys: keys that go to the network (or the inferer) as keyword tensors of the same name.
        image_key: key of the clean data.
    """

    def __init__(self, condition_keys: Sequence[str] = (), image_key: str = "image") -> None:
        self.condition_keys = tuple(condition_keys)
        self.image_key = image_key

    def __call__(
        self,
        batchdata: dict[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple[()], dict[str, Tensor]]:
        missing = [key for key in (self.image_key, *self.condition_keys) if key not in batchdata]
        if missing:
            raise DataError(
                "the batch",
                key=", ".join(missing),
                expected=f"the keys {[self.image_key, *self.condition_keys]}",
                got=f"{sorted(map(str, batchdata))}",
                remedy="Add them to the data dictionaries, or take them out of condition_keys.",
            )
        image = batchdata[self.image_key].to(device=device, non_blocking=non_blocking, **kwargs)
        condition = {
            key: convert_to_tensor(torch.as_tensor(batchdata[key]), track_meta=False).to(
                device=device, non_blocking=non_blocking
            )
            for key in self.condition_keys
        }
        return image, image, (), condition


class TrainingEvents(EventEnum):
    """INTERRUPTED fires once when an exception or Ctrl-C ends a training, before it goes on to the caller."""

    INTERRUPTED = "interrupted"


class ScoreTrainer(SupervisedTrainer):
    """MONAI's trainer with the objective in its inferer slot, and an event for handlers that close files and runs.

    Takes the arguments of ``SupervisedTrainer``; ``inferer`` is a :class:`LossInferer`. ``loss_function`` is
    not needed: the inferer returns the loss already.
    """

    #: the exception that ended the training, for handlers of the INTERRUPTED event
    stop_reason: BaseException | None = None
    #: whether it ended between two iterations, on request: then weights, optimizer and averages belong together
    stopped_on_request = False
    _stop_asked = False

    def __init__(self, *args: Any, loss_function: Callable[..., Tensor] | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("prepare_batch", PrepareScoreBatch())
        kwargs.setdefault("decollate", False)  # the loss has no images to take apart
        kwargs["event_names"] = [*(kwargs.get("event_names") or []), TrainingEvents]
        kwargs["loss_function"] = loss_function or _first
        super().__init__(*args, **kwargs)
        # the last handler of an iteration: EMA, scheduler and records are up to date when it stops
        self.add_event_handler(Events.ITERATION_COMPLETED, _stop_if_asked)

    def run(self) -> None:  # type: ignore[override]
        """Trains.

        Raises:
            DataError: if there is not one whole batch.
            KeyboardInterrupt: after Ctrl-C, at the end of the iteration; at once after a second one.
        """
        if self.state.epoch_length == 0:
            raise DataError(
                "the training data",
                expected="at least one whole batch",
                got="none",
                remedy="Add data, or lower batch_size.",
            )
        self._stop_asked = self.stopped_on_request = False
        try:
            # so that weights, optimizer and averages belong together
            with first_interrupt(self._ask_to_stop, "stopping after this iteration"):
                super().run()
        except BaseException as error:
            self.stop_reason = error
            try:
                self.fire_event(TrainingEvents.INTERRUPTED)
            except Exception:
                logger.exception("a handler failed while the training was being stopped")
            raise

    def _ask_to_stop(self) -> None:
        self._stop_asked = True


@contextmanager
def first_interrupt(ask: Callable[[], None], message: str) -> Iterator[None]:
    """Ctrl-C calls ``ask`` and logs the message the first time, and raises ``KeyboardInterrupt`` the second time.

    Signals reach the main thread alone: in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(_number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        logger.warning(f"{message}; Ctrl-C again stops at once")
        ask()

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _stop_if_asked(engine: ScoreTrainer) -> None:
    if engine._stop_asked:
        engine.stopped_on_request = True
        raise KeyboardInterrupt


def _first(loss: Tensor, _target: Tensor) -> Tensor:
    return loss


class LossInferer(Inferer):
    """``loss(network, inputs, **condition)`` as an inferer: the loss per sample [B]."""

    def __init__(self, loss: DenoisingLoss) -> None:
        super().__init__()
        self.loss = loss

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        return self.loss(network, convert_to_tensor(inputs, track_meta=False), **condition)


def random_stream(*key: int) -> torch.Generator:
    """A generator of its own for each key, such as (seed, number of the sample)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


class SamplingInferer(Inferer):
    """Samples of the shape of ``inputs``, whose values are not looked at.

    Ctrl-C ends the sampling after the step that it is in, with the denoiser's current estimate, which is saved like any
    other sample; the next batch then raises ``KeyboardInterrupt``.

    Args:
        sampler: one of the functions ``sample_*``, or a partial of one.
        sigmas: grid of noise levels [steps + 1].
        seed: sample number i (the batch's ``seed`` entry, else its place in the batch) has a random stream of its own,
            made of ``seed`` and i: the same sample comes out whatever the batch size.
        progress: show a progress bar over the steps.
        callback: called with each :class:`~monai_diffscore.sampling.Step`; returning True stops the sampling likewise.
        wrap: makes another denoiser of the network, such as a ``TiledDenoiser`` or a guidance.
    """

    def __init__(
        self,
        sampler: Callable[..., Tensor] = sample_adams,
        sigmas: Tensor | None = None,
        seed: int = 0,
        progress: bool = True,
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

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        if self.stopped:
            raise KeyboardInterrupt
        like = convert_to_tensor(inputs, track_meta=False).float()
        denoiser = network if self.wrap is None else self.wrap(network)
        numbers = range(len(like)) if seed is None else seed.tolist()
        samples = self.sample(denoiser, like, [int(number) for number in numbers], **condition)
        # a MetaTensor again where the inputs were one, so that Invertd finds what to invert
        return convert_to_dst_type(samples, inputs, dtype=samples.dtype)[0]

    def sample(self, denoiser: nn.Module, like: Tensor, numbers: Sequence[int], **condition: Tensor) -> Tensor:
        """Samples of the shape, dtype and device of ``like``, one for each number."""
        generators = [random_stream(self.seed, number) for number in numbers]
        start = noise_like(like, generators) * float(self.sigmas[0])
        steps = len(self.sigmas) - 1
        with (
            tqdm(total=steps, desc=f"sampling {len(like)}", disable=not self.progress, leave=False) as bar,
            first_interrupt(self._stop, "keeping the current estimate as the sample, and stopping"),
        ):

            def on_step(step: Step) -> bool:
                bar.update(1)
                asked = self.callback is not None and self.callback(step) is True
                return asked or self.stopped

            return self.sampler(
                partial(denoiser, **condition), start, self.sigmas, generator=generators, callback=on_step
            )

    def _stop(self) -> None:
        self.stopped = True


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


class LikelihoodInferer(Inferer):
    """Log likelihood and its standard error, both in nats **per dimension** of the normalised data, [B, 2].

    Args:
        sigmas: grid, as for :func:`~monai_diffscore.likelihood.log_likelihood`.
        probes: Hutchinson probes; 0 computes the exact trace, for data of few dimensions.
        seed: of the probes.
        progress: show a progress bar over the intervals.
    """

    def __init__(self, sigmas: Tensor, probes: int = 1, seed: int = 0, progress: bool = True) -> None:
        super().__init__()
        self.sigmas, self.probes, self.seed, self.progress = sigmas, probes, seed, progress

    def __call__(self, inputs: Tensor, network: nn.Module, **condition: Tensor) -> Tensor:  # type: ignore[override]
        x0 = convert_to_tensor(inputs, track_meta=False)
        generator = torch.Generator().manual_seed(self.seed)
        with tqdm(desc=f"likelihood of {len(x0)}", disable=not self.progress, leave=False) as bar:

            def on_interval(done: int, intervals: int) -> None:
                bar.total = intervals
                bar.update(done - bar.n)

            nats, error = log_likelihood(
                partial(network, **condition),
                x0,
                self.sigmas,
                divergence="hutchinson" if self.probes else "exact",
                probes=max(1, self.probes),
                generator=generator,
                callback=on_interval,
            )
        return torch.stack([nats, error], dim=1) / x0[0].numel()
