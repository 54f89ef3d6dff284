"""The tutorial notebook: it runs from its first cell to its last, by the public interface alone."""

from __future__ import annotations

import ast
import os
import re
import time
from pathlib import Path

import pytest

import monai_diffscore
from monai_diffscore import metrics

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parent.parent / "docs/sde_tutorial.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def sources(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_it_uses_public_names_alone(notebook):
    code = "\n".join(sources(notebook))
    used = set(re.findall(r"\bds\.(\w+)", code))
    assert len(used) > 15
    assert used <= set(monai_diffscore.__all__)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "monai_diffscore.metrics":
            assert {alias.name for alias in node.names} <= set(metrics.__all__)
        assert not (isinstance(node, ast.Attribute) and node.attr.startswith("_"))


def test_it_is_small_and_shows_its_pictures(notebook):
    assert NOTEBOOK.stat().st_size < 1_000_000
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 9
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.slow
def test_every_cell_runs_and_what_it_asserts_holds(notebook, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    root = str(NOTEBOOK.parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    began = time.monotonic()
    client.execute(env=environment)  # raises at the first cell that fails
    print(f"{time.monotonic() - began:.0f} s")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == number for number, cell in enumerate(code, 1))
    assert sum("assert " in cell.source for cell in code) >= 5
