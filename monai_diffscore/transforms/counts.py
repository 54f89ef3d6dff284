r"""What counts are, and how to tell them from what has been made of them.

A count matrix x holds the molecules of each gene in each cell: integers :math:`x \ge 0`. What is made of it is not x
any more, and a model of counts that is trained on it learns something else without a word:

==============  ====================================================  ========================
matrix          formula                                               told by
==============  ====================================================  ========================
counts          x                                                     integers, none negative
log-normalised  :math:`\log(1 + s x / l)`, l the total of the cell    fractions, none negative
z-scored        :math:`(y - \bar y_g) / s_g`                          negative values
==============  ====================================================  ========================

The second is undone exactly where the total l of each **whole** cell is known (:func:`recover_counts`); the third is
not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from monai_diffscore.errors import DataError


def describe_values(matrix: Any) -> str:
    """What a matrix holds, in words: "counts" for non-negative integers, else how it fails to."""
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
        made = "log-normalised" if high < 20 else "scaled"
        return f"fractions from {low:.4g} to {high:.4g}: {made}"
    return "counts"


def refuse_other_than_counts(matrix: Any, source: object, key: str = "image") -> None:
    """Raises a DataError unless all values of a dense or sparse matrix are integers >= 0."""
    found = describe_values(matrix)
    if found != "counts":
        raise DataError(source, key=key, expected="raw counts, integers from 0", got=found, remedy=COUNTS_REMEDY)


COUNTS_REMEDY = (
    "Put the raw counts into layers['counts'] (before normalising: adata.layers['counts'] = adata.X.copy()); if only "
    "log1p(1e4 x / total) and the totals are left, monai_diffscore.transforms.recover_counts gives them back; counts "
    "corrected for ambient RNA (SoupX, CellBender) are rounded: adata.layers['counts'] = adata.X.rint(); for data "
    "that never were counts (microarrays, log-CPM), declare GeneFields(content='continuous')."
)


def recover_counts(
    log_normalised: Any, totals: Any, target_sum: float = 1e4, tolerance: float = 0.2, source: object = "the matrix"
) -> sparse.csr_matrix:
    r"""The counts that a log-normalised matrix was made of, int32 CSR.

    .. math::  x = \mathrm{rint}\bigl((e^y - 1)\, l / s\bigr)

    in float64, where all lie within ``tolerance`` of an integer: one proof that l and s are the right ones.

    Args:
        log_normalised: y [cells, genes] = log(1 + s x / l), dense or sparse.
        totals: l [cells], of all genes that were counted, not of those that are left in y.
        target_sum: s.
        tolerance: largest distance to an integer, below 0.5.
        source: for messages.
    Raises:
        DataError: if a value lies further away, or y or l cannot be what they are said to be.
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
