"""Intensity transforms: exact inverses, recorded ranges, refused images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, SpatialPadd

from monai_diffscore.data import DataError
from monai_diffscore.transforms import PercentileScale, PercentileScaled, WindowIntensity, WindowIntensityd


@pytest.fixture
def image() -> MetaTensor:
    return MetaTensor(torch.rand(1, 8, 9, 10, generator=torch.Generator().manual_seed(0)) * 900 - 100)


@pytest.mark.parametrize("transform", [WindowIntensity(-50, 600), PercentileScale(1, 95)])
def test_inverse_of_forward_is_the_clipped_image(transform, image):
    scaled = transform(image)
    assert -1 <= scaled.min() <= scaled.max() <= 1
    low, high = (scaled.applied_operations[-1]["extra_info"][key] for key in ("low", "high"))
    restored = transform.inverse(scaled)
    torch.testing.assert_close(restored.as_tensor(), image.as_tensor().clip(low, high), rtol=1e-5, atol=1e-3)
    assert restored.applied_operations == []


def test_percentiles_are_those_of_the_image(image):
    scaled = PercentileScale(1, 95)(image)
    low, high = np.percentile(image.numpy(), (1, 95))
    assert scaled.applied_operations[-1]["extra_info"] == pytest.approx({"low": low, "high": high})
    share_at_the_top = (scaled == 1).float().mean().item()
    assert share_at_the_top == pytest.approx(0.05, abs=0.005)


def test_inverse_clips_and_says_how_much(image):
    transform = WindowIntensity(0, 100)
    scaled = transform(image)
    beyond = scaled.clone()
    beyond[0, :4] = 1.5
    restored = transform.inverse(beyond)
    assert restored.max() == 100
    assert restored.meta["clipped_share"] == pytest.approx(0.5)


def test_integers_are_scaled_in_float32():
    scaled = WindowIntensity(-1000, 1000)(MetaTensor(torch.tensor([[[-1024, 0, 3071]]], dtype=torch.int16)))
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled.as_tensor(), torch.tensor([[[-1.0, 0.0, 1.0]]]))


@pytest.mark.parametrize("scale", [WindowIntensityd("image", 0, 500), PercentileScaled("image", 0, 90)])
def test_invertd_gives_a_prediction_the_units_of_its_image(scale, image):
    preprocessing = Compose([scale, SpatialPadd("image", (12, 12, 12), value=-1.0)])
    data = preprocessing({"image": image})
    data["pred"] = MetaTensor(data["image"].as_tensor().clone())
    restored = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"]
    low, high = (0, 500) if isinstance(scale, WindowIntensityd) else np.percentile(image.numpy(), (0, 90))
    torch.testing.assert_close(
        restored.as_tensor(), image.as_tensor().clip(float(low), float(high)), rtol=1e-5, atol=1e-3
    )


def test_nearly_constant_images_are_refused():
    image = MetaTensor(torch.zeros(1, 20, 20, 20), meta={"filename_or_obj": "flat.nii"})
    image[0, 0, 0, 0] = 1.0
    with pytest.raises(DataError, match=r"flat.nii.*different percentiles.*got 0 for both"):
        PercentileScale()(image)


@pytest.mark.parametrize("make", [lambda: WindowIntensity(1, 1), lambda: PercentileScale(50, 50)])
def test_empty_ranges_are_refused(make):
    with pytest.raises(ValueError, match="needs"):
        make()
