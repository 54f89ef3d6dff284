"""The pages and the reference are built without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    done = subprocess.run([*command, ROOT / "docs", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "GeneResidualMLP" in (tmp_path / "reference/monai_diffscore.networks.gene_mlp.html").read_text()
    notebook = (tmp_path / "sde_tutorial.html").read_text()
    assert len(set(re.findall(r'src="_images/(\w+)\.png"', notebook))) >= 9
