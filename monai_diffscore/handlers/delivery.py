"""The delivery of a training's record to MLflow.

The training appends JSON lines to ``tracking.jsonl`` (:mod:`~monai_diffscore.handlers.spool`) and waits for nobody. A
thread delivers the lines in order. It keeps the number of delivered bytes and the id of the run in ``mlflow_run.json``.
When the tracker is down or slow, the thread tries again with growing pauses. Lines that are not delivered when the
training ends stay on the disk. The next start of the same training delivers them, and so does
``python -m monai_diffscore sync FOLDER``. A line that is delivered twice changes nothing: MLflow identifies a metric by
name, value, time and step.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mlflow.entities import LifecycleStage, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.tracking import MlflowClient

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.credentials import conceal, reveal
from monai_diffscore.handlers.spool import Spool

logger = logging.getLogger(__name__)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it announces the tables of a new database
KEY_TAG = "monai_diffscore.key"
#: error codes of a wrong line, which a second try does not mend
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_LINES_AT_ONCE = 500
_METRICS_AT_ONCE = 1000  # MLflow's limits for one request
_TEXTS_AT_ONCE = 100


class DeletedError(RuntimeError):
    """The run or its experiment is deleted in the tracker. The tracker refuses all lines until a user restores it."""


class Delivery:
    """Delivers a spool to the tracker at ``uri``.

    Args:
        spool: the record.
        uri: MLflow tracking URI.
    Attributes:
        run_id: id of the run; None until the tracker creates it.
        place: number of delivered bytes of the spool.
    """

    def __init__(self, spool: Spool, uri: str) -> None:
        self.spool, self.uri = spool, uri
        self.state_file = spool.state_file
        state = json.loads(self.state_file.read_text()) if self.state_file.is_file() else {}
        same = state.get("uri") == conceal(uri)  # another tracker gets the whole record
        self.run_id: str | None = state.get("run_id") if same else None
        self.place: int = state.get("delivered", 0) if same else 0
        self._client: MlflowClient | None = None
        self._moved: Path | None = None

    def deliver(self) -> int:
        """Delivers every waiting line and returns their number.

        Raises:
            Exception: if the tracker does not answer. The next call continues at the last delivered line.
        """
        count = 0
        while True:
            lines = []
            for line in self.spool.read(self.place):
                lines.append(line)
                if len(lines) == _LINES_AT_ONCE:
                    break
            if not lines:
                return count
            if self._client is None:
                self._connect(lines)
            self._send([entry for entry, _ in lines])
            self._remember(lines[-1][1])
            count += len(lines)

    def _connect(self, lines: list[tuple[dict[str, Any], int]]) -> None:
        # MLflow waits minutes for a server that hangs; the end of a training must not
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        with database_lock(self.uri):
            client = MlflowClient(self.uri)
            if self.run_id is not None:
                try:
                    self._refuse_deleted(client)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
                    logger.warning(
                        f"run {self.run_id} is gone from {conceal(self.uri)}: delivering the whole record anew"
                    )
                    self.run_id = None
                    self.place = 0
                    lines[:] = list(self.spool.read())[:_LINES_AT_ONCE]
            if self.run_id is None:
                self.run_id = self._find_or_create(client, next(self.spool.read())[0]["run"])
                self._refuse_deleted(client)
        self._client = client
        self._moved = self._find_moved(client)
        self._remember(self.place)
        logger.info(f"MLflow run {self.run_id} at {conceal(self.uri)}")

    def _find_or_create(self, client: MlflowClient, run: Mapping[str, Any]) -> str:
        experiment = client.get_experiment_by_name(run["experiment"])
        if experiment is None:
            # a server chooses the place of artifacts
            location = (self.spool.folder / "mlartifacts").as_uri() if self.uri.startswith("sqlite:") else None
            try:
                client.create_experiment(run["experiment"], artifact_location=location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another job was faster
                    raise
            experiment = client.get_experiment_by_name(run["experiment"])
            assert experiment is not None
        self._refuse_deleted_experiment(client, experiment.experiment_id)
        experiment_id = experiment.experiment_id
        # an earlier process may have created the run and died before it wrote the id
        runs = client.search_runs(
            [experiment_id], f"tags.`{KEY_TAG}` = '{run['key']}'", run_view_type=ViewType.ALL, max_results=1
        )
        if runs:
            return str(runs[0].info.run_id)
        created = client.create_run(experiment_id, run["start"], {KEY_TAG: run["key"]}, run["name"])
        return str(created.info.run_id)

    def _send(self, entries: list[dict[str, Any]]) -> None:
        metrics = [Metric(*values) for entry in entries for values in entry.get("metrics", ())]
        for start in range(0, len(metrics), _METRICS_AT_ONCE):
            self._call("log_batch", self.run_id, metrics=metrics[start : start + _METRICS_AT_ONCE])
        for entry in entries:
            params = [Param(*pair) for pair in entry.get("params", {}).items()]
            for start in range(0, len(params), _TEXTS_AT_ONCE):
                self._call("log_batch", self.run_id, params=params[start : start + _TEXTS_AT_ONCE])
            tags = [RunTag(*pair) for pair in entry.get("tags", {}).items()]
            for start in range(0, len(tags), _TEXTS_AT_ONCE):
                self._call("log_batch", self.run_id, tags=tags[start : start + _TEXTS_AT_ONCE])
            if "artifact" in entry:
                self._store(str(self.spool.folder / entry["artifact"]), entry["folder"])
            if "register" in entry:
                self._register(entry["register"], entry["folder"])
            if "text" in entry:
                with tempfile.TemporaryDirectory() as place:
                    file = Path(place) / entry["file"]
                    file.write_text(entry["text"])
                    self._store(str(file), None)
            if entry.get("status") == "RUNNING":
                self._call("update_run", self.run_id, "RUNNING")
            elif "status" in entry:
                self._call("set_terminated", self.run_id, entry["status"], entry["time"])

    def _store(self, path: str, folder: str | None) -> None:
        """Stores a file or folder as an artifact. It follows an output folder that has moved."""
        if self._moved is None:
            self._call("log_artifact", self.run_id, path, folder)
            return
        try:
            LocalArtifactRepository(str(self._moved)).log_artifact(path, folder)
        except (FileNotFoundError, MlflowException) as error:
            logger.error(f"MLflow: {conceal(str(error))}")

    def _find_moved(self, client: MlflowClient) -> Path | None:
        """The present folder of the run's artifacts if the record has moved, else None. MLflow creates the old one."""
        location = client.get_run(str(self.run_id)).info.artifact_uri
        if not location.startswith("file:"):
            return None
        stated = Path(unquote(urlparse(location).path))
        home = self.spool.folder / "mlartifacts"
        if "mlartifacts" not in stated.parts or stated.is_relative_to(home):
            return None
        before = Path(*stated.parts[: stated.parts.index("mlartifacts")])
        if before.exists():
            return None
        logger.warning(
            f"the record moved from {shlex.quote(str(before))}: artifacts are stored in {shlex.quote(str(home))}. For "
            f"MLflow to show them: ln -s {shlex.quote(str(self.spool.folder))} {shlex.quote(str(before))}"
        )
        return home / Path(*stated.parts[stated.parts.index("mlartifacts") + 1 :])

    def _refuse_deleted(self, client: MlflowClient) -> None:
        """Raises DeletedError if the run or its experiment is deleted. The lines stay in the spool."""
        run = client.get_run(str(self.run_id)).info
        self._refuse_deleted_experiment(client, run.experiment_id)
        if run.lifecycle_stage == LifecycleStage.DELETED:
            raise DeletedError(
                f"the run {self.run_id} is deleted: {self._restore(f'runs restore --run-id {self.run_id}')}"
            )

    def _refuse_deleted_experiment(self, client: MlflowClient, experiment_id: str) -> None:
        experiment = client.get_experiment(experiment_id)
        if experiment.lifecycle_stage == LifecycleStage.DELETED:
            restore = self._restore(f"experiments restore --experiment-id {experiment_id}")
            raise DeletedError(f"the experiment {experiment.name!r} is deleted: {restore}")

    def _restore(self, command: str) -> str:
        folder = shlex.quote(str(self.spool.folder))
        uri = shlex.quote(conceal(self.uri))
        return f"MLFLOW_TRACKING_URI={uri} mlflow {command} && python -m monai_diffscore sync {folder}"

    def _register(self, name: str, folder: str) -> None:
        """Registers the run's ``folder`` as a version of the model ``name``, once."""
        assert self._client is not None
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if not self._client.search_model_versions(f"name = '{name}' and run_id = '{self.run_id}'"):
            source = f"{self._client.get_run(str(self.run_id)).info.artifact_uri}/{folder}"
            self._client.create_model_version(name, source, self.run_id)

    def _call(self, method: str, *arguments: Any, **keywords: Any) -> None:
        """Calls the client. It logs and skips a line that MLflow calls invalid. Other errors go to the caller."""
        try:
            getattr(self._client, method)(*arguments, **keywords)
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            self._refuse_deleted(self._client)  # type: ignore[arg-type]
            logger.error(f"MLflow at {conceal(self.uri)} refuses {method}: {conceal(str(error))}")
        except FileNotFoundError as error:
            logger.error(f"MLflow: {method}: {error}")

    def _remember(self, place: int) -> None:
        self.place = place
        with whole_file(self.state_file) as file:
            file.write(
                json.dumps({"uri": conceal(self.uri), "run_id": self.run_id, "delivered": place}).encode() + b"\n"
            )


