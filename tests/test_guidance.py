"""Guidance and posterior sampling against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning, GaussianDenoiser, MixtureDenoiser, VPPreconditioning
from monai_diffscore.guidance import (
    Autoguidance,
    ClassifierFree,
    GuidanceInterval,
    Inpaint,
    LikelihoodGuidance,
    PosteriorGuidance,
)
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.operators import Blur, Downsample, Mask, Operator, Radon, conjugate_gradients
from monai_diffscore.sampling import asinh_sigmas, karras_sigmas, log_uniform_sigmas, sample_adams, sample_repaint
from monai_diffscore.tensors import per_sample

SIZE = 8


class Conditional(nn.Module):
    """D = c x with c the class (missing: 0.5), or the age (missing: 0.25)."""

    def forward(self, x, sigma, *, label=None, age=None):
        calls.append((label, age))
        gain = torch.where(label < 0, 0.5, label) if label is not None else torch.where(age.isnan(), 0.25, age)
        return per_sample(gain, x) * x


calls: list = []


@pytest.fixture(autouse=True)
def _forget():
    calls.clear()


def test_classifier_free_guidance_extrapolates_from_the_missing_token():
    x, label = torch.ones(3, 2), torch.tensor([1, 2, 3])
    guided = ClassifierFree(Conditional(), 3.0)(x, 1.0, label=label)
    torch.testing.assert_close(guided[:, 0], 0.5 + 3 * (label - 0.5))
    guided = ClassifierFree(Conditional(), 2.0)(x, 1.0, age=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(guided[:, 0], 2 * torch.tensor([1.0, 2.0, 3.0]) - 0.25)
    own = ClassifierFree(Conditional(), 2.0, null={"age": torch.tensor(0.0)})(x, 1.0, age=torch.ones(3))
    torch.testing.assert_close(own[:, 0], torch.full((3,), 2.0))


@pytest.mark.parametrize(("scale", "label"), [(1.0, 2.0), (0.0, 0.5)])
def test_scales_0_and_1_cost_one_evaluation(scale, label):
    guided = ClassifierFree(Conditional(), scale)(torch.ones(1, 2), 1.0, label=torch.tensor([2]))
    assert guided[0, 0] == label
    assert len(calls) == 1


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(ValueError, match="needs a condition to drop"):
        ClassifierFree(Conditional(), 2.0, keep=["age"])(torch.ones(1, 2), 1.0, age=torch.ones(1))


def test_interval_guides_inside_alone_and_pays_for_it_alone():
    conditional = Conditional()
    wrapped = GuidanceInterval(ClassifierFree(conditional, 3.0), conditional, low=0.5, high=2.0)
    label = torch.tensor([1, 1, 1])
    mixed = wrapped(torch.ones(3, 2), torch.tensor([0.5, 1.0, 2.5]), label=label)
    assert mixed[:, 0].tolist() == [1.0, 2.0, 1.0]
    calls.clear()
    wrapped(torch.ones(3, 2), 80.0, label=label)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="low < high"):
        GuidanceInterval(conditional, conditional, 2.0, 1.0)


def test_autoguidance_extrapolates_from_the_weaker_model(gaussian):
    weaker = GaussianDenoiser(torch.zeros(3), torch.eye(3))
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = 2 * gaussian(x, 0.7) - weaker(x, 0.7)
    torch.testing.assert_close(Autoguidance(gaussian, weaker, 2.0)(x, 0.7), expected)
    torch.testing.assert_close(Autoguidance(gaussian, weaker, 1.0)(x, 0.7), gaussian(x, 0.7))


# ---- posteriors ----


def smooth_prior(seed: int = 0, components: int = 1) -> MixtureDenoiser:
    """Signals [1, SIZE], smooth and correlated; as many populations as asked for."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(float(SIZE))
    covariance = 0.2 * torch.exp(-0.5 * ((place[:, None] - place) / 2) ** 2) + 0.02 * torch.eye(SIZE)
    means = 0.8 * torch.randn(components, 1, SIZE, generator=generator)
    return MixtureDenoiser(torch.ones(components), means, covariance.expand(components, SIZE, SIZE))


