"""The command check: shipped bundles pass, and each way of breaking one is caught by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from workflows import BUNDLES, ROOT

from monai_diffscore.__main__ import main
from monai_diffscore.errors import DataError
from monai_diffscore.inspection import inspect_bundle

Config = dict


@pytest.mark.parametrize("bundle", BUNDLES)
def test_shipped_bundles_pass(bundle):
    assert [str(finding) for finding in inspect_bundle(ROOT / "bundles" / bundle)] == []


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "mri_unet3d"
    ignored = shutil.ignore_patterns("output", "*.pt", "*.db", "data_statistics.json")
    shutil.copytree(ROOT / "bundles/mri_unet3d", folder, ignore=ignored)
    return folder


def edit(folder: Path, name: str, change: Callable[[Config], object]) -> None:
    file = folder / f"configs/{name}.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config, indent=4))


def first(transforms: list, target: str) -> Config:
    return next(t for t in transforms if t["_target_"].endswith(target))


#: what is broken: file, change, and words of the finding: where, and what is got or suggested
BROKEN: dict[str, tuple[str, Callable[[Config], object], tuple[str, ...]]] = {
    "id that nothing reads": ("train", lambda c: c.update(max_epoch=3), ("max_epoch:", "max_epochs")),
    "reference to nothing": ("train", lambda c: c["ema"].update(network="@netwrk"), ("@netwrk", "@network")),
    "nested reference to nothing": (
        "train",
        lambda c: c["train"]["trainer"].update(inferer="@train#infererr"),
        ("@train#infererr",),
    ),
    "expression that does not parse": ("train", lambda c: c.update(cases="$data.list_volumes("), ("cases", "Python")),
    "name that does not exist": (
        "train",
        lambda c: c.update(cases="$data.list_volume(@dataset_dir)"),
        ("data.list_volume,",),
    ),
    "class that does not exist": (
        "train",
        lambda c: c["ema"].update(_target_="monai_diffscore.handlers.PowerEma"),
        ("PowerEma",),
    ),
    "keyword that is not taken": (
        "train",
        lambda c: c["ema"].update(relative_lenght=0.1),
        ("relative_lenght", "relative_length"),
    ),
    "keyword that is missing": ("train", lambda c: c["optimizer"].pop("params"), ("optimizer", "no params")),
    "keyword passed on to MONAI": ("train", lambda c: c["train"]["trainer"].update(devise=0), ("devise", "device")),
    "overlay that overrides nothing": (
        "evaluate",
        lambda c: c.update({"validate#evaluater#network": 1}),
        ("validate#evaluater",),
    ),
    "overlay with a mistyped id": ("denoise", lambda c: c.update(noise_stdd=1), ("noise_stdd", "noise_std")),
    "another network": (
        "inference",
        lambda c: c["network_def"]["network"].update(channels=[8, 16]),
        ("network_def#network#channels",),
    ),
    "another precision": ("inference", lambda c: c.update(autocast_dtype=None), ("autocast_dtype", "bfloat16")),
    "another sigma_data": ("inference", lambda c: c.update(sigma_data=0.5), ("sigma_data", "statistics")),
    "another range": (
        "inference",
        lambda c: c["preprocessing"]["transforms"][1].update(low=0.0, high=1.0),
        ("range of the training",),
    ),
    "condition that is not declared": ("train", lambda c: c.update(condition_keys=["age"]), ("condition_keys", "age")),
    "id of MONAI Label": ("inference", lambda c: c.pop("postprocessing"), ("postprocessing", "none")),
    "id of the model zoo": ("train", lambda c: c.pop("dataset_dir"), ("dataset_dir", "model zoo")),
    "path of one machine": ("train", lambda c: c.update(bundle_root="/home/me/bundle"), ("bundle_root", "/home/me")),
    "metadata against the schema": ("metadata", lambda c: c.pop("task"), ("metadata.json", "'task' is a required")),
    "version without a changelog": ("metadata", lambda c: c.update(version="0.2.0"), ("changelog", "0.2.0")),
    "version that is none": ("metadata", lambda c: c.update(version="new"), ("version", "three numbers")),
    "first input": (
        "metadata",
        lambda c: c["network_data_format"].update(inputs={"x": c["network_data_format"]["inputs"]["image"]}),
        ("image first",),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_way_of_breaking_a_bundle_is_caught(name, copy):
    file, change, words = BROKEN[name]
    edit(copy, file, change)
    findings = [str(finding) for finding in inspect_bundle(copy)]
    assert any(all(word in line for word in words) for line in findings), findings


@pytest.mark.parametrize(("keyword", "findings"), [("folder", 0), ("foldr", 1)])
def test_an_overlay_may_set_a_keyword_of_the_component_that_it_puts_in(copy, keyword, findings):
    overlay = {"evaluator#_target_": "monai_diffscore.tasks.CaseTable", f"evaluator#{keyword}": None}
    (copy / "configs/other.json").write_text(json.dumps(overlay))
    lines = [line for line in map(str, inspect_bundle(copy)) if "configs/other.json" in line]
    assert len(lines) == findings


def test_files_that_are_missing_or_do_not_belong_are_named(copy):
    (copy / "LICENSE").unlink()
    (copy / "scripts.py").write_text("")
    text = "\n".join(map(str, inspect_bundle(copy)))
    assert "LICENSE: expected" in text
    assert "scripts.py: expected no Python" in text


def test_a_key_twice_is_caught_before_the_last_one_wins(copy):
    (copy / "configs/denoise.json").write_text('{"task": "a", "task": "b"}')
    (finding,) = inspect_bundle(copy)
    assert "'task' twice" in finding.got


def test_weights_and_statistics_of_different_trainings(copy):
    torch.save({"preconditioning.sigma_data": torch.tensor(0.7)}, copy / "models/model.pt")
    (copy / "models/data_statistics.json").write_text('{"sigma_data": 0.5}')
    (finding,) = inspect_bundle(copy)
    assert (finding.expected, finding.got) == ("that of the weights, 0.7", "0.5")


def test_overrides_of_the_command_line_and_of_overlays(copy, tmp_path):
    assert inspect_bundle(copy, ["max_epochs=3", "--train#trainer#seed", "network_def#network#channels"]) == []
    assert inspect_bundle(copy, [str(file) for file in (ROOT / "configs").glob("*.json")]) == []
    (tmp_path / "mine.json").write_text('{"patch_sise": [8, 8, 8]}')
    findings = inspect_bundle(copy, ["--max_epoch=3", str(tmp_path / "mine.json")])
    assert ["max_epochs" in findings[0].remedy, "patch_size" in findings[1].remedy, len(findings)] == [True, True, 2]


def test_the_command_says_all_and_ends_with_one(copy, capsys):
    assert main(["check", str(copy)]) == 0
    assert main(["check", str(copy), "--override", "max_epoch"]) == 1
    assert "Did you mean max_epochs?" in capsys.readouterr().out
    assert main(["check", str(copy), "--override", "max_epoch", "--json"]) == 1
    (findings,) = json.loads(capsys.readouterr().out).values()
    assert set(findings[0]) == {"where", "expected", "got", "remedy"}


def test_no_bundle_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected a bundle"):
        inspect_bundle(tmp_path)
