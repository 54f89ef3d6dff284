"""Our networks against MONAI's and diffusers': speed, memory, and held-out denoising error for seconds of training.

    python -m benchmarks.networks steps      seconds a step, share of this machine's GEMM rate, parameters
    python -m benchmarks.networks memory     peak memory of a 3-D step at 64^3, with and without checkpointing
    python -m benchmarks.networks error      held-out error against seconds of training, to MONAI's error
    python -m benchmarks.networks folklore   U-Net against DiT over the number of images and the size, as plots
    python -m benchmarks.networks positions  rotary positions against a table, at sizes not trained on

Same data (MNI152 T1; its front is held out), same number of parameters (as near as their structure allows; printed),
bfloat16 autocast, one run. The error is in x0 units on a fixed grid of noise levels, EDM-weighted: 1 is every voxel
guessed alone. diffusers comes with ``pip install 'monai_diffscore[benchmark]'`` and is left out where it is missing.
With --threads 1 times are of the CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from monai.transforms import Compose, CropForegroundd, Orientationd, Spacingd
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from monai_diffscore import (
    Denoiser,
    DenoisingLoss,
    EDMPreconditioning,
    LogNormalNoise,
    ScoreDiT,
    ScoreUNet,
    edm_weight,
    samples,
)
from monai_diffscore.data import HeldOutSlabd, LoadVolumed
from monai_diffscore.discrete import DiscretePreconditioning, TimestepNetwork
from monai_diffscore.handlers import PowerEMA
from monai_diffscore.memory import peak_memory_bytes
from monai_diffscore.optimizers import MuonAdamW
from monai_diffscore.transforms import PercentileScaled

SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
EDGE = {2: 64, 3: 32}
BATCH = {2: 16, 3: 4}  # of the steps that are timed, and of MONAI's training
OUR_BATCH = {2: 8, 3: 2}

# ---- data ----


def volume(part: str, dims: int) -> Tensor:
    """The training or the held-out part of MNI152 in [-1, 1], at 1 mm in 2-D and 2 mm in 3-D."""
    steps = [
        LoadVolumed("image"),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=[1.0 if dims == 2 else 2.0] * 3),
        CropForegroundd("image", "image", allow_smaller=True),
        PercentileScaled("image", lower=0.5, upper=99.5),
        HeldOutSlabd("image", axis=1, share=0.3),
    ]
    return Compose(steps)({"image": samples.mni152(), "slab": part})["image"].as_tensor()[0]


def patches(source: Tensor, dims: int, count: int, seed: int, edge: int | None = None) -> Tensor:
    """Random patches [count, 1, *S]; axial ones in 2-D; mirrored at random, padded with air where the volume ends."""
    generator = torch.Generator().manual_seed(seed)
    edge = edge or EDGE[dims]
    drawn = []
    for _ in range(count):
        starts = [int(torch.randint(max(1, size - edge + 1), (1,), generator=generator)) for size in source.shape]
        cut = [slice(start, start + edge) for start in starts]
        if dims == 2:
            cut[2] = int(torch.randint(source.shape[2], (1,), generator=generator))
        patch = source[tuple(cut)]
        patch = patch.flip(0) if torch.rand(1, generator=generator) < 0.5 else patch
        drawn.append(F.pad(patch, [n for size in reversed(patch.shape) for n in (0, edge - size)], value=-1.0))
    return torch.stack(drawn)[:, None]


# ---- contestants ----


class Diffusers(nn.Module):
    """A diffusers model in MONAI's form."""

    def __init__(self, model: nn.Module, **constant: Tensor) -> None:
        super().__init__()
        self.model = model
        self.constant = constant

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        labels = {name: value.expand(len(x)) for name, value in self.constant.items()}
        return self.model(x, timesteps, **labels).sample


def monai_unet(dims: int) -> nn.Module:
    channels = (32, 64, 96) if dims == 2 else (16, 32, 64)
    return DiffusionModelUNet(
        dims, 1, 1, channels=channels, attention_levels=(False, False, True), num_res_blocks=2, num_head_channels=32,
        norm_num_groups=16,
    )  # fmt: skip


