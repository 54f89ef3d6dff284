"""Tasks on whole volumes: exact where the prior is Gaussian, and the configurations as a user runs them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_data import choices, write_dataset
from test_multiscale import exact_model
from workflows import workflow

from monai_diffscore.command_line import find_cause
from monai_diffscore.detail_tiles import DetailTiles
from monai_diffscore.multiscale import MultiScale
from monai_diffscore.operators import Downsample, Mask
from monai_diffscore.pyramid import Pyramid
from monai_diffscore.sampling import log_uniform_sigmas
from monai_diffscore.scales import Scales
from monai_diffscore.tasks import (
    WholeAnomalyInferer,
    WholeLikelihoodInferer,
    WholeRestorationInferer,
    box_mask,
)

SIZE = (8, 4)


class White(torch.nn.Module):
    """The exact denoiser of coefficients that are independent and N(0, 1), whatever it is given."""

    def forward(self, x, sigma, **_fields):
        return x / (1 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)) ** 2)


STATISTICS = {"mean": [[0.3], [0.0] * 3], "std": [[2.0], [0.5] * 3]}


def independent() -> MultiScale:
    """A Gaussian field with independent coefficients: the coarse image N(0.3, 4), its details N(0, 0.25)."""
    return MultiScale(Scales(Pyramid(2, 1), statistics=STATISTICS), [White(), White()])


class TestRestoration:
    def test_the_mean_is_that_of_the_posterior_in_units_of_the_volume(self):
        """Noise of one standard deviation on independent coefficients: the wavelet shrinkage of Wiener."""
        model, noise = independent(), 0.5
        y = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        inferer = WholeRestorationInferer(
            lambda size: Mask(torch.ones(*size)), noise_std=noise, measure=False, count=12, steps=40, progress=False
        )
        mean, spread, baseline = inferer(y, model).chunk(3, 1)
        coarse, (details,) = model.scales.pyramid.analysis(y)
        shrunk = [0.3 + (coarse - 0.3) * 4 / 4.25, [details * 0.25 / 0.5]]
        expected = model.scales.pyramid.synthesis(*shrunk)
        variance = (4 * 0.25 / 4.25 + 3 * 0.25 * 0.25 / 0.5) / 4  # of a voxel
        assert float((mean - expected).square().mean().sqrt()) == pytest.approx(math.sqrt(variance / 12), rel=0.2)
        assert float(spread.square().mean()) == pytest.approx(variance, rel=0.2)  # 40 steps of first order
        torch.testing.assert_close(baseline, y, atol=0.02, rtol=0.02)

    def test_thick_slices_and_holes_are_explained_at_every_scale(self):
        model, field = exact_model(2, 2, SIZE, 1)
        torch.manual_seed(0)
        x = field.sample().reshape(1, 1, *SIZE).float()
        for operator in (Downsample((4, 1)), Mask(box_mask(SIZE, 0.5))):
            inferer = WholeRestorationInferer(
                lambda _size, one=operator: one, noise_std=0.02, count=2, steps=32, progress=False
            )
            mean = inferer(x, model.float()).chunk(3, 1)[0]
            assert float((operator(mean) - operator(x)).std()) < 0.04

    def test_tiles_that_hold_a_scale_change_nothing(self):
        y = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        options = {"noise_std": 0.5, "measure": False, "count": 2, "steps": 6, "progress": False}
        whole, tiled = (
            WholeRestorationInferer(lambda size: Mask(torch.ones(*size)), tiles=tiles, **options)(y, independent())
            for tiles in (None, DetailTiles((4, 8), overlap=2))
        )
        torch.testing.assert_close(whole, tiled)


class TestAnomaly:
    def test_residuals_are_the_volume_whitened(self):
        model, level = independent(), 0.7
        x = torch.randn(2, 1, 16, 8, generator=torch.Generator().manual_seed(0))
        residuals = WholeAnomalyInferer([level], progress=False)(x, model)
        coarse, (details,) = model.scales.pyramid.analysis(x)
        white = level**2 / (1 + level**2)  # sigma^2 (C + sigma^2)^-1 with C = 1
        expected = model.scales.pyramid.synthesis(white * (coarse - 0.3) / 4, [white * details / 0.25])
        torch.testing.assert_close(residuals, expected, atol=1e-5, rtol=1e-4)

    def test_a_case_has_noise_of_its_own_number(self):
        model, _ = exact_model(2, 2, SIZE, 1)
        torch.manual_seed(1)
        x = torch.randn(2, 1, *SIZE)
        inferer = WholeAnomalyInferer([0.5, 1.0], progress=False)
        both = inferer(x, model.float(), seed=torch.tensor([3, 4]))
        assert both.shape == (2, 2, *SIZE)
        torch.testing.assert_close(both[1:], inferer(x[1:], model.float(), seed=torch.tensor([4])))


def test_the_likelihood_of_a_volume_is_one_number_in_closed_form():
    model = independent().double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inferer = WholeLikelihoodInferer(log_uniform_sigmas(40, 0.002, 80.0).double(), probes=0, progress=False)
    nats, error = inferer(x, model, seed=torch.tensor([0, 1])).unbind(1)
    coarse, (details,) = model.scales.pyramid.analysis(x)
    densities = [
        torch.distributions.Normal(mean, std).log_prob(part).flatten(1).sum(1)
        for mean, std, part in ((0.3, 2.0, coarse), (0.0, 0.5, details))
    ]
    torch.testing.assert_close(nats, sum(densities)[:, None] / 64, atol=1e-3, rtol=0)
    assert not error.any()


SMALL = {"coarse_channels": [8, 16, 32], "detail_channels": [[8, 16], [8, 16, 16]]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """Weights of mri_whole3d after two iterations, and the folder of the heads."""
    folder = tmp_path_factory.mktemp("trained")
    heads = write_dataset("mri_whole3d", folder)
    settings = choices("mri_whole3d", heads) | SMALL | {"passes_per_epoch": 1, "sigmas#steps": 2, "max_epochs": 1}
    where = {"output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models"), "dataset_dir": heads}
    workflow("mri_whole3d", ["train"], ["smoke"], **where, **settings).run()
    return folder / "models/model.pt", heads


def run(trained, task: str, folder: Path, start: bool = True, **options):
    weights, heads = trained
    restoration = workflow(
        "mri_whole3d", ["inference", "cases", task], kind="infer", checkpoint=str(weights), dataset_dir=heads,
        output_dir=str(folder), tracking_uri=f"sqlite:///{folder}/runs.db", seed=0, **SMALL, **options,
    )  # fmt: skip
    if start:
        restoration.run()
    return restoration


@pytest.mark.parametrize(
    "task", ["inpaint", *(pytest.param(t, marks=pytest.mark.slow) for t in ("super_resolve", "denoise"))]
)
def test_restorations_are_on_the_grid_and_in_the_units_of_the_files(trained, task, tmp_path):
    run(trained, task, tmp_path, steps=2, posterior_samples=2, condition={"age_years": 60})
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["sub-01_T1w", "sub-02_T1w", "sub-03_T1w"]
    assert ("rmse" in rows[0]) == (task != "denoise")
    for row in rows:
        source, mean = nib.load(row["file"]), nib.load(tmp_path / f"{row['case']}_mean.nii.gz")
        assert mean.shape == source.shape
        np.testing.assert_allclose(mean.affine, source.affine, atol=1e-5)
        values = mean.get_fdata()
        assert np.isfinite(values).all()
        assert 100 < np.abs(values).max() < 10 * source.get_fdata().max(), "in units of the file"


@pytest.mark.parametrize("task", ["anomaly", pytest.param("likelihood", marks=pytest.mark.slow)])
def test_heads_are_compared_with_healthy_ones(trained, task, tmp_path):
    options = {"healthy_dir": trained[1], "validation_share": 0.7}
    if task == "anomaly":
        options |= {
            "noise_pairs": 1,
            "levels": [0.5],
            "radii_voxels": [1],
            "calibration": str(tmp_path / "healthy.json"),
        }
        with pytest.raises(RuntimeError) as caught:
            run(trained, task, tmp_path / "out", **options)
        assert "calibrating first" in str(find_cause(caught.value))
    else:
        options |= {"probes": 1, "likelihood_sigmas#steps": 2, "reference": str(tmp_path / "healthy.json")}
    run(trained, task, tmp_path / "out", start=False, **options).parser.get_parsed_content("calibrator").run()
    run(trained, task, tmp_path / "out", **options)
    rows = list(csv.DictReader((tmp_path / "out/cases.csv").open()))
    assert len(rows) == 3
    if task == "likelihood":
        assert all(math.isfinite(float(row["z"])) for row in rows)
        return
    p, source = (nib.load(path) for path in (tmp_path / "out/sub-01_T1w_p.nii.gz", rows[0]["file"]))
    assert p.shape == source.shape
    np.testing.assert_allclose(p.affine, source.affine, atol=1e-5)
    assert 0 < p.get_fdata().min() < 0.05


def test_the_white_covariance_of_diffpir_is_refused_for_scales():
    with pytest.raises(ValueError, match="'pigdm', 'mmps' or 'dps', got 'diffpir'"):
        WholeRestorationInferer(lambda size: Mask(torch.ones(*size)), noise_std=0.1, method="diffpir")
