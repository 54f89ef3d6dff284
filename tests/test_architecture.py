"""The imports of the package point one way."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "monai_diffscore"
#: level -> groups of nouns in order: a noun imports its own modules, earlier groups and lower levels, nothing else
ORDER = {
    0: [
        ["credentials", "errors", "exports", "memory", "tensors"],
        ["atomic_files", "balls", "networks", "operators", "pyramid", "sde"],
        ["gallery", "scales", "transforms"],
        ["data", "latent"],
        ["samples"],
    ],
    1: [["denoiser", "gaussian_start", "initial_weights", "low_rank_start", "optimizers"]],
    2: [
        ["anomaly", "discrete", "guidance", "losses", "sampling", "sharding", "tiling"],
        ["likelihood"],  # the grids of sampling
        ["multiscale"],
        ["detail_tiles", "joint_scales"],
    ],
    3: [
        ["composing"],
        ["configuration", "flags", "interrupts", "metrics", "planning"],
        ["launcher"],
        ["command_line", "engines", "inferers", "inspection", "report"],
        ["handlers"],
        ["segmentation", "tasks"],
    ],
    4: [["__init__", "__main__"]],
}
LEVELS = {noun: level for level, groups in ORDER.items() for group in groups for noun in group}
RANKS = {
    noun: rank for rank, group in enumerate(group for groups in ORDER.values() for group in groups) for noun in group
}
# these need torch and nothing else of ours or MONAI's to be read, tested and reused
MATHEMATICS = {"sde", "denoiser", "losses", "sampling", "likelihood", "guidance", "operators", "tiling", "anomaly"}
MATHEMATICS |= {"networks", "discrete", "optimizers", "pyramid", "scales", "latent", "tensors", "multiscale"}
MATHEMATICS |= {"balls", "detail_tiles", "joint_scales"}
#: what torch itself imports
TORCH = {"torch", "torchgen", "functorch", "triton", "numpy", "sympy", "mpmath", "networkx", "typing_extensions"}
ENGINE_PACKAGES = {"ignite", "mlflow"}
FORBIDDEN_NAMES = {"utils", "helpers", "base", "registry", "misc", "common"}
MODULES = sorted(PACKAGE.rglob("*.py"))
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))


def noun(path: Path, package: Path = PACKAGE) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, in functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted name -> file. A package is read from its stub, which names the modules of its public names."""
    modules = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        stub = path.with_suffix(".pyi")
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = stub if stub.is_file() else path
    return modules


def module_graph(package: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports; ``from package import module`` counts as the module."""
    modules = modules_of(package)
    graph = {}
    for name, path in modules.items():
        graph[name] = set()
        for imported in imports(path):
            parent = imported.rpartition(".")[0]
            if imported in modules and not any(other.rpartition(".")[0] == imported for other in imports(path)):
                graph[name].add(imported)  # a module
            elif imported not in modules and parent in modules:
                graph[name].add(parent)  # a name of a module or of a package
        graph[name].discard(name)
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle of the graph, first and last the same; empty if there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def folder_graph(modules: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same between the top nouns of the package."""
    graph: dict[str, set[str]] = {}
    for name, imported in modules.items():
        tops = {top for other in imported if (top := _top(other)) != _top(name)}
        graph.setdefault(_top(name), set()).update(tops)
    return graph


def _top(module: str) -> str:
    return (*module.split("."), "__init__")[1]


def wrong_arrows(package: Path, ranks: Mapping[str, int]) -> list[str]:
    """Imports from a noun of the same group, a later group or a higher level."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        for name in imports(path):
            parts = name.split(".")
            ours, here = parts[0] == package.name and len(parts) > 1, noun(path, package)
            if ours and parts[1] != here and ranks.get(parts[1], -1) >= ranks[here]:
                wrong.append(f"{path.relative_to(package)} imports {name}")
    return wrong


@each_module
def test_every_module_has_a_level(path):
    assert noun(path) in LEVELS, "say in ORDER where this noun stands"


def test_the_table_of_contributing_has_the_same_order():
    page = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| ([0-3]) \| (.*?) \|", page, flags=re.MULTILINE))
    groups = {
        int(level): [re.findall(r"`(\w+)/?`", group) for group in row.split(" < ")] for level, row in rows.items()
    }
    assert groups == {level: ORDER[level] for level in range(4)}


def test_imports_point_to_earlier_groups():
    assert wrong_arrows(PACKAGE, RANKS) == []


def test_there_are_no_circles():
    modules = module_graph(PACKAGE)
    assert len(modules) > 150
    assert sum(map(len, modules.values())) > 300, "the graph is read"
    assert circle(modules) == []
    assert circle(folder_graph(modules)) == []


def write_package(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    return root / "pack"


def test_a_wrong_arrow_is_seen(tmp_path):
    package = write_package(tmp_path, {"data/a.py": "", "transforms/b.py": "from pack.data import a"})
    assert wrong_arrows(package, {"data": 1, "transforms": 0}) != []
    assert wrong_arrows(package, {"data": 1, "transforms": 1}) != [], "not in one group either"
    assert wrong_arrows(package, {"data": 0, "transforms": 1}) == []


def test_a_circle_of_folders_is_seen_where_modules_have_none(tmp_path):
    files = {"data/a.py": "", "data/b.py": "import pack.transforms.c", "transforms/c.py": "from pack.data.a import x"}
    modules = module_graph(write_package(tmp_path, files))
    assert circle(modules) == []
    assert set(circle(folder_graph(modules))) == {"data", "transforms"}


@pytest.mark.parametrize("link", ["def f():\n    from pack.a import x", "if 0:\n    import pack.a"])
def test_a_circle_of_modules_is_seen_through_others_and_inside_functions(tmp_path, link):
    package = write_package(tmp_path, {"a.py": "import pack.b", "b.py": "from pack import c", "c.py": link})
    assert set(circle(module_graph(package))) == {"pack.a", "pack.b", "pack.c"}


def test_a_circle_through_the_public_names_of_a_package_is_seen(tmp_path):
    package = write_package(
        tmp_path, {"data/a.py": "from pack.data import name_of_b", "data/b.py": "import pack.data.a"}
    )
    (package / "data/__init__.pyi").write_text("from pack.data.b import *")
    assert set(circle(module_graph(package))) == {"pack.data", "pack.data.a", "pack.data.b"}


IMPORT_ALONE = """
import sys
import torch

class TorchAlone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"{name} is not torch", name=name)

