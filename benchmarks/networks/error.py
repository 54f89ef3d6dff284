"""Held-out error against seconds of training, for all contestants."""

from __future__ import annotations

import torch

from benchmarks.networks.contestants import contestants, millions
from benchmarks.networks.patches import EDGE, patches, volume
from benchmarks.networks.training import error_curve, train


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
            course = ", ".join(f"{error:.3f} at {spent:.0f} s" for spent, _, error in curve[4::5])
            print(
                f"{contestant.name} ({size:.2f} M), seed {seed}: {course} ({curve[-1][1]} steps); "
                f"as good as MONAI's {goal:.3f} after {reached}",
                flush=True,
            )
