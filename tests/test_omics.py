"""Expression data: tests for counts, fields, backed reading, text files, exact round trips."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import MetaTensor
from scipy import sparse

from monai_diffscore import samples
from monai_diffscore.__main__ import main
from monai_diffscore.data import (
    Expression,
    ExpressionRows,
    GeneFields,
    ResumableLoader,
    read_matrix,
    stratified_split,
    write_expression,
)
from monai_diffscore.data.loader import EpochBatches
from monai_diffscore.data.matrices import genes_are_in
from monai_diffscore.errors import DataError
from monai_diffscore.transforms import (
    LogNormalize,
    LogNormalized,
    StandardizeGenes,
    StandardizeGenesd,
    measure_gene_scale,
    recover_counts,
)

GENES = [f"gene{number}" for number in range(12)]


def cells(count: int = 30, seed: int = 0) -> anndata.AnnData:
    generator = np.random.default_rng(seed)
    counts = sparse.csr_matrix(generator.poisson(1.5, (count, len(GENES))).astype(np.float32))
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical(generator.choice(["T", "B", "NK"], count), categories=["T", "B", "NK"]),
            "plate": generator.choice(["p1", "p2"], count),
            "age": generator.normal(60, 5, count),
        },
        index=[f"cell{number}" for number in range(count)],
    )
    adata = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES), layers={"counts": counts.copy()})
    adata.X = np.log1p(counts.toarray())
    return adata


@pytest.fixture
def fields() -> GeneFields:
    return GeneFields(label="kind", batch="plate", covariates=("age",))


@pytest.fixture(params=["memory", "h5ad", "zarr"])
def source(request, tmp_path):
    adata = cells()
    if request.param == "memory":
        return adata
    path = tmp_path / f"cells.{request.param}"
    adata.write_zarr(path) if request.param == "zarr" else adata.write_h5ad(path)
    return path


# ---- counts ----


def test_counts_come_back_exactly_and_only_with_the_right_totals():
    generator = np.random.default_rng(0)
    counts = generator.poisson(2, (40, 9))
    totals = counts.sum(1) * 3 + 50
    logged = np.log1p(counts * 1e4 / totals[:, None]).astype(np.float32)
    recovered = recover_counts(sparse.csr_matrix(logged), totals)
    assert recovered.dtype == np.int32
    np.testing.assert_array_equal(recovered.toarray(), counts)
    with pytest.raises(DataError, match=r"distance of 0\.\d+.*totals are of other genes"):
        recover_counts(logged, counts.sum(1) * 3.37 + 50)


def test_the_sample_cells_have_counts():
    expression = Expression(samples.pbmc68k(), GeneFields(label="bulk_labels", total="n_counts"))
    counts, totals = expression.matrix()
    assert (expression.layer, counts.shape) == ("counts", (700, 765))
    assert round(1 - counts.nnz / (700 * 765), 3) == 0.674
    share = np.asarray(counts.sum(1)).ravel() / totals
    assert 0.1 < share.min() < share.max() < 0.29  # the totals are of whole cells, not of these genes
    assert len(expression.fields.labels) == 10
    # what the totals are for: the published normalisation is found again, up to its three decimals
    logged = LogNormalize()(torch.from_numpy(counts.toarray()), totals)
    np.testing.assert_allclose(logged, anndata.read_h5ad(samples.pbmc68k()).X.toarray(), rtol=0, atol=5.1e-4)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda x: (x - x.mean(0)) / x.std(0), "z-scored or centred"),
        (np.log1p, "fractions from .* log-normalised"),
        (lambda x: np.where(x > 3, np.nan, x), "NaN or infinite"),
    ],
)
def test_values_that_are_no_counts_are_refused_with_the_reason(spoil, reason):
    adata = cells()
    spoiled = anndata.AnnData(spoil(adata.layers["counts"].toarray()), obs=adata.obs, var=adata.var)
    with pytest.raises(DataError, match=rf"raw counts.*X: .*{reason}.*layers\['counts'\]"):
        Expression(spoiled)
    with pytest.raises(DataError, match=reason):
        LogNormalize()(torch.from_numpy(np.asarray(spoiled.X)))
    if reason != "NaN or infinite":
        assert len(Expression(spoiled, GeneFields(content="continuous"))) == 30


def test_a_bad_row_far_from_the_first_is_named():
    adata = cells(1200)
    adata.layers["counts"][1100, 3] = 0.5
    with pytest.raises(DataError, match=r"rows 1024 to 1199.*fractions"):
        Expression(adata).matrix()


# ---- fields ----


def test_rows_are_the_same_from_memory_and_from_the_disk(source, fields):
    expression = Expression(source, fields)
    assert expression.layer == "counts"
    assert expression.fields.labels == ("T", "B", "NK")  # the order that the column has, not the alphabet's
    assert expression.fields.batches == ("p1", "p2")
    rows = ExpressionRows(expression, [4, 2])
    truth = cells()
    item = rows[0]
    np.testing.assert_array_equal(item["image"], truth.layers["counts"][4].toarray()[0])
    assert item["image"].dtype == torch.float32
    assert item["library"] == truth.layers["counts"][4].sum()
    assert ["T", "B", "NK"][item["label"]] == truth.obs["kind"].iloc[4]
    assert ["p1", "p2"][item["batch"]] == truth.obs["plate"].iloc[4]
    assert item["age"] == pytest.approx(truth.obs["age"].iloc[4])
    assert item["name"] == "cell4"
    values, totals = expression.matrix([7, 3, 7])
    np.testing.assert_array_equal(values.toarray(), truth.layers["counts"][[7, 3, 7]].toarray())
    np.testing.assert_array_equal(totals, values.toarray().sum(1))


def test_fields_come_back_from_their_file(tmp_path, fields):
    measured = Expression(cells(), fields).fields
    measured.save(tmp_path / "fields.json")
    assert GeneFields.load(tmp_path / "fields.json") == measured
    (tmp_path / "fields.json").write_text('{"colour": 1}')
    with pytest.raises(DataError, match="colour"):
        GeneFields.load(tmp_path / "fields.json")


def test_another_order_of_genes_is_put_right_and_missing_ones_are_named(fields):
    measured = Expression(cells(), fields).fields
    other = cells()[:, GENES[::-1]].copy()
    values = Expression(other, measured).matrix()[0]
    np.testing.assert_array_equal(values.toarray(), cells().layers["counts"].toarray())
    fewer = cells()[:, GENES[2:]].copy()
    with pytest.raises(DataError, match=r"2 missing: gene0, gene1.*unobserved"):
        Expression(fewer, measured)
    fewer.var_names = [name.upper() for name in fewer.var_names]
    with pytest.raises(DataError, match=r"12 missing.*10 differ in upper and lower case"):
        Expression(fewer, measured)


def test_totals_are_of_all_genes_of_the_file(fields):
    panel = GeneFields(genes=tuple(GENES[:3]))
    values, totals = Expression(cells(), panel).matrix()
    assert values.shape == (30, 3)
    np.testing.assert_array_equal(totals, cells().layers["counts"].toarray().sum(1))


def test_unknown_categories_are_refused_and_missing_ones_are_minus_one(fields):
    measured = Expression(cells(), fields).fields
    other = cells()
    other.obs["plate"] = ["p2"] + [None] * 28 + ["p1"]
    assert ExpressionRows(Expression(other, measured)).conditions["batch"].tolist() == [1] + [-1] * 28 + [0]
    other.obs["plate"] = ["p9"] * 30
    with pytest.raises(DataError, match=r"\['p1', 'p2'\].*p9"):
        ExpressionRows(Expression(other, measured))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (GeneFields(label="type"), "a column 'type'"),
        (GeneFields(total="age_total"), "a column 'age_total'"),
        (GeneFields(layer="spliced"), "spliced"),
    ],
)
def test_missing_fields_are_named(tmp_path, fields, reason):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match=reason):
        Expression(tmp_path / "cells.h5ad", fields)


def test_files_that_cannot_be_read_by_rows_are_refused(tmp_path):
    (tmp_path / "broken.h5ad").write_bytes(b"not HDF5")
    for name in ("broken.h5ad", "absent.h5ad", "cells.loom"):
        with pytest.raises(DataError, match=name):
            Expression(tmp_path / name)


#: folders with a matrix.mtx: sample, file of the features, its columns, and ending
MTX = {
    "mtx": ("", "genes", 2, ""),
    "mtx.gz": ("", "features", 3, ".gz"),
    "of a sample": ("GSM7_liver_", "genes", 2, ".gz"),
    "STARsolo": ("", "features", 3, ""),
    "one column": ("", "features", 1, ".gz"),
}


@pytest.mark.parametrize("store", ["h5", "csc", *MTX])
@pytest.mark.parametrize("level", ["parent", "itself", "file"])
def test_10x_and_matrices_by_columns_are_read(store, level, tmp_path):
    import gzip

    import h5py
    import scipy.io

    from monai_diffscore.planning import take_fingerprint

    counts = np.random.default_rng(0).poisson(2, (600, 30))
    names, genes = [f"c{n}-1" for n in range(600)], [f"G{n}" for n in range(30)]
    by_genes, place = sparse.csc_matrix(counts.T), tmp_path / "data"
    place.mkdir()
    if store == "csc":
        obs, var = pd.DataFrame(index=names), pd.DataFrame(index=genes)
        file = place / "m.h5ad"
        anndata.AnnData(sparse.csc_matrix(counts.astype(np.float32)), obs, var).write_h5ad(file)
    elif store == "h5":
        file = place / "filtered.h5"
        with h5py.File(file, "w") as written:
            group = written.create_group("matrix")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(by_genes, name)
            group["shape"], group["barcodes"] = by_genes.shape, np.array(names, "S")
            features = group.create_group("features")
            for name, text in (("id", "ENSG{}"), ("name", "G{}"), ("feature_type", "Gene Expression"), ("genome", "h")):
                features[name] = np.array([text.format(n) for n in range(30)], "S")
    else:
        file = place / "matrices"
        file.mkdir()
        sample, features, columns, end = MTX[store]
        opened = gzip.open if end else open
        genes = genes if columns > 1 else [f"ENSG{n}" for n in range(30)]
        rows = ["\t".join([f"ENSG{n}", f"G{n}", "Gene Expression"][:columns]) for n in range(30)]
        for name, text in (("barcodes", names), (features, rows)):
            with opened(file / f"{sample}{name}.tsv{end}", "wt") as written:
                written.writelines(f"{line}\n" for line in text)
        with opened(file / f"{sample}matrix.mtx{end}", "wb") as written:
            scipy.io.mmwrite(written, by_genes)
    matrix = next(iter(file.glob("*matrix.mtx*")), file)
    source = {"parent": place, "itself": file, "file": matrix}[level]
    expression = Expression(source)
    values, totals = expression.matrix([599, 0, 513])
    np.testing.assert_array_equal(values.toarray(), counts[[599, 0, 513]])
    np.testing.assert_array_equal(totals, counts.sum(1)[[599, 0, 513]])
    assert (expression.genes, list(expression.obs.index)) == (tuple(genes), names)
    fingerprint = take_fingerprint(source)
    assert (fingerprint.kind, fingerprint.cases, fingerprint.channels) == ("cells", 600, 30)


def test_genes_alone_are_read_of_a_folder_of_several_kinds_of_features_and_several_samples_are_refused(tmp_path):
    import scipy.io

    counts = np.random.default_rng(1).poisson(3, (40, 12))
    kinds = ["Gene Expression"] * 8 + ["Antibody Capture"] * 3 + ["Custom"]
    for sample in ("a_", "b_"):
        scipy.io.mmwrite(tmp_path / f"{sample}matrix.mtx", sparse.coo_matrix(counts.T))
        (tmp_path / f"{sample}barcodes.tsv").write_text("".join(f"c{n}\n" for n in range(40)))
        (tmp_path / f"{sample}features.tsv").write_text("".join(f"E{n}\tG{n}\t{k}\n" for n, k in enumerate(kinds)))
    expression = Expression(tmp_path / "b_matrix.mtx")
    np.testing.assert_array_equal(expression.matrix()[0].toarray(), counts[:, :8])
    with pytest.raises(DataError, match=r"one matrix.*a_matrix.mtx, b_matrix.mtx"):
        Expression(tmp_path)
    (tmp_path / "a_barcodes.tsv").unlink()
    with pytest.raises(DataError, match=r"10x Genomics.*a_barcodes.tsv.*together"):
        Expression(tmp_path / "a_matrix.mtx")


@pytest.mark.parametrize(
    "correct", [lambda x: 0.97 * x, lambda x: x - 0.1 * (x > 0), lambda x: sparse.csr_matrix(x * 0.8)]
)
def test_the_command_for_counts_without_ambient_rna_gives_counts(correct, tmp_path):
    counts = np.random.default_rng(2).poisson(2, (60, 20)) + 30.0
    file = tmp_path / "my cells.h5ad"
    anndata.AnnData(correct(counts)).write_h5ad(file)
    with pytest.raises(DataError, match="ambient RNA") as refused:
        Expression(file)
    command = shlex.split(re.search(r'python (-c ".*?")', str(refused.value))[1])
    subprocess.run([sys.executable, *command], check=True, timeout=120)
    rounded = Expression(tmp_path / "my cells_counts.h5ad")
    values = correct(counts)
    expected = np.rint(values.toarray() if sparse.issparse(values) else values)
    matrix = rounded.matrix()[0]
    np.testing.assert_array_equal(matrix.toarray() if sparse.issparse(matrix) else matrix, expected)


@pytest.mark.parametrize("layer", ["raw_counts", "spliced", "X counts"])
@pytest.mark.parametrize("name", ["cells.h5ad", "it's (2).h5ad"])
def test_the_command_for_counts_in_a_layer_of_another_name_copies_them(layer, name, tmp_path):
    counts = np.random.default_rng(2).poisson(2, (60, 20)) + 1.0
    anndata.AnnData(np.log1p(counts), layers={layer: counts, "scaled": counts - 3}).write_h5ad(tmp_path / name)
    with pytest.raises(DataError, match=rf"{layer}: counts\. If layers\['{layer}'\] holds the raw counts") as refused:
        Expression(tmp_path / name)
    assert "scaled" not in str(refused.value)
    command = shlex.split(re.search(r"python (-c .*)\. Data that never", str(refused.value))[1])
    subprocess.run([sys.executable, *command], check=True, timeout=120)
    copied = Expression(tmp_path / name.replace(".h5ad", "_counts.h5ad"))
    np.testing.assert_array_equal(copied.matrix()[0], counts)


# ---- backed ----


def test_block_shuffle_visits_each_item_once_and_few_blocks_at_a_time():
    batches = EpochBatches(1000, 10, seed=3, block_size=50)
    batches.start_at(2)
    order = [index for batch in batches for _, index in batch]
    assert sorted(order) == list(range(1000))
    assert order != sorted(order)
    for start in range(0, 1000, 200):
        assert len({index // 50 for index in order[start : start + 200]}) == 4
    resumed = EpochBatches(1000, 10, seed=3, block_size=50)
    resumed.start_at(2, 37)
    assert [index for batch in resumed for _, index in batch] == order[370:]


def test_worker_processes_read_the_same_rows(tmp_path):
    cells(700).write_h5ad(tmp_path / "cells.h5ad")
    rows = ExpressionRows(Expression(tmp_path / "cells.h5ad"))
    one, two = (
        [batch["image"] for batch in ResumableLoader(rows, 100, num_workers=workers, block_size=256)]
        for workers in (0, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_memory_of_backed_reading_is_that_of_a_few_blocks(tmp_path):
    """A file of 240 MB in memory is read in shuffled batches with less than a third of it."""
    generator = np.random.default_rng(0)
    rows, genes, per_row = 30_000, 4_000, 1_000
    indices = np.sort(generator.integers(0, genes // per_row, (rows, per_row)) + np.arange(0, genes, genes // per_row))
    matrix = sparse.csr_matrix(
        (
            np.ones(rows * per_row, np.float32),
            indices.ravel().astype(np.int32),
            np.arange(0, rows * per_row + 1, per_row),
        ),
        shape=(rows, genes),
    )
    size = (matrix.data.nbytes + matrix.indices.nbytes) / 1e6
    assert size == 240
    anndata.AnnData(matrix).write_h5ad(tmp_path / "large.h5ad")
    anndata.AnnData(matrix[:256]).write_h5ad(tmp_path / "small.h5ad")
    script = """
        import sys
        from monai_diffscore.memory import peak_memory_bytes
        from monai_diffscore.data import Expression, ExpressionRows, ResumableLoader
        import anndata.io, h5py
        for batch in ResumableLoader(ExpressionRows(Expression(sys.argv[2])), 256):  # what libraries load at first use
            batch["image"].sum()
        before = peak_memory_bytes()
        expression = Expression(sys.argv[1], blocks=5)
        loader = ResumableLoader(ExpressionRows(expression), 256, block_size=512)
        total = 0
        for number, batch in enumerate(loader):
            total += float(batch["image"].sum())
            if number == 30:
                break
        assert total == 31 * 256 * 1000, total
        print((peak_memory_bytes() - before) / 1e6)
    """
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(script),
        str(tmp_path / "large.h5ad"),
        str(tmp_path / "small.h5ad"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < size / 3


# ---- text files ----


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("corner", [True, False])
@pytest.mark.parametrize("ending", [".csv", ".tsv.gz"])
def test_matrices_come_back_from_text(tmp_path, transposed, corner, ending):
    values = np.random.default_rng(0).normal(size=(4, 3))
    frame = pd.DataFrame(values, index=["0012", "b", "c", "d"], columns=["TP53", "NA", "ACTB"])
    frame = frame.T if transposed else frame
    path = tmp_path / f"matrix{ending}"
    delimiter = "," if ending == ".csv" else "\t"
    text = frame.to_csv(None, sep=delimiter)
    if not corner:
        text = text[1:]
    if ending.endswith(".gz"):
        import gzip

        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    read, names, genes = read_matrix(path, transposed)
    np.testing.assert_array_equal(read, values)
    assert (names, genes) == (["0012", "b", "c", "d"], ["TP53", "NA", "ACTB"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("s,A,A\nx,1,2\n", "each gene once, got 1 names more than once: A"),
        ("s,A,B\nx,1,2\nx,3,4\n", "each sample once"),
        ("s,A,B\nx,1,2\ny,3,high\n", "got 'high' for the sample 'y' and the gene 'B'"),
        ("s,A,B\nx,1,2\ny,,4\n", "1 of 4 missing or infinite, the first for the sample 'y' and the gene 'A'"),
        ("s,A,B\nx,1,2\ny,3\n", "1 of 4 missing"),
        ("s,A,B\nx,1,2\ny,3,4,5,6\n", "rows of 3 cells"),
        ("sAB\nx12\n", "1 cells in the first row"),
        ("", "an empty file"),
    ],
)
def test_text_that_is_no_matrix_is_refused(tmp_path, text, reason):
    (tmp_path / "matrix.csv").write_text(text)
    with pytest.raises(DataError, match=reason):
        read_matrix(tmp_path / "matrix.csv")


def test_bulk_samples_take_their_table_by_name(tmp_path):
    pd.DataFrame([[1.5, 2], [3, 4]], index=["s1", "s2"], columns=["A", "B"]).to_csv(tmp_path / "bulk.csv")
    pd.DataFrame({"tissue": ["lung", "skin"]}, index=["s2", "s1"]).to_csv(tmp_path / "obs.csv")
    fields = GeneFields(label="tissue", content="continuous")
    rows = ExpressionRows(Expression(tmp_path / "bulk.csv", fields, obs_path=tmp_path / "obs.csv"))
    assert rows.conditions["label"].tolist() == [1, 0]  # s1 is skin
    assert rows[0]["image"].tolist() == [1.5, 2]
    pd.DataFrame({"tissue": ["lung"]}, index=["s2"]).to_csv(tmp_path / "obs.csv")
    with pytest.raises(DataError, match=r"1 missing, such as \['s1'\]"):
        Expression(tmp_path / "bulk.csv", fields, obs_path=tmp_path / "obs.csv")


# ---- written ----


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_generated_cells_are_marked_and_read_again(tmp_path, fields, ending):
    truth = cells()
    measured = Expression(truth, fields).fields
    path = tmp_path / f"made.{ending}"
    provenance = {"seed": 3, "model_hash": "sha256:0", "grid": [1, 2]}
    counts = truth.layers["counts"].toarray()
    totals = 3 * counts.sum(1) + 5  # of genes that are not among those of the model, too
    obs = truth.obs[["kind", "plate"]]
    write_expression(path, counts, measured, obs=obs, provenance=provenance, latent=counts[:, :2], library=totals)
    adata = anndata.read_zarr(path) if ending == "zarr" else anndata.read_h5ad(path)
    assert adata.layers["counts"].dtype == np.int32
    assert adata.X.dtype == np.float32
    assert list(adata.obs_names[:2]) == ["synthetic_0", "synthetic_1"]
    assert adata.obs["synthetic"].all()
    assert list(adata.obs["kind"].cat.categories) == ["T", "B", "NK"]
    assert dict(adata.uns["monai_diffscore"]) == {"seed": 3, "model_hash": "sha256:0", "grid": "[1, 2]"}
    assert adata.obsm["X_score_latent"].shape == (30, 2)
    np.testing.assert_allclose(np.expm1(adata.X.toarray()), 1e4 * counts / totals[:, None], rtol=1e-5)
    np.testing.assert_array_equal(adata.obs[measured.total or "n_counts"], totals)
    again = Expression(path, GeneFields(label="kind", genes=measured.genes))
    np.testing.assert_array_equal(again.matrix()[0].toarray(), counts)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_values_that_are_no_counts_are_not_written(tmp_path, fields):
    measured = Expression(cells(), fields).fields
    with pytest.raises(DataError, match="fractions"):
        write_expression(tmp_path / "made.h5ad", np.full((2, 12), 0.5), measured)
    for library, got in ((None, "none"), ([12.0], r"shape \(1,\)"), ([12.0, 11.0], "11 for a sum of 12")):
        with pytest.raises(DataError, match=f"totals .2. of whole cells.*got {got}"):
            write_expression(tmp_path / "made.h5ad", np.ones((2, 12)), measured, library=library)
    assert not list(tmp_path.iterdir())


# ---- transforms ----


def test_log_normalisation_is_exactly_inverted():
    counts = torch.from_numpy(np.random.default_rng(0).negative_binomial(0.3, 0.01, (50, 200))).float()
    counts[0, 0] = 50_000
    totals = counts.sum(1) * 4 + 7
    transform = LogNormalize()
    assert torch.equal(transform.inverse(transform(counts, totals), totals), counts)
    tracked = transform(MetaTensor(counts[3]), totals[3])
    assert torch.equal(transform.inverse(tracked).as_tensor(), counts[3])
    dictionary = LogNormalized("image")
    item = dictionary({"image": counts[1], "library": totals[1]})
    torch.testing.assert_close(item["image"].as_tensor(), torch.log1p(counts[1] * (1e4 / totals[1])))
    assert torch.equal(dictionary.inverse(item)["image"].as_tensor(), counts[1])
    with pytest.raises(ValueError, match="needs the totals"):
        transform.inverse(counts)
    with pytest.raises(DataError, match="total > 0"):
        transform(torch.zeros(2, 4))


def test_standardised_genes_have_the_measured_scale_and_come_back():
    generator = np.random.default_rng(0)
    rows = 1e4 + generator.normal(size=(301, 8)) * np.arange(8)  # large means, and a constant gene
    scale = measure_gene_scale([rows[:100], sparse.csr_matrix(rows[100:250]), rows[250:]])
    np.testing.assert_allclose(scale.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scale.std, rows.std(0), rtol=1e-9)
    assert scale.sigma_data == pytest.approx(np.sqrt(7 / 8))
    facts = scale.as_dict()
    transform = StandardizeGenes(facts["mean"], facts["std"])
    x = torch.from_numpy(rows).float()
    y = transform(x)
    assert float(y.std(correction=0)) == pytest.approx(scale.sigma_data, rel=1e-4)
    assert (y[:, 0] == 0).all()
    torch.testing.assert_close(transform.inverse(y), x, rtol=2e-7, atol=0)
    dictionary = StandardizeGenesd("image", facts["mean"], facts["std"])
    torch.testing.assert_close(
        dictionary.inverse(dictionary({"image": x[0]}))["image"].as_tensor(), x[0], rtol=2e-7, atol=0
    )
    with pytest.raises(ValueError, match="8 genes"):
        transform(x[:, :5])
    for bad in ([rows[:1]], [rows * np.nan], [np.ones((3, 2))]):
        with pytest.raises(DataError):
            measure_gene_scale(bad)


def test_stratified_split_keeps_shares_and_repeats():
    labels = np.repeat(["a", "b"], [60, 40])
    train, held_out = stratified_split(labels)
    assert sorted([*train, *held_out]) == list(range(100))
    assert [(labels[held_out] == name).sum() for name in "ab"] == [24, 16]
    np.testing.assert_array_equal(stratified_split(labels)[1], held_out)


# ---- which matrix is one of genes ----

SYMBOLS = [
    "TP53", "BRCA1", "EGFR", "MYC", "KRAS", "ACTB", "GAPDH", "CD3D", "CD3E", "CD4", "CD8A", "MS4A1", "NKG7", "GNLY",
    "LYZ", "S100A8", "S100A9", "FCGR3A", "PPBP", "IL7R", "CCR7", "CD14", "HLA-DRA", "HLA-DRB1", "HLA-A", "B2M",
    "MT-CO1", "MT-ND1", "C9orf72", "C1orf112", "RPL13A", "RPS6", "EEF1A1", "TUBB", "TUBA1B", "VIM", "KRT5", "KRT18",
    "EPCAM", "PTPRC", "NOTCH1", "JAG1", "DLL4", "HES1", "WNT5A", "CTNNB1", "APC", "AXIN2", "LEF1", "TCF7", "SOX2",
    "POU5F1", "NANOG", "KLF4", "LIN28A", "GATA1", "GATA3", "FOXP3", "TBX21", "RORC", "STAT1", "STAT3", "JAK2",
    "SOCS3", "IFNG", "IL2", "IL4", "IL10", "TNF", "TGFB1", "SMAD3", "VEGFA", "KDR", "PDGFRA", "FGF2", "FGFR1",
    "ERBB2", "ESR1", "PGR", "AR", "MKI67", "PCNA", "CDK1", "CDK4", "CCND1", "CCNE1", "RB1", "E2F1", "CDKN1A",
    "CDKN2A", "MDM2", "ATM", "CHEK2", "BAX", "BCL2", "CASP3", "PTEN", "AKT1", "MTOR", "PIK3CA", "RAF1", "MAPK1",
    "FOS", "JUN", "EGR1", "NR3C1", "PPARG", "ALB", "APOE", "APOB", "INS", "GCG", "SST", "AQP4", "GFAP", "MBP",
    "SNAP25", "SYT1", "RBFOX3",
]  # fmt: skip
GENE_NAMES = {
    "symbols": SYMBOLS,
    "mice": [name.capitalize() for name in SYMBOLS],
    "accessions": [f"ENSG{n:011d}" for n in range(150)],
    "probes": [f"{n}_s_at" for n in range(1000, 1150)],
    "numbered": [f"GENE{n}" for n in range(200)],
    "micro-RNA": [f"hsa-miR-{n}-5p" for n in range(150)],
    "methylation": [f"cg{n:08d}" for n in range(150)],
    "proteins": [f"{letter}{n}A{n}B{n % 9}"[:6] for n in range(1, 10) for letter in "OPQABCDEFGHIJKLMN"],
}
OTHER_NAMES = {
    "radiomics": [f"original_glcm_Contrast_{n}" for n in range(400)],
    "features": [f"feature_{n}" for n in range(400)],
    "variables": [f"V{n}" for n in range(400)],
    "questions": [f"q{n}_score" for n in range(320)],
    "questionnaires": [f"{scale}{n}" for scale in ("PHQ", "GAD", "AUDIT", "SF") for n in range(80)],
    "diagnoses": [f"{chapter}{n:02d}" for chapter in "EINJKC" for n in range(25)],
    "laboratory": [f"LBX{chr(65 + n % 26)}{chr(65 + n // 26)}" for n in range(150)],
    "biobank": [f"f.{20000 + n}.0.0" for n in range(150)],
    "few": ["AGE", "BMI", "TP53"],
}


@pytest.mark.parametrize("name", GENE_NAMES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("corner", ["", "gene"])
def test_genes_in_rows_are_recognised_by_their_names_and_turned(name, turned, corner, tmp_path):
    from monai_diffscore.planning import Budget, make_plan, take_fingerprint

    values = np.random.default_rng(0).normal(8, 1, (40, len(GENE_NAMES[name]))).round(2)
    frame = pd.DataFrame(values, [f"s{n}" for n in range(40)], GENE_NAMES[name])
    (frame.T if turned else frame).to_csv(tmp_path / "m.csv", index_label=corner)
    fingerprint = take_fingerprint(tmp_path / "m.csv")
    assert (fingerprint.kind, fingerprint.cases, fingerprint.channels) == ("expression", 40, len(GENE_NAMES[name]))
    plan = make_plan(fingerprint, Budget(4.0, 1.0))
    assert plan["transposed"] is turned
    assert ("is transposed" in plan.choices["transposed"].reason) is turned


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_other_numbers_are_a_table_however_many(name, tmp_path):
    from monai_diffscore.planning import take_fingerprint

    values = np.random.default_rng(0).normal(8, 1, (60, len(OTHER_NAMES[name]))).round(3)
    frame = pd.DataFrame(values, columns=OTHER_NAMES[name])
    frame.to_csv(tmp_path / "m.csv", index=False)
    fingerprint = take_fingerprint(tmp_path / "m.csv")
    assert (fingerprint.kind, fingerprint.cases) == ("table", 60)
    assert {column["name"] for column in fingerprint.details["schema"]["columns"]} == set(OTHER_NAMES[name])


BARCODES = {
    "TCGA": [f"TCGA-{n:02X}-A{n:03d}-01A" for n in range(150)],
    "GTEx": [f"GTEX-{1117 + n}F-0226-SM-5GZ{n}" for n in range(150)],
    "cells of 10x": ["".join(f"ACGT{n:08b}".replace("0", "A").replace("1", "G")) + "-1" for n in range(150)],
    "few, of GEO": [f"GSM{4030000 + n}" for n in range(12)],
}


@pytest.mark.parametrize("samples", BARCODES)
@pytest.mark.parametrize("genes", ["symbols", "accessions", "small", "numbers"])
def test_barcodes_of_samples_are_no_genes(samples, genes, tmp_path):
    rows = {"small": [name.lower() for name in SYMBOLS], "numbers": list(range(1000, 1130))} | GENE_NAMES
    values = np.random.default_rng(0).poisson(9, (len(rows[genes]), len(BARCODES[samples])))
    frame = pd.DataFrame(values, rows[genes], BARCODES[samples])
    frame.to_csv(tmp_path / "m.csv", index_label="gene")
    assert genes_are_in(tmp_path / "m.csv") == "rows"
    if genes in ("symbols", "accessions"):
        frame.T.to_csv(tmp_path / "m.csv", index_label="sample")
        assert genes_are_in(tmp_path / "m.csv") == "columns"


OTHER_COLUMNS = {
    "Entrez_Gene_Id": range(119), "padj": np.linspace(0, 1, 119), "log2FoldChange": np.linspace(-3, 3, 119),
    "Length": range(119), "gene_type": ["protein_coding"] * 119, "Description": ["a kinase"] * 119,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_COLUMNS)
def test_facts_of_genes_beside_samples_are_refused(name, tmp_path):
    frame = pd.DataFrame(np.ones((len(SYMBOLS), 9), dtype=int), SYMBOLS, [f"s{n}" for n in range(9)])
    frame.insert(0, name, list(OTHER_COLUMNS[name]))
    frame.to_csv(tmp_path / "m.tsv", sep="\t", index_label="Hugo_Symbol")
    assert genes_are_in(tmp_path / "m.tsv") == "rows"
    with pytest.raises(DataError, match=rf"samples alone, got 1 other names: {name}\. Remove them"):
        read_matrix(tmp_path / "m.tsv", transposed=True)


@pytest.mark.parametrize("name", ["__no_feature", "__alignment_not_unique", "N_unmapped", "N_ambiguous"])
@pytest.mark.parametrize("turned", [False, True])
def test_sums_of_counting_programs_are_no_genes(name, turned, tmp_path):
    frame = pd.DataFrame(np.ones((9, 3), dtype=int), [*SYMBOLS[:8], name], ["s1", "s2", "s3"])
    (frame if turned else frame.T).to_csv(tmp_path / "m.csv")
    with pytest.raises(DataError, match=rf"genes alone, got 1 other names: {name}\."):
        read_matrix(tmp_path / "m.csv", transposed=turned)


@pytest.mark.parametrize("above", ["#1.2\n130\t9\n", '# Program:featureCounts; Command:"x" "y"\n', "#version 1\n"])
def test_lines_above_the_names_are_refused_with_the_remedy(above, tmp_path, capsys):
    frame = pd.DataFrame(np.ones((len(SYMBOLS), 9), dtype=int), SYMBOLS, [f"s{n}" for n in range(9)])
    (tmp_path / "m.txt").write_text(above + frame.to_csv(sep="\t", index_label="Geneid"))
    assert main(["plan", str(tmp_path / "m.txt"), "--out", str(tmp_path / "out"), "--no-trial"]) == 1
    assert re.search(r"Remove (the )?lines above the names of the columns", capsys.readouterr().err)


@pytest.mark.parametrize("layout", ["index", "column", "columns"])
def test_genes_in_parquet_have_the_command_that_converts_them(layout, tmp_path, capsys):
    values = np.random.default_rng(0).poisson(9, (len(SYMBOLS), 40))
    frame = pd.DataFrame(values, pd.Index(SYMBOLS, name="gene"), [f"s{n}" for n in range(40)])
    tables = {"index": frame, "column": frame.reset_index(), "columns": frame.T}
    tables[layout].to_parquet(tmp_path / "my m.parquet")
    plan = ["--out", str(tmp_path / "out"), "--no-trial"]
    assert main(["plan", str(tmp_path / "my m.parquet"), *plan]) == 1
    command = shlex.split(re.search(r"(python -c .*)", capsys.readouterr().err)[1])
    exec(command[2].replace("sys.argv[1]", repr(command[3])).replace("sys.argv[2]", repr(command[4])))
    read, samples, genes = read_matrix(command[4], transposed=layout != "columns")
    np.testing.assert_array_equal(read, values.T)
    assert (samples, genes) == (list(frame), SYMBOLS)


@pytest.mark.parametrize(("sep", "decimal"), [(";", ","), ("\t", ","), (" ", ".")])
def test_matrices_of_european_spreadsheets_are_read(sep, decimal, tmp_path):
    frame = pd.DataFrame(np.arange(12).reshape(3, 4) / 4, ["a", "b", "c"], ["G1", "G2", "G3", "G4"])
    frame.to_csv(tmp_path / "m.txt", sep=sep, decimal=decimal)
    values, rows, genes = read_matrix(tmp_path / "m.txt")
    np.testing.assert_array_equal(values, frame.to_numpy())
    assert (rows, genes) == (["a", "b", "c"], list(frame))


# ---- what columns of obs are taken for ----


def cells_with(tmp_path, **columns):
    g = np.random.default_rng(0)
    counts = g.poisson(3, (200, 20)).astype(np.float32) + 1
    obs = pd.DataFrame({"cell_type": g.choice(["B", "T"], 200)} | columns, index=[f"c{n}" for n in range(200)])
    anndata.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=[f"G{n}" for n in range(20)])).write_h5ad(
        tmp_path / "c.h5ad"
    )
    return tmp_path / "c.h5ad", counts


@pytest.mark.parametrize(
    ("values", "role"),
    [
        (np.arange(200) % 60 + 20, "covariate"),
        ((np.arange(200) % 60 + 20).astype("int16"), "covariate"),
        (np.arange(200) / 7, "covariate"),
        (np.arange(200) % 4, "batch"),
        ([f"lane {n % 3}" for n in range(200)], "batch"),
        (np.arange(200) % 2 == 0, "batch"),
    ],
)
def test_numbers_of_many_values_are_covariates_and_codes_are_batches(values, role, tmp_path):
    from monai_diffscore.planning import take_fingerprint

    file, _ = cells_with(tmp_path, given=values)
    details = take_fingerprint(file, conditions=["cell_type", "given"]).details
    assert (details["label"], details["batch"], details["covariates"]) == (
        ("cell_type", None, ["given"]) if role == "covariate" else ("cell_type", "given", [])
    )


@pytest.mark.parametrize("form", ["id-{}", "{}", "AAAC{}-1"])
def test_names_of_cells_are_no_batches(form, tmp_path):
    from monai_diffscore.planning import take_fingerprint

    file, _ = cells_with(tmp_path, barcode=[form.format(n) for n in range(200)])
    with pytest.raises(DataError, match=r"200 different values of barcode.*--subject barcode"):
        take_fingerprint(file, conditions=["cell_type", "barcode"])


@pytest.mark.parametrize("name", ["sample", "batch", "donor"])
def test_names_of_cells_are_no_batches_by_default_and_a_plan_names_what_it_does_not_use(name, tmp_path):
    from monai_diffscore.planning import take_fingerprint

    file, _ = cells_with(tmp_path, **{name: [f"s{n}" for n in range(200)]}, group="case")
    details = take_fingerprint(file).details
    assert details["batch"] is None
    assert details["assumed"][0].startswith(f"type cell_type; not used {name}, group. --condition ")
    few, _ = cells_with(tmp_path, **{name: [f"s{n % 5}" for n in range(200)]})
    assert take_fingerprint(few).details["batch"] == name


@pytest.mark.parametrize("lacking", [3, 40, 150])
def test_cells_without_a_type_are_told(lacking, tmp_path):
    from monai_diffscore.planning import take_fingerprint

    file, _ = cells_with(tmp_path, cell_type=pd.Categorical(["B"] * (200 - lacking) + [None] * lacking))
    counts = take_fingerprint(file).details["rows_of_each_label"]
    assert counts == {"B": 200 - lacking, "without one": lacking}


@pytest.mark.parametrize("what", ["whole", "logarithms", "less"])
def test_a_total_is_at_least_the_sum_of_its_counts(what, tmp_path):
    from monai_diffscore.planning import take_fingerprint

    _, counts = cells_with(tmp_path)
    sums = counts.sum(1)
    totals = {"whole": sums * 3, "logarithms": np.log1p(counts).sum(1), "less": sums - 1}[what]
    file, _ = cells_with(tmp_path, total_counts=totals)
    assert take_fingerprint(file).details["total"] == ("total_counts" if what == "whole" else None)


@pytest.mark.parametrize("empty", [[0], [5, 77], [599, 600, 1100]])
def test_cells_without_counts_are_named(empty, tmp_path):
    counts = np.ones((1200, 5), np.float32)
    counts[empty] = 0
    names = [f"c{n}" for n in range(1200)]
    anndata.AnnData(sparse.csr_matrix(counts), pd.DataFrame(index=names)).write_h5ad(tmp_path / "c.h5ad")
    from monai_diffscore.planning import take_fingerprint

    with pytest.raises(DataError, match=rf"a count in each row.*c{empty[0]}.*filter_cells"):
        take_fingerprint(tmp_path / "c.h5ad")
