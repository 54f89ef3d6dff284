"""Metrics of sets of images against closed forms, brute force and MONAI, and the controls that they must see."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.metrics.fid import get_fid_score
from torch import Tensor

from monai_diffscore.metrics import (
    CONTROLS,
    IntensityDistance,
    MemorisationRatio,
    PairSimilarity,
    PatchSlicedWasserstein,
    RandomFeatureFrechet,
    SetMetric,
    SpectrumError,
    TrainOnSyntheticImages,
    assess,
    blurred,
    frechet_distance,
    image_panel_metrics,
    nearest_windows,
    noisy,
    quantiles,
    radial_power,
    random_features,
    ring_frequencies,
    shuffled,
    suspected_copies,
)
from monai_diffscore.report.volumes import random_windows
from monai_diffscore.samples import mni152


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def phantoms(count: int, seed: int, size: int = 32) -> Tensor:
    """CT-like slices in HU / 1000: a body of soft tissue with organs, bone and noise of 10 HU, in air."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij"))
    images = []
    for _ in range(count):
        image = np.full((size, size), -1000.0)

        def fill(image, centre, radii, value):
            inside = sum(((grid[a] - centre[a]) / radii[a]) ** 2 for a in range(2)) < 1
            image[inside] = value

        fill(image, random.uniform(-0.1, 0.1, 2), random.uniform(0.7, 0.9, 2), 30)
        for value in (60, -80, -700, 900):
            fill(image, random.uniform(-0.5, 0.5, 2), random.uniform(0.08, 0.3, 2), value + random.normal(0, 15))
        images.append(image + random.normal(0, 10, image.shape))
    return torch.tensor(np.stack(images)[:, None], dtype=torch.float32).clip(-1000, 1000) / 1000


@pytest.fixture(scope="module")
def head() -> Tensor:
    """MNI152 T1 at 2 mm, normalised, [1, X, Y, Z]."""
    volume = nib.load(mni152()).get_fdata(dtype=np.float32)[::2, ::2, ::2]
    high = float(np.percentile(volume[volume > 0], 99.5))
    return torch.tensor(2 * volume / high - 1).clip(-1, 1)[None]


# ---- each metric by itself ----


def test_the_intensity_distance_of_a_shift_is_the_shift():
    images = normal(6, 1, 16, 16)
    assert IntensityDistance(scale=1000, unit="HU")(images + 0.05, images) == pytest.approx(50, rel=1e-4)


def test_the_intensity_distance_is_blind_to_structure():
    images = normal(6, 1, 16, 16)
    assert IntensityDistance()(shuffled(images), images) < 1e-6


def test_quantiles_are_those_of_numpy():
    values = normal(1000)
    expected = np.quantile(values.numpy(), (np.arange(64) + 0.5) / 64, method="hazen")
    np.testing.assert_allclose(quantiles(values, 64), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(64,), (32, 24), (16, 20, 24)])
def test_twice_the_contrast_is_four_times_the_power(shape):
    images = normal(3, 2, *shape)
    assert SpectrumError()(2 * images, images) == pytest.approx(np.log10(4), rel=1e-5)


def test_a_wave_has_its_power_in_its_ring():
    wave = torch.cos(2 * np.pi * 0.25 * torch.arange(64.0)).expand(1, 1, 64, 64)
    power = radial_power(wave)[0, 0]
    assert ring_frequencies((64, 64))[power.argmax()] == pytest.approx(0.25, abs=1 / 64)


def test_a_blur_along_one_axis_shows_in_the_two_planes_that_hold_it():
    volume = normal(2, 1, 24, 24, 24)
    smooth = (volume + volume.roll(1, 4)) / 2
    change = (radial_power(smooth) / radial_power(volume))[..., -3:].mean((0, 2))
    assert change[2] == pytest.approx(0.5, abs=0.03)  # variance halved, its spectrum still flat
    assert (change[:2] < 0.45).all()


def test_the_frechet_distance_of_two_gaussians():
    """|mu - mu'|^2 + sum (s - s')^2 for commuting covariances."""
    base = normal(20_000, 3)
    base = (base - base.mean(0)) / base.std(0)
    base = base @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(base.T))).T
    spread = torch.tensor([1.0, 2.0, 0.5])
    assert frechet_distance(base * spread + 1, base) == pytest.approx(3 + 0 + 1 + 0.25, rel=1e-4)


@pytest.mark.parametrize("count", [12, 200])
def test_the_frechet_distance_is_monais(count):
    ours, theirs = normal(count, 32), normal(count, 32, seed=1) * 1.5
    assert frechet_distance(ours, theirs) == pytest.approx(float(get_fid_score(ours, theirs)), rel=1e-4)


def test_the_sliced_distance_of_a_shift_is_the_shift_along_each_direction():
    images, metric = normal(4, 2, 12, 12), PatchSlicedWasserstein()
    along = metric.describe(torch.ones_like(images))[0, 0].abs().mean()
    assert metric(images + 0.3, images) == pytest.approx(0.3 * float(along), rel=1e-4)


