"""The scripts of the repository: one clear line for what is wrong, and a quick start that trains."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from workflows import (
    ROOT,
)


@pytest.mark.parametrize("script", ["quickstart", "test", "docs"])
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--help"], 0, "usage: "),
        (["--colour"], 2, "unknown option '--colour'"),
        (["--venv"], 2, "needs a value"),
        (["--python", "no-such-python"], 2, "no such interpreter"),
    ],
)
def test_scripts_answer_with_one_clear_line(script, options, code, message):
    done = subprocess.run(
        [ROOT / "scripts" / script, *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == code
    if code:
        (line,) = done.stderr.strip().splitlines()
        assert message in line
    else:
        assert done.stdout.startswith(message)


def test_the_tests_need_an_environment(tmp_path):
    done = subprocess.run(
        [ROOT / "scripts/test", "--no-install", "--venv", tmp_path],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"there is no virtual environment in '{tmp_path}'" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--minutes", "soon"], "positive number"), (["--data", "/no/such"], "no such file or folder")],
)
def test_quickstart_refuses_bad_values_at_once(options, message):
    done = subprocess.run(
        [ROOT / "scripts/quickstart", *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("flag", ["--image", "--layout", "--subject", "--left_out", "--dicom_options#on_gap"])
def test_quickstart_takes_the_flags_that_a_refusal_of_its_data_names(flag):
    """It reads them, and then refuses the interpreter; another flag is refused itself (above)."""
    command = [ROOT / "scripts/quickstart", flag, "x", "--python", "no-such-python"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "no such interpreter" in done.stderr
    assert '"${reading[@]}"' in (ROOT / "scripts/quickstart").read_text()


@pytest.mark.slow
def test_quickstart_trains_samples_and_prints_the_results(tmp_path):
    """In this environment instead of a new one; the whole of it otherwise."""
    environment = {**os.environ, "PIP_NO_BUILD_ISOLATION": ""}
    done = subprocess.run(
        [ROOT / "scripts/quickstart", "--minutes", "0.1", "--out", tmp_path / "out", "--venv", sys.prefix],
        capture_output=True, text=True, timeout=600, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "held-out denoising error" in done.stdout
    assert len(list((tmp_path / "out/samples").glob("*.nii.gz"))) == 4
    assert (tmp_path / "out/samples/gallery.png").is_file()
    assert (tmp_path / "out/mlruns.db").is_file()
