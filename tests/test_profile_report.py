"""The report of cells and tables: privacy stated first, what it reads, what it writes, and that a browser opens it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import check_page
from pictures import check_picture
from scipy import sparse
from test_profiles import cells

from monai_diffscore.__main__ import main
from monai_diffscore.errors import DataError
from monai_diffscore.metrics import Profiles
from monai_diffscore.metrics.baselines import counts_of
from monai_diffscore.report import (
    ProfileFields,
    find_profiles,
    gather_profiles,
    gather_run_profiles,
    match_profiles,
    only_profiles,
)
from monai_diffscore.report.card import BEGIN, END
from monai_diffscore.report.runs import RunRecord

anndata = pytest.importorskip("anndata")


def write_cells(path: Path, profiles: Profiles) -> Path:
    """An .h5ad file with counts, types and totals."""
    counts, totals = counts_of(profiles)
    obs = pd.DataFrame({"kind": profiles.labels, "total": totals}, index=[f"cell_{n}" for n in range(len(profiles))])
    data = anndata.AnnData(
        sparse.csr_matrix(profiles.dense.astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=[f"gene_{g}" for g in range(counts.shape[1])]),
        layers={"counts": sparse.csr_matrix(counts.astype(np.int32))},
    )
    data.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Files of training and held-out cells, of fresh ones, and of copies."""
    root = tmp_path_factory.mktemp("cells")
    train = cells(120, 2)
    for name, profiles in {"train": train, "test": cells(90, 1), "fresh": cells(90, 3)}.items():
        write_cells(root / f"{name}.h5ad", profiles)
    write_cells(root / "copies.h5ad", train.rows(np.arange(90)))
    return root


def command(folder: Path, samples: str, out: Path, *more: str) -> list[str]:
    real = [str(folder / "train.h5ad"), str(folder / "test.h5ad")]
    where = ["--synthetic", str(folder / samples), "--out", str(out), "--label-key", "kind", "--total-key", "total"]
    return ["report", "--real", *real, *where, "--draws", "8", *more]


@pytest.fixture(scope="module")
def copies_report(folder) -> Path:
    """The report of a model that copies, with the card of it."""
    docs = folder / "docs"
    docs.mkdir()
    (docs / "README.md").write_text("# Model\n")
    assert main(command(folder, "copies.h5ad", folder / "out", "--card", str(docs), "--title", "a & b")) == 0
    return folder / "out"


def test_a_failed_gate_stands_first_and_strikes_the_rest_through(copies_report):
    record = json.loads((copies_report / "report.json").read_text())
    assert list(record)[:2] == ["title", "privacy_gate"]
    assert not record["privacy_gate"]["passed"]
    assert record["metrics_valid"] is False
    html = (copies_report / "report.html").read_text()
    lead = re.search(r'<p class="lead">(.*?)</p>', html)
    assert lead is not None
    assert lead[1].startswith("Privacy gate FAILED")
    assert html.index("<h2>Privacy gate</h2>") < html.index("<h2>Verdict</h2>")
    verdict = html[html.index("<h2>Verdict</h2>") : html.index("<h2>Maps</h2>")]
    models = re.findall(r'<td class="[^"]*"[^>]*><s>', verdict)
    metrics = [name for name in record["metrics"] if name not in ("dcr_ratio", "nearest_train_share")]
    assert len(models) >= len(metrics)
    assert 'class="model good"' not in verdict


def test_the_record_holds_every_metric_of_model_floor_and_baselines(copies_report):
    record = json.loads((copies_report / "report.json").read_text())
    assert record["left_out"] == {}
    assert len(record["metrics"]) == 19
    for name, metric in record["metrics"].items():
        counted = name in ("zero_mae", "library_ks")  # SMOTE and PCA + GMM make no counts
        assert {"model", "real", "negative binomial", "Gaussian copula", "copies"} <= set(metric["sets"])
        assert ("SMOTE copies" in metric["sets"]) is not counted
        for estimate in metric["sets"].values():
            assert estimate["low"] <= estimate["value"] + 1e-9
            assert estimate["value"] <= estimate["high"] + 1e-9
            assert 0 < estimate["count"] <= 90
        assert metric["blind_to"][:30] in (copies_report / "report.html").read_text()
    assert set(record["by_type"]) == {"B", "NK", "T"}
    assert record["by_type"]["B"]["dcr_ratio"]["model"] == pytest.approx(0, abs=1e-6)
    assert record["by_type"]["B"]["dcr_ratio"]["real"] == pytest.approx(1, abs=0.3)
    assert not record["privacy_gates_of_baselines"]["SMOTE copies"]["passed"]


