"""CPU seconds of the anomaly maps of one volume, without the network: the scan over balls, and the maps and files.

    python -m benchmarks.anomaly_cost [--size 256 256 60]

The residuals of two levels are white noise. The foreground is an ellipsoid that touches the sides of the volume. The
time is linear in the voxels, except that of the picture. It runs on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from monai.data import MetaTensor

from monai_diffscore.anomaly import HealthyReference
from monai_diffscore.atomic_files import write_json
from monai_diffscore.tasks.anomaly import SaveAnomaly

RADII = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7)


def residuals_of_noise(size: tuple[int, ...]) -> torch.Tensor:
    """White noise [1, 2, *size]."""
    return torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))


def body(size: tuple[int, ...]) -> MetaTensor:
    """A volume [1, *size], 0 in the ellipsoid and -1 outside."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in size], indexing="ij")
    image = torch.where(sum(axis**2 for axis in axes) < 1, 0.0, -1.0)[None]
    return MetaTensor(image, affine=torch.diag(torch.tensor([0.8, 0.8, 2.5, 1.0])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(256, 256, 60), help="voxels of the volume")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(options.size)
    healthy = residuals_of_noise((32, 32, 32))
    reference = HealthyReference.of(healthy, torch.ones(1, 1, 32, 32, 32, dtype=torch.bool), RADII)
    item = {"image": body(size), "pred": residuals_of_noise(size)[0]}
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder) / "scores.json"
        write_json(calibration, {"settings": {}, **reference.as_dict()})
        save = SaveAnomaly(folder, calibration, {}, alpha=1e-3)
        begin = time.process_time()
        score = save.reference.scan(item["pred"][None])
        scan_seconds = time.process_time() - begin
        begin = time.process_time()
        save(item)
        seconds = time.process_time() - begin
    print(
        f"{size}: whole volume scanned in {scan_seconds:.1f} CPU s (mean square of the score "
        f"{float(score.square().mean()):.6f}); scan, maps and files of the case {seconds:.1f} CPU s"
    )


if __name__ == "__main__":
    main()
