"""A planned bundle against the hand-written one of the same data, after the same seconds of training.

    python -m benchmarks.plan mri --seconds 300 --seeds 0 1
    python -m benchmarks.plan cells --seeds 0 1 2

``mri``: both train by their own train.json at the same time, one thread each, so that they share the load of the
machine. The validation of the **hand-written** bundle judges both: its held-out patches, spacing and noise levels
(EDM-weighted x0 error; a guess of each element alone has 1).

``cells``: the plan gets the CPU seconds of the hand-written bundle on 420 cells of pbmc68k_reduced. Errors of two
latent spaces do not compare, so both generate as many cells of each type as the 280 held-out ones have, and the metrics
are those of benchmarks/cells.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anndata

from benchmarks import cells as cell_benchmark
from monai_diffscore import samples
from monai_diffscore.data.anndata import stratified_split
from monai_diffscore.metrics import Reference

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(bundle: Path, run_id: str, files: list[Path], **overrides: Any) -> subprocess.Popen[str]:
    """``python -m monai.bundle run`` in a process of its own, on one thread."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str([str(file) for file in files])]
    for key, value in overrides.items():
        command += [f"--{key.replace('__', '#')}", str(value)]
    return subprocess.Popen(
        command, cwd=bundle, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ONE_THREAD
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Waits for a process; ends with its last output if it fails."""
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args}\n{errors[-2000:]}")


def plan(data: str | Path, out: Path, minutes: float, memory_gb: float) -> Path:
    """The folder of a planned bundle."""
    command = [sys.executable, "-m", "monai_diffscore", "plan", str(data), "--out", str(out)]
    options = ["--minutes", str(minutes), "--memory-gb", str(memory_gb)]
    subprocess.run([*command, *options], check=True, capture_output=True, env=ONE_THREAD)
    return out


def train(bundle: Path, where: Path, data: str, seconds: float, seed: int) -> subprocess.Popen[str]:
    """Trains a bundle for so many seconds; validations at the start and the end alone."""
    return start(
        bundle, "training", [bundle / "configs/train.json"], dataset_dir=data, seed=seed, time_limit_seconds=seconds,
        output_dir=where / "output", ckpt_dir=where / "models", val_interval=10**6, gallery_every=0, max_epochs=10**6,
    )  # fmt: skip


def judge(hand_written: Path, trained: Path, where: Path, data: str) -> float:
    """The error of the weights in ``where``, of the network of bundle ``trained``, on the hand-written validation."""
    network = json.loads((trained / "configs/train.json").read_text())["network_def"]
    overlay = where / "network.json"
    overlay.write_text(json.dumps({"network_def": network}))
    configs = hand_written / "configs"
    files = [configs / "train.json", configs / "evaluate.json", overlay]
    finish(
        start(
            hand_written, "evaluating", files, dataset_dir=data, output_dir=where / "judged",
            ckpt_dir=where / "models", likelihood_cases=1, likelihood_sigmas__steps=2,
        )
    )  # fmt: skip
    lines = [json.loads(line) for line in (where / "judged/evaluation.jsonl").read_text().splitlines()]
    return next(line["denoising_error"] for line in lines if "denoising_error" in line)


def iterations(where: Path) -> int:
    """Iterations of a training."""
    lines = [json.loads(line) for line in (where / "output/validation.jsonl").read_text().splitlines()]
    return int(lines[-1]["iteration"])


def compare_mri(folder: Path, seconds: float, memory_gb: float, seeds: list[int]) -> None:
    """Prints the table of MNI152."""
    data, hand_written = samples.mni152(), ROOT / "bundles/mri_unet3d"
    bundles = {"mri_unet3d": hand_written, "planned": plan(data, folder / "planned", seconds / 60, memory_gb)}
    print("| bundle | seed | iterations | held-out error |\n|---|---|---|---|", flush=True)
    for seed in seeds:
        places = {name: folder / f"{name}-{seed}" for name in bundles}
        for place in places.values():
            place.mkdir()
        trainings = [train(bundle, places[name], data, seconds, seed) for name, bundle in bundles.items()]
        for training in trainings:
            finish(training)
        for name, bundle in bundles.items():
            error = judge(hand_written, bundle, places[name], data)
            print(f"| {name} | {seed} | {iterations(places[name])} | {error:.4f} |", flush=True)


def compare_cells(folder: Path, memory_gb: float, seeds: list[int], split: int) -> None:
    """Prints the table of pbmc68k_reduced."""
    cells = anndata.read_h5ad(samples.pbmc68k())
    training, testing = stratified_split(cells.obs[cell_benchmark.LABEL], 0.4, split)
    trained, held_out = cells[training].copy(), cells[testing].copy()
    reference = Reference(cell_benchmark.profiles(held_out), cell_benchmark.profiles(trained))
    trained.write_h5ad(folder / "cells.h5ad")
    bundles, results, spent = {"scrna_attention": cell_benchmark.BUNDLE}, {}, {}
    for name in ("scrna_attention", "planned"):
        if name == "planned":
            minutes = sum(spent["scrna_attention"]) / len(seeds) / 60
            bundles[name] = plan(folder / "cells.h5ad", folder / "planned", minutes, memory_gb)
        places = {seed: folder / f"{name}-{seed}" for seed in seeds}
        spent[name] = [cell_benchmark.train(trained, places[seed], seed, {}, bundles[name]) for seed in seeds]
        drawn = [cell_benchmark.generate(held_out, places[seed], seed, bundles[name]) for seed in seeds]
        results[name] = [cell_benchmark.metrics_of(reference, cell_benchmark.profiles(one)) for one in drawn]
        if name == "scrna_attention":
            names = list(results[name][0])
            print(f"| bundle | {' | '.join(names)} | CPU s of training |\n|---|{'---|' * (len(names) + 1)}")
        print(cell_benchmark.row(name, results[name], spent[name]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["mri", "cells"])
    parser.add_argument("--seconds", type=float, default=300.0, help="of each training of mri (default: 300)")
    parser.add_argument("--memory-gb", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split", type=int, default=0, help="random state of the split of cells (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.data == "mri":
            compare_mri(Path(folder), options.seconds, options.memory_gb, options.seeds)
        else:
            compare_cells(Path(folder), options.memory_gb, options.seeds, options.split)


if __name__ == "__main__":
    main()
