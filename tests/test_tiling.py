"""Volumes by windows: exact where the answer is known, and no more memory than a batch of windows."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from monai_diffscore.denoiser import GaussianDenoiser
from monai_diffscore.guidance import PosteriorGuidance
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.metrics import seam_ratio
from monai_diffscore.operators import Mask
from monai_diffscore.sampling import asinh_sigmas, log_uniform_sigmas, sample_adams
from monai_diffscore.tensors import per_sample
from monai_diffscore.tiling import SliceDenoiser, TiledDenoiser, any_size, window_starts


class Voxelwise(nn.Module):
    """The exact denoiser of independent voxels N(m, v): its result does not depend on the window."""

    def __init__(self, mean: float = 0.3, variance: float = 0.25) -> None:
        super().__init__()
        self.mean, self.variance = mean, variance
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x, sigma, **condition):
        self.seen.append(tuple(x.shape))
        level = per_sample(sigma, x)
        return self.mean + self.variance / (self.variance + level**2) * (x - self.mean)


def volume(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [8, 9, 12, 15, 16, 31])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_windows_cover_with_the_overlap_and_are_as_few_as_can_be(size, overlap):
    starts = window_starts(size, 8, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - 8
    strides = [b - a for a, b in itertools.pairwise(starts)]
    stride = int(8 * (1 - overlap))
    assert all(0 < s <= stride for s in strides)
    assert len(starts) == -(-(size - 8) // stride) + 1


@pytest.mark.parametrize("shape", [(2, 1, 19), (1, 2, 8, 21), (2, 1, 9, 8, 13)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_voxelwise_denoiser_does_not_notice_the_tiling(shape, overlap, batch_size):
    x, plain = volume(*shape), Voxelwise()
    sigma = torch.linspace(0.2, 2.0, shape[0], dtype=torch.float64)
    tiled = TiledDenoiser(plain, [8] * (len(shape) - 2), overlap, batch_size=batch_size)
    torch.testing.assert_close(tiled(x, sigma), plain(x, sigma), rtol=1e-12, atol=1e-12)
    assert all(seen[0] <= batch_size and set(seen[2:]) == {8} for seen in plain.seen[:-1])


class Gradient(nn.Module):
    """Tells the windows apart: adds a ramp over the window."""

    def forward(self, x, sigma):
        return x + torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)


def test_blending_is_that_of_monais_sliding_window():
    """Where both put their windows alike, away from the border, where MONAI's floor of 1e-3 on its weights differs."""
    x = volume(1, 1, 16, 24)
    ours = TiledDenoiser(Gradient(), (8, 8), 0.5)(x, 1.0)
    theirs = sliding_window_inference(x, (8, 8), 1, lambda w: Gradient()(w, None), overlap=0.5, mode="gaussian")
    inside = (..., slice(4, 12), slice(4, 20))
    torch.testing.assert_close(ours[inside], torch.as_tensor(theirs)[inside], rtol=0, atol=2e-2)
    assert (ours - x).std() > 0.1  # the ramps are there


class Records(nn.Module):
    """Returns a condition field, and keeps its arguments."""

    def forward(self, x, sigma, *, mask, age, position=None):
        self.age, self.position = age, position
        return mask


def test_image_shaped_conditions_are_cut_and_others_are_passed():
    network = Records()
    mask, age = volume(2, 1, 12, 10), torch.tensor([40.0, 70.0])
    tiled = TiledDenoiser(network, (8, 8), 0.5, position_key="position")
    torch.testing.assert_close(tiled(volume(2, 1, 12, 10), 1.0, mask=mask, age=age), mask)
    assert network.age.tolist() == [70.0]  # of the sample that the last window belongs to
    assert network.position.shape == (1, 2, 8, 8)
    assert network.position[0, :, -1, -1].tolist() == [1, 1]  # the last voxel of the volume
    torch.testing.assert_close(network.position[0, 0, 0, 0], torch.tensor(2 * 4 / 11 - 1, dtype=torch.float64))


def test_sampling_through_windows_is_sampling():
    plain, x = Voxelwise(), 80 * volume(2, 1, 12, 11)
    tiled = TiledDenoiser(plain, (8, 8), 0.5, batch_size=4)
    torch.testing.assert_close(
        sample_adams(tiled, x, asinh_sigmas(8)), sample_adams(plain, x, asinh_sigmas(8)), rtol=1e-9, atol=1e-9
    )


