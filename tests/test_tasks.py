"""Restoration of volumes: exact where the prior is, and the task configurations run as a user runs them."""

from __future__ import annotations

import csv
import itertools
import json
import math
import signal
from dataclasses import asdict
from functools import partial
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, CropForegroundd, Orientationd, Spacingd, SpatialPadd
from pictures import check_picture
from torch import nn

from monai_diffscore.anomaly import HealthyScores
from monai_diffscore.data import LoadVolumed, read_dicom_series, write_dicom_series
from monai_diffscore.errors import DataError, explain, find_cause
from monai_diffscore.handlers.spool import Spool
from monai_diffscore.operators import Downsample, Mask, Radon
from monai_diffscore.sampling import asinh_sigmas, log_uniform_sigmas, sample_adams
from monai_diffscore.tasks import (
    CaseEvaluator,
    Cases,
    CaseTable,
    PatchLikelihoodInferer,
    RestorationInferer,
    SaveAnomaly,
    SaveLikelihood,
    SavePosterior,
    WriteDicom,
    box_mask,
    estimate_noise,
    line_angles,
    on_source_grid,
)
from monai_diffscore.tasks.anomaly import load_scores
from monai_diffscore.tasks.case_tracking import TrackCases
from monai_diffscore.tensors import per_sample
from monai_diffscore.transforms import PercentileScaled

COUNT = 24  # posterior samples
CONFIGS = Path(__file__).parent.parent / "bundles"


class WhitePrior(nn.Module):
    """Independent voxels N(0, 0.25): every posterior is in closed form, and pigdm is exact."""

    def forward(self, x, sigma):
        level = per_sample(sigma, x)
        return 0.25 / (0.25 + level**2) * x


def truth() -> torch.Tensor:
    return 0.5 * torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))


def restore(operator, **options) -> tuple[torch.Tensor, ...]:
    inferer = RestorationInferer(
        operator,
        (8, 8, 4),
        count=COUNT,
        sigmas=asinh_sigmas(12),
        progress=False,
        windows_at_once=3,
        sigma_data=0.5,
        **{"sampler": partial(sample_adams, order=1), **options},
    )
    return inferer(truth(), WhitePrior()).chunk(3, dim=1)


def test_inpainting_returns_the_data_where_measured_and_the_prior_elsewhere():
    mean, spread, _ = restore(lambda size: Mask(box_mask(size, 0.5)), noise_std=0.1)
    mask = box_mask((8, 8, 8), 0.5).bool()
    expected = (1 / (1 / 0.25 + 1 / 0.01)) ** 0.5
    assert float(spread[0, 0][mask].mean()) == pytest.approx(expected, rel=0.03)
    assert float(spread[0, 0][~mask].mean()) == pytest.approx(0.5, rel=0.05)
    assert float((mean - truth())[0, 0][mask].std()) == pytest.approx(expected, rel=0.1)
    assert mean[0, 0][~mask].abs().max() < 5 * 0.5 / COUNT**0.5


def test_super_resolution_explains_the_thick_slices():
    operator = Downsample((1, 1, 4))
    mean, _, baseline = restore(lambda size: operator, noise_std=0.02)
    assert (operator(mean) - operator(truth())).std() < 0.04
    assert (operator(baseline) - operator(truth())).std() < 0.05


def test_samples_that_contradict_their_measurement_are_named_in_one_line(caplog):
    """One step from sigma 80 ends at the prior's mean guided once; for y far outside of the prior pigdm stays there."""
    options = {"noise_std": 0.001, "measure": False}
    restore(lambda size: Downsample((1, 1, 1)), method="diffpir", **options)
    assert not caplog.records
    inferer = RestorationInferer(
        lambda size: Downsample((1, 1, 1)), (8, 8, 4), count=2, sigmas=torch.tensor([80.0, 0.0]), progress=False,
        sigma_data=0.01, method="pigdm", **options,
    )  # fmt: skip
    inferer(truth(), WhitePrior())
    assert [("contradicts" in record.message, "diffpir" in record.message) for record in caplog.records] == [
        (True,) * 2
    ]


