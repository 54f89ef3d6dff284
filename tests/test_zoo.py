"""The checks of the MONAI model zoo's continuous integration (verify_bundle, mode full), on every bundle.

None of the zoo's own diffusion bundles passes the last two without an exclusion. The weights are those of a training of
a few iterations, written where a bundle keeps them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out
from workflows import ROOT, configuration, each_bundle

from monai_diffscore.data.files import file_hash
from monai_diffscore.inspection.publication import SCHEMA


@each_bundle
def test_zoo_checks(bundle, trained, tmp_path, monkeypatch):
    folder = trained(bundle).copy(tmp_path)
    monkeypatch.chdir(folder)
    check_for_zoo(folder, tmp_path)


def check_for_zoo(bundle: Path, tmp_path: Path) -> None:
    """Raises for a bundle with weights, in the working directory, that the zoo would refuse."""
    for needed in ("LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt"):
        assert (bundle / needed).is_file(), needed
    assert (bundle / "models/model.pt").stat().st_size < 25_000_000, "larger files go to large_files.yml"
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    schema = tmp_path / "schema.json"
    shutil.copy(SCHEMA, schema)  # a schema that is there is not downloaded
    verify_metadata(meta_file="configs/metadata.json", filepath=str(schema))
    files = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json"}
    verify_net_in_out(net_id="network_def", **files, bundle_root=str(bundle))
    ckpt_export(
        net_id="network_def", filepath="models/model.ts", ckpt_file="models/model.pt", **files, bundle_root=str(bundle)
    )  # fmt: skip
    check_exported(bundle)


def check_exported(folder: Path) -> None:
    """The TorchScript file computes what the trained network does."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / "models/model.pt", weights_only=True))
    exported = torch.jit.load(folder / "models/model.ts")
    x = torch.randn(2, *network.network.example_shape)
    with torch.no_grad():
        torch.testing.assert_close(exported(x), network.eval()(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("demo", sorted(ROOT.glob("bundles/*/configs/demo.json")), ids=lambda path: path.parts[-3])
def test_demonstration_weights_are_small_whole_and_of_their_network(demo):
    folder = demo.parent.parent
    weights = folder / "models/demo/model.pt"
    assert sum(file.stat().st_size for file in weights.parent.iterdir()) < 5_000_000
    assert file_hash(weights) in (weights.parent / "README.md").read_text()
    parser = ConfigParser()
    parser.read_config([str(folder / "configs/inference.json"), str(demo)])
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(parser.get_parsed_content("checkpoint"), weights_only=True))
    # a trained denoiser takes noise away: of pure noise at a high level little is left
    x = 20 * torch.randn(2, *network.network.example_shape)
    with torch.no_grad():
        assert network.eval()(x, 20.0).square().mean() < 4


@pytest.mark.parametrize("key", ["required_packages_version", "network_data_format", "version"])
def test_the_schema_refuses_what_is_not_complete(key, tmp_path):
    metadata = configuration("toy2d_mlp", "metadata")
    del metadata[key]
    file, schema = tmp_path / "metadata.json", tmp_path / "schema.json"
    file.write_text(json.dumps(metadata))
    shutil.copy(SCHEMA, schema)
    with pytest.raises(ValueError, match=key):
        verify_metadata(meta_file=str(file), filepath=str(schema))
