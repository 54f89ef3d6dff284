"""Every bundle: valid, consistent, and run as a user runs it, on synthetic data and through the command line."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out
from PIL import Image

from monai_diffscore.command_line import find_cause
from monai_diffscore.data import infer_schema, read_table
from monai_diffscore.errors import DataError
from monai_diffscore.samples.chests import ct_phantom
from monai_diffscore.samples.simulated_expression import simulate_expression
from monai_diffscore.transforms import WINDOWS_HU, TableSchema, measure_encoding

ROOT = Path(__file__).parent.parent
BUNDLES = sorted(path.parent.parent.name for path in ROOT.glob("bundles/*/configs/metadata.json"))
OVERLAYS = sorted(path.stem for path in (ROOT / "configs").glob("*.json") if path.stem != "smoke")
ORGANS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("bundles/ct_*/configs/organ_*.json"))
# these change a training alone, and are tested in test_ddp.py and test_tracking.py
TRAINING_OVERLAYS = {"multi_gpu", "fsdp", "tracking_server", "register_model"}
# what a training on three types of cells writes beside its weights
CELL_FACTS = {
    "latent_size": 24,
    "zero_inflation": False,
    "num_genes": 12,
    "num_labels": 3,
    "num_batches": 0,
    "label_counts": [1, 1, 1],
    "covariates": {},
    "fields": {
        "label": "bulk_labels",
        "batch": None,
        "genes": [f"gene{number}" for number in range(12)],
        "labels": ["B", "NK", "T"],
    },
}
# these belong to images
IMAGE_OVERLAYS = {"network_dit"}
ARRAYS = ("natural_dit2d", "signal_dit1d")
PROFILES = ("bulk_expression_mlp", "pathway_gnn")
each_bundle = pytest.mark.parametrize("bundle", BUNDLES)
GENES = [f"G{number + 1:04d}" for number in range(400)]
PROFILE_FACTS = {
    "sigma_data": 1.0, "num_genes": 400, "num_features": 400, "categories": {}, "rows": 24, "components": None,
    "mean": [0.0] * 400, "std": [1.0] * 400, "fields": {"content": "continuous", "genes": GENES},
    "graph": {
        "genes": GENES, "sets": [], "kinds": ["link"], "edges": [[0, 1], [1, 2]], "weights": [1, 1], "relations": [0, 0]
    },
}  # fmt: skip

TOP_LEVEL = {
    "train": """bundle_root dataset_dir output_dir ckpt_dir seed device max_epochs batch_size num_workers learning_rate
        save_every tracking_uri run_name sigma_data condition_keys network_def network loss optimizer ema train validate
        initialize run training finalize""",
    "inference": """bundle_root dataset_dir output_dir checkpoint seed device num_samples steps sampler network_def
        inferer preprocessing postprocessing evaluator run sampling""",
}


def configuration(bundle: str, name: str) -> dict:
    def refuse_duplicates(pairs):
        keys = [key for key, _ in pairs]
        assert len(set(keys)) == len(keys), f"{bundle}/{name}.json: a key twice among {keys}"
        return dict(pairs)

    text = (ROOT / f"bundles/{bundle}/configs/{name}.json").read_text()
    return json.loads(text, object_pairs_hook=refuse_duplicates)


def workflow(
    bundle: str, names: list[str], overlays: list[str] = (), kind: str = "train", **overrides
) -> ConfigWorkflow:
    folder = ROOT / "bundles" / bundle / "configs"
    files = [*(folder / f"{name}.json" for name in names), *(ROOT / f"configs/{overlay}.json" for overlay in overlays)]
    made = ConfigWorkflow(
        [str(file) for file in files],
        meta_file=str(folder / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(folder.parent),
        **overrides,
    )
    made.initialize()
    return made


def interrupt(made: ConfigWorkflow, step: int) -> None:
    """Runs until Ctrl-C comes in a step of the sampler, counted over all draws and batches."""
    steps = itertools.count(1)

    def press(_step):
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)

    made.parser.get_parsed_content("inferer").callback = press
    with pytest.raises(KeyboardInterrupt):
        made.run()


#: two draws in two steps each: Ctrl-C in the first step of the second draw of the second batch of two
IN_THE_SECOND_BATCH = 7


def spatial_dims(bundle: str) -> int:
    return len(configuration(bundle, "metadata")["network_data_format"]["inputs"]["image"]["spatial_shape"])


@pytest.fixture
def dataset(bundle: str, write_volume, write_slide, tmp_path: Path) -> str:
    """Data of the bundle's kind: three small synthetic subjects, slides or sequences, labelled images, or a toy."""
    if bundle == "toy2d_mlp":
        return "moons"
    if bundle == "scrna_attention":
        return write_cells(tmp_path / "data.h5ad")
    if bundle == "tabular_mlp":
        return write_clinical(tmp_path / "clinical.csv")
    if bundle in PROFILES:
        return write_profiles(tmp_path / "simulated_profiles")
    if bundle in ARRAYS:
        (tmp_path / "data").mkdir()
        generator = np.random.default_rng(0)
        if bundle == "natural_dit2d":
            np.save(tmp_path / "data/images.npy", generator.integers(0, 256, (15, 8, 8), dtype=np.uint8))
            np.save(tmp_path / "data/labels.npy", np.arange(15) % 4 - 1)
        else:
            np.save(tmp_path / "data/sequences.npy", 5 + np.cumsum(generator.normal(size=(3, 400)), axis=1))
        return str(tmp_path / "data")
    if bundle == "pathology_hierarchical_unet":
        for seed in range(3):
            write_slide(f"data/slide-{seed}.tif", seed=seed)
        return str(tmp_path / "data")
    for seed in range(3):
        array = ct_phantom(seed, (48, 44, 40), 8.0)[0] if bundle.startswith("ct_") else None
        write_volume(f"data/sub-{seed}/anat.nii.gz", seed=seed, array=array)
    return str(tmp_path / "data")


