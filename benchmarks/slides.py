"""Tiles a second and peak memory of ``SlideTiles`` on a synthetic pyramid of 20,000 x 20,000 pixels, on one core.

It writes the pyramid tile by tile (never whole in memory), uncompressed and as JPEG. A process of its own, pinned to
one core, then reads its tiles. Memory is the peak resident size above that of the process with all its modules loaded.
It prints one JSON object a case.

    python -m benchmarks.slides [--size 20000] [--folder FOLDER] [--tiles 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CASES = {
    "256 px": {},
    "256 px, overlap 0.5": {"stride": 128},
    "256 px, unaligned": {"stride": 200},
    "256 px, half the magnification": {"mpp_um": 1.0},
    "256 px, resampled to 0.7 um": {"mpp_um": 0.7},
    "64 px with context x 4": {"tile_size": 64, "context_factor": 4},
}


def tiles(size: int, tile: int, level: int) -> Iterator[np.ndarray]:
    """Tissue-like tiles of a level: smooth stains and texture, the same at every call."""
    rng = np.random.default_rng(level)
    y, x = np.mgrid[:tile, :tile] / tile
    textures = [
        np.stack([np.sin(7 * x + k), np.cos(9 * y + k), np.sin(5 * (x + y))], -1) * 40
        + rng.normal(150, 12, (tile, tile, 3))
        for k in range(8)
    ]
    textures = [texture.clip(0, 255).astype(np.uint8) for texture in textures]
    count = -(-size // tile)
    for row in range(count):
        for column in range(count):
            yield textures[(3 * row + 5 * column) % 8]


def write(path: Path, size: int, compression: str | None, tile: int = 256, mpp_um: float = 0.5) -> None:
    """A pyramid of 4 levels, each a quarter of the side of the one before."""
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(4):
            side = size // 4**level
            tiff.write(
                tiles(side, tile, level), shape=(side, side, 3), dtype=np.uint8, tile=(tile, tile), photometric="rgb",
                compression=compression, compressionargs={"level": 85} if compression else None,
                subfiletype=int(level > 0), resolution=(1e4 / (mpp_um * 4**level),) * 2, resolutionunit="CENTIMETER",
                metadata=None,
            )  # fmt: skip


def resident(field: str) -> float:
    """Megabytes, from /proc: VmRSS now, VmHWM at the peak."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def measure(path: Path, case: str, most: int) -> dict:
    """Reads the tiles of one case in this process."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torch

    from monai_diffscore.data.slides import Slide
    from monai_diffscore.data.tiles import SlideTiles

    torch.set_num_threads(1)
    import openslide  # noqa: F401
    from skimage.filters import threshold_otsu

    threshold_otsu(np.arange(10))
    torch.log(torch.ones(3, 256))
    baseline = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    Slide(path)
    begin = time.perf_counter()
    tiles = SlideTiles([{"image": str(path)}], **{"tile_size": 256, "mpp_um": 0.5, **CASES[case]})
    indexed = time.perf_counter()
    count = min(most, len(tiles))
    cpu = time.process_time()
    for index in range(count):
        tiles[index]
    wall = time.perf_counter() - indexed
    return {
        "file": path.name,
        "case": case,
        "tiles": len(tiles),
        "read": count,
        "index_seconds": round(indexed - begin, 2),
        "tiles_per_second": round(count / wall),
        "tiles_per_cpu_second": round(count / (time.process_time() - cpu)),
        "peak_mb_above_baseline": round(resident("VmHWM") - baseline, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000, help="side of level 0 in pixels")
    parser.add_argument("--folder", type=Path, help="keep the pyramids here (default: a temporary folder)")
    parser.add_argument("--tiles", type=int, default=6084, help="at most this many tiles a case")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "CASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1], options.tiles)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, compression in (("jpeg", "jpeg"), ("uncompressed", None)):
            path = folder / f"{name}_{options.size}.tif"
            if not path.is_file():
                write(path, options.size, compression)
            for case in CASES:
                command = [
                    sys.executable,
                    "-m",
                    __spec__.name,
                    "--measure",
                    str(path),
                    case,
                    "--tiles",
                    str(options.tiles),
                ]
                subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"seconds_of_cpu": round(children.ru_utime + children.ru_stime)}))


if __name__ == "__main__":
    main()
