"""Cost of a training step: seconds, share of the machine's GEMM rate, and peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks.contestants import Contestant, contestants, millions, monai_unet, score_unet
from benchmarks.networks.patches import EDGE
from benchmarks.networks.training import BATCH, clock
from monai_diffscore.memory import peak_memory_bytes

MEMORY_CASES = ("monai", "ours", "ours checkpointed")


def gemm_rate() -> float:
    """GFLOP/s of a bfloat16 matrix product of 2048^3 on this machine, the best of several."""
    a = torch.randn(2048, 2048).bfloat16()
    return max(2 * 2048**3 / seconds / 1e9 for seconds in timed(lambda: a @ a, 20))


def timed(run: Callable[[], object], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        start = clock()
        run()
        seconds.append(clock() - start)
    return seconds


def one_step(contestant: Contestant, x: Tensor) -> Callable[[], None]:
    """Forward, backward and AdamW of a plain squared error, the same for all."""
    network = contestant.build().train()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    level = torch.linspace(-1.0, 1.0, len(x))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(x, level) if contestant.ours else network(x, timesteps=level)
        F.mse_loss(output.float(), x).backward()
        optimizer.step()

    return step


def count_flops(contestant: Contestant, x: Tensor) -> float:
    """Floating-point operations of convolutions, products and attention in one forward and backward pass."""
    network, level = contestant.build(), torch.zeros(len(x))
    with FlopCounterMode(display=False) as counter:
        output = network(x, level) if contestant.ours else network(x, timesteps=level)
        output.sum().backward()
    return float(counter.get_total_flops())


def measure_steps(count: int) -> None:
    """Prints seconds a step and the share of the GEMM rate."""
    rate = gemm_rate()
    print(f"bfloat16 GEMM: {rate:.0f} GFLOP/s on {torch.get_num_threads()} threads")
    for dims in (2, 3):
        x = torch.randn(BATCH[dims], 1, *[EDGE[dims]] * dims)
        print(f"\n{dims}-D, batch {tuple(x.shape)}")
        print("network | parameters | GFLOP | ms a step | share of GEMM | steps/s to MONAI's")
        steps = [(contestant, one_step(contestant, x)) for contestant in contestants(dims)]
        for _, step in steps:
            step()
        rounds = [[timed(step, 1)[0] for _, step in steps] for _ in range(count)]  # in turn: equal conditions
        medians = torch.tensor(rounds).median(0).values.tolist()
        for (contestant, _), seconds in zip(steps, medians, strict=True):
            flops = count_flops(contestant, x) / 1e9
            print(
                f"{contestant.name} | {millions(contestant.build()):.2f} M | {flops:.0f} | {1e3 * seconds:.0f} | "
                f"{flops / seconds / rate:.2f} | {medians[0] / seconds:.2f}"
            )


def measure_memory(edge: int) -> None:
    """Prints peak memory of a 3-D training step above the import baseline, each in a process of its own."""
    print(f"3-D training step at {edge}^3, batch 1, bfloat16")
    print("network | MB above the baseline | to MONAI's | s a step | to MONAI's")
    first = None
    for case in MEMORY_CASES:
        flags = {"edge": edge, "case": case, "threads": torch.get_num_threads()}
        words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
        command = [sys.executable, "-m", "benchmarks.networks", "memory", *words]
        answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        first = first or answer
        print(
            f"{case} ({answer['millions']:.2f} M) | {answer['mb']:.0f} | {answer['mb'] / first['mb']:.2f} | "
            f"{answer['seconds']:.2f} | {answer['seconds'] / first['seconds']:.2f}"
        )


def memory_case(case: str, edge: int) -> None:
    """One case, in this process; prints JSON."""
    x = torch.randn(1, 1, edge, edge, edge)

    def build() -> nn.Module:
        if case == "monai":
            return monai_unet(3)
        network = score_unet(3)
        network.hourglass.checkpointing = case.endswith("checkpointed")
        return network

    contestant = Contestant(case, build, case != "monai")
    baseline = peak_memory_bytes()
    step = one_step(contestant, x)
    step()
    seconds = min(timed(step, 3))
    peak = peak_memory_bytes()
    print(json.dumps({"mb": (peak - baseline) / 2**20, "seconds": seconds, "millions": millions(build())}))
