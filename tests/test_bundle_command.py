"""The command line of bundles: what trains, samples, refuses bad data and stops on Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from workflows import (
    ROOT,
    command,
    run,
    workflow,
)

from monai_diffscore.errors import DataError, find_cause


@pytest.mark.slow
def test_from_the_command_line_both_ids_train_and_sample(tmp_path):
    options = ["--output_dir", f"{tmp_path}/out", "--ckpt_dir", f"{tmp_path}/models"]
    for run_id, epochs in (("training", 1), ("run", 3)):  # the second continues the first
        done = run("toy2d_mlp", run_id, "train", *options, "--max_epochs", str(epochs))
        assert done.returncode == 0, done.stderr[-2000:]
    assert "continuing at iteration 4" in done.stdout
    for run_id in ("sampling", "run"):
        where = ["--checkpoint", f"{tmp_path}/models/model.pt", "--output_dir", f"{tmp_path}/{run_id}"]
        done = run("toy2d_mlp", run_id, "inference", *where)
        assert done.returncode == 0, done.stderr[-2000:]
    first, second = (np.load(tmp_path / run_id / "samples.npy") for run_id in ("sampling", "run"))
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_results_lie_in_the_folder_of_the_flag_whatever_its_name(tmp_path):
    """Also with ``#``, which MONAI's configurations replace by ``::`` in every text."""
    out = tmp_path / "Größe #2 [x] (b)/out #1"
    done = run("toy2d_mlp", "training", "train", "--output_dir", str(out), "--max_epochs", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    checkpoint = out / "models/model.pt"
    samples = tmp_path / "samples #3"
    where = ["--checkpoint", str(checkpoint), "--output_dir", str(samples)]
    done = run("toy2d_mlp", "sampling", "inference", *where)
    assert done.returncode == 0, done.stderr[-2000:]
    assert np.isfinite(np.load(samples / "samples.npy")).all()
    assert {path.name for path in tmp_path.iterdir()} == {"Größe #2 [x] (b)", "samples #3"}
    (experiment,) = MlflowClient(f"sqlite:///{out}/mlruns.db").search_experiments(filter_string="name != 'Default'")
    assert experiment.name == "monai_diffscore"


BAD_DATA = {
    "empty": (None, "expected NIfTI files"),
    "nan": (np.full((40, 40, 40), np.nan), "expected finite intensities"),
    "constant": (np.ones((40, 40, 40)), "expected an image with contrast"),
    "flat": (np.random.default_rng(0).normal(size=(40, 40)), "3-D volume"),
    "channels": (np.random.default_rng(0).normal(size=(40, 40, 40, 2)), "got 2 channels"),
    "unreadable": (b"not an image", "a readable 3-D volume"),
}


@pytest.fixture
def bad_data(name, tmp_path, write_volume) -> tuple[dict, str]:
    content, message = BAD_DATA[name]
    folder = tmp_path / "data"
    folder.mkdir()
    if isinstance(content, np.ndarray):
        write_volume("data/bad.nii.gz", array=content)
    elif content is not None:
        (folder / "bad.nii.gz").write_bytes(content)
    where = {"dataset_dir": str(folder), "output_dir": f"{tmp_path}/out", "ckpt_dir": f"{tmp_path}/models"}
    return where, message


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_refused_before_anything_is_written(name, bad_data, tmp_path):
    where, message = bad_data
    with pytest.raises(RuntimeError) as caught:
        workflow("mri_unet3d", ["train"], ["smoke"], **where)
    cause = find_cause(caught.value)
    assert isinstance(cause, DataError)
    assert message in str(cause)
    assert where["dataset_dir"] in str(cause)
    assert cause.parts["key"] == "image"
    assert "(key" not in str(cause)  # it tells a user nothing
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan"])
def test_bad_data_ends_the_command_with_one_line(name, bad_data, tmp_path):
    where, message = bad_data
    done = run(
        "mri_unet3d", "training", "train", *[part for key, value in where.items() for part in (f"--{key}", value)]
    )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert lines[-1].startswith("error: ")
    assert message in lines[-1]
    assert not [line for line in lines if line.startswith("Traceback")]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_a_mistyped_flag_ends_the_command_with_one_line(tmp_path):
    done = run("toy2d_mlp", "training", "train", "--max_epoch", "2", "--output_dir", str(tmp_path / "out"))
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert line.startswith("error: --max_epoch overrides nothing")
    assert "did you mean --max_epochs" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sampling_before_training_names_the_command_that_trains(tmp_path):
    done = run(
        "mri_unet3d", "sampling", "inference", "--checkpoint", f"{tmp_path}/model.pt", "--output_dir", f"{tmp_path}/out"
    )
    assert done.returncode == 1
    assert "Train first" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_saves_closes_the_run_and_ends_with_one_line(tmp_path):
    options = ["--output_dir", str(tmp_path), "--ckpt_dir", str(tmp_path), "--max_epochs", "1000000"]
    with subprocess.Popen(
        command("toy2d_mlp", "training", "train", *options),
        cwd=ROOT / "bundles/toy2d_mlp", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.time() + 120
        while not (tmp_path / "validation.jsonl").exists() and time.time() < deadline:
            time.sleep(0.5)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1].startswith("interrupted: the same command continues")
    assert "Traceback" not in stderr
    (checkpoint, *_) = sorted((tmp_path / "checkpoints").glob("iteration_*.pt"))[-1:]
    assert torch.load(checkpoint, weights_only=True)["engine"]["iteration"] > 0
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")
    (run_record,) = client.search_runs([client.get_experiment_by_name("monai_diffscore").experiment_id])
    assert run_record.info.status == "KILLED"
