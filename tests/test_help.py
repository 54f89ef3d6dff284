"""``--help`` answers at once: it imports nothing that takes seconds."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

HELP = """
import runpy, sys
sys.argv = ["monai_diffscore", *{arguments}, "--help"]
try:
    runpy.run_module("monai_diffscore", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(end.code, sorted({{name.split(".")[0] for name in sys.modules}}), sep="\\n")
"""
COMMANDS = ["cases", "check", "compose", "plan", "report", "run", "samples", "sync"]


def help_of(*arguments: str) -> tuple[str, int, set[str]]:
    """The text, the exit code, and the packages that were imported."""
    command = [sys.executable, "-c", HELP.format(arguments=list(arguments))]
    *text, code, packages = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    return "\n".join(text), int(code), set(ast.literal_eval(packages))


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_needs_the_standard_library_alone(command):
    text, code, packages = help_of(*[command] if command else [])
    assert text.startswith(" ".join(filter(None, ["usage: python -m monai_diffscore", command])))
    assert code == 0
    assert not packages & {"torch", "monai", "mlflow", "ignite", "numpy", "pandas", "matplotlib", "fire"}


def test_the_list_of_commands_is_complete():
    text, _, _ = help_of()
    listed = [line.split()[0] for line in text.partition("COMMAND\n")[2].splitlines() if line[4:5].strip()]
    assert listed == COMMANDS
