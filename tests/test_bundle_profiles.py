"""The bundles of profiles: their tasks, and models of components."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from samples_of_bundles import check_profiles
from small_data import PROFILES
from workflows import (
    IN_THE_SECOND_BATCH,
    interrupt,
    workflow,
)


@pytest.mark.parametrize("bundle", PROFILES)
def test_profiles_are_imputed_scored_and_transferred(bundle, dataset, tmp_path):
    """The tasks run on a text matrix, genes x samples, that lacks genes of the model where it may. A model of genes
    without a graph does not impute."""
    own = {"graph_files": str(Path(dataset).parent / "links.tsv")} if bundle == "pathway_gnn" else {}
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "models"), "dataset_dir": dataset}
    workflow(bundle, ["train"], ["smoke"], **where, batch="batch", **own).run()
    source = anndata.read_h5ad(dataset)
    matrix = source.to_df().T
    matrix.iloc[:-3].to_csv(tmp_path / "panel.tsv", sep="\t")
    matrix.to_csv(tmp_path / "matrix.tsv", sep="\t")
    source.obs.to_csv(tmp_path / "obs.csv")
    common = {"kind": "infer", "checkpoint": str(tmp_path / "models/model.pt"), "transposed": True}

    if bundle == "pathway_gnn":
        check_imputation(bundle, source, tmp_path, common)
    else:
        options = {"dataset_dir": str(tmp_path / "panel.tsv"), "output_dir": str(tmp_path / "imputed")}
        with pytest.raises(RuntimeError) as refused:
            workflow(bundle, ["inference", "impute"], ["smoke"], **common, **options).run()
        assert "components.json" in str(refused.value.__cause__)

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


def check_imputation(bundle: str, source: anndata.AnnData, tmp_path: Path, common: dict) -> None:
    """Measured genes stay, others have a standard deviation; after Ctrl-C the complete draws are written."""
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


@pytest.mark.parametrize("bundle", ["bulk_expression_mlp"])
@pytest.mark.parametrize("shaped", [False, True])
def test_a_model_of_components_generates_and_imputes(bundle, shaped, dataset, tmp_path):
    """The statistics alone give inference the units of the model; without means of groups it does not impute."""
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
        assert "Train a model with --normal_scores False --group_means False" in str(caught.value.__cause__)
        return
    workflow(bundle, ["inference", "impute"], ["smoke"], **options).run()
    imputed, source = anndata.read_h5ad(tmp_path / "made/imputed.h5ad"), anndata.read_h5ad(dataset)
    measured = imputed.var["observed"].to_numpy()
    np.testing.assert_allclose(imputed.X[:, measured], source.X[:, measured], rtol=1e-5)
    assert (imputed.layers["std"][:, ~measured] > 0).all()
