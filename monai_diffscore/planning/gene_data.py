"""Fingerprints of expression data and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.planning.fingerprint import Fingerprint


def fingerprint_cells(root: Path, conditions: Sequence[str] = ()) -> Fingerprint:
    """The fingerprint of an AnnData file of single cells."""
    raise NotImplementedError


def fingerprint_expression(root: Path, conditions: Sequence[str] = ()) -> Fingerprint:
    """The fingerprint of a matrix of expression."""
    raise NotImplementedError


def fingerprint_table(root: Path, conditions: Sequence[str] = ()) -> Fingerprint:
    """The fingerprint of a clinical table."""
    raise NotImplementedError