def write_cells(path: Path) -> str:
    """Sixty cells of three types with counts of twelve genes, and totals of more genes than these."""
    import anndata
    import pandas as pd

    generator = np.random.default_rng(0)
    kinds = np.arange(60) % 3
    counts = generator.poisson(1 + 3 * (np.arange(12) % 3 == kinds[:, None])).astype(np.float32)
    obs = pd.DataFrame(
        {"bulk_labels": pd.Categorical(np.array(["B", "NK", "T"])[kinds]), "n_counts": 100.0 + counts.sum(1)},
        index=[f"cell{number}" for number in range(60)],
    )
    var = pd.DataFrame(index=[f"gene{number}" for number in range(12)])
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(path)
    return str(path)


def write_clinical(path: Path) -> str:
    """Sixty patients: whole numbers, decimals with gaps, stages with gaps, an outcome, markers up to 30 axes."""
    clinical().to_csv(path, index=False)
    return str(path)


def clinical() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": generator.integers(20, 90, 60),
            "bmi": generator.normal(27, 4, 60).round(1),
            "stage": generator.choice(["I", "II", "III"], 60),
            "outcome": np.where(np.arange(60) % 3, "alive", "dead"),
            **{f"marker{number}": generator.normal(size=60).round(3) for number in range(22)},
        }
    )
    frame.loc[::7, "bmi"] = np.nan
    frame.loc[::5, "stage"] = None
    return frame


def table_facts() -> dict:
    """What a training on them writes beside its weights."""
    schema = infer_schema(clinical(), "outcome")
    return measure_encoding(schema, schema.numbers(clinical())).as_dict()


def write_profiles(folder: Path) -> str:
    """24 simulated profiles of 400 genes with group and batch, and the graph that they come from."""
    values, obs, edges = simulate_expression(genes=400, samples=24)
    folder.mkdir()
    anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(GENES))).write_h5ad(folder / "expression.h5ad")
    rows = [f"{GENES[a]}\t{GENES[b]}\n" for a, b in edges.T]
    (folder / "links.tsv").write_text("source\ttarget\n" + "".join(rows))
    return str(folder / "expression.h5ad")


# ---- what stands in the files ----


@each_bundle
def test_train_and_inference_share_the_network(bundle):
    train, inference = configuration(bundle, "train"), configuration(bundle, "inference")
    for key in ("network_def", "preconditioning", "autocast_dtype", "amp"):
        assert train[key] == inference[key]


@each_bundle
@pytest.mark.parametrize("name", TOP_LEVEL)
def test_the_names_that_users_lean_on_are_there(bundle, name):
    assert set(TOP_LEVEL[name].split()) <= set(configuration(bundle, name))


@each_bundle
def test_metadata_is_complete(bundle):
    metadata = configuration(bundle, "metadata")
    required = """schema version monai_version pytorch_version numpy_version required_packages_version task description
        authors copyright network_data_format"""
    assert set(required.split()) <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    data_format = metadata["network_data_format"]
    assert next(iter(data_format["inputs"])) == "image"
    assert next(iter(data_format["outputs"])) == "pred"
    for tensor in (data_format["inputs"]["image"], data_format["outputs"]["pred"]):
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= set(tensor)


@each_bundle
def test_bundles_hold_no_code_and_all_that_belongs(bundle):
    folder = ROOT / "bundles" / bundle
    assert not list(folder.rglob("*.py"))
    for name in ("LICENSE", "configs/logging.conf", "configs/evaluate.json", "docs/README.md"):
        assert (folder / name).is_file()


@each_bundle
@pytest.mark.parametrize("kind", ["train", "infer"])
def test_monai_finds_its_properties(bundle, kind, tmp_path, dataset):
    if kind == "train":
        made = workflow(
            bundle, ["train"], ["smoke"], output_dir=str(tmp_path / "o"), ckpt_dir=str(tmp_path), dataset_dir=dataset
        )
    else:
        facts = {
            "sigma_data": 0.5,
            "low": 0.0,
            "high": 1.0,
            "spacing_mm": [1.0] * spatial_dims(bundle),
            "mpp_um": 0.5,
            "tile_size": 64,
            "image_size": [8, 8],
            "window_size": [256],
            "channels": 1,
            "num_classes": 10,
            **CELL_FACTS,
        }
        if bundle in PROFILES:
            facts = PROFILE_FACTS
        if bundle == "tabular_mlp":
            facts = table_facts()
        (tmp_path / "data_statistics.json").write_text(json.dumps(facts))
        made = workflow(bundle, ["inference"], ["smoke"], kind="infer", checkpoint=str(tmp_path / "model.pt"))
    assert made.check_properties() == []


# ---- runs ----


