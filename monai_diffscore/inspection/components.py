"""Components: each ``_target_`` must exist and take the declared keywords."""

from __future__ import annotations

import difflib
import inspect
from functools import cache
from pydoc import locate
from typing import Any

from monai.bundle.config_item import ComponentLocator

from monai_diffscore.inspection.files import BundleFiles, Finding, items

_ANY_KIND = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def find_wrong_components(files: BundleFiles) -> list[Finding]:
    """Components whose declaration cannot be instantiated."""
    findings = []
    for name, config in files.configs.items():
        for path, value in [("", config), *items(config)]:
            if isinstance(value, dict) and isinstance(value.get("_target_"), str):
                findings += _check(f"configs/{name}.json: {path}", value)
    return findings


def takes(target: str, keyword: str) -> bool:
    """Whether the component ``target`` takes a keyword. Every component takes MONAI's own (``_mode_``, ...)."""
    component = _component(target)
    if component is None or (keyword.startswith("_") and keyword.endswith("_")):
        return component is not None
    keywords, is_open = _keywords(component)
    return is_open or keyword in keywords


def _check(where: str, declared: dict[str, Any]) -> list[Finding]:
    target = declared["_target_"]
    if target[:1] in ("$", "@", "%"):
        return []
    component = _component(target)
    if component is None:
        remedy = "Correct the name, or install its package; names outside of MONAI are full paths."
        return [Finding(where, "a class or function that exists", target, remedy)]
    try:
        signature = inspect.signature(component)
    except (ValueError, TypeError):  # C functions have no signature
        return []
    parameters = signature.parameters
    keys = {key for key in declared if not key.startswith("_")}
    keywords, is_open = _keywords(component)
    unknown = set() if is_open else keys - set(keywords)
    findings = [_unknown(where, target, key, keywords) for key in sorted(unknown)]
    if declared.get("_mode_", "default") == "default":
        needed = [key for key, p in parameters.items() if p.default is p.empty and p.kind not in _ANY_KIND]
        missing = [key for key in needed if key not in keys]
        if missing:
            findings.append(
                Finding(where, f"the keywords that {target} needs", f"no {', '.join(missing)}", "Add them.")
            )
    return findings


def _keywords(component: Any) -> tuple[list[str], bool]:
    """The named keywords of a component, and whether it also takes any others.

    A class that passes on ``*args, **kwargs`` takes the keywords of its base.
    """
    keywords: list[str] = []
    for part in inspect.getmro(component) if inspect.isclass(component) else [component]:
        if inspect.isclass(part) and "__init__" not in vars(part):
            continue
        if part is object:
            return keywords, True
        parameters = inspect.signature(part.__init__ if inspect.isclass(part) else part).parameters
        kinds = [parameter.kind for parameter in parameters.values()]
        keywords += [name for name, p in parameters.items() if p.kind not in _ANY_KIND and name != "self"]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return keywords, False
        if inspect.Parameter.VAR_POSITIONAL not in kinds:
            return keywords, True
    return keywords, True


def _unknown(where: str, target: str, key: str, keywords: list[str]) -> Finding:
    close = difflib.get_close_matches(key, keywords, n=2)
    remedy = f"Did you mean {' or '.join(close)}?" if close else f"It takes {', '.join(keywords)}."
    return Finding(where, f"keywords that {target} takes", key, remedy)


@cache
def _component(target: str) -> Any:
    if "." in target:
        return locate(target)
    modules = _locator().get_component_module_name(target)
    if not modules:
        return None
    module = modules if isinstance(modules, str) else modules[0]
    return locate(f"{module}.{target}")


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()
