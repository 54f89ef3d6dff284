"""Intensity transforms: exact inverses for any shape and type, recorded measurements, refused images."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Decollated, Invertd, SpatialCropd, SpatialPadd

from monai_diffscore.errors import DataError
from monai_diffscore.transforms import (
    WINDOWS_HU,
    ForegroundZScore,
    ForegroundZScored,
    HounsfieldUnits,
    HounsfieldUnitsd,
    N4BiasCorrect,
    N4BiasCorrectd,
    NyulStandardize,
    NyulStandardized,
    PercentileScale,
    PercentileScaled,
    ReplacePadding,
    ReplacePaddingd,
    WindowHU,
    WindowHUd,
    WindowIntensity,
    WindowIntensityd,
)

LANDMARKS = {"percentiles": [0, 25, 50, 100], "standard": [-1, -0.6, 0.2, 1], "cohort": [-100, 100, 400, 800]}
UNIT = {  # the transforms to [-1, 1]
    "window": lambda: WindowIntensity(-50, 600),
    "window_hu": lambda: WindowHU("soft_tissue"),
    "percentile": lambda: PercentileScale(1, 95),
    "z_score": lambda: ForegroundZScore(limit=1.5),
    "nyul": lambda: NyulStandardize(LANDMARKS),
    "nyul_cohort": lambda: NyulStandardize(LANDMARKS, knots="cohort"),
}
each_unit = pytest.mark.parametrize("make", UNIT.values(), ids=UNIT)


@pytest.fixture
def image() -> MetaTensor:
    return MetaTensor(torch.rand(1, 8, 9, 10, generator=torch.Generator().manual_seed(0)) * 900 - 100)


def record_of(scaled: MetaTensor) -> dict:
    return scaled.applied_operations[-1]["extra_info"]


# ---- inverse(forward(x)) == clip(x) ----

IMAGES = st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float16, np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=2, max_side=6),
        elements=(
            st.integers(max(-3024, np.iinfo(dtype).min), min(4000, np.iinfo(dtype).max))
            if np.issubdtype(dtype, np.integer)
            else st.floats(-3024, 4000, width=16)
        ),
    )
)


@each_unit
@given(array=IMAGES)
@settings(max_examples=60, deadline=None)
def test_inverse_of_forward_is_the_clipped_image(make, array):
    transform = make()
    try:
        scaled = transform(array)
    except DataError:  # nearly constant, or no foreground: refused, not mapped
        return
    assert scaled.dtype == torch.float32
    assert scaled.shape == array.shape
    assert -1 <= scaled.min() <= scaled.max() <= 1
    record = record_of(scaled)
    low, high = record["low"], record["high"]
    # float32 holds the image in [-1, 1] to 6e-8, which the steepest piece of the inverse map enlarges
    knots, standard = record.get("knots", [low, high]), record.get("standard", [-1, 1])
    steepest = (np.diff(knots) / np.diff(standard)).max()
    tolerance = 2e-7 * (steepest + abs(low) + abs(high))
    restored = transform.inverse(scaled)
    expected = torch.from_numpy(array.astype(np.float32)).clip(low, high)
    torch.testing.assert_close(restored.as_tensor(), expected, rtol=0, atol=float(tolerance))
    assert restored.applied_operations == []


@given(array=IMAGES)
@settings(max_examples=60, deadline=None)
def test_padding_and_units_come_back_inside_the_field_of_view(array):
    pad = ReplacePadding()
    try:
        replaced = pad(array)
    except DataError:
        assert (array.astype(np.float32) <= -1500).all()
        return
    before, view = torch.from_numpy(array.astype(np.float32)), pad.field_of_view(torch.from_numpy(array))
    assert torch.equal(replaced.as_tensor()[view], before[view])
    assert (replaced.as_tensor()[~view] == -1000).all()
    assert replaced.meta["padding_voxels"] == int((~view).sum())
    assert torch.equal(pad.inverse(replaced).as_tensor()[view], before[view])
    units = HounsfieldUnits(assume_intercept=-1024) if before.min() >= 0 else HounsfieldUnits()
    # float32 holds 1e-4 at the size of an intercept
    torch.testing.assert_close(units.inverse(units(array)).as_tensor(), before, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 24, 20, 16), (2, 20, 24)])
def test_the_bias_field_is_taken_out_and_put_back(shape):
    """A known smooth field on a two-tissue image: the variation within a tissue falls by most, the inverse is exact."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape[1:]], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    tissue = np.where(radius < 0.5, 600.0, np.where(radius < 0.9, 300.0, 1.0))
    field = np.exp(0.4 * axes[0] + 0.2 * axes[1] ** 2)
    biased = MetaTensor(torch.from_numpy(np.stack([tissue * field] * shape[0])).float())
    correct = N4BiasCorrect(shrink=2)
    corrected = correct(biased)
    inner = radius < 0.5

    def variation(volume):
        values = np.asarray(volume[0])[inner]
        return values.std() / values.mean()

    assert variation(corrected) < 0.35 * variation(biased)
    torch.testing.assert_close(correct.inverse(corrected).as_tensor(), biased.as_tensor(), rtol=1e-5, atol=1e-3)
    assert record_of(correct(biased))["log_field"].numel() < biased.numel() / 3


