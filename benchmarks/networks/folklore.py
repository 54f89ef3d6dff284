"""U-Net against DiT, by the number of images and by size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.networks.contestants import millions
from benchmarks.networks.patches import patches, volume
from benchmarks.networks.training import OUR_BATCH, error_curve, our_training
from monai_diffscore import ScoreDiT, ScoreUNet

#: name -> (U-Net channels, DiT hidden size, DiT depth)
SIZES = {
    "0.3 M": ((12, 24, 32, 40), 80, 3),
    "1 M": ((20, 40, 60, 76), 128, 4),
    "3 M": ((32, 64, 96, 128), 192, 5),
}


def sized(kind: str, size: str) -> nn.Module:
    """A U-Net or DiT of about equal parameters."""
    channels, hidden, depth = SIZES[size]
    if kind == "U-Net":
        return ScoreUNet(2, 1, 1, channels, num_res_blocks=(1, 2, 2, 2), num_head_channels=channels[-1])
    return ScoreDiT(2, 1, 64, 4, hidden, depth, hidden // 16)


def measure_folklore(seconds: float, seeds: int, folder: Path) -> None:
    """Trains both for equal seconds over the number of images and over the size; prints and draws the held-out
    error."""
    source, held_out = volume("train", 2), patches(volume("validation", 2), 2, 32, 1)
    results: dict[str, dict[str, dict[str, list[float]]]] = {"images": {}, "size": {}}
    runs = [("images", str(count), count, "1 M") for count in (8, 32, 128, 2048)]
    runs += [("size", size, 2048, size) for size in SIZES if size != "1 M"]
    for variable, label, count, size in runs:
        pool = patches(source, 2, count, 0)
        for kind in ("U-Net", "DiT"):
            for seed in range(seeds):
                torch.manual_seed(seed)
                training = our_training(sized(kind, size), pool, OUR_BATCH[2], seed)
                error = error_curve(training, held_out, float(pool.std()), seconds, seconds)[-1][2]
                results[variable].setdefault(kind, {}).setdefault(label, []).append(error)
                parameters = f"{millions(sized(kind, size)):.2f} M"
                print(f"{variable} {label}: {kind} {parameters}, seed {seed}: {error:.3f}", flush=True)
    for kind in ("U-Net", "DiT"):
        results["size"][kind] = {
            size: results["images"][kind]["2048"] if size == "1 M" else results["size"][kind][size] for size in SIZES
        }
    draw(results, seconds, folder)


def draw(results: dict[str, dict[str, dict[str, list[float]]]], seconds: float, folder: Path) -> None:
    """Two plots, a point for each seed and a line through their means."""
    from matplotlib.figure import Figure

    titles = {"images": "number of training images (1 M parameters)", "size": "parameters (2048 training images)"}
    for variable, curves in results.items():
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axis = figure.subplots()
        for kind, marker in (("U-Net", "o"), ("DiT", "s")):
            labels = list(curves[kind])
            means = [sum(values) / len(values) for values in curves[kind].values()]
            (line,) = axis.plot(range(len(labels)), means, label=kind)
            for place, values in enumerate(curves[kind].values()):
                axis.scatter([place] * len(values), values, marker=marker, s=18, color=line.get_color())
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlabel(titles[variable])
        axis.set_ylabel("held-out denoising error")
        axis.set_yscale("log")
        axis.set_title(f"64 x 64 MNI152, {seconds:.0f} s of training on {torch.get_num_threads()} threads", fontsize=9)
        axis.legend()
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"unet_dit_{variable}.png", dpi=120)
