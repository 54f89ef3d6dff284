"""The record of a training in MLflow.

Each output folder has one MLflow run. A continued training continues its run. The run ends FINISHED, FAILED after an
error, or KILLED after Ctrl-C or a scheduler's signal, and is RUNNING again when the training continues. The training
thread only appends to a file, every N iterations, and reads numbers from the device as rarely.
:mod:`~monai_diffscore.handlers.delivery` delivers the record. The tracker never ends or delays a training.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import secrets
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.configuration import MAY_CHANGE, choices, describe
from monai_diffscore.credentials import conceal, conceal_all
from monai_diffscore.engines import ScoreTrainer, TrainingEvents
from monai_diffscore.handlers.delivery import Courier
from monai_diffscore.handlers.ema import PowerEMA
from monai_diffscore.handlers.fingerprint import fingerprint
from monai_diffscore.handlers.spool import Spool
from monai_diffscore.memory import peak_memory_bytes

logger = logging.getLogger(__name__)
_SCHEMES = ("sqlite:", "http:", "https:", "postgresql", "mysql", "mssql", "databricks")


class Tracking:
    """Logs parameters, loss, learning rate, throughput, memory, validation metrics and artifacts of a training.

    Args:
        uri: MLflow tracking URI, such as ``sqlite:////path/mlruns.db`` or ``http://host:5000``.
        folder: the training's output folder. It holds the record (``tracking.jsonl``), the state of its delivery
            (``mlflow_run.json``), and the artifacts of an experiment in a local database.
        run_name: name of a new run; None builds a unique one from ``prefix``.
        prefix: first part of such a name.
        experiment: name of the experiment.
        facts: measured values to record as parameters, such as ``training_cases`` and the statistics of the data.
        artifacts: files to log at the start. Missing files are skipped.
        card: model card of the training, which the start writes to README.md in ``folder`` and logs; "" writes none.
        results: files to log at the end, such as the weights.
        configuration: the executed configuration, logged as JSON. Each of its values is a parameter under its id
            ("network_def::network::depth"). A value that a continued training may change is a tag.
        validator: evaluator; its metrics are logged.
        network: network; ``parameter_count`` counts its parameters.
        ema: average; its decay is logged.
        every: iterations between writes to the record.
        register_as: name in the tracker's model registry. The end of a training registers the averaged model under it,
            as a pyfunc that samples (:mod:`~monai_diffscore.handlers.registration`); None registers nothing.
        inference: the bundle's inference.json, for ``register_as``. The first of ``results`` is its weights.
        patience: seconds without progress that the end of a training waits for the tracker. None is 8 for a server,
            which may hang, and 60 for a database on this machine, whose tables may have to be created. After a signal
            of a scheduler it is at most 5.
    Raises:
        ValueError: if MLflow does not support the kind of URI.
    """

    def __init__(
        self,
        uri: str,
        folder: str | Path,
        run_name: str | None = None,
        prefix: str = "training",
        experiment: str = "monai_diffscore",
        facts: Mapping[str, Any] | None = None,
        artifacts: Sequence[str | Path] = (),
        card: str = "",
        results: Sequence[str | Path] = (),
        configuration: Mapping[str, Any] | None = None,
        validator: Engine | None = None,
        network: torch.nn.Module | None = None,
        ema: PowerEMA | None = None,
        every: int = 20,
        patience: float | None = None,
        register_as: str | None = None,
        inference: str | Path | None = None,
    ) -> None:
        if not uri.startswith(_SCHEMES):
            raise ValueError(
                f"Expected a tracking URI that begins with one of {_SCHEMES}, got {conceal(uri)!r}. A file is "
                "sqlite:///PATH; MLflow no longer supports folders."
            )
        self.uri = uri
        self.spool = Spool(folder)
        self.run_name = run_name
        self.prefix = prefix
        self.experiment = experiment
        self.facts = dict(facts or {})
        self.artifacts = [Path(artifact) for artifact in artifacts]
        self.card = card
        self.results = [Path(result) for result in results]
        self.configuration = configuration
        self.validator = validator
        self.network = network
        self.ema = ema
        self.every = every
        self.patience = (60.0 if uri.startswith("sqlite:") else 8.0) if patience is None else patience
        self.register_as = register_as
        self.inference = inference
        self._courier: Courier | None = None
        self._losses: list[tuple[int, int, Tensor]] = []
        self._early: list[list[Any]] = []  # numbers before the record opens, such as a first validation
        self._waiting: list[Mapping[str, Any]] = []  # lines that a full disk refused
        self._recorded: dict[str, int] = {}
        self._since = (time.monotonic(), 0)

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; None until the tracker creates it."""
        return None if self._courier is None else self._courier.run_id

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.record_iteration)
        engine.add_event_handler(TrainingEvents.SAVING, self.record_checkpoint)
        engine.add_event_handler(Events.COMPLETED, self.close, "FINISHED")
        engine.add_event_handler(TrainingEvents.INTERRUPTED, self.close_interrupted)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self.record_validation, engine)

    def open(self, engine: Engine) -> None:
        """Starts or continues the record, and starts its delivery."""
        self._recorded = self.spool.last_steps()
        if next(self.spool.read(), None) is None:
            name = self.run_name or f"{self.prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
            run = {"experiment": self.experiment, "name": name, "key": secrets.token_hex(16), "uri": conceal(self.uri)}
            self._write({"run": run | {"start": _now()}}, {"params": self._texts(engine)})
            for artifact in [*self._written_card(), *self.artifacts]:
                if artifact.is_file():
                    self.log_artifact(artifact)
        else:
            self._write({"status": "RUNNING"})
        self._write({"tags": self._circumstances()})
        if self.configuration is not None:
            text = json.dumps(conceal_all(self.configuration), indent=4, default=describe)
            self._write({"text": text, "file": f"configuration_{engine.state.iteration:08d}.json"})
        self._since = (time.monotonic(), engine.state.iteration)
        self._courier = Courier(self.spool, self.uri)
        self._courier.start()
        early, self._early = self._early, []
        self._append(early)

    def _written_card(self) -> list[Path]:
        path = self.spool.folder / "README.md"
        if not self.card:
            return []
        try:
            with whole_file(path) as file:
                file.write(self.card.encode())
        except OSError as error:  # a full disk does not end a training
            logger.warning("%s is not written: %s", path, error)
        return [path]

    def _texts(self, engine: Engine) -> dict[str, str]:
        numbers = {name: value for name, value in self._choices().items() if name not in MAY_CHANGE} | self.facts
        if self.network is not None:
            numbers["parameter_count"] = sum(p.numel() for p in self.network.parameters())
        numbers["git_commit"] = _git_commit()
        numbers["data_fingerprint"] = fingerprint(getattr(engine, "data_loader", None))
        return _as_texts(numbers)

    def _choices(self) -> dict[str, Any]:
        """Values of the configuration, and the scalars to which its top-level ids evaluate."""
        config = self.configuration or {}
        values = choices(config)
        evaluated = getattr(config, "evaluated", lambda _: None)
        for name in config:
            value = evaluated(name) if name not in values else None
            if isinstance(value, bool | int | float | str | torch.dtype | torch.device):
                values[name] = value
        return values

    def _circumstances(self) -> dict[str, str]:
        job = {name.lower(): os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")}
        # a report reads the paths of the configuration relative to this folder
        bundle = None if self.inference is None else str(Path(self.inference).absolute().parent.parent)
        facts = {
            "tracking_uri": conceal(self.uri),
            "host": platform.node(),
            "ranks": str(idist.get_world_size()),
            **job,
        }
        changing = {name: value for name, value in self._choices().items() if name in MAY_CHANGE}
        return _as_texts(changing | facts | {"bundle": bundle})

    def record_iteration(self, engine: Engine) -> None:
        if self._losses and self._losses[-1][0] == engine.state.iteration:
            return  # a checkpoint has recorded it
        self._losses.append((engine.state.iteration, _now(), engine.state.output["loss"].detach()))  # type: ignore[index]
        if len(self._losses) >= self.every:
            self.record_losses(engine)

    def record_losses(self, engine: Engine) -> None:
        """Writes the losses since the last call and the state of the training. It waits for the device once."""
        if not self._losses:
            return
        iteration = engine.state.iteration
        losses = torch.stack([loss for _, _, loss in self._losses]).tolist()
        rows = [["loss", loss, at, step] for (step, at, _), loss in zip(self._losses, losses, strict=True)]
        self._losses.clear()
        seconds = time.monotonic() - self._since[0]
        numbers = {"iterations_per_second": (iteration - self._since[1]) / seconds, **_memory()}
        self._since = (time.monotonic(), iteration)
        if getattr(engine, "optimizer", None) is not None:
            numbers["learning_rate"] = engine.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
        if self.ema is not None and self.ema.updates > 0:
            numbers["ema_decay"] = self.ema.decay
        self._append(rows + [[name, float(value), _now(), iteration] for name, value in numbers.items()])

    def record_validation(self, validator: Engine, trainer: Engine) -> None:
        self.record(validator.state.metrics, trainer.state.iteration)

    def record_checkpoint(self, engine: Engine) -> None:
        """Completes the record before a checkpoint: a continued training does not run these iterations again."""
        if engine.state.output is not None:
            self.record_iteration(engine)
        self.record_losses(engine)
        self.record({"checkpoint_iteration": engine.state.iteration}, engine.state.iteration, to_disk=True)

    def record(self, numbers: Mapping[str, float], iteration: int, to_disk: bool = False) -> None:
        """Writes numbers of one iteration."""
        self._append([[name, float(value), _now(), iteration] for name, value in numbers.items()], to_disk)

    def _append(self, rows: list[list[Any]], to_disk: bool = False) -> None:
        if self._courier is None:
            self._early += rows
            return
        # after a crash some iterations run again; the record already holds them
        new = [row for row in rows if row[3] > self._recorded.get(row[0], -1)]
        if new:
            self._recorded.update({row[0]: row[3] for row in new})
            self._write({"metrics": new}, to_disk=to_disk)

    def _write(self, *entries: Mapping[str, Any], to_disk: bool = False) -> None:
        """Appends to the record. On a full disk the lines wait in memory for the next call."""
        self._waiting += entries
        try:
            self.spool.append(*self._waiting, to_disk=to_disk)
        except OSError as error:
            logger.error(f"{self.spool.path}: {error}; {len(self._waiting)} lines wait in memory")
        else:
            self._waiting.clear()

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Stores a file with the run. The file must stay in place until its delivery."""
        if idist.get_rank() == 0:
            absolute = Path(path).absolute()
            inside = absolute.is_relative_to(self.spool.folder)  # a relative path survives a move of the folder
            place = absolute.relative_to(self.spool.folder) if inside else absolute
            self._write({"artifact": str(place), "folder": folder})

    def close(self, engine: Engine, status: str = "FINISHED", patience: float | None = None) -> None:
        """Ends the record and waits up to ``patience`` seconds for its delivery."""
        self.record_losses(engine)
        if status == "FINISHED":
            for result in self.results:
                if result.is_file():
                    self.log_artifact(result, "model")
            self._register()
        self._write({"status": status, "time": _now()}, to_disk=True)
        logger.info(f"record: {shlex.quote(str(self.spool.path))}, MLflow at {shlex.quote(conceal(self.uri))}")
        if self._courier is not None:
            self._courier.finish(self.patience if patience is None else patience)

    def _register(self) -> None:
        if self.register_as is None or self.inference is None or not self.results:
            return
        from monai_diffscore.handlers.registration import save_sampler  # takes seconds to import

        weights = self.results[0]
        statistics = weights.with_name("data_statistics.json")
        folder = self.spool.folder / "sampler"
        try:
            save_sampler(folder, Path(self.inference), weights, statistics, conceal_all(self.configuration))
        except Exception:  # the registry must not fail a finished training
            logger.exception(f"the model is not registered as {self.register_as}")
            return
        self.log_artifact(folder)
        self._write({"register": self.register_as, "folder": folder.name})

    def close_interrupted(self, engine: ScoreTrainer) -> None:
        if self._courier is not None:  # None if the record never opened
            stopped = isinstance(engine.stop_reason, KeyboardInterrupt | SystemExit)
            hurried = isinstance(engine.stop_reason, SystemExit)
            self.close(engine, "KILLED" if stopped else "FAILED", min(5.0, self.patience) if hurried else None)


def _as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts under ids that MLflow allows. Texts above 500 characters are left out; files hold them."""
    texts = {name.replace("#", "::"): str(value) for name, value in values.items() if value is not None}
    return {re.sub(r"[^\w .:/-]", "_", name)[:250]: conceal(text) for name, text in texts.items() if len(text) <= 500}


def _now() -> int:
    return int(time.time() * 1000)


def _memory() -> dict[str, float]:
    """Peak memory in MiB: of this process, and of the device if it has memory of its own."""
    peaks = {"peak_memory_mib": peak_memory_bytes() / 2**20}
    if torch.accelerator.is_available():
        statistics = torch.get_device_module().memory_stats()
        peaks["peak_device_memory_mib"] = statistics.get("allocated_bytes.all.peak", 0) / 2**20
    return peaks


def _git_commit() -> str | None:
    """Git commit of this package; None outside a repository."""
    try:
        process = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None
