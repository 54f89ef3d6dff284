"""The trainer: MONAI's, exactly repeatable, and stopped between iterations.

The objective sits in the inferer slot (:class:`~monai_diffscore.inferers.LossInferer`). Nothing of the trainer's
iteration (accumulation, autocast, GradScaler, compile) is written again here.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from ignite.engine import EventEnum, Events
from monai.engines import PrepareBatch, SupervisedTrainer
from monai.utils import convert_to_tensor
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from monai_diffscore.data.loader import scattered_seed
from monai_diffscore.errors import DataError
from monai_diffscore.interrupts import Requeue, Stop, StopRequests
from monai_diffscore.losses import FiniteWatch, NotFiniteError

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


@runtime_checkable
class Watched(Protocol):
    """An inferer whose checks of finite numbers may run late, such as a ``LossInferer``."""

    watches: list[FiniteWatch]


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
        if isinstance(self.inferer, Watched):
            self.watches = [*self.inferer.watches, *self.watches]  # the loss comes before its gradients
            for watch in self.inferer.watches:
                watch.clock = lambda: self.state.iteration
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
        except FloatingPointError as raised:
            error = self._earliest(raised)
            at = getattr(error, "at", None) or self.state.iteration
            files = dict(self._recent).get(at, [])
            names = f", files {', '.join(files)}" if files else ""
            raise NotFiniteError(f"{error} (iteration {at}{names})", at) from error

    def _earliest(self, error: FloatingPointError) -> FloatingPointError:
        """``error``, or an earlier one of the values that wait for their check; the loss comes before its gradients."""
        try:
            self.settle()
        except NotFiniteError as other:
            if (other.at or 0) <= (getattr(error, "at", None) or self.state.iteration):
                return other
        return error

    def settle(self) -> None:
        """Checks the losses and gradients that are not checked yet; called before a checkpoint is written.

        Raises:
            NotFiniteError: if some are not finite; names the earliest, and the loss before its gradients.
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
    """Files that the images of a batch were read from, where their metadata names them."""
    names: list[str] = []
    for value in batch.values() if isinstance(batch, Mapping) else ():
        files = getattr(value, "meta", {}).get("filename_or_obj", [])
        names += [files] if isinstance(files, str) else map(str, files)
    return list(dict.fromkeys(names))


def _first(loss: Tensor, _target: Tensor) -> Tensor:
    return loss
