"""A planned bundle against the hand-written one of the same data: held-out error after the same seconds of training.

    python scripts/benchmark_plan.py mri --seconds 300 --seeds 2

Both are trained by their own train.json, each in a process of its own, one after the other. Both are then judged by the
**hand-written** bundle's validation: its held-out patches, spacing and noise levels (EDM-weighted x0 error, 1 is every
element guessed alone). The planned network is rebuilt from its bundle. ``--minutes`` is what the planner is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run(bundle: Path, run_id: str, files: list[Path], **overrides: Any) -> None:
    """``python -m monai.bundle run`` in a process of its own; its last words if it fails."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str([str(file) for file in files])]
    for key, value in overrides.items():
        command += [f"--{key.replace('__', '#')}", str(value)]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


def train(bundle: Path, where: Path, data: str, seconds: float, seed: int) -> None:
    """Trains a bundle for so many seconds; validations at the start and the end alone."""
    run(
        bundle, "training", [bundle / "configs/train.json"], dataset_dir=data, seed=seed, time_limit_seconds=seconds,
        output_dir=where / "output", ckpt_dir=where / "models", val_interval=10**6, gallery_every=0, max_epochs=10**6,
    )  # fmt: skip


def judge(hand_written: Path, trained: Path, where: Path, data: str) -> float:
    """The error of the weights in ``where``, of the network of bundle ``trained``, on the hand-written validation."""
    network = json.loads((trained / "configs/train.json").read_text())["network_def"]
    overlay = where / "network.json"
    overlay.write_text(json.dumps({"network_def": network}))
    configs = hand_written / "configs"
    run(
        hand_written, "evaluating", [configs / "train.json", configs / "evaluate.json", overlay], dataset_dir=data,
        output_dir=where / "judged", ckpt_dir=where / "models", likelihood_cases=1, likelihood_sigmas__steps=2,
    )  # fmt: skip
    lines = [json.loads(line) for line in (where / "judged/evaluation.jsonl").read_text().splitlines()]
    return next(line["denoising_error"] for line in lines if "denoising_error" in line)


def iterations(where: Path) -> int:
    """Iterations of a training."""
    lines = [json.loads(line) for line in (where / "output/validation.jsonl").read_text().splitlines()]
    return int(lines[-1]["iteration"])


def mri() -> tuple[str, str]:
    """The hand-written bundle, and its data."""
    from monai_diffscore.data import samples

    return "mri_unet3d", samples.mni152()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["mri"])
    parser.add_argument("--seconds", type=float, default=300.0, help="of each training (default: 300)")
    parser.add_argument("--minutes", type=float, help="what the planner is told (default: the seconds)")
    parser.add_argument("--memory-gb", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args()
    name, data = {"mri": mri}[chosen.data]()
    hand_written = ROOT / "bundles" / name
    print("| bundle | seed | iterations | held-out error |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        planned = Path(folder) / "planned"
        minutes = chosen.minutes or chosen.seconds / 60
        command = [sys.executable, "-m", "monai_diffscore", "plan", data, "--out", str(planned)]
        subprocess.run(
            [*command, "--minutes", str(minutes), "--memory-gb", str(chosen.memory_gb)], check=True, capture_output=True
        )
        for seed in range(chosen.seeds):
            for title, bundle in ((name, hand_written), ("planned", planned)):
                where = Path(folder) / f"{title}-{seed}"
                where.mkdir()
                train(bundle, where, data, chosen.seconds, seed)
                error = judge(hand_written, bundle, where, data)
                print(f"| {title} | {seed} | {iterations(where)} | {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
