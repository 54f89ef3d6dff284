"""Rows, columns and names of tables, as programs and people write them."""

from __future__ import annotations

import csv
import gzip
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from monai_diffscore.__main__ import main
from monai_diffscore.data import infer_schema, read_table
from monai_diffscore.data.doubtful_columns import doubts
from monai_diffscore.errors import DataError

ROWS = 60
DRAWS = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "age": DRAWS.integers(20, 80, ROWS),
        "bmi": DRAWS.normal(27, 4, ROWS).round(1),
        "ward": DRAWS.choice(["east", "west"], ROWS),
    }
)
LINES = FRAME.to_csv(index=False).splitlines()


def read(lines, tmp_path, name: str = "t.csv") -> pd.DataFrame:
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return read_table(tmp_path / name)


def named(names, quote: str = "", header: str | None = None) -> list[str]:
    """The lines with a name before each row, and none in the header."""
    return [header or LINES[0], *(f"{quote}{name}{quote},{line}" for name, line in zip(names, LINES[1:], strict=True))]


@pytest.mark.parametrize(
    ("names", "quote"),
    [
        (DRAWS.permutation(ROWS) + 1, ""),  # sorted or shuffled rows of R
        (DRAWS.permutation(ROWS), ""),
        (DRAWS.choice(5000, ROWS, replace=False), '"'),  # a sample of rows, with R's quotes
        ([f"{n // 3}.{n % 3}" for n in range(ROWS)], '"'),  # drawn with replacement
        (["NA", *(f"NA.{n}" for n in range(1, ROWS))], ""),
    ],
)
def test_names_of_rows_in_any_order_shift_no_column(names, quote, tmp_path):
    pd.testing.assert_frame_equal(read(named(names, quote), tmp_path), FRAME)


@pytest.mark.parametrize("first", ["patient_id", "name", "sample"])
def test_names_of_rows_may_stand_before_identifiers(first, tmp_path):
    with_names = FRAME.assign(**{first: [f"P{n:03d}" for n in range(ROWS)]})[[first, *FRAME]]
    lines = with_names.to_csv(index=False).splitlines()
    numbered = [lines[0], *(f"{n},{line}" for n, line in enumerate(lines[1:], 1))]
    pd.testing.assert_frame_equal(read(numbered, tmp_path), with_names)


@pytest.mark.parametrize("first", ["name", "Surname", "sample", "case_id"])
def test_a_text_cut_in_two_beside_different_names_is_refused(first, tmp_path):
    lines = [f"{first},age,ward", *(f"Doe {n},{n % 9},ward 3,east" for n in range(ROWS))]
    with pytest.raises(DataError, match=r"rows of 3 cells.*4 cells in line 2 and 59 more lines.*Quote text"):
        read(lines, tmp_path)


@pytest.mark.parametrize("empty", [",,", " , ,", '"","",""'])
@pytest.mark.parametrize("place", [1, 30, ROWS + 1])
def test_rows_without_any_cell_are_no_patients(empty, place, tmp_path, caplog):
    caplog.set_level("INFO")
    frame = read([*LINES[:place], empty, empty, *LINES[place:]], tmp_path)
    pd.testing.assert_frame_equal(frame, FRAME)
    assert "2 row(s) without any cell are left out" in caplog.text


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("front", [False, True])
def test_columns_without_name_and_cells_are_none(count, front, tmp_path):
    blank = "," * count
    pd.testing.assert_frame_equal(read([blank + line if front else line + blank for line in LINES], tmp_path), FRAME)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_cells_below_no_name_are_refused_by_place(count, tmp_path):
    lines = [LINES[0] + "," * count, *(line + "," * count + "x" for line in LINES[1:])]
    with pytest.raises(DataError, match=r"names of all columns, got an empty one at place 4 of"):
        read(lines, tmp_path)