def test_the_page_is_one_file_that_fetches_nothing(copies_report):
    html = (copies_report / "report.html").read_text()
    assert "<title>a &amp; b</title>" in html
    assert "<script" not in html
    sources = re.findall(r'(?:src|href)="([^"#]*)', html) + re.findall(r"url\(([^#)][^)]*)", html)
    assert all(source.startswith("data:") or source == "" for source in sources)
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))


def test_the_card_says_that_the_gate_failed_and_strikes_numbers_through(copies_report):
    text = (copies_report.parent / "docs/README.md").read_text()
    assert text.startswith("# Model\n")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "**Privacy gate FAILED" in text
    assert re.search(r"\| C2ST, random forest \(.*?\) \| ~~[\d.]+ \[.*?\]~~ \|", text)
    check_picture(copies_report.parent / "docs/panel.png")


@pytest.mark.slow
def test_fresh_cells_pass_and_look_real(folder, tmp_path):
    assert main(command(folder, "fresh.h5ad", tmp_path)) == 0
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["privacy_gate"]["passed"]
    beyond = [name for name, metric in record["metrics"].items() if metric["beyond_floor"]["model"]]
    assert len(beyond) <= 6  # each is a test at 5 %, of a floor of few draws, and they are not independent
    baseline = record["metrics"]["corr_rmse"]["sets"]
    assert baseline["model"]["value"] < baseline["negative binomial"]["value"]


@pytest.mark.slow
def test_a_browser_opens_the_page_without_a_complaint(copies_report, tmp_path):
    check_page(copies_report / "report.html", tmp_path)


def patients(count: int, seed: int) -> pd.DataFrame:
    """A clinical table: numbers, whole numbers, categories, missing values."""
    random = np.random.default_rng(seed)
    sick = random.uniform(size=count) < 0.4
    age = random.normal(50 + 10 * sick, 12).round()
    marker = np.exp(random.normal(1 + sick, 0.5))
    marker[random.uniform(size=count) < 0.1] = np.nan
    sex = random.choice(["f", "m"], count)
    return pd.DataFrame({"age": age, "marker": marker, "sex": sex, "outcome": np.where(sick, "sick", "well")})


@pytest.fixture
def tables(tmp_path) -> Path:
    for name, seed in (("train", 0), ("test", 1), ("fresh", 2)):
        patients(120, seed).to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def read_tables(folder: Path, label: str | None = "outcome"):
    names = (folder / f"{name}.csv" for name in ("fresh", "train", "test"))
    synthetic, train, test = names
    return gather_profiles([synthetic], train, test, ProfileFields(label, content=None))


def test_a_table_without_labels_leaves_out_what_needs_labels_and_counts(tables):
    for name in ("train", "test", "fresh"):
        patients(60, len(name)).to_csv(tables / f"{name}.csv", index=False)
    arguments = ["report", "--real", str(tables / "train.csv"), str(tables / "test.csv"), "--synthetic"]
    assert main([*arguments, str(tables / "fresh.csv"), "--draws", "4", "--out", str(tables / "out")]) == 0
    record = json.loads((tables / "out/report.json").read_text())
    assert {"c2st_rf", "column_ks", "corr_rmse", "dcr_ratio"} <= set(record["metrics"])
    assert not {"zero_mae", "rho_mean", "tstr_f1", "marker_slope"} & set(record["metrics"])
    assert "labels" in record["left_out"]["TSTR F1"]
    assert "counts" in record["left_out"]["Share of zeros"]
    assert record["by_type"] == {}
    assert "negative binomial" not in record["metrics"]["c2st_rf"]["sets"]
    assert "Left out: " in (tables / "out/report.html").read_text()


