"""The trainer: MONAI's trainer with exact repetition and with stops between iterations.

Its inferer is the objective (:class:`~monai_diffscore.inferers.LossInferer`). The iteration itself (accumulation,
autocast, GradScaler, compile) is MONAI's.
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
    """Takes the image and the declared condition fields from a batch dictionary: (image, image, (), condition).

    Args:
        condition_keys: keys of the fields. The network (or the inferer) gets them as keyword tensors of these names.
        image_key: key of the clean data.
    Raises:
        DataError: in the call: for a batch without one of these keys.
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
                remedy="Add them to the data dictionaries, or remove them from --condition_keys.",
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
    """An inferer with finiteness checks that may run late, such as a ``LossInferer``."""

    watches: list[FiniteWatch]


class TrainingEvents(EventEnum):
    """Events of a training beside Ignite's events.

    INTERRUPTED fires once when an exception, a signal or Ctrl-C ends a training, before the caller gets the exception.
    SAVING fires before a checkpoint is written, so that records are at least as new as the checkpoint.
    """

    INTERRUPTED = "interrupted"
    SAVING = "saving"


class ScoreTrainer(SupervisedTrainer):
    """MONAI's trainer with the objective as its inferer, with exact repetition and with stops between iterations.

    It takes the arguments of ``SupervisedTrainer``. ``inferer`` is a
    :class:`~monai_diffscore.inferers.LossInferer`, which returns the loss: leave ``loss_function`` out.

    The random numbers of an iteration (noise, dropout) are a function of (seed, rank, iteration). The random numbers of
    a :class:`~monai_diffscore.data.ResumableLoader` are a function of (seed, epoch, index). A resumed training
    therefore repeats the training without interruption.

    Args:
        loss_function: of (result of the inferer, target); default returns the result of the inferer.
        seed: of the random numbers of the iterations.
    """

    #: the exception that ended the training, for handlers of the INTERRUPTED event
    stop_reason: BaseException | None = None
    #: True if a request ended the training between two steps; weights, optimizer and averages are then of one step
    stopped_on_request = False

    def __init__(
        self, *args: Any, loss_function: Callable[..., Tensor] | None = None, seed: int = 0, **kwargs: Any
    ) -> None:
        kwargs.setdefault("prepare_batch", PrepareScoreBatch())
        kwargs.setdefault("decollate", False)  # the output has no images
        kwargs["event_names"] = [*(kwargs.get("event_names") or []), TrainingEvents]
        kwargs["loss_function"] = loss_function or _first
        self.seed = seed
        self.stop_requests = StopRequests()
        self.watches: list[FiniteWatch] = []
        if isinstance(kwargs.get("network"), DistributedDataParallel):
            average_other_gradients(kwargs["optimizer"], kwargs["network"])
        super().__init__(*args, **kwargs)
        if isinstance(self.inferer, Watched):
            self.watches = [*self.inferer.watches, *self.watches]  # at one iteration, name the loss, not its gradients
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
            DataError: if the data are less than one batch.
            NotFiniteError: if loss or gradients are not finite; names the iteration and the files of its batch. No
                checkpoint is written after it.
            KeyboardInterrupt: after Ctrl-C, at the end of the step. A second Ctrl-C raises it at once.
            Requeue: after SIGTERM or SIGUSR1, at the end of the step.
        """
        if self.state.epoch_length == 0:
            raise DataError(
                "the training data",
                expected="at least one whole batch",
                got="none",
                remedy="Add data, or lower --batch_size.",
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
                    self.stop_requests.leave_together()  # the exit of one rank kills the others
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
        """``error``, or the error of an earlier value that waits for its check.

        At one iteration the error of the loss is earlier than the error of its gradients.
        """
        try:
            self.settle()
        except NotFiniteError as other:
            if (other.at or 0) <= (getattr(error, "at", None) or self.state.iteration):
                return other
        return error

    def settle(self) -> None:
        """Checks all losses and gradients that wait for their check. Handlers call it before they write a checkpoint.

        Raises:
            NotFiniteError: for the earliest value that is not finite; at one iteration, for the loss.
        """
        errors = []
        for watch in self.watches:
            try:
                watch.settle()
            except NotFiniteError as error:
                errors.append(error)
        if errors:
            raise min(errors, key=lambda error: error.at or 0)

    @property
    def at_whole_step(self) -> bool:
        """Whether the last iteration ended with a step of the optimizer. Then no accumulated gradients wait."""
        within = (self.state.iteration - 1) % (self.state.epoch_length or 1) + 1
        return within % self.accumulation_steps == 0 or within == self.state.epoch_length


def _place_loader(engine: ScoreTrainer) -> None:
    loader = engine.state.dataloader
    iterations = engine.state.iteration - (engine.state.epoch - 1) * engine.state.epoch_length
    if hasattr(loader, "start_at"):
        loader.start_at(engine.state.epoch, iterations)
    elif iterations:
        logger.warning(
            f"a {type(loader).__name__} cannot continue within an epoch: this epoch starts again with new random data. "
            "Use monai_diffscore.data.ResumableLoader to continue exactly."
        )


def _seed_iteration(engine: ScoreTrainer) -> None:
    engine._recent.append((engine.state.iteration, file_names(engine.state.batch)))
    seed = scattered_seed(engine.seed, 2 + engine.state.rank, engine.state.iteration)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # a user's loss may draw from the global generators
    random.seed(seed)


def _stop_if_asked(engine: ScoreTrainer) -> None:
    stop = engine.stop_requests.agreed()
    if stop == Stop.NONE or not engine.at_whole_step:
        return
    if stop == Stop.TIME_LIMIT:
        engine.terminate()
        return
    engine.settle()  # a failure must end the training with an error, not with a request to run it again
    engine.stopped_on_request = True
    raise KeyboardInterrupt if stop == Stop.INTERRUPT else Requeue


def average_other_gradients(optimizer: torch.optim.Optimizer, network: DistributedDataParallel) -> None:
    """Makes the optimizer average the gradients of its other parameters over the ranks, before each step.

    DistributedDataParallel averages the gradients of ``network`` alone. A loss may have parameters, too.

    Args:
        optimizer: of the parameters of the network and of the loss.
        network: the wrapped network.
    """
    parameters = set(map(id, network.parameters()))
    others = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in parameters]

    def average(*_arguments: Any) -> None:
        for parameter in others:
            if parameter.grad is not None:
                distributed.all_reduce(parameter.grad)
                parameter.grad /= distributed.get_world_size()

    if others:
        optimizer.register_step_pre_hook(average)


def file_names(batch: Any) -> list[str]:
    """The files of the images of a batch, as far as the metadata of the images name them."""
    names: list[str] = []
    for value in batch.values() if isinstance(batch, Mapping) else ():
        files = getattr(value, "meta", {}).get("filename_or_obj", [])
        names += [files] if isinstance(files, str) else map(str, files)
    return list(dict.fromkeys(names))


def _first(loss: Tensor, _target: Tensor) -> Tensor:
    return loss
