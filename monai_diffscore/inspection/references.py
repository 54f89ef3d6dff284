"""Ids and their readers.

MONAI takes a mistyped top-level override as a new id that nothing reads, and trains with the old value. Here every id
needs a reader: a reference, MONAI, a user who runs it, or another id that chooses among several (``save`` chooses
``save_dicom``).
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from monai.bundle.properties import InferProperties, TrainProperties

from monai_diffscore.composing import compose, declared
from monai_diffscore.configuration import REFERENCE
from monai_diffscore.inspection.components import takes
from monai_diffscore.inspection.files import BundleFiles, Config, Finding, items, look_up, read_ids

#: ids that MONAI's command line and workflows read, and public ids of bundles
ENTRIES = {"imports", "initialize", "finalize", "run", "bundle_root", "dataset_dir", "output_dir", "tracking_uri"}
#: ids of overlays that ``monai.bundle run ID`` runs
ENTRIES |= {"choosing"}
#: ids that MONAI Label's app for bundles and scripts/label_app read
ENTRIES |= {"pre_transforms", "post_transforms", "alpha", "min_area_um2"}
_PROPERTIES: Any = [*TrainProperties.values(), *InferProperties.values()]
ENTRIES |= {str(entry["id"]).split("::")[0] for entry in _PROPERTIES}
_TAKES_ANY = "a new id that nothing reads changes nothing"


def find_wrong_references(files: BundleFiles) -> list[Finding]:
    """Ids that nothing reads, references to missing ids, and expressions that cannot run."""
    findings = []
    all_ids = {key.lstrip("+").split("#")[0] for config in files.configs.values() for key in config}
    read = {reference.split("#")[0] for config in files.configs.values() for reference in read_ids(config)}
    for name, config in files.configs.items():
        where = f"configs/{name}.json"
        for key, value in config.items():
            if name in files.bases and not _is_read(key, value, config, read):
                findings.append(_unread(where, key, all_ids))
        scope = _scope(files, name)
        for reference in sorted(read_ids(config)):
            if not any(look_up(other, reference)[0] for other in scope):
                findings.append(_nowhere(where, reference, all_ids))
        findings += _wrong_expressions(where, config, scope)
    return findings


def _is_read(key: str, value: Any, config: Config, read: set[str]) -> bool:
    chooser = key.split("_")[0]
    return (
        key in ENTRIES or key in read or _runs(value) or (chooser in config and f"{chooser}_" in str(config[chooser]))
    )


def _runs(value: Any) -> bool:
    """Whether a user runs the value: an expression that calls ``run``."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and ".run(" in text for text in texts)


def _unread(where: str, key: str, ids: Iterable[str]) -> Finding:
    close = difflib.get_close_matches(key, set(ids) - {key}, n=2)
    meant = f"Did you mean {' or '.join(close)}?" if close else "Remove it, or refer to it with @."
    return Finding(f"{where}: {key}", "an id that something reads", "one that nothing reads", meant)


def _nowhere(where: str, reference: str, ids: Iterable[str]) -> Finding:
    close = difflib.get_close_matches(reference, set(ids), n=2)
    meant = f"Did you mean @{' or @'.join(close)}?" if close else "Define it."
    return Finding(f"{where}: @{reference}", "a reference to an id that exists", "none of that name", meant)


def _scope(files: BundleFiles, name: str) -> list[Config]:
    """The configurations whose ids a configuration may refer to: itself, and for an overlay also the others."""
    return [files.configs[name]] if name in files.bases else [*files.configs.values()]


def _wrong_expressions(where: str, config: Config, scope: Sequence[Config]) -> list[Finding]:
    modules = {}
    for other in [config, *scope]:
        modules.update(_modules(other))
    findings = []
    for path, value in items(config):
        if not isinstance(value, str) or not value.startswith("$") or value.startswith("$import "):
            continue
        try:
            tree = ast.parse(REFERENCE.sub("_reference", value[1:]).strip())
        except SyntaxError as error:
            findings.append(
                Finding(f"{where}: {path}", "an expression of Python", f"{value!r}: {error.msg}", "Correct it.")
            )
            continue
        findings += [_no_attribute(where, path, name) for name in _missing_attributes(tree, modules)]
    return findings


def _modules(config: Config) -> dict[str, Any]:
    """Modules in the imports of a configuration."""
    modules: dict[str, Any] = {}
    for text in [*config.get("imports", []), *config.get("+imports", [])]:
        for node in ast.walk(ast.parse(text.lstrip("$"))):
            for alias in node.names if isinstance(node, ast.Import) else ():
                try:
                    modules[alias.asname or alias.name.split(".")[0]] = importlib.import_module(
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
                except ImportError:
                    continue  # an optional package, or a package of another machine
    return modules


def _missing_attributes(tree: ast.AST, modules: dict[str, Any]) -> list[str]:
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
    ]
    return [f"{module}.{name}" for module, name in used if not hasattr(modules[module], name)]


def _no_attribute(where: str, path: str, name: str) -> Finding:
    return Finding(f"{where}: {path}", "names that exist", f"{name}, which does not", "Correct the name.")


def _is_keyword(config: Config, path: str) -> bool:
    """Whether an id is a further keyword of a declared component."""
    parent, _, keyword = path.rpartition("#")
    exists, component = look_up(config, parent) if parent else (False, None)
    return exists and isinstance(component, dict) and "_target_" in component and takes(component["_target_"], keyword)


def _is_keyword_of_new_target(overlay: Config, path: str) -> bool:
    """Whether an id is a keyword of the component that the overlay itself puts in the place of another."""
    parent, _, keyword = path.rpartition("#")
    target = overlay.get(f"{parent}#_target_")
    return isinstance(target, str) and takes(target, keyword)


def find_unknown_overrides(files: BundleFiles, overrides: Sequence[str] = ()) -> list[Finding]:
    """Keys of overlays and of overrides that change nothing.

    Args:
        files: the bundle.
        overrides: "id", "id=value", with or without ``--``, or paths of overlays.
    """
    findings = []
    for name, config in files.overlays.items():
        findings += _unknown_keys(f"configs/{name}.json", config, files)
    for text in overrides:
        if text.endswith(".json"):
            findings += _unknown_file(text, files)
        else:
            findings += _unknown_keys("--override", {text.lstrip("-").split("=")[0]: None}, files)
    return findings


def _unknown_file(text: str, files: BundleFiles) -> list[Finding]:
    try:
        config = json.loads(Path(text).read_text())
    except (OSError, ValueError) as error:
        return [Finding(text, "an overlay, a JSON file", f"{type(error).__name__}: {error}", "Name another file.")]
    return _unknown_keys(text, config, files, _shipped_ids())


@cache
def _shipped_ids() -> set[str]:
    """Top-level ids of all shipped bundles: an overlay for all of them may set ids that one of them lacks."""
    return {key for name in declared() for config in compose(name).values() for key in config}


def _unknown_keys(where: str, overlay: Config, files: BundleFiles, elsewhere: Iterable[str] = ()) -> list[Finding]:
    """Keys of an overlay that no configuration has. ``elsewhere`` are ids of other bundles."""
    findings = []
    read = {reference.split("#")[0] for config in [overlay, *files.configs.values()] for reference in read_ids(config)}
    others = [config for config in files.configs.values() if config is not overlay]
    for key, value in overlay.items():
        path = key.lstrip("+").replace("::", "#")
        exists = any(look_up(config, path)[0] or _is_keyword(config, path) for config in others)
        exists = exists or _is_keyword_of_new_target(overlay, path)
        if exists or path in read or path in ENTRIES or key in elsewhere or _runs(value):
            continue
        ids = {name for config in others for name, _ in items(config) if not name.rsplit("#", 1)[-1].isdigit()}
        close = difflib.get_close_matches(path, ids, n=2)
        meant = f"Did you mean {' or '.join(close)}?" if close else f"Name an id of the configurations: {_TAKES_ANY}."
        findings.append(Finding(f"{where}: {path}", "an id that it overrides", "one that no configuration has", meant))
    return findings
