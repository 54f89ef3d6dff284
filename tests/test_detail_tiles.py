"""Details in tiles: the estimate of the whole where a denoiser is local, and memory of one tile."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_diffscore.detail_tiles import DetailTiles, LargeTiled
from monai_diffscore.inferers import ScaleSamplingInferer
from monai_diffscore.multiscale import MultiScale
from monai_diffscore.pyramid import Pyramid
from monai_diffscore.sampling import asinh_sigmas
from monai_diffscore.scales import Scales


class Local(nn.Module):
    """A denoiser that sees each voxel, its coarser image and its position alone, and keeps the sizes of its calls."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, sigma, coarse=None, position=None):
        self.sizes.append(tuple(x.shape[2:]))
        level = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        context = 0 if coarse is None else coarse + position.sum(1, keepdim=True)
        return (x + context * level**2) / (1 + level**2)


def model() -> MultiScale:
    return MultiScale(Scales(Pyramid(2, 2), position_key="position"), [Local() for _ in range(3)])


def sample(scales: MultiScale, wrap=None) -> torch.Tensor:
    inferer = ScaleSamplingInferer(sigmas=asinh_sigmas(5), seed=1, progress=False, wrap=wrap)
    return inferer(torch.zeros(2, 1, 32, 16, dtype=torch.float64), scales)


def test_a_volume_of_local_details_is_the_same_in_tiles():
    whole, tiled = model(), model()
    torch.testing.assert_close(sample(tiled, DetailTiles((6, 8), overlap=2, multiple=2)), sample(whole))
    assert [set(denoiser.sizes) for denoiser in whole.denoisers] == [{(8, 4)}, {(8, 4)}, {(16, 8)}]
    assert [set(denoiser.sizes) for denoiser in tiled.denoisers] == [{(8, 4)}, {(6, 4)}, {(6, 8)}]


def test_scales_that_fit_in_a_tile_are_whole():
    scales = model()
    sample(scales, DetailTiles((16, 8), overlap=2))
    assert [set(denoiser.sizes) for denoiser in scales.denoisers] == [{(8, 4)}, {(8, 4)}, {(16, 8)}]


@pytest.mark.parametrize(("length", "size"), [(64, 64), (65, 40), (96, 52), (120, 64), (121, 48), (128, 48), (256, 60)])
def test_tiles_of_an_axis_are_the_smallest_of_the_fewest(length, size):
    assert DetailTiles((64,), overlap=8).sizes((length,)) == (size,)
    tiled = LargeTiled(Local(), DetailTiles((64,), overlap=8))
    tiled(torch.zeros(1, 1, length), 1.0)
    assert set(tiled.denoiser.sizes) == {(size,)}
    fewest = 1 if length <= 64 else -(-(length - 8) // 56)
    assert len(tiled.denoiser.sizes) == fewest


def test_wrong_tiles_are_refused():
    for arguments in [((8, 8), 5), ((8, 6), 2), ((8, 8), -1), ((), 0), ((8, 8), 2, 4, 0)]:
        with pytest.raises(ValueError, match="DetailTiles expects tile sizes that are multiples of 4"):
            DetailTiles(*arguments)
    with pytest.raises(ValueError, match="3 axes, got"):
        sample(model(), DetailTiles((8, 8, 8), overlap=2))
