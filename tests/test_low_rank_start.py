"""The exact denoiser of Gaussian images with a few modes of variation."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.losses import DenoisingLoss, LogNormalNoise, edm_weight
from monai_diffscore.low_rank_start import LowRankStart
from monai_diffscore.tensors import per_sample


def modes_in_blocks(count: int) -> torch.Tensor:
    """Orthonormal images [count, 2, 4, 6] that are constant in blocks of 2 x 2."""
    blocks = torch.linalg.qr(torch.randn(12, count, dtype=torch.float64))[0].T.reshape(count, 2, 2, 3)
    return blocks.repeat_interleave(2, 2).repeat_interleave(2, 3) / 2


def exact(x, sigma, mean, axes, variances):
    """The posterior mean of N(m, I + U (Lambda - I) U^T), by its covariance."""
    u = axes.flatten(1)
    covariance = torch.eye(u.shape[1], dtype=x.dtype) + u.T @ torch.diag(variances - 1) @ u
    rows = [
        covariance @ torch.linalg.solve(covariance + s**2 * torch.eye(len(covariance), dtype=x.dtype), row)
        for row, s in zip((x - mean).flatten(1), sigma, strict=True)
    ]
    return mean + torch.stack(rows).reshape(x.shape)


def test_it_is_the_posterior_mean_of_its_gaussian():
    torch.manual_seed(0)
    start = LowRankStart((2, 4, 6), 3).double()
    axes, variances = modes_in_blocks(3), torch.tensor([900.0, 25.0, 2.0], dtype=torch.float64)
    start.mean.normal_()
    start.axes.copy_(2 * torch.nn.functional.avg_pool2d(axes, 2))
    start.variances.copy_(variances)
    x, sigma = 9 * torch.randn(4, 2, 4, 6).double(), torch.tensor([0.01, 0.7, 6.0, 80.0]).double()
    torch.testing.assert_close(start(x, sigma), exact(x, sigma, start.mean, axes, variances))


def with_effects():
    """A start of three modes whose mean depends on an age, a place and a class, in double precision."""
    fields = {"categorical": {"sex": 2}, "continuous": {"age": [50.0, 20.0], "place": [[0.0, 4.0], [1.0, 2.0]]}}
    start = LowRankStart((2, 4, 6), 3, **fields).double()
    start.mean.normal_()
    for effects in start.effects.values():
        nn.init.normal_(effects)
    return start


def test_its_mean_is_linear_in_the_conditions():
    torch.manual_seed(4)
    start = with_effects()
    age, place, sex = torch.tensor([90.0, 50.0]), torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([1, 0])
    effects = start.effects
    means = torch.stack(
        [
            start.mean + 2 * effects["age"][0] + 3 * effects["place"][0] - 2 * effects["place"][1] + effects["sex"][1],
            start.mean + effects["sex"][0],
        ]
    )
    x, sigma = 9 * torch.randn(2, 2, 4, 6).double(), torch.tensor([0.7, 80.0]).double()
    expected = means + (x - means) / per_sample(1 + sigma**2, x)
    torch.testing.assert_close(start(x, sigma, age=age, place=place, sex=sex), expected)


@pytest.mark.parametrize(
    ("name", "missing"), [("age", torch.nan), ("place", [torch.nan, 1.0]), ("sex", -1), ("another", 3.0)]
)
def test_a_missing_condition_has_no_effect(name, missing):
    torch.manual_seed(5)
    start, x, sigma = with_effects(), torch.randn(1, 2, 4, 6).double(), torch.tensor([30.0]).double()
    torch.testing.assert_close(start(x, sigma, **{name: torch.tensor([missing])}), start(x, sigma))


def test_training_learns_the_effects_of_conditions():
    """Images of mean c E + 1 in noise of standard deviation 1, with a start alone: the least squares of the data."""
    torch.manual_seed(6)
    age, effect = torch.randn(400), torch.randn(1, 4, 4)
    images = 1 + age.reshape(-1, 1, 1, 1) * effect + torch.randn(400, 1, 4, 4)
    start = LowRankStart.of_images(images, 0, continuous={"age": [0.0, 1.0]})
    network = Denoiser(Silent(), EDMPreconditioning(1.0), start=start)
    optimizer = torch.optim.Adam(start.parameters(), 0.05)
    loss = DenoisingLoss(LogNormalNoise(2.0, 1.0), partial(edm_weight, sigma_data=1.0))
    for _ in range(300):
        optimizer.zero_grad()
        loss(network, images, age=age).mean().backward()
        optimizer.step()
    least_squares = torch.linalg.lstsq(age[:, None], (images - images.mean(0)).flatten(1)).solution
    assert float((start.effects["age"].flatten(1) - least_squares).abs().max()) < 0.05
    assert float((least_squares.flatten() - effect.flatten()).abs().max()) < 0.2


class Silent(nn.Module):
    """A network that corrects nothing."""

    def forward(self, x, c_noise, **condition):
        return torch.zeros_like(x)


def test_it_measures_the_modes_of_images():
    """1,000 draws of modes of standard deviation 20 and 6 in noise: their axes, up to a sign, and their variances."""
    torch.manual_seed(1)
    axes, mean = modes_in_blocks(2), 3 * torch.randn(2, 4, 6).double()
    sizes = torch.tensor([20.0, 6.0]).double() * torch.randn(1000, 2).double()
    images = mean + torch.einsum("nk,kcxy->ncxy", sizes, axes) + torch.randn(1000, 2, 4, 6).double()
    start = LowRankStart.of_images(images, 2)
    torch.testing.assert_close(start.mean.double(), images.mean(0))
    along = (2 * torch.nn.functional.avg_pool2d(axes, 2)).flatten(1) @ start.axes.double().flatten(1).T
    torch.testing.assert_close(along.abs(), torch.eye(2).double(), atol=0.03, rtol=0)
    drawn = ((images - images.mean(0)).flatten(1) @ axes.flatten(1).T).square().mean(0)  # along the axes of the draws
    torch.testing.assert_close(start.variances.double(), drawn, rtol=0.01, atol=0)


@pytest.mark.parametrize("shape", [(1, 8), (1, 7), (2, 4, 6), (1, 4, 4, 6), (1, 3, 4)])
def test_it_is_the_preconditioning_before_it_is_measured(shape):
    start, x, sigma = LowRankStart(shape, 4), torch.randn(3, *shape), torch.tensor([0.1, 1.0, 50.0])
    c_skip = (1 / (1 + sigma**2)).reshape(3, *[1] * len(shape))
    torch.testing.assert_close(start(x, sigma, age=torch.zeros(3)), c_skip * x)


def test_few_images_have_fewer_modes_and_no_mode_has_less_variance_than_the_rest():
    torch.manual_seed(2)
    start = LowRankStart.of_images(0.1 * torch.randn(3, 1, 4, 4), 8)
    assert start.variances.tolist() == [1.0] * 8
    one = LowRankStart.of_images(torch.randn(1, 1, 4, 4), 8)
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(one(x, torch.tensor([2.0, 2.0])), one.mean + (x - one.mean) / 5)


def test_weights_carry_what_was_measured():
    source, target = LowRankStart.of_images(5 * torch.randn(9, 1, 8), 2), LowRankStart((1, 8), 2)
    target.load_state_dict(source.state_dict())
    x, sigma = torch.randn(2, 1, 8), torch.tensor([3.0, 1.0])
    assert torch.equal(source(x, sigma), target(x, sigma))


def test_images_of_another_size_have_the_same_centre():
    torch.manual_seed(3)
    start = LowRankStart.of_images(5 * torch.randn(9, 1, 4, 4), 2)
    sigma, voxel = torch.tensor([6.0]), (slice(None), slice(None), slice(1, 3), slice(1, 3))
    small, large = torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 6, 8)
    mean = start.mean[None]
    expected = torch.nn.functional.pad(mean, (2, 2, 1, 1), mode="replicate")
    rest = torch.nn.functional.pad(torch.randn(1, 1, 4, 4), (2, 2, 1, 1))
    inside = start(mean + rest[..., 1:5, 2:6], sigma)
    torch.testing.assert_close(start(expected + rest, sigma)[..., 1:5, 2:6], inside)
    assert start(small, sigma).shape == small.shape
    torch.testing.assert_close(start(large, 1e-4 * sigma), large, atol=1e-4, rtol=0)
    torch.testing.assert_close(start(mean[voxel], 1e6 * sigma), mean[voxel])
