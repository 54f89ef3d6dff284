"""The shipped bundles, and their workflows as a user runs them."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parent.parent
BUNDLES = sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/metadata.json"))
OVERLAYS = sorted(path.stem for path in (ROOT / "configs").glob("*.json") if path.stem != "smoke")
each_bundle = pytest.mark.parametrize("bundle", BUNDLES)


def configuration(bundle: str, name: str) -> dict:
    def refuse_duplicates(pairs):
        keys = [key for key, _ in pairs]
        assert len(set(keys)) == len(keys), f"{bundle}/{name}.json: a key twice among {keys}"
        return dict(pairs)

    text = (ROOT / f"bundles/{bundle}/configs/{name}.json").read_text()
    return json.loads(text, object_pairs_hook=refuse_duplicates)


def workflow(
    bundle: str | Path, names: list[str], overlays: list[str] = (), kind: str = "train", **overrides
) -> ConfigWorkflow:
    """An initialised workflow of a shipped bundle, by its name, or of a bundle in a folder."""
    folder = ROOT / "bundles" / bundle / "configs"
    files = [*(folder / f"{name}.json" for name in names), *(ROOT / f"configs/{overlay}.json" for overlay in overlays)]
    instance = ConfigWorkflow(
        [str(file) for file in files],
        meta_file=str(folder / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(folder.parent),
        **overrides,
    )
    instance.initialize()
    return instance


@dataclass(frozen=True)
class Training:
    """A trained bundle: its data, its folder, and its state at the end.

    Tests share it and change none of its files; those that write take ``copy``.
    """

    folder: Path
    bundle: str
    dataset: str
    overrides: dict = field(default_factory=dict)
    iterations: int = 0
    missing_properties: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The bundle as published: with weights and their statistics."""
        return self.folder / self.bundle

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def weights(self) -> Path:
        return self.root / "models/model.pt"

    @property
    def where(self) -> dict:
        """The overrides that continue this training or evaluate it, with another ``output_dir``."""
        return {"ckpt_dir": str(self.weights.parent), "dataset_dir": self.dataset, **self.overrides}

    def copy(self, folder: Path) -> Path:
        """The bundle and its weights once more."""
        return Path(shutil.copytree(self.root, folder / self.bundle))


def train(training: Training) -> Training:
    """Copies a bundle and trains the copy for a few iterations; returns its state at the end."""
    ignore = shutil.ignore_patterns("output", "*.pt", "*.db", "data_statistics.json")
    shutil.copytree(ROOT / "bundles" / training.bundle, training.root, ignore=ignore)
    instance = workflow(training.root, ["train"], ["smoke"], output_dir=str(training.output), **training.where)
    missing = instance.check_properties()
    instance.run()
    iterations = instance.parser.get_parsed_content("train#trainer").state.iteration
    return replace(training, iterations=iterations, missing_properties=missing)


def interrupt(instance: ConfigWorkflow, step: int) -> None:
    """Runs until Ctrl-C comes in a step of the sampler, counted over all draws and batches."""
    steps = itertools.count(1)

    def press(_step):
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)

    instance.parser.get_parsed_content("inferer").callback = press
    with pytest.raises(KeyboardInterrupt):
        instance.run()


#: two draws in two steps each: Ctrl-C in the first step of the second draw of the second batch of two
IN_THE_SECOND_BATCH = 7


def spatial_dims(bundle: str) -> int:
    return len(configuration(bundle, "metadata")["network_data_format"]["inputs"]["image"]["spatial_shape"])


def command(bundle: str, run_id: str, config: str, *options: str) -> list[str]:
    files = [f"configs/{name}.json" for name in config.split(",")]
    files += [f"{ROOT}/configs/smoke.json"]
    return [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files), *options]


def run(bundle: str, run_id: str, config: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(bundle, run_id, config, *options),
        cwd=ROOT / "bundles" / bundle, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