@pytest.mark.parametrize("noise", [0.5, 0.02])
def test_removing_noise_gives_the_exact_posterior(noise):
    """One evaluation for the mean, and samples of the reverse diffusion from the image itself for the spread."""
    mean, spread, baseline = restore(lambda size: Mask(torch.ones(*size)), measure=False, noise_std=noise)
    torch.testing.assert_close(mean, truth() * 0.25 / (0.25 + noise**2))
    assert torch.equal(baseline, truth())
    assert float(spread.square().mean().sqrt()) == pytest.approx((1 / (4 + noise**-2)) ** 0.5, rel=0.06)  # 12 steps


def test_no_noise_is_nothing_to_remove():
    mean, spread, _ = restore(lambda size: Mask(torch.ones(*size)), measure=False, noise_std=0.0)
    assert torch.equal(mean, truth())
    assert not spread.any()


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_the_noise_of_a_smooth_volume_is_found(noise):
    axis = torch.linspace(-1, 1, 32)
    smooth = 0.6 * torch.cos(3 * axis)[:, None, None] * torch.cos(2 * axis)[:, None] * torch.sin(2 * axis)
    volume = smooth + noise * torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    assert estimate_noise(volume[None, None]) == pytest.approx(noise, rel=0.05)
    assert estimate_noise(volume[None, None, :, :, :1]) == pytest.approx(noise, rel=0.3)  # one slice
    with pytest.raises(ValueError, match="Give --noise_std"):
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
    assert [row["case"] for row in rows] == ["case", "case_2"]  # nothing is overwritten
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
    return save_weights("mri_unet3d", tmp_path)


def save_weights(bundle: str, folder: Path) -> Path:
    """An untrained network of the bundle, saved as a training saves it."""
    ct = bundle.startswith("ct")
    facts = {"sigma_data": 0.5, "low": -1000.0 * ct, "high": 1000.0, "spacing_mm": [2.0] * int(bundle[-2])}
    (folder / "models").mkdir()
    (folder / "models/data_statistics.json").write_text(json.dumps(facts))
    path = folder / "models/model.pt"
    path.touch()  # sampling is refused without weights
    task = run(["inference"], folder, path, bundle, load=False)
    torch.save(task.parser.get_parsed_content("network").state_dict(), path)
    return path


def run(
    names: list[str], folder: Path, checkpoint: Path, bundle: str = "mri_unet3d", load: bool = True, **overrides
) -> ConfigWorkflow:
    configs = CONFIGS / bundle / "configs"
    sampling = ConfigWorkflow(
        [str(configs / f"{name}.json") for name in names],
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(configs.parent),
        checkpoint=str(checkpoint),
        output_dir=str(folder / "out"),
        autocast_dtype=None,
        **{"network_def#network#channels": [8, 8, 8, 8], "network_def#network#num_head_channels": 8},
        **overrides,
    )
    sampling.initialize()
    if load:
        sampling.run()
    return sampling


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("inpaint", "denoise", "reconstruct_mri")]


@pytest.mark.parametrize("task", ["super_resolve", *SLOW])
def test_restorations_run_from_their_configuration(task, tmp_path, weights, write_volume):
    write_volume("data/sub-1/anat.nii.gz")
    small = {"steps": 2, "posterior_samples": 2, "window": [16, 16, 16], "region_size": [16, 16, 16]}
    run(["inference", "cases", task], tmp_path, weights, dataset_dir=str(tmp_path / "data"), **small)
    (row,) = csv.DictReader((tmp_path / "out/cases.csv").open())
    assert row["case"] == "sub-1_anat"
    assert ("rmse" in row) == (task != "denoise")
    mean, source = nib.load(tmp_path / "out/sub-1_anat_mean.nii.gz"), nib.load(tmp_path / "data/sub-1/anat.nii.gz")
    assert mean.shape == source.shape
    np.testing.assert_allclose(mean.affine, source.affine, atol=1e-5)
    assert np.isfinite(mean.get_fdata()).all()
    check_picture(tmp_path / "out/sub-1_anat.png", grey=True)


