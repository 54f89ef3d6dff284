"""MuonAdamW: its steps are those of its parts, it resumes exactly, schedulers and clipping reach it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_diffscore.optimizers import MuonAdamW


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.SiLU(), nn.Conv2d(16, 32, 3), nn.SiLU(), nn.Conv2d(32, 1, 1))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def test_a_convolution_moves_along_orthogonal_directions_of_equal_length():
    """A step of a [32, 16 * 9] kernel has all singular values near 0.2 sqrt(144) lr: Muon's iteration is coarse."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3))
    optimizer = MuonAdamW([kernel], lr=1e-2)
    kernel.grad = torch.randn(32, 16, 3, 3) * torch.logspace(0, -1, 32).reshape(-1, 1, 1, 1)
    optimizer.step()
    singular = torch.linalg.svdvals(kernel.detach().flatten(1))
    expected = 0.2 * 144**0.5 * 1e-2
    assert 0.5 * expected < singular.min() < singular.max() < 1.5 * expected


def test_all_else_takes_the_step_of_adamw():
    network = model()
    twin = copy.deepcopy(network)
    train(network, MuonAdamW(network.parameters(), lr=2e-3, adamw_ratio=0.5), 1)
    train(twin, torch.optim.AdamW(twin.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=0.0), 1)
    for name, parameter in network.named_parameters():
        if name != "2.weight":
            torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=0, atol=0)


def test_state_continues_exactly():
    whole, first = model(), model()
    train(whole, MuonAdamW(whole.parameters()), 6)
    optimizer = MuonAdamW(first.parameters())
    train(first, optimizer, 3)
    second = copy.deepcopy(first)
    continued = MuonAdamW(second.parameters())
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(second, continued, 3, start=3)
    for parameter, expected in zip(second.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=0)


def test_schedulers_reach_both_parts():
    network = model()
    optimizer = MuonAdamW(network.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    train(network, optimizer, 1)
    scheduler.step()
    before = copy.deepcopy(network.state_dict())
    train(network, optimizer, 1)
    assert all((value == before[name]).all() for name, value in network.state_dict().items())


def test_parameters_without_gradient_and_of_one_kind_alone():
    vector, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(16, 16))
    for parameters in ([vector], [matrix], [vector, matrix]):
        optimizer = MuonAdamW(parameters)
        optimizer.step()
        assert all((p == 1).all() for p in parameters)
        optimizer.load_state_dict(optimizer.state_dict())


def test_the_state_of_another_optimizer_is_refused():
    network = model()
    with pytest.raises(ValueError, match="state of a MuonAdamW"):
        MuonAdamW(network.parameters()).load_state_dict(torch.optim.AdamW(network.parameters()).state_dict())
