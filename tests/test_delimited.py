"""Tables as R, pandas, spreadsheets and hospitals write them: each cell in its column, and back as it came."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import re
import shlex

import numpy as np
import pandas as pd
import pytest

from monai_diffscore.__main__ import main
from monai_diffscore.data import infer_schema, read_table, write_table
from monai_diffscore.data.doubtful_columns import doubts
from monai_diffscore.errors import DataError

ROWS = 60


def patients(seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    return pd.DataFrame(
        {"age": g.integers(18, 90, ROWS), "bmi": g.normal(27, 4, ROWS).round(1), "sex": g.choice(["F", "M"], ROWS)}
    )


def read(text: str | bytes, tmp_path, name: str = "t.csv", **options) -> pd.DataFrame:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(tmp_path / name, **options)


def r_table(frame: pd.DataFrame, names, sep: str = ",", quote: bool = False) -> str:
    """What R's write.table writes: a name less than cells."""
    mark = '"' if quote else ""
    lines = [sep.join(f"{mark}{name}{mark}" for name in frame)]
    for name, row in zip(names, frame.itertuples(index=False), strict=True):
        cells = [f"{mark}{cell}{mark}" if isinstance(cell, str) else str(cell) for cell in row]
        lines.append(sep.join([f"{mark}{name}{mark}", *cells]))
    return "\n".join(lines) + "\n"


# ---- names of rows, delimiters, encodings ----


@pytest.mark.parametrize(
    "names", [range(1, ROWS + 1), range(3, 3 + 2 * ROWS, 2), [f"patient {n}" for n in range(ROWS)]]
)
@pytest.mark.parametrize(
    ("sep", "name", "quote"), [(",", "t.csv", False), (" ", "t.txt", True), ("\t", "t.tsv", False)]
)
def test_rs_names_of_rows_shift_no_column(names, sep, name, quote, tmp_path):
    pd.testing.assert_frame_equal(read(r_table(patients(), names, sep, quote), tmp_path, name), patients())


@pytest.mark.parametrize("index", [None, [f"p{n}" for n in range(ROWS)], range(100, 100 + ROWS)])
@pytest.mark.parametrize("name", ["", "Unnamed: 0"])  # pandas' own name of an empty one
def test_an_empty_first_name_is_of_the_rows(index, name, tmp_path):
    frame = patients() if index is None else patients().set_axis(index)
    pd.testing.assert_frame_equal(read(frame.rename_axis(name).to_csv(), tmp_path), patients())


@pytest.mark.parametrize(
    "row", ["50,21.6,F,ward 3, east", "61,20.1,M,a,b", "{n},20.1,M,ward 3, east"], ids=["all", "any", "rising"]
)
def test_a_cell_too_many_is_refused_by_its_line(row, tmp_path):
    lines = ["age,bmi,sex,ward", *(row.replace("{n}", str(n)) for n in range(20, 40))]
    with pytest.raises(DataError, match=r"rows of 4 cells.*5 cells in line 2.*Quote"):
        read("\n".join(lines), tmp_path)


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
def test_two_cells_too_many_do_not_hide_the_delimiter(sep, tmp_path):
    lines = patients().to_csv(index=False, sep=sep).splitlines()
    with pytest.raises(DataError, match=r"rows of 3 cells.*5 cells in line 2 .*Quote"):
        read("\n".join([lines[0], *(f"{line}{sep}a{sep}b" for line in lines[1:])]), tmp_path)


@pytest.mark.parametrize("line", [2, 31, ROWS + 1])
@pytest.mark.parametrize("change", [lambda text: text + ",9", lambda text: text.rsplit(",", 1)[0]])
def test_one_row_of_another_length_is_refused_by_its_line(line, change, tmp_path):
    lines = patients().to_csv(index=False).splitlines()
    lines[line - 1] = change(lines[line - 1])
    with pytest.raises(DataError, match=rf"rows of 3 cells.*cells in line {line}:"):
        read("\n".join(lines), tmp_path)


