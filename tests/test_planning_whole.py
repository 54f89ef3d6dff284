"""Plans of whole volumes: when the rules propose them, what they choose, and that the bundle runs."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from workflows import workflow

from monai_diffscore.__main__ import main
from monai_diffscore.errors import DataError
from monai_diffscore.inspection import inspect_bundle
from monai_diffscore.planning import Budget, Fingerprint, Plan, Trial, fit_plan, make_plan, take_fingerprint
from monai_diffscore.planning.bundle import planned_configs
from monai_diffscore.samples import heads
from monai_diffscore.samples.chests import ct_phantom

CPU, ACCELERATOR = Budget(8.0, 30.0), Budget(80.0, 600.0, accelerator=True)


def volumes(size, spacing=(1.0, 1.0, 1.0), subjects=40, largest=1.0, modality="MR") -> Fingerprint:
    """The fingerprint of volumes of one size, of which the largest is ``largest`` times as long."""
    extent = [count * step for count, step in zip(size, spacing, strict=True)]
    return Fingerprint(
        data="/data", kind="volumes", modality=modality, modality_from="--modality", cases=subjects, subjects=subjects,
        names=[f"sub-{number}" for number in range(subjects)], channels=1, sizes={"median": list(size)},
        foreground_sizes={"median": list(size)}, percentiles={"0": -1000.0, "100": 1000.0}, sigma_data=0.5, mean=0.0,
        spacing_mm={name: list(spacing) for name in ("min", "median", "max")},
        extents_mm={"min": extent, "median": extent, "max": [largest * length for length in extent]},
    )  # fmt: skip


@pytest.mark.parametrize(("edge", "budget", "scales"), [
    (64, CPU, 1), (128, CPU, 2), (128, ACCELERATOR, 2), (256, ACCELERATOR, 3), (512, ACCELERATOR, 4),
])  # fmt: skip
def test_the_coarse_image_of_any_volume_has_32_voxels_a_side(edge, budget, scales):
    plan = make_plan(volumes([edge] * 3), budget, model="whole")
    assert plan["sample_size"] == [edge] * 3
    assert plan["scales"] == scales
    by_scale = ("windows", "windows_per_volume", "coarse_noise", "noise_mean", "noise_std")
    assert [len(plan[name]) for name in ("detail_channels", *by_scale)] == [scales] + 5 * [scales + 1]


@pytest.mark.parametrize("size", [(97, 113, 50), (40, 70, 33), (160, 200, 180)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.0)])
def test_a_sample_covers_the_volumes_and_fits_pyramid_networks_and_windows(size, spacing):
    plan = make_plan(volumes(size, spacing, largest=1.2), ACCELERATOR, model="whole")
    sides, scales = plan["sample_size"], plan["scales"]
    covered = 1.2 * np.multiply(size, spacing)
    assert (np.multiply(sides, plan["spacing_mm"]) >= covered - 1e-6).all()
    widths = [plan["coarse_channels"], *plan["detail_channels"]]
    halvings = [scales, *range(scales, 0, -1)]
    for halved, width, window in zip(halvings, widths, plan["windows"], strict=True):
        for side, cut in zip(sides, window or sides, strict=True):
            seen = side // 2**halved if window is None else cut
            assert side % 2**halved == seen % 2 ** (len(width) - 1) == 0
            assert seen <= side // 2**halved


def test_few_voxels_are_planned_where_time_and_memory_are_short():
    """None finer than one edge: the thick axis of the data keeps its spacing."""
    data = volumes((512, 512, 100), (0.7, 0.7, 3.0))
    cpu, little, much = (
        make_plan(data, budget, model="whole") for budget in (CPU, Budget(0.05, 30.0), Budget(80.0, 30.0, True))
    )
    voxels = [np.prod(np.divide([358.4, 358.4, 300.0], plan["spacing_mm"])) for plan in (little, cpu, much)]
    assert voxels[0] < 0.05e9 / 2 / 110 < voxels[1] < 1.02 * 128**3 < voxels[2]
    assert much["spacing_mm"] == [0.7, 0.7, 3.0]
    assert cpu["spacing_mm"][0] == cpu["spacing_mm"][1] < cpu["spacing_mm"][2] == 3.0


#: what speaks for patches, by a word of the reason
REFUSALS = {
    "29 subject": volumes([96] * 3, subjects=29),
    "shows a whole volume": volumes([30] * 3),
    "fields of view differ": volumes([96] * 3, largest=1.6),
    "times as wide": volumes([600] * 3, (0.1, 0.1, 0.1)),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_patches_are_planned_with_the_reason_and_flags_have_the_last_word(reason):
    data = REFUSALS[reason]
    plan = make_plan(data, CPU)
    assert (plan["model"], plan.template, plan.whole) == ("patches", "mri_unet3d", False)
    assert reason in plan.choices["model"].reason
    whole = make_plan(data, CPU, model="whole")
    assert (whole["model"], whole.template, whole.whole) == ("whole", "mri_whole3d", True)
    assert "--whole" in whole.choices["model"].reason
    proposed = volumes([96] * 3, modality="CT")
    assert make_plan(proposed, CPU).template == "ct_whole3d"
    assert make_plan(proposed, CPU, model="patches").template == "ct_unet3d"


def test_larger_volumes_are_cropped_and_the_plan_says_so():
    plan = make_plan(volumes([64] * 3, largest=2.0), CPU, model="whole")
    assert plan["sample_size"] == [96] * 3
    assert "larger volumes are cropped" in plan.choices["sample_size"].reason
    assert "none is cropped" in make_plan(volumes([96] * 3), CPU).choices["sample_size"].reason


@pytest.mark.parametrize("data", [volumes([96] * 3, subjects=1), volumes([96, 96, 20], (1.0, 1.0, 5.0), modality="CT")])
def test_whole_volumes_of_one_subject_or_of_thick_slices_are_refused(data):
    with pytest.raises(DataError, match="Leave --whole out"):
        make_plan(data, CPU, model="whole")


def test_networks_become_narrower_until_the_plan_fits():
    plan = make_plan(volumes([64] * 3), Budget(2.0, 30.0))

    def measured(planned: Plan, batch: int, validate: bool) -> Trial:
        return Trial(
            batch, 1.0 + 0.03 * planned["coarse_channels"][0] * (1 if planned["checkpointing"] else 2), 1, 1, 9, 9
        )

    fitted = fit_plan(plan, try_batch=measured, say=lambda _: None)
    assert (fitted["checkpointing"], fitted["coarse_channels"]) == (True, [16, 32, 32])
    assert fitted["detail_channels"] == [[16, 32]]
    with pytest.raises(DataError, match="--memory-gb"):
        fit_plan(plan, try_batch=lambda planned, batch, validate: Trial(batch, 5.0, 1, 1, 9, 9), say=lambda _: None)


def write_volumes(folder: Path, count: int = 3) -> None:
    for number in range(count):
        array = np.random.default_rng(number).normal(500, 100, (16, 16, 16)).astype(np.float32)
        file = folder / f"sub-{number}.nii.gz"
        folder.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1.0])), file)


def test_usual_columns_of_the_table_condition_whole_volumes_alone(tmp_path):
    write_volumes(tmp_path)
    rows = "\n".join(f"sub-{number}\t{50 + number}\t{'FMF'[number]}\tx" for number in range(3))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage_years\tsex\tsite\n{rows}\n")
    fingerprint = take_fingerprint(tmp_path, modality="MR")
    whole, patches = make_plan(fingerprint, CPU, model="whole"), make_plan(fingerprint, CPU)
    assert list(whole.conditions["fields"]) == ["age_years", "sex"]  # a site of one value tells nothing
    assert patches.conditions == {}
    train = planned_configs(whole, "made")["train"]
    assert train["fields"]["sex"] == {"categories": ["F", "M"]}
    assert train["participants"] == str(tmp_path / "participants.tsv")
    asked = take_fingerprint(tmp_path, modality="MR", conditions=["sex"])
    assert list(make_plan(asked, CPU, model="whole").conditions["fields"]) == ["sex"]
    (tmp_path / "participants.tsv").write_text("age\n3\n")  # no table of subjects
    assert make_plan(take_fingerprint(tmp_path, modality="MR"), CPU, model="whole").conditions == {}


def test_the_command_takes_one_of_two_models(tmp_path, capsys):
    write_volumes(tmp_path / "data")
    command = ["plan", str(tmp_path / "data"), "--modality", "MR", "--no-trial", "--out"]
    assert main([*command, str(tmp_path / "whole"), "--whole"]) == 0
    assert main([*command, str(tmp_path / "patches")]) == 0
    output = capsys.readouterr().out
    assert "3 subject(s): whole volumes are planned from 30" in output
    templates = [
        json.loads((tmp_path / name / "docs/plan.json").read_text())["template"] for name in ("whole", "patches")
    ]
    assert templates == ["mri_whole3d", "mri_unet3d"]
    assert inspect_bundle(tmp_path / "whole") == []
    with pytest.raises(SystemExit):
        main([*command, str(tmp_path / "both"), "--whole", "--patches"])
    np.save(tmp_path / "sequences.npy", np.arange(256.0).reshape(4, 64))
    assert main(["plan", str(tmp_path / "sequences.npy"), "--out", str(tmp_path / "other"), "--whole"]) == 1
    assert "Leave --whole out" in capsys.readouterr().err


def write_chests(folder: Path) -> None:
    for number in range(40):
        (folder / f"sub-{number:02d}").mkdir(parents=True)
        image = nib.Nifti1Image(*ct_phantom(number, (48, 40, 32), 7.5))
        nib.save(image, folder / f"sub-{number:02d}/ct.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize("organ", ["heads", "chests"])
def test_forty_subjects_become_whole_samples(organ, tmp_path, capsys):
    """Plan with its trials, a short training, samples of any and of a given age."""
    data, bundle = tmp_path / "data", tmp_path / "bundle"
    heads(40, contrasts=["T1"], spacing_mm=4.0, folder=data) if organ == "heads" else write_chests(data)
    assert main(["plan", str(data), "--out", str(bundle), "--minutes", "1"]) == 0
    assert "enough for one anatomy each" in capsys.readouterr().out
    plan = Plan.from_file(bundle / "docs/plan.json")
    assert plan.template == {"heads": "mri_whole3d", "chests": "ct_whole3d"}[organ]
    assert plan.measured["memory_gb"] <= plan.budget.memory_gb
    assert plan.measured["estimated_memory_gb"] == pytest.approx(plan.measured["memory_gb"], rel=0.15)
    assert inspect_bundle(bundle) == []
    workflow(bundle, ["train"], ["smoke"], passes_per_epoch=1).run()
    condition = {"age_years": 80, "sex": "F"} if organ == "heads" else {}
    workflow(bundle, ["inference"], ["smoke"], kind="infer", condition=condition).run()
    for file in (bundle / "output/samples").glob("*.nii.gz"):
        image = nib.load(file)
        assert list(image.shape) == plan["sample_size"]
        np.testing.assert_allclose(image.header.get_zooms(), plan["spacing_mm"], rtol=1e-6)
        assert organ == "heads" or -1000 <= image.get_fdata().min() < image.get_fdata().max() <= 1000.001
    assert len(list((bundle / "output/samples").glob("*.nii.gz"))) == 2
