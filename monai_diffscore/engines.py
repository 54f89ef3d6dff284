"""The bridge to MONAI's engines: where a batch becomes a loss, a sample, an error or a likelihood.

MONAI's ``SupervisedTrainer`` computes ``loss_function(inferer(inputs, network, **kwargs), targets).mean()``. A
denoising objective draws its own targets, so it sits in the **inferer** slot (:class:`LossInferer`), which returns the
loss per sample, and the loss slot passes it on. Nothing of the trainer's iteration (accumulation, autocast, GradScaler,
compile) is written again here. Likewise a ``SupervisedEvaluator`` samples, validates or scores, by its inferer:

==============================  ====================================  ================================================
inferer                         inputs                                ``engine.state.output["pred"]``
==============================  ====================================  ================================================
:class:`LossInferer`            clean data [B, ...]                   loss per sample [B]
:class:`SamplingInferer`        anything of the wanted shape          samples [B, ...]
:class:`DenoisingErrorInferer`  clean data [B, ...]                   squared x0 error [B, levels]
:class:`LikelihoodInferer`      clean data [B, ...]                   nats and standard error per dimension [B, 2]
==============================  ====================================  ================================================
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import EventEnum, Events
from monai.engines import PrepareBatch, SupervisedTrainer
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from monai_diffscore.data.loader import scattered_seed
from monai_diffscore.errors import DataError
from monai_diffscore.interrupts import Requeue, Stop, StopRequests, first_interrupt
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.losses import DenoisingLoss, FiniteWatch, NotFiniteError
from monai_diffscore.sampling import Step, asinh_sigmas, sample_adams
from monai_diffscore.tensors import noise_like, per_sample

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
    """What a training tells its handlers beside Ignite's events.

    INTERRUPTED fires once when an exception, a signal or Ctrl-C ends a training, before it goes on to the caller.
    SAVING fires before a checkpoint is written, for records that must not fall behind it.
    """

    INTERRUPTED = "interrupted"
    SAVING = "saving"


class ScoreTrainer(SupervisedTrainer):
    """MONAI's trainer with the objective in its inferer slot, exactly repeatable, and stopped between iterations.

    Takes the arguments of ``SupervisedTrainer``; ``inferer`` is a :class:`LossInferer`. ``loss_function`` is
    not needed: the inferer returns the loss already.

    The random numbers of an iteration (noise, dropout) are a function of (seed, rank, iteration), and those of a
    :class:`~monai_diffscore.data.ResumableLoader` of (seed, epoch, index): a training that is continued repeats the one
    that was not interrupted, whatever ran in between.

    Args:
        seed: of the random numbers of the iterations.
    """

    #: the exception that ended the training, for handlers of the INTERRUPTED event
    stop_reason: BaseException | None = None
    #: whether it ended between two steps, on request: then weights, optimizer and averages belong together
    stopped_on_request = False

    def __init__(
        self, *args: Any, loss_function: Callable[..., Tensor] | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        kwargs.setdefault("prepare_batch", PrepareScoreBatch())
        kwargs.setdefault("decollate", False)  # the loss has no images to take apart
        kwargs["event_names"] = [*(kwargs.get("event_names") or []), TrainingEvents]
        kwargs["loss_function"] = loss_function or _first
        self.seed = seed
        self.stop_requests = StopRequests()
        self.watches: list[FiniteWatch] = []
        if isinstance(kwargs.get("network"), DistributedDataParallel):
            average_other_gradients(kwargs["optimizer"], kwargs["network"])
        super().__init__(*args, **kwargs)
        watch = getattr(getattr(self.inferer, "loss", None), "watch", None)
        if isinstance(watch, FiniteWatch):
            watch.clock = lambda: self.state.iteration
            self.watches.insert(0, watch)
        self._recent: deque[tuple[int, list[str]]] = deque(maxlen=32 * self.accumulation_steps)
        self.add_event_handler(Events.EPOCH_COMPLETED, lambda: self.settle())
        self.add_event_handler(Events.EPOCH_STARTED, _place_loader)
        self.add_event_handler(Events.ITERATION_STARTED, _seed_iteration)
        # the last handler of an iteration: EMA, scheduler and records are up to date when it stops
        self.add_event_handler(Events.ITERATION_COMPLETED, _stop_if_asked)

    def run(self) -> None:  # type: ignore[override]
        """Trains.

        Raises:
            DataError: if there is not one whole batch.
            NotFiniteError: if loss or gradients are not finite; names the iteration and the files of its batch. No
                checkpoint is written after it.
            KeyboardInterrupt: after Ctrl-C, at the end of the step; at once after a second one.
            Requeue: after SIGTERM or SIGUSR1, at the end of the step.
        """
        if self.state.epoch_length == 0:
            raise DataError(
                "the training data",
                expected="at least one whole batch",
                got="none",
                remedy="Add data, or lower batch_size.",
            )
        self.stopped_on_request = False
        try:
            with self.stop_requests.listening():
                self._run_naming_the_batch()
        except BaseException as error:
            self.stop_reason = error
            try:
                self.fire_event(TrainingEvents.INTERRUPTED)
                if isinstance(error, Requeue):
                    self.stop_requests.leave_together()  # a rank that leaves early takes the others with it
            except Exception:
                logger.exception("a handler failed while the training was being stopped")
            raise

    def _run_naming_the_batch(self) -> None:
        try:
            super().run()
        except FloatingPointError as found:
            error = self._first_of(found)
            at = getattr(error, "at", None) or self.state.iteration
            files = dict(self._recent).get(at, [])
            names = f", files {', '.join(files)}" if files else ""
            raise NotFiniteError(f"{error} (iteration {at}{names})", at) from error

    def _first_of(self, error: FloatingPointError) -> FloatingPointError:
        """``error``, or what was not finite before it and not looked at yet: of gradients, the loss."""
        try:
            self.settle()
        except NotFiniteError as other:
            if (other.at or 0) <= (getattr(error, "at", None) or self.state.iteration):
                return other
        return error

    def settle(self) -> None:
        """Looks at the losses and gradients that were not looked at yet; called before a checkpoint is written.

        Raises:
            NotFiniteError: if some are not finite; the earliest, of one iteration the loss.
        """
        problems = []
        for watch in self.watches:
            try:
                watch.settle()
            except NotFiniteError as error:
                problems.append(error)
        if problems:
            raise min(problems, key=lambda error: error.at or 0)

    @property
    def at_whole_step(self) -> bool:
        """Whether the iteration just done ended with a step of the optimizer: no gradients are left accumulated."""
        within = (self.state.iteration - 1) % (self.state.epoch_length or 1) + 1
        return within % self.accumulation_steps == 0 or within == self.state.epoch_length


def _place_loader(engine: ScoreTrainer) -> None:
    loader = engine.state.dataloader
    done = engine.state.iteration - (engine.state.epoch - 1) * engine.state.epoch_length
    if hasattr(loader, "start_at"):
        loader.start_at(engine.state.epoch, done)
    elif done:
        logger.warning(
            f"a {type(loader).__name__} cannot continue within an epoch: the data of this one is drawn anew. "
            "Use monai_diffscore.data.ResumableLoader to continue exactly."
        )


def _seed_iteration(engine: ScoreTrainer) -> None:
    engine._recent.append((engine.state.iteration, file_names(engine.state.batch)))
    seed = scattered_seed(engine.seed, 2 + engine.state.rank, engine.state.iteration)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # a loss of one's own may draw from the global generators
    random.seed(seed)


def _stop_if_asked(engine: ScoreTrainer) -> None:
    stop = engine.stop_requests.agreed()
    if stop == Stop.NONE or not engine.at_whole_step:
        return
    if stop == Stop.TIME_LIMIT:
        engine.terminate()
        return
    engine.settle()  # or a training that ought to end as failed asks to be run again
    engine.stopped_on_request = True
    raise KeyboardInterrupt if stop == Stop.INTERRUPT else Requeue


def average_other_gradients(optimizer: torch.optim.Optimizer, network: DistributedDataParallel) -> None:
    """Before each step, averages over the ranks the gradients of what ``optimizer`` trains beside ``network``.

    DistributedDataParallel does so for its own parameters; a loss may have some too.
    """
    own = set(map(id, network.parameters()))
    others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]

    def average(*_arguments: Any) -> None:
        for parameter in others:
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()

    if others:
        optimizer.register_step_pre_hook(average)


def file_names(batch: Any) -> list[str]:
    """Names of the files that the images of a batch were read from, as far as their metadata has them."""
    names: list[str] = []
    for value in batch.values() if isinstance(batch, Mapping) else ():
        found = getattr(value, "meta", {}).get("filename_or_obj", [])
        names += [found] if isinstance(found, str) else map(str, found)
    return list(dict.fromkeys(names))


def _first(loss: Tensor, _target: Tensor) -> Tensor:
    return loss


#: whether to show a bar, or what makes one, called as tqdm is (a server writes its progress to the log)
Progress = bool | Callable[..., tqdm]


def progress_bar(progress: Progress, **options: Any) -> tqdm:
    """A bar over evaluations as ``progress`` asks for it."""
    if isinstance(progress, bool):
        return tqdm(disable=not progress, leave=False, **options)
    return progress(**options)


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


#: what a command that samples says after Ctrl-C
INTERRUPTED = "what was finished until then is written"


def spread_of(draws: Tensor, dim: int) -> Tensor:
    """The standard deviation over ``dim``, which one draw does not have: NaN."""
    return draws.std(dim) if draws.shape[dim] > 1 else torch.full_like(draws.select(dim, 0), torch.nan)


class SamplingInferer(Inferer):
    """Samples of the shape of ``inputs``, whose values are not looked at.

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
        start = noise_like(like, generators) * float(sigmas[0]) if start is None else start
        self._cut = False
        with progress_bar(self.progress, total=len(sigmas) - 1, desc=f"sampling {len(like)}") as bar:

            def on_step(step: Step) -> bool:
                bar.update(1)
                asked = self.callback is not None and self.callback(step) is True
                self._cut = (asked or self.stopped) and step.number + 1 < step.steps  # after the last it is whole
                return self._cut

            run = self.sampler if sampler is None else sampler
            return run(partial(denoiser, **condition), start, sigmas, generator=generators, callback=on_step)

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
