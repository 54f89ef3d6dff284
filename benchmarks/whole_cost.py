"""What whole volumes cost: a training step beside U-Nets on the voxels, and seconds and memory of sampling over size.

    python -m benchmarks.whole_cost steps [--bundle BUNDLE] [--repeats 5]
    python -m benchmarks.whole_cost sizes [--bundle BUNDLE] [--shapes 64 96x112x96 128 192 256] [--steps 2]

``steps`` prints the CPU seconds of one step of one volume, forward and backward, of each scale of the bundle's network
and of U-Nets of as many parameters on the voxels. ``sizes`` samples one volume of each size with the bundle's network
and inferer, each in a fresh process: seconds of a voxel and step, and the peak of the memory above the process that has
imported and built everything. The line through the three largest sizes says what 512^3 takes. Weights are untrained,
which changes neither. Seconds are evidence on a quiet machine alone.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from benchmarks.whole import BUNDLE
from monai_diffscore import ConditionEncoder, Denoiser, EDMPreconditioning, ScoreUNet
from monai_diffscore.memory import peak_memory_bytes
from monai_diffscore.multiscale import AtScale

#: channels and residual blocks of U-Nets on the voxels with about as many parameters as the bundle's network
ON_VOXELS = {"channels 32 to 96": ((32, 64, 64, 96), 1), "channels 16 to 64": ((16, 32, 64, 64), 2)}
EXTRAPOLATED = 512


def configuration(bundle: Path, file: str) -> ConfigParser:
    """A bundle's configuration without trained weights, and without a start of the coarse image."""
    parser = ConfigParser(ConfigParser.load_config_file(bundle / f"configs/{file}.json"))
    untrained = ConfigParser.load_config_file(bundle / "configs/inference.json")["untrained"]
    parser["bundle_root"], parser["statistics"], parser["start"] = str(bundle), untrained, None
    return parser


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def cpu_seconds(step: Callable[[], Tensor], repeats: int) -> float:
    """Median CPU time of a step, forward and backward, after one that is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        step().mean().backward()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds[1:]))


def training_steps(bundle: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each scale, for all together, and for each U-Net on the voxels."""
    parser = configuration(bundle, "train")
    model, loss = (parser.get_parsed_content(name) for name in ("network_def", "loss"))
    size = parser.get_parsed_content("sample_size")
    volume, age = torch.randn(1, parser["image_channels"], *size), torch.tensor([50.0])
    whole = as_trained = 0.0
    for number, scale in enumerate(model.scales.split(volume)):
        denoiser = AtScale(model, number, {"age_years": age})
        window = loss.windows[number]
        rows = [("whole", scale)] + ([] if window is None else [(f"a window of {window}", windowed(scale, window))])
        for name, part in rows:
            seconds = cpu_seconds(partial(loss.losses[number], denoiser, part.coefficients, **part.fields), repeats)
            whole += seconds if name == "whole" else 0
            count = parameters(model.denoisers[number])
            yield {"scale": number, "of it": name, "parameters": count, "cpu_seconds": seconds}
        as_trained += seconds * loss.counts[number]
    count = parameters(model)
    yield {"scale": "all", "of it": "whole", "parameters": count, "cpu_seconds": whole}
    yield {"scale": "all", "of it": "as trained", "parameters": count, "cpu_seconds": as_trained}
    for name, (channels, blocks) in ON_VOXELS.items():
        fields = ConditionEncoder({}, {"age_years": (55.0, 20.0)}, dropout=0.1)
        network = ScoreUNet(3, 1, 1, channels, num_res_blocks=blocks, condition=fields)
        denoiser = Denoiser(network, EDMPreconditioning(1.0), torch.bfloat16)
        seconds = cpu_seconds(partial(loss.losses[0], denoiser, volume, age_years=age), repeats)
        yield {
            "scale": "voxels", "of it": name, "parameters": parameters(network), "cpu_seconds": seconds,
            "over all scales": seconds / whole, "over a step as trained": seconds / as_trained,
        }  # fmt: skip


def windowed(scale: Any, window: tuple[int, ...]) -> Any:
    """The first window of a scale and of its fields."""
    cut = (..., *(slice(size) for size in window))
    return scale._replace(
        coefficients=scale.coefficients[cut], fields={name: field[cut] for name, field in scale.fields.items()}
    )


def sample(bundle: Path, shape: list[int], steps: int) -> dict[str, Any]:
    """Seconds and memory of one volume, in this process."""
    parser = configuration(bundle, "inference")
    parser["steps"], parser["inferer#progress"] = steps, False
    network, inferer = parser.get_parsed_content("network").eval(), parser.get_parsed_content("inferer")
    before, wall, cpu = peak_memory_bytes(), time.perf_counter(), time.process_time()
    inferer(torch.zeros(1, parser["image_channels"], *shape), network)
    return {
        "shape": shape,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "memory_bytes": peak_memory_bytes() - before,
    }


def sampling_sizes(bundle: Path, shapes: list[list[int]], steps: int) -> Iterator[dict[str, Any]]:
    """A row for each shape, each from a process of its own, and what the line through the largest three says."""
    rows = []
    for shape in shapes:
        text = "x".join(map(str, shape))
        command = [sys.executable, "-m", "benchmarks.whole_cost", "one", "--bundle", str(bundle)]
        result = subprocess.run(
            [*command, "--shapes", text, "--steps", str(steps)], check=True, stdout=subprocess.PIPE, text=True
        )
        row = json.loads(result.stdout.splitlines()[-1])
        row["cpu_microseconds_a_voxel_and_step"] = 1e6 * row["cpu_seconds"] / math.prod(shape) / steps
        row["volumes_of_memory"] = row["memory_bytes"] / (4 * math.prod(shape))
        rows.append(row)
        yield row
    if len(rows) >= 3:
        voxels = [math.prod(row["shape"]) for row in rows[-3:]]
        line = {
            name: float(np.polyval(np.polyfit(voxels, [row[name] for row in rows[-3:]], 1), EXTRAPOLATED**3))
            for name in ("cpu_seconds", "memory_bytes")
        }
        yield {"extrapolated": [EXTRAPOLATED] * 3, **line}


def shape_of(text: str) -> list[int]:
    sizes = [int(size) for size in text.split("x")]
    return sizes * 3 if len(sizes) == 1 else sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "sizes", "one"], help="'one' is a size in this process")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--repeats", type=int, default=5, help="of a training step")
    parser.add_argument(
        "--shapes", type=shape_of, nargs="+", default=[shape_of(s) for s in ("64", "96x112x96", "128", "192", "256")]
    )
    parser.add_argument("--steps", type=int, default=2, help="of the sampler, in each scale")
    options = parser.parse_args()
    if options.what == "steps":
        rows = training_steps(options.bundle, options.repeats)
    elif options.what == "sizes":
        rows = sampling_sizes(options.bundle, options.shapes, options.steps)
    else:
        rows = iter([sample(options.bundle, options.shapes[0], options.steps)])
    for row in rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
