"""Our networks against MONAI's and diffusers': speed, memory, and held-out denoising error for seconds of training.

    python -m benchmarks.networks steps      seconds a step, share of this machine's GEMM rate, parameters
    python -m benchmarks.networks memory     peak memory of a 3-D step at 64^3, with and without checkpointing
    python -m benchmarks.networks error      held-out error against seconds of training, to MONAI's error
    python -m benchmarks.networks folklore   U-Net against DiT over the number of images and the size, as plots
    python -m benchmarks.networks positions  rotary positions against a table, at sizes not trained on

Same data (MNI152 T1; its front is held out), same number of parameters (as near as their structure allows; printed),
bfloat16 autocast, one run. The error is in x0 units on a fixed grid of noise levels, EDM-weighted: 1 is the error of a
guess of each voxel alone. ``pip install 'monai_diffscore[benchmark]'`` installs diffusers; without it, its networks are
left out. With --threads 1 times are of the CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.networks.cost import MEMORY_CASES, measure_memory, measure_steps, memory_case
from benchmarks.networks.error import measure_error
from benchmarks.networks.folklore import measure_folklore
from benchmarks.networks.positions import measure_positions


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=["steps", "memory", "error", "folklore", "positions"])
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 3], help="of error")
    parser.add_argument("--monai-seconds", type=float, default=240, help="of training of MONAI's network")
    parser.add_argument("--diffusers-seconds", type=float, default=240, help="of training of diffusers' networks")
    parser.add_argument("--seconds", type=float, default=60, help="of training of ours")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--count", type=int, default=9, help="rounds of steps")
    parser.add_argument("--edge", type=int, default=64, help="of memory")
    parser.add_argument("--case", choices=MEMORY_CASES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the plots")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measurement == "steps":
        measure_steps(options.count)
    elif options.measurement == "memory":
        memory_case(options.case, options.edge) if options.case else measure_memory(options.edge)
    elif options.measurement == "error":
        for dims in options.dims:
            limits = {"MONAI": options.monai_seconds, "diffusers": options.diffusers_seconds, "ours": options.seconds}
            measure_error(dims, limits, options.seeds)
    elif options.measurement == "folklore":
        measure_folklore(options.seconds, options.seeds, options.out)
    else:
        measure_positions(options.seconds, options.seeds)


if __name__ == "__main__":
    main()
