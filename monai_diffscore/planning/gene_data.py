"""Fingerprints of expression data and tables: what is in a row, and how much of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from monai_diffscore.data.anndata import Expression
from monai_diffscore.data.cells import split_cells
from monai_diffscore.data.delimited import DELIMITERS
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.matrices import genes_are_in
from monai_diffscore.data.profiles import measure_profiles, split_profiles
from monai_diffscore.data.table_inference import find_schema
from monai_diffscore.data.tables import read_table, split_table
from monai_diffscore.errors import DataError
from monai_diffscore.planning.fingerprint import Fingerprint, Problem, percentiles_by_name
from monai_diffscore.transforms.table import measure_encoding

#: columns of obs that are taken for types and batches, if none are named
TYPES = ("cell_type", "celltype", "cell_types", "bulk_labels", "cell_ontology_class", "leiden", "louvain")
BATCHES = ("batch", "sample", "donor")
TOTALS = ("n_counts", "total_counts")
#: shares of cells and of other rows that are held out
CELLS_HELD_OUT, ROWS_HELD_OUT = 0.02, 0.2
#: held-out rows that a report needs, and a larger share than which is not held out for them; rows of a type to learn it
ENOUGH_HELD_OUT, MOST_HELD_OUT, FEW_OF_A_TYPE = 16, 0.4, 8
#: whole numbers of more values are a measure, not a code; a type has this many rows on average
MANY_VALUES, FEW_VALUES_SHARE = 20, 2
_MOST_ROWS = 2000  # that percentiles and zeros are counted in


def held_out_share(rows: int, usual: float) -> float:
    """The usual share, or as much more as gives 16 rows."""
    return round(max(usual, min(MOST_HELD_OUT, 1.05 * ENOUGH_HELD_OUT / rows)), 3)


def fingerprint_cells(root: Path, conditions: Sequence[str] = (), subject: str | None = None) -> Fingerprint:
    """The fingerprint of an AnnData file of single cells.

    Args:
        root: .h5ad or .zarr.
        conditions: columns of ``obs``: the first with names is the type, the second the batch, numbers are covariates.
            Empty: the columns that are usually called so.
        subject: the column of donors, whose cells stay together.
    Raises:
        DataError: if there are no counts in it, or no such column.
    """
    plain = Expression(root)
    roles = _roles(plain.obs, conditions, root)
    sums = np.concatenate([totals for _, totals in plain.batches()])
    total = next((name for name in TOTALS if name in plain.obs and bool((plain.obs[name] >= sums).all())), None)
    found = Expression(root, GeneFields(total=total, **roles))
    _, held_out = split_cells(found, held_out_share(len(found), CELLS_HELD_OUT), 0, subject)
    return _of_expression(root, "cells", found, held_out, "counts", 1.0, {**roles, "total": total, "subject": subject})


def fingerprint_expression(root: Path, conditions: Sequence[str] = (), subject: str | None = None) -> Fingerprint:
    """The fingerprint of a matrix of expression: counts if all of them are, else continuous values.

    Raises:
        DataError: for what is no such matrix.
    """
    content = "counts"
    turned = ending_in(root, DELIMITERS) and genes_are_in(root) == "rows"
    try:
        plain = Expression(root, transposed=turned)
    except DataError:
        content = "continuous"
        plain = Expression(root, GeneFields(content=content), turned)
    roles = _roles(plain.obs, conditions, root) if conditions or root.suffix in (".h5ad", ".zarr") else {}
    found = Expression(root, GeneFields(content=content, **roles), turned)
    training, held_out = split_profiles(found, held_out_share(len(found), ROWS_HELD_OUT), 0, subject)
    sigma_data = float(measure_profiles(found, training)["sigma_data"])
    declared = {**roles, "content": content, "subject": subject, "transposed": turned}
    return _of_expression(
        root,
        "expression",
        found,
        held_out,
        content,
        sigma_data,
        declared,
    )


def fingerprint_table(
    root: Path,
    conditions: Sequence[str] = (),
    subject: str | None = None,
    exclude: Sequence[str] = (),
    delimiter: str | None = None,
    missing: Sequence[str] = (),
) -> Fingerprint:
    """The fingerprint of a clinical table: its columns by the schema that is inferred.

    Args:
        root: CSV, TSV or Parquet.
        conditions: at most one: the column that generated rows can be asked for.
        subject: the column of patients, which is not generated.
        exclude: other columns that are not.
        delimiter, missing: as :func:`~monai_diffscore.data.tables.read_table` takes them.
    Raises:
        DataError: if a column cannot be taken as it is, or two conditions are named.
    """
    if len(conditions) > 1:
        raise DataError(root, key="condition", expected="one column", got=", ".join(conditions),
                        remedy="Name the column that rows are to be asked for by.")  # fmt: skip
    frame = read_table(root, delimiter, missing)
    label = conditions[0] if conditions else None
    schema = find_schema(frame, None, label=label, subject=subject, exclude=exclude, source=root)
    training, held_out = split_table(frame, schema, held_out_share(len(frame), ROWS_HELD_OUT), 0, root)
    numbers = schema.numbers(training, root)
    encoding = measure_encoding(schema, numbers, schema.label_numbers(training, root))
    return Fingerprint(
        data=str(root),
        kind="table",
        modality="mixed columns",
        modality_from="the schema",
        cases=len(frame),
        subjects=_subjects(frame, subject),
        names=[],
        channels=encoding.size,
        sizes={name: [len(schema.features)] for name in ("min", "median", "max")},
        percentiles=percentiles_by_name(numbers[np.isfinite(numbers)]),
        sigma_data=round(float(encoding.sigma_data), 4),
        mean=0.0,
        details={
            "label": label,
            "subject": subject,
            "exclude": list(exclude),
            "delimiter": delimiter,
            "missing": list(missing),
            "schema": json.loads(json.dumps(schema.as_dict())),
            "columns": {column.name: column.kind for column in schema.features},
            "missing_share": round(float(np.isnan(numbers).mean()), 4),
            "held_out_rows": len(held_out),
            "sigma_data": round(float(encoding.sigma_data), 4),
        },
        problems=_problems(root, len(held_out), None if label is None else frame[label]),
    )


def ending_in(path: Path, endings: Iterable[str]) -> bool:
    """Whether a file has one of the endings, or one before .gz."""
    return any(suffix.lower() in endings for suffix in path.suffixes[-2:])


def _roles(obs: pd.DataFrame, conditions: Sequence[str], root: Path) -> dict[str, Any]:
    """Which columns of obs are type, batch and covariates."""
    missing = [name for name in conditions if name not in obs]
    if missing:
        raise DataError(root, key="condition", expected=f"columns of obs: {', '.join(map(str, obs.columns))}",
                        got=", ".join(missing), remedy="Name others.")  # fmt: skip
    if not conditions:
        named = {name.lower(): name for name in map(str, obs.columns)}
        label = next((named[name] for name in TYPES if name in named), None)
        return {"label": label, "batch": next((named[name] for name in BATCHES if name in named), None)}
    numbers = [name for name in conditions if _measures(obs[name])]
    names = [name for name in conditions if name not in numbers]
    ids = [name for name in names if obs[name].nunique() > max(FEW_OF_A_TYPE, len(obs) / FEW_VALUES_SHARE)]
    if ids:
        raise DataError(
            root, key="condition", expected="types or batches of several rows each",
            got=f"{obs[ids[0]].nunique()} different values of {ids[0]} in {len(obs)} rows",
            remedy=f"If it names donors, give --subject {ids[0]}; numbers must be stored as numbers to be covariates.",
        )  # fmt: skip
    if len(names) > 2:
        raise DataError(root, key="condition", expected="at most two columns of names: type and batch",
                        got=", ".join(names), remedy="Join two of them in one column.")  # fmt: skip
    roles: dict[str, Any] = dict(zip(("label", "batch"), [*names, None, None], strict=False))
    return {**roles, "covariates": numbers}


def _measures(column: pd.Series) -> bool:
    """Whether a column is a covariate: fractions, or whole numbers of many values, such as an age; codes are few."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    return bool(pd.api.types.is_float_dtype(column) or column.nunique() > MANY_VALUES)