@each_bundle
def test_train_sample_evaluate(bundle, dataset, tmp_path):
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "models"), "dataset_dir": dataset}
    # sampling takes it from the training, not from its own file
    changed = {
        "toy2d_mlp": {},
        "pathology_hierarchical_unet": {"mpp_um": 0.6},
        "natural_dit2d": {"num_classes": 3},
        "signal_dit1d": {"window_size": [128]},
        "scrna_attention": {"latent_size": 6},
        "bulk_expression_mlp": {"batch": "batch"},
        "tabular_mlp": {"label": "outcome"},
        "pathway_gnn": {"batch": "batch", "graph_files": str(Path(dataset).parent / "links.tsv")},
    }
    where |= changed.get(bundle, {"spacing_mm": [2.5] * spatial_dims(bundle)})
    training = workflow(bundle, ["train"], ["smoke"], **where)
    training.run()
    iterations = training.parser.get_parsed_content("train#trainer").state.iteration
    validations = [json.loads(line) for line in (tmp_path / "out/validation.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in validations] == [0, iterations]
    client = MlflowClient(f"sqlite:///{tmp_path}/out/mlruns.db")
    (run,) = client.search_runs([client.get_experiment_by_name("monai_diffscore").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith(bundle)
    assert float(run.data.params["sigma_data"]) > 0
    assert run.data.metrics["denoising_error"] == pytest.approx(validations[-1]["denoising_error"])

    samples = workflow(
        bundle,
        ["inference"],
        ["smoke"],
        kind="infer",
        checkpoint=str(tmp_path / "models/model.pt"),
        output_dir=str(tmp_path / "samples"),
    )
    samples.run()
    trained = torch.load(tmp_path / "models/model.pt", weights_only=True)
    loaded = samples.parser.get_parsed_content("network").state_dict()
    assert all((trained[key] == loaded[key].cpu()).all() for key in trained)
    assert loaded["preconditioning.sigma_data"].item() == pytest.approx(float(run.data.params["sigma_data"]))
    assert (tmp_path / "samples/gallery.png").stat().st_size > 4_000
    check = {
        "toy2d_mlp": check_rows,
        "pathology_hierarchical_unet": check_tiles,
        "natural_dit2d": check_pictures,
        "signal_dit1d": check_sequences,
        "scrna_attention": check_cells,
        "tabular_mlp": check_table,
        **dict.fromkeys(PROFILES, check_profiles),
    }.get(bundle, check_volumes)
    check(tmp_path / "samples", json.loads((tmp_path / "models/data_statistics.json").read_text()))

    evaluation = workflow(
        bundle, ["train", "evaluate"], ["smoke"], likelihood_cases=1, **where,
        **{"likelihood_sigmas#steps": 4},
    )  # fmt: skip
    evaluation.run()
    error, likelihood = [json.loads(line) for line in (tmp_path / "out/evaluation.jsonl").read_text().splitlines()]
    assert error["denoising_error"] == pytest.approx(validations[-1]["denoising_error"], rel=0.02)
    assert np.isfinite(likelihood["negative_log_likelihood_nats_per_dim"])


def check_volumes(folder: Path, statistics: dict) -> None:
    files = sorted(folder.glob("*.nii.gz"))
    assert len(files) == 2
    for file in files:
        image = nib.load(file)
        if image.shape[2] == 1:  # a slice
            assert image.shape == (96, 96, 1, 1)
            affine = [[2.5, 0, 0, -118.75], [0, 2.5, 0, -118.75], [0, 0, 1, 0], [0, 0, 0, 1]]
        else:
            assert image.shape == (32, 32, 32)
            affine = [[2.5, 0, 0, -38.75], [0, 2.5, 0, -38.75], [0, 0, 2.5, -38.75], [0, 0, 0, 1]]
        np.testing.assert_allclose(image.affine, affine)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        voxels = image.get_fdata()
        assert statistics["low"] <= voxels.min() < voxels.max() <= statistics["high"] + 1e-3
        assert voxels.std() > 0


@pytest.mark.parametrize("bundle", ["pathology_hierarchical_unet"])
def test_tiles_are_sampled_for_the_surroundings_of_real_ones(bundle, dataset, tmp_path):
    """Contexts reach the network, with the slides' tiles: fewer of them than asked give as many samples."""
    (tmp_path / "data_statistics.json").write_text('{"sigma_data": 0.5, "mpp_um": 0.6, "tile_size": 64}')
    where = {"checkpoint": str(tmp_path / "model.pt"), "context_dir": dataset, "output_dir": str(tmp_path / "out")}
    samples = workflow(bundle, ["inference"], ["smoke"], kind="infer", **where)
    network = samples.parser.get_parsed_content("network")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    seen = []
    network.register_forward_pre_hook(lambda _module, _args, given: seen.append(given["context"]), with_kwargs=True)
    samples.run()
    assert len(list((tmp_path / "out").glob("pred_*.png"))) == 2
    assert seen[0].shape == (2, 3, 64, 64)
    known = seen[0][~seen[0].isnan()]
    assert -1 <= known.min() < known.max() <= 1
    assert 0 < len(known) < seen[0].numel()  # beyond the slide it is missing


def check_tiles(folder: Path, statistics: dict) -> None:
    files = sorted(folder.glob("pred_*.png"))
    assert len(files) == 2
    for file in files:
        with Image.open(file) as picture:
            assert (picture.mode, picture.size) == ("RGB", (64, 64))
            assert 25_400 / picture.info["dpi"][0] == pytest.approx(0.6, rel=1e-3)
            assert np.asarray(picture).std() > 0


def check_pictures(folder: Path, statistics: dict) -> None:
    assert statistics["classes"] == ["0", "1", "2"]
    images = np.load(folder / "samples.npy")
    assert images.shape == (2, 1, 8, 8)
    assert np.load(folder / "labels.npy").tolist() == [-1, -1]  # of any class
    assert 0 <= images.min() < images.max() <= 255
    for image, file in zip(images, sorted(folder.glob("pred_*.png")), strict=True):
        with Image.open(file) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), np.rint(image[0]))


def check_sequences(folder: Path, statistics: dict) -> None:
    sequences = np.load(folder / "samples.npy")
    assert sequences.shape == (2, 1, 128)
    assert statistics["low"] <= sequences.min() < sequences.max() <= statistics["high"] + 1e-3
    assert sequences.std() > 0


def check_cells(folder: Path, statistics: dict) -> None:
    import anndata

    cells = anndata.read_h5ad(folder / "cells.h5ad")
    assert cells.shape == (2, 12)
    assert sorted(statistics["label_counts"]) == [19, 20, 20]  # of 60: a cell, two in a hundred, is held out
    assert list(cells.obs["bulk_labels"].cat.categories) == ["B", "NK", "T"]
    assert cells.obs["synthetic"].all()
    assert cells.layers["counts"].dtype == np.int32
    assert cells.obsm["X_score_latent"].shape == (2, 7)
    assert cells.uns["monai_diffscore"]["model_hash"].startswith("sha256:")


@pytest.mark.parametrize("bundle", ["scrna_attention"])
def test_tasks_of_cells_run_from_their_overlays(bundle, dataset, tmp_path):
    import anndata

    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    workflow(bundle, ["train", "autoencoder"], ["smoke"], **where).run()  # the first stage by itself
    assert (tmp_path / "autoencoder.pt").is_file()
    assert not (tmp_path / "model.pt").exists()
    workflow(bundle, ["train"], ["smoke"], **where).run()  # goes on with it
    lines = [json.loads(line) for line in (tmp_path / "out/first_stage.jsonl").read_text().splitlines()]
    assert lines[1] == lines[2]  # it was not trained further
    assert lines[0]["iteration"] == 0 < lines[1]["iteration"]
    where = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "cells")}
    asked = {"cells_per_type": {"T": 3, "B": 1}, "library_size": 300.0}
    workflow(bundle, ["inference", "generate"], ["smoke"], kind="infer", **where, **asked).run()
    cells = anndata.read_h5ad(tmp_path / "cells/cells.h5ad")
    assert cells.obs["bulk_labels"].tolist() == ["B", "T", "T", "T"]
    assert (cells.obs["n_counts"] == 300).all()
    where["dataset_dir"] = dataset
    for task, options in (("impute", {}), ("likelihood", {}), ("batch_transfer", {"target": {"label": "NK"}})):
        workflow(bundle, ["inference", task], ["smoke"], kind="infer", **where, most_cells=8, **options).run()
    real = anndata.read_h5ad(dataset)[:8]
    imputed = anndata.read_h5ad(tmp_path / "cells/imputed.h5ad")
    observed = imputed.var["observed"].to_numpy()
    assert 0 < observed.sum() < 12
    np.testing.assert_array_equal(imputed.layers["counts"].toarray()[:, observed], real.X[:, observed])
    assert json.loads((tmp_path / "cells/imputation.json").read_text())["hidden_genes"] == 12 - observed.sum()
    assert json.loads((tmp_path / "cells/imputation.json").read_text())["draws"] == 4
    where["output_dir"] = str(tmp_path / "stopped")
    stopped = workflow(bundle, ["inference", "impute"], ["smoke"], kind="infer", **where, most_cells=8, draws=2)
    interrupt(stopped, IN_THE_SECOND_BATCH)
    cut = anndata.read_h5ad(tmp_path / "stopped/imputed.h5ad")
    assert cut.obs["draws"].tolist() == [2, 2, 1, 1]
    assert np.isnan(cut.layers["imputed_std"]).any(1).tolist() == [False, False, True, True]
    assert np.isfinite(cut.layers["imputed_mean"]).all()
    report = json.loads((tmp_path / "stopped/imputation.json").read_text())
    assert (report["cells"], report["draws"]) == (4, 1)
    where["output_dir"] = str(tmp_path / "cells")
    rows = (tmp_path / "cells/cells.csv").read_text().splitlines()
    assert len(rows) == 9
    transferred = anndata.read_h5ad(tmp_path / "cells/transferred.h5ad")
    assert transferred.shape == (8, 12)


