"""Stains: found on synthetic slides of known stains, mapped and mapped back exactly, refused where there are none."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from small_data import stained

from monai_diffscore.data import fit_slide, fit_slides
from monai_diffscore.errors import DataError
from monai_diffscore.samples import ihc_slide
from monai_diffscore.transforms import (
    JitterStains,
    LabStatistics,
    NormalizeReinhard,
    NormalizeReinhardd,
    NormalizeStains,
    NormalizeStainsd,
    RandJitterStains,
    RandJitterStainsd,
    ScaleRGB,
    ScaleRGBd,
    Stains,
    ToRGB,
    ToRGBd,
    fit_macenko,
    fit_reinhard,
    fit_vahadane,
)

HE = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
HDAB = np.array([[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]])
SOURCE = Stains(tuple(map(tuple, HE)), (2.0, 1.5), (250.0, 245.0, 248.0))
TARGET = Stains(tuple(map(tuple, HDAB)), (1.6, 1.8))
MILD = Stains(((0.62, 0.72, 0.31), (0.12, 0.97, 0.2)), (1.9, 1.4))
LAB = LabStatistics((60.0, 20.0, -10.0), (15.0, 8.0, 6.0)), LabStatistics((63.0, 17.0, -8.0), (14.0, 7.5, 6.5))
EIGHT_BIT = arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9)))


def degrees(first, second) -> float:
    first, second = np.asarray(first), np.asarray(second)
    return np.degrees(np.arccos(first @ second / np.linalg.norm(first) / np.linalg.norm(second)))


def pixels(matrix: np.ndarray, seed: int = 0) -> np.ndarray:
    return stained((100, 200), seed, matrix).reshape(3, -1).T


# ---- fits ----


@pytest.mark.parametrize(("fit", "tolerance"), [(fit_macenko, 2.0), (fit_vahadane, 4.0)])
@pytest.mark.parametrize("matrix", [HE, HDAB], ids=["HE", "HDAB"])
def test_stain_fits_recover_the_true_stains(fit, tolerance, matrix):
    """Macenko's percentiles cut off the purest 1% of the directions; the sparse factors are drawn together."""
    stains = fit(pixels(matrix))
    for row, truth in zip(stains.matrix, matrix, strict=True):
        assert degrees(row, truth) < tolerance
    truth = np.percentile(np.random.default_rng(0).gamma(1.0, 0.5, (2, 20_000)), 99, axis=1)
    assert stains.concentrations == pytest.approx(truth, rel=0.2)


def test_haematoxylin_comes_first_for_any_mixture():
    for scale in (0.3, 3.0):
        concentrations = np.random.default_rng(0).gamma(1.0, 0.3, (20_000, 2)) * [scale, 1.0]
        density = concentrations @ (HE / np.linalg.norm(HE, axis=1, keepdims=True))
        image = np.clip(np.rint(256 * np.exp(-density) - 1), 0, 255).astype(np.uint8)
        assert degrees(fit_macenko(image).matrix[0], HE[0]) < 6


def test_reinhard_statistics_are_those_of_the_pixels():
    from skimage.color import lab2rgb, rgb2lab

    lab = np.random.default_rng(0).normal((60, 10, -5), (5, 3, 2), (5000, 3))
    image = np.rint(255 * lab2rgb(lab)).astype(np.uint8)
    statistics = fit_reinhard(image)
    np.testing.assert_allclose(statistics.mean, rgb2lab(image).mean(0), atol=1e-4)
    np.testing.assert_allclose(statistics.mean, (60, 10, -5), atol=0.2)
    np.testing.assert_allclose(statistics.std, (5, 3, 2), rtol=0.1)


@pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane])
def test_one_stain_is_refused(fit):
    concentrations = np.random.default_rng(0).gamma(1.0, 0.5, 20_000)
    one = 256 * np.exp(-concentrations[:, None] * HE[0]) - 1 + np.random.default_rng(1).normal(0, 2, (20_000, 3))
    with pytest.raises(DataError, match=r"all of it has one hue.*use Reinhard"):
        fit(np.clip(np.rint(one), 0, 255).astype(np.uint8))


