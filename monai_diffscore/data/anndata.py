r"""Reads and writes expression data: AnnData in .h5ad and .zarr, a few rows at a time, and text files.

:class:`Expression` reads rows in the order of genes that :class:`~monai_diffscore.data.gene_fields.GeneFields`
declare, with the total l of **all** genes in the file (or of a column of ``obs``): the sum of selected genes would not
normalise a cell. :class:`ExpressionRows` makes dictionaries of the rows: ``image`` [G] float32, ``library``, ``label``,
``batch``, each covariate under its name, ``name``.

Only a few blocks of rows are in memory: shuffle block-wise with ``ResumableLoader(..., block_size=512)``, which visits
the rows of a few blocks at a time.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch.utils.data import Dataset

from monai_diffscore.atomic_files import whole_folder, whole_path
from monai_diffscore.data.expression_stores import open_store
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.rows import split_indices
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.counts import counts_remedy, describe_values, refuse_other_than_counts
from monai_diffscore.transforms.table_column import column_of

#: the layers to search for counts, if the fields declare no layer
PLACES = ("counts", "raw", "X")
#: total of each cell after scaling, before the logarithm
TARGET_SUM = 1e4
_BLOCK = 512  # rows of one read


class Expression:
    """Reads rows of an expression matrix lazily from the disk, in the order of genes of ``fields``.

    Args:
        source: .h5ad, a .zarr folder, .csv or .tsv (see :func:`~monai_diffscore.data.matrices.read_matrix`), 10x's .h5
            or folder of matrix.mtx, a folder with one of these, or an AnnData object. The matrix of the first two stays
            on the disk, if it is stored by rows (dense or CSR).
        fields: description of the data. The data completes missing genes, labels and batches: see :attr:`fields`.
        transposed: a text file has a gene in each row.
        obs_path: .csv or .tsv with a row of ``obs`` for each sample of a text file; its first column names the sample.
        blocks: number of blocks of 512 rows in memory.
    Raises:
        DataError: if the file, its values or the fields do not agree.
    """

    def __init__(
        self,
        source: Any,
        fields: GeneFields | None = None,
        transposed: bool = False,
        obs_path: str | Path | None = None,
        blocks: int = 16,
    ) -> None:
        fields = fields or GeneFields()
        self.source = source if isinstance(source, str | Path) else "AnnData"
        store = open_store(source, transposed, obs_path)
        self._store = store
        self.obs: pd.DataFrame = store.obs()
        self.layer = fields.layer or self._find_layer(fields.content)
        var = store.var(self.layer)
        if fields.gene_key is not None:
            var = var.set_index(column_of(var, fields.gene_key, "gene_key", self.source))
        self.file_genes = [str(name) for name in var.index]
        #: with genes, labels and batches in order
        self.fields = fields.measured(self.obs, self.file_genes, self.source)
        self._places = self.fields.gene_places(self.file_genes, self.source)
        self._as_stored = np.array_equal(self._places, np.arange(len(self.file_genes)))
        self._totals = None if fields.total is None else self._declared_totals(fields.total)
        self._capacity = blocks
        self._blocks: OrderedDict[int, tuple[Any, np.ndarray]] = OrderedDict()
        self.block(0)  # refuses a file of another content before anything starts

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def genes(self) -> tuple[str, ...]:
        return self.fields.genes

    def block(self, number: int) -> tuple[Any, np.ndarray]:
        """Block ``number`` of 512 rows: values [n, G] (CSR, or dense as stored) and totals [n]."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        start = number * _BLOCK
        values = self._store.rows(self.layer, start, min(start + _BLOCK, len(self)))
        self._check(values, start)
        if self._totals is None:
            totals = np.asarray(values.sum(1), dtype=np.float64).ravel()
        else:
            totals = self._totals[start : start + _BLOCK]
        if self.fields.content == "counts" and not (totals > 0).all():
            empty = [str(name) for name in self.obs.index[start : start + _BLOCK][totals <= 0]]
            raise DataError(
                self.source, key="counts", expected="a count in each row",
                got=f"{len(empty)} without any in rows {start} to {start + len(totals) - 1}: {', '.join(empty[:8])}",
                remedy="Remove empty cells: scanpy.pp.filter_cells(adata, min_counts=1).",
            )  # fmt: skip
        self._blocks[number] = values if self._as_stored else values[:, self._places], totals
        if len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        return self._blocks[number]

    def row(self, index: int) -> tuple[np.ndarray, float]:
        """The values [G] float32 and the total of one row."""
        values, totals = self.block(index // _BLOCK)
        row = values[index % _BLOCK]
        return (row.toarray()[0] if sparse.issparse(row) else row).astype(np.float32), float(totals[index % _BLOCK])

    def batches(self) -> Iterator[tuple[Any, np.ndarray]]:
        """All blocks in order, for measurements in one pass."""
        for number in range(-(-len(self) // _BLOCK)):
            yield self.block(number)

    def matrix(self, indices: Sequence[int] | np.ndarray | None = None) -> tuple[Any, np.ndarray]:
        """Values [n, G] of rows (CSR, or dense as stored) and their totals [n], all in memory."""
        rows = np.arange(len(self)) if indices is None else np.asarray(indices)
        stack = sparse.vstack if sparse.issparse(self.block(0)[0]) else np.concatenate
        order = np.argsort(rows, kind="stable")
        parts, totals = [], []
        for number in np.unique(rows // _BLOCK):
            block, library = self.block(int(number))
            inside = rows[order][rows[order] // _BLOCK == number] % _BLOCK
            parts.append(block[inside])
            totals.append(library[inside])
        back = np.argsort(order)
        values: Any = stack(parts)
        return (values.tocsr() if sparse.issparse(values) else values)[back], np.concatenate(totals)[back]

    def _find_layer(self, content: str) -> str:
        last, descriptions = min(_BLOCK, len(self.obs)), {}
        for place in PLACES if content == "counts" else ("X",):
            if self._store.has(place):
                descriptions[place] = describe_values(self._store.rows(place, 0, last))
                if content != "counts" or descriptions[place] == "counts":
                    return place
        others = [name for name in self._store.layers if name not in PLACES]
        others = [name for name in others if describe_values(self._store.rows(name, 0, last)) == "counts"]
        got = [*(f"{place}: {text}" for place, text in descriptions.items()), *(f"{n}: counts" for n in others)]
        raise DataError(
            self.source,
            expected="raw counts, integers from 0, in layers['counts'], raw or X",
            got="; ".join(got) or "no matrix",
            remedy=counts_remedy(descriptions.get("X", ""), self.source, others),
        )

    def _check(self, values: Any, start: int) -> None:
        source = f"{self.source} ({self.layer}, rows {start} to {start + values.shape[0] - 1})"
        if self.fields.content == "counts":
            refuse_other_than_counts(values, source)
        bad = int((~np.isfinite(values.data if sparse.issparse(values) else values)).sum())
        if bad:
            raise DataError(
                source, expected="finite values", got=f"{bad} NaN or infinite", remedy="Remove these rows or genes."
            )

    def _declared_totals(self, name: str) -> np.ndarray:
        totals = column_of(self.obs, name, "total", self.source).to_numpy(dtype=np.float64)
        if not (np.isfinite(totals) & (totals > 0)).all():
            raise DataError(
                self.source, key="total", expected=f"totals > 0 in obs[{name!r}]", got=f"from {totals.min():.4g}",
                remedy="Remove empty cells, or give --total_key '$None', which sums the genes of the file.",
            )  # fmt: skip
        return totals


class ExpressionRows(Dataset):
    """Rows of an :class:`Expression` as dictionaries, like the items of MONAI's data sets.

    ``image`` [G] float32, ``library`` (total of the whole cell), ``name``, and the conditions that the fields declare:
    ``label`` and ``batch`` (numbers, -1 missing), and the covariates under their names (NaN missing).

    Args:
        expression: the source of the rows.
        indices: of the rows; None takes all.
        transform: of each dictionary.
    """

    def __init__(
        self, expression: Expression, indices: Sequence[int] | np.ndarray | None = None, transform: Any = None
    ) -> None:
        self.expression, self.transform = expression, transform
        self.indices = np.arange(len(expression)) if indices is None else np.asarray(indices)
        fields, obs, source = expression.fields, expression.obs, expression.source
        self.conditions: dict[str, torch.Tensor] = {
            role: torch.as_tensor(fields.codes(obs, role, source), dtype=torch.long)
            for role in ("label", "batch")
            if getattr(fields, role)
        }
        for name in fields.covariates:
            column = pd.to_numeric(column_of(obs, name, name, source), errors="raise")
            self.conditions[name] = torch.as_tensor(column.to_numpy(dtype=np.float32))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Any:
        index = int(self.indices[place])
        values, library = self.expression.row(index)
        item: Mapping[str, Any] = {
            "image": torch.from_numpy(values),
            "library": torch.tensor(library, dtype=torch.float32),
            **{name: column[index] for name, column in self.conditions.items()},
            "name": str(self.expression.obs.index[index]),
        }
        return item if self.transform is None else self.transform(item)


def stratified_split(labels: Any, share: float = 0.4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and held-out rows; holds out ``share`` of each label (by scikit-learn)."""
    values = np.asarray(labels)
    return split_indices(len(values), share, seed, labels=values)


def annotated_expression(
    values: Any,
    fields: GeneFields,
    obs: pd.DataFrame | None = None,
    provenance: Mapping[str, Any] | None = None,
    latent: Any = None,
    library: Any = None,
    source: object = "the generated rows",
) -> Any:
    r"""Generated rows as AnnData.

    Counts are ``layers['counts']`` (int32 CSR), and X is :math:`\log(1 + s x / l)` with s = :data:`TARGET_SUM` and l
    the total of the whole cell, including genes that the model lacks. ``obs`` has l as ``fields.total`` or
    ``n_counts``. Continuous values are X. The names of the rows are ``synthetic_0``, ..., and ``obs['synthetic']`` is
    true.

    Args:
        values: [N, genes of ``fields``], dense or sparse.
        fields: the names of the genes, and the content of the values.
        obs: conditions of each row.
        provenance: origin of the rows (hash of the weights, seed, steps, ...), for ``uns['monai_diffscore']``.
        latent: [N, d], for ``obsm['X_score_latent']``.
        library: l [N], of counts.
        source: for messages.
    Raises:
        DataError: for another shape, values that should be counts and are not, or totals that are missing or smaller
            than the sum of the genes.
    """
    import anndata

    matrix: Any = sparse.csr_matrix(values) if fields.content == "counts" else np.asarray(values, dtype=np.float32)
    rows = matrix.shape[0]
    if matrix.shape[1] != len(fields.genes) or (obs is not None and len(obs) != rows):
        raise DataError(
            source,
            expected=f"values [N, {len(fields.genes)}] and N rows of obs",
            got=f"{matrix.shape} and {None if obs is None else len(obs)}",
            remedy="Give the values of the genes of the fields.",
        )
    table = pd.DataFrame(index=range(rows)) if obs is None else obs.copy()
    table.index = pd.Index([f"synthetic_{number}" for number in range(rows)])
    layers = {}
    if fields.content == "counts":
        refuse_other_than_counts(matrix, source)
        totals = _whole_totals(library, matrix, source)
        table[fields.total or "n_counts"] = totals
        layers["counts"] = matrix.astype(np.int32)
        matrix = matrix.astype(np.float32)
        scale = (TARGET_SUM / totals).astype(np.float32)
        matrix.data = np.log1p(matrix.data * np.repeat(scale, np.diff(matrix.indptr)))
    table["synthetic"] = True
    return anndata.AnnData(
        matrix,
        obs=table,
        var=pd.DataFrame(index=pd.Index(fields.genes)),
        layers=layers,
        uns={"monai_diffscore": {name: _plain(value) for name, value in (provenance or {}).items()}},
        obsm={} if latent is None else {"X_score_latent": np.asarray(latent, dtype=np.float32)},
    )


def _whole_totals(library: Any, counts: Any, source: object) -> np.ndarray:
    sums = np.asarray(counts.sum(1), dtype=np.float64).ravel()
    totals = np.zeros(0) if library is None else np.asarray(library, dtype=np.float64)
    if totals.shape != sums.shape or not ((totals > 0) & (totals >= sums)).all():
        got = "none" if library is None else f"shape {totals.shape}"
        if totals.shape == sums.shape:
            got = f"{totals[(totals - sums).argmin()]:g} for a sum of {sums[(totals - sums).argmin()]:g}"
        raise DataError(
            source, key="library", got=got,
            expected=f"totals [{len(sums)}] of whole cells, > 0 and at least the sum of their genes",
            remedy="Give the totals of all genes; the model's genes sum to a total only if they are all genes.",
        )  # fmt: skip
    return totals


def write_expression(path: str | Path, values: Any, fields: GeneFields, **options: Any) -> None:
    """Writes generated rows as AnnData, whole or not at all; the ending chooses .h5ad or .zarr.

    Args:
        path: of the file.
        values, fields, options: as for :func:`annotated_expression`.
    """
    adata = annotated_expression(values, fields, **options, source=path)
    if Path(path).suffix == ".zarr":
        with whole_folder(path) as folder:
            adata.write_zarr(folder)
    else:
        with whole_path(path) as file:
            adata.write_h5ad(file)


def _plain(value: Any) -> Any:
    """A value that AnnData can store: numbers and text unchanged, others as JSON."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)
