"""Plain answers of the command line."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from monai.transforms import Compose

from monai_diffscore.command_line import FlagError, find_cause, refuse_unknown_flags, report_plainly
from monai_diffscore.data import LoadVolumed
from monai_diffscore.errors import DataError


def test_the_cause_is_found_under_the_layers_of_a_pipeline(write_volume):
    path = write_volume("nan.nii.gz", array=np.full((8, 8, 8), np.nan))
    with pytest.raises(RuntimeError) as caught:
        Compose([LoadVolumed("image")])({"image": str(path)})
    assert isinstance(find_cause(caught.value), DataError)
    assert find_cause(ValueError("other")) is None


def test_an_error_while_stopping_does_not_pass_for_a_stop():
    error = OSError("disk full")
    error.__context__ = KeyboardInterrupt()
    assert find_cause(error) is None


@pytest.mark.parametrize(("said", "line"), [((), "the same command continues"), (("a is written",), "a is written.")])
def test_ctrl_c_ends_with_one_line_that_says_what_is_left(monkeypatch, capsys, said, line):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    report_plainly()
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(*said), None)
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().startswith(f"interrupted: {line}")


@pytest.fixture
def files(tmp_path) -> str:
    (tmp_path / "train.json").write_text(json.dumps({"max_epochs": 1, "network_def": {"channels": [1]}}))
    (tmp_path / "overlay.json").write_text(json.dumps({"sampler": 1, "+train#handlers": []}))
    return f"['{tmp_path}/train.json', '{tmp_path}/overlay.json']"


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--max_epochs", "3"],
        ["--max_epochs=3"],
        ["--network_def#channels", "[1,2]"],
        ["--network_def::channels=[1,2]"],
        ["--sampler", "2", "--train#x", "-3"],
        ["--sampler", "absent.jsonl"],  # a log is no configuration
        ["--meta_file", "x.json", "--tracking", "mlflow", "--logging_file", "False"],
    ],
)
def test_flags_that_override_something_pass(files, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    assert refuse_unknown_flags(["training", "--config_file", files, *flags])


@pytest.mark.parametrize("flag", ["--max_epoch", "--max-epochs", "--network_deff#channels", "--sampler_=3"])
def test_flags_that_override_nothing_are_refused_with_a_proposal(files, flag):
    with pytest.raises(FlagError, match=r"overrides nothing in .*train.json, .*did you mean --"):
        refuse_unknown_flags(["training", "--config_file", files, flag, "3"])


def test_other_programs_are_left_alone():
    assert refuse_unknown_flags()