@pytest.mark.parametrize("fit", [fit_macenko, fit_vahadane, fit_reinhard])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_blank_black_and_flat_slides_are_refused(fit, value):
    with pytest.raises(DataError, match="expected"):
        fit(np.full((1000, 3), value, np.uint8))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((100, 3)), np.zeros((100, 3), np.uint16)])
def test_fits_want_8_bit_pixels(image):
    with pytest.raises(DataError, match=r"8-bit colours \[N, 3\]"):
        fit_macenko(image)


@pytest.mark.parametrize(
    "values",
    [
        {"matrix": ((1, 0, 0), (1, 0, 0.01)), "concentrations": (1, 1)},
        {"matrix": ((0, 0, 0), (1, 0, 0)), "concentrations": (1, 1)},
        {"matrix": ((1, 0, 0), (0, 1, 0)), "concentrations": (1, 0)},
        {"matrix": ((1, 0, 0), (0, float("nan"), 0)), "concentrations": (1, 1)},
    ],
)
def test_impossible_stains_are_refused(values):
    with pytest.raises(DataError, match="two stain vectors"):
        Stains(**values)


def test_records_survive_json():
    for record in (SOURCE, LAB[0]):
        assert type(record)(**json.loads(json.dumps(asdict(record)))) == record


def test_a_slide_is_fitted_from_its_tissue_and_kept(write_slide, tmp_path):
    tissue = stained((192, 256), 0, HE)
    tissue[:, :, :96] = 250
    path = str(write_slide("a.tif", array=tissue))
    first = fit_slide(path, mpp_um=0.5)
    assert degrees(first.matrix[0], HE[0]) < 4
    assert first.white == pytest.approx((250, 250, 250), abs=5)
    kept = tmp_path / "stains.json"
    assert fit_slides([{"image": path}] * 2, mpp_um=0.5, path=kept) == {path: first}
    kept.write_text(kept.read_text().replace(str(first.concentrations[0]), "1.25"))
    assert fit_slides([{"image": path}], mpp_um=0.5, path=kept)[path].concentrations[0] == 1.25  # not fitted again
    assert fit_slides([{"image": path}], "reinhard", 0.5, path=kept)[path].method == "reinhard"
    with pytest.raises(ValueError, match="one of the methods"):
        fit_slide(path, "magic")


def test_a_refused_slide_is_named(write_slide):
    flat = write_slide("flat.tif", array=np.full((3, 192, 256), 120, np.uint8))
    with pytest.raises(DataError, match=r"flat.tif.*one hue"):
        fit_slide(flat, mpp_um=0.5)


def test_the_sample_slide_has_haematoxylin_and_dab():
    record = fit_slide(ihc_slide(), mpp_um=0.5)
    assert degrees(record.matrix[0], HDAB[0]) < 8
    assert degrees(record.matrix[1], HDAB[1]) < 8


# ---- transforms ----


@given(EIGHT_BIT)
@settings(max_examples=60, deadline=None)
def test_scaling_is_exactly_undone(image):
    tile = MetaTensor(torch.from_numpy(image.copy()))
    scale = ScaleRGB()
    scaled = scale(tile)
    assert scaled.dtype == torch.float32
    assert -1 <= scaled.min() <= scaled.max() <= 1
    back = scale.inverse(scaled)
    assert back.dtype == torch.uint8
    assert torch.equal(back.as_tensor(), tile.as_tensor())


@pytest.mark.parametrize(
    "make",
    [
        lambda: NormalizeStains(TARGET, SOURCE),
        lambda: NormalizeStains(MILD, SOURCE),
        lambda: JitterStains(SOURCE, (1.2, 0.8), (0.05, -0.02)),
        lambda: RandJitterStains(SOURCE, 0.2, 0.05, prob=1.0).set_random_state(0),
        lambda: RandJitterStains(SOURCE, prob=0.0),
        lambda: NormalizeReinhard(*LAB),
    ],
    ids=["far", "near", "jitter", "random", "never", "reinhard"],
)
@given(image=EIGHT_BIT)
@settings(max_examples=40, deadline=None)
def test_inverse_of_forward_is_the_tile_where_nothing_was_clipped(make, image):
    transform, tile = make(), MetaTensor(torch.from_numpy(image.copy()))
    mapped = transform(tile)
    assert mapped.isfinite().all()
    assert 0 <= mapped.min() <= mapped.max() <= 255
    inside = ((mapped > 0) & (mapped < 255)).all(0).as_tensor()
    back = transform.inverse(mapped)
    assert back.dtype == torch.uint8
    assert torch.equal(back.as_tensor()[:, inside], tile.as_tensor()[:, inside])
    assert back.applied_operations == []


