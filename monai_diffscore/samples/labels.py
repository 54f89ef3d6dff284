"""The labels of sample tables and matrices."""

from __future__ import annotations

import re
from pathlib import Path

#: the names of samples in the cache, and their columns of labels
_LABELS = {r"breast_cancer_\d+_\d+\.csv": "diagnosis", r"simulated_profiles/expression\.h5ad": "group"}


def label_of(data: str | Path) -> str | None:
    """The column of labels of a sample; None for a sample without labels, and for a file of another name.

    Args:
        data: path of a table or a matrix.
    """
    path = Path(data).absolute().as_posix()
    return next((label for name, label in _LABELS.items() if re.search(f"/{name}$", path)), None)
