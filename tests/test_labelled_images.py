"""Images with their label maps: exact round trips, an nnU-Net data set, and the bundle and the plan that make it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from small_data import write_contrasts
from workflows import workflow

from monai_diffscore.__main__ import main
from monai_diffscore.data import JoinLabelsd, LoadGivend, LoadVolumed, SplitLabelsd, joint_classes, listed_cases
from monai_diffscore.data.cases import list_cases
from monai_diffscore.data.labelled_images import class_numbers
from monai_diffscore.errors import DataError
from monai_diffscore.report.image_files import find_samples
from monai_diffscore.segmentation import class_values, labelled_cases, load_pairs
from monai_diffscore.tasks import SaveLabelledImage

JOIN, SPLIT = JoinLabelsd("image"), SplitLabelsd("image")


def test_the_label_map_of_a_file_comes_back_exactly(tmp_path):
    folder = write_contrasts(tmp_path / "cohort", [("T1w", "dseg")])
    (case,) = listed_cases(folder).pairs("t1", "dseg")
    classes = joint_classes(listed_cases(folder), "dseg")
    image = LoadVolumed("image")(case)
    state = JOIN(LoadGivend("given", roles=["dseg"], classes=classes)(image))
    assert set(state) == {"image", "subject"}
    assert set(state["image"][1:].unique().tolist()) == {-1.0, 1.0}
    split = SPLIT(state)
    truth = nib.load(case["given"][0]).get_fdata()
    np.testing.assert_array_equal(split["label"][0], truth)
    torch.testing.assert_close(split["image"], image["image"], rtol=0, atol=0)


def test_soft_borders_and_voxels_outside_of_the_label_map():
    """Three quarters of class 2 are class 2, never class 1 between 0 and 2. What no label map covers is background."""
    shares = MetaTensor(torch.tensor([[0.25, 1, torch.nan], [0, 0, torch.nan], [0.75, 0, torch.nan]]))
    image = MetaTensor(torch.zeros(1, 3), applied_operations=[{"class": "PercentileScale"}])
    state = JOIN({"image": image, "given": shares})["image"]
    assert state[1:].tolist() == [[-0.5, 1, 1], [-1, -1, -1], [0.5, -1, -1]]
    assert state.applied_operations == image.applied_operations
    assert SPLIT({"image": state})["label"].tolist() == [[2, 0, 0]]


def test_classes_have_the_background_and_no_gaps(tmp_path):
    folder = Path(write_contrasts(tmp_path / "cohort", [("T1w", "dseg")] * 2))
    assert joint_classes(listed_cases(folder), "dseg") == {"dseg": {"0": "", "1": "", "2": ""}}
    for number in (1, 2):
        path = folder / f"sub-{number}/anat/sub-{number}_dseg.nii.gz"
        values = nib.load(path).get_fdata()
        nib.save(nib.Nifti1Image(np.where(values == 1, 4, values), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    with pytest.raises(DataError, match=r"key 'dseg'.*without gaps, at most 256, got 0, 2, 4\. Give the classes"):
        joint_classes(listed_cases(folder), "dseg")


def test_a_model_of_both_takes_the_cases_that_have_both(tmp_path):
    cases = listed_cases(write_contrasts(tmp_path / "cohort", [("T1w", "dseg"), ("T1w",), ("T2w",)]))
    assert [item["subject"] for item in cases.pairs("t1", "dseg", complete=True)] == ["sub-1"]
    with pytest.raises(DataError, match="cases with the target and all of dseg"):
        cases.pairs("t2", "dseg", complete=True)


def test_names_of_classes_are_unique_and_those_of_nnunet_keep_their_meaning():
    classes = {"0": "air", "1": "vein", "2": "", "3": "vein", "4": "ignore", "5": "background"}
    expected = {"background": 0, "vein": 1, "class 2": 2, "class 3": 3, "class 4": 4, "class 5": 5}
    assert class_numbers(classes) == expected


# ---- the data set ----

CLASSES = {"dseg": {"0": "", "1": "csf", "2": ""}}


def drawn(seed: int) -> dict:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    label = (torch.arange(24).reshape(1, 2, 3, 4) + seed) % 3
    return {"pred": MetaTensor(label.float() * 100, affine=affine), "label": label, "seed": seed}


def test_the_folder_is_read_as_nnunet_with_names_and_takes_further_cases(tmp_path):
    for count, save in enumerate([SaveLabelledImage(tmp_path, "t1", CLASSES) for _ in range(3)], start=1):
        save(drawn(count))
        content = json.loads((tmp_path / "dataset.json").read_text())
        assert content["numTraining"] == count
    assert content["labels"] == {"background": 0, "csf": 1, "class 2": 2}
    assert (content["channel_names"], content["file_ending"]) == ({"0": "t1"}, ".nii.gz")
    cases = list_cases(tmp_path)
    assert (cases.layout, cases.roles, cases.masks) == ("nnunet", {"t1": 3}, {"label": 3})
    assert cases.class_names["label"] == {0: ["background"], 1: ["csf"], 2: ["class 2"]}
    assert [path.name for path in find_samples(tmp_path)] == [f"sample_000{n}_0000.nii.gz" for n in (1, 2, 3)]
    for case in cases:
        image, label = (nib.load(path) for path in (case.images["t1"], case.masks["label"]))
        np.testing.assert_array_equal(label.get_fdata() * 100, image.get_fdata())
        np.testing.assert_array_equal(label.affine, np.diag([2.0, 3.0, 4.0, 1.0]))
        assert label.get_data_dtype() == np.uint8


def test_another_data_set_in_the_folder_is_refused(tmp_path):
    SaveLabelledImage(tmp_path, "t1", CLASSES)(drawn(1))
    for save in (SaveLabelledImage(tmp_path, "t2", CLASSES), SaveLabelledImage(tmp_path, "t1", {"dseg": {"0": ""}})):
        with pytest.raises(DataError, match=r"dataset.json.*those of the model.*another --output_dir"):
            save(drawn(2))
    assert len(list_cases(tmp_path)) == 1


# ---- the bundle ----


def test_the_bundle_generates_a_data_set_that_a_segmenter_reads(trained, tmp_path):
    training = trained("mri_labelled3d")
    workflow(
        training.bundle, ["inference", "generate"], kind="infer", checkpoint=str(training.weights),
        output_dir=str(tmp_path), num_samples=2, steps=2, sample_size=[32, 40, 32], window=[32, 32, 32],
    ).run()  # fmt: skip
    content = json.loads((tmp_path / "dataset.json").read_text())
    assert content["numTraining"] == 2
    assert list(content["labels"].values()) == [0, 1, 2, 3, 4]
    cases = labelled_cases(tmp_path)
    pairs = load_pairs(cases, [1, 2, 3, 4])
    assert [tuple(pair["image"].shape) for pair in pairs] == [(1, 32, 40, 32)] * 2
    assert set(class_values(cases)) <= {1, 2, 3, 4}
    statistics = json.loads((training.weights.parent / "data_statistics.json").read_text())
    values = nib.load(cases[0]["image"]).get_fdata()
    low, high = (np.float32(statistics[name]) for name in ("low", "high"))  # as the file
    assert low <= values.min() < values.max() <= high, "in the unit of the data"
    np.testing.assert_allclose(pairs[0]["image"].pixdim, [2.5] * 3)


# ---- the plan ----


def test_a_plan_of_image_and_label_map_names_the_classes(tmp_path, capsys):
    cohort = Path(write_contrasts(tmp_path / "cohort", [("T1w", "T2w", "dseg")] * 2 + [("T1w",)]))
    (cohort / "dseg.tsv").write_text("index\tname\n1\tgrey\n")
    bundle, flags = tmp_path / "planned", ["--image", "t1", "--mask", "dseg", "--joint"]
    assert main(["plan", str(cohort), *flags, "--out", str(bundle), "--no-trial"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "each of its classes 0, 1 (grey), 2 is a channel, -1 or 1, beside the image" in said
    assert "dseg in 2 of 2 cases" in said
    assert "['configs/inference.json','configs/generate.json']" in said
    train, inference, metadata = (
        json.loads((bundle / f"configs/{name}.json").read_text()) for name in ("train", "inference", "metadata")
    )
    assert (train["image"], train["mask"]) == ("t1", "dseg")
    assert inference["untrained"]["classes"] == {"dseg": {"0": "", "1": "grey", "2": ""}}
    tensor = metadata["network_data_format"]["inputs"]["image"]
    assert (tensor["num_channels"], list(tensor["channel_def"].values())) == (
        4, ["image", "background", "grey", "class 2"],
    )  # fmt: skip
    assert main(["check", str(bundle)]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--joint"], "--joint draws an image with one label map"),
        (["--joint", "--mask", "dseg", "--given", "t2"], "no --given"),
        (["--joint", "--mask", "dseg", "--whole"], "a model of patches, got --whole"),
    ],
)
def test_a_plan_refuses_what_no_bundle_draws_together(tmp_path, capsys, flags, message):
    cohort = write_contrasts(tmp_path / "cohort", [("T1w", "T2w", "dseg")] * 2)
    assert main(["plan", cohort, "--image", "t1", *flags, "--out", str(tmp_path / "planned"), "--no-trial"]) == 1
    assert message in capsys.readouterr().err
