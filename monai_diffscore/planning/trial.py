r"""A trial: measures some real iterations of a bundle's training, in a process of its own.

A server imports the libraries once, and forks this process for each trial. The process runs the training as a user
does, with data, handlers and validation, and ends it after a few iterations. It leaves out the record in MLflow and the
pictures; a trial that only gives a point of the lines below leaves out the validation, too.
The command ``plan`` forks the server from itself, before it computes anything, and so imports the libraries once. Other
programs start it anew.

The peak is that of the resident set, or of the device's memory on an accelerator. Two trials of smaller batches give
the line

.. math::  \mathrm{memory}(B) = m_0 + m_1 B, \qquad \mathrm{seconds}(B) = s_0 + s_1 B

which estimates the planned batch. A trial of the planned batch then measures it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import torch
from ignite.engine import Events
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow

from monai_diffscore.errors import DataError, explain, layers_of
from monai_diffscore.memory import peak_memory_bytes

#: timed iterations after one that warms up; seconds after which no further iteration starts
TIMED, ENOUGH_SECONDS = 5, 6.0
_SMALLER = "Lower --memory-gb, or the sizes in the plan (docs/plan.json, --from-plan)."
_WITHOUT_TRIAL = "Correct the cause, or write the bundle without a trial: --no-trial."


@dataclass(frozen=True)
class Trial:
    """The measurements of a trial.

    Attributes:
        batch_size: that of its iterations.
        memory_gb: peak, in 10^9 bytes.
        seconds: median of the timed iterations.
        validation_seconds: of one validation.
        epoch_length: iterations in an epoch.
        parameters: number of parameters of the network.
        first_stage_seconds: seconds of an epoch of the first stage, such as an autoencoder of counts.
    """

    batch_size: int
    memory_gb: float
    seconds: float
    validation_seconds: float
    epoch_length: int
    parameters: int
    first_stage_seconds: float = 0.0


def run_trial(
    bundle: str | Path,
    overrides: dict[str, Any] | None = None,
    limit_seconds: float = 900.0,
    validate: bool = True,
) -> Trial:
    """Runs a trial of a bundle in a process of its own.

    Args:
        bundle: its folder.
        overrides: ids and values, as on the command line.
        limit_seconds: the trial fails after this time.
        validate: validate once, at the end. Without it ``validation_seconds`` is 0.
    Raises:
        DataError: if the bundle does not train. It has the cause that the process writes, or the last lines of one that
            is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(bundle).absolute())
        order = {
            "bundle": place,
            "overrides": overrides or {},
            "folder": folder,
            "limit_seconds": limit_seconds,
            "validate": validate,
        }
        code, last = _carry_out(order)
        file = Path(folder) / "trial.json"
        result = json.loads(file.read_text()) if file.is_file() else {"error": last, "out_of_memory": False}
    return trial_of(bundle, code, result)


def trial_of(bundle: str | Path, code: int, result: dict[str, Any]) -> Trial:
    """The trial of a process that ended with ``code``.

    Raises:
        DataError: for a result with an error.
    """
    if "error" not in result:
        return Trial(**result)
    killed = code == -signal.SIGKILL
    raise DataError(
        bundle,
        expected="a bundle that trains for a few iterations",
        got=f"exit code {code}{' (the system killed it, most likely for its memory)' * killed}: {result['error']}",
        remedy=_SMALLER if killed or result["out_of_memory"] else _WITHOUT_TRIAL,
    )


def _carry_out(order: dict[str, Any]) -> tuple[int, str]:
    """The exit code and the last lines of the process that carries out an order."""
    server = _server()
    try:
        server.orders.write(f"{json.dumps(order)}\n")
        server.orders.flush()
        answer = server.answers.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        _servers.clear()
        return os.waitstatus_to_exitcode(os.waitpid(server.pid, 0)[1]), "the process that imports the libraries ended"
    if int(answer) == -signal.SIGALRM:
        return int(answer), f"nothing after {order['limit_seconds']:g} seconds"
    log = Path(order["folder"]) / "log.txt"
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return int(answer), " ".join(lines[-4:]).strip()[-600:]


class _Server(NamedTuple):
    """The process that imports the libraries. It ends when this process ends and thereby closes its orders."""

    pid: int
    orders: IO[str]
    answers: IO[str]


_servers: list[_Server] = []  # at most one


def fork_server() -> None:
    """Forks the server from this process, whose libraries it has then.

    Call it before this process computes anything: the threads and the device of a computation do not survive a fork.
    """
    _servers.append(_start(_serve))


def _server() -> _Server:
    """The server; a new process with its own imports if none runs."""
    if not _servers:
        command = [sys.executable, "-m", "monai_diffscore.planning.trial"]
        _servers.append(_start(lambda: os.execv(command[0], command)))
    return _servers[0]


def _start(serve: Callable[[], object]) -> _Server:
    """A process that runs ``serve``, with pipes as its stdin and stdout."""
    (stdin, orders), (answers, stdout) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        silence = os.open(os.devnull, os.O_WRONLY)
        for number, end in enumerate((stdin, stdout, silence)):
            os.dup2(end, number)
        os.closerange(3, max(stdin, orders, answers, stdout, silence) + 1)
        try:
            serve()
        finally:
            os._exit(0)  # and not what the parent does at its end
    os.close(stdin)
    os.close(stdout)
    return _Server(pid, os.fdopen(orders, "w"), os.fdopen(answers))


