"""Trainings through JSON learn: a distribution that a two-sample test does not tell apart, and the MNI152 volume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from workflows import (
    workflow,
)


def two_sample_p_value(first: np.ndarray, second: np.ndarray, permutations: int = 400) -> float:
    """Permutation test on the maximum mean discrepancy (Gretton et al. 2012) at the scale of fine structure."""
    points = torch.from_numpy(np.concatenate([first, second])).double()
    kernel = torch.exp(-(torch.cdist(points, points) ** 2) / (2 * 0.15**2))
    count = len(first)

    def discrepancy(order):
        sign = torch.ones(2 * count, dtype=torch.float64)
        sign[order[count:]] = -1
        return sign @ kernel @ sign

    observed = discrepancy(torch.arange(2 * count))
    generator = torch.Generator().manual_seed(0)
    permuted = [discrepancy(torch.randperm(2 * count, generator=generator)) for _ in range(permutations)]
    return (1 + sum(value >= observed for value in permuted).item()) / (permutations + 1)


def test_the_two_sample_test_tells_a_blur_from_the_data():
    from monai_diffscore.samples import toy_rows

    real, other = toy_rows("spiral", 500, 1).numpy(), toy_rows("spiral", 500, 2).numpy()
    noise = np.random.default_rng(0).normal(size=real.shape)
    assert two_sample_p_value(real, other) > 0.01
    assert two_sample_p_value(real, other + 0.15 * noise) < 0.01


@pytest.mark.slow
def test_the_toy_bundle_learns_its_distribution(tmp_path):
    """After 2,340 iterations of training through JSON, a test does not distinguish 500 samples from 500 new draws."""
    from monai_diffscore.samples import toy_rows

    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path)}
    workflow("toy2d_mlp", ["train"], max_epochs=6, gallery_every=0, **where).run()
    lines = [json.loads(line) for line in (tmp_path / "out/validation.jsonl").read_text().splitlines()]
    assert lines[-1]["denoising_error"] < 0.8 * lines[0]["denoising_error"]  # it is 0.784 after 1,560
    where = {"output_dir": str(tmp_path / "samples"), "checkpoint": str(tmp_path / "model.pt")}
    workflow("toy2d_mlp", ["inference"], kind="infer", num_samples=500, **where).run()
    samples = np.load(tmp_path / "samples/samples.npy")
    assert two_sample_p_value(samples, toy_rows("spiral", 500, seed=12345).numpy()) > 0.01


@pytest.mark.slow
def test_the_mri_bundle_learns_the_mni152_volume(tmp_path):
    """Held-out x0 error, EDM-weighted, falls at least twofold in 128 iterations."""
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path)}
    workflow("mri_unet3d", ["train"], max_epochs=4, val_interval=4, **where).run()
    lines = [json.loads(line) for line in (tmp_path / "out/validation.jsonl").read_text().splitlines()]
    assert lines[-1]["denoising_error"] < 0.5 * lines[0]["denoising_error"]