@pytest.mark.parametrize("bundle", ["mri_unet3d", pytest.param("ct_unet2d", marks=pytest.mark.slow)])
@pytest.mark.parametrize("task", ["anomaly", "likelihood"])
def test_healthy_priors_run_from_their_configuration(bundle, task, tmp_path, write_volume):
    weights = save_weights(bundle, tmp_path)
    for subject in (1, 2):
        source = write_volume(f"data/sub-{subject}/anat.nii.gz", seed=subject)
    if bundle.startswith("ct"):
        for file in (tmp_path / "data").rglob("*.nii.gz"):
            image = nib.load(file)
            nib.save(nib.Nifti1Image(image.get_fdata() - 1000, image.affine), file)
    small = {"window": [16] * int(bundle[-2]), "region_size": [24, 16, 16], "data": str(tmp_path / "data")}
    small |= (
        {"levels": [0.5], "noise_pairs": 1, "radii_voxels": [1, 2]}
        if task == "anomaly"
        else {"likelihood_sigmas#steps": 3, "patches": 2}
    )
    options = small | {"dataset_dir": small["data"], "healthy_dir": small.pop("data")}
    options.pop("data", None)
    names = ["inference", "cases", task]
    if task == "anomaly":
        with pytest.raises(RuntimeError) as caught:
            run(names, tmp_path, weights, bundle=bundle, **options)
        assert "calibrating first" in str(find_cause(caught.value))
    instance = run(names, tmp_path, weights, bundle=bundle, load=False, **options)
    instance.parser.get_parsed_content("calibrator").run()
    run(names, tmp_path, weights, bundle=bundle, **options)
    rows = list(csv.DictReader((tmp_path / "out/cases.csv").open()))
    assert [row["case"] for row in rows] == ["sub-1_anat", "sub-2_anat"]
    assert all(Path(row["file"]).is_file() for row in rows)
    check_picture(tmp_path / "out/sub-1_anat.png", grey=True)
    if task == "anomaly":
        for kind, kept in (("p", np.float32), ("score", np.float32), ("label", np.uint8)):
            volume = nib.load(tmp_path / f"out/sub-1_anat_{kind}.nii.gz")
            assert volume.shape == nib.load(source).shape
            assert volume.get_data_dtype() == kept
            np.testing.assert_allclose(volume.affine, nib.load(source).affine, atol=1e-5)
        p = nib.load(tmp_path / "out/sub-1_anat_p.nii.gz").get_fdata()
        assert p.max() == 1.0
        assert 0 < p.min() < 0.01
        assert p[0, 0, 0] == 1.0  # outside of the region that was looked at
    else:
        ranking = list(csv.DictReader((tmp_path / "out/ranking.csv").open()))
        distances = [abs(float(row["z"])) for row in ranking]
        assert distances == sorted(distances, reverse=True)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/out/mlruns.db")
    (tracked,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert tracked.info.status == "FINISHED"
    name = "share_below_alpha" if task == "anomaly" else "nats_per_dim"
    history = client.get_metric_history(tracked.info.run_id, name)
    assert [metric.value for metric in history] == pytest.approx([float(row[name]) for row in rows])
    assert "cases.csv" in {file.path for file in client.list_artifacts(tracked.info.run_id)}


def spoil(folder: Path, write_volume) -> list[str]:
    """Three whole cases and three that cannot be read: truncated, not finite, constant. Names of the latter."""
    for subject in (1, 3, 5):
        write_volume(f"data/sub-{subject}_T1w.nii.gz", seed=subject)
    truncated = write_volume("data/sub-2_T1w.nii.gz", seed=2)
    truncated.write_bytes(truncated.read_bytes()[:5000])
    write_volume("data/sub-4_T1w.nii.gz", array=np.full((40, 40, 40), np.nan))
    write_volume("data/sub-6_T1w.nii.gz", array=np.ones((40, 40, 40)))
    return ["sub-2_T1w", "sub-4_T1w", "sub-6_T1w"]


@pytest.mark.parametrize("stop", [False, True])
def test_bad_cases_fail_alone(stop, tmp_path, weights, write_volume):
    bad = spoil(tmp_path, write_volume)
    small = {"steps": 2, "posterior_samples": 2, "window": [16, 16, 16], "region_size": [16, 16, 16]}
    with pytest.raises((RuntimeError, DataError)) as caught:
        run(["inference", "cases", "super_resolve"], tmp_path, weights,
            dataset_dir=str(tmp_path / "data"), stop_on_error=stop, **small)  # fmt: skip
    message = explain(caught.value)
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "out/cases.csv").open())}
    if stop:
        assert set(rows) == {"sub-1_T1w"}
        assert "sub-2_T1w.nii.gz" in message
        return
    assert "expected results of 6 cases, got 3" in message
    assert sorted(name for name, row in rows.items() if row["error"]) == bad
    assert all(name in rows[name]["error"] and not rows[name]["rmse"] for name in bad)
    for name in ("sub-1_T1w", "sub-3_T1w", "sub-5_T1w"):
        assert float(rows[name]["rmse"]) > 0
        assert (tmp_path / f"out/{name}_mean.nii.gz").is_file()


