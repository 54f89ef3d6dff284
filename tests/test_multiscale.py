"""Models of scales against closed forms: on Gaussian fields every conditional is Gaussian, and so is the whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning, GaussianDenoiser
from monai_diffscore.guidance import ClassifierFree
from monai_diffscore.losses import DenoisingLoss, LogNormalNoise
from monai_diffscore.multiscale import MultiScale, MultiScaleLoss, log_likelihood_scales, sample_scales
from monai_diffscore.networks import ConditionEncoder, ScoreUNet, scale_unets
from monai_diffscore.pyramid import Pyramid
from monai_diffscore.sampling import asinh_sigmas, log_uniform_sigmas, sample_euler
from monai_diffscore.scales import Scales, measure_scales
from monai_diffscore.tiling import TiledDenoiser

FIELDS = [(1, 2, (16,), 1), (1, 2, (16,), 2), (2, 1, (8, 4), 1), (2, 2, (4, 8), 3), (3, 1, (4, 4, 4), 1)]
each_field = pytest.mark.parametrize(("dims", "scales", "size", "moments"), FIELDS)


class ConditionalGaussianDenoiser(nn.Module):
    """The exact denoiser of x0 ~ N(m + G (coarse - c), C) given ``coarse``."""

    def __init__(self, mean, covariance, gain=None, centre=None):
        super().__init__()
        self.plain = GaussianDenoiser(torch.zeros_like(mean), covariance)
        self.mean, self.gain, self.centre = mean, gain, centre

    def forward(self, x, sigma, coarse=None):
        mean = self.mean
        if self.gain is not None:
            mean = mean + (coarse.flatten(1) - self.centre) @ self.gain.T
        mean = mean.expand(len(x), -1).reshape(x.shape)
        return mean + self.plain(x - mean, sigma)


def gaussian_field(size):
    """Mean [d] and covariance [d, d] of a field on a grid: smooth, and white noise of a tenth of its variance."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in size], indexing="ij")
    place = torch.stack([axis.flatten() for axis in axes], 1)
    covariance = torch.exp(-torch.cdist(place, place) / 3) + 0.1 * torch.eye(len(place), dtype=torch.float64)
    return torch.sin(place.sum(1) / 3) + 0.5, covariance


