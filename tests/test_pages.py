"""The commands of the pages for users run as they stand, in a copy of the repository's bundles.

Two things are added to each line: the overlay configs/smoke.json to every --config_file (one short epoch, two steps),
and --no-trial to `plan` (whose trials have tests of their own). The data of the pages are small and synthetic.
The commands of CLUSTER.md are run by test_cluster.py and test_sharding.py, those of LABEL.md by test_label.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from monai_diffscore.data import samples

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "configs/smoke.json"


def blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


def shortened(line: str) -> str:
    """The line with the smoke overlay, and without the trials of a plan."""
    line = re.sub(r'--config_file "\[(.*?)\]"', rf"--config_file \"[\1,'{SMOKE}']\"".replace('\\"', '"'), line)
    line = re.sub(r"--config_file (configs/\S+)", rf"""--config_file "['\1','{SMOKE}']" """, line)
    return f"{line} --no-trial" if " plan " in line else line


@pytest.fixture
def sandbox(tmp_path):
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=shutil.ignore_patterns("output", "demo", "*.pt"))
    return tmp_path


def run(block: str, folder: Path) -> None:
    lines = "\n".join(["set -e", *map(shortened, block.splitlines())])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(["bash", "-c", lines], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_lines_are_shortened_and_nothing_else():
    line = "python -m monai.bundle run training --config_file configs/train.json"
    assert shortened(line).split() == [*line.split()[:-1], f"\"['configs/train.json','{SMOKE}']\""]
    several = "python x --config_file \"['a.json','b.json']\" --steps 3"
    assert shortened(several) == f"python x --config_file \"['a.json','b.json','{SMOKE}']\" --steps 3"
    assert shortened("cd my_mri") == "cd my_mri"


@pytest.mark.slow
def test_imaging(sandbox, write_volume):
    for subject in range(4):
        volume = write_volume(f"data/mri/sub-{subject}/t1.nii.gz", seed=subject)
        assert volume.is_relative_to(sandbox)
    for block in blocks("IMAGING.md"):
        run(block, sandbox)
    assert list((sandbox / "my_mri/output/large").glob("*.nii.gz"))
    assert len(list((sandbox / "my_mri/output/denoised").glob("*_mean.nii.gz"))) == 4


@pytest.mark.slow
def test_pathology(sandbox):
    (sandbox / "data/slides").mkdir(parents=True)
    shutil.copy(samples.ihc_slide(), sandbox / "data/slides")
    for block in blocks("PATHOLOGY.md"):
        run(block, sandbox)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_omics(number, sandbox):
    found = blocks("OMICS.md")
    assert len(found) == 4
    run(found[number], sandbox)
    assert list(sandbox.glob("bundles/*/output/samples/*"))
