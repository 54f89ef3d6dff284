"""Sharded checkpoints: each rank writes its share, and any number of ranks continues.

A checkpoint is a folder ``iteration_<number>.sharded`` with the files of ``torch.distributed.checkpoint``, one or more
of each rank, and ``training.json``: the place in the training, its configuration and the SHA-256 of every file. A
save writes the folder under another name, flushes it and renames it, so that a crash of any rank leaves the previous
one whole. A load compares the hashes. It reads tensors by name and shards them again, so that the number of ranks may
change. The product of batch_size and ranks must stay, so that the order of the data continues.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
import torch.distributed.checkpoint as dcp
from torch import distributed, nn
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from monai_diffscore.atomic_files import flush_folder, whole_file
from monai_diffscore.data.files import file_hash
from monai_diffscore.engines import ScoreTrainer
from monai_diffscore.handlers.checkpoint import ResumableCheckpoint

logger = logging.getLogger(__name__)
FACTS = "training.json"


class ShardedCheckpoint(ResumableCheckpoint):
    """Saves and continues a training whose network is a :func:`~monai_diffscore.sharding.sharded_copy`.

    It takes the arguments of :class:`~monai_diffscore.handlers.ResumableCheckpoint` and saves at the same events.
    ``batch_size`` in the configuration counts for all ranks together. All ranks see the same folder. Rank 0 gathers the
    weights for inference in its main memory and writes one file. ``torch`` reads the index of such a checkpoint
    (``.metadata``) with pickle: continue only checkpoints that you trust.
    """

    suffix = ".sharded"

    def __init__(self, folder: str | Path, objects: Mapping[str, Any], *arguments: Any, **keywords: Any) -> None:
        super().__init__(folder, objects, *arguments, **keywords)
        if self.choices and "batch_size" in self.choices:
            total = int(self.choices["batch_size"]) * idist.get_world_size()
            self.choices["batch_size"] = f"{total} on all ranks together"
        self._written_at = 0

    def _state(self, engine: ScoreTrainer) -> dict[str, Any]:
        """State of every object under names that are the same for every number of ranks, without copies of tensors."""
        objects = self._objects(engine)
        modules = self._modules(engine)
        return {
            name: get_optimizer_state_dict(modules, value) if isinstance(value, Optimizer) else value.state_dict()
            for name, value in objects.items()
        }

    def _modules(self, engine: ScoreTrainer) -> nn.ModuleDict:
        return nn.ModuleDict({name: o for name, o in self._objects(engine).items() if isinstance(o, nn.Module)})

    def _write(self, engine: ScoreTrainer, path: Path) -> None:
        if self._written_at == engine.state.iteration:
            return  # the end of a training follows its last save
        state = self._state(engine)
        facts = {"engine": self._place(engine), "training": self._training(engine), "objects": sorted(state)}
        problem = self._write_shards(state, facts, path)
        if problem:
            if idist.get_rank() == 0:
                self._make_room(path, problem)
            problem = self._write_shards(state, facts, path)
        if problem:
            raise OSError(problem)
        self._written_at = engine.state.iteration

    def _write_shards(self, state: dict[str, Any], facts: Mapping[str, Any], path: Path) -> str:
        """Writes the folder; returns the problem of any rank, or an empty text."""
        unfinished = path.with_name(f".{path.name}-unfinished")
        first = idist.get_rank() == 0
        problem = ""
        if first:
            shutil.rmtree(unfinished, ignore_errors=True)
        try:
            idist.barrier()
            # creates the folder, flushes each file to the disk, raises the failure of one rank on all ranks
            dcp.save(state, storage_writer=dcp.FileSystemWriter(unfinished, sync_files=True))
            if first:
                _complete(unfinished, facts, path)
        except dcp.CheckpointException as error:
            problem = "; ".join(f"rank {rank}: {_root(failure[0])}" for rank, failure in error.failures.items())
        except OSError as error:
            problem = str(error)
        if first and problem:
            shutil.rmtree(unfinished, ignore_errors=True)
        return _of_first(problem)

    def _whole_weights(self) -> Mapping[str, Any]:
        if self.weights is None:
            return {}
        return get_model_state_dict(self.weights[0], options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def _damage(self, file: Path) -> str | None:
        try:
            hashes = json.loads((file / FACTS).read_text())["files"]
            damaged = [name for name, expected in hashes.items() if file_hash(file / name) != expected]
        except (OSError, ValueError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        return f"SHA-256 of {', '.join(damaged)}" if damaged else None

    def resume(self, engine: ScoreTrainer) -> None:
        """Loads the newest whole checkpoint of any number of ranks, if the folder holds one.

        Raises:
            ValueError: see :meth:`ResumableCheckpoint.resume`.
        """
        newest = self._newest_whole()
        if newest is None:
            return
        facts = json.loads((newest / FACTS).read_text())
        self._refuse_another_training(newest, facts.get("training", {}), set(facts["objects"]), facts["engine"], engine)
        state = self._state(engine)
        try:
            dcp.load(state, storage_reader=dcp.FileSystemReader(newest), planner=_PlainPlanner())
        except dcp.CheckpointException as error:
            failure = next(iter(error.failures.values()))[0]
            raise self._misfit(newest, "the network or optimizer", failure) from error
        for name, value in self._objects(engine).items():
            if isinstance(value, Optimizer):
                set_optimizer_state_dict(self._modules(engine), value, state[name])
            else:
                value.load_state_dict(state[name])
        self._continue_at(newest, facts["engine"], engine)
        self._written_at = facts["engine"]["iteration"]


class _PlainPlanner(dcp.DefaultLoadPlanner):
    """Loads numbers, texts and lists beside the tensors with ``weights_only``; the planner of torch does not."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)  # raises for any other type
        value.seek(0)
        super().load_bytes(read_item, value)


def _complete(unfinished: Path, facts: Mapping[str, Any], path: Path) -> None:
    """Adds the facts and the hashes, and renames the folder."""
    hashes = {file.name: file_hash(file) for file in sorted(unfinished.iterdir())}
    with whole_file(unfinished / FACTS) as file:
        file.write(json.dumps({**facts, "files": hashes}, indent=4).encode())
    os.rename(unfinished, path)
    flush_folder(path.parent)


def _of_first(problem: str) -> str:
    """The text of rank 0, on every rank."""
    if idist.get_world_size() == 1:
        return problem
    texts = [problem]
    distributed.broadcast_object_list(texts, src=0)
    return texts[0]


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None or isinstance(error.__context__, OSError):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error
