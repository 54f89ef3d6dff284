"""``cases``: what the command prints, writes, and takes back."""

from __future__ import annotations

import re

import case_folders
import pytest

from monai_diffscore.__main__ import main
from monai_diffscore.data.cases import list_cases


def test_the_command_prints_layout_roles_masks_and_reasons(tmp_path, capsys):
    case_folders.bids(tmp_path)
    assert main(["cases", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    assert "layout bids; 2 subjects, 4 sessions, 12 images" in page
    assert "images: t1_acq-high (4), t1_acq-low (4), t2 (4)" in page
    assert "masks: lesion-mask (4)" in page
    assert "left out: 4 x func: time series" in page
    assert "choose: --image ROLE" in page


def test_the_written_table_is_edited_and_given_back(tmp_path, capsys):
    root = tmp_path / "data"
    case_folders.brats(root)
    table = tmp_path / "cases.csv"
    assert main(["cases", str(root), "--write", str(table)]) == 0
    table.write_text(table.read_text().replace("BraTS20_Training_001,", "first,"))
    capsys.readouterr()
    assert main(["cases", str(table), "--image", "t1,flair"]) == 0
    assert "--image t1,flair: 2 images of 2 subjects" in capsys.readouterr().out
    assert list_cases(table).subjects == ["BraTS20_Training_002", "first"]


def test_who_is_held_out_and_what_leaks_are_printed_on_request(tmp_path, capsys):
    case_folders.folders_of_visits(tmp_path)
    assert main(["cases", str(tmp_path), "--validation-share", "0.5"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"held out: Patient[12] \(2 of 4 images\)", page)
    assert "leaks: none" in page


@pytest.mark.parametrize(
    ("flags", "cause"),
    [
        (["--image", "pet"], "the roles t1"),
        (["--layout", "x"], "one of auto, nnunet"),
        (["--subject", "zz"], "match 'zz'"),
    ],
)
def test_what_is_not_there_is_one_line_with_what_is(tmp_path, capsys, flags, cause):
    case_folders.folders_of_visits(tmp_path)
    assert main(["cases", str(tmp_path), *flags]) == 1
    error = capsys.readouterr().err
    assert cause in error
    assert error.count("\n") == 1
