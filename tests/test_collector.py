"""Collectors write once, at the end, whatever the end is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine

from monai_diffscore.handlers.collector import Collector, batch_entries, concatenated


class Numbers(Collector):
    """Keeps the output of each batch, and the records that it writes."""

    def __init__(self) -> None:
        self.written: list[list[dict[str, Any]]] = []

    def records(self, engine: Any) -> list[dict[str, Any]]:
        return [{"value": value} for value in engine.state.output]

    def write(self, records: list[dict[str, Any]]) -> None:
        self.written.append(records)


def evaluator(interrupted_at: int | None = None) -> tuple[Engine, Numbers]:
    def step(engine: Engine, batch: list[int]) -> list[int]:
        if engine.state.iteration == interrupted_at:
            raise KeyboardInterrupt
        return [10 * number for number in batch]

    engine, numbers = Engine(step), Numbers()
    numbers.attach(engine)
    return engine, numbers


def test_all_batches_are_written_once_and_in_order():
    engine, numbers = evaluator()
    engine.run([[1, 2], [3]])
    assert numbers.written == [[{"value": 10}, {"value": 20}, {"value": 30}]]


def test_each_evaluation_starts_empty():
    engine, numbers = evaluator()
    engine.run([[1], [2]])
    engine.run([[3]])
    assert numbers.written[1:] == [[{"value": 30}]]


def test_ctrl_c_writes_complete_rows_and_goes_on():
    engine, numbers = evaluator(interrupted_at=3)
    with pytest.raises(KeyboardInterrupt):
        engine.run([[1], [2], [3]])
    assert numbers.written == [[{"value": 10}, {"value": 20}]]


def test_an_interrupt_before_the_first_batch_writes_nothing():
    engine, numbers = evaluator(interrupted_at=1)
    with pytest.raises(KeyboardInterrupt):
        engine.run([[1]])
    assert numbers.written == []


def test_a_batch_comes_apart_and_together_again():
    entries = batch_entries({"x": torch.arange(4).reshape(2, 2), "name": ["a", "b"]}, 2)
    assert [(entry["x"].tolist(), entry["name"]) for entry in entries] == [([0, 1], "a"), ([2, 3], "b")]
    assert batch_entries(entries, 2) is entries
    merged = concatenated([{"x": torch.zeros(2, 1), "name": ["a", "b"]}, {"x": torch.ones(1, 1), "name": ["c"]}])
    assert merged["x"].tolist() == [[0], [0], [1]]
    assert merged["name"] == ["a", "b", "c"]