def test_stains_of_the_source_become_those_of_the_target():
    """A tile made of the source's stains is the tile made of the target's, with scaled concentrations."""
    concentrations = np.random.default_rng(0).uniform(0, 1, (2, 16, 16))

    def tile(stains: Stains, amount: np.ndarray) -> torch.Tensor:
        density = np.einsum("shw,sc->chw", amount, np.array(stains.matrix))
        return torch.from_numpy((np.array(stains.white)[:, None, None] + 1) * np.exp(-density) - 1).float()

    scale = np.array(TARGET.concentrations) / np.array(SOURCE.concentrations)
    expected = tile(TARGET, concentrations * scale[:, None, None])
    mapped = NormalizeStains(TARGET, SOURCE)(MetaTensor(tile(SOURCE, concentrations)))
    torch.testing.assert_close(mapped.as_tensor(), expected, rtol=0, atol=1e-3)


def test_glass_goes_to_glass_and_black_stays_finite():
    glass = torch.tensor(SOURCE.white).reshape(3, 1, 1).expand(3, 4, 4)
    mapped = NormalizeStains(TARGET, SOURCE)(MetaTensor(glass))
    torch.testing.assert_close(mapped.as_tensor(), torch.full((3, 4, 4), 255.0), rtol=0, atol=1e-3)
    for value in (0, 255):
        for transform in (NormalizeStains(TARGET, SOURCE), JitterStains(SOURCE, (1.5, 0.5)), NormalizeReinhard(*LAB)):
            blank = transform(MetaTensor(torch.full((3, 4, 4), value, dtype=torch.uint8)))
            assert blank.isfinite().all()
            assert blank.std((1, 2)).max() < 1e-3


def test_reinhard_gives_the_target_its_statistics():
    from skimage.color import lab2rgb, rgb2lab

    lab = np.random.default_rng(0).normal(LAB[0].mean, np.array(LAB[0].std) / 4, (64, 64, 3))
    tile = torch.from_numpy(255 * lab2rgb(lab)).permute(2, 0, 1).float()
    mapped = NormalizeReinhard(LAB[1], LAB[0])(MetaTensor(tile))
    got = rgb2lab(mapped.permute(1, 2, 0).numpy() / 255)
    scale = np.array(LAB[1].std) / np.array(LAB[0].std)
    np.testing.assert_allclose(got, (lab - LAB[0].mean) * scale + LAB[1].mean, atol=0.02)


def test_the_jitter_moves_concentrations_alone():
    tile = MetaTensor(torch.from_numpy(stained((32, 32), 0, np.array(SOURCE.matrix))))
    identity = JitterStains(SOURCE)(tile)
    torch.testing.assert_close(identity.as_tensor(), tile.as_tensor().float(), rtol=0, atol=1e-3)
    darker = JitterStains(SOURCE, (1.5, 1.5))(tile)
    assert (darker <= identity + 1e-3).float().mean() > 0.99


def test_random_jitter_is_its_deterministic_twin_and_repeats():
    tile = MetaTensor(torch.from_numpy(stained((16, 16), 0, HE)))
    rand = RandJitterStains(SOURCE, 0.3, 0.1, prob=1.0).set_random_state(3)
    first = rand(tile)
    torch.testing.assert_close(first.as_tensor(), rand.jitter(tile).as_tensor())
    assert not torch.equal(first, rand(tile))
    assert torch.equal(first, rand.set_random_state(3)(tile))
    scales = [rand.randomize() or rand.jitter.scale for _ in range(200)]
    assert 0.7 <= np.min(scales) < 0.75
    assert 1.25 < np.max(scales) <= 1.3


