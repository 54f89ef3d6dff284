r"""A trial: measures some real iterations of a bundle's training, in a process of its own.

A server imports the libraries once, and forks this process for each trial. The process runs the training as a user
does, with data, handlers and validation, and ends it after a few iterations. It leaves out the record in MLflow and the
pictures.
The peak is that of the resident set, or of the device's memory on an accelerator. Two trials of smaller batches give
the line

.. math::  \mathrm{memory}(B) = m_0 + m_1 B, \qquad \mathrm{seconds}(B) = s_0 + s_1 B

which estimates the planned batch. A trial of the planned batch then measures it.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow

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


def run_trial(bundle: str | Path, overrides: dict[str, Any] | None = None, limit_seconds: float = 900.0) -> Trial:
    """Runs a trial of a bundle in a process of its own.

    Args:
        bundle: its folder.
        overrides: ids and values, as on the command line.
        limit_seconds: the trial fails after this time.
    Raises:
        DataError: if the bundle does not train. It has the cause that the process writes, or the last lines of one that
            is killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(bundle).absolute())
        order = {"bundle": place, "overrides": overrides or {}, "folder": folder, "limit_seconds": limit_seconds}
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
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(f"{json.dumps(order)}\n")
        server.stdin.flush()
        answer = server.stdout.readline()
    except BrokenPipeError:
        answer = ""
    if not answer:
        _server.cache_clear()
        return server.wait(), "the process that imports the libraries ended"
    if int(answer) == -signal.SIGALRM:
        return int(answer), f"nothing after {order['limit_seconds']:g} seconds"
    log = Path(order["folder"]) / "log.txt"
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return int(answer), " ".join(lines[-4:]).strip()[-600:]


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that imports the libraries. It ends when this process ends and thereby closes its stdin."""
    command = [sys.executable, "-m", "monai_diffscore.planning.trial"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _serve() -> None:
    """Forks a process for each order, a line of stdin, and writes its exit code to stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stdout has the answers alone
    importlib.import_module("torch._dynamo")  # the first optimizer imports it, for two seconds
    for line in sys.stdin:
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
        result = asdict(_train(order["bundle"], order["overrides"], order["folder"]))
    except Exception as error:
        result = _failure(error)
    (Path(order["folder"]) / "trial.json").write_text(json.dumps(result))
    raise SystemExit(int("error" in result))


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


def _train(bundle: str, overrides: dict[str, Any], folder: str) -> Trial:
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
    _leave_out_observers(workflow.parser)
    workflow.initialize()
    content = workflow.parser.get_parsed_content
    stage = _Stopwatch(content("train#trainer"))
    earlier = _Stopwatch(content("first_stage#trainer")) if "first_stage#trainer" in workflow.parser else None
    validator = content("validate#evaluator")
    validation = [0.0, 0.0]

    def begin() -> None:
        validation[0] = time.perf_counter()

    def end() -> None:
        validation[1] = time.perf_counter() - validation[0]

    validator.add_event_handler(Events.STARTED, begin)
    validator.add_event_handler(Events.COMPLETED, end)
    workflow.run()
    return Trial(
        batch_size=int(content("batch_size")),
        memory_gb=peak_gb(),
        seconds=stage.seconds,
        validation_seconds=validation[1],
        epoch_length=stage.epoch_length,
        parameters=sum(parameter.numel() for parameter in content("network").parameters()),
        first_stage_seconds=0.0 if earlier is None else earlier.seconds * earlier.epoch_length,
    )


def _leave_out_observers(parser: ConfigParser) -> None:
    """Leaves out the record in MLflow, whose new database takes longer than the iterations, pictures, a validation."""
    for place, handler in enumerate(parser.get("train#handlers", [])):
        if handler.get("handler") == "@tracking" or handler.get("tracking") == "@tracking":
            parser[f"train#handlers#{place}#_disabled_"] = True
    for place, handler in enumerate(parser.get("validation_handlers", [])):
        if "exec_at_start" in handler:  # the validation at the end is the one that is timed
            parser[f"validation_handlers#{place}#exec_at_start"] = False


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