@pytest.mark.parametrize("bundle", ["scrna_attention"])
def test_modules_of_cells_attend_to_their_gene_sets_alone(bundle, dataset, tmp_path):
    """Trained and sampled through JSON; inference has the network from the weights' folder, without the file."""
    file = tmp_path / "sets.gmt"
    file.write_text("LATE\turl\tgene9\tgene7\tgene8\nEARLY\turl\tgene0\tgene1\tgene7\tABSENT\n")
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    workflow(bundle, ["train"], ["smoke"], **where, gene_sets_path=str(file)).run()
    file.write_text(file.read_text().replace("gene9", "gene10"))
    with pytest.raises(RuntimeError) as refused:  # not continued with other sets
        workflow(bundle, ["train"], ["smoke"], **where, gene_sets_path=str(file)).run()
    assert "other data (gene_sets: " in str(refused.value.__cause__)
    file.unlink()
    made = workflow(
        bundle, ["inference"], ["smoke"], kind="infer", checkpoint=str(tmp_path / "model.pt"), output_dir=str(tmp_path)
    )
    made.run()
    assert anndata.read_h5ad(tmp_path / "cells.h5ad").shape == (2, 12)
    autoencoder = made.parser.get_parsed_content("autoencoder")
    seen = [{0, 1, 7}, {7, 8, 9}, {2, 3, 4, 5, 6, 10, 11}]  # the last: in no set
    x = torch.randn(1, 12, requires_grad=True)
    modules = autoencoder.pooling(x)
    assert modules.shape[-1] == len(seen)
    for module, genes in enumerate(seen):
        (gradient,) = torch.autograd.grad(modules[..., module].square().sum(), x, retain_graph=True)
        assert set(gradient[0].nonzero().flatten().tolist()) == genes
    latent = autoencoder.encode(x.exp(), torch.tensor([1e3]))
    assert (torch.autograd.grad(latent[:, :-1].square().sum(), x)[0] != 0).all()  # together they see all genes


def check_table(folder: Path, statistics: dict) -> None:
    """Whole numbers whole, in range, with the label; weights named beside."""
    table = read_table(folder / "table.csv")
    schema = TableSchema.from_dict(statistics["schema"])
    assert list(table) == ["synthetic", *clinical()]
    assert table["synthetic"].all()
    numbers = schema.numbers(table)  # raises for what the schema does not allow
    assert numbers.shape == (2, 25)
    assert (schema.label_numbers(table) >= 0).all()
    assert json.loads((folder / "table.provenance.json").read_text())["model_hash"].startswith("sha256:")


