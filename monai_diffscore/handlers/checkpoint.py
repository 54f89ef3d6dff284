"""Checkpoints that a run continues from, and the weights that inference loads.

A checkpoint is written to a temporary file, flushed to the disk and renamed, so that a crash at any moment leaves
the previous one whole. Before it is loaded, the checksum of each part of it is compared; a damaged one is put aside,
and the next older one is taken. Everything in it loads with ``weights_only=True``.

A continued training equals the uninterrupted one bit for bit where the arithmetic is deterministic (on a CPU with a
fixed number of threads): weights, optimizer, scheduler, averages, GradScaler and counters are in the file; the order
of the data, its augmentation and the noise are functions of the seed and those counters
(:class:`~monai_diffscore.engines.ScoreTrainer`, :class:`~monai_diffscore.data.ResumableLoader`).
"""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.configuration import describe, differences, read_by
from monai_diffscore.data import save_statistics
from monai_diffscore.engines import ScoreTrainer, TrainingEvents
from monai_diffscore.handlers.fingerprint import fingerprint

logger = logging.getLogger(__name__)
#: the network of the training in a checkpoint, whose "network" holds the weights for inference
TRAINED = "network_as_trained"


def save_atomically(content: Any, path: Path) -> None:
    """``torch.save`` that leaves the old file or the new one at ``path``, never a part of one.

    Raises:
        OSError: if the disk is full or not to be written to.
    """
    with whole_file(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # of the zip writer, when the file did not take all
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class ResumableCheckpoint:
    """Saves a training every N iterations, at its end and when it is asked to stop, and continues the newest one.

    With accumulated gradients it saves at the next whole step of the optimizer. A full disk does not end a training:
    the error is logged, older checkpoints but the newest make room, and the next save tries again.

    Args:
        folder: where the checkpoints go; a run that finds some there resumes. All ranks see the same folder.
        objects: name to object with ``state_dict`` and ``load_state_dict``: network, optimizer, ema, ... A GradScaler
            of the trainer is added as "scaler".
        weights: optional (module, path): the weights alone, for inference, written with each checkpoint.
        statistics: optional facts of the training data, written beside the weights as ``data_statistics.json``. They
            and the names and sizes of the data's files must not change when a training is continued; the data may
            move.
        configuration: the configuration as executed. What ``part`` of it reads must not change when a training is
            continued, but for :data:`~monai_diffscore.configuration.MAY_CHANGE`.
        part: id of the trainer in the configuration; a configuration without it is compared as a whole.
        save_every: iterations between checkpoints.
        keep: number of checkpoints kept.
    """

    suffix = ".pt"

    def __init__(
        self,
        folder: str | Path,
        objects: Mapping[str, Any],
        weights: tuple[nn.Module, str | Path] | None = None,
        statistics: Mapping[str, Any] | None = None,
        configuration: Mapping[str, Any] | None = None,
        save_every: int = 500,
        keep: int = 2,
        part: str = "train#trainer",
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
        self.choices = None if configuration is None else read_by(configuration, part)
        self.save_every = save_every
        self.keep = keep
        self._saved_at = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.save_if_due)
        engine.add_event_handler(Events.COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.say_where)
        engine.add_event_handler(TrainingEvents.INTERRUPTED, self.save_if_asked_to_stop)

    def files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        found = self.folder.glob(f"iteration_*{self.suffix}")
        numbered = {int(f.stem.split("_")[1]): f for f in found if re.fullmatch(r"iteration_\d+", f.stem)}
        return [numbered[number] for number in sorted(numbered)]

    def save_if_due(self, engine: ScoreTrainer) -> None:
        """Saves at the first whole step at which ``save_every`` iterations have passed."""
        due = engine.state.iteration // self.save_every > self._saved_at // self.save_every
        if due and engine.at_whole_step:
            self._save_or_report(engine)

    def save_if_asked_to_stop(self, engine: ScoreTrainer) -> None:
        """Saves after a request to stop. After an error the state may be what caused it, and is not kept."""
        if engine.stopped_on_request and self._saved_at != engine.state.iteration:
            self._save_or_report(engine)

    def save(self, engine: ScoreTrainer) -> None:
        """Writes checkpoint and weights, on rank 0.

        Raises:
            OSError: if the disk is full or not to be written to; what was there before is still whole.
            NotFiniteError: if losses or gradients since the last look were not finite; then nothing is written.
        """
        engine.settle()
        engine.fire_event(TrainingEvents.SAVING)
        self._saved_at = engine.state.iteration
        self._write(engine, self.folder / f"iteration_{engine.state.iteration:08d}{self.suffix}")
        weights = self._whole_weights()
        if idist.get_rank() != 0:
            return
        if self.weights is not None:
            path = Path(self.weights[1])
            save_atomically(weights, path)
            if self.statistics is not None:
                save_statistics(self.statistics, path.with_name("data_statistics.json"))
        for old in self.files()[: -self.keep]:
            remove(old)

    def say_where(self, engine: ScoreTrainer) -> None:
        """Logs where weights and checkpoints are, and which flag of sampling takes the weights."""
        if idist.get_rank() == 0:
            path = None if self.weights is None else _quoted(self.weights[1])
            weights = [] if path is None else [f"weights: {path}, for sampling: --checkpoint {path}"]
            logger.info("; ".join([*weights, f"checkpoints: {_quoted(self.folder)}"]))

    def _write(self, engine: ScoreTrainer, path: Path) -> None:
        if idist.get_rank() != 0:
            return
        objects = self._objects(engine)
        state: dict[str, Any] = {name: value.state_dict() for name, value in objects.items()}
        if self.weights is not None and "network" in state:
            # a checkpoint that is given as weights, to MONAI or torch, is the average; the tensors are in it anyway
            state[TRAINED], state["network"] = state["network"], self.weights[0].state_dict()
        state["engine"] = self._place(engine)
        state["training"] = self._training(engine)
        try:
            save_atomically(state, path)
        except OSError as error:
            if not self._make_room(path, error):
                raise
            save_atomically(state, path)

    def _make_room(self, path: Path, error: object) -> bool:
        """Removes all checkpoints but the newest; whether there were any."""
        older = [file for file in self.files() if file != path][:-1]
        if older:
            logger.warning(f"could not save ({error}); removing {len(older)} older checkpoint(s) to make room")
        for file in older:
            remove(file)
        return bool(older)

    def _whole_weights(self) -> Mapping[str, Any]:
        return {} if self.weights is None else self.weights[0].state_dict()

    def _place(self, engine: ScoreTrainer) -> dict[str, Any]:
        return {"iteration": engine.state.iteration, "epoch_length": engine.state.epoch_length}

    def _training(self, engine: ScoreTrainer) -> dict[str, str]:
        """What makes a training this one, as JSON texts: the choices of its configuration, and its data."""
        facts = {
            "configuration": self.choices,
            "statistics": self.statistics,
            "cases": fingerprint(getattr(engine, "data_loader", None)),
        }
        return {name: json.dumps(value, default=describe) for name, value in facts.items()}

    def _save_or_report(self, engine: ScoreTrainer) -> None:
        try:
            self.save(engine)
        except OSError as error:
            logger.error(f"NO checkpoint at iteration {engine.state.iteration}: {error}. Free space in {self.folder}.")

    def _objects(self, engine: ScoreTrainer) -> dict[str, Any]:
        scaler = engine.scaler  # made by MONAI's trainer where amp is on
        return self.objects | ({} if scaler is None else {"scaler": scaler})

    def resume(self, engine: ScoreTrainer) -> None:
        """Loads the newest whole checkpoint, if there is one.

        Raises:
            ValueError: if it belongs to another configuration or other data, or if its objects, epoch length or shapes
                differ; or if there are damaged checkpoints alone.
        """
        newest = self._newest_whole()
        if newest is None:
            return
        state = torch.load(newest, map_location="cpu", weights_only=True)
        at, training = state.pop("engine"), state.pop("training", {})
        state["network"] = state.pop(TRAINED, state.get("network"))
        if state["network"] is None:
            del state["network"]
        state.pop("settings", None)  # of versions before 0.3
        objects = self._objects(engine)
        self._refuse_another_training(newest, training, set(state), at, engine)
        for name, value in objects.items():
            try:
                value.load_state_dict(state[name])
            except (RuntimeError, ValueError) as error:
                raise self._misfit(newest, f"'{name}'", error) from error
        self._continue_at(newest, at, engine)

    def _misfit(self, file: Path, what: str, error: object) -> ValueError:
        return ValueError(
            f"{file} does not fit {what} of this configuration: {error} Restore the configuration, or use another "
            "--output_dir to start anew."
        )

    def _continue_at(self, file: Path, at: Mapping[str, Any], engine: ScoreTrainer) -> None:
        engine.state.iteration = self._saved_at = at["iteration"]
        engine.state.epoch = at["iteration"] // at["epoch_length"]
        if engine.state.max_epochs is not None and engine.state.epoch >= engine.state.max_epochs:
            logger.info(
                f"already done: {engine.state.epoch} of {engine.state.max_epochs} epochs, {_quoted(file)}. A larger "
                "--max_epochs goes on, another --output_dir starts anew."
            )
        else:
            logger.info(f"continuing at iteration {at['iteration']} from {file}")

    def _refuse_another_training(
        self, file: Path, training: Mapping[str, str], names: set[str], at: Mapping[str, Any], engine: ScoreTrainer
    ) -> None:
        if not training:
            logger.warning(f"{file} is of an older version, which kept no configuration: it is continued uncompared")
        then, now = ({n: json.loads(v) for n, v in t.items()} for t in (training, self._training(engine)))
        if then.get("configuration") is not None and now["configuration"] is not None:
            changed = differences(then["configuration"], now["configuration"])
            if changed:
                raise ValueError(
                    f"{file} was trained with another configuration ({'; '.join(changed)}). Restore it to continue the "
                    "training, or use another --output_dir to start anew."
                )
        changed = _changes_of_data(then, now)
        if changed:
            raise ValueError(
                f"{file} was trained on other data ({'; '.join(changed)}). Give --dataset_dir the data of the "
                "training, wherever it is now, to continue it; or use another --output_dir to start anew."
            )
        objects = self._objects(engine)
        if names != set(objects) or at["epoch_length"] != engine.state.epoch_length:
            raise ValueError(
                f"{file} holds {sorted(names)} with {at['epoch_length']} iterations an epoch; this run has "
                f"{sorted(objects)} and {engine.state.epoch_length}. Use the same configuration, data and number of "
                "ranks to continue it, or another --output_dir to start anew."
            )

    def _newest_whole(self) -> Path | None:
        """Chosen by rank 0 for all; damaged files are renamed on the way."""
        name = ""
        if idist.get_rank() == 0:
            for file in reversed(self.files()):
                problem = self._damage(file)
                if problem is None:
                    name = file.name
                    break
                aside = file.rename(file.with_suffix(".damaged"))
                logger.warning(f"{file} is damaged ({problem}): put aside as {aside.name}, trying the next older one")
        if idist.get_world_size() > 1:
            name = str(idist.broadcast(name or "none", src=0)).replace("none", "")
        if name:
            return self.folder / name
        self._refuse_another_kind()
        damaged = sorted(self.folder.glob("iteration_*.damaged"))
        if damaged:
            raise ValueError(
                f"Expected a whole checkpoint in {self.folder}, got damaged ones alone: "
                f"{', '.join(file.name for file in damaged)}. Restore one from a backup under its name "
                "iteration_<number>.pt, or use another --output_dir to start anew."
            )
        return None

    def _damage(self, file: Path) -> str | None:
        return find_damage(file)

    def _refuse_another_kind(self) -> None:
        others = sorted(f.name for f in self.folder.glob("iteration_*") if f.suffix not in (self.suffix, ".damaged"))
        if others:
            raise ValueError(
                f"Expected checkpoints iteration_<number>{self.suffix} in {self.folder}, got {', '.join(others)}: "
                "sharded checkpoints are continued with configs/fsdp.json, others without it."
            )


def _quoted(path: str | Path) -> str:
    return shlex.quote(str(Path(path).absolute()))


def _changes_of_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the data of two trainings differs; rounding of statistics on another machine is no difference."""
    before, after = then.get("statistics"), now.get("statistics")
    changed = [] if before is None or after is None else differences(before, after, tolerance=1e-6)
    cases = {facts.get("cases") for facts in (then, now)}
    if None not in cases and len(cases) > 1:
        changed.append("the training cases, their names or sizes")
    return changed


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint, file or folder; a folder loses its name first, so that no part of it is ever taken."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}-removed")))
    else:
        checkpoint.unlink()


def find_damage(file: Path) -> str | None:
    """What is wrong with a file that ``torch.save`` wrote, by the checksum of each part of it; None if nothing is."""
    try:
        with zipfile.ZipFile(file) as parts:
            damaged = parts.testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        return str(error)
    return None if damaged is None else f"checksum of {damaged}"