def exact_model(dims, scales, size, moments):
    """The exact model of a Gaussian field, with that field."""
    pyramid = Pyramid(dims, scales, moments)
    mean, covariance = gaussian_field(size)
    unit = torch.eye(len(mean), dtype=torch.float64).reshape(len(mean), 1, *size)
    image, details = pyramid.analysis(unit)
    rows = [image.flatten(1).T, *[detail.flatten(1).T for detail in details]]  # each [coefficients, d]
    channels = [1] + [pyramid.bands] * scales
    # standard deviations of the data, over draws and voxels; the means differ by voxel and stay in the denoisers
    moment = covariance + torch.outer(mean, mean)
    stds = [
        [float((r @ moment * r).sum(1).mean().sqrt()) for r in row.chunk(count)]
        for row, count in zip(rows, channels, strict=True)
    ]
    statistics = {"mean": [[0.0] * count for count in channels], "std": stds}
    split = Scales(pyramid, statistics=statistics)
    denoisers = []
    for number, (row, std) in enumerate(zip(rows, stds, strict=True)):
        scale = torch.tensor(std, dtype=torch.float64).repeat_interleave(len(row) // len(std))
        row = row / scale[:, None]
        if number == 0:
            denoisers.append(ConditionalGaussianDenoiser(row @ mean, row @ covariance @ row.T))
            continue
        coarse = image.flatten(1).T * 2 ** (-0.5 * dims * (scales + 1 - number))
        gain = torch.linalg.solve(coarse @ covariance @ coarse.T, coarse @ covariance @ row.T).T
        rest = row @ covariance @ row.T - gain @ (coarse @ covariance @ row.T)
        denoisers.append(ConditionalGaussianDenoiser(row @ mean, rest, gain, coarse @ mean))
        image = pyramid.join(image, details[number - 1])
    return MultiScale(split, denoisers), torch.distributions.MultivariateNormal(mean, covariance)


@each_field
def test_the_sum_over_the_scales_is_the_closed_form(dims, scales, size, moments):
    model, field = exact_model(dims, scales, size, moments)
    torch.manual_seed(0)
    flat = field.sample((6,))
    nats, error = log_likelihood_scales(model, flat.reshape(6, 1, *size), log_uniform_sigmas(64, 1e-3, 400.0))
    assert nats.shape == (scales + 1, 6)
    assert float((nats.sum(0) - field.log_prob(flat)).abs().max()) / math.prod(size) < 1e-3
    assert (error == 0).all()


@each_field
def test_samples_have_the_mean_and_the_covariance_of_the_field(dims, scales, size, moments):
    model, field = exact_model(dims, scales, size, moments)
    count = 4000
    generator = torch.Generator().manual_seed(0)
    samples = sample_scales(
        model, (count, 1, *size), asinh_sigmas(24, 80.0), generator=generator, dtype=torch.float64
    ).flatten(1)
    variance = field.covariance_matrix.diag()
    # standard errors of means and covariances of a Gaussian sample; 5 of them among some thousand entries
    mean_error = (samples.mean(0) - field.mean) / (variance / count).sqrt()
    assert float(mean_error.abs().max()) < 5
    spread = ((torch.outer(variance, variance) + field.covariance_matrix**2) / count).sqrt()
    assert float(((samples.T.cov() - field.covariance_matrix) / spread).abs().max()) < 5


def test_a_sample_depends_on_its_generator_alone():
    model, _ = exact_model(2, 1, (8, 4), 1)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = sample_scales(model, (2, 1, 8, 4), asinh_sigmas(6), generator=generators)
    alone = sample_scales(model, (1, 1, 8, 4), asinh_sigmas(6), generator=[torch.Generator().manual_seed(2)])
    torch.testing.assert_close(both[1:], alone)


def test_details_are_drawn_for_a_coarse_image():
    """The conditional mean of a Gaussian field given its coarse image, and the coarse image stays."""
    dims, scales, size = 2, 1, (8, 4)
    model, field = exact_model(dims, scales, size, 1)
    torch.manual_seed(1)
    x = field.sample().reshape(1, 1, *size)
    coarse = nn.functional.avg_pool2d(x, 2)
    count = 2000
    generator = torch.Generator().manual_seed(0)
    draws = sample_scales(
        model, (count, 1, *size), asinh_sigmas(24), coarse=coarse.repeat(count, 1, 1, 1), generator=generator,
        dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(nn.functional.avg_pool2d(draws, 2), coarse.expand(count, -1, -1, -1))
    unit = torch.eye(32, dtype=torch.float64).reshape(32, 1, *size)
    pool = nn.functional.avg_pool2d(unit, 2).flatten(1).T
    gain = torch.linalg.solve(pool @ field.covariance_matrix @ pool.T, pool @ field.covariance_matrix).T
    expected = field.mean + gain @ (coarse.flatten() - pool @ field.mean)
    rest = (field.covariance_matrix - gain @ pool @ field.covariance_matrix).diag()
    assert float(((draws.flatten(1).mean(0) - expected) / (rest / count).sqrt()).abs().max()) < 5
    with pytest.raises(ValueError, match=r"one of the shapes \[\(1, 1, 4, 2\)\], got \(1, 1, 3, 2\)"):
        sample_scales(model, (1, 1, *size), asinh_sigmas(4), coarse=torch.zeros(1, 1, 3, 2))


def test_merge_is_the_inverse_of_split_and_measured_scales_have_unit_variance():
    pyramid = Pyramid(2, 2, 2)
    x = 3 + torch.randn(4, 2, 16, 8, dtype=torch.float64).cumsum(-1)
    scales = Scales(pyramid, channels=2, statistics=measure_scales(pyramid, x))
    parts = scales.split(x)
    assert [tuple(part.coefficients.shape) for part in parts] == [(4, 2, 4, 2), (4, 6, 4, 2), (4, 6, 8, 4)]
    torch.testing.assert_close(scales.merge([part.coefficients for part in parts]), x)
    for part in parts:
        over = (0, 2, 3)
        torch.testing.assert_close(part.coefficients.mean(over), torch.zeros(part.coefficients.shape[1]).double())
        torch.testing.assert_close(
            part.coefficients.square().mean(over), torch.ones_like(part.coefficients[0, :, 0, 0])
        )


def test_statistics_come_with_the_weights():
    pyramid = Pyramid(1, 1)
    source = Scales(pyramid, statistics=measure_scales(pyramid, torch.randn(2, 1, 8)))
    target = Scales(pyramid)
    target.load_state_dict(source.state_dict())
    x = torch.randn(1, 1, 8)
    for ours, theirs in zip(target.split(x), source.split(x), strict=True):
        torch.testing.assert_close(ours.coefficients, theirs.coefficients)


def test_the_coarse_field_is_the_local_mean_in_units_of_the_volume():
    x = torch.randn(1, 1, 8, 8, 4)
    scales = Scales(Pyramid(3, 2), position_key="position")
    fields = [part.fields for part in scales.split(x)]
    assert fields[0] == {}
    torch.testing.assert_close(fields[1]["coarse"], nn.functional.avg_pool3d(x, 4))
    torch.testing.assert_close(fields[2]["coarse"], nn.functional.avg_pool3d(x, 2))
    assert fields[2]["position"].shape == (1, 3, 4, 4, 2)
    assert fields[2]["position"][0, :, 0, -1, 0].tolist() == [-1, 1, -1]


class LinearDetails(nn.Module):
    """The exact denoiser of one field without noise: its details are linear in the position."""

    def __init__(self, slope, offset):
        super().__init__()
        self.slope, self.offset = slope, offset

    def forward(self, x, sigma, coarse=None, position=None):
        return torch.zeros_like(x) if position is None else self.slope * position + self.offset


def test_windows_lie_where_coefficients_are():
    """A voxel is the centre of a window with a probability proportional to its magnitude + a tenth of the mean.

    Four of 32 coefficients are 2, and 28 are 0: the mean is 1/4, and the four have 4 (2 + .025) / (8 + .8) = .92.
    """
    centres = []

    class Watch(DenoisingLoss):
        def forward(self, denoiser, x0, generator=None, **condition):
            centres.append(condition["position"])
            return x0.flatten(1).mean(1)

    scales = Scales(Pyramid(1, 1), position_key="position")
    x = torch.zeros(1, 1, 64)
    x[..., 24:32:2] = 2**0.5
    x[..., 25:32:2] = -(2**0.5)
    assert scales.split(x)[1].coefficients.abs().flatten().tolist() == pytest.approx([0] * 12 + [2] * 4 + [0] * 16)
    loss = MultiScaleLoss(scales, [Watch(LogNormalNoise())] * 2, [None, (1,)], [1, 4000])
    loss.losses[0] = DenoisingLoss(LogNormalNoise())
    loss(MultiScale(scales, [LinearDetails(0, 0)] * 2), x, torch.Generator().manual_seed(0))
    voxel = ((centres[0].flatten() + 1) / 2 * 31).round().long()
    share = voxel.bincount(minlength=32) / len(voxel)
    assert float(share[12:16].sum()) == pytest.approx(4 * 2.025 / 8.8, abs=5 * (0.92 * 0.08 / 4000) ** 0.5)
    assert (share > 0).all()
    loss(MultiScale(scales, [LinearDetails(0, 0)] * 2), torch.zeros_like(x), torch.Generator().manual_seed(0))
    empty = (((centres[1].flatten() + 1) / 2 * 31).round().long().bincount(minlength=32) / 4000 - 1 / 32).abs()
    assert float(empty.max()) < 5 * (1 / 32 / 4000) ** 0.5  # an empty volume has windows everywhere


def test_windows_cut_coefficients_and_fields_at_the_same_place():
    """A quadratic has linear Haar details: a model that knows the position alone makes no error on any window."""
    t = torch.arange(64.0)
    scales = Scales(Pyramid(1, 1), position_key="position")
    # d_i = ((2i)^2 - (2i + 1)^2) / sqrt 2 = -(4 i + 1) / sqrt 2 with 2 i = (position + 1) (64 - 2) / 2
    model = MultiScale(scales, [LinearDetails(0, 0), LinearDetails(-62 / 2**0.5, -63 / 2**0.5)])
    loss = MultiScaleLoss(scales, [DenoisingLoss(LogNormalNoise(), torch.ones_like)] * 2, [None, (5,)], [1, 7])
    details = loss.by_scale(model, t.square()[None, None], torch.Generator().manual_seed(0))[1]
    assert float(details.max()) < 1e-6
    misplaced = MultiScale(scales, [LinearDetails(0, 0), LinearDetails(-62 / 2**0.5, -61 / 2**0.5)])
    assert float(loss.by_scale(misplaced, t.square()[None, None])[1].min()) > 1


class Listener(nn.Module):
    """A network that keeps the conditions of each call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, c_noise, **condition):
        self.calls.append(condition)
        return torch.zeros_like(x)


def listening_model():
    """A model of three scales whose networks are :class:`Listener`, these networks, and a loss for each scale."""
    split = Scales(Pyramid(2, 2), position_key="position")
    heard = [Listener() for _ in range(3)]
    model = MultiScale(split, [Denoiser(network, EDMPreconditioning(1.0)) for network in heard])
    return model, heard, [DenoisingLoss(LogNormalNoise(), lambda sigma: sigma) for _ in range(3)]


def test_a_dropped_condition_is_missing_in_all_scales_and_their_fields_never_are():
    torch.manual_seed(0)
    model, heard, losses = listening_model()
    loss = MultiScaleLoss(model.scales, losses, [None] * 3, [1, 2, 1], dropout=0.25)
    x0, condition = torch.randn(400, 1, 8, 8), {"age": torch.full((400,), 60.0), "sex": torch.ones(400).long()}
    loss.train()(model, x0, **condition)
    (coarse,), (details,), (finest,) = [network.calls for network in heard]
    missing = coarse["age"].isnan()
    assert 0.15 < float(missing.float().mean()) < 0.35
    assert torch.equal(coarse["sex"] == -1, missing)
    assert torch.equal(details["age"].isnan(), missing.repeat_interleave(2))
    assert torch.equal(finest["age"].isnan(), missing)
    assert not any(call[name].isnan().any() for call in (details, finest) for name in ("coarse", "position"))
    loss.eval()(model, x0, **condition)
    assert all(torch.equal(network.calls[1]["sex"].unique(), torch.tensor([1])) for network in heard)


def test_noise_on_the_coarse_image_is_uniform_up_to_its_level_and_leaves_what_is_learned():
    torch.manual_seed(0)
    model, heard, losses = listening_model()
    loss = MultiScaleLoss(model.scales, losses, [None] * 3, coarse_noise=[0.0, 0.0, 0.3])
    x0 = torch.randn(500, 1, 16, 16)
    details, finest = (scale.fields for scale in model.scales.split(x0)[1:])
    loss.train()(model, x0)
    torch.testing.assert_close(heard[1].calls[0], details)
    torch.testing.assert_close(heard[2].calls[0]["position"], finest["position"])
    noise = heard[2].calls[0]["coarse"] - finest["coarse"]
    stds = noise.flatten(1).std(1).sort().values  # of 64 voxels
    expected = torch.linspace(0, 0.3, 500)
    assert float((stds - expected).abs().max()) < 0.06
    assert abs(float(noise.mean())) < 0.005
    loss.eval()(model, x0)
    torch.testing.assert_close(heard[2].calls[1], finest)


def networks(position=True):
    """A small model of two scales in 2-D with an age."""
    fields = {"coarse": 1, "position": 2} if position else {"coarse": 1}
    age = {"age_years": (50.0, 20.0)}
    coarse = ScoreUNet(
        2, 1, 1, (8, 8), num_res_blocks=1, num_head_channels=8, condition=ConditionEncoder(continuous=age)
    )
    details = ScoreUNet(
        2, 3, 3, (8, 8), num_res_blocks=1, num_head_channels=8, attention_levels=(False, False),
        condition=ConditionEncoder(continuous=age, concat=fields),
    )  # fmt: skip
    for network in (coarse, details):
        nn.init.normal_(network.output.weight, std=0.1)
    return [Denoiser(network, EDMPreconditioning(1.0)) for network in (coarse, details)]


def test_tiles_of_details_see_their_coarse_image_and_their_position():
    """Windows that do not overlap, of a network that sees one voxel, give the estimate of the whole."""
    torch.manual_seed(0)
    scales = Scales(Pyramid(2, 1), position_key="position")
    model = MultiScale(scales, networks())
    size = (1, 1, 16, 16)
    whole_window = model.wrapped(lambda denoiser: TiledDenoiser(denoiser, (8, 8)))
    plain, tiled = (
        sample_scales(
            m, size, asinh_sigmas(4), generator=torch.Generator().manual_seed(3), age_years=torch.tensor([30.0])
        )
        for m in (model, whole_window)
    )
    torch.testing.assert_close(plain, tiled)
    position = LinearDetails(torch.tensor(2.0), 0.5)
    part = scales.split(torch.randn(size))[1]
    x, sigma = part.coefficients[:, :2], torch.ones(1)
    tiles = TiledDenoiser(position, (4, 4))
    torch.testing.assert_close(tiles(x, sigma, **part.fields), position(x, sigma, **part.fields))


def test_guidance_wraps_each_scale():
    torch.manual_seed(0)
    model = MultiScale(Scales(Pyramid(2, 1)), networks(position=False))
    guided = model.wrapped(lambda denoiser: ClassifierFree(denoiser, 2.0, keep=("coarse",)), details=False)
    generator = torch.Generator().manual_seed(0)
    ages = {"age_years": torch.tensor([30.0, 80.0])}
    x = torch.randn(2, 3, 4, 4, generator=generator)
    fields = {"coarse": torch.randn(2, 1, 4, 4, generator=generator)}
    free = model(x, 1.0, scale=1, **fields, age_years=torch.full((2,), math.nan))
    bound = model(x, 1.0, scale=1, **fields, **ages)
    torch.testing.assert_close(guided(x, 1.0, scale=1, **fields, **ages), free + 2 * (bound - free))
    samples = sample_scales(guided, (2, 1, 8, 8), asinh_sigmas(3), sample_euler, **ages)
    assert samples.shape == (2, 1, 8, 8)


def test_one_step_trains_all_scales():
    torch.manual_seed(0)
    scales = Scales(Pyramid(2, 1), position_key="position")
    model = MultiScale(scales, networks())
    loss = MultiScaleLoss(scales, [DenoisingLoss(LogNormalNoise())] * 2, [None, (4, 4)], [1, 2])
    value = loss(model, torch.randn(3, 1, 16, 16), age_years=torch.tensor([20.0, 50.0, math.nan]))
    assert value.shape == (3,)
    value.mean().backward()
    assert all(parameter.grad is not None for parameter in model.denoisers[1].network.hourglass.parameters())
    assert all(float(d.network.output.weight.grad.abs().max()) > 0 for d in model.denoisers)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_networks_of_any_number_of_scales_see_the_whole_coarse_image_and_the_details_near_a_voxel(count):
    """A change at one end of the image moves the estimate at the other end in the coarse image alone."""
    torch.manual_seed(0)
    pyramid = Pyramid(2, count)
    fields = {"fields": {"coarse": 1, "position": 2}, "categorical": {"sex": 2}, "continuous": {"age": (60.0, 20.0)}}
    networks = scale_unets(2, 1, pyramid.bands, [4, 32], [[4]] * count, **fields)
    model = MultiScale.of_networks(Scales(pyramid, position_key="position"), networks, EDMPreconditioning(1.0)).eval()
    for parameter in model.parameters():  # many begin at zero
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, 1, 2**count * 16, 2**count * 16)
    conditions = {"sex": torch.tensor([1]), "age": torch.tensor([70.0])}
    for number, scale in enumerate(model.scales.split(x)):
        there = scale.coefficients.clone()
        there[..., 0, 0] += 10
        here, moved = (
            model(y, 1.0, scale=number, **scale.fields, **conditions)[..., -1, -1] for y in (scale.coefficients, there)
        )
        assert torch.equal(here, moved) == (number > 0)


def test_wrong_requests_are_refused():
    scales = Scales(Pyramid(1, 1))
    with pytest.raises(ValueError, match="a denoiser for each of 2 scales, got 1"):
        MultiScale(scales, [nn.Identity()])
    with pytest.raises(ValueError, match=r"for each scale, the coarsest first, of \[1, 1\] channels, got"):
        Scales(Pyramid(1, 1), statistics={"mean": [[0.0]], "std": [[1.0]]})
    with pytest.raises(ValueError, match=r"at scales \[1\]"):
        measure_scales(Pyramid(1, 1), [torch.tensor([[0.0, 0.0, 1.0, 1.0]])])
    with pytest.raises(ValueError, match="at least one volume"):
        measure_scales(Pyramid(1, 1), [])
    loss = MultiScaleLoss(scales, [DenoisingLoss(LogNormalNoise())] * 2, [None, (9,)])
    model = MultiScale(scales, [LinearDetails(0, 0)] * 2)
    with pytest.raises(ValueError, match=r"windows of at most \(8,\) voxels at scale 1, got \(9,\)"):
        loss(model, torch.zeros(1, 1, 16))
    with pytest.raises(ValueError, match=r"\['mask'\] with spatial axes"):
        loss(model, torch.zeros(1, 1, 16), mask=torch.zeros(1, 1, 16))
