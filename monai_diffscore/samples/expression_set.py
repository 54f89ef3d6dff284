"""Reads Bioconductor's ExpressionSet from an .rda file.

rdata parses the file. Only the expression matrix and the table of the samples are converted, because the environments
around them contain promises, which have no meaning outside of R.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.errors import DataError


def read_expression_set(path: str | Path, name: str) -> tuple[np.ndarray, pd.DataFrame, list[str]]:
    """Values [samples, features] float32, the table of the samples, and the names of the features.

    Args:
        path: .rda file.
        name: of the object in it.
    Raises:
        DataError: if rdata is not installed; for a file without the object.
    """
    try:
        import rdata
    except ImportError as error:
        raise DataError(
            path, expected="the package rdata, which reads R's files", got="it is not installed",
            remedy="pip install rdata (in the extra omics).",
        ) from error  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            objects = dict(_pairs(rdata.parser.parse_file(path).object))
            slots = dict(_pairs(objects[name].attributes))
            values = dict(_pairs(slots["assayData"].value.frame))["exprs"]
            table = dict(_pairs(slots["phenoData"].attributes))["data"]
            convert = rdata.conversion.SimpleConverter().convert
            matrix, obs = convert(values), convert(table)
        except (KeyError, AttributeError, ValueError, OSError) as error:
            raise DataError(
                path, expected=f"an ExpressionSet named {name!r}",
                got=f"{type(error).__name__} {error}",
                remedy="Write the matrix from R: write.csv(exprs(x), file), with --transposed True.",
            ) from error  # fmt: skip
    features, samples = ([str(value) for value in matrix.coords[axis].values] for axis in matrix.dims)
    obs.index = pd.Index([str(value) for value in obs.index])
    return np.asarray(matrix.values, dtype=np.float32).T, obs.loc[samples], features


def _pairs(node: Any) -> Iterator[tuple[str | None, Any]]:
    """Tags and values of one of R's linked lists."""
    while node is not None and isinstance(node.value, tuple):
        tag = node.tag
        if tag is not None and tag.referenced_object is not None:
            tag = tag.referenced_object
        yield (None if tag is None else tag.value.value.decode()), node.value[0]
        node = node.value[1]
