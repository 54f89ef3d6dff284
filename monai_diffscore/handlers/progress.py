"""The progress of a training: a bar, the log of validations, and a time limit."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from monai_diffscore.engines import ScoreTrainer, TrainingEvents
from monai_diffscore.errors import DataError
from monai_diffscore.interrupts import Stop

logger = logging.getLogger(__name__)


class Progress:
    """One bar over the whole training, with the running loss.

    Args:
        smoothing: weight of the past in the running loss.
        seconds_between: shortest time between two updates of the bar.
    """

    def __init__(self, smoothing: float = 0.95, seconds_between: float = 0.5) -> None:
        self.smoothing = smoothing
        self.seconds_between = seconds_between
        self._shown = 0.0
        self._bar: tqdm | None = None
        self._loss: torch.Tensor | None = None

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.STARTED, self.open)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.advance)
            engine.add_event_handler(Events.COMPLETED, self.close)
            engine.add_event_handler(TrainingEvents.INTERRUPTED, self.close)

    def open(self, engine: Engine) -> None:
        total = (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
        self._bar = tqdm(total=total, initial=engine.state.iteration, desc="training", dynamic_ncols=True)

    def advance(self, engine: Engine) -> None:
        loss = engine.state.output["loss"].detach()  # type: ignore[index]
        self._loss = loss if self._loss is None else torch.lerp(loss, self._loss, self.smoothing)
        now = time.monotonic()
        if self._bar is not None and now - self._shown > self.seconds_between:
            self._shown = now
            # reading the loss waits for the device, so it is not read at each iteration
            self._bar.set_postfix(epoch=engine.state.epoch, loss=f"{float(self._loss):.4f}", refresh=False)
            self._bar.update(engine.state.iteration - self._bar.n)

    def close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.update(engine.state.iteration - self._bar.n)
            self._bar.close()


class ValidationLog:
    """Writes the metrics of each validation to the log and to a JSON-lines file; validates once more at the end.

    With ``validator`` it attaches to a trainer, without one to an evaluator.

    Args:
        path: the JSON-lines file; reports append to it.
        validator: the evaluator whose metrics it reports.
    """

    def __init__(self, path: str | Path, validator: Engine | None = None) -> None:
        self.path = Path(path)
        self.validator = validator
        self._validated_at: int | None = None

    def attach(self, engine: Engine) -> None:
        if self.validator is None:
            engine.add_event_handler(Events.COMPLETED, self.report, None)
        else:
            self.validator.add_event_handler(Events.COMPLETED, self.report, engine)
            engine.add_event_handler(Events.COMPLETED, self.validate_at_end)

    def validate_at_end(self, trainer: Engine) -> None:
        if self._validated_at != trainer.state.iteration and self.validator is not None:
            self.validator.run(trainer.state.epoch)  # type: ignore[arg-type]  # MONAI's evaluator takes the epoch

    def report(self, evaluator: Engine, trainer: Engine | None) -> None:
        if trainer is not None:
            self._validated_at = trainer.state.iteration
        if idist.get_rank() != 0:
            return
        numbers = {name: float(value) for name, value in sorted(evaluator.state.metrics.items())}
        iteration = {} if trainer is None else {"iteration": trainer.state.iteration}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(iteration | numbers) + "\n")
        except OSError as error:  # a full disk; the log and the record have the numbers
            logger.error(f"{self.path}: {error}")
        label = f"iteration {trainer.state.iteration}: " if trainer is not None else ""
        logger.info(f"{label}held-out " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()))


def epochs_of_best(path: str | Path, epoch_length: int, metric: str = "denoising_error") -> int:
    """The number of epochs, at least 1, nearest to the iterations at the best validation of an earlier training.

    A log may hold several trainings, each from iteration 0. The last one counts.

    Args:
        path: file of that training's :class:`ValidationLog`.
        epoch_length: iterations in an epoch of the new training.
        metric: name in the log; less is better.
    Raises:
        DataError: if the file does not exist, or no line has the metric.
    """
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).is_file() else []
    validations = [(line["iteration"], line[metric]) for line in lines if metric in line and "iteration" in line]
    start = max((place for place, (iteration, _) in enumerate(validations) if iteration == 0), default=0)
    errors = [(error, iteration) for iteration, error in validations[start:] if math.isfinite(error)]
    if not errors:
        raise DataError(
            path, key="validation_log", expected=f"lines with 'iteration' and {metric!r}, of a training's validations",
            got=f"{len(lines)} lines" if lines else "none", remedy="Train with held-out rows first, or name its log.",
        )  # fmt: skip
    return max(1, round(min(errors)[1] / epoch_length))


class TimeLimit:
    """Ends a training after a time, with everything that its normal end does.

    Args:
        seconds: seconds from the start of the training; None sets no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        if seconds is not None and seconds <= 0:
            raise ValueError(f"A time limit must be positive, got {seconds} seconds.")
        self.seconds = seconds
        self._start = time.monotonic()

    def attach(self, engine: Engine) -> None:
        if self.seconds is not None:
            engine.add_event_handler(Events.STARTED, self.start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.check)

    def start(self, _engine: Engine) -> None:
        self._start = time.monotonic()

    def check(self, engine: ScoreTrainer) -> None:
        assert self.seconds is not None
        if time.monotonic() - self._start > self.seconds and engine.stop_requests.asked == Stop.NONE:
            logger.info(f"time limit of {self.seconds:g} s reached at iteration {engine.state.iteration}")
            engine.stop_requests.ask(Stop.TIME_LIMIT)  # all ranks stop at the same iteration
