"""All scales in one state, against closed forms: the prior and the posterior of Gaussian fields."""

from __future__ import annotations

import math

import pytest
import torch
from test_multiscale import exact_model

from monai_diffscore.guidance import PosteriorGuidance
from monai_diffscore.joint_scales import JointScales, StateOperator
from monai_diffscore.operators import Downsample, Mask
from monai_diffscore.sampling import sample_adams

SIZE = (8, 4)
VOXELS = math.prod(SIZE)


def drawn(joint, denoiser, steps=32):
    """Mean [d] and covariance [d, d] of the samples: with a Gaussian field, a sample is affine in its noise."""
    grid = joint.sigmas(steps)
    start = torch.cat([torch.zeros(1, VOXELS), torch.eye(VOXELS)]).double() * grid[0]
    with torch.no_grad():
        states = sample_adams(denoiser, start.reshape(-1, 1, *SIZE), grid)
        ends = joint.volume(states).flatten(1)
    return ends[0], (ends[1:] - ends[0]).T @ (ends[1:] - ends[0])


def divergence(mean, covariance, expected_mean, expected_covariance):
    """Kullback-Leibler divergence of two Gaussian densities, in nats per dimension."""
    ours, theirs = (
        torch.distributions.MultivariateNormal(*pair)
        for pair in ((mean, covariance), (expected_mean, expected_covariance))
    )
    return float(torch.distributions.kl_divergence(ours, theirs)) / len(mean)


def posterior(field, operator, y, noise_std):
    """Mean and covariance of a Gaussian field given a measurement."""
    a = operator(torch.eye(VOXELS, dtype=torch.float64).reshape(-1, 1, *SIZE)).flatten(1).T
    covariance = field.covariance_matrix
    inner = a @ covariance @ a.T + noise_std**2 * torch.eye(len(a), dtype=torch.float64)
    gain = torch.linalg.solve(inner, a @ covariance).T
    return field.mean + gain @ (y.flatten() - a @ field.mean), covariance - gain @ a @ covariance


def box():
    mask = torch.ones(1, 1, *SIZE)
    mask[..., 2:6, 1:3] = 0
    return Mask(mask)


MEASUREMENTS = {
    "a hole": (box(), 0.1),
    "noise": (Mask(torch.ones(1, 1, *SIZE)), 0.2),
    "thick slices": (Downsample((4, 1)), 0.05),
    "one voxel in four": (Mask((torch.arange(VOXELS) % 4 == 0).float().reshape(1, 1, *SIZE)), 0.1),
}


@pytest.fixture(scope="module")
def exact():
    return exact_model(2, 2, SIZE, 1)


def test_the_prior_of_the_joint_state_approaches_the_field_as_the_lead_grows(exact):
    model, field = exact
    errors = []
    for lead in (1.0, 4.0, 16.0):
        joint = JointScales(model, lead, largest_level=1e6)
        errors.append(divergence(*drawn(joint, joint, 96), field.mean, field.covariance_matrix))
    assert errors[0] > 4 * errors[1] > 8 * errors[2]
    assert errors[1] < 5e-3


@pytest.mark.parametrize(
    "name", ["a hole", *(pytest.param(name, marks=pytest.mark.slow) for name in list(MEASUREMENTS)[1:])]
)
def test_a_measurement_of_the_volume_gives_the_posterior_of_all_scales(exact, name):
    """In units of the posterior: the mean to 0.2 standard deviations, the variance to a tenth, with mmps."""
    model, field = exact
    operator, noise_std = MEASUREMENTS[name]
    torch.manual_seed(0)
    y = operator(field.sample().reshape(1, 1, *SIZE))
    y = y + noise_std * torch.randn_like(y)
    mean, covariance = posterior(field, operator, y, noise_std)
    joint = JointScales(model)
    state = StateOperator(operator, joint)
    guided = PosteriorGuidance(
        joint, state, y - state.offset(torch.zeros(1, 1, *SIZE).double()), noise_std, "mmps", 1, 20
    )
    ours, spread = drawn(joint, guided)
    assert divergence(ours, spread, mean, covariance) < 0.02
    assert float((ours - mean).norm()) < 0.2 * float(covariance.trace().sqrt())
    assert float(spread.trace()) == pytest.approx(float(covariance.trace()), rel=0.1)
    plain, _ = drawn(joint, joint)
    assert float((ours - mean).norm()) < 0.25 * float((plain - mean).norm()), "what the measurement tells is used"


def test_states_and_volumes_are_inverse_to_each_other(exact):
    joint = JointScales(exact[0], 3.0)
    x = torch.randn(2, 1, *SIZE, dtype=torch.float64)
    torch.testing.assert_close(joint.volume(joint.state(x)), x)
    torch.testing.assert_close(joint.volume(x) - joint.volume(torch.zeros_like(x)), joint.scaled(x))


def test_the_operator_of_states_has_its_adjoint_and_solves_with_a_variance_for_each_scale(exact):
    joint = JointScales(exact[0], 2.0)
    operator = StateOperator(Downsample((4, 2)), joint, iterations=100)
    z = torch.randn(1, 1, *SIZE, dtype=torch.float64)
    y = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close((operator(z) * y).sum(), (z * operator.adjoint(y)).sum())
    unit = torch.eye(VOXELS, dtype=torch.float64).reshape(-1, 1, *SIZE)
    a = operator(unit).flatten(1).T
    sigma = 0.7
    variances = [1 / (sigma**-2 + 4.0**scale) for scale in (0, 1, 2)]
    rows = [part.flatten(1) for part in joint._parts(unit)]
    v = sum(variance * row @ row.T for variance, row in zip(variances, rows, strict=True))
    expected = torch.linalg.solve(a @ v @ a.T + 0.01 * torch.eye(4), y.flatten())
    solved = operator.solve(y, torch.tensor([sigma**2 / (1 + sigma**2)]), 0.01)
    torch.testing.assert_close(solved.flatten(), expected, atol=1e-5, rtol=1e-5)


def test_wrong_leads_are_refused(exact):
    with pytest.raises(ValueError, match="lead >= 1"):
        JointScales(exact[0], 0.5)
