"""The imports of the package point one way."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "monai_diffscore"
LEVELS = {
    **dict.fromkeys(
        [
            "sde",
            "operators",
            "networks",
            "transforms",
            "data",
            "gallery",
            "memory",
            "atomic_files",
            "errors",
            "tensors",
            "pyramid",
        ],
        0,
    ),
    **dict.fromkeys(["exports", "samples"], 0),
    **dict.fromkeys(["denoiser", "optimizers"], 1),
    **dict.fromkeys(["losses", "sampling", "likelihood", "guidance", "tiling", "multiscale", "discrete", "anomaly"], 2),
    **dict.fromkeys(["engines", "handlers", "metrics", "planning", "command_line", "report", "tasks", "interrupts"], 3),
    "configuration": 3,
    "inspection": 3,
    "sharding": 2,
    "__main__": 4,
    "__init__": 4,
}
# these need torch and nothing else of ours or MONAI's to be read, tested and reused
MATHEMATICS = {"sde", "denoiser", "losses", "sampling", "likelihood", "guidance", "operators", "tiling", "anomaly"}
MATHEMATICS |= {"networks", "discrete", "optimizers", "pyramid", "multiscale"}
ENGINE_PACKAGES = {"ignite", "mlflow"}
FORBIDDEN_NAMES = {"utils", "helpers", "base", "registry", "misc", "common"}
MODULES = sorted(PACKAGE.rglob("*.py"))
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))


def noun(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


@each_module
def test_every_module_has_a_level(path):
    assert noun(path) in LEVELS, "say in LEVELS where this noun stands"


@each_module
def test_imports_point_down_or_stay_on_their_level(path):
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == PACKAGE.name and len(parts) > 1 and parts[1] in LEVELS:
            assert LEVELS[parts[1]] <= LEVELS[noun(path)], f"{path.name} imports {name}"
            if LEVELS[noun(path)] < 3 and LEVELS[noun(path)] > 0 and noun(path) not in {"likelihood", "multiscale"}:
                assert parts[1] == noun(path) or LEVELS[parts[1]] < LEVELS[noun(path)], f"{path.name} imports {name}"


@each_module
def test_only_the_top_knows_engines_and_trackers(path):
    if LEVELS[noun(path)] < 3:
        known = {name.split(".")[0] for name in imports(path)} & ENGINE_PACKAGES
        assert not known
        assert not {name for name in imports(path) if name.startswith("monai.engines")}


@each_module
def test_the_mathematics_needs_torch_alone(path):
    if noun(path) in MATHEMATICS:
        top = {name.split(".")[0] for name in imports(path)}
        import sys

        allowed = {"torch", PACKAGE.name, "scipy"} | set(sys.stdlib_module_names)  # scipy inside sample_rk45 alone
        assert top <= allowed


@each_module
def test_modules_are_named_for_a_noun_and_open_with_a_text(path):
    assert path.stem not in FORBIDDEN_NAMES
    assert ast.get_docstring(ast.parse(path.read_text())), "say what the module is about"


@each_module
def test_public_names_have_docstrings(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name}"


@each_module
def test_no_device_is_written_into_the_code(path):
    """A device is chosen by the configuration; "cpu" as a default or on the way to numpy is all there is."""
    assert not re.search(r"""\.cuda\(|["']cuda""", path.read_text())
