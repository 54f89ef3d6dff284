"""Rotary positions against a table of positions, at sizes without training."""

from __future__ import annotations

import torch

from benchmarks.networks.patches import patches, volume
from benchmarks.networks.training import OUR_BATCH, clock, held_out_error, our_training
from monai_diffscore import ScoreDiT


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
