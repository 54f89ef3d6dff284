"""The cost of EMA, checkpoints and tracking beside a training step of the bundle mri_unet3d, on its sample volume.

It times the calls in the training thread. The time of a checkpoint is spread over the ``save_every`` iterations from
one to the next. It prints one JSON line.

    python -W ignore -m benchmarks.overhead [--iterations 40] [--bundle mri_unet3d]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--bundle", default="mri_unet3d")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(options.bundle, options.iterations, Path(folder))))


def measure(bundle: str, iterations: int, folder: Path) -> dict[str, Any]:
    """Medians in milliseconds of a step and of each handler, and the share of all handlers in percent of the step."""
    configs = ROOT / "bundles" / bundle / "configs"
    workflow = ConfigWorkflow(
        str(configs / "train.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(configs.parent),
        output_dir=str(folder),
        ckpt_dir=str(folder / "models"),
        gallery_every=0,
        val_interval=10_000,
    )
    times: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, function: Callable) -> Callable:
        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                times[name].append(1000 * (time.perf_counter() - started))

        return run

    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    checkpoint = next(
        handler.__self__
        for handler, *_ in trainer._event_handlers[Events.COMPLETED]
        if type(getattr(handler, "__self__", None)).__name__ == "ResumableCheckpoint"
    )
    save_every = checkpoint.save_every
    handlers = trainer._event_handlers[Events.ITERATION_COMPLETED]
    for place, (handler, *rest) in enumerate(handlers):
        name = {"PowerEMA": "ema", "Tracking": "tracking"}.get(type(getattr(handler, "__self__", None)).__name__)
        if name is not None:
            handlers[place] = (timed(name, handler), *rest)
    trainer._process_function = timed("step", trainer._process_function)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=iterations), lambda engine: engine.terminate())
    for at in (iterations // 3, 2 * iterations // 3):
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=at), timed("checkpoint", checkpoint.save))
    trainer.run()
    step = statistics.median(times["step"][3:])
    each = {
        "ema": statistics.median(times["ema"][3:]),
        "tracking": statistics.fmean(times["tracking"][3:]),  # most calls queue, every 20th writes
        "checkpoint": statistics.median(times["checkpoint"]) / save_every,
    }
    return {
        "bundle": bundle,
        "threads": torch.get_num_threads(),
        "iterations": len(times["step"]),
        "step_ms": round(step, 2),
        **{f"{name}_ms": round(value, 3) for name, value in each.items()},
        "one_checkpoint_ms": round(statistics.median(times["checkpoint"]), 1),
        "save_every": save_every,
        "overhead_percent": round(100 * sum(each.values()) / step, 2),
    }


if __name__ == "__main__":
    main()
