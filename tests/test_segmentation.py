"""The study of segmenters trained on synthetic cases: equal data give equal numbers, wrong labels give worse ones."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pictures import check_picture

from monai_diffscore.__main__ import main
from monai_diffscore.errors import DataError
from monai_diffscore.handlers import ResumableCheckpoint
from monai_diffscore.segmentation import (
    ARMS,
    Segmenter,
    class_values,
    describe_study,
    labelled_cases,
    load_pairs,
    run_study,
)
from monai_diffscore.segmentation.study import REFERENCE, Estimate, Study, _split, by_subject, interval

SIZE = 16


def write_case(folder: Path, name: str, seed: int, labels: np.ndarray | None = None) -> None:
    """A case of nnU-Net's layout: a bright ball (class 1) and a dark one (class 2) in noise."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"))
    truth = np.zeros((SIZE,) * 3, np.uint8)
    for value, side in ((1, 4), (2, 11)):
        centre = np.array([side, *random.uniform(5, 11, 2)])[:, None, None, None]
        truth[((grid - centre) ** 2).sum(0) <= 3.5**2] = value
    image = random.normal(0, 5, truth.shape) + np.array([0, 100, -100])[truth]
    for part, values in (("imagesTr", image.astype(np.float32)), ("labelsTr", truth if labels is None else labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        ending = "_0000.nii.gz" if part == "imagesTr" else ".nii.gz"
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), folder / part / f"{name}{ending}")


@pytest.fixture
def real(tmp_path):
    for number in range(5):
        write_case(tmp_path / "real", f"p{number}", number)
    return tmp_path / "real"


def copy_of_training(real: Path, folder: Path) -> Path:
    """A folder with the real cases that a study trains on."""
    for case in _split(labelled_cases(real), None, 0, real)[0]:
        for key in ("image", "label"):
            target = folder / Path(case[key]).relative_to(real)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(case[key], target)
    return folder


SMALL = {"iterations": 8, "repeats": 1, "channels": (4, 8)}


@pytest.fixture
def study(real, tmp_path):
    return run_study(real, copy_of_training(real, tmp_path / "copies"), tmp_path / "out", **SMALL)


def test_synthetic_cases_equal_to_the_real_ones_give_the_same_numbers(study, real, tmp_path):
    assert np.array_equal(study.held_out["synthetic"], study.held_out["real"])
    assert not np.array_equal(study.held_out["real, augmented"], study.held_out["real"])
    # the copies are read from files alone: a second study takes the numbers, and trains nothing
    files = sorted((tmp_path / "out/trainings").rglob("*"))
    times = [file.stat().st_mtime_ns for file in files]
    again = run_study(real, tmp_path / "copies", tmp_path / "out", **SMALL)
    assert [file.stat().st_mtime_ns for file in files] == times
    assert describe_study(again) == describe_study(study)
    with pytest.raises(DataError, match="as the study there"):
        run_study(real, tmp_path / "copies", tmp_path / "out", **SMALL | {"iterations": 9})


def test_synthetic_cases_with_labels_of_noise_are_worse_and_disobey(real, tmp_path):
    random = np.random.default_rng(0)
    for number in range(4):
        labels = random.integers(0, 3, (SIZE,) * 3).astype(np.uint8)
        write_case(tmp_path / "noise", f"n{number}", 10 + number, labels)
    learning = {"iterations": 30, "repeats": 1, "channels": (4, 8), "learning_rate": 0.01}
    study = run_study(real, tmp_path / "noise", tmp_path / "out", **learning)
    assert study.dice("real").value > 0.6, "the network learns"
    assert study.dice("synthetic").value < study.dice("real").value - 0.2
    assert study.obedience().max() < 0.9


def test_a_training_that_was_stopped_continues_to_the_same_weights(real, tmp_path, monkeypatch):
    cases = labelled_cases(real)
    pairs = [load_pairs(cases, class_values(cases))]
    segmenter = Segmenter(3, window=(SIZE,) * 3, iterations=8, channels=(4, 8))
    whole = segmenter.train(pairs, True, 0, tmp_path / "whole").state_dict()
    save = ResumableCheckpoint.save

    def stop_after_four(self, engine):
        save(self, engine)
        if engine.state.iteration == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResumableCheckpoint, "save", stop_after_four)
    with pytest.raises(KeyboardInterrupt):
        segmenter.train(pairs, True, 0, tmp_path / "stopped")
    monkeypatch.undo()
    assert [file.name for file in (tmp_path / "stopped").glob("*.pt")] == ["iteration_00000004.pt"]
    resumed = segmenter.train(pairs, True, 0, tmp_path / "stopped").state_dict()
    assert all((whole[name] == resumed[name]).all() for name in whole)


