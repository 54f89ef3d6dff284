"""Configuration of Sphinx: the pages of this folder, and the reference from the docstrings. Built by scripts/docs."""

from __future__ import annotations

import re
from typing import Any

import monai_diffscore

project = "monai_diffscore"
author = "the authors of monai_diffscore"
release = version = monai_diffscore.__version__
extensions = [
    "myst_nb",  # myst_parser, and the notebook with the outputs that it was saved with
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
nb_execution_mode = "off"  # tests/test_tutorial.py runs the notebook
html_theme = "furo"
html_title = f"monai_diffscore {release}"
autosummary_ignore_module_all = True  # else a package with __all__ has no pages for its modules
autosummary_imported_members = False
napoleon_use_ivar = True  # attributes of dataclasses are documented once
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True, "ignore-module-all": True}
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # pages link to files of the repository, which are not pages


_MARKED = re.compile(r"(``.*?``|:\w+:`[^`]*`|`[^`]*`)")  # what already has a meaning


def escape_stars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Shapes such as [B, C, *S] and arguments such as **condition would begin emphasis."""
    for number, line in enumerate(lines):
        parts = _MARKED.split(line)
        parts[::2] = [
            re.sub(r"(?<![\w*\\^])(\*{1,2})(?=[A-Za-z])", lambda stars: r"\*" * len(stars[1]), part)
            for part in parts[::2]
        ]
        lines[number] = "".join(parts)


def keep_whole(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what precedes a colon in the comment of an attribute for its type: here it is a sentence's."""
    before = [line.removeprefix(":type: ") for line in lines if line.startswith(":type: ")]
    if what in ("attribute", "data", "property") and before:
        lines[:] = [line for line in lines if not line.startswith(":type: ")]
        lines[0] = f"{before[0]}: {lines[0]}"


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_whole, priority=600)  # after napoleon's 500
    app.connect("autodoc-process-docstring", escape_stars, priority=900)