def test_random_features_depend_on_the_seed_alone():
    images = normal(3, 1, 16, 16)
    torch.testing.assert_close(random_features(images, 5), random_features(images, 5))
    assert not torch.allclose(random_features(images, 5), random_features(images, 6))


@pytest.mark.parametrize("shape", [(5, 5), (32, 32), (64, 48), (16, 16, 16)])
def test_equal_images_are_similar_and_noise_is_not(shape):
    one = normal(1, 1, *shape).expand(4, *[-1] * (len(shape) + 1))
    metric, other = PairSimilarity(), normal(4, 1, *shape)
    torch.testing.assert_close(metric.describe(one), torch.ones(2), atol=1e-4, rtol=0)
    assert float(metric.describe(other).mean()) < 0.3
    assert metric(one, one) == 1


# ---- memorisation ----


def test_the_nearest_window_is_that_of_a_search_by_hand():
    volumes, images = [normal(2, 9, 8), normal(2, 7, 10, seed=1)], normal(5, 2, 4, 3, seed=2)
    windows = nearest_windows(images, volumes)
    for image, distance in zip(images, windows.distance, strict=True):
        by_hand = [
            (image - volume[:, x : x + 4, y : y + 3]).square().mean().sqrt()
            for volume in volumes
            for x, y in itertools.product(range(volume.shape[1] - 3), range(volume.shape[2] - 2))
        ]
        assert distance == pytest.approx(float(min(by_hand)), rel=1e-5)


@pytest.mark.parametrize("coarse", [1, 2])
def test_copies_are_found_at_every_offset_and_mirrored(head, coarse):
    places = [(3, 7, 11), (20, 30, 15), (31, 44, 22), (8, 51, 30)]
    copies = torch.stack([head[:, x : x + 24, y : y + 24, z : z + 24] for x, y, z in places])
    copies[2] = head.flip(1)[:, 31:55, 44:68, 22:46]
    volume = head[:, :70]  # without the mirror image of the third
    windows = nearest_windows(copies, [head.flip(3), volume], mirrored=True, coarse=coarse)
    assert float(windows.distance.max()) == 0
    torch.testing.assert_close(windows.windows, copies)
    assert nearest_windows(copies[:1], [head], coarse=coarse).places == [(0, False, places[0])]


def test_copies_are_suspected_and_air_is_not(head):
    train, unseen = head[:, :, :60], head[:, :, 60:]
    real = random_windows([unseen], (1, 20, 20, 20), 12, 0)
    samples = random_windows([train], (1, 20, 20, 20), 6, 1)
    samples[3:] = noisy(real[:3])
    samples[5] = -1  # a window of air, which is in the training data too
    search = MemorisationRatio([train], coarse=2)
    ours, theirs = search.neighbours(samples), search.neighbours(real)
    contrast = samples.flatten(1).std(1) > 0.02
    suspects = suspected_copies(samples, ours.distance, real, theirs.distance)
    assert suspects[:3].tolist() == contrast[:3].tolist()
    assert contrast[:3].any()
    assert not suspects[3:].any()


@pytest.mark.parametrize("volumes", [[], [torch.zeros(1, 4, 9)], [torch.zeros(2, 9, 9)]])
def test_training_volumes_that_cannot_be_searched_are_refused(volumes):
    with pytest.raises(ValueError, match="at least"):
        nearest_windows(normal(2, 1, 5, 5), volumes)


# ---- the panel ----


def seen(rows) -> dict[str, set[str]]:
    return {name: {row.metric.name for row in rows if row.beyond_floor(name)} for name in (*CONTROLS, "copied")}


def test_every_control_is_seen_in_a_head(head):
    """All but the shift of 2.5 %: grey values of MR windows differ more than that from place to place."""
    train, unseen = head[:, :, :66], head[:, :, 66:]
    size = (1, 20, 20, 20)
    real, copied = random_windows([unseen], size, 64, 0), random_windows([train], size, 32, 1)
    caught = seen(assess(image_panel_metrics(training=[train], coarse=2), None, real, copied, draws=30))
    assert "spectrum" in caught["blurred"]
    assert "spectrum" in caught["noisy"]
    assert "spectrum" in caught["shuffled"]
    assert "memorisation" in caught["copied"]
    assert caught["collapsed"]


def test_every_control_is_seen_in_ct_and_each_metric_is_blind_to_one():
    training = list(phantoms(64, 1))
    rows = assess(image_panel_metrics(1000, "HU", training), None, phantoms(128, 0), torch.stack(training), draws=30)
    caught = seen(rows)
    assert all(caught.values()), caught
    assert "intensity" in caught["shifted"]  # + 50 HU
    assert caught["copied"] == {"memorisation"}  # all the others take copies for real images
    for row in rows:
        assert {name for name in caught if row.metric.name not in caught[name]}, f"{row.metric.name} sees all?"
    shift = next(row for row in rows if row.metric.name == "intensity").sets["shifted"]
    assert shift.value == pytest.approx(50, abs=15)