def score_unet(dims: int) -> nn.Module:
    if dims == 2:
        return ScoreUNet(2, 1, 1, (32, 64, 96, 128), num_res_blocks=(1, 2, 2, 2))
    return ScoreUNet(3, 1, 1, (16, 32, 64, 128), num_res_blocks=1)


def score_dit(dims: int) -> nn.Module:
    return ScoreDiT(dims, 1, EDGE[dims], 4, 192, 4, 6)


def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    return Diffusers(
        UNet2DModel(
            64, 1, 1, block_out_channels=(32, 64, 96), layers_per_block=2, norm_num_groups=16, attention_head_dim=32,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip


def diffusers_dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=32, in_channels=1, num_layers=4, sample_size=64, patch_size=4,
        norm_num_groups=1,
    )  # fmt: skip
    return Diffusers(model, class_labels=torch.zeros(1, dtype=torch.long))


@dataclass
class Contestant:
    """A network and the recipe that its users train it with."""

    name: str
    build: Callable[[], nn.Module]
    ours: bool  # c_noise and EDM's objective; otherwise timesteps and DDPM's


def contestants(dims: int) -> list[Contestant]:
    """All that are installed and run in these dimensions."""
    found = [
        Contestant("MONAI DiffusionModelUNet", lambda: monai_unet(dims), False),
        Contestant("ScoreUNet", lambda: score_unet(dims), True),
        Contestant("ScoreDiT", lambda: score_dit(dims), True),
    ]
    if dims == 2:
        try:
            import diffusers  # noqa: F401
        except ImportError:
            print("diffusers is not installed: its networks are left out")
        else:
            found.append(Contestant("diffusers UNet2DModel", diffusers_unet, False))
            found.append(Contestant("diffusers DiTTransformer2DModel", diffusers_dit, False))
    return found


# ---- training ----


def clock() -> float:
    """Seconds of this process's CPU if it has one thread, which other work hardly disturbs; else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def held_out_error(denoiser: nn.Module, x0: Tensor, sigma_data: float) -> float:
    """EDM-weighted squared x0 error, mean over the grid, with the same noise each time."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    total = 0.0
    with torch.no_grad():
        for sigma in SIGMAS:
            errors = [
                (denoiser(x + sigma * n, sigma) - x).square().flatten(1).mean(1)
                for x, n in zip(x0.split(16), noise.split(16), strict=True)
            ]
            total += float(edm_weight(torch.tensor(sigma), sigma_data) * torch.cat(errors).mean())
    return total / len(SIGMAS)


def our_training(network: nn.Module, pool: Tensor, batch: int, seed: int) -> Iterator[nn.Module]:
    """The recipe of the bundles: EDM, MuonAdamW 2e-3, warm-up of 10 steps, clipped gradients, power-function EMA."""
    torch.manual_seed(seed)
    sigma_data = float(pool.std())
    denoiser = Denoiser(network, EDMPreconditioning(sigma_data), torch.bfloat16)
    loss = DenoisingLoss(LogNormalNoise(-1.2, 1.2), lambda sigma: edm_weight(sigma, sigma_data))
    optimizer = MuonAdamW(denoiser.parameters(), 2e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
    ema = PowerEMA(denoiser, 0.1)
    while True:
        optimizer.zero_grad(set_to_none=True)
        loss(denoiser, pool[torch.randint(len(pool), (batch,))]).mean().backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        warmup.step()
        ema.update()
        yield ema.network


def ddpm_training(network: nn.Module, pool: Tensor, batch: int, seed: int) -> Iterator[nn.Module]:
    """The recipe of MONAI's tutorials: DDPMScheduler of 1000 steps, noise prediction, AdamW 1e-4."""
    torch.manual_seed(seed)
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    denoiser = Denoiser(TimestepNetwork(network), DiscretePreconditioning.of(scheduler), torch.bfloat16)
    while True:
        x0 = pool[torch.randint(len(pool), (batch,))]
        noise, steps = torch.randn_like(x0), torch.randint(1000, (batch,))
        noisy = scheduler.add_noise(x0, noise, steps)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = network(noisy, timesteps=steps)
        F.mse_loss(predicted.float(), noise).backward()
        optimizer.step()
        yield denoiser


def error_curve(
    training: Iterator[nn.Module], held_out: Tensor, sigma_data: float, seconds: float, every: float
) -> list[tuple[float, int, float]]:
    """(seconds of training, steps, held-out error); evaluations are not counted."""
    curve, spent, steps = [], 0.0, 0
    while spent < seconds:
        start = clock()
        denoiser = next(training)
        spent += clock() - start
        steps += 1
        if spent >= every * (len(curve) + 1) or spent >= seconds:
            denoiser.eval()
            curve.append((spent, steps, held_out_error(denoiser, held_out, sigma_data)))
            denoiser.train()
    return curve


def train(contestant: Contestant, dims: int, pool: Tensor, seed: int = 0) -> Iterator[nn.Module]:
    """The training of a contestant by its own recipe."""
    torch.manual_seed(seed)
    network = contestant.build().train()
    if contestant.ours:
        return our_training(network, pool, OUR_BATCH[dims], seed)
    return ddpm_training(network, pool, BATCH[dims], seed)


# ---- what is measured ----


def millions(network: nn.Module) -> float:
    return sum(p.numel() for p in network.parameters()) / 1e6


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
        made = [(contestant, one_step(contestant, x)) for contestant in contestants(dims)]
        for _, step in made:
            step()
        rounds = [[timed(step, 1)[0] for _, step in made] for _ in range(count)]  # in turn: equal conditions
        medians = torch.tensor(rounds).median(0).values.tolist()
        for (contestant, _), seconds in zip(made, medians, strict=True):
            flops = count_flops(contestant, x) / 1e9
            print(
                f"{contestant.name} | {millions(contestant.build()):.2f} M | {flops:.0f} | {1e3 * seconds:.0f} | "
                f"{flops / seconds / rate:.2f} | {medians[0] / seconds:.2f}"
            )


MEMORY_CASES = ("monai", "ours", "ours checkpointed")


def measure_memory(edge: int) -> None:
    """Prints peak memory of a 3-D training step above the import baseline, each in a process of its own."""
    print(f"3-D training step at {edge}^3, batch 1, bfloat16")
    print("network | MB above the baseline | to MONAI's | s a step | to MONAI's")
    first = None
    for case in MEMORY_CASES:
        threads = str(torch.get_num_threads())
        command = [
            sys.executable,
            "-m",
            __spec__.name,
            "memory",
            "--edge",
            str(edge),
            "--case",
            case,
            "--threads",
            threads,
        ]
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


def measure_error(dims: int, seconds: dict[str, float], seeds: int) -> None:
    """Prints held-out error against seconds, and when each first is as good as MONAI's at the end."""
    pool, held_out = (
        patches(volume("train", dims), dims, 2048 // 4 ** (dims - 2), 0),
        patches(volume("validation", dims), dims, 32, 1),
    )
    sigma_data = float(pool.std())
    goal = None
    print(f"\n{dims}-D, {EDGE[dims]} voxels an edge, sigma_data {sigma_data:.2f}, {torch.get_num_threads()} threads")
    for contestant in contestants(dims):
        for seed in range(seeds if contestant.ours else 1):
            limit = seconds["ours" if contestant.ours else contestant.name.split()[0]]
            curve = error_curve(train(contestant, dims, pool, seed), held_out, sigma_data, limit, limit / 20)
            goal = goal or curve[-1][2]
            reached = next((f"{spent:.0f} s" for spent, _, error in curve if error <= goal), "not reached")
            size = millions(contestant.build())
            shown = ", ".join(f"{error:.3f} at {spent:.0f} s" for spent, _, error in curve[4::5])
            print(
                f"{contestant.name} ({size:.2f} M), seed {seed}: {shown} ({curve[-1][1]} steps); "
                f"as good as MONAI's {goal:.3f} after {reached}",
                flush=True,
            )


# ---- U-Net against DiT ----

SIZES = {  # name: (U-Net channels, DiT hidden size, DiT depth)
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
    for what, label, count, size in runs:
        pool = patches(source, 2, count, 0)
        for kind in ("U-Net", "DiT"):
            for seed in range(seeds):
                torch.manual_seed(seed)
                training = our_training(sized(kind, size), pool, OUR_BATCH[2], seed)
                error = error_curve(training, held_out, float(pool.std()), seconds, seconds)[-1][2]
                results[what].setdefault(kind, {}).setdefault(label, []).append(error)
                print(
                    f"{what} {label}: {kind} {millions(sized(kind, size)):.2f} M, seed {seed}: {error:.3f}", flush=True
                )
    for kind in ("U-Net", "DiT"):
        results["size"][kind] = {
            size: results["images"][kind]["2048"] if size == "1 M" else results["size"][kind][size] for size in SIZES
        }
    draw(results, seconds, folder)


def draw(results: dict[str, dict[str, dict[str, list[float]]]], seconds: float, folder: Path) -> None:
    """Two plots, a point for each seed and a line through their means."""
    from matplotlib.figure import Figure

    titles = {"images": "number of training images (1 M parameters)", "size": "parameters (2048 training images)"}
    for what, curves in results.items():
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        axis = figure.subplots()
        for kind, marker in (("U-Net", "o"), ("DiT", "s")):
            labels = list(curves[kind])
            means = [sum(values) / len(values) for values in curves[kind].values()]
            (line,) = axis.plot(range(len(labels)), means, label=kind)
            for place, values in enumerate(curves[kind].values()):
                axis.scatter([place] * len(values), values, marker=marker, s=18, color=line.get_color())
        axis.set_xticks(range(len(labels)), labels)
        axis.set_xlabel(titles[what])
        axis.set_ylabel("held-out denoising error")
        axis.set_yscale("log")
        axis.set_title(f"64 x 64 MNI152, {seconds:.0f} s of training on {torch.get_num_threads()} threads", fontsize=9)
        axis.legend()
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"unet_dit_{what}.png", dpi=120)


def measure_positions(seconds: float, seeds: int) -> None:
    """Trains ScoreDiT at 64 x 64 with both kinds of positions; held-out error there and at sizes not trained on."""
    source, unseen = volume("train", 2), volume("validation", 2)
    pool = patches(source, 2, 2048, 0)
    sigma_data = float(pool.std())
    sizes = (32, 48, 64, 96, 128)
    tests = {edge: patches(unseen, 2, 16, 1, edge) for edge in sizes}
    print("positions | seed | " + " | ".join(f"{edge} x {edge}" for edge in sizes))
    for position in ("rotary", "table"):
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = ScoreDiT(2, 1, 64, 4, 128, 4, 8, position=position)
            training, spent = our_training(network, pool, OUR_BATCH[2], seed), 0.0
            while spent < seconds:
                start = clock()
                denoiser = next(training)
                spent += clock() - start
            errors = [held_out_error(denoiser.eval(), tests[edge], sigma_data) for edge in sizes]
            print(f"{position} | {seed} | " + " | ".join(f"{error:.3f}" for error in errors), flush=True)


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["steps", "memory", "error", "folklore", "positions"])
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
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.what == "steps":
        measure_steps(chosen.count)
    elif chosen.what == "memory":
        memory_case(chosen.case, chosen.edge) if chosen.case else measure_memory(chosen.edge)
    elif chosen.what == "error":
        for dims in chosen.dims:
            limits = {"MONAI": chosen.monai_seconds, "diffusers": chosen.diffusers_seconds, "ours": chosen.seconds}
            measure_error(dims, limits, chosen.seeds)
    elif chosen.what == "folklore":
        measure_folklore(chosen.seconds, chosen.seeds, chosen.out)
    else:
        measure_positions(chosen.seconds, chosen.seeds)


if __name__ == "__main__":
    main()
