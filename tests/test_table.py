"""Tables: schema inferred, edited and kept; columns to vectors and exactly back; types, ranges and missing rates."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import kstest
from sklearn.preprocessing import QuantileTransformer

from monai_diffscore import samples
from monai_diffscore.data import (
    DitheredRows,
    ResumableLoader,
    find_schema,
    incomplete_rows,
    infer_schema,
    read_table,
    split_table,
    table_rows,
    write_table,
)
from monai_diffscore.data.loader import scattered_uniforms
from monai_diffscore.errors import DataError
from monai_diffscore.transforms import (
    Column,
    EncodeTable,
    EncodeTabled,
    TableEncoding,
    TableSchema,
    measure_encoding,
)


def clinical(count: int = 300, seed: int = 0) -> pd.DataFrame:
    """Every kind of column: whole numbers, a spike at zero, decimals with gaps, codes, answers, names with gaps."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": generator.integers(20, 90, count),
            "crp": np.where(generator.random(count) < 0.4, 0, generator.lognormal(size=count).round(2)),
            "bmi": generator.normal(27, 4, count).round(1),
            "ratio": generator.normal(size=count),
            "sex": generator.choice(["f", "m"], count),
            "stage": generator.choice(["I", "II", "III", "IV"], count, p=[0.5, 0.3, 0.15, 0.05]),
            "smoker": generator.random(count) < 0.2,
            "code": generator.choice([0.0, 1.0], count),
            "constant": "yes",
            "patient": np.arange(count) // 3,
            "outcome": generator.choice(["dead", "alive"], count),
        }
    )
    frame.loc[::7, "bmi"] = np.nan
    frame.loc[::5, "stage"] = None
    frame.loc[::11, "code"] = np.nan
    return frame


@pytest.fixture
def schema() -> TableSchema:
    return infer_schema(clinical(), "outcome", subject="patient")


# ---- schema ----


def test_kinds_ranges_and_missing_rates_are_inferred(schema):
    kinds = {column.name: (column.kind, column.type) for column in schema.columns}
    assert kinds == {
        "age": ("integer", "text"),
        "crp": ("continuous", "text"),
        "bmi": ("continuous", "text"),
        "ratio": ("continuous", "text"),
        "sex": ("categorical", "text"),
        "stage": ("categorical", "text"),
        "smoker": ("categorical", "boolean"),
        "code": ("categorical", "integer"),
        "constant": ("categorical", "text"),
        "outcome": ("categorical", "text"),
    }
    frame = clinical()
    columns = {column.name: column for column in schema.columns}
    assert (columns["crp"].decimals, columns["bmi"].decimals, columns["ratio"].decimals) == (2, 1, None)
    assert (columns["age"].low, columns["age"].high) == (frame["age"].min(), frame["age"].max())
    assert columns["stage"].missing == frame["stage"].isna().mean()
    assert columns["code"].categories == ("0", "1")  # not "0.0", which pandas makes of them for the gaps
    text = schema.describe()
    assert "stage     categorical  I " in text
    assert "; missing 20.0%" in text
    assert "outcome   categorical  alive" in text
    assert "<- label" in text
    assert "subject: patient" in text


