"""Plans: what the rules choose for each kind of data, and that a planned bundle runs from training to report."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from small_data import stained
from zoo import check_for_zoo

from monai_diffscore.__main__ import main
from monai_diffscore.data import attach_participants, encode_conditions, list_volumes
from monai_diffscore.data.pictures import write_pyramid
from monai_diffscore.errors import DataError
from monai_diffscore.inspection import inspect_bundle
from monai_diffscore.planning import (
    Budget,
    Fingerprint,
    Plan,
    Trial,
    commands,
    fit_plan,
    fork_server,
    make_plan,
    run_trial,
    take_fingerprint,
    write_bundle,
)
from monai_diffscore.planning import trial as trials
from monai_diffscore.planning.gene_data import MOST_HELD_OUT, held_out_share
from monai_diffscore.planning.trial import _failure, _leave_out_observers, _server, estimate

ROOT = Path(__file__).parent.parent
CPU = Budget(8.0, 30.0, accelerator=False)


def volume(
    path: Path, shape=(24, 32, 24), spacing=(2.0, 2.0, 2.0), seed: int = 0, channels: int = 1, ct: bool = False
) -> None:
    axes = np.meshgrid(*[np.linspace(-1, 1, size) if size > 1 else [0.0] for size in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    noise = np.random.default_rng(seed).normal(size=shape)
    array = np.where(radius < 0.95, 600 + 300 * np.cos(6 * radius) + 30 * noise, 0.0)
    if ct:
        array = np.where(radius < 0.95, 40 + 100 * np.cos(6 * radius) + 30 * noise, -1000.0) + 800 * (radius < 0.3)
    if channels > 1:
        array = np.stack([array * 10**channel for channel in range(channels)], -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([*spacing, 1.0])), path)


def smooth(rows: int, columns: int, channels: int, seed: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=(rows, columns, channels)), (2, 2, 0))
    return np.uint8(255 * (field - field.min()) / (field.max() - field.min())).squeeze()


def write_mri(folder: Path) -> None:
    for seed in range(5):
        volume(folder / f"sub-{seed}/anat.nii.gz", seed=seed)


def write_mixed_spacings(folder: Path) -> None:
    for seed in range(5):
        volume(folder / f"sub-{seed}.nii.gz", (32, 32, 20 + 4 * seed), (1 + seed / 4, 1 + seed / 4, 2.0), seed)


def write_corrupt(folder: Path) -> None:
    write_mri(folder)
    whole = (folder / "sub-1/anat.nii.gz").read_bytes()
    (folder / "sub-7").mkdir()
    (folder / "sub-7/anat.nii.gz").write_bytes(whole[: len(whole) // 3])


def write_conditions(folder: Path) -> None:
    write_mri(folder)
    rows = [f"sub-{seed}\t{50 + 2.5 * seed}\t{'FM'[seed % 2]}" for seed in range(4)]
    (folder / "participants.tsv").write_text(
        "\n".join(["participant_id\tage\tsex", *rows, "sub-8\t31\tn/a", "sub-9\t90\tF"])
    )


def write_ct(folder: Path) -> None:
    for seed in range(5):
        volume(folder / f"sub-{seed}.nii.gz", (32, 32, 24), seed=seed, ct=True)


def write_thick_ct(folder: Path) -> None:
    for seed in range(5):
        volume(folder / f"sub-{seed}.nii.gz", (40, 40, 12), (1.0, 1.0, 5.0), seed, ct=True)


def write_four_channels(folder: Path) -> None:
    for seed in range(5):
        volume(folder / f"sub-{seed}.nii.gz", (24, 24, 24), seed=seed, channels=4)


def write_many_volumes(folder: Path) -> None:
    for seed in range(200):
        volume(folder / f"sub-{seed:03d}.nii.gz", (16, 16, 16), seed=seed)


def write_one_rgb(folder: Path) -> None:
    folder.mkdir(parents=True)
    Image.fromarray(smooth(120, 160, 3, 0)).save(folder / "photo.png")


def write_pictures(folder: Path) -> None:
    for seed in range(30):
        path = folder / ("a" if seed % 2 else "b") / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth(24 + seed % 3, 20, 1, seed)).save(path)


def write_many_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (10_000, 8, 8), dtype=np.uint8))


def write_slides(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed in range(5):
        write_pyramid(stained((192, 256), seed), folder / f"slide-{seed}.tif", 0.5, tile=64)


def write_sequences(folder: Path) -> None:
    folder.mkdir(parents=True)
    steps = np.random.default_rng(0).normal(size=(30, 200))
    np.save(folder / "traces.npy", 5 + np.cumsum(steps, axis=1))


def write_cells(folder: Path) -> None:
    """700 cells of 60 genes and three types, counts in X."""
    folder.mkdir(parents=True)
    g = np.random.default_rng(0)
    types = g.integers(0, 3, 700)
    rate = np.exp(g.normal(0, 1, (3, 60)))[types]
    counts = g.poisson(rate * g.gamma(4, 0.25, (700, 1))).astype(np.float32)
    counts[:, 0] += 1  # no cell is empty
    obs = pd.DataFrame({"cell_type": pd.Categorical([f"type {n}" for n in types])}, index=[f"c{n}" for n in range(700)])
    var = pd.DataFrame(index=[f"G{n}" for n in range(60)])
    anndata.AnnData(scipy.sparse.csr_matrix(counts), obs, var).write_h5ad(folder / "cells.h5ad")


def write_single_slices(folder: Path) -> None:
    for subject in range(5):
        volume(folder / f"sub-{subject}/anat.nii.gz", (48, 48, 1), (1.0, 1.0, 5.0), subject)


def write_genes(folder: Path) -> None:
    """20,000 genes of 24 samples, and edges between neighbouring genes."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(0).normal(8, 1, (24, 20_000)).round(2)
    frame = pd.DataFrame(values, index=[f"s{n}" for n in range(24)], columns=[f"G{n}" for n in range(20_000)])
    frame.to_csv(folder / "matrix.csv")


