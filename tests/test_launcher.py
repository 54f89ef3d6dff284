"""Ranks that were launched train together, or not at all."""

from __future__ import annotations

import ignite.distributed as idist
import processes
import pytest

from monai_diffscore import launcher
from monai_diffscore.errors import FlagError

SLURM = {"SLURM_JOB_ID": "42", "SLURM_JOBID": "42", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in (*launcher._SIZES, *launcher._TORCHRUN, *SLURM, "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_ranks_without_a_common_training_are_refused(name, monkeypatch):
    launcher.refuse_lonely_ranks()
    monkeypatch.setenv(name, "1")
    launcher.refuse_lonely_ranks()
    monkeypatch.setenv(name, "2")
    with pytest.raises(FlagError, match=r"2 processes were launched, and 1 .*multi_gpu.json"):
        launcher.refuse_lonely_ranks()


def _rank(environment: dict[str, str], expected: int) -> None:
    import os

    os.environ.update(environment)
    launcher.initialize("gloo")
    launcher.refuse_lonely_ranks()
    assert idist.get_world_size() == expected
    assert os.environ.get("SLURM_JOB_ID") == environment.get("SLURM_JOB_ID")
    idist.finalize()


@pytest.mark.parametrize("shell", [{}, SLURM, SLURM | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}])
@pytest.mark.parametrize("size", [1, 2])
def test_torchrun_initializes_its_ranks_in_any_shell(shell, size):
    """Outside of a job, in the shell of salloc, and in the shell of ``srun --pty``."""
    port = processes.free_port()
    ranks = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        | shell
        for rank in range(size)
    ]
    started = [processes.context.Process(target=_rank, args=(environment, size)) for environment in ranks]
    for process in started:
        process.start()
    assert processes.exit_codes(started) == [0] * size


def test_without_a_launcher_a_job_is_one_rank():
    started = processes.context.Process(target=_rank, args=(SLURM, 1))
    started.start()
    assert processes.exit_codes([started]) == [0]
