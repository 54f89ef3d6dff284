r"""Memory, time and seams of a volume four times as long in each axis as the training patch, by windows.

    python -m benchmarks.tiling [--checkpoint bundles/mri_unet3d/models/model.pt] [--patch 32]

Memory stands beside that of one batch of windows through the network plus six volumes. It is measured in two ways: all
tensors alive at once, with the volume, as the profiler counts their allocations; and the peak resident size of a
process of its own above its size with the network loaded, which includes the memory that libraries keep. Time: seconds
of one evaluation against the number of windows, after a warm-up of each batch size. Seams: gradient energy at window
borders over that elsewhere, in samples of the trained network of the same size (needs a checkpoint). The range of the
same ratio at places up to half a stride from the borders shows the effect of chance."""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch.profiler import ProfilerActivity, profile

from monai_diffscore import TiledDenoiser, asinh_sigmas, sample_adams
from monai_diffscore.gallery import save_gallery
from monai_diffscore.memory import peak_memory_bytes
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
        before = peak_memory_bytes()
        start = time.perf_counter()
        if job == "window":
            network(torch.zeros(batch_size, 1, patch, patch, patch), 1.0)
        else:
            x = 80 * torch.randn(1, 1, *[4 * patch] * 3)
            tiled = TiledDenoiser(network, [patch] * 3, overlap, batch_size=batch_size)
            if job == "evaluation":
                tiled(x, 1.0)
            else:
                sample_adams(tiled, x, asinh_sigmas(5))
        seconds = time.perf_counter() - start
    pipe.send((peak_memory_bytes() - before, seconds))  # type: ignore[attr-defined]


def peak_of_tensors(job: str, patch: int, batch_size: int, overlap: float) -> int:
    """The most bytes that tensors take at once, from their allocations; the weights are not among them."""
    network = load(None)

    def run() -> None:
        with torch.no_grad():
            if job == "window":
                network(torch.zeros(batch_size, 1, patch, patch, patch), 1.0)
                return
            x = 80 * torch.randn(1, 1, *[4 * patch] * 3)
            tiled = TiledDenoiser(network, [patch] * 3, overlap, batch_size=batch_size)
            tiled(x, 1.0) if job == "evaluation" else sample_adams(tiled, x, asinh_sigmas(5))

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes))


def measured(job: str, patch: int, batch_size: int, overlap: float) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=peak_of, args=(job, patch, batch_size, overlap, send))
    process.start()
    process.join()
    return receive.recv()


def seams_of(network: torch.nn.Module, overlap: float, a: argparse.Namespace) -> dict[str, object]:
    """The seam ratio of samples, and its range where there are no borders."""
    window = [a.patch] * 3
    tiled = TiledDenoiser(network, window, overlap, batch_size=a.batch_size)
    noise = torch.Generator().manual_seed(0)
    x = 80 * torch.randn(a.volumes, 1, *[a.seam_length * a.patch] * 3, generator=noise)
    with torch.no_grad():
        volumes = sample_adams(tiled, x, asinh_sigmas(a.steps))
    half = int(a.patch * (1 - overlap)) // 2
    chance = [seam_ratio(volumes, window, overlap, by * sign) for by in range(2, half) for sign in (1, -1)]
    seams = {"overlap": overlap, "ratio": seam_ratio(volumes, window, overlap), "elsewhere": [min(chance), max(chance)]}
    print(json.dumps(seams), flush=True)
    if a.pictures is not None:
        save_gallery(volumes, a.pictures / f"seams_{overlap:g}.png", f"overlap {overlap:g}, windows of {a.patch}")
    return seams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="weights of mri_unet3d, for the seams")
    parser.add_argument("--patch", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--jobs", nargs="+", default=["evaluation", "sampling"], help="that memory is measured of")
    parser.add_argument("--steps", type=int, default=12, help="of the samples that seams are measured on")
    parser.add_argument(
        "--overlaps", type=float, nargs="*", default=[0.0, 0.25, 0.5], help="that seams are measured at"
    )
    parser.add_argument("--seam-length", type=int, default=4, help="of the volumes of the seams, in windows")
    parser.add_argument("--volumes", type=int, default=1, help="of the seams")
    parser.add_argument("--pictures", type=Path, help="folder for three slices of each of these volumes")
    a = parser.parse_args()
    size = 4 * a.patch
    volume = 4 * size**3
    window, _ = measured("window", a.patch, a.batch_size, a.overlap)
    allowed = window + 6 * volume
    report: dict[str, object] = {"volume": [size] * 3, "window": [a.patch] * 3, "megabytes_allowed": allowed / 1e6}
    for job in a.jobs:
        peak, _ = measured(job, a.patch, a.batch_size, a.overlap)
        report |= {f"megabytes_{job}": peak / 1e6, f"ratio_{job}": peak / allowed}
        print(json.dumps(report), flush=True)
    # afterwards: a new process starts with the largest size of its parent, which the profiler raises
    allowed = peak_of_tensors("window", a.patch, a.batch_size, a.overlap) + 6 * volume
    report["megabytes_of_tensors_allowed"] = allowed / 1e6
    for job in a.jobs:
        tensors = peak_of_tensors(job, a.patch, a.batch_size, a.overlap)
        report |= {f"megabytes_of_tensors_{job}": tensors / 1e6, f"ratio_of_tensors_{job}": tensors / allowed}
        print(json.dumps(report), flush=True)
    network = load(a.checkpoint)
    times = []
    with torch.no_grad():
        network(torch.zeros(a.batch_size, 1, *[a.patch] * 3), 1.0)  # what the libraries prepare for this shape, once
        network(torch.zeros(1, 1, *[a.patch] * 3), 1.0)
        for factor in (1, 2, 3):
            shape = [factor * a.patch] * 3
            count = len(window_starts(shape[0], a.patch, a.overlap)) ** 3
            start = time.perf_counter()
            TiledDenoiser(network, [a.patch] * 3, a.overlap, batch_size=a.batch_size)(torch.randn(1, 1, *shape), 1.0)
            times.append({"windows": count, "seconds_a_window": (time.perf_counter() - start) / count})
    report["time"] = times
    print(json.dumps(report), flush=True)
    if a.checkpoint is not None:
        report["seams"] = [seams_of(network, overlap, a) for overlap in a.overlaps]
    report["threads"] = os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())
    print(json.dumps(report, indent=4))


if __name__ == "__main__":
    main()
