"""Cells of text files as numbers, codes, limits and dates: each way of writing gives the value, and comes back."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from monai_diffscore.data import infer_schema, read_table, write_table
from monai_diffscore.errors import DataError

ROWS = 60
DRAWS = np.random.default_rng(0)
AMOUNTS = np.round(DRAWS.lognormal(8, 1.2, ROWS), 2)


def read(cells, tmp_path, sep: str = ",", **others) -> pd.DataFrame:
    """The table of a text file with the column x and, beside it, columns of other texts."""
    frame = pd.DataFrame({"x": list(cells), **others})
    (tmp_path / "t.csv").write_text(frame.assign(n=range(len(frame))).to_csv(index=False, sep=sep))
    return read_table(tmp_path / "t.csv")


def european(number: float, point: str = ".") -> str:
    return f"{number:,.2f}".translate({ord(","): point, ord("."): ","})


@pytest.mark.parametrize(
    ("write", "sep"),
    [
        (european, ";"), (lambda x: european(x, "\u00a0"), "\t"), (lambda x: european(x, " "), ";"),
        (lambda x: european(x, "'"), "\t"), (lambda x: f"{x:.2f}".replace(".", ","), ","),
        (lambda x: f"{x:,.2f}", ","), (lambda x: f"{x:,.2f}".replace(",", "\u2019"), ","),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sign", ["-", "\u2212"])
def test_amounts_of_any_country_are_numbers(write, sep, sign, tmp_path):
    signed = AMOUNTS * np.where(np.arange(ROWS) % 3, 1, -1)
    frame = read([write(x).replace("-", sign) for x in signed], tmp_path, sep)
    np.testing.assert_array_equal(frame["x"], signed)


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1,23,456", "2,500", "12,34,567"], [123456, 2500, 1234567]),  # lakhs
        (["1.234.567", "12.345", "538"], [1234567, 12345, 538]),
        (["5.380", "538", "1.204"], [5380, 538, 1204]),
        (["5.38", "538", "1.204"], [5.38, 538, 1.204]),
        (["0.380", "1.538", "1.204"], [0.38, 1.538, 1.204]),
    ],
)
@pytest.mark.parametrize("sep", [",", ";"])
def test_points_and_commas_between_thousands_are_told_from_decimals(cells, numbers, sep, tmp_path):
    assert read(cells * 5, tmp_path, sep)["x"].tolist() == numbers * 5


@pytest.mark.parametrize("cells", [["0.512", "1.234"], ["1.234", "27.5"], ["12.345", "0.5"]])
def test_decimal_points_stay_in_a_table_with_decimal_commas(cells, tmp_path):
    frame = read(cells * 10, tmp_path, ";", y=["27,5", "3,25"] * 10)
    assert frame["x"].tolist() == [float(cell) for cell in cells] * 10
    assert frame["y"].tolist() == [27.5, 3.25] * 10


@pytest.mark.parametrize("low", [115, 16, -300])
def test_numbers_of_any_size_stay_themselves(low, tmp_path):
    written = [f"{x:.3e}" for x in 10.0 ** DRAWS.uniform(low, low + 4, ROWS)]
    frame = read(written, tmp_path)
    schema = infer_schema(frame)
    assert schema.frame(schema.numbers(frame))["x"].tolist() == [float(text) for text in written]


CODES = [
    ["900000000000207008", "900000000000013009", "12345678901234567"],  # SNOMED CT
    [str(2**60 + place) for place in (1, 3, 5)], ["07E2", "12E3", "01E1"], ["0012", "12", "7"],
]  # fmt: skip


@pytest.mark.parametrize("codes", CODES)
def test_codes_that_numbers_would_change_are_text(codes, tmp_path):
    frame = read(codes * 10, tmp_path)
    schema = infer_schema(frame)
    write_table(tmp_path / "back.csv", schema.frame(schema.numbers(frame)))
    assert pd.read_csv(tmp_path / "back.csv", dtype=str)["x"].tolist() == codes * 10


@pytest.mark.parametrize("kind", ["int64", "uint64", "Int64"])
def test_whole_numbers_beyond_float64_are_categories_or_identifiers(kind, tmp_path):
    for count, known in ((3, True), (ROWS, False)):
        values = pd.Series(2**61 + np.resize(np.arange(count), ROWS)).astype(kind)
        pd.DataFrame({"x": values, "n": range(ROWS)}).to_parquet(tmp_path / "t.parquet")
        frame = read_table(tmp_path / "t.parquet")
        if known:
            schema = infer_schema(frame)
            pd.testing.assert_series_equal(schema.frame(schema.numbers(frame))["x"], values, check_names=False)
        else:
            with pytest.raises(DataError, match=r"key 'x'.*identifiers"):
                infer_schema(frame)


@pytest.mark.parametrize("mark", ["na", "None", "none", "n.a.", "\\N", "(null)", "#NV"])
def test_marks_of_other_programs_are_missing_among_numbers_alone(mark, tmp_path):
    frame = read([mark if n % 7 == 0 else str(n / 4) for n in range(ROWS)], tmp_path)
    assert frame["x"].isna().tolist() == [n % 7 == 0 for n in range(ROWS)]
    assert set(read([mark, "yes", "no"] * 10, tmp_path)["x"]) == {mark, "yes", "no"}


@pytest.mark.parametrize(
    ("write", "sep", "limit"),
    [(lambda x: f"{x:,.2f}", ",", ">10,000"), (european, ";", "<0,5"), (lambda x: f"{x:.2f}", ",", "> 1e5")],
)
def test_limits_stand_beside_numbers_of_any_country(write, sep, limit, tmp_path):
    amounts = AMOUNTS[AMOUNTS < 9000]
    frame = read([limit if n % 5 == 0 else write(x) for n, x in enumerate(amounts)], tmp_path, sep)
    schema = infer_schema(frame)
    back = schema.frame(schema.numbers(frame))["x"]
    assert set(back[::5]) == {limit.replace(",", ".") if sep == ";" else limit}
    exact = np.arange(len(amounts)) % 5 > 0
    assert back[exact].astype(float).tolist() == amounts[exact].tolist()


@pytest.mark.parametrize("limits", [["<5"], [">100"], ["<5", ">100"]])
def test_limits_without_a_number_are_categories(limits, tmp_path):
    assert infer_schema(read(limits * 10, tmp_path)).columns[0].categories == tuple(limits)


@pytest.mark.parametrize("limit", ["<5", "< 5", "<=5"])
def test_doses_beside_a_limit_keep_their_levels(limit, tmp_path):
    column = infer_schema(read([limit, "5", "10", "20", "50"] * 12, tmp_path)).columns[0]
    drawn = column.values(column.within(np.linspace(column.low, column.high, 200)))
    assert set(drawn) == {limit, "5", "10", "20", "50"}


@pytest.mark.parametrize("step", [5, 10, 0.25])
def test_rounded_measures_stay_on_their_grid(step):
    levels = 40 + step * np.arange(17)
    column = infer_schema(pd.DataFrame({"dose": np.resize(levels, 170), "n": range(170)})).columns[0]
    assert set(column.within(np.linspace(levels[0], levels[-1], 999))) <= set(levels)


@pytest.mark.parametrize(
    ("form", "ending"),
    [
        ("%Y-%m-%dT%H:%M:%S", ".000Z"), ("%Y-%m-%d %H:%M:%S", "+01:00"), ("%Y-%m-%dT%H:%M:%S", "-0500"),
        ("%d/%m/%Y %H:%M:%S", " UTC"), ("%H:%M:%S", ".000"), ("%m/%d/%Y %I:%M:%S %p", ""), ("%d%b%Y:%H:%M:%S", ""),
        ("%d%b%Y", ""), ("%m-%d-%Y", ""), ("%B %d, %Y", ""), ("%d/%b/%Y", ""), ("%b-%y", ""), ("%Y%m%d%H%M%S", ""),
        ("%Y%m", ""), ("%-d %B %Y", ""), ("%-H:%M:%S", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("letters", [str, str.upper])
def test_dates_of_other_programs_come_back_as_they_were_written(form, ending, letters, tmp_path):
    times = pd.Timestamp("2019-01-13 07:00:00") + pd.to_timedelta(DRAWS.integers(0, 10**8, ROWS), "s")
    written = [letters(time.strftime(form)) + ending for time in times]
    if letters is str.upper and "%B" in form:
        return
    frame = read(written, tmp_path)
    schema = infer_schema(frame)
    assert schema.columns[0].moment is not None
    assert schema.frame(schema.numbers(frame))["x"].tolist() == written
    between = schema.columns[0].within(np.linspace(schema.columns[0].low, schema.columns[0].high, 99))
    plain = pd.Series(schema.columns[0].values(between)).str.removesuffix(ending)
    assert pd.to_datetime(plain, format=form.replace("%-", "%")).notna().all()


@pytest.mark.parametrize("cells", [["3:15 pm", "11:05 am"], ["2:00 pm", "2:30 pm"], ["12:00 am", "1:59 pm"]])
def test_times_with_small_letters_are_times(cells, tmp_path):
    frame = read(cells * 10, tmp_path)
    schema = infer_schema(frame)
    assert schema.columns[0].moment == "%-I:%M %P"
    assert schema.frame(schema.numbers(frame))["x"].tolist() == cells * 10


@pytest.mark.parametrize("numbers", [[201901, 201902, 201912], [190110, 201299], range(200150, 200210)])
def test_other_numbers_of_six_digits_are_no_months(numbers, tmp_path):
    assert infer_schema(read(np.resize(list(numbers), ROWS), tmp_path)).columns[0].moment is None


@pytest.mark.parametrize("text", ["2019-09-11 21:46:32.123456", "11.09.2019 21:46 Uhr", "2019-09-11 7:45:10,5"])
def test_dates_in_no_known_format_are_told_from_free_text(text, tmp_path):
    cells = [text.replace("11", f"{day:02d}") for day in np.resize(np.arange(10, 28), ROWS)]
    with pytest.raises(DataError, match=r"dates or times in one format, got '[^']*'\. Name"):
        infer_schema(read(cells, tmp_path))


# ---- types of Parquet ----

KINDS = {
    "float64": lambda g: g.integers(0, 9, ROWS).astype(float),
    "float64 with gaps": lambda g: np.where(g.random(ROWS) < 0.2, np.nan, g.integers(0, 9, ROWS)),
    "two floats": lambda g: g.choice([0.1, 0.7], ROWS),
    "two float32": lambda g: g.choice([0.1, 0.7], ROWS).astype("float32"),
    "two whole floats": lambda g: g.choice([0.0, 1.0], ROWS),
    "two integers": lambda g: g.choice([0, 1], ROWS),
    "Int64": lambda g: pd.array(g.choice([0, 1, 4, 9, None], ROWS), dtype="Int64"),
    "milliseconds": lambda g: pd.Timestamp("2020-01-01") + pd.to_timedelta(g.integers(0, 10**10, ROWS), "ms"),
    "UTC": lambda g: pd.date_range("2020-03-29", periods=ROWS, freq="37h", tz="UTC"),
    "Berlin": lambda g: pd.date_range("2020-03-01", periods=ROWS, freq="5D", tz="Europe/Berlin"),
    "times": lambda g: pd.Series(pd.date_range("2020-01-01", periods=ROWS, freq="37min")).dt.time,
    "period": lambda g: pd.period_range("2019-11", periods=ROWS, freq="M"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_columns_of_parquet_come_back_in_their_type(kind, tmp_path):
    frame = pd.DataFrame({"x": KINDS[kind](np.random.default_rng(1)), "n": range(ROWS)})
    frame.to_parquet(tmp_path / "t.parquet")
    read_again = read_table(tmp_path / "t.parquet")
    schema = infer_schema(read_again)
    write_table(tmp_path / "back.parquet", schema.frame(schema.numbers(read_again)), synthetic=False)
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "back.parquet"), pd.read_parquet(tmp_path / "t.parquet"), check_freq=False
    )


@pytest.mark.parametrize("cells", [["1.0", "2.0"], ["1.0", "0.0", ""], ["3.0", "4.0", "7.0", "9.0"]])
def test_whole_numbers_with_a_decimal_keep_it(cells, tmp_path):
    frame = read(np.resize(cells, ROWS), tmp_path)
    schema = infer_schema(frame)
    write_table(tmp_path / "back.csv", schema.frame(schema.numbers(frame)), synthetic=False)
    back = pd.read_csv(tmp_path / "back.csv", dtype=str)["x"].fillna("")
    assert back.tolist() == np.resize(cells, ROWS).tolist()


@pytest.mark.parametrize("cells", [["1", "2", ""], ["5", "7", "9", "11", ""], ["1,200", "300", ""]])
def test_whole_numbers_beside_gaps_stay_whole(cells, tmp_path):
    frame = read(np.resize(cells, ROWS), tmp_path)
    schema = infer_schema(frame)
    write_table(tmp_path / "back.csv", schema.frame(schema.numbers(frame)), synthetic=False)
    back = pd.read_csv(tmp_path / "back.csv", dtype=str)["x"].fillna("")
    assert back.tolist() == [cell.replace(",", "") for cell in np.resize(cells, ROWS)]


def test_decimals_of_a_database_are_numbers(tmp_path):
    cells = [Decimal(n) / 4 for n in range(ROWS)]
    pd.DataFrame({"x": cells, "n": 1}).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["x"].tolist() == [n / 4 for n in range(ROWS)]


@pytest.mark.parametrize("cell", [b"a", [1, 2], {"a": 1}])
def test_cells_that_are_no_values_are_refused(cell, tmp_path):
    pd.DataFrame({"x": [cell] * ROWS, "n": range(ROWS)}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"key 'x'.*cells of the type .*--exclude x\."):
        infer_schema(read_table(tmp_path / "t.parquet"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 400, b"age,bmi\n1,2\n"])
def test_a_damaged_parquet_file_is_one_line(content, tmp_path):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="expected a readable Parquet file"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", ["int64", "float64", "str"])
def test_a_category_that_is_a_number_is_known_in_any_type(kind):
    column = infer_schema(pd.DataFrame({"x": [0.5, 1.0] * 30, "n": range(ROWS)})).columns[0]
    assert column.numbers(pd.Series(["1.0" if kind == "str" else 1]).astype(kind), "a request").tolist() == [1]
