#!/usr/bin/env python3
r"""Memory, time and seams of a volume four times as long in each axis as the training patch, by windows.

    python scripts/benchmark_tiling.py [--checkpoint bundles/mri_unet3d/models/model.pt] [--patch 32]

Memory: the largest resident size of a process of its own, beyond what it had with the network loaded; compared with one
batch of windows through the network plus six volumes. Time: seconds of one evaluation against the number of windows.
Seams: gradient energy at window borders over elsewhere in samples of the trained network (needs a checkpoint).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import resource
import time
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from monai_diffscore import TiledDenoiser, asinh_sigmas, sample_adams
from monai_diffscore.metrics import seam_ratio
from monai_diffscore.tiling import window_starts

BUNDLE = Path(__file__).resolve().parent.parent / "bundles/mri_unet3d"


def load(checkpoint: Path | None) -> torch.nn.Module:
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs/inference.json"))
    parser["sigma_data"] = 0.5
    parser["autocast_dtype"] = None
    network = parser.get_parsed_content("network_def").eval()
    if checkpoint is not None:
        network.load_state_dict(torch.load(checkpoint, weights_only=True))
    return network


def peak_of(job: str, patch: int, batch_size: int, overlap: float, pipe: object) -> None:
    """In a process of its own: peak memory in bytes beyond the loaded network, and seconds."""
    ctypes.CDLL("libc.so.6").mallopt(-3, 65536)  # M_MMAP_THRESHOLD: freed tensors go back to the system at once
    torch.manual_seed(0)
    network = load(None)
    with torch.no_grad():
        network(torch.zeros(1, 1, 8, 8, 8), 1.0)  # what the libraries allocate once
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        start = time.perf_counter()
        if job == "window":
            network(torch.zeros(batch_size, 1, patch, patch, patch), 1.0)
        else:
            x = 80 * torch.randn(1, 1, *[4 * patch] * 3)
            tiled = TiledDenoiser(network, [patch] * 3, overlap, batch_size=batch_size)
            if job == "evaluation":
                tiled(x, 1.0)
            else:
                sample_adams(tiled, x, asinh_sigmas(4))
        seconds = time.perf_counter() - start
    pipe.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before, seconds))  # type: ignore[attr-defined]


def measured(job: str, patch: int, batch_size: int, overlap: float) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=peak_of, args=(job, patch, batch_size, overlap, send))
    process.start()
    process.join()
    return receive.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="weights of mri_unet3d, for the seams")
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=12, help="of the samples that seams are measured on")
    a = parser.parse_args()
    size = 4 * a.patch
    volume = 4 * size**3
    window, _ = measured("window", a.patch, a.batch_size, a.overlap)
    allowed = window + 6 * volume
    report: dict[str, object] = {"volume": [size] * 3, "window": [a.patch] * 3, "megabytes_allowed": allowed / 1e6}
    for job in ("evaluation", "sampling"):
        peak, _ = measured(job, a.patch, a.batch_size, a.overlap)
        report[f"megabytes_{job}"], report[f"ratio_{job}"] = peak / 1e6, peak / allowed
        print(json.dumps(report), flush=True)
    network = load(a.checkpoint)
    times = []
    with torch.no_grad():
        for factor in (1, 2, 3):
            shape = [factor * a.patch] * 3
            count = len(window_starts(shape[0], a.patch, a.overlap)) ** 3
            start = time.perf_counter()
            TiledDenoiser(network, [a.patch] * 3, a.overlap, batch_size=a.batch_size)(torch.randn(1, 1, *shape), 1.0)
            times.append({"windows": count, "seconds_a_window": (time.perf_counter() - start) / count})
    report["time"] = times
    print(json.dumps(report), flush=True)
    if a.checkpoint is not None:
        seams = {}
        for overlap in (0.0, 0.25, 0.5):
            tiled = TiledDenoiser(network, [a.patch] * 3, overlap, batch_size=a.batch_size)
            x = 80 * torch.randn(2, 1, *[2 * a.patch] * 3, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                seams[overlap] = seam_ratio(sample_adams(tiled, x, asinh_sigmas(a.steps)), [a.patch] * 3, overlap)
            print(overlap, seams[overlap], flush=True)
        report["seam_ratio_by_overlap"] = seams
    report["threads"] = os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())
    print(json.dumps(report, indent=4))


if __name__ == "__main__":
    main()