@pytest.mark.parametrize("bundle", ["tabular_mlp"])
def test_tables_are_completed_and_scored(bundle, dataset, tmp_path):
    """Gaps are filled, also in a column that had none in training; whatever was given stays; a label may be missing."""
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    workflow(bundle, ["train"], ["smoke"], label="outcome", **where).run()
    given = clinical().drop(columns="outcome").assign(note="kept")
    given["age"] = given["age"].astype(float).mask(given.index < 4)
    given.to_csv(tmp_path / "gaps.csv", index=False)
    where = {"kind": "infer", "checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "made")}
    workflow(bundle, ["inference", "impute"], ["smoke"], dataset_dir=str(tmp_path / "gaps.csv"), draws=2, **where).run()
    made, cells = read_table(tmp_path / "made/imputed.csv"), read_table(tmp_path / "made/cells.csv")
    assert list(made) == list(given)
    assert made.notna().all().all()
    assert (made["age"] == made["age"].round()).all()
    for name in given:
        there = given[name].notna()
        assert (made[name][there] == given[name][there]).all()
    report = json.loads((tmp_path / "made/imputation.json").read_text())
    assert len(cells) == given.isna().sum().sum() + report["hidden_cells"]
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
    """No validation, and no held-out rows: what was trained on is not taken for them."""
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
    assert len(read_table(tmp_path / "made/table.csv")) == 2


@pytest.mark.parametrize("bundle", ["tabular_mlp"])
def test_an_edited_schema_is_taken_and_a_label_may_be_a_number(bundle, dataset, tmp_path, caplog):
    """The schema of a first training, less two columns, with a wider range and another label."""
    where = {"ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    made = workflow(bundle, ["train"], ["smoke"], output_dir=str(tmp_path / "first"), label="outcome", **where)
    with caplog.at_level("INFO"):
        made.run()
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


def check_profiles(folder: Path, statistics: dict) -> None:
    """In the units of the data, with the conditions, as a table and as AnnData."""
    table, made = pd.read_csv(folder / "profiles.csv", index_col=0), anndata.read_h5ad(folder / "profiles.h5ad")
    assert list(made.var_names) == GENES == statistics["fields"]["genes"]
    assert list(table["group"]) == list(made.obs["group"]) == ["case", "control"]
    np.testing.assert_allclose(table[GENES].to_numpy(), made.X, rtol=1e-4)
    assert (np.abs(made.X - statistics["mean"]) < 8 * np.array(statistics["std"])).all()
    assert made.X.std(0).min() > 0
    assert made.uns["monai_diffscore"]["model_hash"].startswith("sha256:")


@pytest.mark.parametrize("bundle", PROFILES)
def test_profiles_are_imputed_scored_and_transferred(bundle, dataset, tmp_path):
    """The tasks run on a text matrix, genes x samples, that lacks genes of the model where it may."""
    own = {"graph_files": str(Path(dataset).parent / "links.tsv")} if bundle == "pathway_gnn" else {}
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "models"), "dataset_dir": dataset}
    workflow(bundle, ["train"], ["smoke"], **where, batch="batch", **own).run()
    source = anndata.read_h5ad(dataset)
    matrix = source.to_df().T
    matrix.iloc[:-3].to_csv(tmp_path / "panel.tsv", sep="\t")
    matrix.to_csv(tmp_path / "matrix.tsv", sep="\t")
    source.obs.to_csv(tmp_path / "obs.csv")
    common = {"kind": "infer", "checkpoint": str(tmp_path / "models/model.pt"), "transposed": True}

    folder = tmp_path / "imputed"
    options = {"dataset_dir": str(tmp_path / "panel.tsv"), "output_dir": str(folder), "draws": 2}
    workflow(bundle, ["inference", "impute"], ["smoke"], **common, **options).run()
    imputed, report = anndata.read_h5ad(folder / "imputed.h5ad"), json.loads((folder / "imputation.json").read_text())
    measured = imputed.var["observed"].to_numpy()
    np.testing.assert_allclose(imputed.X[:, measured], source.X[:, measured], rtol=1e-5)
    assert not measured[-3:].any()
    assert (imputed.layers["std"][:, ~measured] > 0).all()
    assert report["hidden_genes"] == int((~measured).sum()) - 3
    assert np.isfinite(report["rmse"])
    assert (imputed.obs["draws"] == report["draws"]).all()
    stopped = workflow(bundle, ["inference", "impute"], ["smoke"], **common, **{**options, "output_dir": str(tmp_path)})
    interrupt(stopped, IN_THE_SECOND_BATCH)
    cut, report = anndata.read_h5ad(tmp_path / "imputed.h5ad"), json.loads((tmp_path / "imputation.json").read_text())
    assert cut.obs["draws"].tolist() == [2, 2, 1, 1]
    assert report["draws"] == 1
    np.testing.assert_allclose(cut.X[:2], imputed.X[:2], rtol=1e-4)
    assert np.isnan(cut.layers["std"][:, ~measured]).all(1).tolist() == [False, False, True, True]

    options = {"dataset_dir": str(tmp_path / "matrix.tsv"), "obs_path": str(tmp_path / "obs.csv")}
    likelihood = {"output_dir": str(tmp_path / "scored"), "likelihood_sigmas#steps": 4}
    workflow(bundle, ["inference", "likelihood"], ["smoke"], **common, **options, **likelihood).run()
    assert np.isfinite(pd.read_csv(tmp_path / "scored/profiles.csv")["nats_per_dim"]).all()

    folder = tmp_path / "transferred"
    options |= {"output_dir": str(folder), "target_batch": "batch2", "steps": 24}
    workflow(bundle, ["inference", "batch_transfer"], **common, **options).run()
    moved = anndata.read_h5ad(folder / "transferred.h5ad")
    assert moved.shape == source.shape
    assert np.corrcoef(moved.X.ravel(), source.X.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("bundle", ["bulk_expression_mlp"])
@pytest.mark.parametrize("shaped", [False, True])
def test_a_model_of_components_generates_and_imputes(bundle, shaped, dataset, tmp_path):
    """Statistics alone tell inference what the model works in; without the means of groups it does not impute."""
    shape = {"normal_scores": shaped, "group_means": shaped, "components": 0.4 if shaped else 5}
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "models"), "dataset_dir": dataset}
    workflow(bundle, ["train", "components"], ["smoke"], **where, **shape).run()
    other = {**shape, "normal_scores": not shaped}
    with pytest.raises(RuntimeError) as refused:
        workflow(bundle, ["train", "components"], ["smoke"], **where, **other).run()
    assert "normal_scores" in str(refused.value.__cause__)  # the same numbers in another space
    statistics = json.loads((tmp_path / "models/data_statistics.json").read_text())
    assert statistics["num_features"] == (int(0.4 * statistics["rows"]) if shaped else 5)
    common = {"kind": "infer", "checkpoint": str(tmp_path / "models/model.pt"), "output_dir": str(tmp_path / "made")}
    workflow(bundle, ["inference"], **common, num_samples=2).run()
    check_profiles(tmp_path / "made", statistics)
    options = {**common, "dataset_dir": dataset, "draws": 2}
    if shaped:
        with pytest.raises(RuntimeError) as caught:
            workflow(bundle, ["inference", "impute"], ["smoke"], **options).run()
        assert "Train one with normal_scores and group_means false" in str(caught.value.__cause__)
        return
    workflow(bundle, ["inference", "impute"], ["smoke"], **options).run()
    imputed, source = anndata.read_h5ad(tmp_path / "made/imputed.h5ad"), anndata.read_h5ad(dataset)
    measured = imputed.var["observed"].to_numpy()
    np.testing.assert_allclose(imputed.X[:, measured], source.X[:, measured], rtol=1e-5)
    assert (imputed.layers["std"][:, ~measured] > 0).all()


