"""One model of two contrasts of each subject: it learns both, tells them apart, and serves annotators with either."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import case_folders
import nibabel as nib
import numpy as np
import pytest
import torch
from workflows import ROOT, workflow

from monai_diffscore.__main__ import main

sys.path.append(str(ROOT / "scripts/label_app"))

from lib.conditions import conditions_of, subjects_of
from lib.options import OPTIONS, changes, panel, usable
from lib.served import ServedBundle
from lib.workflow import Calibration, configure, run_case

from monai_diffscore.errors import DataError

pytestmark = pytest.mark.slow
#: grey value of most tissue; a tenth of the voxels is 0 and a tenth is 1000, so both contrasts have one range
LEVELS = {"T1": 750.0, "T2": 250.0}


def tissue(seed: int, contrast: str) -> np.ndarray:
    random = np.random.default_rng(seed)
    share = random.uniform(size=(20, 20, 20))
    values = LEVELS[contrast] + random.normal(0, 20, (20, 20, 20))
    values = np.where(share < 0.1, 1.0, np.where(share > 0.9, 1000.0, values))
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("contrasts") / "data"
    for subject in range(5):
        for contrast in LEVELS:
            case_folders.save(folder / f"p{subject}_{contrast}.nii.gz", tissue(subject, contrast))
    return folder


@pytest.fixture(scope="module")
def bundle(data) -> Path:
    """Planned with --condition contrast, with a small network, trained for some hundred iterations."""
    folder = data.parent / "bundle"
    assert main(["plan", str(data), "--out", str(folder), "--no-trial", "--patches", "--condition", "contrast"]) == 0
    small = {"channels": [16, 32], "attention_levels": [False] * 2, "num_res_blocks": [1] * 2, "num_head_channels": 8}
    for file in ("train", "inference"):
        path = folder / f"configs/{file}.json"
        content = json.loads(path.read_text())
        content["network_def"]["network"].update(small)
        content["autocast_dtype"] = None
        path.write_text(json.dumps(content, indent=4))
    sizes = {"patch_size": [8] * 3, "patches_per_volume": 16, "batch_size": 8, "validation_patches": 2}
    # much noise, which hides the contrast: only the condition tells it
    noise = {"noise#mean": 2.0, "noise#std": 1.2}
    trained = workflow(
        folder, ["train"], overlays=["smoke"], max_epochs=16, learning_rate=0.004, gallery_every=0, **sizes, **noise
    )
    trained.run()
    return folder


def test_a_denoiser_of_two_contrasts_prefers_the_right_one(bundle):
    """On held-out images of both, in noise that hides the contrast, the error is smaller with the own contrast."""
    parser = configure(ServedBundle(bundle), "denoise")
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True))
    case = parser.get_parsed_content("preprocessing")
    held_out = tissue(9, "T1"), tissue(9, "T2")
    for number, values in enumerate(held_out):
        file = case_folders.save(bundle / f"held_out{number}.nii.gz", values)
        image = torch.as_tensor(case({"image": str(file)})["image"])[None]
        middle = [slice(side // 2 - 4, side // 2 + 4) for side in image.shape[2:]]  # padding surrounds the image
        image = image[(..., *middle)]
        noisy = image + 20 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            denoised = [network(noisy, 20.0, contrast=torch.tensor([contrast])) for contrast in (0, 1)]
        errors = [float((one - image).square().mean()) for one in denoised]
        assert errors[number] < 0.8 * errors[1 - number]
        assert float(denoised[0].mean() - denoised[1].mean()) > 0.3


def test_samples_of_a_contrast_have_its_grey_values(bundle):
    means = {}
    for contrast in ("t1", "t2"):
        output = bundle / f"samples_{contrast}"
        sampling = workflow(
            bundle, ["inference"], kind="infer", num_samples=2, steps=12, condition={"contrast": contrast},
            sample_size=[8] * 3, output_dir=str(output),
        )  # fmt: skip
        sampling.run()
        files = sorted(output.glob("*.nii.gz"))
        assert len(files) == 2
        means[contrast] = np.mean([nib.load(file).get_fdata().mean() for file in files])
    middle = sum(LEVELS.values()) / 2
    assert means["t1"] > middle > means["t2"]


# ---- annotators


def test_an_annotator_chooses_the_contrast_or_the_name_of_the_file_states_it(bundle, data):
    served = ServedBundle(bundle)
    options = usable(OPTIONS["anomaly"], configure(served, "anomaly"))
    assert panel(options, configure(served, "anomaly"))["contrast"] == ["", "t1", "t2"]
    for request, right in (
        ({}, {"p0_T1": 0, "p0_T2": 1, "p0": -1}),
        ({"contrast": "t2"}, {"p0_T1": 1, "p0_T2": 1, "p0": 1}),
        ({"contrast": ""}, {"p0_T1": 0, "p0_T2": 1, "p0": -1}),
    ):
        parser = configure(served, "anomaly", changes(options, request))
        assert {name: conditions_of(parser, f"{data}/{name}.nii.gz")["contrast"] for name in right} == right
    parser = configure(served, "anomaly", changes(options, {"contrast": "t2"}))
    assert conditions_of(parser, "p0_T1.nii.gz", is_reference=True) == {"contrast": 0}
    with pytest.raises(DataError, match="one of , t1, t2"):
        changes(options, {"contrast": "adc"})
    plain = ServedBundle(ROOT / "bundles/mri_unet3d")
    assert usable(OPTIONS["anomaly"], configure(plain, "anomaly")) == list(OPTIONS["anomaly"])


def test_an_image_is_more_anomalous_as_the_other_contrast(bundle, data, tmp_path):
    """The whole request, with a calibration on the studies, whose names state their contrasts."""
    image = str(case_folders.save(tmp_path / "new_T1.nii.gz", tissue(9, "T1")))
    served, calibration = ServedBundle(bundle), Calibration(tmp_path / "work")
    options = usable(OPTIONS["anomaly"], configure(served, "anomaly"))
    evidence = {}
    for contrast in ("t1", "t2"):
        request = {"contrast": contrast, "noise_levels": "2.0", "noise_pairs": 1}
        parser = configure(served, "anomaly", changes(options, request))
        calibration.provide(parser, sorted(map(str, data.iterdir())), image)
        evidence[contrast] = run_case(parser, image, tmp_path / contrast).row["evidence"]
    assert evidence["t2"] > evidence["t1"]


def test_a_training_of_annotators_splits_by_patients(data):
    images = sorted(map(str, data.iterdir()))
    assert [subject for _, subject in sorted(subjects_of(images, of_slides=False).items())] == [
        f"p{number}" for number in range(5) for _ in LEVELS
    ]
    assert subjects_of(images[:1], of_slides=False) == {images[0]: images[0]}
