"""Every flag in a message of the package: each command that prints the message takes it, with the value as written."""

from __future__ import annotations

import argparse
import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
from fire.parser import DefaultParseValue

from monai_diffscore import __main__ as program
from monai_diffscore.errors import FlagError
from monai_diffscore.flags import refuse_unknown
from monai_diffscore.segmentation.command import add_segmentation

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "monai_diffscore"
#: a flag with its value: a quoted text, a number, a placeholder in capitals, or one of the words that flags take
ADVICE = re.compile(
    r"(?<![\w-])--([A-Za-z_][\w-]*(?:#\w+)*)"
    r"(?: (\"[^\"]*\"|'[^']*'|-?\d+(?:\.\d+)?|True|False|\{\}|[A-Z][A-Z_]+(?:,[A-Z_]+)*\b(?! [A-Z]+\b.* of)"
    r"|(?:folder|study|dicom|pictures|expression|contrast|resample|drop|cases\.csv)\b))?"
)
#: commands of the program, each with what it needs beside a flag
PROGRAM = {
    "plan": ["plan", "DATA", "--out", "B"], "cases": ["cases", "DATA"], "check": ["check", "B"],
    "report": ["report", "R"],
}  # fmt: skip
TRAIN, CASES = ["train"], ["inference", "cases"]
VOLUMES = ["plan", ("mri_unet3d", TRAIN), ("ct_unet3d", TRAIN)]
#: who prints the messages of a module or folder: commands of the program, and bundles with their configurations
PRINTERS: dict[str, list[str | tuple[str, list[str]]]] = {
    "__main__.py": ["plan"],
    "command_line.py": [("mri_unet3d", TRAIN), ("tabular_mlp", TRAIN)],
    "data/anndata.py": [("scrna_attention", TRAIN)],
    "data/arrays.py": [("natural_dit2d", TRAIN)],
    "data/cache.py": [("mri_unet3d", TRAIN)],
    "data/cases/": ["cases", *VOLUMES, ("mri_unet3d", CASES)],
    "data/cases/page.py": ["cases"],
    "data/delimited.py": ["plan", ("tabular_mlp", TRAIN)],
    "data/dicom/": [*VOLUMES, ("mri_unet3d", CASES)],
    "data/doubtful_columns.py": ["plan", ("tabular_mlp", TRAIN)],
    "data/gene_graph.py": ["plan", ("pathway_gnn", TRAIN)],
    "data/gene_links.py": ["plan", ("pathway_gnn", TRAIN)],
    "data/image_requests.py": [("natural_dit2d", ["inference"])],
    "data/pairs.py": [("mri_translate3d", TRAIN)],
    "data/participants.py": ["plan", ("mri_unet3d", TRAIN)],
    "data/patches.py": [("mri_unet3d", ["inference"])],
    "data/pictures.py": ["plan", ("natural_dit2d", TRAIN)],
    "data/profiles.py": [("bulk_expression_mlp", TRAIN)],
    "data/shared_items.py": [("mri_unet3d", TRAIN), ("tabular_mlp", TRAIN)],
    "data/slides.py": ["plan", ("pathology_hierarchical_unet", TRAIN)],
    "data/statistics.py": [("mri_unet3d", ["inference"]), ("scrna_attention", ["inference"])],
    "data/table_inference.py": ["plan", ("tabular_mlp", TRAIN)],
    "data/tables.py": [("tabular_mlp", TRAIN)],
    "data/tiles.py": [("pathology_hierarchical_unet", TRAIN)],
    "data/tree.py": ["plan", ("mri_unet3d", TRAIN), ("natural_dit2d", TRAIN), ("pathology_hierarchical_unet", TRAIN)],
    "data/volumes.py": VOLUMES,
    "engines.py": [("mri_unet3d", TRAIN), ("scrna_attention", TRAIN)],
    "flags.py": [("mri_unet3d", TRAIN)],
    "handlers/checkpoint.py": [(name, TRAIN) for name in ("mri_unet3d", "toy2d_mlp", "scrna_attention")],
    "handlers/manifest.py": [("mri_unet3d", ["inference"]), ("tabular_mlp", ["inference"])],
    "handlers/tables.py": [("tabular_mlp", TRAIN)],
    "initial_weights.py": [("mri_unet3d", TRAIN)],
    "inspection/": ["check"],
    "planning/": ["plan"],
    "report/": ["report"],
    "report/intake.py": ["check"],  # its message names this command
    "samples/": [("ct_unet3d", TRAIN), ("bulk_expression_mlp", TRAIN), ("toy2d_mlp", TRAIN)],
    "segmentation/": ["report"],
    "tasks/anomaly.py": [
        ("mri_unet3d", [*CASES, "anomaly"]),
        ("pathology_hierarchical_unet", ["inference", "anomaly"]),
    ],
    "tasks/cases.py": [("mri_unet3d", CASES)],
    "tasks/restoration.py": [("mri_unet3d", [*CASES, "denoise"])],
    "tasks/labelled_images.py": [("mri_labelled3d", ["inference"]), ("mri_labelled3d", ["inference", "generate"])],
    "transforms/colours.py": ["plan", ("natural_dit2d", TRAIN), ("pathology_hierarchical_unet", TRAIN)],
    "transforms/counts.py": ["plan"],
    "transforms/group_means.py": [("bulk_expression_mlp", TRAIN)],
    "transforms/hounsfield.py": ["plan", *((name, TRAIN) for name in ("ct_unet3d", "ct_unet2d", "ct_whole3d"))],
    "transforms/table_schema.py": [("tabular_mlp", TRAIN)],
}
#: flags whose message says which command takes them
SAID: dict[tuple[str, str], list[str | tuple[str, list[str]]]] = {
    ("__main__.py", "write"): ["cases"],
    ("data/arrays.py", "exclude"): ["plan"],
    ("data/cases/case.py", "condition"): ["plan"],
    ("data/cases/case.py", "write"): ["cases"],
    ("data/cases/case.py", "given"): ["plan", ("mri_translate3d", TRAIN)],
    ("data/cases/listing.py", "exclude"): ["plan"],
    ("data/cases/listing.py", "left_out"): [("mri_unet3d", TRAIN), ("mri_unet3d", CASES)],
    ("data/cases/page.py", "kind"): ["plan"],
    ("data/cases/pictures.py", "exclude"): ["plan"],
    ("data/cases/pictures.py", "left_out"): [("natural_dit2d", TRAIN), ("pathology_hierarchical_unet", TRAIN)],
    ("data/cases/table.py", "write"): ["cases"],
    ("data/cells.py", "expression#fields#gene_key"): [("scrna_attention", TRAIN), ("bulk_expression_mlp", TRAIN)],
    ("data/participants.py", "condition"): ["plan"],
    ("data/participants.py", "fields"): [("mri_unet3d", TRAIN), ("natural_dit2d", TRAIN)],
    ("data/patches.py", "patch_size"): [("mri_unet3d", TRAIN)],
    ("data/patches.py", "spacing_mm"): [("mri_unet3d", TRAIN)],
    ("data/slides.py", "mpp_um"): [("pathology_hierarchical_unet", TRAIN)],
    ("data/table_inference.py", "kind"): ["plan"],
    ("data/table_inference.py", "schema"): [("tabular_mlp", TRAIN)],
    ("data/tree.py", "exclude"): ["plan"],
    ("data/tree.py", "left_out"): [("mri_unet3d", TRAIN), ("natural_dit2d", TRAIN)],
    ("data/volumes.py", "kind"): ["plan"],
    ("data/volumes.py", "value_range"): ["plan"],
    ("data/volumes.py", "image_channels"): [("mri_unet3d", TRAIN)],
    ("handlers/checkpoint.py", "checkpoint"): [("mri_unet3d", ["inference"])],
    ("inspection/leakage.py", "exclude"): ["plan"],
    ("inspection/leakage.py", "left_out"): [("mri_unet3d", TRAIN), ("natural_dit2d", TRAIN)],
    ("inspection/leakage.py", "subject"): ["plan", ("mri_unet3d", TRAIN)],
    ("planning/gene_data.py", "real"): ["report"],
    ("report/command.py", "dicom_options"): [("mri_unet3d", TRAIN)],  # the advice that it replaces
    ("report/image_files.py", "output_dir"): [("mri_unet3d", ["inference"])],
    ("samples/expression_set.py", "transposed"): [("bulk_expression_mlp", TRAIN), ("pathway_gnn", TRAIN)],
}
#: options of other programs (MONAI, pip, mlflow, gdcmconv, vips), and names that are no advice
OTHERS = {"config_file", "run-id", "experiment-id", "raw", "tile", "pyramid", "help"}
#: modules of style sheets, of commands that tests of pages run, and of names of packages
NO_ADVICE = {"report/page.py", "planning/card.py", "samples/catalogue.py", "inspection/references.py"}


