r"""Checks that a matrix has counts, and recovers counts from log-normalised values.

A count matrix x has the molecules of each gene in each cell: integers :math:`x \ge 0`. A model of counts that is
trained on transformed values silently learns something else:

==============  ====================================================  ========================
matrix          formula                                               sign
==============  ====================================================  ========================
counts          x                                                     integers, none negative
log-normalised  :math:`\log(1 + s x / l)`, l the total of the cell    fractions, none negative
z-scored        :math:`(y - \bar y_g) / s_g`                          negative values
==============  ====================================================  ========================

:func:`recover_counts` inverts the second exactly if the total l of each **whole** cell is known; the third cannot be
inverted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from monai_diffscore.errors import DataError


def describe_values(matrix: Any) -> str:
    """The content of a matrix, in words: "counts" for non-negative integers, else the difference from counts."""
    values = np.asarray(matrix.data if sparse.issparse(matrix) else matrix).ravel()
    if not values.size:
        return "counts"
    bad = int((~np.isfinite(values)).sum()) if values.dtype.kind == "f" else 0
    if bad:
        return f"{bad} values NaN or infinite"
    low, high = float(values.min()), float(values.max())
    if low < 0:
        return f"negative values, from {low:.4g} to {high:.4g}: z-scored or centred, which cannot be undone"
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        kind = "log-normalised" if high < 20 else "scaled"
        return f"fractions from {low:.4g} to {high:.4g}: {kind}"
    return "counts"


def refuse_other_than_counts(matrix: Any, source: object, key: str = "image") -> None:
    """Raises a DataError unless all values of a dense or sparse matrix are integers >= 0."""
    description = describe_values(matrix)
    if description != "counts":
        raise DataError(
            source,
            key=key,
            expected="raw counts, integers from 0",
            got=description,
            remedy=counts_remedy(description, source),
        )


def counts_remedy(description: str, source: object, layers: Sequence[str] = ()) -> str:
    """How to get counts, for a description of :func:`describe_values`: a command, or where to put them.

    Args:
        description: in words.
        source: a file .h5ad, which the command then names; words in brackets may follow.
        layers: names of layers that hold counts.
    """
    file = re.fullmatch(r"(.*\.h5ad)( \(.*\))?", str(source))
    path = Path(file[1] if file else "cells.h5ad")

    def command(values: str, packages: str = "") -> str:
        code = (
            f"import anndata{packages}; a = anndata.read_h5ad({str(path)!r}); a.layers['counts'] = {values}; "
            f"a.write_h5ad({str(path.with_name(path.stem + '_counts.h5ad'))!r})"
        )
        return f"python -c {shlex.quote(code)}" if '"' in code else f'python -c "{code}"'

    if layers:
        names = " or ".join(f"layers[{name!r}]" for name in layers)
        return f"If {names} holds the raw counts, copy it: {command(f'a.layers[{layers[0]!r}]')}. {_NO_COUNTS}"
    if description.endswith("scaled"):
        rounded = command("numpy.rint(a.X)", ", numpy")
        return f"Counts corrected for ambient RNA (SoupX, CellBender) are rounded: {rounded}. {_NO_COUNTS}"
    return (
        "Put the raw counts into layers['counts'] (before normalising: adata.layers['counts'] = adata.X.copy()); if "
        "only log1p(1e4 x / total) and the totals are left, monai_diffscore.transforms.recover_counts gives them back. "
        f"{_NO_COUNTS}"
    )


_NO_COUNTS = "Data that never were counts (microarrays, log-CPM): plan with --kind expression."


def recover_counts(
    log_normalised: Any, totals: Any, target_sum: float = 1e4, tolerance: float = 0.2, source: object = "the matrix"
) -> sparse.csr_matrix:
    r"""Recovers the counts of a log-normalised matrix, int32 CSR.

    .. math::  x = \mathrm{rint}\bigl((e^y - 1)\, l / s\bigr)

    in float64. All values must lie within ``tolerance`` of an integer, which proves that l and s are right.

    Args:
        log_normalised: y [cells, genes] = log(1 + s x / l), dense or sparse.
        totals: l [cells], of all counted genes, not only of the genes of y.
        target_sum: s.
        tolerance: largest distance to an integer, below 0.5.
        source: for messages.
    Raises:
        DataError: for a value further from an integer, or invalid y or l.
    """
    rows = sparse.csr_matrix(log_normalised, dtype=np.float64)
    library = np.asarray(totals, dtype=np.float64)
    if library.shape != (rows.shape[0],) or not (np.isfinite(library) & (library > 0)).all() or (rows.data < 0).any():
        raise DataError(
            source,
            expected=f"log1p values from 0 and {rows.shape[0]} totals > 0",
            got=f"values from {rows.data.min(initial=0):.4g}, totals of shape {library.shape}, "
            f"from {library.min(initial=np.inf):.4g}",
            remedy="Give the log-normalised matrix (often adata.raw.X) and the totals of whole cells.",
        )
    exact = np.expm1(rows.data) * np.repeat(library, np.diff(rows.indptr)) / target_sum
    counts = np.rint(exact)
    distance = float(np.abs(exact - counts).max(initial=0))
    if not distance < tolerance:
        raise DataError(
            source,
            expected=f"values within {tolerance} of an integer after (e^y - 1) total / {target_sum:g}",
            got=f"a distance of {distance:.3f}",
            remedy="The totals are of other genes, target_sum or the logarithm's base is another, or the counts were "
            "corrected (ambient RNA, batch): train on the original count matrix.",
        )
    recovered = sparse.csr_matrix((counts.astype(np.int32), rows.indices, rows.indptr), shape=rows.shape)
    recovered.eliminate_zeros()
    return recovered