def _subjects(rows: pd.DataFrame, subject: str | None) -> int:
    return len(rows) if subject is None else int(rows[subject].nunique())


def _of_expression(
    root: Path,
    kind: str,
    found: Expression,
    held_out: np.ndarray,
    content: str,
    sigma_data: float,
    declared: dict[str, Any],
) -> Fingerprint:
    values, totals = found.matrix(np.arange(min(len(found), _MOST_ROWS)))
    labels = None
    filled = values.nnz if sparse.issparse(values) else int((values != 0).sum())
    zero_share = round(1 - filled / (values.shape[0] * values.shape[1]), 4)
    details: dict[str, Any] = {
        "genes": len(found.genes),
        "zero_share": zero_share,
        "library_sizes": [round(float(value), 1) for value in np.percentile(totals, [0, 50, 100])],
        "held_out_rows": len(held_out),
    }
    if found.fields.label:
        labels = found.obs[found.fields.label].astype(str)
        details["rows_of_each_label"] = labels.value_counts().to_dict()
    return Fingerprint(
        data=str(root),
        kind=kind,
        modality=content,
        modality_from=f"the values of {found.layer}",
        cases=len(found),
        subjects=_subjects(found.obs, declared["subject"]),
        names=[],
        channels=len(found.genes),
        sizes={name: [len(found.genes)] for name in ("min", "median", "max")},
        percentiles=percentiles_by_name(values.toarray() if sparse.issparse(values) else np.asarray(values)),
        sigma_data=round(sigma_data, 4),
        mean=0.0,
        foreground_share=1 - zero_share,
        details={**details, **declared, "sigma_data": sigma_data},
        problems=_problems(root, len(held_out), labels),
    )


def _problems(root: Path, held_out: int, labels: pd.Series | None) -> list[Problem]:
    """What a training will not fail at, but its user should know before."""
    found = []
    if held_out < ENOUGH_HELD_OUT:
        found.append(
            Problem(
                root.name, f"{ENOUGH_HELD_OUT} rows to hold out", f"{held_out}",
                "Add rows, or report with rows of your own (--real TRAIN TEST).", left_out=False,
            )
        )  # fmt: skip
    numbers = labels is None or (pd.api.types.is_float_dtype(labels) and labels.nunique() > FEW_OF_A_TYPE)
    rows = {} if numbers else labels.dropna().value_counts().to_dict()  # type: ignore[union-attr]
    rare = [f"{name} {number}" for name, number in rows.items() if number < FEW_OF_A_TYPE]
    if rare:
        found.append(
            Problem(
                root.name, f"{FEW_OF_A_TYPE} rows of each type of {labels.name}", ", ".join(rare),  # type: ignore[union-attr]
                "Join types, or leave rare ones out: what is generated of them repeats what they have.", left_out=False,
            )
        )  # fmt: skip
    return found