def write_edges(folder: Path) -> Path:
    lines = [f"G{n}\tG{(n + step) % 20_000}" for n in range(20_000) for step in (1, 7)]
    (folder / "edges.tsv").write_text("\n".join(["source\ttarget", *lines]) + "\n")
    return folder / "edges.tsv"


def write_bulk(folder: Path) -> None:
    folder.mkdir(parents=True)
    values = np.random.default_rng(0).normal(8, 1, (100, 400)).round(3)
    frame = pd.DataFrame(values, index=[f"s{n}" for n in range(100)], columns=[f"G{n}" for n in range(400)])
    frame.to_csv(folder / "bulk.csv")


def write_table(folder: Path) -> None:
    folder.mkdir(parents=True)
    g = np.random.default_rng(0)
    age = g.integers(20, 90, 120).astype(float)
    age[::9] = np.nan
    frame = pd.DataFrame({"age": age, "dose_mg": g.gamma(2, 5, 120).round(1), "sex": g.choice(["F", "M"], 120)})
    frame["outcome"] = np.where(frame["dose_mg"] > 9, "better", "same")
    frame.to_csv(folder / "patients.csv", index=False)


#: data of genes and tables: writer, file, graph, conditions, template, network
ROWS: dict[str, tuple[Any, ...]] = {
    "700 cells": (write_cells, "cells.h5ad", None, (), "scrna_attention", "SingleCellNet"),
    "20k genes with edges": (write_genes, "matrix.csv", write_edges, (), "pathway_gnn", "PathwayGNN"),
    "bulk": (write_bulk, "bulk.csv", None, (), "bulk_expression_mlp", "GeneResidualMLP"),
    "table": (write_table, "patients.csv", None, ("outcome",), "tabular_mlp", "GeneResidualMLP"),
}


@pytest.mark.slow
@pytest.mark.parametrize("leaf", ROWS)
def test_a_plan_for_rows_trains_samples_and_reports(leaf, tmp_path):
    """Plan, a short training, samples, the panel of profiles: as a user goes."""
    write, file, edges, conditions, template, network = ROWS[leaf]
    write(tmp_path / "data")
    graph = None if edges is None else edges(tmp_path)
    fingerprint = take_fingerprint(tmp_path / "data" / file, conditions=conditions, graph=graph)
    plan = make_plan(fingerprint, Budget(4.0, 1.0), None if graph is None else str(graph))
    assert plan.template == template
    assert all(choice.reason for choice in plan.choices.values())
    bundle = tmp_path / "bundle"
    write_bundle(plan, bundle, fingerprint)
    assert [str(finding) for finding in inspect_bundle(bundle)] == []
    short = {"700 cells": {"first_stage_epochs": 2}, "20k genes with edges": {"repeats": 1}}.get(leaf, {})
    run_bundle(bundle, ["train"], "train", max_epochs=1, **short)
    samples = run_bundle(bundle, ["inference"], "infer", num_samples=16)
    assert type(samples.parser.get_parsed_content("network").network).__name__ == network
    assert list((bundle / "output/samples").iterdir())
    if leaf != "20k genes with edges":  # its panel takes minutes
        assert main(["report", str(bundle / "output"), "--draws", "5"]) == 0
        assert (bundle / "output/report/report.html").is_file()