def test_the_input_is_left_alone():
    image = MetaTensor(torch.tensor([[[-3024.0, 0.0, torch.nan, 500.0]]]))
    before = image.as_tensor().clone()
    for transform in (ReplacePadding(nan_policy="fill"), WindowHU(nan_policy="fill")):
        transform(image)
        torch.testing.assert_close(image.as_tensor(), before, equal_nan=True)
        assert image.applied_operations == []
        assert "filled_voxels" not in image.meta


# ---- Invertd, workers, patches ----

DICTIONARY = {
    "window": lambda: [WindowIntensityd("image", 0, 500)],
    "percentile": lambda: [PercentileScaled("image", 0, 90)],
    "z_score": lambda: [ForegroundZScored("image", limit=2)],
    "nyul": lambda: [NyulStandardized("image", LANDMARKS)],
    "n4": lambda: [N4BiasCorrectd("image", iterations=[10]), PercentileScaled("image", 0, 90)],
    "ct": lambda: [HounsfieldUnitsd("image"), ReplacePaddingd("image"), WindowHUd("image", [-100, 400])],
}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("make", DICTIONARY.values(), ids=DICTIONARY)
def test_invertd_gives_a_prediction_the_units_of_its_image(make, image, workers):
    """Through collation, another process, a crop and a pad; with the parameters that travelled in the MetaTensor."""
    scale = make()
    preprocessing = Compose([*scale, SpatialCropd("image", roi_start=[1, 1, 1], roi_end=[8, 9, 10]),
                             SpatialPadd("image", (12, 12, 12), value=-1.0)])  # fmt: skip
    batch = next(iter(DataLoader(Dataset([{"image": image}], preprocessing), num_workers=workers)))
    batch["pred"] = batch["image"].clone()
    (data,) = Decollated(keys=["image", "pred"])(batch)
    data["pred"].applied_operations = []
    restored = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)(data)["pred"]
    record = next(op["extra_info"] for op in reversed(data["image"].applied_operations) if "low" in op["extra_info"])
    low, high = record["low"], record["high"]
    inside = (slice(None), slice(1, 8), slice(1, 9), slice(1, 10))
    image = image.as_tensor()
    if scale[0].__class__ is N4BiasCorrectd:  # the range is that of the corrected image
        ratio = restored.as_tensor()[inside] / image[inside]
        assert (((ratio - 1).abs() < 1e-4) | (scale[0]({"image": MetaTensor(image)})["image"][inside] > high)
                | (scale[0]({"image": MetaTensor(image)})["image"][inside] < low)).all()  # fmt: skip
        return
    torch.testing.assert_close(restored.as_tensor()[inside], image[inside].clip(low, high), rtol=1e-5, atol=1e-3)


def test_the_field_of_view_goes_beside_the_image():
    affine = torch.diag(torch.tensor([2.0, 2, 3, 1], dtype=torch.float64))
    image = MetaTensor(torch.tensor([-3024.0, -1000, 50, 2000]).reshape(1, 2, 2, 1), affine=affine)
    data = ReplacePaddingd("image", mask_key="view")({"image": image})
    assert data["view"].flatten().tolist() == [0, 1, 1, 1]
    torch.testing.assert_close(data["view"].affine, affine)
    assert data["image"].flatten().tolist() == [-1000, -1000, 50, 2000]
    with pytest.raises(ValueError, match="one key"):
        ReplacePaddingd(["image", "other"], mask_key="view")


