"""Names of columns, labels, folders and fields of any spelling go through a planned bundle, and none of them runs."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from monai.bundle import ConfigParser
from test_planning import CPU, run_bundle, volume

from monai_diffscore.__main__ import main
from monai_diffscore.errors import DataError
from monai_diffscore.inspection import inspect_bundle
from monai_diffscore.networks.conditioning import ConditionEncoder
from monai_diffscore.planning import Plan, make_plan, take_fingerprint, write_bundle
from monai_diffscore.transforms.table_schema import TableSchema

ODD = ("$ income", "@risk", "% fat", "# visits", "a@#b", "$__import__('os').abort()")
LABELS = ["@low", "$high", "% none", "#1"]


def planned(data: Path, bundle: Path, **asked) -> Plan:
    fingerprint = take_fingerprint(data, **asked)
    plan = make_plan(fingerprint, CPU, None)
    write_bundle(plan, bundle, fingerprint)
    assert Plan.from_file(bundle / "docs/plan.json") == plan
    assert [str(finding) for finding in inspect_bundle(bundle)] == []
    return plan


def content(bundle: Path, name: str, *ids: str, **flags):
    parser = ConfigParser()
    parser.read_config(str(bundle / f"configs/{name}.json"))
    parser.update({"bundle_root": str(bundle), **flags})
    return [parser.get_parsed_content(id) for id in ids]


def declared(network) -> tuple[str, ...]:
    return next(module for module in network.modules() if isinstance(module, ConditionEncoder)).names


def names_in(bundle: Path, *names: str) -> list[str]:
    """Which of the names stand in a configuration."""
    text = "".join(file.read_text() for file in (bundle / "configs").glob("*.json"))
    return [name for name in names if name in text]


@pytest.mark.parametrize("label", ODD)
def test_a_table_with_any_names_is_planned(label, tmp_path):
    g = np.random.default_rng(0)
    folder = tmp_path / "$odd #1 @x"
    folder.mkdir()
    frame = pd.DataFrame({name: g.choice(LABELS, 60) for name in ODD}).assign(age=g.integers(20, 90, 60))
    frame["@owner"] = np.arange(60) // 2
    frame.to_csv(folder / "t.csv", index=False)
    bundle = tmp_path / "$bundle"
    planned(
        folder / "t.csv", bundle, conditions=[label], subject="@owner", exclude=[ODD[0] if label != ODD[0] else ODD[1]]
    )
    schema, encoding, path = content(bundle, "train", "table_schema", "encoding", "dataset_dir")
    assert isinstance(schema, TableSchema)
    assert (schema.label, schema.subject) == (label, "@owner")
    assert {column.name for column in schema.columns} == {*ODD, "age"} - set(schema.exclude)
    assert set(encoding.schema.label_column.categories) == set(LABELS)
    assert path == str(folder / "t.csv")
    assert not names_in(bundle, *ODD, *LABELS, "@owner")


@pytest.mark.parametrize(("label", "batch"), [("$ type", "% plate"), ("@type", "# lane"), ("type", "$batch")])
@pytest.mark.parametrize("kind", ["cells", "expression"])
def test_genes_with_any_names_are_planned(label, batch, kind, tmp_path):
    g = np.random.default_rng(0)
    obs = pd.DataFrame({label: g.choice(LABELS, 80), batch: g.choice(["@a", "$b"], 80), "@donor": g.integers(0, 9, 80),
                        "% mito": g.uniform(0, 9, 80)}, index=[f"c{n}" for n in range(80)])  # fmt: skip
    counts = scipy.sparse.csr_matrix(g.poisson(3, (80, 20)).astype(np.float32))
    anndata.AnnData(counts, obs, pd.DataFrame(index=[f"$G{n}" for n in range(20)])).write_h5ad(tmp_path / "c.h5ad")
    conditions = [label, batch, "% mito"] if kind == "cells" else [label, batch]
    planned(tmp_path / "c.h5ad", tmp_path / "bundle", conditions=conditions, subject="@donor", kind=kind)
    expression, cases = content(tmp_path / "bundle", "train", "expression", "cases")
    fields = expression.fields
    assert (fields.label, fields.batch, fields.subject) == (label, batch, "@donor")
    assert fields.covariates == (("% mito",) if kind == "cells" else ())
    assert set(fields.labels) == set(LABELS)
    donors = expression.obs["@donor"].to_numpy()
    assert not set(donors[cases[0]]) & set(donors[cases[1]])
    assert not names_in(tmp_path / "bundle", "$ type", "% plate", "@type", "# lane", "$batch", "@donor", "% mito")


def test_fields_of_subjects_with_any_names_are_planned(tmp_path):
    for seed in range(5):
        volume(tmp_path / "mri" / f"sub-{seed}/anat.nii.gz", seed=seed)
    (tmp_path / "mri/@eaDir.nii.gz").write_bytes(b"no image")  # left out by name
    rows = [f"sub-{n}\t{50 + n * n}\t{['@low', '$high'][n % 2]}\t{n}" for n in range(5)]
    rows += [f"sub-x{n}\t{60 + n}\t@low\t{n}" for n in range(6)]
    text = "\n".join(["participant_id\t$ income\t% risk\t# visits", *rows])
    (tmp_path / "mri/participants.tsv").write_text(text + "\n")
    plan = planned(tmp_path / "mri", tmp_path / "bundle", conditions=["$ income", "% risk", "# visits"])
    assert plan.left_out == ["@eaDir.nii.gz"]
    left_out, keys, network, cases = content(
        tmp_path / "bundle", "train", "left_out", "condition_keys", "network_def", "cases"
    )
    assert left_out == ["@eaDir.nii.gz"]
    task = json.loads((tmp_path / "bundle/configs/cases.json").read_text())
    assert task["left_out"] == [str(tmp_path / "mri/@eaDir.nii.gz")]
    assert set(keys) == set(declared(network)) == {"$ income", "# visits", "% risk"}
    assert {case["% risk"] for part in cases for case in part} == {0, 1}
    (network,) = content(tmp_path / "bundle", "inference", "network_def", sigma_data=0.5)
    assert set(declared(network)) == set(keys)
    assert not names_in(tmp_path / "bundle", "$ income", "% risk", "# visits", "@low", "$high")  # escaped


def test_an_edited_plan_names_its_columns(tmp_path):
    g = np.random.default_rng(0)
    frame = pd.DataFrame({"a": g.normal(size=40).round(2), "b": g.choice(["x", "y"], 40), "c": np.arange(40) // 2})
    frame.to_csv(tmp_path / "t.csv", index=False)
    plan = make_plan(take_fingerprint(tmp_path / "t.csv"), CPU, None)
    edited = plan.with_choices(label=("b", "asked for"), subject=("c", "patients"))
    write_bundle(edited, tmp_path / "bundle")
    schema = TableSchema.load(tmp_path / "bundle/docs/schema.json")
    assert (schema.label, schema.subject, [column.name for column in schema.columns]) == ("b", "c", ["a", "b"])
    with pytest.raises(DataError, match=r"details.schema.*label"):
        write_bundle(plan.with_choices(label=("none such", "")), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_command_line_wins_over_the_files(tmp_path):
    g = np.random.default_rng(0)
    pd.DataFrame({"a": g.normal(size=40), "b": g.choice(["x", "y"], 40), "c": g.choice(["u", "v"], 40)}).to_csv(
        tmp_path / "t.csv", index=False
    )
    planned(tmp_path / "t.csv", tmp_path / "bundle", conditions=["b"])
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "bundle/configs/train.json"))
    parser.update({"bundle_root": str(tmp_path / "bundle"), "label": "c", "exclude": ["b"]})
    schema = parser.get_parsed_content("table_schema")
    assert (schema.label, schema.exclude, [column.name for column in schema.columns]) == ("c", ("b",), ["a", "c"])
    assert json.loads((tmp_path / "bundle/docs/schema.json").read_text())["label"] == "b"


NAMES = (
    "$ income",
    "@risk",
    "% fat",
    "#id code",
    "Größe in cm",
    "  padded",
    "two\nlines",
    "a@#b",
    "x=1,y",
    "__import__('os')",
)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["$ income", "#id code", "two\nlines"])
def test_a_table_with_any_names_is_trained_sampled_and_reported(label, tmp_path):
    """The names and labels of the samples are those of the file, character by character."""
    g = np.random.default_rng(0)
    frame = pd.DataFrame({name: g.normal(size=80).round(2) for name in NAMES})
    frame[label] = g.choice([*LABELS, "zwölf", "a\nb"], 80)
    frame.to_csv(tmp_path / "t.csv", index=False)
    bundle = tmp_path / "bundle"
    planned(tmp_path / "t.csv", bundle, conditions=[label])
    run_bundle(bundle, ["train"], "train", max_epochs=1)
    run_bundle(bundle, ["inference"], "infer", num_samples=24)
    made = pd.read_csv(bundle / "output/samples/table.csv")
    assert list(made) == ["synthetic", *frame]
    assert set(made[label]) <= set(frame[label])
    assert made.drop(columns=[label, "synthetic"]).dtypes.eq(float).all()
    assert main(["report", str(bundle / "output"), "--draws", "5"]) == 0
    assert not names_in(bundle, *NAMES, *LABELS)