def test_a_perfect_model_passes_and_a_blurred_one_fails():
    real = phantoms(96, 0)
    metrics = image_panel_metrics(1000, "HU", list(phantoms(32, 1)))
    perfect = assess(metrics, phantoms(48, 2), real, draws=30)
    assert sum(row.beyond_floor("model") for row in perfect) <= 1  # each is a test at 5 %
    spoilt = {row.metric.name: row for row in assess(metrics[:1], blurred(phantoms(48, 2)), real, draws=30)}
    assert spoilt["spectrum"].beyond_floor("model")


@pytest.mark.parametrize("shape", [(3, 20, 16), (1, 8, 10, 12)])
def test_any_channels_and_dimensions(shape):
    rows = assess(
        image_panel_metrics(training=[normal(*shape)]), normal(6, *shape), normal(12, *shape, seed=1), draws=10
    )
    for row in rows:
        assert {"model", "real", "copied", *CONTROLS} == set(row.sets)
        for estimate in row.sets.values():
            assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.count == 6


def test_the_panel_is_reproducible():
    first, again = (assess([SpectrumError()], normal(6, 1, 9, 9), normal(12, 1, 9, 9), draws=10) for _ in range(2))
    assert first[0].sets == again[0].sets


@pytest.mark.parametrize(
    ("samples", "real", "message"),
    [
        ((1, 1, 8, 8), (8, 1, 8, 8), "2 samples"),
        ((4, 1, 8, 8), (3, 1, 8, 8), "4 real"),
        ((4, 1, 8, 8), (8, 1, 9, 8), "size"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(samples, real, message):
    with pytest.raises(ValueError, match=message):
        assess([SpectrumError()], normal(*samples), normal(*real))


@pytest.mark.parametrize("decollate", [True, False])
def test_an_image_metric_serves_an_evaluator(decollate):
    samples, reference = normal(5, 1, 12, 12), normal(4, 1, 12, 12, seed=1)
    metrics = [SpectrumError(), IntensityDistance(), PatchSlicedWasserstein(), RandomFeatureFrechet()]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": samples[:3], "label": samples[:3]}, {"image": samples[3:], "label": samples[3:]}],
        network=torch.nn.Identity(),
        decollate=decollate,
        key_val_metric={"spectrum": SetMetric(metrics[0], reference)},
        additional_metrics={metric.name: SetMetric(metric, reference) for metric in metrics[1:]},
    )
    evaluator.run()
    for metric in metrics:
        assert evaluator.state.metrics[metric.name] == pytest.approx(metric(samples, reference))


def labelled(count: int, seed: int, contrast: float = 2.0) -> tuple[Tensor, Tensor]:
    """Noise with a square in the middle of every second image, and whether it is there."""
    labels = torch.arange(count) % 2
    images = normal(count, 1, 16, 16, seed=seed)
    images[:, :, 4:12, 4:12] += contrast * labels.view(-1, 1, 1, 1)
    return images, labels


def test_training_on_samples_measures_their_usefulness():
    metric = TrainOnSyntheticImages()
    test, good, bad = labelled(200, 1), labelled(80, 2), labelled(80, 3, contrast=0.0)

    def accuracy(samples: tuple[Tensor, Tensor]) -> float:
        return metric(samples[0], test[0], (samples[1], test[1]))

    assert accuracy(good) > 0.85 > 0.7 > accuracy(bad)
    assert accuracy((good[0], 1 - good[1])) < 0.15  # labels exchanged
    assert accuracy((good[0][:10], torch.ones(10))) == 0.5  # one class learnt: right for it, wrong for the other
    with pytest.raises(ValueError, match="a label of each of the 80 images, got none"):
        metric(good[0], test[0])


def test_only_training_on_samples_detects_ignored_labels():
    samples, real, copied = labelled(64, 0), labelled(128, 1), labelled(64, 2)
    guesses = torch.randint(2, (64,), generator=torch.Generator().manual_seed(0))
    labels = {"model": guesses, "real": real[1], "copied": copied[1]}
    metrics = image_panel_metrics(labelled=True)
    rows = assess(metrics, samples[0], real[0], copied[0], draws=30, labels=labels)
    assert [row.metric.name for row in rows if row.beyond_floor("model")] == ["tstr"]
    tstr = next(row for row in rows if row.metric.name == "tstr")
    assert not tstr.beyond_floor("copied")
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in tstr.sets.values())
    honest = assess(metrics[-1:], samples[0], real[0], copied[0], draws=30, labels={**labels, "model": samples[1]})
    assert not honest[0].beyond_floor("model")
