"""Checkpoints that continue a training, and the weights that inference loads.

A save writes a temporary file, flushes it to the disk and renames it. A crash at any moment leaves the previous
checkpoint whole. A load compares the checksum of each part. It renames a damaged checkpoint and takes the next older
one. Everything in a checkpoint loads with ``weights_only=True``.

A continued training equals the uninterrupted one bit for bit where the arithmetic is deterministic (on a CPU with a
fixed number of threads). The file holds weights, optimizer, scheduler, averages, GradScaler and counters. The order of
the data, its augmentation and the noise are functions of the seed and those counters
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

from monai_diffscore.atomic_files import require_writable, whole_file
from monai_diffscore.configuration import describe, differences, read_by
from monai_diffscore.data import save_statistics
from monai_diffscore.data.manifests import note_weights
from monai_diffscore.engines import ScoreTrainer, TrainingEvents
from monai_diffscore.handlers.fingerprint import fingerprint
from monai_diffscore.handlers.spool import Spool

logger = logging.getLogger(__name__)
#: key of the trained network in a checkpoint; "network" holds the weights for inference
TRAINED = "network_as_trained"


def save_atomically(content: Any, path: Path) -> None:
    """``torch.save`` that leaves a whole file at ``path``: the old one or the new one.

    Raises:
        OSError: if the disk is full or read-only.
    """
    with whole_file(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # the zip writer raises it when the disk is full
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


class ResumableCheckpoint:
    """Saves a training every N iterations, at its end and on a request to stop; continues the newest checkpoint.

    With accumulated gradients it saves at the next whole step of the optimizer. A full disk does not end a training:
    the handler logs the error, removes all checkpoints but the newest, and tries again at the next save.

    Args:
        folder: folder of the checkpoints; a run with checkpoints there resumes. All ranks see the same folder.
        objects: name to object with ``state_dict`` and ``load_state_dict``: network, optimizer, ema, ... The
            handler adds a GradScaler of the trainer as "scaler".
        weights: optional (module, path): each save also writes the weights alone, for inference, and their hash,
            iteration and run into ``weights.json`` beside them.
        statistics: optional facts of the training data. Each save writes them beside the weights as
            ``data_statistics.json``. A continued training needs the same statistics, file names and file sizes; the
            folder of the data may move.
        configuration: the executed configuration. A continued training needs the same values of all ids that ``part``
            reads, except those in :data:`~monai_diffscore.configuration.MAY_CHANGE`.
        part: id of the trainer in the configuration. Without that id the whole configuration is compared.
        save_every: iterations between checkpoints.
        keep: number of checkpoints to keep.
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
        """Attaches the handlers.

        Raises:
            DataError: if the folder of the checkpoints or of the weights cannot be written.
        """
        require_writable(self.folder, "--output_dir")
        if self.weights is not None:
            require_writable(Path(self.weights[1]).parent, "--ckpt_dir")
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.save_if_due)
        engine.add_event_handler(Events.COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, self.say_where)
        engine.add_event_handler(TrainingEvents.INTERRUPTED, self.save_if_asked_to_stop)

    def files(self) -> list[Path]:
        """The checkpoints, oldest first."""
        files = self.folder.glob(f"iteration_*{self.suffix}")
        numbered = {int(f.stem.split("_")[1]): f for f in files if re.fullmatch(r"iteration_\d+", f.stem)}
        return [numbered[number] for number in sorted(numbered)]

    def save_if_due(self, engine: ScoreTrainer) -> None:
        """Saves at the first whole step at which ``save_every`` iterations have passed."""
        due = engine.state.iteration // self.save_every > self._saved_at // self.save_every
        if due and engine.at_whole_step:
            self._save_or_report(engine)

    def save_if_asked_to_stop(self, engine: ScoreTrainer) -> None:
        """Saves after a request to stop. It saves nothing after an error, because the state may be its cause."""
        if engine.stopped_on_request and self._saved_at != engine.state.iteration:
            self._save_or_report(engine)

    def save(self, engine: ScoreTrainer) -> None:
        """Writes checkpoint and weights, on rank 0.

        Raises:
            OSError: if the disk is full or read-only. Older checkpoints stay whole.
            NotFiniteError: if losses or gradients since the last check are not finite. Then it writes nothing.
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
            output_dir = self.folder.absolute().parent
            facts = {"iteration": engine.state.iteration, "output_dir": str(output_dir), **Spool(output_dir).run()}
            note_weights(path, facts)
            if self.statistics is not None:
                save_statistics(self.statistics, path.with_name("data_statistics.json"))
        for old in self.files()[: -self.keep]:
            remove(old)

    def say_where(self, engine: ScoreTrainer) -> None:
        """Logs the paths of weights and checkpoints, and the flag that passes the weights to sampling."""
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
            # a user may load a checkpoint as weights: "network" is the average then, and the file grows by nothing
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
        """Removes all checkpoints but the newest; returns whether it removed any."""
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
        """The identity of a training, as JSON texts: the choices of its configuration, and its data."""
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
        scaler = engine.scaler  # MONAI's trainer creates it if amp is on
        return self.objects | ({} if scaler is None else {"scaler": scaler})

    def resume(self, engine: ScoreTrainer) -> None:
        """Loads the newest whole checkpoint, if the folder holds one.

        Raises:
            ValueError: if its configuration, data, objects, epoch length or shapes differ from those of the run, or if
                all checkpoints are damaged.
        """
        newest = self._newest_whole()
        if newest is None:
            return
        state = torch.load(newest, map_location="cpu", weights_only=True)
        place, training = state.pop("engine"), state.pop("training", {})
        state["network"] = state.pop(TRAINED, state.get("network"))
        if state["network"] is None:
            del state["network"]
        state.pop("settings", None)  # of versions before 0.3
        objects = self._objects(engine)
        self._refuse_another_training(newest, training, set(state), place, engine)
        for name, value in objects.items():
            try:
                value.load_state_dict(state[name])
            except (RuntimeError, ValueError) as error:
                raise self._misfit(newest, f"'{name}'", error) from error
        self._continue_at(newest, place, engine)

    def _misfit(self, file: Path, part: str, error: object) -> ValueError:
        return ValueError(
            f"{file} does not fit {part} of this configuration: {error} Restore the configuration, or use another "
            "--output_dir to start anew."
        )

    def _continue_at(self, file: Path, place: Mapping[str, Any], engine: ScoreTrainer) -> None:
        engine.state.iteration = self._saved_at = place["iteration"]
        engine.state.epoch = place["iteration"] // place["epoch_length"]
        if engine.state.max_epochs is not None and engine.state.epoch >= engine.state.max_epochs:
            logger.info(
                f"already done: {engine.state.epoch} of {engine.state.max_epochs} epochs, {_quoted(file)}. Raise "
                "--max_epochs to continue, or use another --output_dir to start anew."
            )
        else:
            logger.info(f"continuing at iteration {place['iteration']} from {file}")

    def _refuse_another_training(
        self, file: Path, training: Mapping[str, str], names: set[str], place: Mapping[str, Any], engine: ScoreTrainer
    ) -> None:
        if not training:
            logger.warning(f"{file} is of an older version without a configuration: it continues without a comparison")
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
                f"{file} was trained on other data ({'; '.join(changed)}). Point --dataset_dir at the data of "
                "the training to continue it, or use another --output_dir to start anew."
            )
        objects = self._objects(engine)
        if names != set(objects) or place["epoch_length"] != engine.state.epoch_length:
            raise ValueError(
                f"{file} holds {sorted(names)} with {place['epoch_length']} iterations an epoch; this run has "
                f"{sorted(objects)} and {engine.state.epoch_length}. Use the same configuration, data and number of "
                "ranks to continue it, or another --output_dir to start anew."
            )

    def _newest_whole(self) -> Path | None:
        """The newest whole checkpoint; rank 0 chooses it for all ranks and renames damaged files."""
        name = ""
        if idist.get_rank() == 0:
            for file in reversed(self.files()):
                problem = self._damage(file)
                if problem is None:
                    name = file.name
                    break
                renamed = file.rename(file.with_suffix(".damaged"))
                logger.warning(f"{file} is damaged ({problem}): put aside as {renamed.name}, trying the next older one")
        if idist.get_world_size() > 1:
            name = str(idist.broadcast(name or "none", src=0)).replace("none", "")
        if name:
            return self.folder / name
        self._refuse_another_kind()
        damaged = sorted(self.folder.glob("iteration_*.damaged"))
        if damaged:
            raise ValueError(
                f"Expected a whole checkpoint in {self.folder}, got only damaged ones: "
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
    """The differences between the data of two trainings, without the rounding of statistics on another machine."""
    before, after = then.get("statistics"), now.get("statistics")
    changed = [] if before is None or after is None else differences(before, after, tolerance=1e-6)
    cases = {facts.get("cases") for facts in (then, now)}
    if None not in cases and len(cases) > 1:
        changed.append("the training cases, their names or sizes")
    return changed


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint, file or folder. It renames a folder first, so that a resume never sees a part of it."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}-removed")))
    else:
        checkpoint.unlink()


def find_damage(file: Path) -> str | None:
    """The damage of a file that ``torch.save`` wrote, by the checksum of each part; None for a whole file."""
    try:
        with zipfile.ZipFile(file) as parts:
            damaged = parts.testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        return str(error)
    return None if damaged is None else f"checksum of {damaged}"