#: kind of input: writer of its data, template, network, and what else the plan must say
LEAVES: dict[str, tuple[Callable[[Path], None], str, str, Callable[[Plan], bool]]] = {
    "mri": (write_mri, "mri_unet3d", "ScoreUNet", lambda p: p["spacing_mm"] == [2.0, 2.0, 2.0]),
    "mixed spacings": (write_mixed_spacings, "mri_unet3d", "ScoreUNet", lambda p: p["spacing_mm"][:2] == [1.5, 1.5]),
    "one corrupt file": (write_corrupt, "mri_unet3d", "ScoreUNet", lambda p: p.left_out == ["sub-7/anat.nii.gz"]),
    "conditions": (
        write_conditions,
        "mri_unet3d",
        "ScoreUNet",
        lambda p: set(p.conditions["fields"]) == {"age", "sex"},
    ),
    "ct": (write_ct, "ct_unet3d", "ScoreUNet", lambda p: p["normalisation"] == {"window_hu": [-1000.0, 1000.0]}),
    "anisotropic ct": (write_thick_ct, "ct_unet2d", "ScoreUNet", lambda p: p["spacing_mm"] == [1.0, 1.0]),
    "four channels": (write_four_channels, "mri_unet3d", "ScoreUNet", lambda p: p.channels == 4),
    "single slices": (write_single_slices, "ct_unet2d", "ScoreUNet", lambda p: p["patch_size"] == [48, 48]),
    "many volumes": (write_many_volumes, "mri_dit3d", "ScoreDiT", lambda p: p["patch_size"] == [16, 16, 16]),
    "one rgb picture": (write_one_rgb, "natural_dit2d", "ScoreUNet", lambda p: p["patches_per_image"] > 0),
    "few pictures": (write_pictures, "natural_dit2d", "ScoreUNet", lambda p: p["fit"]),
    "many pictures": (write_many_pictures, "natural_dit2d", "ScoreDiT", lambda p: p["image_size"] == [8, 8]),
    "slides": (write_slides, "pathology_hierarchical_unet", "HierarchicalUNet", lambda p: p["mpp_um"] == 0.5),
    "sequences": (write_sequences, "signal_dit1d", "ScoreDiT", lambda p: p["window_size"] == [200]),
}
BUDGETS = {"many volumes": Budget(8.0, 6000.0)}
CONDITIONS = {"conditions": ["age", "sex"]}
each_leaf = pytest.mark.parametrize("leaf", LEAVES)


def planned(leaf: str, folder: Path) -> tuple[Fingerprint, Plan]:
    LEAVES[leaf][0](folder)
    fingerprint = take_fingerprint(folder, conditions=CONDITIONS.get(leaf, ()))
    return fingerprint, make_plan(fingerprint, BUDGETS.get(leaf, CPU))


@each_leaf
def test_the_rules_choose_and_the_bundle_passes_the_check(leaf, tmp_path):
    """Every leaf of the tree; fingerprint and plan survive JSON; each choice has a reason."""
    _, template, network, expected = LEAVES[leaf]
    fingerprint, plan = planned(leaf, tmp_path / "data")
    assert (plan.template, plan["network"]["_target_"].rsplit(".", 1)[-1]) == (template, network)
    assert expected(plan)
    assert all(choice.reason for choice in plan.choices.values())
    assert Fingerprint.from_json(fingerprint.to_json()) == fingerprint
    write_bundle(plan, tmp_path / "bundle", fingerprint)
    assert Plan.from_file(tmp_path / "bundle/docs/plan.json") == plan
    assert [str(finding) for finding in inspect_bundle(tmp_path / "bundle")] == []


def run_bundle(bundle: Path, names: list[str], kind: str, **overrides) -> ConfigWorkflow:
    files = [*(bundle / f"configs/{name}.json" for name in names), ROOT / "configs/smoke.json"]
    training = ConfigWorkflow(
        [str(file) for file in files], meta_file=str(bundle / "configs/metadata.json"), logging_file=False,
        workflow_type=kind, bundle_root=str(bundle), **overrides,
    )  # fmt: skip
    training.initialize()
    training.run()
    return training


@pytest.mark.slow
@each_leaf
def test_a_planned_bundle_trains_samples_and_reports(leaf, tmp_path):
    """Plan, a few seconds of training, two samples, the quality panel: as a user goes."""
    _, plan = planned(leaf, tmp_path / "data")
    bundle = tmp_path / "bundle"
    write_bundle(plan, bundle)
    # the report of slides compares with the held-out tiles of the run: it needs twice as many as samples
    tiles = {"validation_patches": 4} if leaf == "slides" else {}
    run_bundle(bundle, ["train"], "train", time_limit_seconds=2, **tiles)
    statistics = json.loads((bundle / "models/data_statistics.json").read_text())
    assert statistics["sigma_data"] == pytest.approx(plan.details["sigma_data"], rel=0.25)
    samples = run_bundle(bundle, ["inference"], "infer")
    network = samples.parser.get_parsed_content("network").network
    assert type(network).__name__ == LEAVES[leaf][2]
    assert [str(finding) for finding in inspect_bundle(bundle)] == []
    real = []
    if leaf in FEW_REAL:
        (write_mri if leaf == "one corrupt file" else LEAVES[leaf][0])(tmp_path / "real")
        real = ["--real", str(tmp_path / "real")]
    assert main(["report", str(bundle / "output"), "--draws", "5", *real]) == 0
    assert (bundle / "output/report/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("leaf", ["four channels", "one rgb picture", "anisotropic ct", "sequences"])
def test_a_planned_bundle_is_fit_for_the_model_zoo(leaf, tmp_path, monkeypatch):
    _, plan = planned(leaf, tmp_path / "data")
    bundle = tmp_path / "bundle"
    write_bundle(plan, bundle)
    run_bundle(bundle, ["train"], "train", time_limit_seconds=1)
    monkeypatch.chdir(bundle)
    check_for_zoo(bundle, tmp_path)


#: two samples need four unseen images: volumes as small as a patch have one each
FEW_REAL = {"mri", "single slices", "mixed spacings", "one corrupt file", "conditions", "ct", "four channels"}


# ---- fingerprints ----


def test_a_fingerprint_of_volumes_has_closed_form_facts(tmp_path):
    """A box of two grey values in RAS and one turned: sizes, spacings, orientation, share, sigma_data."""
    array = np.zeros((20, 20, 20), np.float32)
    grain = np.random.default_rng(0).uniform(-1e-3, 1e-3, (10, 10, 10))  # two values alone are a label map
    array[5:15, 5:15, 5:15] = np.where(np.arange(10) < 5, 100.5, 300.5) + grain
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0])), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -2.0, 3.0, 1.0])), tmp_path / "b.nii.gz")
    fingerprint = take_fingerprint(tmp_path)
    assert (fingerprint.kind, fingerprint.modality, fingerprint.cases, fingerprint.subjects) == ("volumes", "MR", 2, 2)
    assert fingerprint.spacing_mm["median"] == [1.0, 2.0, 3.0]
    assert fingerprint.orientations == {"RAS": 1, "LPS": 1}
    assert fingerprint.foreground_sizes["median"] == [10, 10, 10]
    assert fingerprint.foreground_share == pytest.approx(1 / 8)
    assert fingerprint.sigma_data == pytest.approx(1.0, abs=1e-3)  # half at -1, half at 1
    assert fingerprint.percentiles["100"] == pytest.approx(300.5, abs=1e-3)