class Fragile(WhitePrior):
    """Fails for one image, as a device without memory does."""

    def forward(self, x, sigma):
        if bool((x == 7).any()):
            raise RuntimeError("out of memory")
        return super().forward(x, sigma)


@pytest.mark.parametrize("values", [[1, 7, 2], [7, 1, 2], [7, 7, 7]])
def test_cases_that_fail_in_the_network_fail_alone(values, tmp_path):
    table = CaseTable(tmp_path)
    cases = [{"image": f"/data/{n}.nii", "value": value} for n, value in enumerate(values)]

    def read(case):
        image = torch.full((1, 2, 2, 2), float(case["value"]))
        return {"image": MetaTensor(image, meta={"filename_or_obj": case["image"]})}

    def add(item):
        table.add({"case": table.case_name(item["image"]), "mean": float(item["pred"].mean())})
        return item

    evaluator = CaseEvaluator(
        table, device="cpu", val_data_loader=DataLoader(Cases(cases, read, table), batch_size=1),
        network=Fragile(), inferer=lambda inputs, network: network(inputs, torch.ones(1)), postprocessing=add,
        prepare_batch=lambda batch, *_, **__: (batch["image"], None),
    )  # fmt: skip
    with pytest.raises(DataError, match="out of memory"):
        evaluator.run()
    rows = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["0", "1", "2"]
    for row, value in zip(rows, values, strict=True):
        assert ("out of memory" in row["error"]) == (value == 7)
        assert row.get("mean", "") == "" if value == 7 else float(row["mean"]) == pytest.approx(0.2 * value)


def test_a_calibration_for_other_weights_is_refused(tmp_path):
    path = tmp_path / "scores.json"
    healthy = HealthyScores.of(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    scan = {"radii": [1.0], "level_spreads": [1.0], "ball_spreads": [1.0]}
    content = {"settings": {"levels": [0.5], "weights": "a"}, "scan": scan, "healthy": asdict(healthy)}
    path.write_text(json.dumps(content))
    assert load_scores(path, {"levels": [0.5], "weights": "a"})["healthy"]["count"] == 1000
    with pytest.raises(DataError, match="calibrating first"):
        load_scores(path, {"levels": [0.5], "weights": "b"})
    with pytest.raises(ValueError, match="more healthy data"):
        SaveAnomaly(tmp_path, path, {"levels": [0.5], "weights": "a"}, alpha=1e-4)


def test_maps_return_to_the_grid_of_a_turned_and_resampled_source(tmp_path):
    """A map that is linear in the world comes back as the same function of the world."""
    affine = np.array([[0, -2.5, 0, 40], [-1.0, 0, 0, 30], [0, 0, 3.0, -20], [0, 0, 0, 1]])
    image = np.zeros((40, 30, 20), np.float32)
    image[4:36, 3:27, 2:18] = np.random.default_rng(0).uniform(50, 100, (32, 24, 16))
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "turned.nii.gz")
    preprocessing = Compose(
        [
            LoadVolumed("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(2.0, 2.0, 2.0)),
            CropForegroundd("image", source_key="image", allow_smaller=True),
            PercentileScaled("image", lower=0.5, upper=99.5),
            SpatialPadd("image", spatial_size=(64, 64, 64)),
        ]
    )
    item = preprocessing({"image": str(tmp_path / "turned.nii.gz")})["image"]
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in item.shape[1:]], indexing="ij"))
    world = torch.einsum("wd,dxyz->wxyz", item.affine[:3, :3].float(), grid) + item.affine[:3, 3:, None, None].float()
    back = on_source_grid(world[:1] + 2 * world[2:], item, preprocessing, outside=-7.0)
    assert back.shape[1:] == image.shape
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    place = np.stack(np.meshgrid(*[np.arange(n) for n in image.shape], indexing="ij"), -1) @ affine[:3, :3].T
    expected = (place + affine[:3, 3]) @ np.array([1, 0, 2])
    inner = (slice(8, 32), slice(6, 24), slice(5, 15))
    np.testing.assert_allclose(back[0][inner], expected[inner], atol=1e-3)
    assert float(back[0, 0, 0, 0]) == -7.0


