"""The bundle of cells: its tasks, its two stages, its gene sets."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
import torch
from workflows import (
    IN_THE_SECOND_BATCH,
    interrupt,
    workflow,
)


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
    workflow(bundle, ["train"], ["smoke"], **where, latent_size=6, gene_sets_path=str(file)).run()
    file.write_text(file.read_text().replace("gene9", "gene10"))
    with pytest.raises(RuntimeError) as refused:  # not continued with other sets
        workflow(bundle, ["train"], ["smoke"], **where, latent_size=6, gene_sets_path=str(file)).run()
    assert "other data (gene_sets: " in str(refused.value.__cause__)
    file.unlink()
    training = workflow(
        bundle, ["inference"], ["smoke"], kind="infer", checkpoint=str(tmp_path / "model.pt"), output_dir=str(tmp_path)
    )
    training.run()
    cells = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert cells.shape == (2, 12)
    assert cells.obsm["X_score_latent"].shape == (2, 7)  # as trained, not as in inference.json
    autoencoder = training.parser.get_parsed_content("autoencoder")
    seen = [{0, 1, 7}, {7, 8, 9}, {2, 3, 4, 5, 6, 10, 11}]  # the last: in no set
    x = torch.randn(1, 12, requires_grad=True)
    modules = autoencoder.pooling(x)
    assert modules.shape[-1] == len(seen)
    for module, genes in enumerate(seen):
        (gradient,) = torch.autograd.grad(modules[..., module].square().sum(), x, retain_graph=True)
        assert set(gradient[0].nonzero().flatten().tolist()) == genes
    latent = autoencoder.encode(x.exp(), torch.tensor([1e3]))
    assert (torch.autograd.grad(latent[:, :-1].square().sum(), x)[0] != 0).all()  # together they see all genes
