"""Collectors: handlers that keep the output of each batch and write all of it at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, EventEnum, Events

from monai_diffscore.handlers.attach import attach_at_end


class Collector(ABC):
    """Keeps the :meth:`records` of each batch and passes all of them to :meth:`write` once.

    It writes at the end of the evaluation, also after Ctrl-C. Only process 0 writes, and it writes no empty file. Each
    evaluation starts empty.
    """

    #: at ITERATION_COMPLETED the output has the units of the data; at FORWARD_COMPLETED it is not postprocessed
    event: EventEnum | Events = Events.ITERATION_COMPLETED

    def attach(self, engine: Engine) -> None:
        self.collected: list[dict[str, Any]] = []
        engine.add_event_handler(Events.STARTED, self.clear)
        engine.add_event_handler(self.event, self.collect)
        attach_at_end(engine, self.finish)

    def clear(self, _engine: Engine) -> None:
        self.collected = []

    def collect(self, engine: Engine) -> None:
        self.collected += self.records(engine)

    def finish(self, _engine: Engine) -> None:
        if idist.get_rank() == 0 and self.collected:
            self.write(self.collected)

    @abstractmethod
    def records(self, engine: Any) -> Iterable[dict[str, Any]]:
        """The records of the engine's batch and output: one dictionary for each sample, or one for the batch."""

    @abstractmethod
    def write(self, records: list[dict[str, Any]]) -> None:
        """Writes all records."""


def batch_entries(batch: Any, count: int) -> list[dict[str, Any]]:
    """One dictionary for each of ``count`` samples, from a batch that is a list of them or a dictionary of stacks."""
    if isinstance(batch, list):
        return batch
    return [{name: value[place] for name, value in batch.items()} for place in range(count)]


def concatenated(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Batches as one: tensors [B, ...] one after the other, and likewise lists."""
    merged: dict[str, Any] = {}
    for name in records[0]:
        parts = [record[name] for record in records]
        merged[name] = torch.cat(parts) if isinstance(parts[0], torch.Tensor) else [x for part in parts for x in part]
    return merged