def posterior(prior: MixtureDenoiser, operator: Operator, y: torch.Tensor, noise: float) -> MixtureDenoiser:
    """The closed form."""
    matrix = operator(torch.eye(SIZE, dtype=torch.float64)[:, None]).flatten(1).T
    return prior.posterior(matrix, y, noise)


def test_the_closed_form_is_bayes_rule():
    """ln p(x | y) - ln p(x) - ln p(y | x) is one constant, -ln p(y), for every x."""
    prior, operator = smooth_prior(5, components=3), Downsample((4,))
    y = operator(prior.sample(1, torch.Generator().manual_seed(6)))
    exact = posterior(prior, operator, y, 0.3)
    x = prior.sample(9, torch.Generator().manual_seed(7))
    likelihood = -0.5 * ((y - operator(x)) / 0.3).square().flatten(1).sum(1)
    constant = exact.log_prob(x) - prior.log_prob(x) - likelihood
    torch.testing.assert_close(constant, constant[:1].expand(9), rtol=1e-8, atol=1e-8)
    mean, covariance = prior.moments()
    samples = prior.sample(200_000, torch.Generator().manual_seed(8)).flatten(1)
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.01)
    torch.testing.assert_close(samples.T.cov(), covariance, rtol=0, atol=0.01)


OPERATORS = {
    "mask": Mask(torch.arange(SIZE) < 5),
    "downsample": Downsample((4,)),
    "blur": Blur((1.0,)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_mmps_is_the_exact_posterior_denoiser_of_a_gaussian(name, sigma):
    prior, operator = smooth_prior(), OPERATORS[name]
    y = operator(prior.sample(1, torch.Generator().manual_seed(1)))
    exact = posterior(prior, operator, y, 0.1)
    x = sigma * torch.randn(4, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    guided = PosteriorGuidance(prior, operator, y, 0.1, "mmps", iterations=20)(x, sigma)
    torch.testing.assert_close(guided, exact(x, sigma), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_pigdm_is_exact_for_white_data(name, sigma):
    operator = OPERATORS[name]
    prior = GaussianDenoiser(0.3 * torch.ones(1, SIZE), 0.25 * torch.eye(SIZE))
    y = operator(prior.sample(1, torch.Generator().manual_seed(1)))
    x = sigma * torch.randn(4, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    guided = PosteriorGuidance(prior, operator, y, 0.1, "pigdm", sigma_data=0.5)(x, sigma)
    torch.testing.assert_close(guided, posterior(prior, operator, y, 0.1)(x, sigma), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sigma", [0.2, 0.6, 3.0])
def test_diffpir_is_exact_for_white_data_of_many_measured_values(name, sigma):
    """2,500 to 10,000 values give its variance, so its relative error is 2 to 3 %, and more where the noise of y
    exceeds it."""
    operator, draws = OPERATORS[name], torch.Generator().manual_seed(2)
    x0, noise = torch.randn(2, 2, 1250, SIZE, dtype=torch.float64, generator=draws)
    x = 0.3 + 0.5 * x0 + sigma * noise
    variance = sigma**2 * 0.25 / (sigma**2 + 0.25)

    class White(nn.Module):
        def forward(self, x, sigma):
            return 0.3 + 0.25 / (0.25 + per_sample(sigma, x) ** 2) * (x - 0.3)

    clean = operator(0.3 + 0.5 * x0)
    y = clean + 0.1 * torch.randn(clean.shape, dtype=torch.float64, generator=draws)
    exact = PosteriorGuidance(White(), operator, y, 0.1, "pigdm", sigma_data=0.5)(x, sigma)
    guided = PosteriorGuidance(White(), operator, y, 0.1, "diffpir")(x, sigma)
    assert float((guided - exact).square().mean().sqrt()) < 0.03 * variance**0.5


class Rotating(nn.Module):
    """An estimate whose Jacobian is not symmetric, as that of a trained network."""

    def __init__(self, gain: float = 3.0) -> None:
        super().__init__()
        turn = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        self.matrix = 0.1 * torch.eye(SIZE) + gain * (turn - turn.T) / SIZE

    def forward(self, x, sigma):
        return x @ self.matrix.T


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sigma", [0.05, 1.0, 80.0])
def test_diffpir_cannot_diverge(name, sigma):
    """For any denoiser: A D_y is between A D and y in the sense of the residual, and noise without a signal moves
    nothing."""
    operator = OPERATORS[name]
    y = operator(torch.randn(4, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    x = sigma * torch.randn(4, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = Rotating(100.0)(x, sigma)
    guided = PosteriorGuidance(Rotating(100.0), operator, y, 0.01, "diffpir")(x, sigma)
    before, after = ((y - operator(image)).flatten(1).norm(dim=1) for image in (plain, guided))
    assert (after <= before * (1 + 1e-9)).all()
    exact = PosteriorGuidance(Rotating(100.0), operator, operator(plain), 0.01, "diffpir")(x, sigma)
    assert torch.equal(exact, plain)


def test_mmps_stops_where_the_jacobian_is_not_symmetric_and_says_so_once(caplog):
    """Conjugate gradients assume symmetry. Without the test 20 of them end far from the measurement."""
    operator, noise, sigma = Mask(torch.ones(SIZE)), 0.05, 1.0
    x, y = torch.randn(2, 4, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    denoiser = Rotating()
    guidance = PosteriorGuidance(denoiser, operator, y, noise, "mmps", iterations=20)
    guided = guidance(x, sigma)
    guidance(x, sigma)
    assert [record.message.count("not symmetric") for record in caplog.records] == [1]

    def asymmetric(u):
        return sigma**2 * u @ denoiser.matrix + noise**2 * u

    residual = y - denoiser(x, sigma)
    blind = conjugate_gradients(asymmetric, residual, 20)
    weights = guidance._weigh(residual, torch.full((4,), sigma), lambda v, keep=True: v @ denoiser.matrix)
    left = [float((residual - asymmetric(solution)).norm()) for solution in (weights, blind)]
    assert left[0] < 0.1 * left[1]
    assert (weights.flatten(1).norm(dim=1) <= 2 * residual.flatten(1).norm(dim=1) / noise**2).all()
    assert guided.isfinite().all()


def test_dps_is_exact_for_white_data_when_the_operator_is_a_number():
    prior = GaussianDenoiser(torch.zeros(1, SIZE), 0.25 * torch.eye(SIZE))
    operator = Mask(2 * torch.ones(SIZE))
    y = operator(prior.sample(1, torch.Generator().manual_seed(1)))
    x = torch.randn(4, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    guided = PosteriorGuidance(prior, operator, y, 0.3, "dps", sigma_data=0.5)(x, 0.7)
    torch.testing.assert_close(guided, posterior(prior, operator, y, 0.3)(x, 0.7), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_posterior_samples_have_the_closed_form_mean_and_covariance(name, noise):
    """Gaussian prior, 1,500 samples: five standard errors of mean and covariance, plus 0.005 of the solver."""
    prior, operator, count = smooth_prior(), OPERATORS[name], 1500
    generator = torch.Generator().manual_seed(3)
    truth = operator(prior.sample(1, generator))
    y = truth + noise * torch.randn(truth.shape, dtype=torch.float64, generator=generator)
    exact = posterior(prior, operator, y, noise)
    guided = PosteriorGuidance(prior, operator, y, noise, "mmps", iterations=10)
    x = 80 * torch.randn(count, 1, SIZE, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        samples = sample_adams(guided, x, asinh_sigmas(30)).flatten(1)
    mean, covariance = exact.moments()
    spread = covariance.diagonal().sqrt()
    assert ((samples.mean(0) - mean).abs() < 5 * spread / math.sqrt(count) + 0.005).all()
    error = 5 * (spread[:, None] * spread) * math.sqrt(2 / count) + 0.005
    assert ((samples.T.cov() - covariance).abs() < error).all()


def posterior_bias(method: str, prior, operator, y, noise: float) -> float:
    exact = posterior(prior, operator, y, noise)
    x = 80 * torch.randn(400, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    guided = PosteriorGuidance(prior, operator, y, noise, method, sigma_data=1.0)
    samples = sample_adams(guided, x, asinh_sigmas(30))
    mean, _ = exact.moments()
    return float((samples.flatten(1).mean(0) - mean).square().mean().sqrt())


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("method", ["mmps", "pigdm", "dps"])
def test_every_method_comes_closer_to_a_mixture_posterior_than_the_prior_does(name, method):
    """Biased for mixtures (docs/BENCHMARKS_SAMPLING.md): less than half as far from the mean as the prior is."""
    prior, operator = smooth_prior(5, components=3), OPERATORS[name]
    y = operator(prior.sample(1, torch.Generator().manual_seed(6)))
    exact = posterior(prior, operator, y, 0.1)
    distance = (prior.moments()[0] - exact.moments()[0]).square().mean().sqrt()
    assert posterior_bias(method, prior, operator, y, 0.1) < 0.5 * distance


@pytest.mark.parametrize("method", ["mmps", "pigdm", "dps", "diffpir"])
def test_the_noise_of_the_measurement_is_honoured(method):
    """Samples explain y as well as its noise says: residuals of about sigma_y, neither 0 nor the prior's."""
    prior, operator = smooth_prior(), Mask(torch.ones(SIZE))
    for noise in (0.05, 0.2):
        x0 = prior.sample(300, torch.Generator().manual_seed(7))
        y = x0 + noise * torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
        start = 80 * torch.randn(x0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        guided = PosteriorGuidance(prior, operator, y, noise, method, sigma_data=0.5)
        residual = (sample_adams(guided, start, asinh_sigmas(25)) - y).std()
        assert 0.7 * noise < residual < 1.4 * noise


def test_gradients_pass_through_guidance():
    """The likelihood of a posterior, whose guidance takes gradients itself, is the closed form's."""
    prior, operator = smooth_prior(), Downsample((4,))
    y = operator(prior.sample(1, torch.Generator().manual_seed(1)))
    guided = PosteriorGuidance(prior, operator, y, 0.2, "mmps", iterations=15)
    exact = posterior(prior, operator, y, 0.2)
    points = exact.sample(3, torch.Generator().manual_seed(2))
    nats, _ = log_likelihood(guided, points, log_uniform_sigmas(40, 1e-3, 200.0))
    torch.testing.assert_close(nats, exact.log_prob(points), rtol=0, atol=0.02)


def test_inpainting_keeps_measured_values_and_conditions_the_others():
    prior = smooth_prior()
    truth = prior.sample(1, torch.Generator().manual_seed(1))
    mask = torch.arange(SIZE) < 5
    wrapped = Inpaint(prior, mask, truth)
    exact = posterior(prior, Mask(mask), truth * mask, 1e-3)
    x = 80 * torch.randn(600, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    samples = sample_repaint(wrapped, x, karras_sigmas(60), generator=torch.Generator().manual_seed(3), repeats=10)
    torch.testing.assert_close(samples[..., :5], truth[..., :5].expand(600, 1, 5), rtol=1e-9, atol=1e-9)
    # the mean of the unknown part is the conditional one to within replacement's bias
    assert (samples.mean(0).flatten() - exact.means[0])[5:].abs().max() < 0.1
    once = sample_repaint(wrapped, x, karras_sigmas(60), generator=torch.Generator().manual_seed(3), repeats=1)
    bias = [(s.mean(0).flatten() - exact.means[0])[5:].abs().max() for s in (samples, once)]
    assert bias[0] < bias[1]


@pytest.mark.parametrize("method", ["pigdm", "dps"])
@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_the_standard_deviation_of_the_data_is_that_of_the_denoiser(method, std):
    class Zero(nn.Module):
        def forward(self, x, c_noise):
            return torch.zeros_like(x)

    operator = Mask(2 * torch.ones(SIZE))
    y, x = torch.randn(2, 4, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = Denoiser(Zero(), EDMPreconditioning(std))  # D = s^2 x / (s^2 + sigma^2): the exact one of N(0, s^2)
    exact = posterior(GaussianDenoiser(torch.zeros(1, SIZE), std**2 * torch.eye(SIZE)), operator, y[:1], 0.3)(x, 0.7)
    wrapped = Inpaint(plain, torch.zeros(SIZE), torch.zeros(SIZE))  # a wrapper that changes nothing
    for denoiser in (plain, wrapped):
        guided = PosteriorGuidance(denoiser, operator, y[:1], 0.3, method)(x, 0.7)
        torch.testing.assert_close(guided, exact, rtol=1e-5, atol=1e-5)


def test_a_denoiser_without_a_standard_deviation_needs_one():
    operator, y = OPERATORS["mask"], torch.zeros(1, 1, SIZE)
    two = nn.ModuleList([EDMPreconditioning(0.5), EDMPreconditioning(1.0)])
    for denoiser in (nn.Identity(), two, Denoiser(nn.Identity(), VPPreconditioning())):
        for method in ("pigdm", "dps"):
            with pytest.raises(ValueError, match=r"needs sigma_data.*mmps"):
                PosteriorGuidance(denoiser, operator, y, 0.1, method)
        with pytest.raises(ValueError, match=r"LikelihoodGuidance needs sigma_data.*Pass sigma_data\.$"):
            LikelihoodGuidance(denoiser, lambda u: u, torch.ones_like, Mask(torch.ones(SIZE)), torch.zeros(1, SIZE))
    PosteriorGuidance(nn.Identity(), operator, y, 0.1, "mmps")


@pytest.mark.parametrize("std", [0.5, 1.0, 3.0])
def test_likelihood_guidance_takes_the_standard_deviation_of_its_denoiser(std):
    """White data of this standard deviation, and numbers of its mean with variance 0.09: the closed form."""

    class Zero(nn.Module):
        def forward(self, x, c_noise):
            return torch.zeros_like(x)

    denoiser = Denoiser(Zero(), EDMPreconditioning(std))  # D = c_skip x, exact for N(0, std^2)
    generator = torch.Generator().manual_seed(1)
    y, x = torch.randn(2, 4, SIZE, dtype=torch.float64, generator=generator)
    expected = (x / 0.7**2 + y / 0.09) / (1 / 0.7**2 + 1 / std**2 + 1 / 0.09)
    for wrapped in (denoiser, Inpaint(denoiser, torch.zeros(SIZE), torch.zeros(SIZE))):
        guided = LikelihoodGuidance(
            wrapped, lambda u: u, lambda m: torch.full_like(m, 0.09), Mask(torch.ones(SIZE)), y, iterations=1
        )
        torch.testing.assert_close(guided(x, 0.7), expected, rtol=1e-6, atol=1e-6)  # sigma_data is float32


@pytest.mark.parametrize("size", [(6, 9), (9, 6), (5, 12)])
def test_dps_takes_the_squared_norm_of_its_own_grid(size):
    """D + sigma^2 J A^T (r^2 |A|^2 + noise^2)^-1 (y - A D) with the largest singular value of the whole matrix."""
    radon = Radon(size, [0.0, 35.0, 90.0, 140.0])
    pixels = size[0] * size[1]
    matrix = radon(torch.eye(pixels, dtype=torch.float64).reshape(pixels, 1, *size)).flatten(1).T
    prior = GaussianDenoiser(torch.zeros(1, *size), 0.25 * torch.eye(pixels))
    x = torch.randn(2, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y, sigma, noise = radon(torch.ones_like(x)), 0.7, 0.3
    shrink = 0.25 / (0.25 + sigma**2)  # D = shrink x, J = shrink
    norm = torch.linalg.matrix_norm(matrix, 2) ** 2
    residual = y.flatten(1) - shrink * x.flatten(1) @ matrix.T
    expected = shrink * x.flatten(1) + sigma**2 * shrink * residual / (sigma**2 * shrink * norm + noise**2) @ matrix
    guided = PosteriorGuidance(prior, radon, y, noise, "dps", sigma_data=0.5)(x, sigma)
    torch.testing.assert_close(guided.flatten(1), expected, rtol=1e-3, atol=1e-3)  # 20 steps of the power method


@pytest.mark.parametrize("method", ["mmps", "pigdm", "dps", "diffpir"])
def test_hidden_values_of_a_mask_have_no_effect(method):
    prior = GaussianDenoiser(torch.zeros(1, SIZE), 0.25 * torch.eye(SIZE))
    operator = Mask((torch.arange(SIZE) % 2 == 0).float())
    image, x = torch.randn(2, 3, 1, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = PosteriorGuidance(prior, operator, operator(image), 0.1, method, sigma_data=0.5)(x, 0.7)
    for hidden in (image, torch.where(operator.mask > 0, image, torch.nan)):
        guided = PosteriorGuidance(prior, operator, hidden, 0.1, method, sigma_data=0.5)(x, 0.7)
        torch.testing.assert_close(guided, expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE), (2, 1, SIZE), (3, 2, SIZE)])
def test_a_measurement_of_another_shape_is_refused(shape):
    prior = GaussianDenoiser(torch.zeros(1, SIZE), 0.25 * torch.eye(SIZE))
    guided = PosteriorGuidance(prior, Mask(torch.ones(SIZE)), torch.zeros(shape), 0.1, sigma_data=0.5)
    with pytest.raises(ValueError, match=r"shape of A x, \(3, 1"):
        guided(torch.zeros(3, 1, SIZE), 0.7)


def test_a_measurement_that_is_not_finite_is_refused():
    y = torch.zeros(1, 1, SIZE)
    y[..., 1] = torch.nan
    with pytest.raises(ValueError, match=r"1 of \d+ values NaN.*Mask"):
        PosteriorGuidance(nn.Identity(), Mask(torch.ones(SIZE)), y, 0.1, "mmps")


def test_impossible_posteriors_are_refused():
    with pytest.raises(ValueError, match="'mmps', 'pigdm', 'dps', 'diffpir'"):
        PosteriorGuidance(nn.Identity(), OPERATORS["mask"], torch.zeros(1, 1, SIZE), 0.1, "magic")
    with pytest.raises(ValueError, match="noise_std"):
        PosteriorGuidance(nn.Identity(), OPERATORS["mask"], torch.zeros(1, 1, SIZE), 0.0, "mmps")


@pytest.mark.parametrize("mask", [torch.rand(SIZE), 255.0 * (torch.arange(SIZE) > 3), torch.arange(SIZE) - 2.0])
def test_an_image_is_no_mask_of_inpainting(mask):
    with pytest.raises(ValueError, match="a mask of 0 and 1, got values from"):
        Inpaint(smooth_prior(), mask, torch.zeros(SIZE))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_known_values_are_finite_where_they_are_known(bad):
    known, mask = torch.full((SIZE,), bad), torch.arange(SIZE) > SIZE // 2
    with pytest.raises(ValueError, match=rf"got {int(mask.sum())} NaN or infinite where the mask is 1"):
        Inpaint(smooth_prior(), mask, known)
    known[mask] = 1.0
    assert Inpaint(smooth_prior(), mask, known)(torch.zeros(2, SIZE), 1.0).isfinite().all()


@pytest.mark.parametrize("shape", [(5, SIZE), (3, 2, SIZE), (1, 1, SIZE)])
def test_known_values_do_not_widen_the_batch(shape):
    with pytest.raises((ValueError, RuntimeError), match=r"broadcast to the shape of x|must match the size"):
        Inpaint(smooth_prior(), torch.ones(SIZE), torch.zeros(shape))(torch.zeros(2, SIZE), 1.0)


@pytest.mark.parametrize("label", [3, "benign", [1, 2]])
def test_a_condition_that_is_no_tensor_is_refused_with_the_remedy(label):
    with pytest.raises(TypeError, match=rf"'label' as a tensor.*got {type(label).__name__}.*torch\.full"):
        ClassifierFree(nn.Identity(), 2.0)(torch.zeros(2, SIZE), 1.0, label=label)