def test_labels_of_a_dicom_case_become_a_segmentation_of_it(tmp_path):
    folder = tmp_path / "series"
    source = MetaTensor(torch.randint(0, 900, (1, 12, 10, 6)).float(), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))
    write_dicom_series(source, folder, modality="MR", model_hash="x")
    image = read_dicom_series(folder)
    image.meta["filename_or_obj"] = str(folder)
    for marked in (True, False):
        labels = torch.zeros_like(image)
        labels[:, 2:5, 3:6, 1:4] = float(marked)
        WriteDicom("MR", "sha256:x")(labels, tmp_path / "out", f"case_{marked}", "labels")
        (file,) = (tmp_path / "out").glob(f"case_{marked}*")
        if marked:
            assert int(pydicom.dcmread(file).pixel_array.sum()) == 27
        else:
            assert not nib.load(file).get_fdata().any()  # a segmentation of nothing cannot be written


class PriorOfContrast(nn.Module):
    """D of N(0, s^2) with s = 0.5 for contrast 0 and 0.2 for contrast 1."""

    def forward(self, x, sigma, contrast):
        variance = torch.where(contrast == 0, 0.25, 0.04).reshape(-1, 1, 1, 1).to(x)
        return x * variance / (variance + torch.as_tensor(sigma).to(x).reshape(-1, 1, 1, 1) ** 2)


def test_the_likelihood_of_an_image_is_that_under_its_own_condition():
    """log N(0, s^2) of x = 0 is -ln(2 pi s^2) / 2 a dimension: each image of the batch has its own s."""
    inferer = PatchLikelihoodInferer(log_uniform_sigmas(40, 0.002, 80.0), (8, 8), patches=2, progress=False)
    nats = inferer(torch.zeros(2, 1, 16, 16), PriorOfContrast(), contrast=torch.tensor([0, 1]))[:, 0].mean(1)
    exact = [-0.5 * math.log(2 * math.pi * std**2) for std in (0.5, 0.2)]
    assert nats.tolist() == pytest.approx(exact, abs=0.02)


