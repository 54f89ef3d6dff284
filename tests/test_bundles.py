"""Every bundle: valid, consistent, and run as a user runs it, on synthetic data and through the command line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser
from pictures import check_picture
from samples_of_bundles import CHECKS, check_volumes
from workflows import (
    ROOT,
    configuration,
    each_bundle,
    workflow,
)

#: whose pictures have no colours
GREY = {"mri_unet3d", "mri_dit3d", "mri_whole3d", "mri_translate3d", "mri_labelled3d", "ct_whole3d", "ct_unet3d",
        "ct_unet2d", "natural_dit2d"}  # fmt: skip
TOP_LEVEL = {
    "train": """bundle_root dataset_dir output_dir ckpt_dir seed device max_epochs batch_size num_workers learning_rate
        save_every tracking_uri run_name sigma_data condition_keys network_def network loss optimizer ema train validate
        initialize run training finalize""",
    "inference": """bundle_root dataset_dir output_dir checkpoint seed device num_samples steps sampler network_def
        inferer preprocessing postprocessing evaluator run sampling""",
}


@each_bundle
def test_train_and_inference_share_the_network(bundle):
    train, inference = configuration(bundle, "train"), configuration(bundle, "inference")
    for key in ("network_def", "preconditioning", "autocast_dtype", "amp"):
        assert train[key] == inference[key]


@each_bundle
@pytest.mark.parametrize("name", TOP_LEVEL)
def test_the_names_that_users_lean_on_are_there(bundle, name):
    assert set(TOP_LEVEL[name].split()) <= set(configuration(bundle, name))


@each_bundle
def test_metadata_is_complete(bundle):
    metadata = configuration(bundle, "metadata")
    required = """schema version monai_version pytorch_version numpy_version required_packages_version task description
        authors copyright network_data_format"""
    assert set(required.split()) <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    data_format = metadata["network_data_format"]
    assert next(iter(data_format["inputs"])) == "image"
    assert next(iter(data_format["outputs"])) == "pred"
    for tensor in (data_format["inputs"]["image"], data_format["outputs"]["pred"]):
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= set(tensor)


@each_bundle
def test_bundles_hold_no_code_and_all_that_belongs(bundle):
    folder = ROOT / "bundles" / bundle
    assert not list(folder.rglob("*.py"))
    for name in ("LICENSE", "configs/logging.conf", "configs/evaluate.json", "docs/README.md"):
        assert (folder / name).is_file()


@each_bundle
def test_the_model_card_names_every_overlay(bundle):
    """models/demo/README.md names demo.json."""
    overlays = {path.stem for path in (ROOT / "bundles" / bundle / "configs").glob("*.json")}
    overlays -= {"train", "inference", "metadata", "demo"}
    words = set(re.findall(r"\w+", (ROOT / "bundles" / bundle / "docs/README.md").read_text()))
    assert overlays - words == set()


@each_bundle
def test_weights_follow_the_output_folder(bundle, tmp_path):
    """Trainings with several output folders write several files; the bundle's own two folders stay as they are."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / f"bundles/{bundle}/configs/train.json")])
    root = str(tmp_path / bundle)
    of = {}
    for output in ("output", "output/second", "../A", "../B"):
        parser.update({"bundle_root": root, "output_dir": f"{root}/{output}"})
        of[output] = parser.get_parsed_content("ckpt_dir")
        parser.ref_resolver.reset()
    assert of.pop("output") == f"{root}/models"
    assert of == {output: f"{root}/{output}/models" for output in of}


# ---- runs ----


@each_bundle
def test_train_sample_evaluate(bundle, trained, tmp_path):
    training = trained(bundle)
    assert training.missing_properties == []
    validations = [json.loads(line) for line in (training.output / "validation.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in validations] == [0, training.iterations]
    client = MlflowClient(f"sqlite:///{training.output}/mlruns.db")
    (run,) = client.search_runs([client.get_experiment_by_name("monai_diffscore").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith(bundle)
    assert float(run.data.params["sigma_data"]) > 0
    assert run.data.metrics["denoising_error"] == pytest.approx(validations[-1]["denoising_error"])

    sampling = workflow(
        bundle,
        ["inference"],
        ["smoke"],
        kind="infer",
        checkpoint=str(training.weights),
        output_dir=str(tmp_path / "samples"),
    )
    assert sampling.check_properties() == []
    sampling.run()
    weights = torch.load(training.weights, weights_only=True)
    loaded = sampling.parser.get_parsed_content("network").state_dict()
    assert all((weights[key] == loaded[key].cpu()).all() for key in weights)
    held = [value.item() for name, value in loaded.items() if name.endswith("preconditioning.sigma_data")]
    assert held == [pytest.approx(float(run.data.params["sigma_data"]))] * max(1, len(held))
    check_picture(tmp_path / "samples/gallery.png", grey=bundle in GREY)
    statistics = json.loads((training.weights.parent / "data_statistics.json").read_text())
    CHECKS.get(bundle, check_volumes)(tmp_path / "samples", statistics)

    evaluation = workflow(
        bundle, ["train", "evaluate"], ["smoke"], likelihood_cases=1, output_dir=str(tmp_path / "out"),
        **training.where, **{"likelihood_sigmas#steps": 4},
    )  # fmt: skip
    evaluation.run()
    error, likelihood = [json.loads(line) for line in (tmp_path / "out/evaluation.jsonl").read_text().splitlines()]
    assert error["denoising_error"] == pytest.approx(validations[-1]["denoising_error"], rel=0.02)
    assert np.isfinite(likelihood["negative_log_likelihood_nats_per_dim"])


@pytest.mark.slow
@pytest.mark.parametrize("bundle", ["toy2d_mlp", "tabular_mlp", "signal_dit1d"])
def test_a_bundle_samples_a_checkpoint_as_it_samples_the_weights(bundle, trained, tmp_path):
    """The newest checkpoint is of the iteration of model.pt; its samples are those of the average, in every file."""
    training = trained(bundle)
    (*_, checkpoint) = sorted((training.output / "checkpoints").glob("iteration_*.pt"))
    own = torch.load(checkpoint, weights_only=True)["network"]
    weights = torch.load(training.weights, weights_only=True)
    assert all(torch.equal(own[name], value) for name, value in weights.items() if torch.is_tensor(value))
    for name, file in (("weights", training.weights), ("checkpoint", checkpoint)):
        where = {"output_dir": str(tmp_path / name), "dataset_dir": training.dataset}
        workflow(training.root, ["inference"], ["smoke"], "infer", checkpoint=str(file), num_samples=2, **where).run()
    files = [path.name for path in (tmp_path / "weights").iterdir() if path.suffix in (".npy", ".csv")]
    assert files
    for name in files:
        assert (tmp_path / "weights" / name).read_bytes() == (tmp_path / "checkpoint" / name).read_bytes()