def test_a_delimiter_at_the_end_of_each_row_is_no_cell(tmp_path):
    lines = patients().to_csv(index=False).splitlines()
    pd.testing.assert_frame_equal(read("\n".join([lines[0], *(f"{x}," for x in lines[1:])]), tmp_path), patients())


@pytest.mark.parametrize(("sep", "name"), [(";", "t.csv"), ("\t", "t.tsv"), (";", "t.txt"), ("|", "t.csv")])
@pytest.mark.parametrize("decimal", [".", ","])
def test_delimiters_and_decimal_commas_are_detected(sep, name, decimal, tmp_path):
    pd.testing.assert_frame_equal(
        read(patients().to_csv(index=False, sep=sep, decimal=decimal), tmp_path, name), patients()
    )


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_encodings_are_read(encoding, ends, tmp_path):
    frame = patients().assign(site=["Köln", "Málaga", "Århus"] * (ROWS // 3))
    text = frame.to_csv(index=False, quoting=csv.QUOTE_ALL, lineterminator=ends)
    assert read(text.encode(encoding), tmp_path)["site"].tolist() == frame["site"].tolist()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_an_assumed_encoding_is_told_once_however_often_a_command_reads_the_file(name, tmp_path, caplog):
    text = patients().assign(site="Köln").to_csv(index=False, sep="\t" if "tsv" in name else ",").encode("latin-1")
    content = gzip.compress(text) if name.endswith("gz") else text
    for _ in range(3):
        assert set(read(content, tmp_path, name)["site"]) == {"Köln"}
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / name} is not in UTF-8: read as Windows-1252 (Latin)"
    ]


@pytest.mark.parametrize("content", ["", "\n\n", "   \n"])
def test_an_empty_file_is_one_line(content, tmp_path):
    with pytest.raises(DataError, match="an empty file"):
        read(content, tmp_path)


def test_a_folder_with_one_table_is_that_table(tmp_path):
    patients().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "notes.md").touch()
    pd.testing.assert_frame_equal(read_table(tmp_path), patients())
    patients().to_csv(tmp_path / "u.tsv", index=False, sep="\t")
    with pytest.raises(DataError, match=r"one table.*t\.csv, u\.tsv"):
        read_table(tmp_path)


# ---- values ----


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (['"7,000"', '"12,500"', "900"], [7000, 12500, 900]),
        (['"1,234,567.5"', "3", '"2,000"'], [1234567.5, 3, 2000]),
        (["7 000", "12 500", "1 000 000"], [7000, 12500, 1000000]),
        (["7'000", "12'500.5", "9"], [7000, 12500.5, 9]),
        ([".5", "1.", "-2e3"], [0.5, 1, -2000]),
    ],
)
def test_separators_of_thousands_are_no_text(cells, numbers, tmp_path):
    lines = [f"{cell},{n}" for n, cell in enumerate(cells)]
    assert read("\n".join(["cost,n", *lines]), tmp_path)["cost"].tolist() == numbers


@pytest.mark.parametrize(
    ("cells", "numbers"), [(["7.000", "12.500,5", "1,5"], [7000, 12500.5, 1.5]), (["0,5", "7,25", "3"], [0.5, 7.25, 3])]
)
def test_numbers_of_european_spreadsheets(cells, numbers, tmp_path):
    assert read("\n".join(["cost;n", *(f"{cell};1" for cell in cells)]), tmp_path)["cost"].tolist() == numbers


@pytest.mark.parametrize("first", [0.125, 0.5, 0.999])
def test_three_decimals_below_one_are_no_thousands(first, tmp_path):
    numbers = [first, *(n + 0.125 for n in range(1, ROWS))]
    cells = [f"{number:.3f}".replace(".", ",") for number in numbers]
    frame = read("\n".join(["k\tbmi", *(f"{cell}\t{n + 0.5}" for n, cell in enumerate(cells))]), tmp_path, "t.tsv")
    assert frame["k"].tolist() == numbers
    assert frame["bmi"].tolist() == [n + 0.5 for n in range(ROWS)], "points beside commas keep their fractions"


