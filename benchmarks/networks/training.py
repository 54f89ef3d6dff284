"""The trainings: each contestant by the recipe of its users, and the held-out error as seconds pass."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor, nn

from benchmarks.networks.contestants import Contestant
from monai_diffscore import Denoiser, DenoisingLoss, EDMPreconditioning, LogNormalNoise, edm_weight
from monai_diffscore.discrete import DiscretePreconditioning, TimestepNetwork
from monai_diffscore.handlers import PowerEMA
from monai_diffscore.optimizers import MuonAdamW

SIGMAS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
#: patches in a batch, by the number of dimensions: of DDPM's recipe, and of the bundles' recipe
BATCH = {2: 16, 3: 4}
OUR_BATCH = {2: 8, 3: 2}


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
