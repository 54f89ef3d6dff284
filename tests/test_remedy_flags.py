"""Every flag that a remedy of the package names is taken: by a command that prints it, as a flag or as an id."""

from __future__ import annotations

import argparse
import ast
import json
import re
from pathlib import Path

import pytest

from monai_diffscore import __main__ as program

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "monai_diffscore"
FLAG = re.compile(r"(?<![\w-])--([A-Za-z_][\w-]*(?:#\w+)?)")
#: flags of other programs that a remedy names with them
OTHERS = {"tile", "pyramid", "config_file"}
#: flags whose commands are those of one folder of the package; all others read data for `plan` and for bundles
ALONE = {"planning": {"plan"}, "report": {"report", "bundle"}, "tasks": {"bundle"}}


def texts(node: ast.AST) -> str:
    return "".join(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def remedies() -> list[tuple[str, str, str]]:
    """(module, line, flag) of each flag in the remedy of an error, and in functions that return a remedy."""
    flags = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            own: list[ast.AST] = []
            if isinstance(node, ast.keyword) and node.arg == "remedy":
                own = [node.value]
            elif isinstance(node, ast.FunctionDef) and "remedy" in node.name:
                own = [n for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None]
            for part in own:
                names = FLAG.findall(texts(part))
                flags += [(str(file.relative_to(PACKAGE)), str(part.lineno), name) for name in names]
    return flags


@pytest.fixture(scope="module")
def taken() -> dict[str, set[str]]:
    """Flags by command; the ids of all configurations of bundles under "bundle"."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for name in ("plan", "cases", "check", "report"):
        getattr(program, f"add_{name}")(commands)
    flags = {
        name: {option.removeprefix("--") for action in command._actions for option in action.option_strings}
        for name, command in commands.choices.items()
    }
    ids = {key.split("#")[0] for file in ROOT.glob("bundles/*/configs/*.json") for key in json.loads(file.read_text())}
    return {**flags, "bundle": ids}


def test_remedies_name_flags_and_the_search_sees_them():
    assert len(remedies()) > 60


def test_every_flag_of_a_remedy_is_a_flag_or_an_id(taken):
    known = set().union(*taken.values()) | OTHERS
    assert [row for row in remedies() if row[2].split("#")[0] not in known and row[2] not in known] == []


@pytest.mark.parametrize("folder", ALONE)
def test_a_command_takes_the_flags_of_its_own_remedies(folder, taken):
    """A remedy in the planner is printed by `plan` alone, one of a task by a bundle alone."""
    own = set().union(*(taken[name] for name in ALONE[folder])) | OTHERS
    rows = [row for row in remedies() if row[0].startswith(f"{folder}/")]
    assert rows
    assert [row for row in rows if row[2].split("#")[0] not in own and row[2] not in own] == []


def test_no_reader_takes_the_path_of_its_data_for_a_flag():
    """`plan`, `cases` and `report` take the data as an argument, a bundle as --dataset_dir: a reader knows neither."""
    readers = [row for row in remedies() if row[0].startswith(("data/", "planning/", "segmentation/", "transforms/"))]
    assert readers
    assert [row for row in readers if row[2] in ("dataset_dir", "cases")] == []


def test_the_list_of_cases_names_flags_of_its_command_or_says_whose_they_are(taken):
    rows = [row for row in remedies() if row[0].startswith("data/cases/") and row[2] not in taken["cases"]]
    lines = {name: (PACKAGE / name).read_text().splitlines() for name, _, _ in rows}
    for module, line, flag in rows:
        text = "".join(lines[module][int(line) - 1 : int(line) + 4])
        assert re.search(rf"plan\b[^.]*--{flag}\b|--{flag} \(`plan` calls", text), (module, line, flag)


#: what the files do not say, and which of them are images of whom
READING = (
    "value_range", "image_channels", "assume_intercept", "allow_no_air", "assume_mpp_um",
    "layout", "image", "subject", "participants",
)  # fmt: skip


@pytest.mark.parametrize("name", READING)
def test_flags_of_reading_have_one_name_in_plan_and_in_bundles(name, taken):
    assert name in taken["plan"]
    assert name in taken["bundle"]


def test_no_page_or_message_gives_a_flag_a_value_of_json():
    """`--fit true` is a text, and refused: a flag takes True, False and "$None". TROUBLESHOOTING quotes one."""
    written = re.compile(r"--[A-Za-z_#]+ (?:true|false|null|none)\b")
    quoted = {"--amp false"}
    files = [*ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/*.md"), *PACKAGE.rglob("*.py"), ROOT / "README.md"]
    assert {text for file in files for text in written.findall(file.read_text())} <= quoted