@pytest.mark.parametrize("sep", [";", ",", "\t", "|"])
def test_the_line_with_excels_delimiter_is_no_row(sep, tmp_path):
    text = f"sep={sep}\r\n" + patients().to_csv(index=False, sep=sep)
    pd.testing.assert_frame_equal(read(text, tmp_path), patients())


@pytest.mark.parametrize("flag", ["tab", "\\t", "\t"])
def test_a_tabulator_may_be_named(flag, tmp_path):
    pd.testing.assert_frame_equal(read(patients().to_csv(index=False, sep="\t"), tmp_path, delimiter=flag), patients())


@pytest.mark.parametrize("flag", ["';'", ",,", "comma"])
def test_a_delimiter_is_one_character(flag, tmp_path):
    with pytest.raises(DataError, match="one character, or tab, got"):
        read(patients().to_csv(index=False), tmp_path, delimiter=flag)


@pytest.mark.parametrize("place", [0, 40, 300])
def test_a_file_with_zero_bytes_is_refused(place, tmp_path):
    content = patients().to_csv(index=False).encode()
    with pytest.raises(DataError, match=f"a zero byte at place {place}"):
        read(content[:place] + b"\0\0" + content[place:], tmp_path)
    with pytest.raises(DataError, match="or in UTF-16"):
        read(content.decode().encode("utf-16-le"), tmp_path)


@pytest.mark.parametrize("codes", [["007", "012", "101"], ["02139", "10001", "00501"], ["00", "01", "10"]])
def test_codes_keep_their_zeros(codes, tmp_path):
    frame = read(pd.DataFrame({"code": codes * 20, "n": range(60)}).to_csv(index=False), tmp_path)
    schema = infer_schema(frame)
    assert schema.columns[0].categories == tuple(sorted(codes))
    assert schema.frame(schema.numbers(frame))["code"].tolist() == codes * 20


@pytest.mark.parametrize("mark", [".", "#N/A", "-", "?", "NA", "", "#DIV/0!"])
def test_usual_marks_among_numbers_are_missing(mark, tmp_path):
    values = [mark if n % 7 == 0 else str(n / 4) for n in range(ROWS)]
    column = read(pd.DataFrame({"lab": values, "n": range(ROWS)}).to_csv(index=False), tmp_path)["lab"]
    assert column.isna().tolist() == [n % 7 == 0 for n in range(ROWS)]
    assert column.dropna().tolist() == [n / 4 for n in range(ROWS) if n % 7]


@pytest.mark.parametrize("mark", ["-99", "unknown", "not done"])
def test_other_marks_are_missing_if_they_are_named(mark, tmp_path):
    text = "lab,n\n" + "\n".join(f"{mark if n % 7 == 0 else n / 4},1" for n in range(ROWS))
    assert read(text, tmp_path, missing=mark)["lab"].isna().sum() == 9
    if mark != "-99":
        with pytest.raises(DataError, match=r"--missing.*--exclude lab\."):
            infer_schema(read(text, tmp_path))


def test_plus_and_minus_are_answers(tmp_path):
    frame = read("test,n\n" + "\n".join(f"{'+-'[n % 2]},{n}" for n in range(20)), tmp_path)
    assert infer_schema(frame).columns[0].categories == ("+", "-")


