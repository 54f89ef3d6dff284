"""The public names of a package: each written once, imported when it is used."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import monai_diffscore

ROOT = Path(monai_diffscore.__file__).parent
PACKAGES = [
    ".".join(("monai_diffscore", *path.parent.relative_to(ROOT).parts))
    for path in sorted(ROOT.rglob("__init__.py"))
    if "lazy_exports" in path.read_text()
]


def table_of(package: str) -> dict[str, str]:
    """Module -> names, as the ``__init__.py`` writes them."""
    tree = ast.parse(Path(importlib.import_module(package).__file__).read_text())
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return ast.literal_eval(call.args[1])


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_the_object_of_its_module(package):
    exported = importlib.import_module(package)
    homes = {name: module for module, names in table_of(package).items() for name in names.split()}
    assert exported.__all__ == sorted(homes)
    assert len(homes) == sum(len(names.split()) for names in table_of(package).values()), "a name has two modules"
    for name, module in homes.items():
        assert getattr(exported, name) is getattr(importlib.import_module(f"{package}.{module}"), name)
        assert name in dir(exported)
    assert not set(homes) & {path.stem for path in Path(exported.__file__).parent.iterdir()}, "a module hides a name"


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_read_the_same_modules(package):
    stub = ast.parse(Path(importlib.import_module(package).__file__).with_suffix(".pyi").read_text())
    stars = {node.module for node in stub.body if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"}
    assert stars == {f"{package}.{module}" for module in table_of(package)}


def test_an_unknown_name_is_refused():
    with pytest.raises(ImportError, match="Denoizer"):
        exec("from monai_diffscore import Denoizer")


def test_a_package_imports_nothing_by_itself():
    code = f"import sys, {', '.join(PACKAGES)}; print({{name.split('.')[0] for name in sys.modules}})"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"torch", "monai", "numpy"} & ast.literal_eval(output)
