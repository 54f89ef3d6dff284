"""Whole heads by a pyramid and by its alternatives: one cohort, equal CPU time, about 2.4 million parameters each.

    python -m benchmarks.whole_alternatives FOLDER [--methods pyramid latent ...] [--cpu-minutes 20] [--seeds 0]

``pyramid`` is the network and the loss of ``mri_whole3d``. ``latent`` is MONAI's AutoencoderKL (absolute error and
Kullback-Leibler term, no discriminator) and a score model of its latent image. ``super_resolution`` is a score model of
whole heads at 4 mm and a conditional one of voxels at 2 mm, in windows. ``patches`` and ``patches_without_positions``
are a score model of windows of 64 mm in voxels. Every method trains by one loop for the same CPU time of this process,
without augmentation, and draws heads that ``benchmarks.whole`` measures. To encode the cohort once is not counted.
FOLDER gets a folder of each method and seed with its checkpoints, heads and ``measured.json``. The same command
continues after a kill.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.whole import BUNDLE, Cohort, DrawHead, measure, record_of
from benchmarks.whole_cost import configuration
from monai_diffscore import (
    ConditionEncoder,
    Denoiser,
    DenoisingLoss,
    EDMPreconditioning,
    Latent,
    LogNormalNoise,
    MultiScale,
    ScoreUNet,
    TiledDenoiser,
    asinh_sigmas,
    edm_weight,
    measure_latent,
    sample_adams,
    sample_scales,
)
from monai_diffscore.atomic_files import whole_path
from monai_diffscore.handlers import PowerEMA
from monai_diffscore.low_rank_start import LowRankStart
from monai_diffscore.optimizers import MuonAdamW
from monai_diffscore.scales import measure_scales_and_images
from monai_diffscore.tensors import noise_like, positions, random_stream

BATCH, LEARNING_RATE = 4, 2e-3
STEPS = 24  # of the sampler
WINDOW = 32  # voxels: 64 mm, the patches of mri_unet3d
LATENT_CHANNELS, LATENT_STRIDE = 4, 4
KL_WEIGHT = 1e-6
AUTOENCODER_SHARE = 0.4  # of the CPU time of the latent method
SIGMAS = asinh_sigmas(STEPS, 500.0)


@dataclass(frozen=True)
class Stage:
    """A module that trains for a share of the time.

    ``loss(module, x0 [B, ...], age_years [B])`` has one value, ``data`` [N, ...] one row for each training subject.
    """

    module: nn.Module
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    data: Tensor
    share: float = 1.0


@dataclass(frozen=True)
class Method:
    """Stages, each built from the images and the trained modules before it, and the sampler of the trained modules."""

    stages: Sequence[Callable[[Tensor, list[nn.Module]], Stage]]
    draw: Callable[[list[nn.Module], Tensor, torch.Generator, tuple[int, ...]], Tensor]


def fields(**concat: int) -> ConditionEncoder:
    return ConditionEncoder({}, {"age_years": (55.0, 20.0)}, concat=concat, dropout=0.1)


def denoiser(
    channels: int, widths: Sequence[int], sigma_data: float, attention: bool = False, **concat: int
) -> Denoiser:
    """A U-Net of one residual block a level as a denoiser in bfloat16."""
    levels = [False] * (len(widths) - 1) + [attention]
    network = ScoreUNet(3, channels, channels, widths, levels, num_res_blocks=1, condition=fields(**concat))
    return Denoiser(network, EDMPreconditioning(sigma_data), torch.bfloat16)


def denoising(sigma_data: float) -> DenoisingLoss:
    noise = LogNormalNoise(-0.5 + torch.tensor(sigma_data).log().item(), 1.5)
    return DenoisingLoss(noise, lambda sigma: edm_weight(sigma, sigma_data))


def windows(*fields_: Tensor) -> list[Tensor]:
    """The same random window of each sample of the fields [B, C, *S]."""
    room = [size - WINDOW + 1 for size in fields_[0].shape[2:]]
    places = [[int(torch.randint(free, ())) for free in room] for _ in fields_[0]]
    return [
        torch.stack([f[(n, slice(None), *(slice(b, b + WINDOW) for b in place))] for n, place in enumerate(places)])
        for f in fields_
    ]


def sampled(model: nn.Module, shape: Sequence[int], generator: torch.Generator, **condition: Tensor) -> Tensor:
    start = noise_like(torch.empty(shape), generator) * float(SIGMAS[0])
    return sample_adams(lambda x, sigma: model(x, sigma, **condition), start, SIGMAS, generator=generator)


def pyramid() -> Method:
    """The network and the loss of the bundle."""

    def stage(images: Tensor, _trained: list[nn.Module]) -> Stage:
        parser = configuration(BUNDLE, "train")
        statistics, coarse = measure_scales_and_images(parser.get_parsed_content("pyramid"), images[::5])
        parser["statistics"] = {**parser["statistics"], "scales": statistics}
        parser["start"] = LowRankStart.of_images(coarse, parser["modes"])
        loss = parser.get_parsed_content("loss")
        model = parser.get_parsed_content("network_def")
        return Stage(model, lambda module, x0, age: loss(module, x0, age_years=age), images)

    def draw(trained: list[nn.Module], age: Tensor, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        return sample_scales(trained[0], shape, SIGMAS, generator=generator, age_years=age)

    return Method([stage], draw)


def latent() -> Method:
    """An autoencoder, and a score model of what it stores: mean and standard deviation of each latent image."""

    def autoencoder(images: Tensor, _trained: list[nn.Module]) -> Stage:
        module = AutoencoderKL(
            3, 1, 1, num_res_blocks=1, channels=(16, 32, 64), attention_levels=(False,) * 3, norm_num_groups=8,
            latent_channels=LATENT_CHANNELS, with_encoder_nonlocal_attn=False, with_decoder_nonlocal_attn=False,
        )  # fmt: skip

        def loss(module: nn.Module, x0: Tensor, _age: Tensor) -> Tensor:
            (x0,) = windows(x0)
            with torch.autocast("cpu", torch.bfloat16):
                decoded, mean, std = module(x0)
            divergence = 0.5 * (mean.square() + std.square() - 2 * std.log() - 1).float().mean()
            return (decoded.float() - x0).abs().mean() + KL_WEIGHT * divergence

        return Stage(module, loss, images, AUTOENCODER_SHARE)

    def score_model(images: Tensor, trained: list[nn.Module]) -> Stage:
        codec = trained[0].eval()
        scale = Latent(codec, LATENT_CHANNELS, LATENT_STRIDE, measure_latent(codec, images[::5])).eval()
        with torch.no_grad():
            stored = torch.cat([torch.cat(scale.encode(image[None]), 1) for image in images])
        model = MultiScale(scale, [denoiser(LATENT_CHANNELS, (48, 64, 64), 1.0, attention=True)])
        objective = denoising(1.0)

        def loss(module: nn.Module, x0: Tensor, age: Tensor) -> Tensor:
            return objective(module, scale.draw(*x0.chunk(2, 1)), age_years=age).mean()

        return Stage(model, loss, stored, 1 - AUTOENCODER_SHARE)

    def draw(trained: list[nn.Module], age: Tensor, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        return sample_scales(trained[1], shape, SIGMAS, generator=generator, age_years=age)

    return Method([autoencoder, score_model], draw)


def super_resolution() -> Method:
    """A score model at 4 mm, and one of voxels given its image, in windows."""

    def stage(images: Tensor, _trained: list[nn.Module]) -> Stage:
        spread = float(images.std())
        module = nn.ModuleDict({
            "coarse": denoiser(1, (32, 64, 64), spread, attention=True),
            "fine": denoiser(1, (16, 32, 64, 64), spread, coarse=1, position=3),
        })  # fmt: skip
        objective = denoising(spread)

        def loss(module: nn.ModuleDict, x0: Tensor, age: Tensor) -> Tensor:
            coarse = functional.avg_pool3d(x0, 2)
            patch, coarse_input, place = windows(x0, enlarged(coarse), positions(x0))
            fine = objective(module["fine"], patch, coarse=coarse_input, position=place, age_years=age)
            return (objective(module["coarse"], coarse, age_years=age).mean() + fine.mean()) / 2

        return Stage(module, loss, images)

    def draw(trained: list[nn.Module], age: Tensor, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        coarse = sampled(trained[0]["coarse"], (*shape[:2], *(s // 2 for s in shape[2:])), generator, age_years=age)
        coarse_input = enlarged(coarse)
        tiled = TiledDenoiser(trained[0]["fine"], [WINDOW] * 3, 0.25, batch_size=4)
        return sampled(tiled, shape, generator, coarse=coarse_input, position=positions(coarse_input), age_years=age)

    return Method([stage], draw)


def enlarged(coarse: Tensor) -> Tensor:
    return functional.interpolate(coarse, scale_factor=2.0, mode="trilinear")


def patches(with_positions: bool) -> Method:
    """A score model of windows in voxels, with or without their positions."""

    def given(like: Tensor) -> dict[str, Tensor]:
        return {"position": positions(like)} if with_positions else {}

    def stage(images: Tensor, _trained: list[nn.Module]) -> Stage:
        spread = float(images.std())
        concat = {"position": 3} if with_positions else {}
        objective = denoising(spread)

        def loss(module: nn.Module, x0: Tensor, age: Tensor) -> Tensor:
            place = given(x0)
            patch, *cut = windows(x0, *place.values())
            return objective(module, patch, age_years=age, **dict(zip(place, cut, strict=True))).mean()

        return Stage(denoiser(1, (32, 64, 64, 96), spread, attention=True, **concat), loss, images)

    def draw(trained: list[nn.Module], age: Tensor, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
        tiled = TiledDenoiser(trained[0], [WINDOW] * 3, 0.25, batch_size=4)
        return sampled(tiled, shape, generator, age_years=age, **given(torch.empty(shape)))

    return Method([stage], draw)


METHODS: dict[str, Callable[[], Method]] = {
    "pyramid": pyramid,
    "latent": latent,
    "super_resolution": super_resolution,
    "patches": lambda: patches(True),
    "patches_without_positions": lambda: patches(False),
}


def train(stage: Stage, ages: Tensor, file: Path, cpu_seconds: float, every_seconds: float) -> nn.Module:
    """The average of the stage's module after that CPU time; continues from the checkpoint in ``file``."""
    optimizer = MuonAdamW([p for p in stage.module.parameters() if p.requires_grad], LEARNING_RATE)
    average = PowerEMA(stage.module)
    parts = {"module": stage.module, "optimizer": optimizer, "average": average}
    used, iteration, losses = 0.0, 0, list[float]()
    if file.is_file():
        saved = torch.load(file, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["random"])
        used, iteration = saved["used"], saved["iteration"]
    stage.module.train()
    clock, last = time.process_time() - used, used
    while used < cpu_seconds:
        batch = torch.randint(len(stage.data), (BATCH,))
        share = min(1.0, (iteration + 1) / 20, (1 - used / cpu_seconds) / 0.3)  # falls to 0 over the last 30 %
        for group, ratio in zip(optimizer.param_groups, (1.0, 0.5), strict=True):
            group["lr"] = LEARNING_RATE * ratio * share
        optimizer.zero_grad()
        loss = stage.loss(stage.module, stage.data[batch], ages[batch]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
        optimizer.step()
        average.update()
        losses.append(float(loss.detach()))
        iteration, used = iteration + 1, time.process_time() - clock
        if used - last > every_seconds or used >= cpu_seconds:
            state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            with whole_path(file) as path:
                torch.save({**state, "random": torch.get_rng_state(), "used": used, "iteration": iteration}, path)
            recent = sum(losses) / len(losses)
            print(json.dumps({"iteration": iteration, "cpu_seconds": round(used), "loss": recent}), flush=True)
            last, losses = used, []
    return average.network


def run(
    name: str, seed: int, folder: Path, cohort: Cohort, images: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Trains a method with a seed, draws and measures its heads."""
    torch.manual_seed(seed)
    method = METHODS[name]()
    ages = torch.tensor([case["age_years"] for case in cohort.train])
    trained: list[nn.Module] = []
    count = 0
    for number, build in enumerate(method.stages):
        stage = build(images, trained)
        count += sum(p.numel() for p in stage.module.parameters() if p.requires_grad)
        seconds = 60 * options.cpu_minutes * stage.share
        trained.append(train(stage, ages, folder / f"stage_{number}.pt", seconds, 60 * options.every))
    print(f"{name}, seed {seed}: {count} parameters", flush=True)

    @torch.no_grad()
    def draw(number: int, age_years: float) -> Tensor:
        return method.draw(trained, torch.tensor([age_years]), random_stream(seed, number), (1, *images.shape[1:]))

    head: DrawHead = draw
    title = f"{name}, {options.cpu_minutes:g} CPU minutes, {count / 1e6:.2f} million parameters"
    return measure(folder, folder / "heads", title, record_of(None, BUNDLE), cohort, head, options.count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a folder for each method and seed")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--cpu-minutes", type=float, default=20, help="of each training, on one core")
    parser.add_argument("--every", type=float, default=2, help="CPU minutes between checkpoints")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=40, help="heads to draw")
    options = parser.parse_args()
    cohort = Cohort(record_of(None, BUNDLE))
    images = torch.stack([cohort.read(case) for case in cohort.train])
    for seed in options.seeds:
        for name in options.methods:
            folder = options.folder / f"{name}_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            result = run(name, seed, folder, cohort, images, options)
            print(json.dumps({"method": name, "seed": seed, **result["summary"]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