def test_a_schema_comes_back_from_its_file_and_takes_edits(schema, tmp_path):
    path = tmp_path / "schema.json"
    schema.save(path)
    assert TableSchema.load(path) == schema
    content = json.loads(path.read_text())
    (age,) = (column for column in content["columns"] if column["name"] == "age")
    assert "categories" not in age  # a column shows what its kind has
    age["high"] = 120
    path.write_text(json.dumps(content))
    edited = find_schema(clinical(), path)
    older = clinical().assign(age=110)
    assert edited.numbers(older)[0, 0] == 110
    with pytest.raises(DataError, match=r"age.*numbers from 20 to 89.*300 others, the first in row 0: .*110"):
        schema.numbers(older)
    for change, reason in (
        ({"kind": "ordinal"}, "a kind among"),
        ({"low": 200}, "low <= high"),
        ({"colour": 1}, "colour"),
        ({"name": "sex"}, "different names"),
    ):
        path.write_text(json.dumps({**content, "columns": [{**age, **change}, *content["columns"][1:]]}))
        with pytest.raises(DataError, match=reason):
            TableSchema.load(path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([None] * 30, "expected values, got none"),
        ([f"id{n}" for n in range(30)], "identifiers, or free text.*subject"),
        (["1.5"] * 20 + ["high"] * 10, "10 cells of text, such as 'high'"),
        ([np.inf] + [1.5, 2.5, 3.5] * 9 + [1, 2], "1 infinite"),
    ],
)
def test_what_cannot_be_told_is_refused(values, reason):
    frame = pd.DataFrame({"odd": values, "fine": np.arange(30)})
    with pytest.raises(DataError, match=rf"key 'odd'.*{reason}.*"):
        infer_schema(frame)
    assert [column.name for column in infer_schema(frame, exclude=["odd"]).columns] == ["fine"]


def test_other_tables_are_held_against_the_schema(schema):
    with pytest.raises(DataError, match=r"2 missing: age, sex; there are crp"):
        schema.numbers(clinical().drop(columns=["age", "sex"]))
    with pytest.raises(DataError, match=r"key 'sex'.*one of \['f', 'm'\].*1 others, the first in row 4: 'x'"):
        schema.numbers(clinical().assign(sex=["f"] * 4 + ["x"] + ["m"] * 295))
    with pytest.raises(DataError, match=r"key 'age'.*a value in each row.*row 0"):
        schema.numbers(clinical().assign(age=None))
    with pytest.raises(DataError, match=r"key 'age'.*row 0: 'old'"):
        schema.numbers(clinical().assign(age="old"))
    with pytest.raises(DataError, match="whole numbers"):
        schema.numbers(clinical().assign(age=30.5))
    with pytest.raises(DataError, match="a column 'death'"):
        infer_schema(clinical(), "death")


# ---- files ----


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_tables_come_back_from_their_files(schema, tmp_path, ending):
    truth = clinical()
    numbers, label = schema.numbers(truth), schema.label_numbers(truth)
    path = tmp_path / f"table.{ending}"
    write_table(path, schema.frame(numbers, label), {"seed": 3})
    read = read_table(path)
    assert read.pop("synthetic").all()
    np.testing.assert_array_equal(schema.numbers(read), numbers)
    np.testing.assert_array_equal(schema.label_numbers(read), label)
    for name in read:  # whole numbers, answers and codes look as they did
        pd.testing.assert_series_equal(
            read[name].astype(object).where(read[name].notna(), None),
            truth[name].astype(object).where(truth[name].notna(), None),
            check_dtype=False,
        )
    if ending == "parquet":
        from pyarrow import parquet

        assert json.loads(parquet.read_schema(path).metadata[b"monai_diffscore"])["seed"] == 3
    else:
        assert json.loads((tmp_path / "table.provenance.json").read_text()) == {"seed": 3}
        assert not any(
            ".0" in line.split("," if ending == "csv" else "\t")[1] for line in path.read_text().splitlines()
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,a\n1,2\n1,2\n", "each column once"),
        ("a,\n1,2\n1,2\n", "names of all columns"),
        ("ab\n12\n12\n", "names of two or more columns.*--delimiter"),
        ("a,b\n1,2\n1,2,3,4\n", "rows of 2 cells"),
        ("a,b\n", "at least 2, got 0"),
        ("", "an empty file"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, text, reason):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_table(tmp_path / "table.csv")


def test_an_answer_called_none_is_an_answer(tmp_path):
    (tmp_path / "table.csv").write_text("allergy,age\nNone,1\nNA,2\n,3\npollen,4\n")
    assert read_table(tmp_path / "table.csv")["allergy"].tolist()[0] == "None"
    assert read_table(tmp_path / "table.csv")["allergy"].isna().tolist() == [False, True, True, False]


def test_subjects_stay_on_one_side_and_labels_keep_their_shares(schema):
    train, held_out = split_table(clinical(), schema, 0.3)
    assert not set(train["patient"]) & set(held_out["patient"])
    assert len(train) + len(held_out) == 300
    by_label = infer_schema(clinical().drop(columns="patient"), "outcome")
    train, held_out = split_table(clinical(), by_label, 0.3)
    assert len(held_out) == 90
    shares = [part["outcome"].eq("dead").mean() for part in (train, held_out)]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)


