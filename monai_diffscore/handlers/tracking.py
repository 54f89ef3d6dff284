"""The record of a training in MLflow.

One MLflow run for each output folder, found again by its id when the training is continued, and closed: FINISHED,
FAILED after an error, KILLED after Ctrl-C. Metrics are written in batches every N iterations, because each write to
the database costs tens of milliseconds. A write that fails is reported and tried again with the next: the record never
ends a training.
"""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from monai_diffscore.engines import ScoreTrainer, TrainingEvents

logger = logging.getLogger(__name__)


class Tracking:
    """Logs parameters, loss, learning rate, throughput, validation metrics and artifacts of a training.

    Args:
        uri: MLflow tracking URI, such as ``sqlite:////path/mlruns.db`` or ``http://host:5000``.
        folder: the training's output folder. Its file ``mlflow_run.json`` keeps the id of the run, so that a continued
            training continues the run; an experiment made in a local database has its artifacts here.
        run_name: of a new run; None makes a unique one from ``prefix``.
        prefix: first part of a name made here.
        experiment: name of the experiment.
        parameters: flat hyperparameters.
        artifacts: files to log at the start, such as the configuration.
        validator: the evaluator whose metrics are logged.
        network: counted for ``parameter_count``.
        every: iterations between writes.
    """

    def __init__(
        self,
        uri: str,
        folder: str | Path,
        run_name: str | None = None,
        prefix: str = "training",
        experiment: str = "monai_diffscore",
        parameters: Mapping[str, Any] | None = None,
        artifacts: Sequence[str | Path] = (),
        validator: Engine | None = None,
        network: torch.nn.Module | None = None,
        every: int = 20,
    ) -> None:
        self.uri = uri
        self.folder = Path(folder).absolute()
        self.run_name = run_name
        self.prefix = prefix
        self.experiment = experiment
        self.parameters = dict(parameters or {})
        self.artifacts = [Path(artifact) for artifact in artifacts]
        self.validator = validator
        self.network = network
        self.every = every
        self.run_id: str | None = None
        self._client: MlflowClient | None = None
        self._pending: list[Metric] = []
        self._since = time.monotonic()

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.record_iteration)
        engine.add_event_handler(Events.COMPLETED, self.close, "FINISHED")
        engine.add_event_handler(TrainingEvents.INTERRUPTED, self.close_interrupted)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self.record_validation, engine)

    def open(self, _engine: Engine | None = None) -> None:
        """Continues or starts the run, and logs parameters and artifacts.

        Raises:
            MlflowException: if there is no database or server at ``uri``: better now than after a week.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(self.uri)
        self._since = time.monotonic()
        self.run_id = self._continued_run()
        if self.run_id is None:
            self.run_id = self._new_run()
            self._log_parameters()
        for artifact in self.artifacts:
            self.log_artifact(artifact)
        logger.info(f"MLflow run {self.run_id} at {self.uri}")

    def _continued_run(self) -> str | None:
        assert self._client is not None
        file = self.folder / "mlflow_run.json"
        kept = json.loads(file.read_text()) if file.is_file() else {}
        if kept.get("uri") != self.uri:
            return None
        run_id: str = kept["run_id"]
        self._client.update_run(run_id, status="RUNNING")
        return run_id

    def _new_run(self) -> str:
        assert self._client is not None
        experiment = self._client.get_experiment_by_name(self.experiment)
        if experiment is None:
            # a server decides for itself where artifacts go
            location = (self.folder / "mlartifacts").as_uri() if self.uri.startswith("sqlite:") else None
            experiment_id = self._client.create_experiment(self.experiment, artifact_location=location)
        else:
            experiment_id = experiment.experiment_id
        name = self.run_name or f"{self.prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        run_id: str = self._client.create_run(experiment_id, run_name=name).info.run_id
        (self.folder / "mlflow_run.json").write_text(json.dumps({"uri": self.uri, "run_id": run_id}) + "\n")
        return run_id

    def record_iteration(self, engine: Engine) -> None:
        iteration = engine.state.iteration
        self.record({"loss": engine.state.output["loss"].item()}, iteration)  # type: ignore[index]
        if iteration % self.every == 0:
            optimizer = getattr(engine, "optimizer", None)
            seconds = time.monotonic() - self._since
            numbers = {"iterations_per_second": self.every / seconds}
            if optimizer is not None:
                numbers["learning_rate"] = optimizer.param_groups[0]["lr"]
            self.record(numbers, iteration)
            self.flush()
            self._since = time.monotonic()

    def record_validation(self, validator: Engine, trainer: Engine) -> None:
        self.record(validator.state.metrics, trainer.state.iteration)

    def record(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Queues numbers for the next write."""
        now = int(time.time() * 1000)
        self._pending += [Metric(name, float(value), now, iteration) for name, value in numbers.items()]

    def flush(self) -> None:
        """Writes what is queued; keeps it for the next time if that fails."""
        while self._pending and self.run_id is not None:
            batch = self._pending[:1000]  # MLflow's limit for one request
            if not self._deliver("log_batch", self.run_id, metrics=batch):
                return
            del self._pending[: len(batch)]

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Stores a file with the run."""
        if self.run_id is not None:
            self._deliver("log_artifact", self.run_id, str(path), folder)

    def close(self, _engine: Engine, status: str = "FINISHED") -> None:
        self.flush()
        if self._pending:
            logger.error(f"{len(self._pending)} numbers could not be delivered to {self.uri}")
        if self.run_id is not None:
            self._deliver("set_terminated", self.run_id, status)

    def _deliver(self, method: str, *arguments: Any, **keywords: Any) -> bool:
        """Calls the client and says whether it went well; a record that fails must not end a training."""
        try:
            getattr(self._client, method)(*arguments, **keywords)
        except Exception as error:
            logger.warning(f"MLflow at {self.uri}: {method} failed: {error}")
            return False
        return True

    def close_interrupted(self, engine: ScoreTrainer) -> None:
        self.close(engine, "KILLED" if isinstance(engine.stop_reason, KeyboardInterrupt) else "FAILED")

    def _log_parameters(self) -> None:
        assert self._client is not None
        assert self.run_id is not None
        numbers = dict(self.parameters)
        if self.network is not None:
            numbers["parameter_count"] = sum(p.numel() for p in self.network.parameters())
        numbers["git_commit"] = _git_commit()
        params = [Param(name, str(value)[:500]) for name, value in numbers.items() if value is not None]
        self._deliver("log_batch", self.run_id, params=params)


def _git_commit() -> str | None:
    """Commit that this package runs from, where there is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
