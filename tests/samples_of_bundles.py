"""What a bundle of each kind writes when it samples after the training that ``conftest.trained`` runs."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_data import GENES, PROFILES, clinical

from monai_diffscore.data import read_table
from monai_diffscore.transforms import TableSchema


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


def check_labelled_volumes(folder: Path, statistics: dict) -> None:
    """Images as of other volumes, and beside each a label map of the training's classes on its grid."""
    check_volumes(folder / "imagesTr", statistics)
    for file in sorted((folder / "imagesTr").glob("*_0000.nii.gz")):
        label = nib.load(folder / "labelsTr" / f"{file.name.removesuffix('_0000.nii.gz')}.nii.gz")
        assert (label.affine == nib.load(file).affine).all()
        assert set(np.unique(label.get_fdata())) <= {int(value) for value in statistics["classes"]["dseg"]}


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
    assert cells.obsm["X_score_latent"].shape == (2, 25)
    assert cells.uns["monai_diffscore"]["model_hash"].startswith("sha256:")


def check_table(folder: Path, statistics: dict) -> None:
    """Whole numbers whole, in range, with the label if the training had one; weights named beside."""
    table = read_table(folder / "table.csv")
    schema = TableSchema.from_dict(statistics["schema"])
    assert list(table) == ["synthetic", *clinical()]
    assert table["synthetic"].all()
    numbers = schema.numbers(table)  # raises for what the schema does not allow
    assert numbers.shape == (2, 26 if schema.label is None else 25)
    assert schema.label is None or (schema.label_numbers(table) >= 0).all()
    assert json.loads((folder / "table.provenance.json").read_text())["model_hash"].startswith("sha256:")


def check_profiles(folder: Path, statistics: dict) -> None:
    """In the units of the data, with the conditions, as a table and as AnnData."""
    table, adata = pd.read_csv(folder / "profiles.csv", index_col=0), anndata.read_h5ad(folder / "profiles.h5ad")
    assert list(adata.var_names) == GENES == statistics["fields"]["genes"]
    assert list(table["group"]) == list(adata.obs["group"]) == ["case", "control"]
    np.testing.assert_allclose(table[GENES].to_numpy(), adata.X, rtol=1e-4)
    assert (np.abs(adata.X - statistics["mean"]) < 8 * np.array(statistics["std"])).all()
    assert adata.X.std(0).min() > 0
    assert adata.uns["monai_diffscore"]["model_hash"].startswith("sha256:")


def check_rows(folder: Path, statistics: dict) -> None:
    rows = np.load(folder / "samples.npy")
    assert rows.shape == (2, 2)
    assert np.isfinite(rows).all()


#: what looks at the samples of a bundle; ``check_volumes`` at those of any other
CHECKS = {
    "toy2d_mlp": check_rows,
    "mri_labelled3d": check_labelled_volumes,
    "pathology_hierarchical_unet": check_tiles,
    "natural_dit2d": check_pictures,
    "signal_dit1d": check_sequences,
    "scrna_attention": check_cells,
    "tabular_mlp": check_table,
    **dict.fromkeys(PROFILES, check_profiles),
}