def test_the_sample_tables_have_names():
    frame = read_table(samples.breast_cancer())
    assert frame.shape == (569, 31)
    assert frame["diagnosis"].value_counts().to_dict() == {"benign": 357, "malignant": 212}
    schema = infer_schema(read_table(samples.diabetes()), "progression")
    kinds = {column.name: column.kind for column in schema.columns}
    assert (kinds["sex"], kinds["age"], kinds["bmi"], len(kinds)) == ("categorical", "integer", "continuous", 11)
    assert schema.condition["attached"]["label"][0] == pytest.approx(152.13, abs=0.01)


# ---- encoding ----


@pytest.mark.parametrize("scaling", ["quantile", "standard"])
@pytest.mark.parametrize("codes", ["onehot", "bits"])
@pytest.mark.parametrize("quantiles", [7, 1000])
def test_rows_come_back_exactly(schema, scaling, codes, quantiles):
    """Bit for bit where decimals are known, also from any draw inside a tie; float32's seven digits elsewhere."""
    numbers = schema.numbers(clinical())
    encoding = measure_encoding(schema, numbers[:200], None, scaling, codes, quantiles)
    encoding = TableEncoding.from_dict(json.loads(json.dumps(encoding.as_dict())))
    transform = EncodeTable(encoding)
    vectors = transform(numbers)
    assert vectors.shape == (300, encoding.size)
    free = [column.name for column in schema.features].index("ratio")
    encoded = [vectors, DitheredRows(clinical(), encoding).batch(range(300), seed=0)["image"].numpy()]
    generator = np.random.default_rng(0)
    for _ in range(3):
        encoded.append(
            encoding.sample_interval(encoding.bounds(numbers), generator.random(encoding.size)).astype(np.float32)
        )
    for image in encoded:
        back = transform.inverse(image).numpy()
        expected = numbers[: len(back)].copy()
        np.testing.assert_allclose(back[:, free], expected[:, free], rtol=1e-5, atol=1e-6)
        back[:, free] = expected[:, free] = 0
        np.testing.assert_array_equal(back, expected)
    dictionary = EncodeTabled("image", encoding)
    item = dictionary.inverse(dictionary({"image": numbers[3]}))
    np.testing.assert_allclose(item["image"], numbers[3], rtol=1e-5)


def test_drawn_within_ties_every_number_is_normal():
    """Also a spike at zero and whole numbers; the middle of the tie is not."""
    frame = pd.DataFrame({"crp": clinical(1000)["crp"], "few": np.random.default_rng(1).poisson(1.2, 1000)})
    schema = infer_schema(frame)
    numbers = schema.numbers(frame)
    encoding = measure_encoding(schema, numbers, quantiles=1000)
    ends = encoding.bounds(numbers)
    draws = encoding.sample_interval(ends, np.random.default_rng(0).random((1000, encoding.size)))
    middles = encoding.sample_interval(ends)
    for axis in range(2):
        assert kstest(draws[:, axis], "norm").pvalue > 0.01
        assert kstest(middles[:, axis], "norm").pvalue < 1e-6


def test_the_distribution_function_is_that_of_scikit_learn():
    values = np.random.default_rng(0).lognormal(size=(150, 1)).round(6)
    frame = pd.DataFrame({"v": values[:, 0], "w": np.arange(150)})
    schema = infer_schema(frame)
    encoding = measure_encoding(schema, schema.numbers(frame), quantiles=150)
    levels = QuantileTransformer(n_quantiles=150, subsample=None).fit_transform(values)[:, 0]
    from scipy.special import ndtr

    quantiles = (ndtr(encoding.encode(schema.numbers(frame))[:, 0]) * 150 - 0.5) / 149
    np.testing.assert_allclose(quantiles, levels, atol=1e-7)


