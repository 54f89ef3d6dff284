"""How many processes were launched, and how many of them train together.

``torchrun`` and ``srun`` start a process for each rank and tell it so in its environment. Only a configuration that
initializes a process group lets them train together: without it, each trains everything, into one folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ignite.distributed as idist
from monai.data import DistributedSampler
from torch import distributed

from monai_diffscore.flags import FlagError

#: of torchrun, srun and mpirun
_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched_processes() -> int:
    """The number of processes that a launcher says it started, 1 without one."""
    return max([1, *(int(os.environ[name]) for name in _SIZES if os.environ.get(name, "").isdigit())])


def refuse_lonely_ranks() -> None:
    """Refuses to go on where several processes were launched and know nothing of each other.

    Raises:
        FlagError: names the overlay that is missing.
    """
    together = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
    launched = launched_processes()
    if launched > together:
        raise FlagError(
            f"{launched} processes were launched, and {together} of them works on this: each would do all of it, into "
            "one folder. A training on several takes an overlay, --config_file "
            "\"['configs/train.json','../../configs/multi_gpu.json']\" (or fsdp.json); anything else is started "
            "without torchrun or srun -n."
        )


def initialize(backend: str) -> bool:
    """Initializes the process group of what was launched, by torchrun, srun, or nothing; returns True.

    In the shell of ``salloc`` a job is there but no task: then torchrun's word counts, not Slurm's.
    """
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
    """A sampler that gives each rank its own share of the validation data; None, all for each, for fewer than ranks.

    Args:
        dataset: the cases.
    """
    if len(dataset) < idist.get_world_size():
        return None
    return DistributedSampler(dataset, even_divisible=False, shuffle=False)
