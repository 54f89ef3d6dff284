"""The record beside samples: what made which files, and that a report takes those of the newest command alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from workflows import workflow

from monai_diffscore.data import statistics_beside
from monai_diffscore.data.files import file_hash
from monai_diffscore.data.manifests import MANIFEST, WEIGHTS, facts_of_weights, note_weights, read_manifest
from monai_diffscore.handlers import SaveManifest
from monai_diffscore.report.image_files import find_samples
from monai_diffscore.report.profile_sources import find_profiles


def sample(folder, names, weights, seed=0, **facts):
    """A sampling that writes files of these names."""

    def write(_engine, _batch):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("wb") as file:  # np.save adds .npy to the name of a picture
                np.save(file, np.full(3, seed, np.float32))

    engine = Engine(write)
    SaveManifest(folder, weights, {"steps": 4, "seed": seed}, seed=seed, **facts).attach(engine)
    engine.run([0])


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({}, path)
    return path


FOUR = [f"pred_{number}.npy" for number in range(4)]
#: what the first and the second command write, and what is left of the first
COMMANDS = {
    "fewer": (FOUR, FOUR[:2], FOUR[2:]),
    "other names": (FOUR, ["sub-1/image.npy"], FOUR),
    "the same names": (FOUR, FOUR, []),
    "more": (FOUR[:1], FOUR, []),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_a_report_takes_the_files_of_the_newest_command(case, tmp_path, weights, caplog):
    first, second, left = COMMANDS[case]
    folder = tmp_path / "samples"
    sample(folder, first, weights, seed=0, num_samples=len(first))
    with caplog.at_level("INFO"):
        sample(folder, second, weights, seed=7, num_samples=len(second))
    assert (f"holds {len(left)} file(s) of another command" in caplog.text) == bool(left)
    assert (
        f"samples: {folder} ({len(second)} file{'s' * (len(second) != 1)}); record: {folder / MANIFEST}" in caplog.text
    )
    manifest = read_manifest(folder)
    assert manifest["files"] == sorted(second)
    assert (manifest["seed"], manifest["num_samples"]) == (7, len(second))
    assert manifest["weights_hash"] == file_hash(weights)
    caplog.clear()
    assert [str(file.relative_to(folder)) for file in find_samples(tmp_path)] == sorted(second)
    assert (f"left out {len(left)} file(s)" in caplog.text) == bool(left)


@pytest.mark.parametrize(("names", "count"), [(FOUR, "4 files"), (FOUR[:1], "1 file"), (["a/image.npy"], "1 file")])
def test_the_gallery_is_no_sample_in_the_count(names, count, tmp_path, weights, caplog):
    folder = tmp_path / "my samples"
    with caplog.at_level("INFO"):
        sample(folder, [*names, "gallery.png"], weights)
    assert f"samples: '{folder}' ({count}); pictures: '{folder}/gallery.png'; record: '{folder}/" in caplog.text


def test_the_hash_distinguishes_commands_and_holds_no_secret(tmp_path, weights):
    engine = Engine(lambda *_: None)
    hashes = []
    for configuration in ({"steps": 4}, {"steps": 4}, {"steps": 5}, {"steps": 4, "label": "circle"}):
        manifest = SaveManifest(tmp_path, weights, configuration)
        manifest.attach(engine)
        hashes.append(manifest.configuration_hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_without_a_manifest_all_files_are_taken(tmp_path):
    for name in FOUR:
        np.save(tmp_path / name, np.zeros(3))
    assert len(find_samples(tmp_path)) == 4


def test_a_sampling_without_files_writes_no_record(tmp_path, weights):
    engine = Engine(lambda *_: None)
    SaveManifest(tmp_path / "out", weights, {}).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda: None)
    engine.run([0])
    assert not (tmp_path / "out").exists()


def test_a_bundle_writes_the_manifest_beside_its_samples(tmp_path):
    facts = {"sigma_data": 0.5, "low": 0.0, "high": 1000.0, "spacing_mm": [2.0, 2.0, 2.0]}
    (tmp_path / "data_statistics.json").write_text(json.dumps(facts))
    where = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "samples"), "steps": 2}
    (tmp_path / "model.pt").touch()
    for number, seed in ((3, 0), (2, 7)):
        sampling = workflow(
            "mri_unet3d", ["inference"], ["smoke"], kind="infer", **where, num_samples=number, seed=seed
        )
        torch.save(sampling.parser.get_parsed_content("network").state_dict(), tmp_path / "model.pt")
        sampling.run()
    manifest = read_manifest(tmp_path / "samples")
    assert (manifest["seed"], manifest["num_samples"]) == (7, 2)
    assert manifest["weights_hash"] == file_hash(tmp_path / "model.pt")
    assert len(list((tmp_path / "samples").glob("*.nii.gz"))) == 3
    assert len(find_samples(tmp_path)) == 2


@pytest.mark.parametrize("ending", ["csv", "h5ad", "parquet"])
def test_a_report_of_rows_takes_the_files_of_the_newest_command(ending, tmp_path, weights, caplog):
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("old", "new"):
        engine = Engine(lambda _engine, _batch, name=name: (folder / f"{name}.{ending}").write_text(name))
        SaveManifest(folder, weights, {}, seed=0).attach(engine)
        engine.run([0])
    assert find_profiles(tmp_path) == [folder / f"new.{ending}"]
    assert "left out 1 file(s)" in caplog.text


def test_facts_of_weights_are_of_this_content(tmp_path):
    for name in ("model.pt", "autoencoder.pt"):
        (tmp_path / name).write_text(name)
        note_weights(tmp_path / name, {"iteration": len(name)})
    for name in ("model.pt", "autoencoder.pt"):
        assert facts_of_weights(tmp_path / name, file_hash(tmp_path / name)) == {"iteration": len(name)}
    (tmp_path / "model.pt").write_text("of another training")
    assert facts_of_weights(tmp_path / "model.pt", file_hash(tmp_path / "model.pt")) == {}
    assert facts_of_weights(tmp_path / "copy.pt", "sha256:0") == {}


def test_samples_name_the_run_and_the_iteration_of_their_weights(tmp_path):
    folder = tmp_path / "out"
    workflow("toy2d_mlp", ["train"], ["smoke"], output_dir=str(folder), run_name="spiral").run()
    weights = folder / "models/model.pt"
    facts = json.loads((weights.parent / WEIGHTS).read_text())["model.pt"]
    assert (facts["run"], facts["iteration"], facts["output_dir"]) == ("spiral", 4, str(folder))
    assert facts["weights_hash"] == file_hash(weights)
    where = {"checkpoint": str(weights), "output_dir": str(folder / "samples"), "steps": 2}
    workflow("toy2d_mlp", ["inference"], ["smoke"], kind="infer", **where).run()
    manifest = read_manifest(folder / "samples")
    assert manifest["weights_hash"] == facts["weights_hash"]
    assert (manifest["training"]["run"], manifest["training"]["iteration"]) == ("spiral", 4)
    (checkpoint,) = (folder / "checkpoints").glob("*.pt")
    assert statistics_beside(checkpoint) == statistics_beside(weights)
