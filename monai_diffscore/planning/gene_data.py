"""Fingerprints of expression data and tables.

The bundles of these kinds are not among the templates yet; until they are, such data is refused with what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.data.problems import DataError
from monai_diffscore.planning.fingerprint import Fingerprint


def fingerprint_cells(root: Path, conditions: Sequence[str] = ()) -> Fingerprint:
    """The fingerprint of an AnnData file of single cells. Raises DataError: not planned yet."""
    raise _not_planned(root, "single cells", "scrna_attention")


def fingerprint_expression(root: Path, conditions: Sequence[str] = ()) -> Fingerprint:
    """The fingerprint of a matrix of expression. Raises DataError: not planned yet."""
    raise _not_planned(root, "an expression matrix", "bulk_expression_mlp (with a graph: pathway_gnn)")


def fingerprint_table(root: Path, conditions: Sequence[str] = ()) -> Fingerprint:
    """The fingerprint of a clinical table. Raises DataError: not planned yet."""
    raise _not_planned(root, "a table", "tabular_mlp")


def _not_planned(root: Path, what: str, bundle: str) -> DataError:
    return DataError(
        root,
        key="kind",
        expected="volumes, pictures, slides or sequences, which are planned",
        got=what,
        remedy=f"Run the bundle {bundle} with --dataset_dir on it; --kind if it is something else.",
    )
