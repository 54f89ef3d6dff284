"""The remedies of docs/TROUBLESHOOTING.md are taken as they are written."""

from __future__ import annotations

import ast
import re
import shlex

import pytest
from workflows import ROOT

from monai_diffscore.__main__ import main
from monai_diffscore.configuration import MAY_CHANGE
from monai_diffscore.flags import refuse_unknown

PAGE = (ROOT / "docs/TROUBLESHOOTING.md").read_text()
ROWS = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("|") and "---" not in line]
#: what the last column of the tables says to write
REMEDIES = [text for row in ROWS for text in re.findall(r"`([^`]+)`", row[-1])]
FLAGS = [text for text in REMEDIES if re.match(r"--\w+ ", text) and not text.startswith("--config_file")]
FILES = [text for text in REMEDIES if text.startswith("--config_file")]
BUNDLE = ROOT / "bundles/mri_unet3d"


def read(text: str):
    """The value of a flag as a shell and MONAI's command line read it."""
    (_, value) = shlex.split(text)
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def test_the_page_has_remedies_of_each_kind():
    assert len(FLAGS) >= 7
    assert len(FILES) >= 2
    assert sum("python -m monai_diffscore" in text for text in REMEDIES) >= 3


@pytest.mark.parametrize("text", FLAGS)
def test_flags_are_taken(text):
    """By a training, or by work on a folder of cases."""
    files = [["train.json"], ["inference.json", "cases.json"]]
    refused = []
    for names in files:
        try:
            refuse_unknown(
                [str(BUNDLE / "configs" / name) for name in names], {text.split()[0][2:]: read(text)}, [], []
            )
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) < len(files), refused


@pytest.mark.parametrize("text", FILES)
def test_configuration_files_exist_and_merge(text):
    files = [str((BUNDLE / name).resolve()) for name in read(text)]
    refuse_unknown(files, {}, [], [])


def test_commands_of_the_package_run(tmp_path, capsys):
    commands = [text[text.index("python -m monai_diffscore") :] for text in REMEDIES if "-m monai_diffscore" in text]
    for command in set(commands):
        words = command.replace("OUTPUT_DIR", str(tmp_path)).replace("BUNDLE", str(BUNDLE)).split()[3:]
        assert main(words) == 1  # there is no record, and no such id; argparse would exit with 2
    output = capsys.readouterr()
    assert "Expected the record of a training" in output.err
    assert "a#b" in output.out


def test_the_ids_that_may_change_may_change():
    listed = PAGE.partition("These ids may change")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) - {"sampler"} <= MAY_CHANGE
