"""Launched processes, and the process group in which they train together.

``torchrun`` and ``srun`` start a process for each rank and set its environment. The ranks train together only if the
configuration initializes a process group. Without one each rank trains everything, all into one folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import DistributedSampler
from torch import distributed

from monai_diffscore.errors import FlagError

#: number of processes in the environment of torchrun, srun and mpirun
_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_processes() -> int:
    """The number of processes that the launcher states, 1 without a launcher."""
    return max([1, *(int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdigit())])


def refuse_lonely_ranks() -> None:
    """Refuses several launched processes without a process group.

    Raises:
        FlagError: names the missing overlay.
    """
    together = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    launched = launched_processes()
    if launched > together:
        raise FlagError(
            f"{launched} processes were launched, and {together} of them works in this process group: each would do "
            "everything, into one folder. A training on several processes needs an overlay, --config_file "
            "\"['configs/train.json','../../configs/multi_gpu.json']\" (or fsdp.json). Start everything else "
            "without torchrun or srun -n."
        )


def initialize(backend: str | None = None) -> bool:
    """Initializes the process group of torchrun, of srun, or of a single process; returns True.

    The shell of ``salloc`` has a job but no task. There torchrun's environment counts, not Slurm's.

    Args:
        backend: of the communication; None takes "nccl" where there is CUDA, else "gloo".
    """
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    with _without_slurm(_is_by_torchrun() or "SLURM_PROCID" not in os.environ):
        idist.initialize(backend)
    return True


def _is_by_torchrun() -> bool:
    return all(name in os.environ for name in _TORCHRUN)


@contextmanager
def _without_slurm(hidden: bool) -> Iterator[None]:
    job = os.environ.pop("SLURM_JOB_ID", None) if hidden else None
    try:
        yield
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job


def validation_sampler(dataset: Any) -> DistributedSampler | None:
    """A sampler with a share of the validation data for each rank; None if there are fewer cases than ranks.

    With None each rank validates all cases.

    Args:
        dataset: the cases.
    """
    if len(dataset) < idist.get_world_size():
        return None
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)
