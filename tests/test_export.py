"""TorchScript and torch.export of every network's denoiser: equal outputs, at other batch sizes too."""

from __future__ import annotations

import io

import pytest
import torch
from test_networks import every_network, make

from monai_diffscore import ConditionEncoder, Denoiser, EDMPreconditioning
from monai_diffscore.networks.examples import EXAMPLES


def denoiser(name: str, autocast: torch.dtype | None = None) -> tuple[Denoiser, torch.Tensor]:
    network, x = make(name)
    return Denoiser(network, EDMPreconditioning(0.7), autocast).eval(), x


@every_network
def test_the_example_is_a_valid_input(name):
    network, x = make(name)
    example = torch.randn(1, *network.example_shape)
    assert example.ndim == x.ndim
    assert network(example, torch.zeros(1)).shape == example.shape


@every_network
def test_torchscript_equals_the_denoiser(name):
    """By torch.jit.script, as MONAI's ckpt_export calls it; saved and loaded; at another batch size."""
    model, _ = denoiser(name)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(model), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    for batch in (1, 3):
        x, sigma = torch.randn(batch, *model.network.example_shape), torch.linspace(0.1, 2.0, batch)
        with torch.no_grad():
            torch.testing.assert_close(scripted(x, sigma), model(x, sigma), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(scripted(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet2d", "unet3d", "hierarchical2d", "dit2d", "dit3d"])
def test_torchscript_runs_at_other_sizes(name):
    model, x = denoiser(name)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(model)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet2d", "dit2d", "hierarchical3d"])
def test_torchscript_keeps_the_autocast_precision(name):
    model, _ = denoiser(name, torch.bfloat16)
    exact, _ = denoiser(name)
    scripted = torch.jit.script(model)
    x, sigma = torch.randn(2, *model.network.example_shape), torch.tensor([0.3, 1.0])
    with torch.no_grad():
        torch.testing.assert_close(scripted(x, sigma), model(x, sigma), rtol=1e-2, atol=1e-2)
        assert (scripted(x, sigma) - exact(x, sigma)).abs().max() > 1e-5  # it is not in float32


@every_network
def test_torch_export_equals_the_denoiser_at_any_batch_size(name):
    model, _ = denoiser(name)
    batch = torch.export.Dim("batch", min=2, max=64)
    x, sigma = torch.randn(4, *model.network.example_shape), torch.linspace(0.1, 2.0, 4)
    program = torch.export.export(model, (x, sigma), dynamic_shapes={"x": {0: batch}, "sigma": {0: batch}})
    for count in (2, 7):
        x, sigma = torch.randn(count, *model.network.example_shape), torch.linspace(0.1, 2.0, count)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x, sigma), model(x, sigma), rtol=1e-4, atol=1e-5)


def test_torch_export_takes_conditions():
    encoder = ConditionEncoder(categorical={"modality": 3}, continuous={"age_years": (60.0, 20.0)}, concat=["mask"])
    network = EXAMPLES["unet2d"].build(condition=encoder)
    model = Denoiser(network, EDMPreconditioning()).eval()
    x = torch.randn(2, 2, 8, 8)
    condition = {
        "modality": torch.tensor([0, 2]), "age_years": torch.tensor([50.0, torch.nan]), "mask": torch.ones(2, 1, 8, 8)
    }  # fmt: skip
    program = torch.export.export(model, (x, torch.ones(2)), condition)
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(x, torch.ones(2), **condition), model(x, torch.ones(2), **condition)
        )