# ---- what each measures ----


def test_percentiles_are_those_of_the_image(image):
    scaled = PercentileScale(1, 95)(image)
    low, high = np.percentile(image.numpy(), (1, 95))
    assert record_of(scaled) == pytest.approx({"low": low, "high": high})
    share_at_the_top = (scaled == 1).float().mean().item()
    assert share_at_the_top == pytest.approx(0.05, abs=0.005)


def test_the_z_score_is_that_of_the_foreground(image):
    scaled = ForegroundZScore(foreground_above=200, limit=1.0)(image)
    foreground = image.numpy()[image.numpy() > 200]
    z = (image.numpy() - foreground.mean()) / foreground.std()
    np.testing.assert_allclose(scaled.numpy(), z.clip(-1, 1), atol=1e-5)
    assert scaled.meta["clipped_share_forward"] == pytest.approx((np.abs(z) > 1).mean(), abs=0.002)


def test_nyul_makes_affinely_different_scanners_alike(tmp_path):
    """Images that differ by gain, offset and gamma have the standard landmarks afterwards, also through JSON."""
    generator = torch.Generator().manual_seed(1)
    anatomy = torch.rand(3, 1, 16, 16, 16, generator=generator)
    scans = [100 * (number + 1) * anatomy[number] ** gamma + 7 for number, gamma in enumerate((1.0, 1.3, 0.8))]
    fitted = NyulStandardize.fit(scans)
    fitted.save(tmp_path / "landmarks.json")
    loaded = NyulStandardize(tmp_path / "landmarks.json")
    assert loaded.landmarks == json.loads((tmp_path / "landmarks.json").read_text()) == fitted.landmarks
    standard = fitted.landmarks["standard"]
    assert (standard[0], standard[-1]) == (-1, 1)
    for scan in scans:
        landmarks = np.percentile(loaded(scan).numpy(), fitted.landmarks["percentiles"])
        np.testing.assert_allclose(landmarks, standard, atol=2e-3)  # 4096 voxels
    cohort = NyulStandardize(tmp_path / "landmarks.json", knots="cohort")
    blank = cohort(torch.full((1, 4, 4, 4), 50.0))  # a generated image's request is constant
    restored = cohort.inverse(blank.new_tensor(standard).reshape(1, -1).copy_meta_from(blank))
    np.testing.assert_allclose(restored.flatten().numpy(), fitted.landmarks["cohort"], rtol=1e-5)


def test_nyul_leaves_out_landmarks_that_coincide():
    image = MetaTensor(torch.tensor([0.0] * 60 + [1.0] * 20 + [2.0] * 20).reshape(1, 10, 10))
    nyul = NyulStandardize({"percentiles": [0, 30, 50, 70, 100], "standard": [-1, -0.5, 0, 0.4, 1], "cohort": range(5)})
    scaled = nyul(image)
    assert record_of(scaled)["knots"] == [0, 1, 2]
    assert scaled.unique().tolist() == pytest.approx([-1, 0.4, 1])
    torch.testing.assert_close(nyul.inverse(scaled).as_tensor(), image.as_tensor())


def test_windows_by_name_are_level_and_width():
    assert WINDOWS_HU["lung"][0] == (-600 - 750, -600 + 750)
    assert all(low < high and source for (low, high), source in WINDOWS_HU.values())
    scaled = WindowHU("brain")(MetaTensor(torch.tensor([[[-1000.0, 40.0, 3000.0]]])))
    assert scaled.flatten().tolist() == [-1, 0, 1]
    with pytest.raises(ValueError, match=r"one of .*'lung'.*got 'lungs'"):
        WindowHU("lungs")


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


# ---- what is refused ----

SMALL = [*UNIT.values(), N4BiasCorrect, HounsfieldUnits, ReplacePadding]


@pytest.mark.parametrize("make", SMALL)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_nan_and_infinity_are_refused_with_count_and_key(make, bad, image):
    spoilt = MetaTensor(image.as_tensor().double(), meta={"filename_or_obj": "spoilt.nii"})
    spoilt[0, 0, 0, :3] = bad
    with pytest.raises(DataError, match=r"spoilt.nii \(key 'ct'\).*finite.*got 3 of 720 voxels.*nan_policy") as caught:
        make()(spoilt, "ct")
    assert "\n" not in str(caught.value)