@pytest.mark.parametrize("bundle", ARRAYS)
def test_the_network_takes_an_image_alone_and_exports(bundle, tmp_path):
    """What the model zoo checks: shape and type as the metadata say, for several n; weights to TorchScript."""
    folder = ROOT / "bundles" / bundle
    facts = {"sigma_data": 0.5, "low": 0, "high": 1, "image_size": [8, 8], "window_size": [256], "channels": 1}
    (tmp_path / "data_statistics.json").write_text(json.dumps({**facts, "num_classes": 10}))
    files = {
        "meta_file": str(folder / "configs/metadata.json"), "config_file": str(folder / "configs/inference.json")
    }  # fmt: skip
    checkpoint = str(tmp_path / "model.pt")
    made = workflow(bundle, ["inference"], kind="infer", checkpoint=checkpoint)
    network = made.parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), checkpoint)
    for n in (1, 2, 5):
        verify_net_in_out("network_def", **files, device="cpu", n=n, checkpoint=checkpoint)
    ckpt_export(
        "network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=checkpoint, **files, checkpoint=checkpoint,
        input_shape=[1, *network.network.example_shape],
    )  # fmt: skip
    image = torch.randn(3, *network.network.example_shape)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), network(image), rtol=1e-2, atol=1e-2)


def test_a_folder_of_colour_pictures_trains_and_samples(tmp_path):
    """Of several sizes, in sub-folders of their classes; sampling takes size and channels from the training."""
    generator = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / f"data/{'cat' if number % 2 else 'dog'}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (12 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": str(tmp_path / "data")}
    options = {"image_size": [12, 16], "channels": 3, "num_classes": 2}
    with pytest.raises(RuntimeError) as caught:
        workflow("natural_dit2d", ["train"], ["smoke"], **where, **options)
    assert "--fit true" in str(find_cause(caught.value))
    assert not (tmp_path / "out").exists()
    workflow("natural_dit2d", ["train"], ["smoke"], **where, **options, fit=True).run()
    assert json.loads((tmp_path / "data_statistics.json").read_text())["classes"] == ["cat", "dog"]
    where = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "samples")}
    workflow("natural_dit2d", ["inference"], ["smoke"], kind="infer", **where, label=1).run()
    with Image.open(tmp_path / "samples/pred_0001.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (16, 12))


@pytest.mark.parametrize("bundle", ["natural_dit2d"])
def test_a_class_is_sampled_by_its_label(bundle, tmp_path):
    facts = {"sigma_data": 0.5, "low": 0, "high": 255, "image_size": [8, 8], "channels": 1, "num_classes": 10}
    (tmp_path / "data_statistics.json").write_text(json.dumps(facts))
    where = {"checkpoint": str(tmp_path / "model.pt"), "output_dir": str(tmp_path / "out")}
    for chosen, expected in (({}, -1), ({"label": 3}, 3)):
        samples = workflow(bundle, ["inference"], ["smoke"], kind="infer", **where, **chosen)
        network = samples.parser.get_parsed_content("network")
        torch.save(network.state_dict(), tmp_path / "model.pt")
        seen = []
        network.register_forward_pre_hook(lambda _module, _args, given, seen=seen: seen.append(given), with_kwargs=True)
        samples.run()
        assert [given["label"].tolist() for given in seen] == [[expected] * 2] * len(seen)


def check_rows(folder: Path, statistics: dict) -> None:
    rows = np.load(folder / "samples.npy")
    assert rows.shape == (2, 2)
    assert np.isfinite(rows).all()


@each_bundle
@pytest.mark.parametrize("overlay", [*OVERLAYS, "smoke"])
def test_overlays_change_ids_that_exist(bundle, overlay):
    """MONAI takes a misspelt top-level id without a word."""
    changes = json.loads((ROOT / f"configs/{overlay}.json").read_text())
    changed = {key.removeprefix("+").split("#")[0] for key in changes}
    everywhere = {key for name in BUNDLES for file in ("train", "inference") for key in configuration(name, file)}
    assert changed <= everywhere
    assert changed & (set(configuration(bundle, "train")) | set(configuration(bundle, "inference")))


@pytest.mark.parametrize("bundle", ["ct_unet3d", "ct_unet2d"])
def test_drawing_patches_leaves_the_cached_volume_alone(bundle, dataset, tmp_path):
    """The cache is not copied for each patch, because a copy grows with the volume."""
    made = workflow(bundle, ["train"], ["smoke"], output_dir=f"{tmp_path}/out", ckpt_dir=str(tmp_path),
                    dataset_dir=dataset, patches_per_volume=12, affine_probability=0.5,
                    flip_probability=0.5, noise_hu=10.0)  # fmt: skip
    drawn = made.parser.get_parsed_content("train#dataset")
    cached = drawn._cache[0]["image"]
    before = (cached.as_tensor().clone(), cached.affine.clone(), list(cached.applied_operations))
    patches = [drawn[index]["image"] for index in range(12)]
    assert torch.equal(cached.as_tensor(), before[0])
    assert torch.equal(cached.affine, before[1])
    assert len(cached.applied_operations) == len(before[2])
    assert all(-1 <= patch.min() < patch.max() <= 1 for patch in patches)
    assert len({float(patch.as_tensor().sum()) for patch in patches}) > 8  # a patch of air has no second look


@pytest.mark.parametrize("organ", ORGANS)
def test_organs_set_window_spacing_patch_and_augmentation(organ, tmp_path):
    """An organ is data: it changes ids that exist, all of those that differ by organ, and they reach the loader."""
    bundle, preset = organ.split("/")[1], json.loads((ROOT / organ).read_text())
    assert set(preset) <= set(configuration(bundle, "train"))
    assert set(preset) >= {"window_hu", "spacing_mm", "patch_size", "flip_probability", "noise_hu"}
    assert len(preset["spacing_mm"]) == len(preset["patch_size"]) == spatial_dims(bundle)
    image = nib.Nifti1Image(*ct_phantom(0, (48, 40, 32), 4.0))
    nib.save(image, tmp_path / "ct.nii.gz")
    made = workflow(bundle, ["train", Path(organ).stem], ["smoke"], output_dir=f"{tmp_path}/out",
                    ckpt_dir=str(tmp_path), dataset_dir=str(tmp_path / "ct.nii.gz"))  # fmt: skip
    patch = made.parser.get_parsed_content("train#dataset")[0]["image"]
    assert patch.shape == (1, *preset["patch_size"])
    low, high = WINDOWS_HU[preset["window_hu"]][0]
    assert patch.applied_operations[-1]["extra_info"] == {"low": low, "high": high}
    assert -1 <= patch.min() < patch.max() <= 1


@pytest.mark.parametrize(
    ("overlay", "preconditioning", "noise"),
    [("sde_vp", "VPP", "UniformTimeNoise"), ("sde_ve", "VEP", "LogUniformNoise"), ("sde_flow", "FlowP", "FlowSDE")],
)
@each_bundle
def test_overlays_take_effect(bundle, overlay, preconditioning, noise, tmp_path, dataset):
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    made = workflow(bundle, ["train"], [overlay, "smoke"], **where)
    assert type(made.parser.get_parsed_content("network").preconditioning).__name__.startswith(preconditioning)
    assert noise in repr(made.parser.get_parsed_content("loss").noise)


@pytest.mark.parametrize("bundle", ["toy2d_mlp"])
@pytest.mark.parametrize("overlay", sorted(set(OVERLAYS) - TRAINING_OVERLAYS - IMAGE_OVERLAYS))
def test_every_overlay_trains_and_samples(bundle, overlay, dataset, tmp_path):
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    workflow(bundle, ["train"], [overlay, "smoke"], **where).run()
    where = {"output_dir": str(tmp_path / "samples"), "checkpoint": str(tmp_path / "model.pt")}
    workflow(bundle, ["inference"], [overlay, "smoke"], kind="infer", **where).run()
    assert np.isfinite(np.load(tmp_path / "samples/samples.npy")).all()


@pytest.mark.parametrize("bundle", ["mri_unet3d", "ct_unet2d", "natural_dit2d", "pathology_hierarchical_unet"])
def test_another_network_takes_the_place_of_the_bundles_own(bundle, dataset, tmp_path):
    """The overlay network_dit declares no condition: a bundle that has one is told to leave it out."""
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path), "dataset_dir": dataset}
    conditions = configuration(bundle, "train")["condition_keys"]
    made = workflow(bundle, ["train"], ["network_dit", "checkpointing", "smoke"], condition_keys=[], **where)
    network = made.parser.get_parsed_content("network").network
    assert type(network).__name__ == "ScoreDiT"
    assert network.checkpointing
    images = next(iter(made.parser.get_parsed_content("train#dataloader")))
    loss = made.parser.get_parsed_content("train#inferer")(images["image"], made.parser.get_parsed_content("network"))
    assert torch.isfinite(loss).all()
    if conditions:
        made = workflow(bundle, ["train"], ["network_dit", "smoke"], **where)
        with pytest.raises(RuntimeError) as caught:
            made.run()
        errors = [caught.value]
        while errors[-1].__cause__ is not None:
            errors.append(errors[-1].__cause__)
        assert "declares no condition" in str(errors[-1])