def test_the_interval_is_that_of_seeds_and_subjects():
    assert interval(np.full((3, 5), 0.5)) == Estimate(0.5, 0.5, 0.5)
    one_seed = np.random.default_rng(0).normal(0.5, 0.1, (1, 400))
    estimate = interval(one_seed)
    half_width = 1.96 * one_seed.std() / 20
    assert estimate.high - estimate.value == pytest.approx(half_width, rel=0.1)
    assert estimate.value - estimate.low == pytest.approx(half_width, rel=0.1)


def test_cases_of_a_subject_count_once_and_cases_without_classes_do_not():
    nothing = [np.nan, np.nan]
    dice = np.array([[[0.2, 0.4], [0.6, np.nan], [0.9, 0.9], nothing]])
    assert by_subject(dice, ["a", "a", "b", "c"]) == pytest.approx(np.array([[0.4, 0.9]]))


def test_the_gain_is_paired():
    dice = {REFERENCE: np.array([[[0.1], [0.9]], [[0.2], [0.8]]])}
    dice["synthetic"] = dice[REFERENCE] + 0.05
    gain = Study((1,), (0, 1), ("a", "b"), dice, dice[REFERENCE], {}).gain("synthetic")
    assert [gain.low, gain.high] == pytest.approx([0.05, 0.05])


def test_the_sets_of_an_arm_take_turns():
    pairs = [{"image": number, "label": 0} for number in range(5)]
    patches = Segmenter(2, iterations=4, batch_size=2)._patches([pairs[:2], pairs[2:]], False)
    assert patches.indices == [0, 2, 1, 3, 0, 4, 1, 2]


def refused(real, synthetic, out, match, **choices):
    with pytest.raises(DataError, match=match):
        run_study(real, synthetic, out, **SMALL | choices)
    assert not (out / "study.json").exists()


def test_unusable_cases_are_refused_by_name(real, tmp_path):
    copies, out = copy_of_training(real, tmp_path / "copies"), tmp_path / "out"
    refused(real, real, out, "expected synthetic images, got a held-out real one")
    refused(real, copies, out, "at most 4 of 5 labelled subjects", subjects=5)
    refused(real, copies, out, "expected cases with the mask 'lesion'", mask="lesion")
    write_case(copies, "new", 7, np.full((SIZE,) * 3, 7, np.uint8))
    refused(real, copies, out, r"new.nii.gz.*classes that the training saw: 0, 1, 2, got also 7")
    write_case(copies, "new", 7, np.ones((SIZE, SIZE, SIZE - 1), np.uint8))
    refused(real, copies, out, "expected the grid of")


def test_each_folder_has_its_own_name_of_masks_and_the_tables_name_the_classes(real, tmp_path):
    labels = {"background": 0, "bright": 1, "dark": 2}
    (real / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": labels}))
    write_case(tmp_path / "drawn", "s0", 30)
    table = tmp_path / "drawn/cases.csv"
    table.write_text("subject,t1,mask:organs\ns0,imagesTr/s0_0000.nii.gz,labelsTr/s0.nii.gz\n")
    few = SMALL | {"iterations": 1}
    with pytest.raises(DataError, match=r"cases with the mask 'label'.*organs.*--mask REAL,SYNTHETIC"):
        run_study(real, table, tmp_path / "out", mask="label", **few)
    study = run_study(real, table, tmp_path / "out", mask="label,organs", **few)
    assert study.class_titles == ["bright", "dark"]
    page = describe_study(study)
    assert "| trained on | Dice | minus 'real, augmented' | bright | dark |" in page
    assert re.search(r"^\| dark \| .* \| .* \| .* \|$", page, re.MULTILINE)
    assert "class 1" not in page


def test_the_command_writes_tables_and_a_picture_and_warns_of_repeated_label_maps(real, tmp_path, capsys):
    (held_out,) = _split(labelled_cases(real), None, 0, real)[1]
    write_case(tmp_path / "asked", "s0", 30, np.asarray(nib.load(held_out["label"]).dataobj))
    command = ["report", "--segmentation", str(real), str(tmp_path / "asked"), "--iterations", "1", "--repeats", "2"]
    assert main(command) == 0
    folder = tmp_path / "asked/report"
    record, table = (folder / f"segmentation.{name}" for name in ("json", "md"))
    assert set(json.loads(record.read_text())["arms"]) == {arm.name for arm in ARMS}
    assert all(f"| {arm.name} |" in table.read_text() for arm in ARMS)
    assert "1 synthetic cases have the label map of a held-out subject" in table.read_text()
    assert f"wrote {folder}" in capsys.readouterr().out
    check_picture(folder / "segmentation.png")
