"""Whole volumes: the inferers of scales against closed forms, and the bundles as a user runs them."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from processes import assert_equal_states
from small_data import choices, write_dataset
from workflows import workflow

from monai_diffscore.data import load_statistics
from monai_diffscore.inferers import (
    SamplingInferer,
    ScaleErrorInferer,
    ScaleLikelihoodInferer,
    ScaleSamplingInferer,
)
from monai_diffscore.metrics import scale_errors
from monai_diffscore.multiscale import MultiScale, sample_scales
from monai_diffscore.pyramid import Pyramid
from monai_diffscore.sampling import asinh_sigmas, log_uniform_sigmas
from monai_diffscore.scales import Scales
from monai_diffscore.tensors import random_stream

SIGMAS = [0.1, 0.5, 2.0]


class WhiteNoise(torch.nn.Module):
    """The exact denoiser of independent coefficients N(0, 1), for any condition."""

    def forward(self, x, sigma, **_condition):
        return x / (1 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)) ** 2)


@pytest.fixture
def white() -> MultiScale:
    return MultiScale(Scales(Pyramid(2, 2)), [WhiteNoise() for _ in range(3)])


class TestInferers:
    def test_a_sample_is_that_of_its_number_in_any_batch(self, white):
        inferer = ScaleSamplingInferer(sigmas=asinh_sigmas(6), seed=3, progress=False)
        together = inferer(torch.zeros(3, 1, 8, 12), white, seed=torch.tensor([4, 5, 6]))
        alone = inferer(torch.zeros(1, 1, 8, 12), white, seed=torch.tensor([5]))
        torch.testing.assert_close(together[1:2], alone)
        direct = sample_scales(white, (1, 1, 8, 12), asinh_sigmas(6), generator=[random_stream(3, 5)])
        torch.testing.assert_close(alone, direct)

    def test_a_stopped_scale_leaves_a_whole_volume(self, white):
        """The coarse image ends where it is stopped, each finer scale after its first step."""
        steps = []

        def stop(step):
            steps.append(step.number)
            return len(steps) >= 2

        sample = ScaleSamplingInferer(sigmas=asinh_sigmas(6), progress=False, callback=stop)(
            torch.zeros(1, 1, 8, 8), white
        )
        assert steps == [0, 1, 0, 0]
        assert sample.shape == (1, 1, 8, 8)
        assert sample.isfinite().all()

    def test_models_of_one_scale_and_starts_are_refused(self, white):
        inferer = ScaleSamplingInferer(sigmas=asinh_sigmas(2), progress=False)
        with pytest.raises(TypeError, match="Expected a MultiScale, got WhiteNoise"):
            inferer(torch.zeros(1, 1, 8, 8), WhiteNoise())
        with pytest.raises(ValueError, match="no start"):
            inferer.sample(white, torch.zeros(1, 1, 8, 8), [0], start=torch.zeros(1, 1, 8, 8))
        assert SamplingInferer(sigmas=asinh_sigmas(2), progress=False)(torch.zeros(1, 1, 4, 4), WhiteNoise()).any()

    def test_the_error_of_each_scale_is_one_where_voxels_are_independent(self, white):
        x = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        errors = ScaleErrorInferer(SIGMAS)(x, white)
        assert errors.shape == (4, 3, 3)
        for number, metric in enumerate(scale_errors(SIGMAS, 1.0, 2).values()):
            metric.update(errors)
            coefficients = 4 * 3 * 16**2  # at the least, that of the coarse image is known to 4 standard errors
            assert metric.compute() == pytest.approx(1, abs=4 * math.sqrt(2 / coefficients)), number

    def test_the_likelihood_is_the_closed_form(self, white):
        x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        grid = log_uniform_sigmas(40, sigma_min=0.002, sigma_max=80.0).double()
        nats, error = ScaleLikelihoodInferer(grid, probes=0, progress=False)(x, white.double()).unbind(1)
        expected = torch.distributions.Normal(0, 1).log_prob(x).flatten(1).mean(1)
        torch.testing.assert_close(nats, expected, atol=1e-3, rtol=0)
        assert not error.any()


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> str:
    return write_dataset("mri_whole3d", tmp_path_factory.mktemp("heads"))


SMALL = {"coarse_channels": [8, 16, 32], "detail_channels": [[8, 16], [8, 16, 16]]}


def small(heads: str, folder: Path, **options):
    where = {"output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models"), "dataset_dir": heads}
    settings = choices("mri_whole3d", heads) | SMALL | {"passes_per_epoch": 2, "sigmas#steps": 2} | options
    return workflow("mri_whole3d", ["train"], ["smoke"], **where, **settings)


@pytest.fixture(scope="module")
def whole(heads, tmp_path_factory) -> Path:
    """A small training of four iterations."""
    folder = tmp_path_factory.mktemp("whole")
    small(heads, folder, max_epochs=2).run()
    return folder


def test_a_continued_training_is_the_uninterrupted_one_bit_for_bit(heads, whole, tmp_path):
    small(heads, tmp_path, max_epochs=1).run()
    before = torch.load(tmp_path / "models/model.pt", weights_only=True)
    small(heads, tmp_path, max_epochs=2).run()
    expected, continued = (torch.load(folder / "models/model.pt", weights_only=True) for folder in (whole, tmp_path))
    assert_equal_states(continued, expected)
    assert any(not torch.equal(before[name], continued[name]) for name in before)


def test_cases_are_the_images_with_the_age_of_their_subject(heads, tmp_path):
    training, validation = small(heads, tmp_path).parser.get_parsed_content("cases")
    assert {Path(case["image"]).name: case["age_years"] for case in [*training, *validation]} == {
        "sub-01_T1w.nii.gz": 30.0, "sub-02_T1w.nii.gz": 50.0, "sub-03_T1w.nii.gz": 70.0,
    }  # fmt: skip


def test_statistics_standardise_every_scale(heads, tmp_path):
    """Over the training cases, each channel of each scale has mean 0 and standard deviation 1."""
    training = small(heads, tmp_path)
    volumes = torch.stack([torch.as_tensor(case["image"]) for case in training.parser.get_parsed_content("measured")])
    for scale in training.parser.get_parsed_content("scale_split").split(volumes.double()):
        values = scale.coefficients.transpose(0, 1).flatten(1)
        torch.testing.assert_close(values.mean(1), torch.zeros(len(values)).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(values.std(1, correction=0), torch.ones(len(values)).double(), atol=1e-6, rtol=0)


def test_a_folder_without_a_table_says_how_to_train_without_age(tmp_path):
    folder = write_dataset("mri_unet3d", tmp_path)
    with pytest.raises(RuntimeError) as caught:
        small(folder, tmp_path).run()
    assert '--fields "{}"' in str(caught.value.__cause__)
    small(folder, tmp_path, fields={}, max_epochs=1).run()
    assert (tmp_path / "models/model.pt").is_file()


def test_a_head_has_the_size_units_and_place_of_the_training_and_follows_the_age(whole, tmp_path):
    statistics = load_statistics(whole / "models/data_statistics.json")
    images = {}
    for age in (25, 85):
        workflow(
            "mri_whole3d", ["inference"], ["smoke"], kind="infer", checkpoint=str(whole / "models/model.pt"),
            num_samples=1, output_dir=str(tmp_path / str(age)), condition={"age_years": age}, **SMALL,
        ).run()  # fmt: skip
        (file,) = (tmp_path / str(age)).glob("*.nii.gz")
        images[age] = nib.load(file)
    image = images[25]
    assert image.shape == tuple(statistics["sample_size"]) == (32, 32, 32)
    assert image.header.get_zooms() == (2.5, 2.5, 2.5)
    np.testing.assert_allclose(image.affine @ [15.5, 15.5, 15.5, 1], [0, 0, 0, 1])  # its middle is the origin
    assert statistics["low"] <= image.get_fdata().min() < image.get_fdata().max() <= statistics["high"] + 1e-3
    assert (images[85].get_fdata() != image.get_fdata()).any()


def test_a_chest_is_padded_with_air_and_keeps_its_hounsfield_units(tmp_path):
    """A volume of 24^3 voxels in 32^3: the way back to HU is exact inside, and outside is air."""
    values = np.random.default_rng(0).integers(-900, 900, (2, 24, 24, 24)).astype(np.int16)
    for number, array in enumerate(values):
        file = tmp_path / f"sub-{number}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.diag([2.5, 2.5, 2.5, 1])), file)
    options = choices("ct_whole3d", "") | SMALL | {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    training = workflow("ct_whole3d", ["train"], ["smoke"], **options)
    (case,) = training.parser.get_parsed_content("measured")
    hu = (np.asarray(case["image"][0]) + 1) * 1000 - 1000
    number = [file["image"] for file in training.parser.get_parsed_content("volumes")].index(
        case["image"].meta["filename_or_obj"]
    )
    np.testing.assert_allclose(hu[4:28, 4:28, 4:28], values[number], atol=1e-3)
    hu[4:28, 4:28, 4:28] = -1000
    assert (hu == -1000).all()