def test_any_vector_becomes_a_row_that_could_be_one(schema):
    """A wild one too: whole numbers whole, known categories, in range; the file of it fits the schema."""
    numbers = schema.numbers(clinical())
    encoding = measure_encoding(schema, numbers)
    wild = 3 * torch.randn(5000, encoding.size, generator=torch.Generator().manual_seed(0))
    values = EncodeTable(encoding).inverse(wild).numpy()
    frame = schema.frame(values)
    np.testing.assert_array_equal(schema.numbers(frame), values)  # raises for whatever the schema does not allow
    assert set(frame["stage"].dropna()) == {"I", "II", "III", "IV"}
    assert frame["age"].notna().all()


def test_missing_rates_are_kept_by_a_perfect_generator():
    """Rows drawn from the training vectors with noise have gaps where the data has them."""
    frame = clinical(3000)
    schema = infer_schema(frame, "outcome", subject="patient")
    numbers = schema.numbers(frame)
    encoding = measure_encoding(schema, numbers)
    generator = np.random.default_rng(0)
    vectors = encoding.encode(numbers)[generator.integers(0, 3000, 20000)]
    decoded = encoding.decode(vectors + 0.1 * generator.normal(size=vectors.shape))
    for place, column in enumerate(schema.features):
        assert np.isnan(decoded[:, place]).mean() == pytest.approx(np.isnan(numbers[:, place]).mean(), abs=0.01), column


def test_vectors_have_zero_mean_and_sigma_data_of_the_training_rows():
    frame = clinical(2000)
    schema = infer_schema(frame, "outcome", subject="patient")
    numbers = schema.numbers(frame)
    encoding = measure_encoding(schema, numbers[:1000])
    vectors = encoding.encode(numbers[:1000])
    assert encoding.sigma_data == pytest.approx(vectors.std(), rel=1e-3)
    assert encoding.sigma_data != pytest.approx(encoding.encode(numbers[1000:]).std(), rel=1e-5)
    assert np.abs(vectors.mean(0)).max() < 0.12
    assert 0.7 < encoding.sigma_data <= 1.02


def test_what_is_to_be_imputed_is_unknown_and_present(schema):
    numbers = schema.numbers(clinical())
    encoding = measure_encoding(schema, numbers)
    stage = [column.name for column in schema.features].index("stage")
    place, missing = encoding.places[stage]
    unknown, final = encoding.encode(numbers, unknown=True), encoding.encode(numbers)
    assert np.isnan(unknown[0, place]).all()  # row 0 lacks it
    assert encoding.decode(np.nan_to_num(unknown))[0, stage] >= 0
    assert np.isnan(encoding.decode(final)[0, stage])
    assert unknown[0, missing] == unknown[1, missing] != final[0, missing]


@pytest.mark.parametrize(
    ("column", "value", "end"),
    [("age", 130, "high"), ("age", -3, "low"), ("bmi", 99.5, "high"), ("crp", 1e6, "high"), ("ratio", -50.0, "low")],
)
def test_one_row_with_a_number_beyond_the_training_rows_is_imputed_with_a_warning(schema, column, value, end, caplog):
    encoding = measure_encoding(schema, schema.numbers(clinical()), schema.label_numbers(clinical()))
    frame = clinical().iloc[1:2].assign(**{column: value, "sex": None})
    with caplog.at_level("WARNING"):
        (row,) = incomplete_rows(frame, encoding, source="patients.csv")
    assert f"patients.csv: 1 number(s) of the column {column!r} lie beyond the training rows" in caplog.text
    place = [feature.name for feature in schema.features].index(column)
    assert row["truth"][place] == value
    limits = frame.assign(**{column: getattr(schema.features[place], end)})
    caplog.clear()
    (inside,) = incomplete_rows(limits, encoding)
    assert caplog.text == ""
    torch.testing.assert_close(row["image"], inside["image"], rtol=0, atol=0)
    assert row["observed"].tolist() == inside["observed"].tolist()


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_request_may_have_one_row_and_a_training_not(ending, tmp_path):
    path = tmp_path / f"row.{ending}"
    write_table(path, clinical().iloc[:1], synthetic=False)
    assert len(read_table(path, fewest=1)) == 1
    with pytest.raises(DataError, match="expected rows, at least 2, got 1"):
        read_table(path)


