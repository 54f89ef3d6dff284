"""Averages of any length from snapshots, against averages that are tracked directly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from workflows import workflow

from monai_diffscore.errors import DataError
from monai_diffscore.handlers import PowerEMA, SnapshotEMA, reconstruct
from monai_diffscore.handlers.ema import power_function_exponent
from monai_diffscore.handlers.ema_snapshots import combination, profile


def tracked_averages(folder, lengths, steps: int = 400, every: int = 25) -> list[PowerEMA]:
    """Averages of a random walk of weights, tracked directly, beside the snapshots in ``folder``."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    snapshots = SnapshotEMA(network, folder, every=every)
    averages = [PowerEMA(network, length) for length in lengths]
    for _ in range(steps):
        for weights in network.state_dict().values():
            weights += torch.randn(weights.shape, generator=generator).to(weights.dtype)
        for average in (snapshots, *averages):
            average.update()
    return averages


def test_profiles_are_the_weights_of_the_average():
    weights = np.zeros(40)
    exponent = power_function_exponent(0.1)
    for step in range(1, 41):
        beta = (1 - 1 / step) ** (exponent + 1)
        weights *= beta
        weights[step - 1] += 1 - beta
    assert profile(exponent, 40, np.arange(51.0))[:40] == pytest.approx(weights)
    assert profile(exponent, 40, np.arange(51.0))[40:] == pytest.approx(0)
    # two steps in a bin
    assert profile(exponent, 40, np.arange(0, 41.0, 2)) == pytest.approx(weights.reshape(-1, 2).sum(1))


def test_reconstructions_equal_the_averages_that_are_tracked(tmp_path):
    lengths = (0.1, 0.05, 0.07, 0.15, 0.03)
    averages = tracked_averages(tmp_path, lengths)
    scale = float(averages[0].source[0].weight.detach().std())
    for length, average, tolerance in zip(lengths, averages, (1e-9, 1e-9, 2e-3, 2e-2, 5e-2), strict=True):
        weights = reconstruct(tmp_path, length)
        assert weights.keys() == average.network.state_dict().keys()
        for name, value in average.network.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=0, atol=tolerance * scale if value.ndim else 1)


def test_more_snapshots_are_more_exact_and_coefficients_sum_to_one():
    exponents = [power_function_exponent(length) for length in (0.05, 0.1)]
    errors = []
    for count in (4, 8, 16, 32):
        snapshots = [(exponent, 1000 * n // count) for n in range(1, count + 1) for exponent in exponents]
        coefficients, error = combination(snapshots, 0.13)
        assert coefficients.sum() == pytest.approx(1)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_a_folder_without_snapshots_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"snapshot_<steps>.pt, got none. Train with the overlay"):
        reconstruct(tmp_path, 0.1)


@pytest.mark.parametrize("bundle", ["toy2d_mlp"])
def test_the_command_chooses_the_length_of_smallest_held_out_error(bundle, dataset, tmp_path):
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    training = workflow(bundle, ["train"], ["ema_snapshots", "smoke"], max_epochs=6, **where, **{"ema#every": 4})
    training.run()
    tracked = training.parser.get_parsed_content("ema").network.state_dict()
    again = workflow(bundle, ["train"], ["ema_snapshots", "smoke"], **where, **{"ema#every": 4})
    again.parser["choosing#lengths"] = [0.1, 0.2]
    errors = again.parser.get_parsed_content("choosing")
    best = min(errors, key=errors.get)
    weights = torch.load(tmp_path / "model_chosen.pt", weights_only=True)
    expected = reconstruct(tmp_path / "out/snapshots", best)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for name, value in reconstruct(tmp_path / "out/snapshots", 0.1).items():
        torch.testing.assert_close(value, tracked[name])


@pytest.mark.parametrize("bundle", ["natural_dit2d", "mri_unet3d"])
def test_autoguidance_by_an_earlier_snapshot(bundle, dataset, tmp_path):
    """Scale 1 is the network alone, to the last bit; another scale is not."""
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    workflow(bundle, ["train"], ["ema_snapshots", "smoke"], **where, **{"ema#every": 1}).run()
    assert len(list((tmp_path / "out/snapshots").glob("*.pt"))) > 1
    images = {}
    for name, scale in (("plain", None), ("one", 1.0), ("three", 3.0)):
        guided = {} if scale is None else {"autoguidance_scale": scale, "snapshot_dir": str(tmp_path / "out/snapshots")}
        where = {"output_dir": str(tmp_path / name), "checkpoint": str(tmp_path / "model.pt"), **guided}
        overlays = ["smoke"] if scale is None else ["autoguidance", "smoke"]
        run = workflow(bundle, ["inference"], overlays, kind="infer", **where)
        run.run()
        images[name] = run.parser.get_parsed_content("evaluator").state.output[0]["pred"]
    assert torch.equal(images["plain"], images["one"])
    assert not torch.allclose(images["plain"], images["three"])
