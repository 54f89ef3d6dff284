"""Restoration of volumes: exact where the prior is, and the task configurations run as a user runs them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from torch import nn

from monai_diffscore.operators import Downsample, Mask
from monai_diffscore.sampling import asinh_sigmas
from monai_diffscore.tasks import RestorationInferer, SavePosterior, box_mask, estimate_noise

COUNT = 24  # posterior samples
CONFIGS = Path(__file__).parent.parent / "bundles/mri_unet3d/configs"


class WhitePrior(nn.Module):
    """Independent voxels N(0, 0.25): every posterior is in closed form, and pigdm is exact."""

    def forward(self, x, sigma):
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return 0.25 / (0.25 + level**2) * x


def truth() -> torch.Tensor:
    return 0.5 * torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))


def restore(operator, **options) -> tuple[torch.Tensor, ...]:
    inferer = RestorationInferer(
        operator, (8, 8, 4), count=COUNT, sigmas=asinh_sigmas(12), progress=False, windows_at_once=3, **options
    )
    return inferer(truth(), WhitePrior()).chunk(3, dim=1)


def test_inpainting_returns_the_data_where_measured_and_the_prior_elsewhere():
    mean, spread, _ = restore(lambda size: Mask(box_mask(size, 0.5)), noise_std=0.1)
    known = box_mask((8, 8, 8), 0.5).bool()
    expected = (1 / (1 / 0.25 + 1 / 0.01)) ** 0.5
    assert float(spread[0, 0][known].mean()) == pytest.approx(expected, rel=0.03)
    assert float(spread[0, 0][~known].mean()) == pytest.approx(0.5, rel=0.05)
    assert float((mean - truth())[0, 0][known].std()) == pytest.approx(expected, rel=0.1)
    assert mean[0, 0][~known].abs().max() < 5 * 0.5 / COUNT**0.5


def test_super_resolution_explains_the_thick_slices():
    operator = Downsample((1, 1, 4))
    mean, _, baseline = restore(lambda size: operator, noise_std=0.02)
    assert (operator(mean) - operator(truth())).std() < 0.04
    assert (operator(baseline) - operator(truth())).std() < 0.05


def test_denoising_shrinks_the_image_by_its_estimated_noise():
    noisy = truth()
    mean, spread, _ = restore(lambda size: Mask(torch.ones(*size)), measure=False, noise_std=0.5)
    torch.testing.assert_close(mean, noisy / 2, rtol=0, atol=5 * 0.36 / COUNT**0.5)
    assert float(spread.mean()) == pytest.approx((0.25 / 2) ** 0.5, rel=0.03)


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_noise_of_a_smooth_volume_is_found(noise):
    axis = torch.linspace(-1, 1, 32)
    smooth = 0.6 * torch.cos(3 * axis)[:, None, None] * torch.cos(2 * axis)[:, None] * torch.sin(2 * axis)
    volume = smooth + noise * torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    assert estimate_noise(volume[None, None]) == pytest.approx(noise, rel=0.05)
    with pytest.raises(ValueError, match="Give noise_std"):
        estimate_noise(torch.ones(1, 1, 4, 4, 4))


def test_a_case_is_written_in_its_units_with_its_numbers(tmp_path):
    from monai_diffscore.transforms import WindowIntensityd

    raw = MetaTensor(100 * torch.rand(1, 8, 8, 8), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))
    image = WindowIntensityd("image", 0.0, 100.0)({"image": raw})["image"]
    mean, spread = image.as_tensor() + 0.1, torch.full((1, 8, 8, 8), 0.06)
    save = SavePosterior(tmp_path)
    for _ in range(2):
        save({"image": image, "pred": torch.cat([mean, spread, image.as_tensor() - 0.2])})
    saved = nib.load(tmp_path / "case_mean.nii.gz")
    np.testing.assert_allclose(saved.get_fdata(), raw[0].numpy() + 5, atol=1e-3)
    np.testing.assert_allclose(saved.affine, np.diag([2, 2, 3, 1]))
    np.testing.assert_allclose(nib.load(tmp_path / "case_std.nii.gz").get_fdata(), 3.0, atol=1e-4)
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["case", "case_1"]  # nothing is overwritten
    assert float(rows[0]["rmse"]) == pytest.approx(0.1, abs=1e-5)
    assert float(rows[0]["rmse_baseline"]) == pytest.approx(0.2, abs=1e-5)
    assert float(rows[0]["share_within_2_std"]) == 1.0


def test_impossible_restorations_are_refused():
    with pytest.raises(ValueError, match="count >= 2"):
        RestorationInferer(lambda size: Mask(torch.ones(1)), (4,), count=1, noise_std=0.1)
    with pytest.raises(ValueError, match="noise_std"):
        RestorationInferer(lambda size: Mask(torch.ones(1)), (4,))


@pytest.fixture
def weights(tmp_path) -> Path:
    """An untrained network of the bundle, saved as a training saves it."""
    facts = {"sigma_data": 0.5, "low": 0.0, "high": 1000.0, "spacing_mm": [2.0, 2.0, 2.0]}
    (tmp_path / "models").mkdir()
    (tmp_path / "models/data_statistics.json").write_text(json.dumps(facts))
    path = tmp_path / "models/model.pt"
    torch.save(run(["inference"], tmp_path, path, load=False).parser.get_parsed_content("network").state_dict(), path)
    return path


def run(names: list[str], folder: Path, checkpoint: Path, load: bool = True, **overrides) -> ConfigWorkflow:
    made = ConfigWorkflow(
        [str(CONFIGS / f"{name}.json") for name in names],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(CONFIGS.parent),
        checkpoint=str(checkpoint),
        output_dir=str(folder / "out"),
        autocast_dtype=None,
        **{"network_def#network#channels": [8, 8, 8, 8], "network_def#network#num_head_channels": 8},
        **overrides,
    )
    made.initialize()
    if load:
        made.run()
    return made


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("inpaint", "denoise", "reconstruct_mri")]


@pytest.mark.parametrize("task", ["super_resolve", *SLOW])
def test_restorations_run_from_their_configuration(task, tmp_path, weights, write_volume):
    write_volume("data/sub-1/anat.nii.gz")
    small = {"steps": 2, "posterior_samples": 2, "window": [16, 16, 16], "region_size": [16, 16, 16]}
    run(["inference", "restore", task], tmp_path, weights, dataset_dir=str(tmp_path / "data"), **small)
    (row,) = csv.DictReader((tmp_path / "out/cases.csv").open())
    assert row["case"] == "anat"
    assert ("rmse" in row) == (task != "denoise")
    mean = nib.load(tmp_path / "out/anat_mean.nii.gz")
    assert mean.shape == (16, 16, 16)
    assert nib.aff2axcodes(mean.affine) == ("R", "A", "S")
    assert np.isfinite(mean.get_fdata()).all()
    assert (tmp_path / "out/anat.png").stat().st_size > 5_000


def test_generate_makes_volumes_larger_than_the_patch(tmp_path, weights):
    small = {"steps": 2, "sample_size": [24, 16, 16], "window": [16, 16, 16], "num_samples": 1}
    run(["inference", "generate"], tmp_path, weights, **small)
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    assert nib.load(file).shape == (24, 16, 16)
