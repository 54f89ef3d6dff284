"""The benchmarks are commands: each says what it measures and with which options."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
FILES |= {path.parent.name: path for path in (ROOT / "benchmarks").glob("*/__main__.py")}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_benchmark_answers_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    assert end.value.code == 0
    first_line = ast.get_docstring(ast.parse(FILES[name].read_text())).splitlines()[0]
    assert " ".join(first_line.split()) in " ".join(capsys.readouterr().out.split())