allowed = set(sys.argv[2].split()) | set(sys.stdlib_module_names)
loaded = {name.partition(".")[0] for name in sys.modules} - allowed
for name in [name for name in sys.modules if name.partition(".")[0] in {"monai", "ignite", "mlflow", "scipy"}]:
    raise SystemExit(f"torch imports {name}")
sys.meta_path.insert(0, TorchAlone())
sys.path.insert(0, sys.argv[1])
import importlib
for name in sys.argv[3:]:
    importlib.import_module(name)
"""


def import_with_torch_alone(package: Path, names: list[str], then: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", IMPORT_ALONE + then, str(package.parent), " ".join({*TORCH, package.name}), *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_the_mathematics_runs_where_nothing_but_torch_can_be_imported():
    """Whatever a module imports, directly or through others: it is imported, trained and sampled with torch alone."""
    names = sorted(name for name in modules_of(PACKAGE) if _top(name) in MATHEMATICS)
    assert len(names) > 25
    work = """
from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.losses import DenoisingLoss, LogNormalNoise
from monai_diffscore.networks.mlp import ScoreMLP
from monai_diffscore.sampling import karras_sigmas, sample_heun
denoiser = Denoiser(ScoreMLP(2, hidden_size=8, depth=1), EDMPreconditioning())
DenoisingLoss(LogNormalNoise())(denoiser, torch.randn(4, 2)).mean().backward()
sigmas = karras_sigmas(4)
with torch.no_grad():
    sample_heun(denoiser, torch.randn(4, 2) * sigmas[0], sigmas)
print(log_likelihood(denoiser, torch.randn(4, 2), sigmas)[0].shape)
"""
    process = import_with_torch_alone(PACKAGE, names, work)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "torch.Size([4])"


@pytest.mark.parametrize("library", ["monai", "scipy", "nibabel"])
def test_a_library_behind_another_module_is_seen(tmp_path, library):
    assert importlib.util.find_spec(library), "it is installed, and refused all the same"
    files = {"sde.py": "import pack.tensors", "tensors.py": f"import math, torch, {library}"}
    process = import_with_torch_alone(write_package(tmp_path, files), ["pack.sde"])
    assert process.returncode != 0
    assert f"{library} is not torch" in process.stderr


@each_module
def test_only_the_top_knows_engines_and_trackers(path):
    if LEVELS[noun(path)] < 3:
        engines = {name.split(".")[0] for name in imports(path)} & ENGINE_PACKAGES
        assert not engines
        assert not {name for name in imports(path) if name.startswith("monai.engines")}


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