def test_columns_of_a_table_become_numbers_by_the_training_rows(tables):
    material = read_tables(tables)
    names = material.train.names
    assert names == ("age", "marker", "marker missing", "sex=f", "sex=m")
    train = pd.read_csv(tables / "train.csv")
    np.testing.assert_allclose(material.train.dense[:, 0], (train.age - train.age.median()) / train.age.std(ddof=0))
    assert material.train.dense[:, 2].sum() == train.marker.isna().sum()
    assert material.train.dense[train.marker.isna(), 1].tolist() == [0.0] * int(train.marker.isna().sum())
    np.testing.assert_array_equal(material.train.dense[:, 3:].sum(1), 1)
    assert (np.unique(material.synthetic.labels, return_counts=True)[1] <= 120).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.assign(age="old"), "key 'age'.*finite numbers"),
        (lambda t: t.rename(columns={"sex": "gender"}), "1 missing: gender"),
        (lambda t: t.drop(columns="outcome"), "a column 'outcome'"),
        (lambda t: t.iloc[:5], "16 or more"),
        (lambda t: t.assign(marker=np.inf), "key 'marker'"),
    ],
)
def test_tables_that_do_not_fit_are_one_line(tables, spoil, message):
    spoil(pd.read_csv(tables / "fresh.csv")).to_csv(tables / "fresh.csv", index=False)
    with pytest.raises(DataError, match=message):
        read_tables(tables)


def test_a_label_that_is_a_number_is_a_column(tables):
    for name in ("train", "test", "fresh"):
        table = pd.read_csv(tables / f"{name}.csv")
        table.assign(response=np.arange(len(table)) / 7).to_csv(tables / f"{name}.csv", index=False)
    material = read_tables(tables, "response")
    assert material.train.labels is None
    assert "response" in material.train.names
    assert "compared as a column" in material.warnings[0]


def test_columns_that_were_not_generated_are_named(tables):
    pd.read_csv(tables / "fresh.csv").drop(columns="sex").to_csv(tables / "fresh.csv", index=False)
    material = read_tables(tables)
    assert material.warnings[0] == "Columns that were not generated: sex."
    assert material.real.names == material.synthetic.names == ("age", "marker", "marker missing")


def test_a_column_of_names_is_refused(tables):
    for name in ("train", "test", "fresh"):
        table = pd.read_csv(tables / f"{name}.csv")
        table.assign(name=[f"patient {n}" for n in range(len(table))]).to_csv(tables / f"{name}.csv", index=False)
    with pytest.raises(DataError, match=r"key 'name'.*few values"):
        read_tables(tables)


def test_continuous_values_are_no_counts_without_the_flag(folder, tmp_path):
    data = anndata.read_h5ad(folder / "test.h5ad")
    del data.layers["counts"]
    data.write_h5ad(tmp_path / "log.h5ad")
    files = [tmp_path / "log.h5ad"] * 3
    with pytest.raises(DataError, match="raw counts"):
        gather_profiles([files[0]], files[1], files[2], ProfileFields("kind"))
    material = gather_profiles([files[0]], files[1], files[2], ProfileFields("kind", content="continuous"))
    assert material.real.library is None


def test_real_rows_come_from_the_record_of_a_training(folder, tables):
    config = {
        "label_key": None,
        "fields": {"_target_": "monai_diffscore.data.GeneFields", "label": "@label_key", "total": "total"},
        "dataset_dir": str(folder / "train.h5ad"),
        "expression": {"_target_": "monai_diffscore.data.Expression", "source": "@dataset_dir", "fields": "@fields"},
        "cases": "$(list(range(80)), list(range(80, 120)))",
    }
    record = RunRecord("uri", "id", "run", {}, config)
    material = gather_run_profiles(record, [folder / "fresh.h5ad"], ProfileFields("kind"))
    assert (len(material.train), len(material.real), len(material.synthetic)) == (80, 40, 40)
    assert material.facts["types"] == "3"
    frames = f"$tuple(pandas.read_csv(f'{tables}/{{name}}.csv') for name in ('train', 'test'))"
    config = {"imports": ["$import pandas"], "cases": frames, "label_key": "outcome"}
    record = RunRecord("uri", "id", "run", {}, config)
    material = gather_run_profiles(record, [tables / "fresh.csv"], ProfileFields(content=None))
    assert material.table
    assert len(material.train) == 120
    with pytest.raises(DataError, match="--real TRAIN TEST"):
        gather_run_profiles(RunRecord("uri", "id", "run", {}, {}), [tables / "fresh.csv"], ProfileFields())


def test_types_are_compared_in_the_numbers_of_the_held_out_rows():
    material = match_profiles(cells(60, 0), cells(45, 1).rows(np.arange(30)), cells(90, 2).rows(np.arange(0, 90, 2)))
    for part in (material.real, material.synthetic):
        assert np.unique(part.labels, return_counts=True)[1].tolist() == [10, 10, 10]
    adata = cells(90, 2)
    short = match_profiles(cells(60, 0), cells(45, 1), adata.rows(np.flatnonzero(adata.labels != "B")[:50]))
    assert "B 0 of 15" in short.warnings[0]


