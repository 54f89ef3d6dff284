"""The measures of the benchmark of translation: the regression sees the other images alone, and lesions are counted."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.translation import SquaredError, lesion_dice, subsets


def test_the_regression_sees_the_other_images_alone():
    seen = []

    def network(x, sigma, given):
        seen.append((x.clone(), sigma))
        return 2 * given

    x0, given = torch.ones(3, 1, 4, 4), torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    assert SquaredError()(network, x0, given=given).tolist() == [1.0, 1.0, 9.0]
    ((x, sigma),) = seen
    assert (x == 0).all()
    assert (sigma == sigma[0]).all()


def test_lesions_are_the_voxels_far_above_the_white_matter():
    generator = torch.Generator().manual_seed(0)
    white = torch.ones(20, 20, 20, dtype=torch.bool)
    white[0] = False
    image = torch.randn(20, 20, 20, generator=generator).clamp(-2, 2)
    lesions = torch.zeros_like(white)
    lesions[5:7, 5:7, 5:7] = True
    assert lesion_dice(torch.where(lesions, 9.0, image), white, lesions) == 1
    half = lesions.clone()
    half[5] = False
    image[0] = 9.0  # outside of the white matter
    assert lesion_dice(torch.where(half, 9.0, image), white, lesions) == pytest.approx(2 * 4 / (4 + 8))
    assert lesion_dice(image, white, lesions) == 0
    assert math.isnan(lesion_dice(image, white, torch.zeros_like(lesions)))


def test_the_table_has_the_seven_subsets():
    assert len({frozenset(subset) for subset in subsets()} - {frozenset()}) == 7