@pytest.mark.parametrize(
    ("limit", "number", "values"),
    [("<5", 4, range(5, 40)), (">100", 101, range(0, 90)), ("< 0.5", 0.4, [0.5, 1.2, 3.7])],
)
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_censored_values_keep_their_limit(limit, number, values, share, tmp_path):
    g = np.random.default_rng(0)
    cells = np.where(g.random(200) < share, limit, g.choice(list(values), 200).astype(str))
    frame = read(pd.DataFrame({"crp": cells, "n": range(200)}).to_csv(index=False), tmp_path)
    schema = infer_schema(frame)
    numbers = schema.numbers(frame)
    assert set(numbers[cells == limit, 0]) == {number}
    assert schema.frame(numbers)["crp"].tolist() == cells.tolist()


@pytest.mark.parametrize("cells", [["<5", "<10", "7"], ["<5", "3", "9"], [">5", ">9", "4"]])
def test_limits_that_contradict_are_refused(cells, tmp_path):
    text = "crp,n\n" + "\n".join(f"{cell},1" for cell in cells * 10)
    with pytest.raises(DataError, match=r"key 'crp'.*limit.*--exclude crp\."):
        infer_schema(read(text, tmp_path))


MOMENTS = {
    "%Y-%m-%d": "D", "%d.%m.%Y": "D", "%m/%d/%Y": "D", "%d-%b-%Y": "D", "%H:%M": "min", "%H:%M:%S": "s",
    "%Y-%m-%d %H:%M": "min", "%Y-%m-%dT%H:%M:%S": "s", "%d/%m/%Y %H:%M": "min",
    "%-d.%-m.%Y": "D", "%-m/%-d/%Y": "D", "%-I:%M %p": "min", "%-H:%M": "min",
    "%Y%m%d": "D", "%d-%b-%y": "D", "%b %d, %Y": "D", "%Y-%m-%dT%H:%M:%SZ": "s", "%Y/%m/%d %H:%M": "min",
    "%-m/%-d/%Y %-I:%M %p": "min",
}  # fmt: skip


@pytest.mark.parametrize("form", MOMENTS)
@pytest.mark.parametrize("few", [True, False])
def test_dates_and_times_are_numbers_and_come_back_as_they_were_written(form, few, tmp_path):
    g = np.random.default_rng(0)
    start = pd.Timestamp("2024-01-13 07:00:00")
    times = start + pd.to_timedelta(g.integers(0, 5 if few else 3000, ROWS), MOMENTS[form])
    written = [time.strftime(form) for time in times]
    frame = read(pd.DataFrame({"when": written, "n": range(ROWS)}).to_csv(index=False), tmp_path)
    schema = infer_schema(frame)
    numbers = schema.numbers(frame)
    unit = pd.Timedelta(1, MOMENTS[form])
    np.testing.assert_array_equal(np.diff(numbers[:, 0]) % (86400 / unit.total_seconds()),
                                  np.diff(times) / unit % (86400 / unit.total_seconds()))  # fmt: skip
    assert schema.frame(numbers)["when"].tolist() == written
    between = schema.columns[0].within(np.array([numbers[:, 0].min() + 0.4, numbers[:, 0].max() + 9]))
    assert schema.columns[0].values(between)[1] == max(
        written, key=lambda text: datetime.datetime.strptime(text, form.replace("%-", "%"))
    )


@pytest.mark.parametrize("form", ["%Y-%m", "%m/%Y", "%b %Y"])
def test_months_come_back_and_draws_between_are_months(form, tmp_path):
    days = pd.Timestamp("2019-11-17") + pd.to_timedelta(np.random.default_rng(0).integers(0, 3000, ROWS), "D")
    written = [day.strftime(form) for day in days]
    frame = read(pd.DataFrame({"when": written, "n": 1}).to_csv(index=False), tmp_path)
    schema = infer_schema(frame)
    numbers = schema.numbers(frame)
    firsts = np.array([day.replace(day=1) for day in days], dtype="datetime64[D]")
    np.testing.assert_array_equal(numbers[:, 0], firsts.astype(float))
    assert schema.frame(numbers)["when"].tolist() == written
    later = schema.columns[0].within(np.minimum(numbers[:, 0] + 27.4, numbers[:, 0].max()))
    assert schema.columns[0].values(later).tolist() == written


