"""Anomaly maps where the prior is known: residuals in closed form, uniform p-values, lesions found."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from monai_diffscore.anomaly import BallScan, HealthyScores, healthy_residuals, smoothed
from monai_diffscore.balls import Balls
from monai_diffscore.tensors import per_sample


def white(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Independent pixels N(0, 0.25)."""
    level = per_sample(sigma, x)
    return 0.25 / (0.25 + level**2) * x


def images(count: int, seed: int) -> torch.Tensor:
    return 0.5 * torch.randn(count, 1, 24, 24, generator=torch.Generator().manual_seed(seed))


def score(residuals: torch.Tensor) -> torch.Tensor:
    """Of white residuals, voxel by voxel."""
    return residuals.mean(1, keepdim=True)


def distances(shape: tuple[int, ...]) -> torch.Tensor:
    places = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"), -1)
    places = places.reshape(-1, len(shape)).double()
    return torch.cdist(places, places)


def test_residuals_of_a_gaussian_prior_are_the_whitened_image_without_the_noise():
    x = images(3, 1).double()
    residuals = healthy_residuals(white, x, [0.3, 1.0], generator=torch.Generator().manual_seed(5))
    expected = torch.cat([level**2 / (0.25 + level**2) * x for level in (0.3, 1.0)], dim=1)
    torch.testing.assert_close(residuals, expected)


def test_p_values_of_unseen_healthy_images_are_uniform():
    healthy, unseen = [score(healthy_residuals(white, images(200, seed), [0.3, 1.0])) for seed in (0, 2)]
    p = HealthyScores.of(healthy).p_value(unseen).flatten()
    for alpha in (0.001, 0.01, 0.05, 0.3, 0.8):
        share = float((p <= alpha).double().mean())
        noise = (2 * alpha * (1 - alpha) / len(p)) ** 0.5  # that of both sets
        assert alpha / 1.026 - 5 * noise < share < alpha + 5 * noise  # ranks are kept 2.5 % apart, and rounded up


def test_p_values_are_those_of_the_conformal_formula_and_never_too_small():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(3000, generator=g).double()
    table = HealthyScores.of(scores)
    queries = 2 * torch.randn(500, generator=g).double()
    p = table.p_value(queries)
    exact = (1 + (scores.abs() >= queries[:, None].abs()).sum(1)).double() / 3001
    assert bool((p >= exact - 1e-12).all())
    assert bool((p <= 1.03 * exact + 1 / 3001).all())
    assert float(table.p_value(torch.tensor([1e3]).double())) == pytest.approx(1 / 3001)


@pytest.mark.parametrize("shape", [(20,), (12, 7), (9, 11, 13)])
@pytest.mark.parametrize("radii", [(0,), (1,), (0, 1, 1.5, 2, 3.5), (2.5, 40), (7, 1)])
def test_balls_hold_the_voxels_within_their_radius(shape, radii):
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)).double()
    balls = Balls(radii, x.shape)
    planes = list(balls.sums(x))
    sums = torch.stack(planes, dim=3).reshape(2, 3, len(radii), -1)
    largest = torch.full_like(x.flatten(2), -torch.inf)
    for number, radius in enumerate(radii):
        within = distances(shape) <= radius + 1e-9
        torch.testing.assert_close(sums[:, :, number], x.flatten(2) @ within.double())
        of_radius = torch.where(within, sums[:, :, number, None], -torch.inf).amax(-1)
        largest = torch.maximum(largest, of_radius)
    assert torch.equal(balls.maxima(planes), largest.reshape(x.shape))


def test_the_scan_is_its_formula_and_turns_its_sign_with_the_image():
    residuals = torch.randn(2, 2, 9, 8, generator=torch.Generator().manual_seed(0)).double()
    scan = BallScan((0.0, 2.0), (0.5, 2.0), (1.0, 3.0))
    within = distances((9, 8)) <= 2
    mean = (residuals[:, 0] / 0.5 + residuals[:, 1] / 2.0).flatten(1) / 2
    balls = (mean @ within.double()) / 3.0
    inside = torch.where(within, balls[:, None], 0.0)
    strongest = inside.gather(2, inside.abs().argmax(2, keepdim=True))[..., 0]
    expected = torch.where(mean.abs() > strongest.abs(), mean, strongest).reshape(2, 1, 9, 8)
    torch.testing.assert_close(scan(residuals), expected)
    torch.testing.assert_close(scan(-residuals), -expected)


