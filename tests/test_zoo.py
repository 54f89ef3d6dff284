"""The checks of the MONAI model zoo's continuous integration (verify_bundle, mode full), on every bundle.

None of the zoo's own diffusion bundles passes the last two without an exclusion. The weights are those of a training of
a few iterations, written where a bundle keeps them.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata
from workflows import ROOT, configuration, each_bundle
from zoo import check_for_zoo

from monai_diffscore.data.files import file_hash
from monai_diffscore.inspection.publication import SCHEMA


@each_bundle
def test_zoo_checks(bundle, trained, tmp_path, monkeypatch):
    folder = trained(bundle).copy(tmp_path)
    monkeypatch.chdir(folder)
    check_for_zoo(folder, tmp_path)


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
    shape = next(module.example_shape for module in network.modules() if hasattr(module, "example_shape"))
    x = 20 * torch.randn(2, *shape)
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
