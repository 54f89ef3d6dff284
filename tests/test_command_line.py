"""Plain answers of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, run
from workflows import workflow

from monai_diffscore import command_line
from monai_diffscore.__main__ import main
from monai_diffscore.command_line import report_plainly
from monai_diffscore.errors import FlagError, find_cause


@pytest.mark.parametrize(
    ("message", "line"), [((), "the same command continues"), (("a is written",), "a is written.")]
)
def test_ctrl_c_ends_with_one_line_that_says_how_to_continue(monkeypatch, capsys, message, line):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(command_line, "_is_command", lambda: True)
    report_plainly()
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(*message), None)
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip().startswith(f"interrupted: {line}")


BASE = {
    "imports": ["$import monai_diffscore.command_line as command_line"],
    "max_epochs": 1,
    "time_limit_seconds": None,
    "network_def": {"channels": [1]},
    "configuration": "$command_line.executed_configuration()",
    "initialize": ["$command_line.report_plainly()", "$command_line.refuse_unknown_flags()"],
}


@pytest.fixture(params=["", "My Work", "a=1", "x,y"])
def files(request, tmp_path, monkeypatch) -> list[str]:
    """Configurations in folders of every name; ``command_line.seen`` has the executed configurations."""
    folder = tmp_path / request.param
    folder.mkdir(exist_ok=True)
    seen: list = []
    monkeypatch.setattr(command_line, "seen", seen, raising=False)
    train = BASE | {"training": "$command_line.seen.append(@configuration)"}
    (folder / "train.json").write_text(json.dumps(train))
    (folder / "overlay.json").write_text(json.dumps({"sampler": 1, "network_def#channels": [2], "note": "@sampler"}))
    (folder / "metadata.json").write_text("{}")
    return [f"{folder}/train.json", f"{folder}/overlay.json"]


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"max_epochs": 3},
        {"network_def#channels": [1, 2]},
        {"network_def::channels": [1, 2]},
        {"note": "absent.jsonl", "time_limit_seconds": None},
        {"logging_file": False},
    ],
)
def test_the_record_equals_the_merged_configuration(files, flags):
    """In every folder, for every way to write an id, with a flag of None where None stands already."""
    run("training", config_file=files, **flags)
    (recorded,) = command_line.seen
    expected = ConfigParser()
    expected.read_config(files)
    expected.update({k: v for k, v in flags.items() if v is not None and k != "logging_file"})
    assert dict(recorded) == {name: value for name, value in expected.get().items() if name != "_meta_"}
    assert json.loads(json.dumps(recorded)) == recorded


@pytest.mark.parametrize("flag", ["max_epoch", "max-epochs", "sampler_", "network_de"])
def test_flags_that_override_nothing_are_refused_with_a_proposal(files, flag):
    with pytest.raises(RuntimeError) as caught:
        run("training", config_file=files, **{flag: 3})
    cause = find_cause(caught.value)
    assert isinstance(cause, FlagError)
    assert "overrides nothing in" in str(cause)
    assert "did you mean --" in str(cause)
    assert command_line.seen == []


@pytest.mark.parametrize("flag", ["max_epochs", "network_def#channels", "sampler"])
def test_a_flag_of_none_that_monai_drops_is_refused(files, flag):
    with pytest.raises(RuntimeError) as caught:
        run("training", config_file=files, **{flag: None})
    assert f"Write --{flag} '$None'" in str(find_cause(caught.value))
    run("training", config_file=files, **{flag: "$None"})


def test_a_second_file_after_a_space_is_refused(files):
    """fire takes it as the name of an id to initialize, and MONAI ignores absent names."""
    with pytest.raises(RuntimeError) as caught:
        run("training", files[1], config_file=files[0])
    assert "Several configuration files are one argument" in str(find_cause(caught.value))


@pytest.mark.parametrize("path", ["a #2/b", "#", "x::y", "[#] ö"])
def test_a_number_sign_in_a_path_of_a_flag_stays(path, tmp_path):
    """MONAI replaces it by ``::`` in every text of a configuration, and the results lay in another folder."""
    config = {
        "imports": ["$import monai_diffscore.command_line as command_line", "$from pathlib import Path"],
        "output_dir": "x",
        "nested": {"folder": "@output_dir"},
        "initialize": ["$command_line.refuse_unknown_flags()", "$Path('first').write_text(@output_dir)"],
        "run": ["$Path('second').write_text(@nested['folder'])", "$Path('third').write_text(@output_dir + '/s')"],
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.json").write_text(json.dumps(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        run("run", config_file="configs/train.json", output_dir=path)
    texts = [(tmp_path / name).read_text() for name in ("first", "second", "third")]
    assert texts == [path, path, f"{path}/s"]


def test_flags_may_stand_in_a_file(files, tmp_path):
    (tmp_path / "args.json").write_text(
        json.dumps({"config_file": files, "max_epochs": 5, "network_def#channels": [7]})
    )
    run("training", args_file=str(tmp_path / "args.json"))
    (recorded,) = command_line.seen
    assert (recorded["max_epochs"], recorded["network_def"], recorded["sampler"]) == (5, {"channels": [7]}, 1)


def test_a_workflow_of_a_program_records_the_same_and_leaves_its_hooks(files):
    hook, handlers = sys.excepthook, [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    workflow = ConfigWorkflow(files, run_id="training", logging_file=False, max_epochs=4)
    workflow.initialize()
    workflow.run()
    (recorded,) = command_line.seen
    assert (recorded["max_epochs"], recorded["network_def"]) == (4, {"channels": [2]})
    assert sys.excepthook is hook
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == handlers


def test_values_from_python_replace_json_in_the_record(files):
    parser = ConfigParser()
    parser.read_config(files)
    parser["max_epochs"] = np.float32
    assert parser.get_parsed_content("configuration")["max_epochs"] is np.float32


def test_outside_of_a_configuration_the_record_is_refused():
    with pytest.raises(RuntimeError, match="stands in a configuration"):
        command_line.executed_configuration()


@pytest.mark.parametrize(
    ("bundle", "base", "flag"),
    [
        ("mri_unet3d", "train", {"patch_size": 64}),
        ("mri_unet3d", "train", {"spacing_mm": 2.0}),
        ("natural_dit2d", "inference", {"sample_size": 16}),
    ],
)
def test_a_program_that_gives_a_number_for_a_list_is_refused_before_anything_is_read(bundle, base, flag, tmp_path):
    kind = "train" if base == "train" else "infer"
    with pytest.raises(RuntimeError) as caught:
        workflow(bundle, [base], kind=kind, output_dir=str(tmp_path), **flag)
    assert "expected a list" in str(find_cause(caught.value))
    assert list(tmp_path.iterdir()) == []


BOTH = """
import sys
from monai.bundle import run
from monai_diffscore.__main__ import main
files = sys.argv[1]
run("training", config_file=eval(files))
for stream in (sys.stdout, sys.stderr):
    print("OURS", file=stream, flush=True)
