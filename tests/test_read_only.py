"""Data on a file system that cannot be written: listed, planned, and trained from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from case_folders import save
from dicom_series import phantom, write_series
from PIL import Image

#: a mount of its own that the process alone sees; root may write into a folder without permissions
MOUNT = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
SCRIPT = """
import sys
from pathlib import Path
from monai.bundle import ConfigParser, run
from monai_diffscore.__main__ import main
data, out = map(Path, sys.argv[1:])
try:
    (data / "x").write_text("x")
except OSError as error:
    assert error.errno == 30, error
else:
    raise AssertionError("the folder can be written")
bundle_of = {}
for kind, what in (("volumes", "nifti"), ("volumes", "dicom"), ("pictures", "pictures")):
    folder, bundle = data / what, out / f"bundle #1 of {what}"
    bundle_of[what] = bundle
    assert main(["cases", str(folder), "--validation-share", "0.5", "--write", str(out / f"{what}.csv")]) == 0
    assert main(["plan", str(folder), "--out", str(bundle), "--no-trial", "--kind", kind]) == 0
    parser = ConfigParser()
    parser.read_config(bundle / "configs/train.json")
    parser.update({"bundle_root": str(bundle), "output_dir": str(out / "results")})
    assert len(parser.get_parsed_content("cases")[0]) >= 1
    parser.get_parsed_content("statistics")
    assert parser.get_parsed_content("train#dataset")[0]["image"].isfinite().all()
small = {"max_epochs": 1, "patches_per_volume": 2, "batch_size": 1, "gallery_every": 1000}
place = {"bundle_root": str(bundle_of["dicom"]), "output_dir": str(out / "trained")}
run("training", config_file=str(bundle_of["dicom"] / "configs/train.json"), **place, **small)
assert list((out / "trained").rglob("*.pt"))
"""


def write_data(root: Path) -> None:
    for number in range(3):
        random = np.random.default_rng(number)
        save(root / f"nifti/sub-{number}_T1w.nii.gz", random.gamma(2, 50, (16, 16, 16)).astype(np.float32))
        write_series(
            root / f"dicom/P{number}", phantom(seed=number), uid=f"1.2.3.{number + 1}",
            edit=lambda dataset, _, name=f"P{number}": setattr(dataset, "PatientID", name),
        )  # fmt: skip
        (root / "pictures").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16)).astype(np.uint8)).save(root / f"pictures/p{number}.png")


@pytest.mark.slow
def test_data_that_cannot_be_written_are_listed_planned_and_trained_from(tmp_path):
    data, out = tmp_path / "Größe #2 [x] (y)", tmp_path / "out"
    write_data(data)
    out.mkdir()
    mount = ["unshare", "-m", "bash", "-c", MOUNT, "bash", str(data)]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("no mount of its own: unshare needs the permission for namespaces")
    command = [*mount, sys.executable, "-c", SCRIPT, str(data), str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Not measured") == 3