def test_a_report_of_generated_files_asks_for_real_ones(folder, tmp_path, capsys):
    (tmp_path / "samples").mkdir()
    shutil.copy(folder / "fresh.h5ad", tmp_path / "samples/cells.h5ad")
    assert find_profiles(tmp_path) == [tmp_path / "samples/cells.h5ad"]
    assert main(["report", str(tmp_path)]) == 1
    assert "--real TRAIN TEST" in capsys.readouterr().err
    assert main(["report"]) == 1
    assert "--synthetic" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_rows_of_an_array_are_a_table_and_one_of_two_files_of_a_name_is_read(tmp_path):
    random = np.random.default_rng(0)
    rows = random.normal(size=(3, 60, 2)).astype(np.float32)
    for name, part in zip(("train", "test", "samples"), rows, strict=True):
        np.save(tmp_path / f"{name}.npy", part)
    real = ["--real", str(tmp_path / "train.npy"), str(tmp_path / "test.npy")]
    out = tmp_path / "out"
    command = ["report", str(tmp_path / "samples.npy"), *real, "--draws", "4", "--out", str(out)]
    assert main(command) == 0
    record = json.loads((out / "report.json").read_text())
    assert "60 synthetic with 60 held-out rows" in str(record["compared"])
    assert "corr_r" not in record["metrics"]  # the pattern of one correlation
    (tmp_path / "many").mkdir()
    pd.DataFrame(rows[0]).to_csv(tmp_path / "many/profiles.csv")
    (tmp_path / "many/profiles.h5ad").touch()
    np.save(tmp_path / "many/images.npy", np.zeros((2, 1, 8, 8)))
    assert find_profiles(tmp_path / "many") == [tmp_path / "many/profiles.h5ad"]


def write_10x(folder: Path, counts: np.ndarray) -> Path:
    """A folder of 10x, written line by line."""
    folder.mkdir(parents=True)
    genes, places = counts.shape[1], np.argwhere(counts)
    (folder / "genes.tsv").write_text("".join(f"ENSG{n}\tG{n}\n" for n in range(genes)))
    (folder / "barcodes.tsv").write_text("".join(f"c{n}-1\n" for n in range(len(counts))))
    lines = [f"{gene + 1} {cell + 1} {counts[cell, gene]}" for cell, gene in places]
    head = ["%%MatrixMarket matrix coordinate integer general", f"{genes} {len(counts)} {len(places)}"]
    (folder / "matrix.mtx").write_text("\n".join([*head, *lines]) + "\n")
    return folder


def write_set(kind: str, folder: Path, seed: int) -> Path:
    """A folder with one file of a kind, and the file (for 10x the folder itself)."""
    g = np.random.default_rng(seed)
    counts = g.poisson(g.gamma(2, 1, 12), (60, 12))
    if kind.startswith("10x"):
        inside = write_10x(folder / "outs", counts)
        return inside if kind == "10x" else inside / "matrix.mtx"
    folder.mkdir(parents=True)
    if kind == "table":
        frame = pd.DataFrame({"a b": g.normal(size=60).round(2), "c": g.choice(list("xy"), 60)})
        frame.to_csv(folder / "t.csv", index=False)
        return folder / "t.csv"
    var = pd.DataFrame(index=[f"G{n}" for n in range(12)])
    anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), var=var).write_h5ad(folder / "x.h5ad")
    return folder / "x.h5ad"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h5ad", "table", "10x", "10x matrix"])
def test_a_folder_with_one_file_is_reported_as_the_file(kind, tmp_path):
    files = [write_set(kind, tmp_path / name, seed) for seed, name in enumerate(("train", "test", "made"))]
    records = []
    for number, (train, test, made) in enumerate([files, [tmp_path / name for name in ("train", "test", "made")]]):
        out = tmp_path / f"out{number}"
        where = ["--real", str(train), str(test), "--synthetic", str(made), "--out", str(out)]
        assert main(["report", *where, "--draws", "5", "--title", "t"]) == 0
        records.append(json.loads((out / "report.json").read_text()))
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["privacy_gate"] == records[1]["privacy_gate"]


def test_a_folder_with_several_files_is_refused_by_name(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x\n1\n")
    with pytest.raises(DataError, match=r"one file of cells.*got a.csv, b.csv. Give the path"):
        only_profiles(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got none"):
        only_profiles(tmp_path / "empty")
    assert only_profiles(tmp_path / "a.csv") == tmp_path / "a.csv"