def database_lock(uri: str) -> Any:
    """A lock of an SQLite file: one process at a time creates or migrates its tables. A server needs none."""
    return _file_lock(Path(uri.removeprefix("sqlite:///"))) if uri.startswith("sqlite:///") else nullcontext()


@contextmanager
def _file_lock(database: Path) -> Iterator[None]:
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Courier(threading.Thread):
    """Delivers a spool while the training goes on.

    Args:
        spool: the record.
        uri: MLflow tracking URI.
        pause: seconds between deliveries.
        longest_pause: seconds between tries while the tracker is down.
    """

    def __init__(self, spool: Spool, uri: str, pause: float = 5.0, longest_pause: float = 60.0) -> None:
        super().__init__(name="tracking", daemon=True)  # a process that ends does not wait for a tracker
        self.spool, self.uri = spool, uri
        self.pause, self.longest_pause = pause, longest_pause
        self.delivery: Delivery | None = None
        self.problem: Exception | None = None
        self._closing = threading.Event()
        self._progress = time.monotonic()

    @property
    def run_id(self) -> str | None:
        return None if self.delivery is None else self.delivery.run_id

    def run(self) -> None:
        try:
            with self.spool.delivering():
                self.delivery = Delivery(self.spool, self.uri)
                self._deliver_until_closed()
        except BlockingIOError:
            logger.error(f"another program delivers {self.spool.path} already: one training at a time in a folder")
        except Exception as error:  # for example a damaged mlflow_run.json
            self.problem = error
            logger.exception("the record is kept on the disk, but not delivered")

    def _deliver_until_closed(self) -> None:
        assert self.delivery is not None
        pause, last_tries = 0.0, 3
        while True:
            closing = self._closing.wait(pause)
            if closing and self.problem is not None:
                last_tries -= 1
            try:
                if self.delivery.deliver():
                    self._progress = time.monotonic()
                if self.problem is not None:
                    logger.info(f"MLflow at {conceal(self.uri)} is back")
                pause, self.problem = self.pause, None
            except Exception as error:
                if self.problem is None:
                    logger.warning(
                        f"MLflow at {conceal(self.uri)}: {_first_line(error)}. The record waits in {self.spool.path}"
                    )
                pause, self.problem = min(max(1.0, 2 * pause), self.longest_pause), error
            if closing:
                if self.problem is None or last_tries <= 0:
                    return
                time.sleep(0.5)

    def finish(self, patience: float) -> None:
        """Waits until all lines are delivered, at most ``patience`` seconds without progress."""
        self._progress = time.monotonic()
        self._closing.set()
        while self.is_alive() and time.monotonic() - self._progress < patience:
            self.join(0.05)
        if self.is_alive() or self.problem is not None:
            logger.warning(
                f"the record in {self.spool.path} is not wholly delivered to {conceal(self.uri)}; this does it later: "
                f"python -m monai_diffscore sync {shlex.quote(str(self.spool.folder))}"
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    line = conceal(lines[0] if lines else type(error).__name__)  # before the cut, which may leave half of a password
    return line[: 600 if isinstance(error, DeletedError) else 200]


def sync(folder: str | Path, uri: str | None = None) -> tuple[str, int]:
    """Delivers the waiting lines of a training's record. Returns the id of the run and the number of lines.

    Args:
        folder: output folder of the training.
        uri: tracking URI; None takes that of the last delivery, else that of the training.
    Raises:
        ValueError: if there is no record, or another process delivers it.
        Exception: any error of the tracker.
    """
    spool = Spool(folder)
    first = next(spool.read(), None)
    if first is None:
        raise ValueError(
            f"Expected the record of a training, {spool.path}, got no such file or an empty one. Give its "
            "output folder."
        )
    try:
        with spool.delivering():
            delivery = Delivery(spool, uri or reveal(_last_uri(spool) or first[0]["run"]["uri"]))
            count = delivery.deliver()
    except BlockingIOError:
        raise ValueError(f"{spool.path} is being delivered by another program; a running training does it.") from None
    return str(delivery.run_id), count


def _last_uri(spool: Spool) -> str | None:
    uri = None
    for entry, _ in spool.read():
        uri = entry.get("tags", {}).get("tracking_uri", uri)
    return uri