def two_sample_p_value(first: np.ndarray, second: np.ndarray, permutations: int = 400) -> float:
    """Permutation test on the maximum mean discrepancy (Gretton et al. 2012) at the scale of fine structure."""
    points = torch.from_numpy(np.concatenate([first, second])).double()
    kernel = torch.exp(-(torch.cdist(points, points) ** 2) / (2 * 0.15**2))
    count = len(first)

    def discrepancy(order):
        sign = torch.ones(2 * count, dtype=torch.float64)
        sign[order[count:]] = -1
        return sign @ kernel @ sign

    observed = discrepancy(torch.arange(2 * count))
    generator = torch.Generator().manual_seed(0)
    permuted = [discrepancy(torch.randperm(2 * count, generator=generator)) for _ in range(permutations)]
    return (1 + sum(value >= observed for value in permuted).item()) / (permutations + 1)


def test_the_two_sample_test_tells_a_blur_from_the_data():
    from monai_diffscore.data import toy_rows

    real, other = toy_rows("spiral", 500, 1).numpy(), toy_rows("spiral", 500, 2).numpy()
    noise = np.random.default_rng(0).normal(size=real.shape)
    assert two_sample_p_value(real, other) > 0.01
    assert two_sample_p_value(real, other + 0.15 * noise) < 0.01


@pytest.mark.slow
def test_the_toy_bundle_learns_its_distribution(tmp_path):
    """Trained through JSON for a minute, 500 samples and 500 new draws are not told apart."""
    from monai_diffscore.data import toy_rows

    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path)}
    workflow("toy2d_mlp", ["train"], time_limit_seconds=60, gallery_every=0, **where).run()
    lines = [json.loads(line) for line in (tmp_path / "out/validation.jsonl").read_text().splitlines()]
    assert lines[-1]["denoising_error"] < 0.8 * lines[0]["denoising_error"]  # 0.78 is what 15,600 iterations reach
    where = {"output_dir": str(tmp_path / "samples"), "checkpoint": str(tmp_path / "model.pt")}
    workflow("toy2d_mlp", ["inference"], kind="infer", num_samples=500, **where).run()
    samples = np.load(tmp_path / "samples/samples.npy")
    assert two_sample_p_value(samples, toy_rows("spiral", 500, seed=12345).numpy()) > 0.01


@pytest.mark.slow
def test_the_mri_bundle_learns_the_mni152_volume(tmp_path):
    """Held-out x0 error, EDM-weighted, falls at least twofold in 128 iterations."""
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path)}
    workflow("mri_unet3d", ["train"], max_epochs=4, val_interval=4, **where).run()
    lines = [json.loads(line) for line in (tmp_path / "out/validation.jsonl").read_text().splitlines()]
    assert lines[-1]["denoising_error"] < 0.5 * lines[0]["denoising_error"]


# ---- the command line ----


def command(bundle: str, run_id: str, config: str, *options: str) -> list[str]:
    files = [f"configs/{name}.json" for name in config.split(",")]
    files += [f"{ROOT}/configs/smoke.json"]
    return [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files), *options]


