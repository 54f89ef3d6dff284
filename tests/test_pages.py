"""The commands of the pages for users run as they stand, in a copy of the repository's bundles; one block in a shell.

Three things are added: the overlay configs/smoke.json to every --config_file (one short epoch, two steps), --no-trial
to `plan` (whose trials have tests of their own) and --draws 20 to `report`. The data of the pages are small and
synthetic. The commands of CLUSTER.md are run by test_cluster.py, test_ddp.py, test_sharding.py and test_tracking.py,
those of LABEL.md by test_label.py, from their tests' own lines: with toy2d_mlp, on free ports.
"""

from __future__ import annotations

import logging
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from monai_diffscore import samples
from monai_diffscore.__main__ import main

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "configs/smoke.json"


def blocks(page: str) -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


def shortened(line: str) -> str:
    """The line with the smoke overlay, without the trials of a plan, and with a report of few draws."""
    line = re.sub(r'--config_file "\[(.*?)\]"', rf"--config_file \"[\1,'{SMOKE}']\"".replace('\\"', '"'), line)
    line = re.sub(r"--config_file (configs/\S+)", rf"""--config_file "['\1','{SMOKE}']" """, line)
    added = {"plan": "--no-trial", "report": "--draws 20"}
    return " ".join([line, *(flag for name, flag in added.items() if f"monai_diffscore {name} " in line)])


@pytest.fixture
def sandbox(tmp_path):
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=shutil.ignore_patterns("output", "demo", "*.pt"))
    return tmp_path


def run(block: str, folder: Path, processes: bool = False) -> None:
    """The lines of a block one after the other: in this process, or as the shell of a user runs them."""
    if processes:
        run_in_a_shell(block, folder)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "excepthook", sys.excepthook)
        # the bundles' logging.conf changes both
        patch.setattr(logging.root, "handlers", list(logging.root.handlers))
        patch.setattr(logging.root, "level", logging.root.level)
        for line in block.splitlines():
            command, *words = shlex.split(shortened(line))
            if command == "cd":
                patch.chdir(*words)
                continue
            assert (command, words[0]) == ("python", "-m"), line
            patch.setattr(sys, "argv", words[1:])
            if words[1] == "monai_diffscore":
                assert main(words[2:]) == 0, line
            else:
                runpy.run_module(words[1], run_name="__main__")


def run_in_a_shell(block: str, folder: Path) -> None:
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
    assert shortened("python -m monai_diffscore report output") == "python -m monai_diffscore report output --draws 20"


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
    for folder in ("bundles/pathology_hierarchical_unet", "my_slides"):
        assert list((sandbox / folder / "output/samples").glob("*.png"))


def write_cells(file: Path) -> None:
    random = np.random.default_rng(0)
    types = random.integers(0, 3, 300)
    counts = random.poisson(random.gamma(1, 2, size=(3, 100))[types])
    obs = pd.DataFrame({"cell_type": np.array(["B", "NK", "T"])[types]}, index=[f"cell{n}" for n in range(300)])
    var = pd.DataFrame(index=[f"gene{n}" for n in range(100)])
    anndata.AnnData(sparse.csr_matrix(counts.astype("float32")), obs, var).write_h5ad(file)


def write_patients(file: Path) -> None:
    random = np.random.default_rng(0)
    crp = np.exp(random.normal(1, 1, 200)).round(2)
    crp[::9] = np.nan
    table = {"age": random.integers(20, 90, 200), "sex": random.choice(["f", "m"], 200), "crp_mg_l": crp}
    pd.DataFrame(table).to_csv(file, index=False)


#: which blocks of OMICS.md go together, and what they leave
OMICS = {
    "cells": (slice(0, 2), ["samples/cells.h5ad", "report/report.html"]),
    "own cells": (slice(2, 3), ["samples/cells.h5ad", "report/report.html"]),
    "bulk": (slice(3, 4), ["samples/profiles.h5ad"]),
    "graph": (slice(4, 5), ["samples/profiles.h5ad"]),
    "own table": (slice(5, 6), ["samples/table.csv", "report/report.html"]),
}


def test_every_block_of_the_omics_page_has_its_turn():
    count = len(blocks("OMICS.md"))
    assert [n for which, _ in OMICS.values() for n in range(count)[which]] == list(range(count))


@pytest.mark.slow
@pytest.mark.parametrize("name", OMICS)
def test_omics(name, sandbox):
    (sandbox / "data").mkdir()
    write_cells(sandbox / "data/cells.h5ad")
    write_patients(sandbox / "data/patients.csv")
    which, files = OMICS[name]
    for block in blocks("OMICS.md")[which]:
        run(block, sandbox, processes=name == "bulk")
    for file in files:
        assert list(sandbox.glob(f"bundles/*/output/{file}")) + list(sandbox.glob(f"my_*/output/{file}")), file