def test_dictionaries_look_up_the_slide_and_invert(tmp_path):
    tile = MetaTensor(torch.from_numpy(stained((16, 16), 0, HE)))
    context = tile.float()
    context[:, :4] = torch.nan
    records = {"a.svs": SOURCE, "b.svs": MILD}
    chain = Compose(
        [
            NormalizeStainsd(["image", "context"], TARGET, records, allow_nan=True),
            RandJitterStainsd(["image", "context"], {"a.svs": TARGET}, prob=1.0, allow_nan=True),
            ScaleRGBd(["image", "context"], allow_nan=True),
        ]
    ).set_random_state(0)
    data = chain({"image": tile, "context": context, "slide": "a.svs"})
    # one draw for both keys; NaN stays where nothing was seen, and nowhere else
    assert torch.equal(data["context"].as_tensor()[:, 4:], data["image"].as_tensor()[:, 4:])
    assert data["context"].isnan().as_tensor().float().mean() == 0.25
    data["pred"] = MetaTensor(data["image"].as_tensor().clone())
    restored = Invertd("pred", chain, orig_keys="image", nearest_interp=False)(data)["pred"].as_tensor()
    inside = (data["image"].abs() < 1).all(0).as_tensor()
    difference = (restored.int() - tile.as_tensor().int()).abs()[:, inside]
    assert difference.max() <= 1
    with pytest.raises(DataError, match=r"c.svs.*key 'slide'.*fit_slides"):
        NormalizeStainsd("image", TARGET, records)({"image": tile, "slide": "c.svs"})
    lab = NormalizeReinhardd("image", LAB[1], {"a.svs": LAB[0]})({"image": tile, "slide": "a.svs"})["image"]
    assert lab.isfinite().all()


def test_a_synthetic_tile_is_clipped_and_says_how_much():
    blank = ScaleRGB()
    scaled = blank(MetaTensor(torch.full((3, 4, 4), 255.0)))
    beyond = scaled.clone()
    beyond[:, 0] = 1.2
    restored = blank.inverse(beyond)
    assert restored.max() == 255
    assert restored.meta["clipped_share"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 4, 4), "ToRGB"),  # MONAI's and other transforms take [0, 1] for nearly black, and do not warn
        (torch.full((3, 4, 4), 300, dtype=torch.int32), "from 300 to 300"),
        (torch.full((3, 4, 4), -1.0), "from -1 to -1"),
        (torch.full((3, 4, 4), torch.nan), "48 values NaN"),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), r"shape \(4, 4, 4\)"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"shape \(8, 8, 3\)"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"shape \(1, 4, 4\)"),
    ],
    ids=["unit", "16 bit", "negative", "nan", "RGBA", "channels last", "grey"],
)
@pytest.mark.parametrize("make", [ScaleRGB, lambda: NormalizeStains(TARGET, SOURCE), lambda: JitterStains(SOURCE)])
def test_tiles_that_are_no_8_bit_colours_are_refused(make, image, message):
    tile = MetaTensor(image, meta={"filename_or_obj": "tile.png"})
    with pytest.raises(DataError, match=rf"(?s)tile.png.*{message}"):
        make()(tile)


def test_conversion_is_explicit():
    eight = torch.from_numpy(stained((4, 4)))
    wide = MetaTensor(eight.to(torch.int32) * 257, meta={"filename_or_obj": "a.tif"})
    converted = ToRGBd("image", value_range=(0, 65535))({"image": wide})["image"]
    assert torch.equal(converted.as_tensor(), eight)
    assert converted.meta["filename_or_obj"] == "a.tif"
    assert torch.equal(ToRGB((0, 1))(eight.double() / 255), eight)
    opaque = torch.cat([eight, torch.full_like(eight[:1], 255)])
    assert torch.equal(ToRGB()(opaque), eight)
    with pytest.raises(DataError, match=r"a.tif.*value_range"):
        ToRGB()(wide)


@pytest.mark.parametrize(
    "make", [lambda: NormalizeStains(TARGET), lambda: JitterStains(), lambda: NormalizeReinhard(LAB[0])]
)
def test_a_transform_without_the_slides_record_says_so(make):
    with pytest.raises(ValueError, match=r"fit_slide"):
        make()(torch.zeros(3, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: JitterStains(SOURCE, (0, 1)),
        lambda: RandJitterStains(SOURCE, 1.0),
        lambda: RandJitterStains(SOURCE, 0.1, -1),
    ],
)
def test_impossible_ranges_are_refused(make):
    with pytest.raises(ValueError, match="scale"):
        make()