def run(bundle: str, run_id: str, config: str, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(bundle, run_id, config, *options),
        cwd=ROOT / "bundles" / bundle, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_from_the_command_line_both_ids_train_and_sample(tmp_path):
    options = ["--output_dir", f"{tmp_path}/out", "--ckpt_dir", f"{tmp_path}/models"]
    for run_id, epochs in (("training", 1), ("run", 3)):  # the second continues the first
        done = run("toy2d_mlp", run_id, "train", *options, "--max_epochs", str(epochs))
        assert done.returncode == 0, done.stderr[-2000:]
    assert "continuing at iteration 4" in done.stdout
    for run_id in ("sampling", "run"):
        where = ["--checkpoint", f"{tmp_path}/models/model.pt", "--output_dir", f"{tmp_path}/{run_id}"]
        done = run("toy2d_mlp", run_id, "inference", *where)
        assert done.returncode == 0, done.stderr[-2000:]
    first, second = (np.load(tmp_path / run_id / "samples.npy") for run_id in ("sampling", "run"))
    np.testing.assert_array_equal(first, second)


BAD_DATA = {
    "empty": (None, "expected NIfTI files"),
    "nan": (np.full((40, 40, 40), np.nan), "expected finite intensities"),
    "constant": (np.ones((40, 40, 40)), "expected an image with contrast"),
    "flat": (np.random.default_rng(0).normal(size=(40, 40)), "3-D volume"),
    "channels": (np.random.default_rng(0).normal(size=(40, 40, 40, 2)), "got 2 channels"),
    "unreadable": (b"not an image", "a readable 3-D volume"),
}


@pytest.fixture
def bad_data(name, tmp_path, write_volume) -> tuple[dict, str]:
    content, message = BAD_DATA[name]
    folder = tmp_path / "data"
    folder.mkdir()
    if isinstance(content, np.ndarray):
        write_volume("data/bad.nii.gz", array=content)
    elif content is not None:
        (folder / "bad.nii.gz").write_bytes(content)
    where = {"dataset_dir": str(folder), "output_dir": f"{tmp_path}/out", "ckpt_dir": f"{tmp_path}/models"}
    return where, message


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_refused_before_anything_is_written(name, bad_data, tmp_path):
    where, message = bad_data
    with pytest.raises(RuntimeError) as caught:
        workflow("mri_unet3d", ["train"], ["smoke"], **where)
    cause = find_cause(caught.value)
    assert isinstance(cause, DataError)
    assert message in str(cause)
    assert where["dataset_dir"] in str(cause)
    assert "key 'image'" in str(cause)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nan"])
def test_bad_data_ends_the_command_with_one_line(name, bad_data, tmp_path):
    where, message = bad_data
    done = run(
        "mri_unet3d", "training", "train", *[part for key, value in where.items() for part in (f"--{key}", value)]
    )
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1
    assert lines[-2].startswith("error: ")
    assert message in lines[-2]
    assert not [line for line in lines if line.startswith("Traceback")]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_a_mistyped_flag_ends_the_command_with_one_line(tmp_path):
    done = run("toy2d_mlp", "training", "train", "--max_epoch", "2", "--output_dir", str(tmp_path / "out"))
    line = done.stderr.strip().splitlines()[-2]
    assert done.returncode == 1
    assert line.startswith("error: --max_epoch overrides nothing")
    assert "did you mean --max_epochs" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sampling_before_training_says_what_to_do(tmp_path):
    done = run(
        "mri_unet3d", "sampling", "inference", "--checkpoint", f"{tmp_path}/model.pt", "--output_dir", f"{tmp_path}/out"
    )
    assert done.returncode == 1
    assert "Train first" in done.stderr.strip().splitlines()[-2]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ctrl_c_saves_closes_the_run_and_ends_with_one_line(tmp_path):
    options = ["--output_dir", str(tmp_path), "--ckpt_dir", str(tmp_path), "--max_epochs", "1000000"]
    with subprocess.Popen(
        command("toy2d_mlp", "training", "train", *options),
        cwd=ROOT / "bundles/toy2d_mlp", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = time.time() + 120
        while not (tmp_path / "validation.jsonl").exists() and time.time() < deadline:
            time.sleep(0.5)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.strip().splitlines()[-1].startswith("interrupted: the same command continues")
    assert "Traceback" not in stderr
    (checkpoint, *_) = sorted((tmp_path / "checkpoints").glob("iteration_*.pt"))[-1:]
    assert torch.load(checkpoint, weights_only=True)["engine"]["iteration"] > 0
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")
    (run_record,) = client.search_runs([client.get_experiment_by_name("monai_diffscore").experiment_id])
    assert run_record.info.status == "KILLED"


# ---- the scripts ----


@pytest.mark.parametrize("script", ["quickstart", "test", "docs"])
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--help"], 0, "usage: "),
        (["--colour"], 2, "unknown option '--colour'"),
        (["--venv"], 2, "needs a value"),
        (["--python", "no-such-python"], 2, "no such interpreter"),
    ],
)
def test_scripts_answer_with_one_clear_line(script, options, code, message):
    done = subprocess.run(
        [ROOT / "scripts" / script, *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == code
    if code:
        (line,) = done.stderr.strip().splitlines()
        assert message in line
    else:
        assert done.stdout.startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--minutes", "soon"], "positive number"), (["--data", "/no/such"], "no such file or folder")],
)
def test_quickstart_refuses_bad_values_at_once(options, message):
    done = subprocess.run(
        [ROOT / "scripts/quickstart", *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
def test_quickstart_trains_samples_and_tells(tmp_path):
    """In this environment instead of a new one; the whole of it otherwise."""
    environment = {**os.environ, "PIP_NO_BUILD_ISOLATION": ""}
    done = subprocess.run(
        [ROOT / "scripts/quickstart", "--minutes", "0.1", "--out", tmp_path / "out", "--venv", sys.prefix],
        capture_output=True, text=True, timeout=600, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "held-out denoising error" in done.stdout
    assert len(list((tmp_path / "out/samples").glob("*.nii.gz"))) == 4
    assert (tmp_path / "out/samples/gallery.png").is_file()
    assert (tmp_path / "out/mlruns.db").is_file()