@pytest.mark.parametrize("shape", [(40,), (30, 24), (17, 22, 19)])
def test_the_scan_of_a_foreground_is_that_of_the_whole_image_there(shape):
    residuals = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(0))
    scan = BallScan((1.0, 3.5), (0.5, 2.0), (1.0, 3.0))
    inside = torch.zeros(2, 1, *shape, dtype=torch.bool)
    inside[(0, 0, *(slice(side // 2, side // 2 + 3) for side in shape))] = True
    torch.testing.assert_close(scan(residuals, inside), torch.where(inside, scan(residuals), 0.0))
    assert not scan(residuals, inside & False).any()


@pytest.mark.parametrize("contrast", [0.5, -0.5])
def test_a_faint_lesion_is_marked_with_its_sign_and_nothing_else(contrast):
    """One standard deviation of the pixels, which none of them shows by itself."""
    first, second = [healthy_residuals(white, images(100, seed), [0.3, 1.0]) for seed in (0, 1)]
    lesion = (distances((24, 24))[12 * 24 + 12].reshape(24, 24) <= 4).float()
    sick = healthy_residuals(white, images(100, 7) + contrast * lesion, [0.3, 1.0])
    scan = BallScan.of(first, torch.ones(100, 1, 24, 24, dtype=torch.bool), [1, 2, 3, 4, 5])
    anomalies = scan(sick)
    p = HealthyScores.of(scan(second)).p_value(anomalies)
    core, far = lesion > 0, distances((24, 24))[12 * 24 + 12].reshape(24, 24) > 10
    assert float((p[:, 0, core] <= 0.01).double().mean()) > 0.9
    assert float((anomalies[:, 0, core].sign() == (1 if contrast > 0 else -1)).double().mean()) > 0.95
    assert float((p[:, 0, far] <= 0.01).double().mean()) < 0.03
    alone = HealthyScores.of(score(second)).p_value(score(sick))
    assert float((alone[:, 0, core] <= 0.01).double().mean()) < 0.2


def test_the_filter_keeps_the_mean_and_has_the_noise_gain_of_a_gaussian():
    x = torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0)).double()
    inner = smoothed(x, 1.5)[..., 5:-5, 5:-5, 5:-5]
    assert float(inner.std()) == pytest.approx((2 * 1.5 * torch.pi**0.5) ** -1.5, rel=0.03)
    torch.testing.assert_close(smoothed(torch.ones_like(x), 1.5), torch.ones_like(x))
    assert smoothed(x, 0) is x


@pytest.mark.parametrize("size", [(70_000,), (300, 500), (40, 70, 90)])
def test_the_filter_works_in_blocks_as_at_once(size):
    x = torch.randn(2, 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ndimage.gaussian_filter(x.numpy(), 1.5, mode="nearest", radius=5, axes=range(2, x.ndim))
    torch.testing.assert_close(smoothed(x, 1.5), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_a_calibration_needs_finite_healthy_voxels_and_radii():
    inside = torch.ones(1, 1, 20, 20, dtype=torch.bool)
    with pytest.raises(ValueError, match="more healthy data"):
        HealthyScores.of(torch.randn(50))
    with pytest.raises(ValueError, match="finite"):
        HealthyScores.of(torch.full((200,), torch.nan))
    with pytest.raises(ValueError, match="finite residuals"):
        BallScan.of(torch.full((1, 2, 20, 20), torch.nan), inside, [1.0])
    with pytest.raises(ValueError, match="100 healthy voxels"):
        BallScan.of(torch.randn(1, 2, 20, 20), inside & False, [1.0])
    with pytest.raises(ValueError, match="radii"):
        BallScan.of(torch.randn(1, 2, 20, 20), inside, [])
    with pytest.raises(ValueError, match="noise levels > 0"):
        healthy_residuals(white, images(1, 0), [])
