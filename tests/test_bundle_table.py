"""The bundle of tables: gaps, scores, a training on all rows, an edited schema."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from samples_of_bundles import check_table
from small_data import clinical, write_dataset
from workflows import (
    IN_THE_SECOND_BATCH,
    interrupt,
    workflow,
)

from monai_diffscore.command_line import last_lines
from monai_diffscore.data import read_table


@pytest.mark.parametrize("bundle", ["tabular_mlp"])
def test_tables_are_completed_and_scored(bundle, dataset, tmp_path):
    """It fills gaps, also in a column without gaps in training; present values stay; a label may be missing."""
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    workflow(bundle, ["train"], ["smoke"], label="outcome", **where).run()
    patients = clinical().drop(columns="outcome").assign(note="kept")
    patients["age"] = patients["age"].astype(float).mask(patients.index < 4)
    patients.to_csv(tmp_path / "gaps.csv", index=False)
    where = {"kind": "infer", "checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "made")}
    workflow(bundle, ["inference", "impute"], ["smoke"], dataset_dir=str(tmp_path / "gaps.csv"), draws=2, **where).run()
    completed, cells = read_table(tmp_path / "made/imputed.csv"), read_table(tmp_path / "made/cells.csv")
    assert list(completed) == list(patients)
    assert completed.notna().all().all()
    assert (completed["age"] == completed["age"].round()).all()
    for name in patients:
        there = patients[name].notna()
        assert (completed[name][there] == patients[name][there]).all()
    report = json.loads((tmp_path / "made/imputation.json").read_text())
    assert len(cells) == patients.isna().sum().sum() + report["hidden_cells"]
    assert cells["known"].notna().sum() == report["hidden_cells"] > 0
    assert np.isfinite([report["rmse"], report["accuracy"]]).all()
    assert report["draws"] == 2
    stopped = {**where, "output_dir": str(tmp_path / "stopped"), "dataset_dir": str(tmp_path / "gaps.csv"), "draws": 2}
    interrupt(workflow(bundle, ["inference", "impute"], ["smoke"], **stopped), IN_THE_SECOND_BATCH)
    report = json.loads((tmp_path / "stopped/imputation.json").read_text())
    assert (report["rows"], report["draws"]) == (4, 1)
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "stopped/imputed.csv")[4:], read_table(tmp_path / "gaps.csv")[4:]
    )
    cut = read_table(tmp_path / "stopped/cells.csv")
    numbers = cut[cut["column"].isin(["age", "bmi"])]
    assert set(cut["row"]) == {0, 1, 2, 3}
    assert numbers["value"].notna().all()
    assert numbers["low"].isna().tolist() == numbers["row"].isin([2, 3]).tolist()
    options = {"dataset_dir": dataset, "likelihood_sigmas#steps": 4}
    workflow(bundle, ["inference", "likelihood"], ["smoke"], **where, **options).run()
    rows = pd.read_csv(tmp_path / "made/rows.csv")
    assert sorted(rows["cell"]) == list(range(60))
    assert rows["nats_per_dim"].is_monotonic_increasing


@pytest.mark.parametrize("bundle", ["tabular_mlp"])
def test_a_second_training_takes_all_rows_for_as_long_as_the_first_was_best(bundle, dataset, tmp_path):
    """No validation and no held-out rows: the report does not take training rows for them."""
    where = {"label": "outcome", "dataset_dir": dataset}
    first = {"output_dir": str(tmp_path / "first"), "ckpt_dir": str(tmp_path / "models/first")}
    workflow(bundle, ["train"], ["smoke"], **where, **first).run()
    second = {"output_dir": str(tmp_path / "second"), "ckpt_dir": str(tmp_path / "models/second")}
    log = tmp_path / "first/validation.jsonl"
    log.write_text(json.dumps({"iteration": 40, "denoising_error": 0.0}) + "\n")
    second |= {"validation_log": str(log), "rows_per_epoch": 256}
    training = workflow(bundle, ["train", "all_rows"], **where, **second)
    training.run()
    assert training.parser.get_parsed_content("train#trainer").state.iteration == 40  # epochs of one whole batch
    rows = [
        json.loads((tmp_path / f"models/{name}/data_statistics.json").read_text())["rows"]
        for name in ("first", "second")
    ]
    assert rows == [48, 60]
    assert not (tmp_path / "second/validation.jsonl").exists()
    assert [len(part) for part in training.parser.get_parsed_content("cases")] == [60, 0]
    options = {"checkpoint": str(tmp_path / "models/second/model.pt"), "output_dir": str(tmp_path / "made")}
    workflow(bundle, ["inference"], ["smoke"], kind="infer", **options).run()
    statistics = json.loads((tmp_path / "models/second/data_statistics.json").read_text())
    assert statistics["schema"]["label"] == "outcome"
    check_table(tmp_path / "made", statistics)


@pytest.mark.parametrize("bundle", ["tabular_mlp"])
def test_an_edited_schema_is_taken_and_a_label_may_be_a_number(bundle, dataset, tmp_path, caplog):
    """The schema of a first training, less two columns, with a wider range and another label."""
    where = {"ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    training = workflow(bundle, ["train"], ["smoke"], output_dir=str(tmp_path / "first"), label="outcome", **where)
    with caplog.at_level("INFO"):
        training.run()
    assert "dead 33%" in caplog.text
    schema = json.loads((tmp_path / "first/schema.json").read_text())
    schema["columns"] = [column for column in schema["columns"] if column["name"] not in ("marker0", "marker1")]
    schema["columns"][0]["high"], schema["label"] = 120, "age"
    (tmp_path / "edited.json").write_text(json.dumps(schema))
    where |= {"output_dir": str(tmp_path / "second"), "schema": str(tmp_path / "edited.json")}
    workflow(bundle, ["train"], ["smoke"], **where).run()
    where = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "made"), "file_format": "parquet"}
    workflow(bundle, ["inference"], ["smoke"], kind="infer", label_value=110, **where).run()
    table = pd.read_parquet(tmp_path / "made/table.parquet")
    assert list(table) == ["synthetic", *clinical().drop(columns=["marker0", "marker1"])]
    assert table["age"].tolist() == [110, 110]


@pytest.mark.slow
def test_a_training_without_a_start_records_none_and_samples_without_one(dataset_of_rows, tmp_path):
    """`--start '$None'`, as its page says; another value on resume is another training."""
    where = {"dataset_dir": dataset_of_rows, "output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "models")}
    training = workflow("tabular_mlp", ["train"], ["smoke"], start="$None", **where)
    training.run()
    assert training.parser.get_parsed_content("network_def").start is None
    (configuration,) = (tmp_path / "out").rglob("configuration_*.json")
    assert json.loads(configuration.read_text())["start"] == "$None"
    assert json.loads((tmp_path / "models/data_statistics.json").read_text())["start"] is None
    sampling = workflow(
        "tabular_mlp", ["inference"], ["smoke"], "infer", checkpoint=str(tmp_path / "models/model.pt"),
        output_dir=str(tmp_path / "made"), num_samples=4,
    )  # fmt: skip
    assert sampling.parser.get_parsed_content("network_def").start is None
    sampling.run()
    assert len(read_table(tmp_path / "made/table.csv")) == 4
    with pytest.raises(RuntimeError) as caught:
        workflow("tabular_mlp", ["train"], ["smoke"], max_epochs=2, **where).run()
    assert "start" in last_lines(caught.value)


@pytest.fixture
def dataset_of_rows(tmp_path) -> str:
    return write_dataset("tabular_mlp", tmp_path)