@pytest.mark.parametrize("kind", ["int64", "int32", "str"])
def test_days_in_eight_digits_of_parquet_are_dates(kind, tmp_path):
    days = pd.Timestamp("2023-12-01") + pd.to_timedelta(np.arange(ROWS), "D")
    frame = pd.DataFrame({"when": days.strftime("%Y%m%d").astype(kind), "n": 1})
    frame.to_parquet(tmp_path / "t.parquet")
    schema = infer_schema(read_table(tmp_path / "t.parquet"))
    numbers = schema.numbers(frame)
    assert np.diff(numbers[:, 0]).tolist() == [1] * (ROWS - 1), "December 31 is a day before January 1"
    assert schema.frame(numbers)["when"].astype(str).tolist() == frame["when"].astype(str).tolist()


@pytest.mark.parametrize("other", ["unknown", "2024-13-45", "03/07/2024", "in spring", "7:45"])
def test_dates_beside_other_text_are_refused_with_both(other, tmp_path):
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(ROWS) % 20, "D")
    cells = [other if n % 9 == 4 else str(day.date()) for n, day in enumerate(days)]
    frame = read(pd.DataFrame({"when": cells, "n": 1}).to_csv(index=False), tmp_path)
    with pytest.raises(DataError, match=rf"in one format, got '2024-01-01' beside '{other}'.*--missing"):
        infer_schema(frame)
    assert len(infer_schema(frame, categorical="when").columns[0].categories) == 21


@pytest.mark.parametrize("form", ["{}%", "${}", "{} mg", "€ {}", "~{}", "{} mmol/l"])
def test_numbers_with_a_unit_are_told_from_free_text(form):
    frame = patients().assign(dose=[form.format(n / 4) for n in range(ROWS)])
    with pytest.raises(DataError, match=r"numbers with other text, such as .*the unit into the name"):
        infer_schema(frame)


@pytest.mark.parametrize("form", ["{} weeks after", "S{}", "ward {} b", "x-{}"])
def test_names_with_numbers_are_identifiers_or_free_text(form):
    with pytest.raises(DataError, match=r"identifiers, or free text|numbers with other text, such as '0 weeks"):
        infer_schema(patients().assign(place=[form.format(n) for n in range(ROWS)]))


@pytest.mark.parametrize("levels", [(0.5, 1, 2), (10, 20, 50, 100), (0, 2.5, 7.5)])
def test_numbers_of_few_levels_keep_them(levels):
    g = np.random.default_rng(0)
    schema = infer_schema(pd.DataFrame({"dose": g.choice(levels, ROWS), "n": np.arange(ROWS)}))
    drawn = schema.columns[0].within(g.uniform(min(levels), max(levels), 500))
    assert set(drawn) == set(map(float, levels))


def test_counts_without_a_value_keep_it():
    schema = infer_schema(pd.DataFrame({"visits": [0, 1, 2, 3, 4, 6] * 10, "n": np.arange(ROWS)}))
    assert schema.columns[0].within(np.array([5.2]))[0] == 5


