#!/usr/bin/env python3
r"""Trains the small demonstration weights of a bundle, which lie in bundles/BUNDLE/models/demo.

    python scripts/demo_weights.py natural_dit2d [--output_dir DIR] [--device cpu]

The number of iterations and the seed are fixed, so the weights do not depend on the speed of the machine. Another
processor may change the last bits. The network is that of `configs/demo.json`; it is smaller than the default if the
default is too large. The weights are the moving average (EMA) in float16. Its 11 bits are more than the 8 bits of
bfloat16, in which the network computes. After an interruption the same command continues.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monai_diffscore.data.files import file_hash

ROOT = Path(__file__).resolve().parent.parent
MOST_BYTES = 5_000_000


class Demo(NamedTuple):
    """The options and the data of the training of a bundle's weights."""

    options: dict[str, Any]  # where they differ from those of the bundle
    data: str
    licence: str
    before: str = ""  # what the weights are at iteration 0, if a training continues others


MNI152 = (
    "permission to use, copy, modify and distribute for any purpose, with the copyright notice: "
    "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, McGill University"
)
DEMOS = {
    "toy2d_mlp": Demo({"max_epochs": 20}, "points of a spiral, drawn anew from a formula", "none needed"),
    "natural_dit2d": Demo(
        {"max_epochs": 50},
        "scikit-learn's handwritten digits (1,797 images of 8 x 8; UCI Optical Recognition of Handwritten Digits)",
        "CC BY 4.0",
    ),
    "scrna_attention": Demo(
        {},
        "pbmc68k_reduced in the package scanpy: 700 blood cells, 765 genes (Zheng et al. 2017, 10x Genomics)",
        "CC BY 4.0",
    ),
    "mri_unet3d": Demo(
        {"max_epochs": 60},
        "the MNI152 2009a symmetric T1 template in the package nilearn (Fonov et al. 2009, McGill University)",
        MNI152,
    ),
    "mri_whole3d": Demo(
        {
            "dataset_dir": "$samples.heads(1600, 4, ['T1'])",
            "validation_share": 0.2,
            "passes_per_epoch": 1,
            "max_epochs": 100,
            "val_interval": 1,
        },
        "1,280 simulated heads of samples.heads; anatomy of the MNI152 2009a template (Fonov et al. 2009)",
        MNI152,
        "The training continues weights of 160 and 480 heads of other seeds, and 1,486 iterations on these heads "
        "without noise on coarse images: about 13,000 iterations of the coarse image and of the details to 4 mm, and "
        "7,000 of those to 2 mm.",
    ),
}


def configs(bundle: Path, name: str) -> list[str]:
    files = [bundle / f"configs/{name}.json", bundle / "configs/demo.json"]
    return [str(file) for file in files if file.is_file()]


def train(bundle: Path, demo: Demo, output_dir: Path, device: str) -> None:
    command = [sys.executable, "-W", "ignore:parsing config_file", "-m", "monai.bundle", "run", "training"]
    options = {
        "bundle_root": bundle,
        "config_file": configs(bundle, "train"),
        "output_dir": output_dir,
        "ckpt_dir": output_dir / "models",
        "seed": 0,
        "device": f"$torch.device('{device}')",
        **demo.options,
    }
    subprocess.run(
        [*command, *[part for name, value in options.items() for part in (f"--{name}", str(value))]], check=True
    )


def publish(bundle: Path, demo: Demo, output_dir: Path, command: str) -> Path:
    """Writes the moving average in float16, and the other files of the model, to ``models/demo``.

    Raises:
        ValueError: if the weights are larger than a repository should hold.
    """
    folder = bundle / "models/demo"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((output_dir / "models").iterdir()):
        if file.suffix == ".pt":
            weights = torch.load(file, weights_only=True, map_location="cpu")
            halves = {name: value.half() if value.dtype == torch.float32 else value for name, value in weights.items()}
            torch.save(halves, folder / file.name)
        elif file.name != "weights.json":  # tells which run wrote the weights, on whose machine
            shutil.copy(file, folder)
    size = sum(file.stat().st_size for file in folder.glob("*.pt"))
    if size > MOST_BYTES:
        raise ValueError(
            f"The weights in {folder} have {size} bytes, more than {MOST_BYTES}: give a smaller demo.json."
        )
    lines = [json.loads(line) for line in (output_dir / "validation.jsonl").read_text().splitlines()]
    before, after = lines[0]["denoising_error"], lines[-1]["denoising_error"]
    (folder / "README.md").write_text(
        f"""# Demonstration weights of {bundle.name}

Data: {demo.data}.
Licence of the data: {demo.licence}.
Made by: `{command}` (seed 0, {lines[-1]["iteration"]} iterations).{demo.before and f" {demo.before}"}
Held-out denoising error: {before:.3f} before, {after:.3f} after. Weights: EMA, float16, {size / 1e6:.1f} MB,
{file_hash(folder / "model.pt")}.

For a first look, not for use: `python -m monai.bundle run sampling --config_file
"['configs/inference.json','configs/demo.json']"` in the folder of the bundle.
"""
    )
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=sorted(DEMOS))
    parser.add_argument("--output_dir", type=Path, help="of the training (default: output/demo_BUNDLE)")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0")
    parser.add_argument("--publish", action="store_true", help="publish what a training has reached")
    a = parser.parse_args()
    bundle, demo = ROOT / "bundles" / a.bundle, DEMOS[a.bundle]
    output_dir = (a.output_dir or ROOT / f"output/demo_{a.bundle}").resolve()
    if not a.publish:
        train(bundle, demo, output_dir, a.device)
    print(f"weights: {publish(bundle, demo, output_dir, f'python scripts/demo_weights.py {a.bundle}')}")


if __name__ == "__main__":
    main()