main(["run", "training", "--config_file", files])
"""


def test_our_run_leaves_out_what_monai_says_first_and_nothing_else(tmp_path):
    config = {
        "initialize": ["$__import__('warnings').warn('of the bundle')", "$__import__('logging').warning('logged')"],
        "training": "$print('trained')",
    }
    (tmp_path / "overlays").mkdir()
    (tmp_path / "train.json").write_text(json.dumps(config))
    (tmp_path / "overlays/more.json").write_text('{"more": 1}')
    (tmp_path / "metadata.json").write_text("{}")
    files = str([f"{tmp_path}/train.json", f"{tmp_path}/overlays/more.json"])
    command = [sys.executable, "-W", "always", "-c", BOTH, files]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    monai, ours = zip(*(stream.split("OURS") for stream in (process.stdout, process.stderr)), strict=True)
    for line, place in (("Not all config files are in", 0), ("parsing config_file", 1)):
        assert line in monai[place]
        assert line not in ours[place]
    for line, place in (("trained", 0), ("Default logging file", 0), ("of the bundle", 1), ("logged", 1)):
        assert line in monai[place]
        assert line in ours[place]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["training", "--config_file", "absent.json"], "Cannot find the config file: absent.json"),
        (["training", "--config_file", "['{0}/train.json','absent.json']"], "Cannot find the config file: absent.json"),
        (["training", "--config_file", "{0}/train.json", "--absent#id", "1"], "Unsupported option 'absent'"),
    ],
)
def test_errors_before_a_configuration_runs_are_one_line(words, line, tmp_path, monkeypatch, capsys):
    (tmp_path / "train.json").write_text('{"training": "$1"}')
    (tmp_path / "metadata.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", [])
    assert main(["run", *(word.format(tmp_path) for word in words)]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert line in message


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        ({}, {"max_epoch": 3}),
        ({"training": "$1 / 0"}, {}),
        ({"note": "$open('absent')", "initialize": ["@note"]}, {}),
    ],
    ids=["refused", "failed", "unreadable"],
)
@pytest.mark.parametrize(("age_seconds", "older"), [(100, True), (-100, False), (None, False)])
def test_a_command_that_fails_says_whose_samples_stand_in_its_folder(change, flags, age_seconds, older, tmp_path):
    """In a manifest older than the process; a manifest that this command wrote, or none, is no news."""
    (tmp_path / "infer.json").write_text(json.dumps(BASE | {"output_dir": f"${str(tmp_path)!r}"} | change))
    (tmp_path / "metadata.json").write_text("{}")
    if age_seconds is not None:
        (tmp_path / "manifest.json").write_text("{}")
        os.utime(tmp_path / "manifest.json", (command_line._STARTED - age_seconds,) * 2)
    with pytest.raises(RuntimeError) as caught:
        run("training", config_file=f"{tmp_path}/infer.json", logging_file=False, **flags)
    *others, last = command_line.last_lines(caught.value).splitlines()
    assert last.startswith("error: ")
    assert others == [f"the samples in {tmp_path} are those of an earlier command"] * older