def test_labels_are_drawn_as_often_as_they_are_there():
    frame = clinical(1000)
    schema = infer_schema(frame, "outcome", subject="patient")
    encoding = measure_encoding(schema, schema.numbers(frame), schema.label_numbers(frame))
    drawn = np.array(encoding.draw_labels(20000))
    assert drawn.mean() == pytest.approx(schema.label_column.shares[1], abs=0.015)
    assert encoding.draw_labels(2, "dead") == [1, 1]
    for count in (1, 7, 40, 333):  # not a binomial draw: as near as whole rows come, whatever the seed
        dead = [sum(encoding.draw_labels(count, seed=seed)) for seed in range(20)]
        assert np.abs(np.array(dead) - count * schema.label_column.shares[1]).max() < 1
    with pytest.raises(DataError, match=r"one of \['alive', 'dead'\].*'ill'"):
        encoding.draw_labels(2, "ill")
    numeric = infer_schema(frame, "age", exclude=["outcome", "patient"])
    encoding = measure_encoding(numeric, numeric.numbers(frame), numeric.label_numbers(frame))
    drawn = np.array(encoding.draw_labels(20000))
    assert drawn.mean() == pytest.approx(frame["age"].mean(), abs=1)
    assert (drawn == np.rint(drawn)).all()
    ages = np.sort(encoding.draw_labels(50, seed=3))  # one of each fiftieth of the ages
    low, high = np.quantile(frame["age"], [np.arange(50) / 50, np.arange(1, 51) / 50], method="nearest")
    assert (ages >= low - 1).all()  # of 100 quantiles, rounded
    assert (ages <= high + 1).all()
    rows = table_rows(frame, encoding)
    assert rows[5]["label"] == frame["age"][5]
    assert rows[5]["image"].shape == (encoding.size,)
    batch = DitheredRows(frame, encoding).batch([5, 0], seed=0)
    assert batch["image"].shape == (2, encoding.size)
    assert batch["label"].tolist() == [frame["age"][5], frame["age"][0]]
    assert batch["name"] == ["5", "0"]


def test_a_visit_of_a_row_has_its_own_draw_in_any_batch():
    """With workers or without, from the first batch of an epoch or a later one; another epoch draws anew."""
    frame = clinical()
    schema = infer_schema(frame, "outcome", exclude=["patient"])
    encoding = measure_encoding(schema, schema.numbers(frame))
    rows = DitheredRows(frame, encoding, fewest=700)
    assert len(rows) == 900
    visits = rows.batch([7, 307, 607], seed=1)
    assert torch.equal(rows.batch([307], seed=1)["image"][0], visits["image"][1])
    assert len(visits["image"].unique(dim=0)) == 3, "three visits of one row"
    epochs = [list(ResumableLoader(rows, batch_size=64, seed=3, num_workers=workers)) for workers in (0, 1)]
    assert len(epochs[0]) == 14
    for plain, forked in zip(*epochs, strict=True):
        assert torch.equal(plain["image"], forked["image"])
        assert plain["name"] == forked["name"]
    loader = ResumableLoader(rows, batch_size=64, seed=3)
    loader.start_at(1, 13)
    assert torch.equal(next(iter(loader))["image"], epochs[0][13]["image"])
    loader.start_at(2)
    assert not torch.equal(next(iter(loader))["image"], epochs[0][0]["image"])