def test_a_corrupt_file_is_named_with_its_remedy_and_left_out_of_the_training(tmp_path):
    write_corrupt(tmp_path)
    fingerprint = take_fingerprint(tmp_path)
    (problem,) = fingerprint.problems
    assert (problem.file, problem.left_out) == ("sub-7/anat.nii.gz", True)
    assert "replace it" in problem.remedy
    assert fingerprint.cases == 5
    names = [Path(case["image"]).parent.name for case in list_volumes(tmp_path, left_out=fingerprint.left_out)]
    assert names == [f"sub-{seed}" for seed in range(5)]
    with pytest.raises(DataError, match="plan again"):
        list_volumes(tmp_path, left_out=["sub-99"])


def test_all_files_corrupt_is_an_error_that_names_the_first(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.nii\.gz"):
        take_fingerprint(tmp_path)


@pytest.mark.parametrize("content", ["nothing", "several kinds", "unknown"])
def test_data_of_no_one_kind_is_refused(content, tmp_path):
    if content == "several kinds":
        volume(tmp_path / "a.nii.gz")
        (tmp_path / "pictures").mkdir()  # a picture beside a volume is a view of it
        Image.fromarray(smooth(8, 8, 1, 0)).save(tmp_path / "pictures/b.png")
    if content == "unknown":
        (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(DataError, match="one kind of data"):
        take_fingerprint(tmp_path)


def test_several_tables_are_refused_by_name(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id,age\na,1\nb,3\n")
    with pytest.raises(DataError, match=r"one table in the folder, got a\.csv, b\.csv"):
        take_fingerprint(tmp_path)


@pytest.mark.parametrize(("leaf", "folder"), [("table", True), ("bulk", True), ("700 cells", False)])
def test_the_command_plans_rows(leaf, folder, tmp_path, capsys):
    """Also from the folder that holds the file."""
    write, file, _, conditions, template, _ = ROWS[leaf]
    write(tmp_path / "data")
    data = tmp_path / "data" if folder else tmp_path / "data" / file
    named = ["--condition", ",".join(conditions)] if conditions else []
    assert main(["plan", str(data), "--out", str(tmp_path / "bundle"), "--no-trial", *named]) == 0
    printed = capsys.readouterr().out
    assert template in printed
    assert "python -m monai.bundle run training" in printed
    assert inspect_bundle(tmp_path / "bundle") == []


# ---- conditions ----


def test_values_of_participants_reach_cases_and_samples(tmp_path):
    write_conditions(tmp_path)
    fields = take_fingerprint(tmp_path, conditions=["age", "sex"]).conditions["fields"]
    assert fields["sex"] == {"categories": ["F", "M"]}
    cases = attach_participants(list_volumes(tmp_path), tmp_path / "participants.tsv", fields)
    assert [case["sex"] for case in cases] == [0, 1, 0, 1, -1]
    assert [case["age"] for case in cases[:4]] == [50, 52.5, 55, 57.5]
    assert math.isnan(cases[4]["age"])  # sub-4 has no row
    assert encode_conditions({"sex": "M"}, {"sex": fields["sex"]}) == {"sex": 1}
    with pytest.raises(DataError, match=r"one of \['F', 'M'\]"):
        encode_conditions({"sex": "x"}, fields)
    with pytest.raises(DataError, match="a column of that name"):
        take_fingerprint(tmp_path, conditions=["weight"])


# ---- rules ----


def test_the_largest_noise_follows_sigma_data_and_the_size_of_an_image(tmp_path):
    write_many_pictures(tmp_path / "data")
    fingerprint = take_fingerprint(tmp_path / "data")
    plan = make_plan(fingerprint, CPU)
    assert plan["sigma_max"] == pytest.approx(2 * math.sqrt(2 * 64) * fingerprint.sigma_data, rel=0.01)


def test_thick_slices_get_flat_patches_in_mr(tmp_path):
    for seed in range(2):
        volume(tmp_path / f"{seed}.nii.gz", (64, 64, 24), (1.0, 1.0, 4.0), seed)
    plan = make_plan(take_fingerprint(tmp_path), CPU)
    patch, spacing = plan["patch_size"], plan["spacing_mm"]
    assert plan.template == "mri_unet3d"
    assert patch[2] < patch[0]
    assert patch[2] * spacing[2] == pytest.approx(patch[0] * spacing[0], rel=0.5)


def test_subjects_not_files_are_held_out(tmp_path):
    for seed in range(4):
        for session in (1, 2):
            volume(tmp_path / f"sub-{seed}/ses-{session}/anat.nii.gz", (16, 16, 16), seed=seed)
    plan = make_plan(take_fingerprint(tmp_path), CPU)
    assert len(plan.held_out) == 1
    assert plan.held_out[0].startswith("sub-")


# ---- memory and time ----


def trial(batch: int, memory: float, seconds: float = 0.1) -> Trial:
    return Trial(batch, memory, seconds, 1.0, 100, 1000)


def test_the_estimate_is_the_line_through_two_trials():
    assert estimate(trial(1, 1.0, 0.1), trial(2, 1.5, 0.2), 4) == pytest.approx((2.5, 0.4))
    assert estimate(trial(1, 1.0), trial(1, 1.0), 1) == pytest.approx((1.0, 0.1))


@pytest.fixture
def plan(tmp_path) -> Plan:
    write_mri(tmp_path / "data")
    return make_plan(take_fingerprint(tmp_path / "data"), Budget(2.0, 30.0))


@pytest.mark.parametrize(
    ("per_sample", "batch", "checkpointing"), [(0.1, 4, False), (0.4, 2, False), (0.7, 1, False), (1.5, 1, True)]
)
def test_a_plan_shrinks_until_it_fits(plan, per_sample, batch, checkpointing):
    """1 GB of libraries and so much a sample, a tenth with checkpointing: batch first, then activations."""

    def measured(planned: Plan, size: int, validate: bool) -> Trial:
        return trial(size, 1.0 + size * per_sample * (0.1 if planned["checkpointing"] else 1))

    fitted = fit_plan(plan, try_batch=measured, say=lambda _: None)
    assert fitted["checkpointing"] == checkpointing
    assert fitted["batch_size"] == (4 if checkpointing else batch)
    assert fitted.measured["memory_gb"] <= plan.budget.memory_gb
    assert fitted["max_epochs"] == math.ceil(fitted.measured["iterations"] / 100)


@pytest.mark.parametrize(("epoch", "epochs", "seconds"), [(0.0, 200, 0.0), (0.1, 200, 20.0), (9.0, 100, 900.0)])
def test_a_first_stage_has_half_of_the_minutes_at_most(plan, epoch, epochs, seconds):
    plan = plan.with_choices(first_stage_epochs=(200, "as the rules have it"))
    measured = replace(trial(4, 1.5), first_stage_seconds=epoch or 1e-9)
    fitted = fit_plan(plan, try_batch=lambda planned, size, validate: measured, say=lambda _: None)
    assert fitted["first_stage_epochs"] == epochs
    assert fitted.measured["first_stage_seconds"] == seconds
    assert fitted.measured["iterations"] == pytest.approx((1800 - seconds - 11) / 0.1, abs=1)


@pytest.mark.parametrize(("rows", "share"), [(20, 0.4), (42, 0.4), (60, 0.28), (100, 0.2), (10**6, 0.2)])
def test_a_split_holds_out_the_rows_that_a_report_needs(rows, share):
    assert held_out_share(rows, 0.2) == share
    assert rows * share >= 16 or share == MOST_HELD_OUT


def test_few_rows_and_rare_types_are_problems(tmp_path):
    frame = pd.DataFrame({"dose": np.arange(30.0), "kind": ["a"] * 26 + ["b"] * 4})
    frame.to_csv(tmp_path / "small.csv", index=False)
    few, rare = take_fingerprint(tmp_path, conditions=["kind"]).problems
    assert (few.file, few.got, few.left_out) == ("small.csv", "12", False)
    assert (rare.expected, rare.got) == ("8 rows of each type of kind", "b 4")


def test_rows_of_a_patient_stay_together_and_names_are_left_out(tmp_path):
    frame = pd.DataFrame({"patient": np.repeat(np.arange(50), 2), "dose": np.arange(100.0) % 13})
    frame["name"] = [f"name {number}" for number in range(100)]
    frame.to_csv(tmp_path / "visits.csv", index=False)
    command = ["plan", str(tmp_path / "visits.csv"), "--out", str(tmp_path / "made"), "--no-trial"]
    assert main([*command, "--kind", "table", "--subject", "patient"]) == 1  # names are no categories
    assert main([*command, "--kind", "table", "--subject", "patient", "--exclude", "name"]) == 0
    schema = json.loads((tmp_path / "made/docs/schema.json").read_text())
    assert (schema["subject"], schema["exclude"]) == ("patient", ["name"])
    fingerprint = json.loads((tmp_path / "made/docs/fingerprint.json").read_text())
    assert (fingerprint["cases"], fingerprint["subjects"]) == (100, 50)
    cases = run_bundle(tmp_path / "made", ["train"], "train").parser.get_parsed_content("cases")
    assert not set(cases[0]["patient"]) & set(cases[1]["patient"])


def test_cells_of_a_donor_stay_together(tmp_path):
    write_cells(tmp_path / "data")
    cells = anndata.read_h5ad(tmp_path / "data/cells.h5ad")
    cells.obs["donor"] = np.repeat([f"d{number}" for number in range(7)], 100)
    cells.write_h5ad(tmp_path / "data/cells.h5ad")
    command = ["plan", str(tmp_path / "data/cells.h5ad"), "--out", str(tmp_path / "made"), "--no-trial"]
    assert main([*command, "--subject", "donor"]) == 0
    fingerprint = json.loads((tmp_path / "made/docs/fingerprint.json").read_text())
    assert (fingerprint["cases"], fingerprint["subjects"], fingerprint["details"]["held_out_rows"]) == (700, 7, 100)
    cases = run_bundle(tmp_path / "made", ["train"], "train").parser.get_parsed_content("cases")
    assert cells.obs["donor"].iloc[cases[1]].nunique() == 1
    assert len(cases[1]) == 100


@pytest.mark.parametrize(
    ("conditions", "subject", "line"),
    [
        ([], None, "type cell_type; batch donor"),
        (["cell_type"], "donor", "type cell_type; subject donor"),
        (["age", "donor"], None, "type donor; covariates age"),
        (["phase", "cell_type", "age"], None, "type phase; batch cell_type; covariates age"),
    ],
)
def test_a_plan_prints_the_roles_of_columns_of_cells(conditions, subject, line, tmp_path, capsys):
    write_cells(tmp_path / "data")
    cells = anndata.read_h5ad(tmp_path / "data/cells.h5ad")
    cells.obs["donor"] = np.repeat([f"d{number}" for number in range(7)], 100)
    cells.obs["phase"] = np.resize(["G1", "S", "G2M"], 700)
    cells.obs["age"] = np.resize(np.arange(20, 80), 700)
    cells.write_h5ad(tmp_path / "data/cells.h5ad")
    (assumed,) = take_fingerprint(tmp_path / "data", conditions=conditions, subject=subject).details["assumed"]
    others = ", ".join(name for name in cells.obs if name not in re.findall(r"\w+", line))
    flags = "--condition TYPE,BATCH,COVARIATE and --subject COLUMN choose others"
    assert assumed == f"{line}; not used {others}. {flags}"


def test_a_plan_prints_the_roles_of_columns_of_a_table(tmp_path, capsys):
    frame = pd.DataFrame({"patient": np.arange(100) // 2, "dose": np.arange(100.0) / 7, "arm": ["a", "b"] * 50})
    frame.to_csv(tmp_path / "visits.csv", index=False)
    command = ["plan", str(tmp_path), "--out", str(tmp_path / "made"), "--no-trial", "--kind", "table"]
    assert main([*command, "--subject", "patient", "--condition", "arm"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "taken for continuous dose; condition arm; subject patient. --condition, --subject" in output


@pytest.mark.parametrize("graph", ["absent.tsv", "other_genes.tsv", "no_pairs.tsv"])
def test_a_graph_that_the_training_cannot_use_is_refused_by_the_plan(graph, tmp_path, capsys):
    genes = [f"GENE{number}" for number in range(12)]
    values = np.random.default_rng(0).normal(size=(60, 12)).round(3)
    pd.DataFrame(values, columns=genes).to_csv(tmp_path / "expression.csv")
    (tmp_path / "other_genes.tsv").write_text("source\ttarget\nTP53\tMDM2\n")
    (tmp_path / "no_pairs.tsv").write_text("GENE1\nGENE2\n")
    (tmp_path / "links.tsv").write_text("source\ttarget\nGENE1\tGENE2\n")
    command = ["plan", str(tmp_path / "expression.csv"), "--out", str(tmp_path / "made"), "--no-trial", "--graph"]
    assert main([*command, str(tmp_path / graph)]) == 1
    assert graph in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert main([*command, str(tmp_path / "links.tsv")]) == 0
    assert "2 of 12 genes have an edge" in " ".join(capsys.readouterr().out.split())


#: edges that a plan refuses: the flag of its advice, and that flag with a value
EDGES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a\tb\nGENE1\tGENE2\n": ("--graph_columns SOURCE,TARGET", "a,b", {"graph_columns": ["a", "b"]}),
    "source\ttarget\tweight\nGENE1\tGENE2\t3\nGENE1\tGENE3\t-1\n": (
        "--graph_minimum_weight WEIGHT", "2", {"graph_minimum_weight": 2.0},
    ),
    "source\ttarget\nP1\tP2\n": (
        "--graph_aliases TABLE", "{root}/aliases.tsv", {"graph_aliases": "{root}/aliases.tsv"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("edges", EDGES)
def test_the_advice_on_a_graph_is_followed_by_the_plan_and_its_bundle(edges, tmp_path, capsys):
    advice, value, choices = EDGES[edges]
    values = np.random.default_rng(0).normal(size=(60, 12)).round(3)
    pd.DataFrame(values, columns=[f"GENE{number}" for number in range(12)]).to_csv(tmp_path / "expression.csv")
    (tmp_path / "links.tsv").write_text(edges)
    (tmp_path / "aliases.tsv").write_text("name\tgene\nP1\tGENE1\nP2\tGENE2\n")
    command = ["plan", str(tmp_path / "expression.csv"), "--out", str(tmp_path / "made"), "--no-trial", "--graph"]
    assert main([*command, str(tmp_path / "links.tsv")]) == 1
    assert advice in " ".join(capsys.readouterr().err.split())
    flag = [advice.split()[0], value.format(root=tmp_path)]
    assert main([*command, str(tmp_path / "links.tsv"), *flag]) == 0
    assert "2 of 12 genes have an edge" in " ".join(capsys.readouterr().out.split())
    train = json.loads((tmp_path / "made/configs/train.json").read_text())
    for name, choice in choices.items():
        assert train[name] == (choice.format(root=tmp_path) if isinstance(choice, str) else choice)
    parser = ConfigParser(train | {"bundle_root": str(tmp_path / "made")})
    assert parser.get_parsed_content("graph").edges.tolist() == [[1], [2]]


@pytest.mark.parametrize("option", ["--graph_columns", "--graph_aliases", "--graph_minimum_weight"])
def test_options_of_a_graph_without_a_graph_are_refused(option, tmp_path, capsys):
    write_bulk(tmp_path / "data")
    assert (
        main(["plan", str(tmp_path / "data/bulk.csv"), "--out", str(tmp_path / "made"), "--no-trial", option, "1"]) == 1
    )
    assert "Give its edges: --graph EDGES" in " ".join(capsys.readouterr().err.split())


CELLS_OF_CODES = {
    "text among numbers": ["1", "2", "3", "x"], "two limits": ["<5", "<10", "7", "9"],
    "numbers below their limit": ["<5", "3", "7", "9"],
}  # fmt: skip


@pytest.mark.parametrize("cells", CELLS_OF_CODES)
def test_the_advice_on_a_column_of_codes_is_followed_by_the_plan_and_its_bundle(cells, tmp_path, capsys):
    frame = pd.DataFrame({"age": np.arange(60) % 37 + 20.5, "code of ward": CELLS_OF_CODES[cells] * 15})
    frame.to_csv(tmp_path / "table.csv", index=False)
    command = ["plan", str(tmp_path / "table.csv"), "--out", str(tmp_path / "made"), "--no-trial"]
    assert main(command) == 1
    (advice,) = re.findall(r"--categorical '[^']*'", " ".join(capsys.readouterr().err.split()))
    assert main([*command, *shlex.split(advice)]) == 0
    train = json.loads((tmp_path / "made/configs/train.json").read_text())
    schema = ConfigParser(train | {"bundle_root": str(tmp_path / "made")}).get_parsed_content("table_schema")
    (column,) = [column for column in schema.columns if column.name == "code of ward"]
    assert set(column.categories) == set(CELLS_OF_CODES[cells])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("missing", ["-9"]),
        ("delimiter", ";"),
        ("categorical", ["a"]),
        ("assume_mpp_um", 0.5),
        ("participants", "x.tsv"),
        ("modality", "CT"),
    ],
)
def test_flags_of_other_data_are_refused_by_name(flag, value, tmp_path):
    write_bulk(tmp_path / "data")
    with pytest.raises(DataError, match=f"key '{flag}'.*got expression.*Leave --{flag} out"):
        take_fingerprint(tmp_path / "data/bulk.csv", **{flag: value})


def test_a_graph_of_other_data_is_refused(tmp_path):
    write_mri(tmp_path)
    with pytest.raises(DataError, match=r"key 'graph'.*got volumes.*Leave --graph out"):
        take_fingerprint(tmp_path, graph="links.tsv")


def test_a_subject_of_volumes_is_a_pattern_of_their_paths(tmp_path):
    write_mri(tmp_path)
    assert take_fingerprint(tmp_path, subject=r"sub-\d").subjects > 1
    with pytest.raises(DataError, match="paths that match 'patient', got sub-0"):
        take_fingerprint(tmp_path, subject="patient")


def test_a_plan_that_never_fits_is_refused(plan):
    with pytest.raises(DataError, match="--memory-gb"):
        fit_plan(plan, try_batch=lambda planned, size, validate: trial(size, 5.0), say=lambda _: None)


@pytest.mark.slow
def test_a_real_step_fits_and_is_as_estimated(plan):
    """Three trainings in processes of their own: the measured peak is within 15 % of the line's estimate."""
    fitted = fit_plan(plan, say=lambda _: None)
    trial = fitted.measured
    assert trial["memory_gb"] <= plan.budget.memory_gb
    assert trial["estimated_memory_gb"] == pytest.approx(trial["memory_gb"], rel=0.15)
    assert trial["iterations"] * trial["seconds_per_iteration"] <= 60 * plan.budget.minutes


@pytest.mark.parametrize("bundle", ["mri_unet3d", "natural_dit2d", "tabular_mlp"])
@pytest.mark.parametrize("validate", [True, False])
def test_a_trial_keeps_all_handlers_but_those_that_observe(bundle, validate):
    parser = ConfigParser(ConfigParser.load_config_file(ROOT / f"bundles/{bundle}/configs/train.json"))
    before = {str(handler) for handler in parser.get("train#handlers")}
    _leave_out_observers(parser, validate)
    left_out = before - {str(handler) for handler in parser.get("train#handlers")}
    assert left_out
    assert all("'@tracking'" in handler for handler in left_out)
    validations = parser.get("validation_handlers")
    assert len(validations) == (2 if validate else 0)
    assert not any(handler.get("exec_at_start") for handler in validations)


def test_the_command_forks_the_server_of_its_trials_from_itself(tmp_path, monkeypatch):
    """The server has the libraries of this process, answers an order, and ends with its orders."""
    monkeypatch.setattr(trials, "_servers", [])
    fork_server()
    (server,) = trials._servers
    with pytest.raises(DataError, match=r"got exit code 1: .*train\.json"):
        run_trial(tmp_path / "absent")
    assert [server] == trials._servers
    program, own = (Path(f"/proc/{process}/cmdline").read_bytes() for process in (server.pid, "self"))
    assert program == own
    server.orders.close()
    assert os.waitpid(server.pid, 0)[1] == 0


@pytest.mark.slow
def test_a_trial_times_the_stage_before(tmp_path):
    """Few iterations of both stages, in a process of its own."""
    write_cells(tmp_path / "data")
    plan = make_plan(take_fingerprint(tmp_path / "data" / "cells.h5ad"), Budget(4.0, 1.0))
    write_bundle(plan, tmp_path / "bundle")
    measured = run_trial(tmp_path / "bundle", {"batch_size": 32})
    assert 0 < measured.first_stage_seconds < 60
    assert 0 < measured.seconds < 10


@pytest.mark.slow
def test_a_failed_trial_has_its_cause_and_no_layer_around_it(plan, tmp_path):
    write_bundle(plan, tmp_path / "bundle")
    with pytest.raises(DataError, match=r"got exit code 1: .*one whole batch.* Correct the cause") as caught:
        run_trial(tmp_path / "bundle", {"batch_size": 10**6})
    assert "Traceback" not in str(caught.value)
    assert "Failed to evaluate" not in str(caught.value)  # MONAI's layer
    server = _server()
    with pytest.raises(DataError, match="nothing after 1 seconds"):
        run_trial(tmp_path / "bundle", {"batch_size": 2}, limit_seconds=1)
    os.kill(server.pid, signal.SIGKILL)  # as the system does where memory runs out
    with pytest.raises(DataError, match="imports the libraries ended"):
        run_trial(tmp_path / "bundle", {"batch_size": 2})
    assert run_trial(tmp_path / "bundle", {"batch_size": 2}).batch_size == 2  # by a new one
    assert _server() is not server


def test_a_failure_says_whether_memory_ran_out():
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**60)
    wrapped = RuntimeError("a layer")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory.")
    for error in (cpu.value, wrapped, MemoryError("of numpy")):
        assert _failure(error)["out_of_memory"]
    other = _failure(ValueError("a shape"))
    assert other == {"error": "ValueError: a shape", "out_of_memory": False}


# ---- the command ----


@pytest.mark.parametrize("name", ["bundle", "my bundle", "it's"])
def test_the_commands_of_a_plan_run_in_folders_of_every_name(name, tmp_path, plan):
    assert shlex.split(commands(plan, tmp_path / name)[0]) == ["cd", str(tmp_path / name)]


def test_the_command_prints_plan_and_commands_and_takes_an_edited_plan(tmp_path, capsys):
    write_corrupt(tmp_path / "data")
    assert main(["plan", str(tmp_path / "data"), "--out", str(tmp_path / "made"), "--no-trial"]) == 0
    output = capsys.readouterr().out
    assert "left out: sub-7/anat.nii.gz" in output
    assert "python -m monai.bundle run training" in output
    assert "docs/BENCHMARKS.md" in output  # reasons are printed
    edited = json.loads((tmp_path / "made/docs/plan.json").read_text())
    edited["choices"]["patch_size"]["value"] = [16, 16, 16]
    (tmp_path / "plan.json").write_text(json.dumps(edited))
    command = ["plan", "--from-plan", str(tmp_path / "plan.json"), "--out", str(tmp_path / "again"), "--no-trial"]
    assert main(command) == 0
    train = json.loads((tmp_path / "again/configs/train.json").read_text())
    assert train["patch_size"] == [16, 16, 16]
    assert main(command) == 1  # the folder is there
    assert "exists" in capsys.readouterr().err
    assert main(["plan", "--out", str(tmp_path / "none")]) == 1
    (tmp_path / "plan.json").write_text("{}")
    assert main([*command[:4], str(tmp_path / "other"), "--no-trial"]) == 1
    assert not (tmp_path / "other").exists()
