"""Checkpoints that a run continues from, and the weights that inference loads.

A checkpoint is written to a temporary file, flushed to the disk and renamed, so that a crash at any moment leaves
the previous one whole. Everything in it loads with ``weights_only=True``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_diffscore.data import save_statistics
from monai_diffscore.data.files import whole_file
from monai_diffscore.engines import ScoreTrainer, TrainingEvents

logger = logging.getLogger(__name__)


def save_atomically(content: Any, path: Path) -> None:
    """``torch.save`` that leaves the old file or the new one at ``path``, never a part of one."""
    with whole_file(path) as file:
        torch.save(content, file)


def describe(value: Any) -> str:
    """A text that is equal for equal settings: the name of a function, a partial's arguments, else ``str``."""
    if isinstance(value, partial):
        return f"{describe(value.func)}({', '.join(f'{k}={describe(v)}' for k, v in sorted(value.keywords.items()))})"
    return getattr(value, "__qualname__", None) or str(value)


class ResumableCheckpoint:
    """Saves a training every N iterations, at its end and on Ctrl-C, and continues the newest one at the start.

    Args:
        folder: where the checkpoints go; a run that finds some there resumes.
        objects: name to object with ``state_dict`` and ``load_state_dict``: network, optimizer, ema, ...
        weights: optional (module, path): the weights alone, for inference, written with each checkpoint.
        statistics: optional facts of the training data, written beside the weights as ``data_statistics.json``.
        settings: what must not change when a training is continued: data, formulation, learning rate, ... Values
            are kept as text; see :func:`describe`.
        save_every: iterations between checkpoints.
        keep: number of checkpoints kept.
    """

    def __init__(
        self,
        folder: str | Path,
        objects: Mapping[str, Any],
        weights: tuple[nn.Module, str | Path] | None = None,
        statistics: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        save_every: int = 500,
        keep: int = 2,
    ) -> None:
        if save_every < 1 or keep < 1:
            raise ValueError(f"save_every and keep must be at least 1, got {save_every} and {keep}.")
        self.folder = Path(folder)
        self.objects = {
            name: value.module if isinstance(value, DistributedDataParallel) else value
            for name, value in objects.items()
        }
        self.weights = weights
        self.statistics = statistics
        self.settings = {name: describe(value) for name, value in (settings or {}).items()}
        self.save_every = save_every
        self.keep = keep

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.save_every), self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)
        engine.add_event_handler(TrainingEvents.INTERRUPTED, self.save_if_asked_to_stop)

    def files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        numbered = {f: re.fullmatch(r"iteration_(\d+)\.pt", f.name) for f in self.folder.glob("iteration_*.pt")}
        return sorted((f for f, match in numbered.items() if match), key=lambda f: int(f.stem.split("_")[1]))

    def save(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        state = {name: value.state_dict() for name, value in self.objects.items()}
        state["engine"] = {"iteration": engine.state.iteration, "epoch_length": engine.state.epoch_length}
        state["settings"] = self.settings
        save_atomically(state, self.folder / f"iteration_{engine.state.iteration:08d}.pt")
        if self.weights is not None:
            module, path = self.weights
            save_atomically(module.state_dict(), Path(path))
            if self.statistics is not None:
                save_statistics(self.statistics, Path(path).with_name("data_statistics.json"))
        for old in self.files()[: -self.keep]:
            old.unlink()

    def save_if_asked_to_stop(self, engine: ScoreTrainer) -> None:
        """Saves after Ctrl-C between iterations. After an error the state may be what caused it, and is not kept."""
        if engine.stopped_on_request:
            try:
                self.save(engine)
            except OSError as error:
                logger.error(f"could not save the last iterations: {error}")

    def resume(self, engine: Engine) -> None:
        """Loads the newest checkpoint, if there is one.

        Raises:
            ValueError: if it belongs to another configuration: settings, objects, epoch length or shapes differ.
        """
        files = self.files()
        if not files:
            return
        newest = files[-1]
        state = torch.load(newest, map_location="cpu", weights_only=True)
        at, settings = state.pop("engine"), state.pop("settings")
        changed = [
            f"{name}: {settings.get(name)} then, {self.settings.get(name)} now"
            for name in sorted(settings.keys() | self.settings.keys())
            if settings.get(name) != self.settings.get(name)
        ]
        if changed:
            raise ValueError(
                f"{newest} was trained with other settings ({'; '.join(changed)}). Restore them to continue it, or use "
                "another --output_dir to start anew."
            )
        if set(state) != set(self.objects) or at["epoch_length"] != engine.state.epoch_length:
            raise ValueError(
                f"{newest} holds {sorted(state)} with {at['epoch_length']} iterations an epoch; this run has "
                f"{sorted(self.objects)} and {engine.state.epoch_length}. Use the same configuration and data to "
                "continue it, or another --output_dir to start anew."
            )
        for name, value in self.objects.items():
            try:
                value.load_state_dict(state[name])
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{newest} does not fit '{name}' of this configuration: {error} Restore the configuration, or use "
                    "another --output_dir to start anew."
                ) from error
        engine.state.iteration = at["iteration"]
        engine.state.epoch = at["iteration"] // at["epoch_length"]
        logger.info(f"continuing at iteration {at['iteration']} from {newest}")