def test_likelihood_and_inverse_problems_go_through_windows():
    plain, x = Voxelwise(), volume(2, 1, 12)
    tiled = TiledDenoiser(plain, (8,), 0.5, batch_size=2)
    grid = log_uniform_sigmas(24, 1e-2, 80.0)
    one_window = TiledDenoiser(plain, (12,))
    for divergence in ("exact", "hutchinson"):
        results = [
            log_likelihood(d, x, grid, divergence=divergence, probes=2, generator=torch.Generator().manual_seed(1))[0]
            for d in (tiled, plain, one_window)
        ]
        torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(results[2], results[1], rtol=1e-9, atol=1e-9)
    operator = Mask(torch.arange(12) % 2 == 0)
    guided = [PosteriorGuidance(d, operator, operator(x), 0.1, "mmps")(x, 0.7) for d in (tiled, plain)]
    torch.testing.assert_close(*guided, rtol=1e-9, atol=1e-9)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"axes of at least \(8, 8\) voxels, the window"):
        TiledDenoiser(Voxelwise(), (8, 8))(volume(1, 1, 8, 7), 1.0)
    with pytest.raises(ValueError, match="overlap"):
        TiledDenoiser(Voxelwise(), (8, 8), overlap=1.0)


def stationary_field(size: int, length: float = 2.0) -> torch.Tensor:
    """Covariance of a smooth random signal; any window of it has the same."""
    place = torch.arange(float(size))
    return 0.3 * torch.exp(-0.5 * ((place[:, None] - place) / length) ** 2) + 0.01 * torch.eye(size)


@pytest.mark.parametrize(("overlap", "seamless"), [(0.5, True), (0.25, True), (0.0, False)])
def test_samples_have_no_seam_with_overlap_and_one_without(overlap, seamless):
    """400 signals four windows long, from the exact denoiser of windows: within 0.95 to 1.05, or far from it."""
    patch = GaussianDenoiser(torch.zeros(1, 16), stationary_field(16))
    x = 80 * torch.randn(400, 1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = sample_adams(TiledDenoiser(patch, (16,), overlap, batch_size=1024), x, asinh_sigmas(20))
    ratio = seam_ratio(samples, (16,), overlap)
    assert (0.95 < ratio < 1.05) if seamless else ratio > 1.5
    if overlap == 0.5:  # inside the windows it is the field itself
        torch.testing.assert_close(samples.std(), stationary_field(1).sqrt()[0, 0].double(), rtol=0.1, atol=0)


def test_a_seam_is_seen_and_its_absence_too():
    field = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert seam_ratio(field, (8, 8), 0.0) == pytest.approx(1.0, abs=0.2)
    field[..., 16:, :] += 5
    assert seam_ratio(field, (8, 8), 0.0) > 2
    assert seam_ratio(field, (16, 16), 0.0) > 3
    assert seam_ratio(field, (8, 8), 0.0, moved=3) < 0.8  # the seam is among the other places then
    signals = torch.randn(400, 1, 32, generator=torch.Generator().manual_seed(0))
    signals[..., [0, 1, 2, -3, -2, -1]] *= 10  # a rough rim is neither a seam nor elsewhere
    assert seam_ratio(signals, (8,), 0.5) == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ValueError, match="larger than the window"):
        seam_ratio(field, (32, 32), 0.5)


def test_a_volume_is_denoised_slice_by_slice():
    class Scaled(nn.Module):
        def forward(self, x, sigma, gain, mask):
            return x * sigma[:, None, None, None] * gain[:, None, None, None] + mask

    g = torch.Generator().manual_seed(0)
    x, mask = torch.randn(2, 1, 6, 5, 4, generator=g), torch.randn(2, 1, 6, 5, 4, generator=g)
    sigma, gain = torch.tensor([0.5, 2.0]), torch.tensor([3.0, 7.0])
    estimate = SliceDenoiser(Scaled())(x, sigma, gain=gain, mask=mask)
    torch.testing.assert_close(estimate, x * (sigma * gain)[:, None, None, None, None] + mask)
    with pytest.raises(ValueError, match="volume"):
        SliceDenoiser(Scaled())(x[..., 0], sigma, gain=gain, mask=mask)
    with pytest.raises(ValueError, match="window of 2 axes"):
        any_size(Scaled(), (4, 4, 4), 2)


def test_no_batch_of_windows_is_much_smaller_than_the_others():
    sizes = []

    class Counted(nn.Module):
        def forward(self, x, sigma):
            sizes.append(len(x))
            return x

    TiledDenoiser(Counted(), (4,), 0.0, batch_size=4)(torch.zeros(1, 1, 20), 1.0)
    assert sizes == [2, 3]