def test_nan_and_infinity_are_filled_on_request(image):
    image[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    low, high = image[torch.isfinite(image)].min(), image[torch.isfinite(image)].max()
    filled = WindowIntensity(float(low), float(high), nan_policy="fill")(image)
    assert filled[0, 0, 0, :3].tolist() == [-1, 1, -1]
    assert filled.meta["filled_voxels"] == 3
    with pytest.raises(DataError, match="720 of 720"):
        WindowIntensity(0, 1, nan_policy="fill")(torch.full_like(image, torch.nan))
    with pytest.raises(ValueError, match="nan_policy is one of"):
        WindowIntensity(0, 1, nan_policy="zero")


REFUSED = {
    "percentile": (lambda: PercentileScale(), 0.0, "different percentiles 0.5 and 99.5.*got 0 for both"),
    "nyul": (lambda: NyulStandardize(LANDMARKS), 5.0, "different percentiles 0 and 100.*got 5 for both"),
    "z_score_constant": (lambda: ForegroundZScore(), 7.0, "foreground.*contrast, got 8 of 8 voxels"),
    "z_score_empty": (lambda: ForegroundZScore(), -7.0, "foreground.*contrast, got 0 of 8 voxels"),
    "n4": (lambda: N4BiasCorrect(), 7.0, "positive intensities with contrast"),
    "padding": (lambda: ReplacePadding(), -3024.0, "none in 8 voxels"),
    "units": (lambda: HounsfieldUnits(), 1024.0, r"air is about -1000, got values from 1024.*assume_intercept -1024"),
    "units_twice": (lambda: HounsfieldUnits(-1024), -1000.0, "Hounsfield units already"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_without_information_are_refused(name):
    make, value, message = REFUSED[name]
    image = MetaTensor(torch.full((1, 2, 2, 2), value), meta={"filename_or_obj": "flat.nii"})
    with pytest.raises(DataError, match=message) as caught:
        make()(image)
    assert "flat.nii" in str(caught.value)


def test_stored_values_become_hounsfield_units_on_request():
    stored = MetaTensor(torch.tensor([[[24, 1024, 1064]]], dtype=torch.uint16))
    units = HounsfieldUnits(assume_intercept=-1024)
    assert units(stored).flatten().tolist() == [-1000, 0, 40]
    assert HounsfieldUnits(allow_no_air=True)(stored).flatten().tolist() == [24, 1024, 1064]


@pytest.mark.parametrize(
    ("make", "modality"),
    [(WindowHU, "MR"), (HounsfieldUnits, "MR"), (PercentileScale, "CT"), (ForegroundZScore, "CT")],
)
def test_scales_of_the_other_modality_are_refused(make, modality, image):
    image.meta["modality"] = modality
    with pytest.raises(
        DataError, match=rf"another modality than {modality}, got {modality}\. .*(WindowHU|PercentileScale)"
    ):
        make()(image)
    if modality == "CT":
        assert make(allow_ct=True)(image).abs().max() <= 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: WindowIntensity(1, 1),
        lambda: WindowHU([3, 1]),
        lambda: PercentileScale(50, 50),
        lambda: ForegroundZScore(limit=0),
        lambda: ReplacePadding(-1000, -1500),
        lambda: N4BiasCorrect(shrink=0),
        lambda: NyulStandardize(LANDMARKS, knots="mine"),
        lambda: NyulStandardize({**LANDMARKS, "standard": [-1, 0, 0, 1]}),
        lambda: NyulStandardize({**LANDMARKS, "cohort": [0, 1]}),
    ],
)
def test_impossible_arguments_are_refused(make):
    with pytest.raises(ValueError, match=r"need|low < high|one of"):
        make()


def test_landmarks_that_cannot_be_fitted_are_refused(tmp_path):
    with pytest.raises(DataError, match="increase strictly"):
        NyulStandardize.fit([torch.zeros(1, 5, 5)])
    with pytest.raises(DataError, match="at least one"):
        NyulStandardize.fit([])
    with pytest.raises(DataError, match=r"no such file.*Fit the landmarks"):
        NyulStandardize(tmp_path / "none.json")
