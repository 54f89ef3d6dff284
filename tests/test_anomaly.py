"""Anomaly maps where the prior is known: residuals in closed form, uniform p-values, lesions found."""

from __future__ import annotations

import pytest
import torch

from monai_diffscore.anomaly import HealthyScores, healthy_residuals, smoothed


def white(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Independent pixels N(0, 0.25)."""
    level = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return 0.25 / (0.25 + level**2) * x


def images(count: int, seed: int) -> torch.Tensor:
    return 0.5 * torch.randn(count, 1, 24, 24, generator=torch.Generator().manual_seed(seed))


def voxels(residuals: torch.Tensor) -> torch.Tensor:
    return residuals.movedim(1, -1).flatten(0, -2)


@pytest.fixture(scope="module")
def healthy() -> HealthyScores:
    return HealthyScores.of(voxels(healthy_residuals(white, images(200, 0), [0.3, 1.0], smoothing=0)))


def test_residuals_of_a_gaussian_prior_are_the_whitened_image_without_the_noise():
    x = images(3, 1).double()
    found = healthy_residuals(white, x, [0.3, 1.0], smoothing=0, generator=torch.Generator().manual_seed(5))
    expected = torch.cat([level**2 / (0.25 + level**2) * x for level in (0.3, 1.0)], dim=1)
    torch.testing.assert_close(found, expected)


def test_p_values_of_unseen_healthy_images_are_uniform(healthy):
    p = healthy.p_value(healthy_residuals(white, images(200, 2), [0.3, 1.0], smoothing=0)).flatten()
    for alpha in (0.001, 0.01, 0.05, 0.3, 0.8):
        share = float((p <= alpha).double().mean())
        noise = (2 * alpha * (1 - alpha) / len(p)) ** 0.5  # that of both sets
        assert alpha / 1.026 - 5 * noise < share < alpha + 5 * noise  # ranks are kept 2.5 % apart, and rounded up


def test_p_values_are_those_of_the_conformal_formula_and_never_too_small():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(3000, 1, generator=g).double()
    table = HealthyScores.of(scores)
    queries = 2 * torch.randn(500, 1, generator=g).double()
    p = table.p_value(queries)[:, 0]
    exact = (1 + (scores[:, 0].abs() >= queries.abs()).sum(1)).double() / 3001
    assert bool((p >= exact - 1e-12).all())
    assert bool((p <= 1.03 * exact + 1 / 3001).all())
    assert float(table.p_value(torch.tensor([[1e3]]).double())) == pytest.approx(1 / 3001)
    assert HealthyScores.from_dict(table.as_dict()) == table


@pytest.mark.parametrize("contrast", [1.0, -1.0])
def test_a_lesion_is_found_with_its_sign_and_the_rest_is_not(contrast):
    residuals = {seed: healthy_residuals(white, images(100, seed), [0.3, 1.0], smoothing=1.5) for seed in (0, 1)}
    healthy = HealthyScores.of(voxels(residuals[0]))
    place = torch.stack(torch.meshgrid(*[torch.arange(24.0)] * 2, indexing="ij")) - 12
    lesion = (place.square().sum(0) <= 9).float()
    found = healthy_residuals(white, images(1, 7) + contrast * lesion, [0.3, 1.0], smoothing=1.5)
    p, sign = healthy.p_value(found)[0, 0], healthy.signed_score(found)[0, 0].sign()
    core, far = place.square().sum(0) <= 4, place.square().sum(0) > 64
    assert float((p[core] < 0.001).float().mean()) > 0.9
    assert bool((sign[core] == contrast).all())
    assert float((p[far] < 0.001).float().mean()) < 0.02


def test_the_filter_keeps_the_mean_and_has_the_noise_gain_of_a_gaussian():
    x = torch.randn(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0)).double()
    inner = smoothed(x, 1.5)[..., 5:-5, 5:-5, 5:-5]
    assert float(inner.std()) == pytest.approx((2 * 1.5 * torch.pi**0.5) ** -1.5, rel=0.03)
    torch.testing.assert_close(smoothed(torch.ones_like(x), 1.5), torch.ones_like(x))
    assert smoothed(x, 0) is x


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(ValueError, match="more healthy data"):
        HealthyScores.of(torch.randn(50, 2))
    with pytest.raises(ValueError, match="finite"):
        HealthyScores.of(torch.full((200, 2), torch.nan))
    with pytest.raises(ValueError, match="noise levels > 0"):
        healthy_residuals(white, images(1, 0), [])