@pytest.mark.parametrize(
    "name", ["patient_id", "MRN", "subject", "Record ID", "sample_no", "ID_patient", "USUBJID", "eid"]
)
@pytest.mark.parametrize("ids", [np.arange(100001, 100001 + ROWS), np.arange(ROWS) // 2])
def test_identifiers_are_no_columns(name, ids):
    frame = patients().assign(**{name: ids})
    word = re.escape(shlex.quote(name))
    with pytest.raises(DataError, match=rf"no identifier.*--subject {word}\..*--exclude {word}\."):
        infer_schema(frame)
    assert [column.name for column in infer_schema(frame, subject=name).columns] == ["age", "bmi", "sex"]
    assert [column.name for column in infer_schema(frame, exclude=name).columns] == ["age", "bmi", "sex"]


@pytest.mark.parametrize("name", ["width", "fluid", "patient_age", "visits", "cohort"])
def test_measures_are_no_identifiers(name):
    assert len(infer_schema(patients().assign(**{name: np.arange(ROWS)})).columns) == 4


NUMBERS = np.random.default_rng(3)
CODES = {
    "-999": NUMBERS.normal(5, 1, 200).round(1), "-9": NUMBERS.integers(0, 5, 200), "99": NUMBERS.integers(0, 12, 200),
    "9999": NUMBERS.integers(90, 180, 200), "-1": NUMBERS.normal(120, 10, 200).round(),
    "9": NUMBERS.integers(1, 4, 200), "777": NUMBERS.integers(0, 31, 200), "-88": NUMBERS.integers(0, 500, 200),
    "999.0": NUMBERS.normal(40, 9, 200).round(1),
}  # fmt: skip


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_codes_of_missing_values_are_told_with_the_flag_that_takes_them(code, ending, tmp_path):
    values = np.where(np.arange(200) % 11 == 3, float(code), CODES[code])
    frame = pd.DataFrame({"lab": values, "sex": ["F", "M"] * 100})
    write_table(tmp_path / f"t.{ending}", frame, synthetic=False)
    real = read_table(tmp_path / f"t.{ending}")
    (doubt,) = doubts(real, infer_schema(real))
    assert doubt.startswith(f"lab: {float(code):g} stands in 18 of 200 rows")
    mark = re.search(r"--missing=(\S+) makes", doubt)[1]
    taken = read_table(tmp_path / f"t.{ending}", missing=mark)
    assert taken["lab"].isna().sum() == 18
    assert taken["lab"].dropna().tolist() == CODES[code][np.arange(200) % 11 != 3].tolist()
    assert doubts(taken, infer_schema(taken)) == []


def test_a_code_that_is_a_value_elsewhere_is_no_mark_for_the_whole_table():
    frame = pd.DataFrame({"crp": [99, 99, *range(12)] * 10, "age": [*range(86, 100)] * 10})
    assert re.fullmatch(
        r"crp: 99 .* empty these cells, because 99 is a value of age, too\.", *doubts(frame, infer_schema(frame))
    )


@pytest.mark.parametrize(
    "values",
    [
        [-1, 0, 1] * 30, [*range(20, 100)] * 2, [-9, -8, 0, 4] * 30, [0, 1, 2, 7] * 30, [1, 5, 6, 9] * 30,
        [-99.0, *NUMBERS.normal(0, 60, 80)], [9999, *range(100, 180)], [-999, -990, -985, 20] * 20,
    ],
)  # fmt: skip
def test_values_near_others_are_no_codes(values):
    frame = pd.DataFrame({"score": values, "sex": (["F", "M"] * len(values))[: len(values)]})
    assert doubts(frame, infer_schema(frame)) == []


@pytest.mark.parametrize("name", ["X", "nr", "hosp", "probe"])
@pytest.mark.parametrize(
    "numbers",
    [
        NUMBERS.permutation(ROWS) + 1, np.cumsum(NUMBERS.integers(1, 9, ROWS)),
        NUMBERS.choice(9 * 10**6, ROWS, False) + 10**6,
    ],
)  # fmt: skip
def test_numbers_of_rows_are_told_under_any_name(name, numbers):
    frame = patients().assign(**{name: numbers})
    (doubt,) = doubts(frame, infer_schema(frame))
    assert doubt.startswith(f"{name}: each row has another whole number ({numbers.min()} to {numbers.max()})")
    assert doubts(frame, infer_schema(frame, exclude=re.search(r"--exclude (\S+)", doubt)[1])) == []
    assert doubts(frame, infer_schema(frame, subject=name)) == []


@pytest.mark.parametrize("numbers", [NUMBERS.integers(1000, 99000, ROWS), NUMBERS.normal(size=ROWS), [5, 6] * 30])
def test_measures_are_no_numbers_of_rows(numbers):
    frame = patients().assign(cost=numbers)
    assert doubts(frame, infer_schema(frame)) == []


SAID = {
    "not in UTF-8": lambda: patients().assign(site=["Köln", "Bern"] * 30).to_csv(index=False).encode("latin-1"),
    "holds the names of the rows": lambda: patients().to_csv().encode(),
    "--missing=-99 makes it so": lambda: patients().assign(crp=[-99, 1, 2, 3, 4] * 12).to_csv(index=False).encode(),
    "--exclude X leaves them out": lambda: patients().assign(X=range(ROWS)).to_csv(index=False).encode(),
}


@pytest.mark.parametrize("text", SAID)
def test_a_plan_says_once_what_its_reader_noticed(text, tmp_path, capsys):
    (tmp_path / "t.csv").write_bytes(SAID[text]())
    assert main(["plan", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), "--no-trial"]) == 0
    assert capsys.readouterr().err.count(text) == 1


@pytest.mark.parametrize("exclude", ["bmi,sex", ["bmi", "sex"], ("bmi", "sex"), "bmi, sex"])
def test_excluded_columns_have_one_syntax(exclude):
    assert [column.name for column in infer_schema(patients().assign(n=1), exclude=exclude).columns] == ["age", "n"]


# ---- types ----


def test_types_of_parquet_come_back(tmp_path):
    g = np.random.default_rng(0)
    frame = patients().assign(
        stage=pd.Categorical(g.choice(["I", "II"], ROWS), ["0", "I", "II"], ordered=True),
        plain=pd.Categorical(g.choice(["x", "y"], ROWS)),
        small=g.integers(0, 90, ROWS).astype("int8"),
        single=g.normal(size=ROWS).astype("float32"),
        flag=pd.array(np.where(g.random(ROWS) < 0.2, None, g.random(ROWS) < 0.5), dtype="boolean"),
        gaps=pd.array(np.where(g.random(ROWS) < 0.2, None, g.integers(0, 90, ROWS)), dtype="Int64"),
        when=pd.Timestamp("2024-01-01") + pd.to_timedelta(g.integers(0, 900, ROWS), "min"),
        stay=pd.to_timedelta(g.integers(0, 90, ROWS), "D"),
        day=[datetime.date(2024, 1, 1 + n % 28) for n in range(ROWS)],
        yes=g.random(ROWS) < 0.5,
    )
    frame.to_parquet(tmp_path / "t.parquet")
    real = read_table(tmp_path / "t.parquet")
    schema = infer_schema(real)
    assert schema == type(schema).from_dict(schema.as_dict())
    write_table(tmp_path / "made.parquet", schema.frame(schema.numbers(real)), synthetic=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "made.parquet"), real)


@pytest.mark.parametrize("answers", [("TRUE", "FALSE"), ("True", "False"), ("yes", "no"), ("T", "F"), ("1", "0")])
def test_answers_are_written_as_they_came(answers, tmp_path):
    text = pd.DataFrame({"dead": [answers[n % 2] for n in range(20)], "n": range(20)}).to_csv(index=False)
    frame = read(text, tmp_path)
    schema = infer_schema(frame)
    write_table(tmp_path / "made.csv", schema.frame(schema.numbers(frame)), synthetic=False)
    assert (tmp_path / "made.csv").read_text() == text


@pytest.mark.parametrize("taken", [["synthetic"], ["synthetic", "synthetic_"], []])
def test_a_column_may_be_called_synthetic(taken, tmp_path):
    frame = patients().assign(**dict.fromkeys(taken, "no"))
    write_table(tmp_path / "t.csv", frame)
    generated = pd.read_csv(io.StringIO((tmp_path / "t.csv").read_text()))
    assert generated.iloc[:, 0].all()
    pd.testing.assert_frame_equal(generated.iloc[:, 1:], frame)