class Texts(ast.NodeVisitor):
    """The texts of a module without its docstrings and the help of its commands; {} for what a text inserts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if getattr(node.func, "attr", "") not in ("add_argument", "add_parser", "add_argument_group"):
            self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        self.texts.append("".join(map(str, parts)))

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.texts.append(node.value)


def advice() -> list[tuple[str, str, str]]:
    """(module, flag, value) of each flag in a message; the value is "" where the message has none."""
    rows = set()
    for file in PACKAGE.rglob("*.py"):
        module = str(file.relative_to(PACKAGE))
        if module in NO_ADVICE:
            continue
        visitor = Texts()
        visitor.visit(ast.parse(file.read_text()))
        rows |= {(module, name, value) for text in visitor.texts for name, value in ADVICE.findall(text)}
    return sorted(row for row in rows if row[1] not in OTHERS)


def printers_of(module: str, flag: str) -> list[str | tuple[str, list[str]]]:
    if (module, flag) in SAID:
        return SAID[module, flag]
    places = [place for place in PRINTERS if module == place or (place.endswith("/") and module.startswith(place))]
    return PRINTERS[max(places, key=len)] if places else []


def programs() -> dict[str, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    commands = parser.add_subparsers()
    program.add_plan(commands)
    program.add_cases(commands)
    program.add_check(commands)
    add_segmentation(program.add_report(commands))
    return dict(commands.choices)


PARSERS = programs()


def refusal_of_program(command: str, flag: str, value: str) -> str:
    """Why a command of the program does not take a flag with a value; "" if it takes it."""
    (action, *_) = [one for one in PARSERS[command]._actions if f"--{flag}" in one.option_strings] or [None]
    if action is None:
        return f"{command} has no --{flag}"
    written = value.strip("\"'")
    if not value or value.isupper() or value == "{}":  # a placeholder stands for any value of its kind
        written = str(next(iter(action.choices), "1")) if action.choices else "1"
    count = 0 if action.nargs in (0, "?") else action.nargs if isinstance(action.nargs, int) else 1
    try:
        PARSERS[command].parse_args([*PROGRAM[command][1:], f"--{flag}", *[written] * count])
    except SystemExit:
        return f"{command} refuses --{flag} {written}"
    return ""


def refusal_of_bundle(bundle: str, names: list[str], flag: str, value: str) -> str:
    """Why a command of MONAI does not take it: no such id, or a value of another kind."""
    files = [str(ROOT / f"bundles/{bundle}/configs/{name}.json") for name in names]
    placeholder = not value or value == "{}" or (value.isupper() and not value.startswith(("'", '"')))
    written = "$None" if placeholder else DefaultParseValue(value.strip("\"'"))
    try:
        refuse_unknown(files, {flag: written}, [], ())
    except FlagError as error:
        return f"{bundle}: {error}"
    return ""


def refusals(module: str, flag: str, value: str) -> list[str]:
    found = [
        refusal_of_program(printer, flag, value)
        if isinstance(printer, str)
        else refusal_of_bundle(*printer, flag, value)
        for printer in printers_of(module, flag)
    ]
    return [text for text in found if text]


ROWS = advice()


@pytest.mark.parametrize(("module", "flag", "value"), ROWS, ids=lambda text: text or "-")
def test_each_command_that_prints_an_advice_takes_it(module, flag, value):
    assert printers_of(module, flag), "say in PRINTERS who prints the messages of this module"
    assert refusals(module, flag, value) == []


#: what a message advises to change, up to the end of its statement
VERBS = "add call change choose give leave list lower name pass raise remove set take train use write another"
REQUEST = rf"\b(?i:{'|'.join(VERBS.split())})\b[^.;]*?"
#: modules of the mathematics, whose messages name arguments of Python
OF_PYTHON = ("denoiser.py", "guidance/", "losses.py", "multiscale.py", "networks/")


@cache
def bare_name() -> re.Pattern[str]:
    """An advice to change a flag or id that has no --: a name with an underscore, or the columns of a table."""
    files = [file for file in ROOT.glob("bundles/*/configs/*.json") if file.name != "metadata.json"]
    names = {name for file in files for name in json.loads(file.read_text())}
    options = [option for parser in PARSERS.values() for action in parser._actions for option in action.option_strings]
    names |= {option.strip("-").split("#")[0] for option in options}
    of_flags = "|".join(sorted(name for name in names if "_" in name))
    return re.compile(rf"{REQUEST}(?<![\w\-./#@'\"<`])({of_flags}|categorical)\b(?![\w(/=])")


def test_an_advice_writes_a_flag_as_the_user_types_it():
    """A reader does not know that `graph_columns` is --graph_columns, or whether its command has such a flag."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        module = str(file.relative_to(PACKAGE))
        if not module.startswith(OF_PYTHON):
            visitor = Texts()
            visitor.visit(ast.parse(file.read_text()))
            found += [(module, name) for text in visitor.texts for name in bare_name().findall(text)]
    assert found == []
    assert bare_name().findall("Name the two columns (graph_columns), or give a header.") == ["graph_columns"]
    assert bare_name().findall("Write one limit, or list the column in categorical.") == ["categorical"]
    assert bare_name().findall("Name them with --graph_columns A,B, or lower --patch_size.") == []


def test_the_search_sees_flags_with_their_values_and_the_check_refuses_wrong_ones():
    assert len(ROWS) > 80
    assert ("data/arrays.py", "fit", "True") in ROWS
    assert ("data/cases/dicom.py", "subject", "folder") in ROWS
    assert ("transforms/colours.py", "value_range", '"[0, 65535]"') in ROWS
    assert refusals("data/arrays.py", "fit", "true")
    assert refusals("data/cases/listing.py", "dataset_dir", "")
    assert refusals("planning/images.py", "left_out", "")
    assert refusals("data/arrays.py", "image_chanels", "3")