def test_likelihood_ranks_images_that_are_too_smooth_and_too_rough_before_healthy_ones(tmp_path):
    """Under N(0, 0.25) the nats per dimension of N(0, s^2) are -s^2/0.5 + constant: known shifts, known order."""
    g = torch.Generator().manual_seed(3)
    inferer = PatchLikelihoodInferer(log_uniform_sigmas(24, 0.01, 80.0), (8, 8), patches=16, progress=False)
    stds = {"healthy_0": 0.5, "blurred": 0.2, "noisy": 0.9, "healthy_1": 0.5, "shifted": 0.6}

    def score(save: SaveLikelihood, name: str, std: float) -> None:
        x = MetaTensor(std * torch.randn(1, 1, 32, 32, generator=g))
        image = MetaTensor(x[0], meta={"filename_or_obj": f"{name}.nii.gz"})
        save({"image": image, "pred": inferer(x, WhitePrior())[0]})

    reference = SaveLikelihood(tmp_path / "healthy", tmp_path / "reference.json", make_reference=True)
    for number in range(4):
        score(reference, f"case_{number}", 0.5)
    save = SaveLikelihood(tmp_path, tmp_path / "reference.json")
    for name, std in stds.items():
        score(save, name, std)
    ranking = list(csv.DictReader((tmp_path / "ranking.csv").open()))
    assert [row["case"] for row in ranking[:3]] == ["noisy", "blurred", "shifted"]
    assert [row["file"] for row in ranking] == [f"{row['case']}.nii.gz" for row in ranking]
    assert all(abs(float(row["z"])) < 4 for row in ranking[3:])
    constant = -0.5 * math.log(2 * math.pi * 0.25)
    for row in ranking:
        exact = constant - stds[row["case"]] ** 2 / 0.5
        assert float(row["nats_per_dim"]) == pytest.approx(exact, abs=5 * float(row["patch_standard_error"]) + 0.01)


def test_a_volume_is_restored_slice_by_slice_from_its_sinogram():
    inferer = RestorationInferer(
        lambda size: Radon(size[:2], line_angles(24), iterations=15, tolerance=1e-3),
        (8, 8),
        noise_std=0.05,
        count=4,
        sigma_data=0.5,
        sigmas=asinh_sigmas(12),
        progress=False,
    )
    mean, spread, _ = inferer(truth(), WhitePrior()).chunk(3, dim=1)
    assert float((mean - truth()).std()) < 0.1
    assert float(spread.mean()) < 0.1


@pytest.mark.parametrize(("finished", "share"), [(1, 0.4), (2, 0.4), (2, 0.0)])
def test_an_interrupted_restoration_has_the_draws_that_were_finished(finished, share):
    """Their mean and deviation. One draw has a deviation only about a known mean (``share`` 0 is white noise)."""
    steps = itertools.count(1)

    def press(step):
        if next(steps) == finished * step.steps + 3:
            signal.raise_signal(signal.SIGINT)

    def made(count, callback=None):
        inferer = RestorationInferer(
            lambda size: Mask(box_mask(size, share)), (8, 8, 8), noise_std=0.1, count=4, sigmas=asinh_sigmas(12),
            progress=False, sigma_data=0.5,
        )  # fmt: skip
        inferer.count, inferer.callback = count, callback
        return inferer(truth(), WhitePrior(), seed=torch.tensor([0]))

    torch.testing.assert_close(made(4, press), made(finished), equal_nan=True)


def test_generate_makes_volumes_larger_than_the_patch(tmp_path, weights):
    small = {"steps": 2, "sample_size": [24, 16, 16], "window": [16, 16, 16], "num_samples": 1}
    run(["inference", "generate"], tmp_path, weights, **small)
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    assert nib.load(file).shape == (24, 16, 16)


@pytest.mark.parametrize(
    ("failing", "status"), [([], "FINISHED"), ([1], "FAILED"), ([0, 2], "FAILED"), ([0, 1, 2], "FAILED")]
)
def test_a_run_in_which_a_case_failed_is_failed_in_the_tracker(failing, status, tmp_path):
    table = CaseTable(tmp_path)

    def work(_engine, case):
        if case in failing:
            table.fail(f"/data/{case}.nii", RuntimeError("out of memory"))
        else:
            table.add({"case": str(case), "mean": 1.0 * case})

    engine = Engine(work)
    TrackCases("http://127.0.0.1:9", tmp_path, table, patience=0.1).attach(engine)
    engine.run([0, 1, 2])
    entries = [entry for entry, _ in Spool(tmp_path).read()]
    assert [entry["status"] for entry in entries if "status" in entry] == [status]
    assert [row[1] for entry in entries for row in entry.get("metrics", []) if row[0] == "mean"] == [
        number for number in range(3) if number not in failing
    ]
