"""Requirements of MONAI, its model zoo and MONAI Label: files, ids, metadata, version.

The schema in ``metadata_schema.json`` is MONAI's own, meta_schema_20240725.json (Apache-2.0), kept here so that a check
needs no network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from monai.bundle.properties import InferProperties, TrainProperties

from monai_diffscore.inspection.files import BundleFiles, Config, Finding, look_up

SCHEMA = Path(__file__).parent / "metadata_schema.json"
#: the model zoo takes no file above this; larger ones are named in large_files.yml
LARGEST_BYTES = 25_000_000
_FILES = ("LICENSE", "configs/metadata.json", "configs/train.json", "configs/inference.json", "configs/logging.conf",
          "docs/README.md")  # fmt: skip
#: what MONAI Label's app for bundles reads (monailabel/tasks/infer/bundle.py and tasks/train/bundle.py)
_LABEL = {
    "inference": ("device", "network_def", "preprocessing", "inferer", "postprocessing"),
    "train": ("device", "network", "train#trainer#max_epochs", "train#dataset#data", "train#handlers",
              "validate#dataset#data"),
}  # fmt: skip
_RUNS = {"train": ("run", "training"), "inference": ("run", "sampling")}


def find_missing(files: BundleFiles) -> list[Finding]:
    """The unmet requirements of MONAI, the model zoo and MONAI Label."""
    return [*_files(files), *_ids(files), *_metadata(files.metadata), *_version(files.metadata)]


def _files(files: BundleFiles) -> list[Finding]:
    findings = [
        Finding(name, "a file that MONAI, its model zoo or a reader asks for", "none", "Copy it from a shipped bundle.")
        for name in _FILES
        if not (files.folder / name).is_file()
    ]
    for file in sorted(files.folder.rglob("*")):
        inside = file.relative_to(files.folder)
        if inside.parts[0] == "output" or not file.is_file():
            continue
        if file.suffix == ".py":
            findings.append(
                Finding(str(inside), "no Python in a bundle", "some", "Put it into a package: bundles that share a "
                        "process share module names.")
            )  # fmt: skip
        if file.stat().st_size > LARGEST_BYTES:
            size = f"{file.stat().st_size / 1e6:.0f} MB"
            remedy = "Name it in large_files.yml with its URL and hash."
            findings.append(Finding(str(inside), f"at most {LARGEST_BYTES / 1e6:.0f} MB", size, remedy))
    return findings


def _ids(files: BundleFiles) -> list[Finding]:
    findings = []
    for name, table in (("train", TrainProperties), ("inference", InferProperties)):
        config = files.bases.get(name)
        if config is None:
            continue
        needed = dict.fromkeys(_required(table), "MONAI and its model zoo")
        if _is_image(files.metadata):
            needed |= {path: needed.get(path, "MONAI Label") for path in _LABEL[name]}
        needed |= dict.fromkeys(_RUNS[name], "`python -m monai.bundle run`, old and new")
        for path, whom in needed.items():
            if not look_up(config, path)[0]:
                remedy = "Add it, as in the shipped bundles."
                findings.append(Finding(f"configs/{name}.json: {path}", f"an id that {whom} reads", "none", remedy))
        root = config.get("bundle_root")
        if isinstance(root, str) and root.startswith(("/", "~")):
            remedy = 'Write ".": a bundle runs in its own folder.'
            findings.append(Finding(f"configs/{name}.json: bundle_root", "no path of one machine", root, remedy))
    return findings


def _is_image(metadata: Config) -> bool:
    """Whether the network takes images, the data of MONAI Label."""
    return look_up(metadata, "network_data_format#inputs#image#type") == (True, "image")


def _required(table: Mapping[str, Any]) -> list[str]:
    """The ids that a table of MONAI's properties requires."""
    entries = [{str(key): value for key, value in entry.items()} for entry in table.values()]
    return [str(entry["id"]).replace("::", "#") for entry in entries if entry["required"]]


def _metadata(metadata: Config) -> list[Finding]:
    if not metadata:
        return []
    schema = json.loads(SCHEMA.read_text())
    findings = []
    for error in jsonschema.Draft7Validator(schema).iter_errors(metadata):
        path = "#".join(map(str, error.absolute_path)) or "the whole"
        findings.append(
            Finding(f"configs/metadata.json: {path}", "what MONAI's schema says", error.message[:200], "Correct it.")
        )
    formats = metadata.get("network_data_format", {})
    for side, key in (("inputs", "image"), ("outputs", "pred")):
        names = list(formats.get(side, {}))
        if names[:1] != [key]:
            remedy = "MONAI's verify_net_in_out and MONAI Label take it by that name and place."
            where = f"configs/metadata.json: network_data_format#{side}"
            findings.append(Finding(where, f"{key} first", f"{names}", remedy))
    return findings


def _version(metadata: Config) -> list[Finding]:
    version, changelog = str(metadata.get("version", "")), metadata.get("changelog", {})
    findings = []
    if metadata and not re.fullmatch(r"\d+\.\d+\.\d+", version):
        findings.append(
            Finding("configs/metadata.json: version", "three numbers, as 0.1.0", version, "Write three numbers.")
        )
    if metadata and version not in changelog:
        got = f"entries of {', '.join(changelog) or 'none'}"
        findings.append(
            Finding(
                "configs/metadata.json: changelog", f"an entry of the version {version}", got, "Say what is new in it."
            )
        )
    return findings