def test_the_draws_of_visits_are_uniform_and_independent():
    """400,000 numbers: Kolmogorov-Smirnov, and correlations of neighbours within five standard errors of 0."""
    numbers = scattered_uniforms(12345, np.arange(20000), 20)
    assert kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    others = [numbers[:, 1:], scattered_uniforms(12346, np.arange(20000), 20)[:, :-1]]
    for pair in [(numbers[:, :-1], others[0]), (numbers[1:], numbers[:-1]), (numbers[:, :-1], others[1])]:
        first, second = (part.ravel() for part in pair)
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / len(first) ** 0.5


def test_a_column_is_refused_that_makes_no_sense():
    with pytest.raises(ValueError, match="different categories"):
        Column("a", "categorical", categories=("x", "x"), shares=(0.5, 0.5))
    with pytest.raises(ValueError, match="low <= high"):
        Column("a", "continuous", low=2, high=1, mean=0, std=1)


# ---- tails ----

TAILS = {
    "log-normal 0.5": lambda g, n: g.lognormal(3, 0.5, n),
    "log-normal 1": lambda g, n: g.lognormal(0, 1, n),
    "log-normal 1.5": lambda g, n: g.lognormal(10, 1.5, n).round(2),
    "log-normal 2": lambda g, n: g.lognormal(5, 2, n),
    "losses": lambda g, n: -g.lognormal(10, 1.5, n).round(2),
    "both ways": lambda g, n: 100 + g.choice([-1, 1], n) * g.lognormal(3, 1.5, n),
    "Pareto": lambda g, n: g.pareto(2.2, n),
    "mostly zero": lambda g, n: np.where(g.random(n) < 0.7, 0, g.lognormal(3, 1.8, n)).round(2),
    "counts": lambda g, n: np.floor(g.lognormal(1, 2, n)),
}


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("count", [1000, 5000, 50_000])
def test_normal_draws_come_back_with_the_mean_and_spread_of_the_rows(name, count):
    """Evenly spaced quantiles alone have 1.4 to 9 times the mean of log-normal values."""
    values = TAILS[name](np.random.default_rng(count), count)
    frame = pd.DataFrame({"v": values, "w": np.arange(count) % 7})
    schema = infer_schema(frame)
    encoding = measure_encoding(schema, schema.numbers(frame))
    z = np.random.default_rng(1).permutation(ndtri((np.arange(200_000) + 0.5) / 200_000))
    decoded = encoding.decode(np.stack([z, np.zeros_like(z)], 1))[:, 0]
    assert decoded.mean() == pytest.approx(values.mean(), rel=0.1, abs=0.02 * values.std())
    assert decoded.std() == pytest.approx(values.std(), rel=0.1)
    back = encoding.decode(encoding.encode(schema.numbers(frame)))[:, 0]
    np.testing.assert_allclose(back, values, rtol=1e-9)
    assert TableEncoding.from_dict(json.loads(json.dumps(encoding.as_dict()))) == encoding


def test_a_label_with_a_heavy_tail_is_drawn_with_its_mean():
    values = np.random.default_rng(0).lognormal(8, 1.5, 3000)
    frame = pd.DataFrame({"income": values, "w": np.arange(3000) % 7})
    schema = infer_schema(frame, "income")
    encoding = measure_encoding(schema, schema.numbers(frame), schema.label_numbers(frame))
    drawn = np.array(encoding.draw_labels(100_000))
    assert drawn.mean() == pytest.approx(values.mean(), rel=0.1)
    assert drawn.std() == pytest.approx(values.std(), rel=0.1)


def test_columns_without_heavy_tails_keep_evenly_spaced_quantiles():
    """The encoding of the shipped table is fixed: published weights depend on it."""
    frame = read_table(samples.breast_cancer())
    schema = infer_schema(frame, "diagnosis")
    train, _ = split_table(frame, schema, 0.2, 0)
    encoding = measure_encoding(schema, schema.numbers(train), schema.label_numbers(train))
    assert not any(encoding.levels)
    values = train["mean radius"].to_numpy()
    even = np.quantile(values, np.linspace(0, 1, 100), method="nearest")
    np.testing.assert_array_equal(encoding.nodes[list(train).index("mean radius")], even)
