"""Overlays change what they name, take effect, train and sample."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from workflows import (
    BUNDLES,
    OVERLAYS,
    ROOT,
    configuration,
    each_bundle,
    spatial_dims,
    workflow,
)

from monai_diffscore.inspection.files import read_ids
from monai_diffscore.samples.chests import ct_phantom
from monai_diffscore.transforms import WINDOWS_HU

# these change a training alone, and are tested in test_ddp.py and test_tracking.py
TRAINING_OVERLAYS = {"multi_gpu", "fsdp", "tracking_server", "register_model"}
# these belong to images
IMAGE_OVERLAYS = {"network_dit", "autoguidance"}
#: ids of overlays that `monai.bundle run ID` runs
COMMANDS = {"choosing"}
ORGANS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("bundles/ct_*/configs/organ_*.json"))


@each_bundle
@pytest.mark.parametrize("overlay", [*OVERLAYS, "smoke"])
def test_overlays_change_ids_that_exist(bundle, overlay):
    """MONAI takes a misspelt top-level id silently."""
    changes = json.loads((ROOT / f"configs/{overlay}.json").read_text())
    changed = {key.removeprefix("+").split("#")[0] for key in changes}
    everywhere = {key for name in BUNDLES for file in ("train", "inference") for key in configuration(name, file)}
    own = {reference.split("#")[0] for reference in read_ids(changes)}
    assert changed <= everywhere | own | COMMANDS
    assert changed & (set(configuration(bundle, "train")) | set(configuration(bundle, "inference")))


@pytest.mark.parametrize(
    ("overlay", "preconditioning", "noise"),
    [("sde_vp", "VPP", "UniformTimeNoise"), ("sde_ve", "VEP", "LogUniformNoise"), ("sde_flow", "FlowP", "FlowSDE")],
)
@each_bundle
def test_overlays_take_effect(bundle, overlay, preconditioning, noise):
    """As MONAI resolves it, without data: network and loss of the bundle refer to the objects of the overlay."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / f"bundles/{bundle}/configs/train.json"), str(ROOT / f"configs/{overlay}.json")])
    assert parser["network_def#preconditioning"] == "@preconditioning"
    assert parser["loss#noise"] == "@noise"
    parser["sigma_data"] = 0.5
    assert type(parser.get_parsed_content("preconditioning")).__name__.startswith(preconditioning)
    assert noise in repr(parser.get_parsed_content("noise"))


@pytest.mark.parametrize("bundle", ["toy2d_mlp"])
@pytest.mark.parametrize("overlay", sorted(set(OVERLAYS) - TRAINING_OVERLAYS - IMAGE_OVERLAYS))
def test_every_overlay_trains_and_samples(bundle, overlay, dataset, tmp_path):
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    workflow(bundle, ["train"], [overlay, "smoke"], **where).run()
    where = {"output_dir": str(tmp_path / "samples"), "checkpoint": str(tmp_path / "model.pt")}
    workflow(bundle, ["inference"], [overlay, "smoke"], kind="infer", **where).run()
    assert np.isfinite(np.load(tmp_path / "samples/samples.npy")).all()


@pytest.mark.parametrize("bundle", ["mri_unet3d", "ct_unet2d", "natural_dit2d", "pathology_hierarchical_unet"])
def test_another_network_takes_the_place_of_the_bundles_own(bundle, dataset, tmp_path):
    """The overlay network_dit declares no condition: the error of a bundle with one says to leave it out."""
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    conditions = workflow(bundle, ["train"], ["smoke"], **where).parser.get_parsed_content("condition_keys")
    training = workflow(bundle, ["train"], ["network_dit", "checkpointing", "smoke"], condition_keys=[], **where)
    network = training.parser.get_parsed_content("network").network
    assert type(network).__name__ == "ScoreDiT"
    assert network.checkpointing
    images = next(iter(training.parser.get_parsed_content("train#dataloader")))
    loss = training.parser.get_parsed_content("train#inferer")(
        images["image"], training.parser.get_parsed_content("network")
    )
    assert torch.isfinite(loss).all()
    if conditions:
        training = workflow(bundle, ["train"], ["network_dit", "smoke"], **where)
        with pytest.raises(RuntimeError) as caught:
            training.run()
        errors = [caught.value]
        while errors[-1].__cause__ is not None:
            errors.append(errors[-1].__cause__)
        assert "no condition for a network without a ConditionEncoder" in str(errors[-1])


@pytest.mark.parametrize("organ", ORGANS)
def test_organs_set_window_spacing_patch_and_augmentation(organ, tmp_path):
    """An organ is data: it changes ids that exist, all of those that differ by organ, and they reach the loader."""
    bundle, preset = organ.split("/")[1], json.loads((ROOT / organ).read_text())
    assert set(preset) <= set(configuration(bundle, "train"))
    assert set(preset) >= {"window_hu", "spacing_mm", "patch_size", "flip_probability", "noise_hu"}
    assert len(preset["spacing_mm"]) == len(preset["patch_size"]) == spatial_dims(bundle)
    image = nib.Nifti1Image(*ct_phantom(0, (48, 40, 32), 4.0))
    nib.save(image, tmp_path / "ct.nii.gz")
    training = workflow(bundle, ["train", Path(organ).stem], ["smoke"], output_dir=f"{tmp_path}/out",
                    ckpt_dir=str(tmp_path), dataset_dir=str(tmp_path / "ct.nii.gz"))  # fmt: skip
    patch = training.parser.get_parsed_content("train#dataset")[0]["image"]
    assert patch.shape == (1, *preset["patch_size"])
    low, high = WINDOWS_HU[preset["window_hu"]][0]
    assert patch.applied_operations[-1]["extra_info"] == {"low": low, "high": high}
    assert -1 <= patch.min() < patch.max() <= 1
