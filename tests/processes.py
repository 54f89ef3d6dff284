"""Trainings of bundles in processes of their own, which tests may kill.

The processes are forked from a server that has imported everything once, so that starting one takes a second.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["monai_diffscore.handlers", "monai.bundle", "monai.transforms", "monai.networks"])


def train(
    bundle: str,
    folder: Path,
    overlays: tuple[str, ...] = (),
    ranks: tuple[int, int, int] | None = None,
    stop: tuple[int, int] | None = None,
    stopped_rank: int | None = None,
    grad_scaler: bool = False,
    **overrides: Any,
) -> None:
    """Trains ``bundle`` in ``folder``; the body of a process.

    Writes a line (iteration, loss in hexadecimal) to ``losses_<rank>.jsonl`` after each iteration.

    Args:
        ranks: rank, number of ranks and port, for a training on several.
        stop: iteration and signal: the process sends itself the signal between backward and step.
        stopped_rank: the rank that is sent it; None is all.
        grad_scaler: give the trainer a GradScaler that changes its scale every 4 steps.
    """
    from monai.bundle import ConfigWorkflow
    from monai.engines import IterationEvents

    rank = 0
    if ranks is not None:
        rank, world_size, port = ranks
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    configs = ROOT / "bundles" / bundle / "configs"
    files = [configs / "train.json", *(ROOT / f"configs/{overlay}.json" for overlay in overlays)]
    workflow = ConfigWorkflow(
        [str(file) for file in files],
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type="train",
        bundle_root=str(configs.parent),
        output_dir=str(folder / "out"),
        ckpt_dir=str(folder / "models"),
        gallery_every=0,
        **overrides,
    )
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    if grad_scaler:
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
        trainer.amp = True
    (folder / f"losses_{rank}.jsonl").unlink(missing_ok=True)

    def note(engine: Any) -> None:
        with (folder / f"losses_{rank}.jsonl").open("a") as file:
            file.write(json.dumps([engine.state.iteration, engine.state.output["loss"].item().hex()]) + "\n")

    def fail(engine: Any) -> None:
        if stop is not None and engine.state.iteration == stop[0] and stopped_rank in (None, rank):
            os.kill(os.getpid(), stop[1])

    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, fail)
    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, note)
    workflow.run()
    workflow.finalize()


def start(*arguments: Any, world_size: int = 1, **keywords: Any) -> list[Any]:
    """Starts the process of each rank."""
    port = free_port()
    launched = world_size > 1 or "fsdp" in keywords.get("overlays", ())
    processes = [
        context.Process(
            target=train,
            args=arguments,
            kwargs=keywords | ({"ranks": (rank, world_size, port)} if launched else {}),
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    return processes


def exit_codes(processes: list[Any], timeout: float = 600.0) -> list[int]:
    """Waits for the processes; a negative code is the signal that ended one."""
    for process in processes:
        process.join(timeout)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    assert not late, f"{len(late)} processes did not end within {timeout:g} s"
    return [process.exitcode for process in processes]


def run(*arguments: Any, **keywords: Any) -> list[int]:
    """Exit codes of all ranks of a training."""
    return exit_codes(start(*arguments, **keywords))


def losses(folder: Path, rank: int = 0) -> dict[int, str]:
    """Iteration to loss, of the last program that trained in the folder."""
    return dict(json.loads(line) for line in (folder / f"losses_{rank}.jsonl").read_text().splitlines())


def checkpoints(folder: Path) -> list[Path]:
    files = (folder / "out/checkpoints").glob("iteration_*")
    return sorted(path for path in files if path.suffix in (".pt", ".sharded"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_equal_states(first: Any, second: Any, where: str = "") -> None:
    """Every tensor and number of two checkpoints is the same, bit for bit."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_equal_states(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_equal_states(a, b, f"{where}/{index}")
    else:
        assert first == second, where


def random_step(name: str, first: int, last: int) -> int:
    """A step drawn by the name: the same in each run of the suite, another for another name."""
    return random.Random(name).randint(first, last)


KILL, TERM, USR1, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT
