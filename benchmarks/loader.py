"""The time that a trainer waits for its data, measured on a bundle, as one table.

    python -m benchmarks.loader bundles/ct_unet3d [--workers 0 2] [--iterations 30] [--dataset PATH]

A step is everything from the end of one iteration to the end of the next: the wait for a batch (Ignite's
GET_BATCH_STARTED to GET_BATCH_COMPLETED), then forward, backward, optimizer and handlers. It leaves out the first
iterations, which start the workers and warm up. The bundle's handlers (EMA, clipping, records) are off: the step is
shorter, and the share of the wait larger, than in a training.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow


class Stopwatch:
    """Times of the events of each iteration."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        self.waits: list[float] = []
        self.steps: list[float] = []
        self._asked = self._ended = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end)

    def _ask(self, _engine: Engine) -> None:
        self._asked = time.perf_counter()

    def _get(self, _engine: Engine) -> None:
        self.waits.append(time.perf_counter() - self._asked)

    def _end(self, engine: Engine) -> None:
        now = time.perf_counter()
        self.steps.append(now - (self._ended or self._asked))
        self._ended = now
        if engine.state.iteration == self.iterations:
            engine.terminate()


def measure(bundle: Path, workers: int, iterations: int, overrides: dict[str, Any]) -> tuple[float, float]:
    """(median wait, median step) in seconds, of the bundle's own trainer with so many workers."""
    with tempfile.TemporaryDirectory() as folder:
        workflow = ConfigWorkflow(
            str(bundle / "configs/train.json"),
            meta_file=str(bundle / "configs/metadata.json"),
            logging_file=False,
            workflow_type="train",
            bundle_root=str(bundle),
            output_dir=folder,
            ckpt_dir=folder,
            num_workers=workers,
            gallery_every=0,
            **{"train#handlers": [], **overrides},
        )
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train#trainer")
        watch = Stopwatch(iterations)
        watch.attach(trainer)
        trainer.run()
    warm = max(3, iterations // 5)
    return float(np.median(watch.waits[warm:iterations])), float(np.median(watch.steps[warm:iterations]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--dataset", help="instead of the bundle's own sample data")
    parser.add_argument("--overrides", type=json.loads, default={}, help="further ids, as JSON: '{\"batch_size\": 8}'")
    options = parser.parse_args()
    if options.dataset:
        options.overrides["dataset_dir"] = options.dataset
    load = os.getloadavg()[0]
    device = "CUDA" if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"device: {device}; load average before: {load:.1f}; {options.iterations} iterations a row, medians\n")
    print("| bundle | workers | wait for a batch, ms | step, ms | share of the step |\n|---|---|---|---|---|")
    for bundle in options.bundles:
        for workers in options.workers:
            wait, step = measure(bundle.resolve(), workers, options.iterations, options.overrides)
            row = f"{bundle.name} | {workers} | {1000 * wait:.1f} | {1000 * step:.1f} | {100 * wait / step:.1f} %"
            print(f"| {row} |", flush=True)


if __name__ == "__main__":
    main()
