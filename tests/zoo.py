"""What the continuous integration of the MONAI model zoo (verify_bundle, mode full) asks of a bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out

from monai_diffscore.inspection.publication import SCHEMA
from monai_diffscore.multiscale import MultiScale


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
    """The TorchScript file computes the same as the trained network."""
    parser = ConfigParser()
    parser.read_config(str(folder / "configs/inference.json"))
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / "models/model.pt", weights_only=True))
    exported = torch.jit.load(folder / "models/model.ts")
    denoiser = network.denoisers[0] if isinstance(network, MultiScale) else network  # of the coarse image
    x = torch.randn(2, *denoiser.network.example_shape)
    with torch.no_grad():
        torch.testing.assert_close(exported(x), network.eval()(x), rtol=2e-2, atol=2e-2)