def _serve() -> None:
    """Forks a process for each order, a line of stdin, and writes its exit code to stdout."""
    orders, answers = os.fdopen(0, closefd=False), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout has the answers alone
    importlib.import_module("torch._dynamo")  # the first optimizer imports it, for two seconds
    ComponentLocator().get_component_module_name("Compose")  # imports what every parser of a bundle imports
    for line in orders:
        child = os.fork()
        if not child:
            _work(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _work(order: dict[str, Any]) -> NoReturn:
    """Carries out an order and ends the process. ``trial.json`` in its folder gets the result, ``log.txt`` the rest."""
    log = os.open(f"{order['folder']}/log.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    signal.alarm(math.ceil(order["limit_seconds"]))
    try:
        result = asdict(_train(order["bundle"], order["overrides"], order["folder"], order["validate"]))
    except Exception as error:
        result = _failure(error)
    (Path(order["folder"]) / "trial.json").write_text(json.dumps(result))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(int("error" in result))


def _failure(error: Exception) -> dict[str, Any]:
    """The cause of the error, and whether memory ran out."""
    memory = any(
        isinstance(layer, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(layer)  # torch on a CPU
        for layer in layers_of(error)
    )
    return {"error": explain(error), "out_of_memory": memory}


def estimate(first: Trial, second: Trial, batch_size: int) -> tuple[float, float]:
    """Memory in GB and seconds of an iteration at another batch size, on the line through two trials."""
    step = second.batch_size - first.batch_size
    share = (batch_size - second.batch_size) / step if step else 0.0
    memory = second.memory_gb + share * max(0.0, second.memory_gb - first.memory_gb)
    seconds = second.seconds + share * max(0.0, second.seconds - first.seconds)
    return memory, seconds


def _train(bundle: str, overrides: dict[str, Any], folder: str, validate: bool) -> Trial:
    """A few iterations of the bundle's training, in this process."""
    places: dict[str, Any] = {
        "output_dir": f"{folder}/output",
        "ckpt_dir": f"{folder}/models",
        "time_limit_seconds": None,
    }
    workflow = ConfigWorkflow(
        f"{bundle}/configs/train.json",
        meta_file=f"{bundle}/configs/metadata.json",
        logging_file=False,
        workflow_type="train",
        bundle_root=bundle,
        **places,
        **overrides,
    )
    _leave_out_observers(workflow.parser, validate)
    workflow.initialize()
    content = workflow.parser.get_parsed_content
    stage = _Stopwatch(content("train#trainer"))
    earlier = _Stopwatch(content("first_stage#trainer")) if "first_stage#trainer" in workflow.parser else None
    validation = _Duration()
    if validate:
        content("validate#evaluator").add_event_handler(Events.STARTED, validation.begin)
        content("validate#evaluator").add_event_handler(Events.COMPLETED, validation.end)
    workflow.run()
    return Trial(
        batch_size=int(content("batch_size")),
        memory_gb=peak_gb(),
        seconds=stage.seconds,
        validation_seconds=validation.seconds,
        epoch_length=stage.epoch_length,
        parameters=sum(parameter.numel() for parameter in content("network").parameters()),
        first_stage_seconds=0.0 if earlier is None else earlier.seconds * earlier.epoch_length,
    )


def _leave_out_observers(parser: ConfigParser, validate: bool) -> None:
    """Leaves out the record in MLflow, whose new database takes longer than the iterations, pictures, validations.

    With ``validate`` one validation stays, at the end.
    """
    parser["train#handlers"] = [
        handler
        for handler in parser.get("train#handlers", [])
        if "@tracking" not in (handler.get("handler"), handler.get("tracking"))
    ]
    observers = parser.get("validation_handlers", []) if validate else []
    # the validation at the end is the one that is timed
    parser["validation_handlers"] = [
        handler | {"exec_at_start": False} if "exec_at_start" in handler else handler for handler in observers
    ]


class _Duration:
    """The seconds between two events; 0 before them."""

    def __init__(self) -> None:
        self.seconds = self._start = 0.0

    def begin(self) -> None:
        self._start = time.perf_counter()

    def end(self) -> None:
        self.seconds = time.perf_counter() - self._start


class _Stopwatch:
    """Times a few iterations of a trainer and ends it, for epochs of any length."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.times: list[float] = []
        self.epoch_length = int(trainer.state.epoch_length)
        trainer.state.max_epochs = math.ceil((TIMED + 1) / max(1, self.epoch_length))
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.stamp)

    def stamp(self) -> None:
        self.times.append(time.perf_counter())
        spent = self.times[-1] - self.times[0]
        if len(self.times) > TIMED or (len(self.times) > 2 and spent > ENOUGH_SECONDS):
            self.trainer.terminate()

    @property
    def seconds(self) -> float:
        """Median seconds of an iteration."""
        return statistics.median(later - sooner for sooner, later in pairwise(self.times))


def peak_gb() -> float:
    """Peak memory of this process in 10^9 bytes: that of the accelerator if it uses one."""
    if torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved() / 1e9
    return peak_memory_bytes() / 1e9


if __name__ == "__main__":
    _serve()
