"""Places that cannot be written: each command says so before it computes, in one line, and leaves nothing there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import write_volume
from workflows import ROOT

from monai_diffscore.atomic_files import require_writable
from monai_diffscore.errors import DataError

#: a disk in memory, read-only, that this process and its children alone see
MOUNT = 'mount -t tmpfs tmpfs "$0" && mkdir "$0/old" && mount -o remount,ro "$0" && exec "$@"'


def on_read_only_disk(disk: Path, *command: str, **options) -> subprocess.CompletedProcess:
    disk.mkdir(exist_ok=True)
    return subprocess.run(
        ["unshare", "--mount", "bash", "-c", MOUNT, str(disk), *command], capture_output=True, text=True, check=False,
        timeout=300, **options,
    )  # fmt: skip


@pytest.fixture
def disk(tmp_path) -> Path:
    tried = on_read_only_disk(tmp_path / "disk", "touch", str(tmp_path / "disk/file"))
    if "Read-only file system" not in tried.stderr:
        pytest.skip(f"this machine lets no test mount a disk: {tried.stderr.strip()}")
    return tmp_path / "disk"


BUNDLE = ["monai.bundle", "run"]
TRAIN = [*BUNDLE, "training", "--config_file", "['configs/train.json','../../configs/smoke.json']"]
#: the arguments of python -m, and the flag that the error names
COMMANDS = {
    "output_dir": ([*TRAIN, "--output_dir", "{disk}/out", "--ckpt_dir", "{here}/models"], "--output_dir PATH"),
    "ckpt_dir": ([*TRAIN, "--output_dir", "{here}/out", "--ckpt_dir", "{disk}/models"], "--ckpt_dir PATH"),
    "samples": (
        [*BUNDLE, "sampling", "--config_file", "['configs/inference.json','configs/demo.json']", "--num_samples", "4",
         "--output_dir", "{disk}/old"], "--output_dir PATH",
    ),
    "plan": (["monai_diffscore", "plan", "{here}/table.csv", "--out", "{disk}/a/b"], "--out PATH"),
    "cases": (["monai_diffscore", "cases", "{here}/heads", "--write", "{disk}/cases.csv"], "--write PATH"),
    "report": (
        ["monai_diffscore", "report", "--real", "{here}/table.csv", "{here}/table.csv", "--synthetic",
         "{here}/table.csv", "--out", "{disk}/report"], "--out PATH",
    ),
    "report of a run": (["monai_diffscore", "report", "{disk}/old"], "--out PATH"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_read_only_disk_ends_a_command_with_one_line_before_it_computes(name, disk, tmp_path):
    words, flag = COMMANDS[name]
    here = tmp_path / "here"
    here.mkdir()
    rows = np.random.default_rng(0).normal(size=(60, 4)).round(3)
    pd.DataFrame(rows, columns=list("abcd")).to_csv(here / "table.csv", index=False)
    write_volume(here / "heads/sub-1.nii.gz", (20, 20, 20))
    before = sorted(path for path in here.rglob("*"))
    python = [sys.executable, "-m", *(word.format(disk=disk, here=here) for word in words)]
    done = on_read_only_disk(disk, *python, cwd=ROOT / "bundles/toy2d_mlp", env={**os.environ, "PYTHONPATH": str(ROOT)})
    (*_, line) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert line.startswith(f"error: {disk}/")
    assert f"expected a place to write to, got a read-only disk. Name another one: {flag}" in line
    assert "Traceback" not in done.stderr
    assert not any(word in done.stdout + done.stderr for word in ("training:", "sampling 4", "computing:", "sync"))
    assert sorted(path for path in here.rglob("*")) == before
    assert list(disk.iterdir()) == []  # seen from outside, nothing was mounted


@pytest.fixture
def sealed(tmp_path):
    """A folder that even root cannot write."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    folder.chmod(0o555)
    sealing = subprocess.run(["chattr", "+i", str(folder)], capture_output=True, text=True, check=False)
    if os.geteuid() == 0 and sealing.returncode:
        pytest.skip(f"this file system seals no folder: {sealing.stderr.strip()}")
    yield folder
    subprocess.run(["chattr", "-i", str(folder)], capture_output=True, check=False)
    folder.chmod(0o755)


@pytest.mark.parametrize("place", ["", "new", "new/below/it", "table.csv"])
def test_a_folder_without_permission_is_refused_by_name(place, sealed):
    with pytest.raises(DataError, match=f"no permission to write in {sealed}. Name another one: --out PATH"):
        require_writable(sealed / place, "--out")
    assert list(sealed.iterdir()) == []


def test_a_file_where_a_folder_belongs_is_refused_and_a_free_place_is_not(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file, which is a file"):
        require_writable(tmp_path / "file/out", "--out")
    for place in ("file", "new", "new/below/it", ""):
        require_writable(tmp_path / place, "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