@pytest.mark.parametrize("sep", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
def test_a_space_behind_each_delimiter_is_none_of_the_cells(sep, quoting, tmp_path):
    text = FRAME.assign(note=[f"ward {n}{sep} x" for n in range(ROWS)] if quoting else "x")
    lines = text.to_csv(index=False, sep=sep, quoting=quoting).splitlines()
    spaced = [re.sub(f"{sep}(?=[^ ])", f"{sep} ", line) for line in lines]
    pd.testing.assert_frame_equal(read(spaced, tmp_path), text)


@pytest.mark.parametrize("header", ["71,23.0,ward", "20.5,30,east", "40,27,west"])
def test_a_first_row_of_values_is_told(header, tmp_path):
    frame = read([header, *LINES[1:]], tmp_path)
    (doubt,) = doubts(frame, infer_schema(frame))
    assert doubt.startswith("the first row (" + ", ".join(header.split(",")))
    assert doubts(FRAME, infer_schema(FRAME)) == []


@pytest.mark.parametrize("names", [["1", "2", "3"], ["400", "402", "404"], ["2019", "2020", "2021"]])
def test_names_may_be_numbers(names):
    frame = pd.DataFrame({name: DRAWS.integers(1, 6, ROWS) for name in names})
    assert doubts(frame, infer_schema(frame)) == []


@pytest.mark.parametrize("pair", [("Yes", "yes"), ("no", "no "), ("ward 3", "Ward  3")])
def test_categories_that_differ_by_case_or_blanks_are_told(pair):
    frame = FRAME.assign(answer=np.resize([*pair, "other"], ROWS))
    (doubt,) = doubts(frame, infer_schema(frame))
    assert doubt.startswith("answer: " + ", ".join(map(repr, sorted(pair))))
    assert "'other'" not in doubt


# ---- files of other programs, and damaged ones ----


CUT_SHORT = gzip.compress(b"a,b\n1,2\n3,4\n" * 99)[:-9]  # begins with the time of day: no name of a test


@pytest.mark.parametrize("content", [LINES[0].encode(), CUT_SHORT, b""], ids=["text", "cut short", "nothing"])
def test_a_damaged_gzip_file_is_one_line(content, tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"expected a (whole gzip file|table)"):
        read_table(tmp_path / "t.csv.gz")


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.txt"])
def test_a_spreadsheet_with_the_ending_of_text_is_told(start, name, tmp_path):
    (tmp_path / name).write_bytes(start + b"\x14\x00\x06\x00" * 40)
    with pytest.raises(DataError, match=r"a spreadsheet of Excel.*CSV UTF-8"):
        read_table(tmp_path / name)


@pytest.mark.parametrize("ending", ["feather", "dta", "parquet.txt"])
def test_the_command_for_a_table_of_another_program_converts_it(ending, tmp_path, capsys):
    file = tmp_path / f"my table.{ending}"
    {"feather": FRAME.to_feather, "dta": lambda path: FRAME.to_stata(path, write_index=False)}.get(
        ending, lambda path: path.write_text(LINES[0])
    )(file)
    if ending == "parquet.txt":
        with pytest.raises(DataError):
            read_table(file)
        return
    assert main(["plan", str(file), "--out", str(tmp_path / "out"), "--no-trial"]) == 1
    command = shlex.split(re.search(r"(python -c .*)", capsys.readouterr().err)[1])
    exec(command[2].replace("sys.argv[1]", repr(command[3])).replace("sys.argv[2]", repr(command[4])))
    assert read_table(command[4])["age"].tolist() == FRAME["age"].tolist()


@pytest.mark.parametrize(("name", "words"), [("t.xlsx", "openpyxl"), ("t.sav", "pyreadstat"), ("t.zip", "Unpack")])
def test_other_endings_have_their_remedy(name, words, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / name)
    assert main(["plan", str(tmp_path / name), "--out", str(tmp_path / "out"), "--no-trial"]) == 1
    assert words in capsys.readouterr().err


# ---- names of columns in flags ----

ODD_NAMES = [
    "Sex, at birth", "a,b", " lead", "trail ", "-log10p", "$ income", "it's", 'say "x"', "new\nline", "@risk",
    "% fat", "#1", "a=b", "\U0001f600", "TRUE",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_advice_on_a_column_of_any_name_leaves_it_out(name, tmp_path, capsys):
    frame = FRAME.assign(**{name: [f"free text {n}" for n in range(ROWS)]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    plan = ["plan", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), "--no-trial"]
    assert main(plan) == 1
    advice = re.search(r"(--exclude.*?)\.\n", capsys.readouterr().err, re.DOTALL)[1]
    assert main([*plan, *shlex.split(advice)]) == 0
    assert [c.name for c in infer_schema(read_table(tmp_path / "t.csv"), exclude=[name]).columns] == list(FRAME)


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        ("a,b,age", ["a,b", "age"]), ("age, a,b", ["age", "a,b"]), ("Sex, at birth,bmi", ["Sex, at birth", "bmi"]),
        (["a,b"], ["a,b"]), ("x,y", ["x", "y"]), (" x , y ", ["x", "y"]), ("trail ", ["trail "]), ("age ", ["age"]),
    ],
)  # fmt: skip
def test_flags_name_columns_with_commas_and_blanks(flag, names):
    frame = pd.DataFrame({name: DRAWS.normal(size=9) for name in ("a,b", "age", "bmi", "Sex, at birth", "x", "y",
                                                                  "x,y", "trail ", "rest")})  # fmt: skip
    assert infer_schema(frame, exclude=flag).exclude == tuple(names)
