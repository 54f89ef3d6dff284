"""An image from the other images of its case: exact answers for an exact model, results in the unit of the target."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_series import phantom, write_series
from monai.data import MetaTensor
from monai.transforms import Orientation
from small_data import smooth_head, write_contrasts, write_volume
from torch import nn
from workflows import Training, train, workflow

from monai_diffscore.__main__ import main
from monai_diffscore.data import LoadTargetd, read_dicom_series
from monai_diffscore.errors import DataError, explain
from monai_diffscore.planning import Budget, make_plan, take_fingerprint
from monai_diffscore.sampling import asinh_sigmas
from monai_diffscore.tasks import SaveTranslation, TranslationInferer
from monai_diffscore.tensors import noise_like, per_sample, random_stream
from monai_diffscore.transforms import HounsfieldUnits


class LinearContrast(nn.Module):
    """x = SLOPE given + n, n ~ N(0, NOISE^2), given ~ N(0, 1): each conditional is Gaussian, voxel by voxel."""

    SLOPE, NOISE = 0.6, 0.3

    def law(self, given):
        missing = given.isnan()
        mean = torch.where(missing, 0.0, self.SLOPE * given)
        return mean, torch.where(missing, self.SLOPE**2 + self.NOISE**2, self.NOISE**2)

    def forward(self, x, sigma, given):
        mean, variance = self.law(given)
        level = per_sample(sigma, x) ** 2
        return (variance * x + level * mean) / (variance + level)


def some_given() -> torch.Tensor:
    given = torch.randn(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    given[1, :, :4] = torch.nan
    return given


def test_translation_is_the_conditional_law_where_that_is_gaussian():
    """The flow from the noise n is mean + sqrt(v / (v + s^2)) (s n - mean) for the variance v and the first level s."""
    sigmas, given, count = asinh_sigmas(60), some_given(), 6
    inferer = TranslationInferer((8, 8, 4), count=count, sigmas=sigmas, seed=5, progress=False)
    output = inferer(torch.zeros(2, 1, 8, 8, 8), LinearContrast(), seed=torch.tensor([7, 9]), given=given)
    mean, variance = LinearContrast().law(given)
    first = float(sigmas[0])
    draws = []
    for number in range(count):
        noise = noise_like(given, [random_stream(5, case * count + number) for case in (7, 9)])
        draws.append(mean + (variance / (variance + first**2)).sqrt() * (first * noise - mean))
    exact = torch.cat(draws, 1)
    torch.testing.assert_close(output[:, 2:], exact, atol=5e-3, rtol=0)
    torch.testing.assert_close(output[:, :1], exact.mean(1, keepdim=True), atol=5e-3, rtol=0)
    torch.testing.assert_close(output[:, 1:2], exact.std(1, keepdim=True), atol=5e-3, rtol=0)


def test_one_draw_has_no_standard_deviation():
    with pytest.raises(ValueError, match="count >= 2"):
        TranslationInferer((8, 8, 8), count=1)


def result(path: Path, has_target: bool) -> dict:
    """Mean 0, standard deviation 0.5 and samples 0.5 and -0.5, of a target that is 0.25 (without one: anything)."""
    shape = (1, 4, 5, 6)
    image = MetaTensor(
        torch.full(shape, 0.25), affine=np.diag([2.0, 3.0, 4.0, 1.0]), meta={"filename_or_obj": str(path)}
    )
    image.push_applied_operation({"class": "PercentileScale", "extra_info": {"low": 100.0, "high": 300.0}})
    meta = {"is_given": torch.tensor([True, False]), "misregistration_mm": torch.tensor([4.0, math.nan])}
    given = MetaTensor(torch.zeros(2, *shape[1:]), meta=meta)
    pred = torch.cat([torch.full(shape, value) for value in (0.0, 0.5, 0.5, -0.5)])
    return {"image": image, "given": given, "pred": pred, "has_target": torch.tensor(has_target)}


@pytest.mark.parametrize("has_target", [True, False])
def test_results_are_in_the_unit_of_the_target_or_of_the_cohort(tmp_path, has_target):
    save = SaveTranslation(tmp_path, "flair", ["t1", "t2"], low=0.0, high=1000.0)
    save(result(tmp_path / "sub-1_X.nii.gz", has_target))
    case, low, high = ("sub-1_X", 100, 300) if has_target else ("sub-1_X_to_flair", 0, 1000)
    middle, half = (low + high) / 2, (high - low) / 2
    values = {"mean": middle, "std": half / 2, "sample1": middle + half / 2, "sample2": middle - half / 2}
    for name, value in values.items():
        written = nib.load(tmp_path / f"{case}_{name}.nii.gz")
        np.testing.assert_allclose(written.get_fdata(), value)
        np.testing.assert_array_equal(written.affine, np.diag([2.0, 3.0, 4.0, 1.0]))
    (row,) = csv.DictReader((tmp_path / "cases.csv").open())
    assert (row["case"], row["given"], float(row["misregistration_mm"])) == (case, "t1", 4.0)
    errors = {name: row[name] for name in ("rmse", "rmse_sample", "share_within_2_std") if name in row}
    if has_target:
        assert {name: float(value) for name, value in errors.items()} == {
            "rmse": 0.25, "rmse_sample": 0.25, "share_within_2_std": 1.0,
        }  # fmt: skip
    else:
        assert errors == {}


# ---- the bundle ----


def translated(training: Training, folder: str, output: Path, **changes: str) -> dict[str, dict[str, str]]:
    """The rows of the cases of a folder, after their translation in two steps."""
    workflow(
        training.bundle, ["inference", "cases"], kind="infer", checkpoint=str(training.weights), dataset_dir=folder,
        output_dir=str(output), posterior_samples=2, steps=2, **changes,
    ).run()  # fmt: skip
    return {row["case"]: row for row in csv.DictReader((output / "cases.csv").open())}


def statistics_of(training: Training) -> dict:
    return json.loads((training.weights.parent / "data_statistics.json").read_text())


def test_one_training_translates_each_case_with_or_without_the_target_and_from_each_subset(trained, tmp_path):
    training = trained("mri_translate3d")
    facts = statistics_of(training)
    assert (facts["target"], facts["given"], facts["classes"]) == ("flair", ["t1", "t2"], {})
    rows = translated(training, write_contrasts(tmp_path / "cohort"), tmp_path / "out")
    assert {case: row["given"] for case, row in rows.items()} == {
        "sub-1_FLAIR": "t1 t2", "sub-2_FLAIR": "t1", "sub-3_T1w_to_flair": "t1",
    }  # fmt: skip
    for case, row in rows.items():
        assert bool(row["rmse"]) is ("_to_" not in case)
        assert nib.load(tmp_path / f"out/{case}_mean.nii.gz").shape[:3] == (40, 48, 40)


def test_a_label_map_is_one_of_the_others_and_a_class_without_training_is_refused(tmp_path):
    folder = write_contrasts(tmp_path / "data")
    Path(folder, "dseg.tsv").write_text("index\tname\n0\tbackground\n1\tdark\n")
    choices = {"image": "flair", "given": "t1,dseg", "spacing_mm": [2.5] * 3}
    training = train(Training(tmp_path, "mri_translate3d", folder, choices))
    assert statistics_of(training)["classes"] == {"dseg": {"0": "background", "1": "dark", "2": ""}}
    other = Path(write_contrasts(tmp_path / "other", [("dseg",), ("T1w", "dseg")]))
    path = other / "sub-2/anat/sub-2_dseg.nii.gz"
    nib.save(nib.Nifti1Image(nib.load(path).get_fdata() * 7, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    with pytest.raises((RuntimeError, DataError)) as caught:
        translated(training, str(other), tmp_path / "out")
    assert "the training saw: 0 (background), 1 (dark), 2, got also 7, 14" in explain(caught.value)
    rows = list(csv.DictReader((tmp_path / "out/cases.csv").open()))
    assert [(row["case"], row["given"]) for row in rows] == [("sub-1_dseg_to_flair", "dseg"), ("sub-2_T1w", "")]


# ---- CT ----


def write_ct_cohort(folder: Path) -> Path:
    """CT and T1 of two subjects, T1 alone of a third; no air around the head, so that no voxel is cropped."""
    for number in (1, 2, 3):
        head = smooth_head(number)
        values = {"ct": 1200 * head, "T1w": 500 + 100 * head}
        for name in ("ct", "T1w") if number < 3 else ("T1w",):
            write_volume(folder / f"sub-{number}/anat/sub-{number}_{name}.nii.gz", array=values[name])
    return folder


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_grid_for_a_missing_ct_is_water_in_air_and_any_modality_gives_it(tmp_path, modality):
    case = {"image": str(write_ct_cohort(tmp_path) / "sub-3/anat/sub-3_T1w.nii.gz")}
    load = LoadTargetd("image", modality=modality)
    volume = load({**case, "has_target": False})["image"]
    values = load(case)["image"]
    assert volume.unique().tolist() == [-1000, 0] if modality == "CT" else (volume == values).all()
    torch.testing.assert_close(volume.affine, values.affine)
    if modality == "CT":
        assert int((volume == -1000).sum()) == 1
        HounsfieldUnits()(volume)


def test_the_grid_of_a_dicom_series_of_another_modality_is_read(tmp_path):
    write_series(tmp_path / "mr", phantom(), modality="MR")
    case = {"image": str(tmp_path / "mr"), "has_target": False}
    assert "modality" not in LoadTargetd("image", modality="CT")(case)["image"].meta
    with pytest.raises(DataError, match="a series of modality CT, got MR"):
        LoadTargetd("image", modality="CT")({**case, "has_target": True})


@pytest.mark.slow
def test_a_planned_translation_to_ct_is_in_hounsfield_units_as_nifti_and_as_dicom(tmp_path):
    cohort, bundle = write_ct_cohort(tmp_path / "cohort"), tmp_path / "planned"
    order = ["plan", str(cohort), "--image", "ct", "--given", "t1", "--out", str(bundle), "--no-trial"]
    assert main(order) == 0
    assert main(["check", str(bundle)]) == 0
    workflow(bundle, ["train"], ["smoke"], output_dir=str(bundle / "output")).run()
    training = Training(tmp_path, str(bundle), str(cohort))
    facts = statistics_of(training)
    assert (facts["low"], facts["high"], facts["target"]) == (-1000, 1000, "ct")
    rows = translated(training, str(cohort), tmp_path / "out")
    assert {case: bool(row["rmse"]) for case, row in rows.items()} == {
        "sub-1_ct": True, "sub-2_ct": True, "sub-3_T1w_to_ct": False,
    }  # fmt: skip
    for number in (1, 2):
        mean = nib.load(tmp_path / f"out/sub-{number}_ct_mean.nii.gz").get_fdata()
        truth = (1200 * smooth_head(number)).clip(-1000, 1000)
        assert float(rows[f"sub-{number}_ct"]["rmse"]) * 1000 == pytest.approx(((mean - truth) ** 2).mean() ** 0.5)
    rows = translated(training, str(cohort), tmp_path / "dicom", save="@save_dicom")
    for case in rows:
        series = read_dicom_series(tmp_path / f"dicom/{case}_sample1")
        written = nib.as_closest_canonical(nib.load(tmp_path / f"out/{case}_sample1.nii.gz"))
        assert series.meta["modality"] == "CT"
        values = Orientation("RAS", labels=None)(series)[0].numpy()
        np.testing.assert_allclose(values, written.get_fdata(), atol=0.5 + 1e-3)


# ---- the plan ----


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return Path(write_contrasts(tmp_path / "cohort"))


def test_a_plan_names_the_other_images_and_where_they_lie(cohort, tmp_path, capsys):
    path = cohort / "sub-2/anat/sub-2_T1w.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.roll(image.get_fdata(), 4, 0)[:, :, :-2], image.affine), path)
    bundle, flags = tmp_path / "planned", ["--image", "flair", "--given", "t1,t2", "--mask", "dseg"]
    assert main(["plan", str(cohort), *flags, "--out", str(bundle), "--no-trial"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "t1 in 2 of 3 cases, 1 on another grid, resampled to that of the target, 1 shifted by more than 3 mm" in said
    assert "at most 8.0 mm: register them" in said
    assert "t2 in 1 of 3 cases" in said
    assert "dseg in 2 of 3 cases, a label map of the classes 0, 1, 2" in said
    assert "one model for each subset of t1, t2, dseg" in said
    train, inference, cases = (
        json.loads((bundle / f"configs/{name}.json").read_text()) for name in ("train", "inference", "cases")
    )
    assert (train["image"], train["given"]) == ("flair", ["t1", "t2", "dseg"])
    assert inference["untrained"]["given"] == ["t1", "t2", "dseg"]
    assert (cases["image"], cases["task"]) == ("$@statistics['target']", "translate")
    assert main(["check", str(bundle)]) == 0


def test_a_translation_keeps_the_spacing_of_large_volumes(cohort):
    budget = Budget(memory_gb=8.0, minutes=30.0, accelerator=False)
    for given, spacing_mm in (([], [4.0] * 3), (["t1"], [2.0] * 3)):
        fingerprint = take_fingerprint(cohort, image="flair", given=given)
        large = replace(fingerprint, foreground_sizes={"median": [80, 90, 80]})
        assert make_plan(large, budget)["spacing_mm"] == spacing_mm


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--given", "t1,flair"], "other roles of --given"), (["--mask", "tumour"], "images of the role tumour"),
        (["--given", "t1", "--whole"], "a model of patches, got --whole"),
    ],
)  # fmt: skip
def test_a_plan_refuses_what_no_bundle_does(cohort, tmp_path, capsys, flags, message):
    order = ["plan", str(cohort), "--image", "flair", *flags, "--out", str(tmp_path / "planned"), "--no-trial"]
    assert main(order) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "planned").exists()
