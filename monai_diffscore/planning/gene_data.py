"""Fingerprints of expression data and tables: the content of a row, and the number of rows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from monai_diffscore.data.anndata import Expression
from monai_diffscore.data.cells import split_cells
from monai_diffscore.data.delimited import DELIMITERS
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.gene_graph import read_gene_graph
from monai_diffscore.data.matrices import genes_are_in
from monai_diffscore.data.profiles import measure_profiles, split_profiles
from monai_diffscore.data.table_inference import find_schema
from monai_diffscore.data.tables import columns_in, read_table, split_table
from monai_diffscore.errors import DataError
from monai_diffscore.planning.fingerprint import Fingerprint, Problem, percentiles_by_name
from monai_diffscore.transforms.table import measure_encoding
from monai_diffscore.transforms.table_column import Column
from monai_diffscore.transforms.table_schema import TableSchema

#: columns of obs that count as types, batches and totals by default
TYPES = ("cell_type", "celltype", "cell_types", "bulk_labels", "cell_ontology_class", "leiden", "louvain")
BATCHES = ("batch", "sample", "donor")
TOTALS = ("n_counts", "total_counts")
#: held-out shares of cells and of other rows
CELLS_HELD_OUT, ROWS_HELD_OUT = 0.02, 0.2
#: held-out rows that a report needs; largest share that is held out for them; rows that a type needs
ENOUGH_HELD_OUT, MOST_HELD_OUT, FEW_OF_A_TYPE = 16, 0.4, 8
#: a column of whole numbers with more values is a measure, not a code; smallest average number of rows of a type
MANY_VALUES, FEW_VALUES_SHARE = 20, 2
_MOST_ROWS = 2000  # in which percentiles and zeros are counted


def held_out_share(rows: int, usual: float) -> float:
    """The usual share, or a larger one that holds out 16 rows."""
    return round(max(usual, min(MOST_HELD_OUT, 1.05 * ENOUGH_HELD_OUT / rows)), 3)


def fingerprint_cells(root: Path, conditions: Sequence[str] = (), subject: str | None = None) -> Fingerprint:
    """The fingerprint of an AnnData file of single cells.

    Args:
        root: .h5ad or .zarr.
        conditions: columns of ``obs``: the first with names is the type, the second the batch, numbers are covariates.
            Empty: columns with common names.
        subject: the column of donors. The cells of a donor stay together.
    Raises:
        DataError: if the file holds no counts, or lacks a column.
    """
    plain = Expression(root)
    roles = _roles(plain.obs, conditions, root)
    sums = np.concatenate([totals for _, totals in plain.batches()])
    total = next((name for name in TOTALS if name in plain.obs and bool((plain.obs[name] >= sums).all())), None)
    expression = Expression(root, GeneFields(total=total, **roles))
    _, held_out = split_cells(expression, held_out_share(len(expression), CELLS_HELD_OUT), 0, subject)
    return _of_expression(
        root, "cells", expression, held_out, "counts", 1.0, {**roles, "total": total, "subject": subject}
    )


def fingerprint_expression(
    root: Path,
    conditions: Sequence[str] = (),
    subject: str | None = None,
    graph: str | Path | None = None,
    graph_options: Mapping[str, Any] | None = None,
) -> Fingerprint:
    """The fingerprint of a matrix of expression: counts if all values are counts, else continuous values.

    Args:
        root, conditions, subject: as in :func:`fingerprint_cells`.
        graph: edges between genes, which the training reads.
        graph_options: further arguments of :func:`~monai_diffscore.data.gene_graph.read_gene_graph`.
    Raises:
        DataError: if the file is no such matrix, or the graph has no edge between its genes.
    """
    content = "counts"
    transposed = ending_in(root, DELIMITERS) and genes_are_in(root) == "rows"
    try:
        plain = Expression(root, transposed=transposed)
    except DataError:
        content = "continuous"
        plain = Expression(root, GeneFields(content=content), transposed)
    roles = _roles(plain.obs, conditions, root) if conditions or root.suffix in (".h5ad", ".zarr") else {}
    expression = Expression(root, GeneFields(content=content, **roles), transposed)
    training, held_out = split_profiles(expression, held_out_share(len(expression), ROWS_HELD_OUT), 0, subject)
    sigma_data = float(measure_profiles(expression, training)["sigma_data"])
    declared = {**roles, "content": content, "subject": subject, "transposed": transposed}
    if graph is not None:
        options = dict(graph_options or {})
        declared["matching"] = str(read_gene_graph(graph, expression.genes, **options).matching)
        declared["graph_options"] = options
    return _of_expression(
        root,
        "expression",
        expression,
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
    categorical: Sequence[str] = (),
) -> Fingerprint:
    """The fingerprint of a clinical table. Its columns follow the inferred schema.

    Args:
        root: CSV, TSV or Parquet.
        conditions: at most one column. It selects rows when sampling.
        subject: the column of patients. It is not generated.
        exclude: other columns that are not generated.
        delimiter, missing: as :func:`~monai_diffscore.data.tables.read_table` takes them.
        categorical: columns whose numbers are codes.
    Raises:
        DataError: if a column is unusable, or if there are two conditions.
    """
    frame = read_table(root, delimiter, missing)
    conditions, exclude, categorical = (columns_in(names, frame) for names in (conditions, exclude, categorical))
    if len(conditions) > 1:
        raise DataError(root, key="condition", expected="one column", got=", ".join(conditions),
                        remedy="Name the one column that selects rows.")  # fmt: skip
    label = conditions[0] if conditions else None
    schema = find_schema(frame, None, label, subject, exclude, categorical, root)
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
            "assumed": _roles_of_table(schema),
            "label": label,
            "subject": subject,
            "exclude": list(exclude),
            "categorical": list(categorical),
            "delimiter": delimiter,
            "missing": list(missing),
            "schema": json.loads(json.dumps(schema.as_dict())),
            "missing_share": round(float(np.isnan(numbers).mean()), 4),
            "held_out_rows": len(held_out),
            "sigma_data": round(float(encoding.sigma_data), 4),
        },
        problems=_problems(root, len(held_out), None if label is None else frame[label]),
    )


def ending_in(path: Path, endings: Iterable[str]) -> bool:
    """Whether a file has one of the endings, alone or before .gz."""
    return any(suffix.lower() in endings for suffix in path.suffixes[-2:])


def _roles(obs: pd.DataFrame, conditions: Sequence[str], root: Path) -> dict[str, Any]:
    """The columns of obs that are type, batch and covariates."""
    conditions = columns_in(conditions, obs.columns)
    missing = [name for name in conditions if name not in obs]
    if missing:
        raise DataError(root, key="condition", expected=f"columns of obs: {', '.join(map(str, obs.columns))}",
                        got=", ".join(missing), remedy="Name columns of obs.")  # fmt: skip
    if not conditions:
        named = {name.lower(): name for name in map(str, obs.columns) if not _identifies(obs[name])}
        label = next((named[name] for name in TYPES if name in named), None)
        return {"label": label, "batch": next((named[name] for name in BATCHES if name in named), None)}
    numbers = [name for name in conditions if _measures(obs[name])]
    names = [name for name in conditions if name not in numbers]
    ids = [name for name in names if _identifies(obs[name])]
    if ids:
        raise DataError(
            root, key="condition", expected="types or batches of several rows each",
            got=f"{obs[ids[0]].nunique()} different values of {ids[0]} in {len(obs)} rows",
            remedy=f"If it names donors, give --subject {shlex.quote(ids[0])}; numbers must be stored as numbers to be "
            "covariates.",
        )  # fmt: skip
    if len(names) > 2:
        raise DataError(root, key="condition", expected="at most two columns of names: type and batch",
                        got=", ".join(names), remedy="Join two of them in one column.")  # fmt: skip
    roles: dict[str, Any] = dict(zip(("label", "batch"), [*names, None, None], strict=False))
    return {**roles, "covariates": numbers}


def _identifies(column: pd.Series) -> bool:
    """Whether a column has too few rows of each value to be types or batches."""
    return bool(column.nunique() > max(FEW_OF_A_TYPE, len(column) / FEW_VALUES_SHARE))


def _measures(column: pd.Series) -> bool:
    """Whether a column is a covariate: fractions, or whole numbers with many values, such as an age. Codes have few."""
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    return bool(pd.api.types.is_float_dtype(column) or column.nunique() > MANY_VALUES)


def _roles_of_obs(obs: pd.DataFrame, declared: Mapping[str, Any]) -> list[str]:
    """The role of each column of obs, with the flag that changes it; empty without such a column."""
    roles = {
        "type": declared.get("label"),
        "batch": declared.get("batch"),
        "covariates": ", ".join(declared.get("covariates") or ()),
        "total of a row": declared.get("total"),
        "subject": declared.get("subject"),
    }
    texts = [f"{role} {names}" for role, names in roles.items() if names]
    taken = {
        *(declared.get(role) for role in ("label", "batch", "total", "subject")),
        *(declared.get("covariates") or ()),
    }
    others = [name for name in map(str, obs.columns) if name not in taken]
    texts += [f"not used {_shortened(others)}"] if others else []
    flags = "--condition TYPE,BATCH,COVARIATE and --subject COLUMN choose others"
    return [f"{'; '.join(texts)}. {flags}"] if texts else []


def _roles_of_table(schema: TableSchema) -> list[str]:
    """The role of each column of a table, with the flag that changes it."""
    kinds: dict[str, list[str]] = {}
    for column in schema.features:
        kinds.setdefault(_kind_of(column), []).append(column.name)
    texts = [f"{kind} {_shortened(names)}" for kind, names in kinds.items()]
    texts += [f"condition {schema.label}"] if schema.label else []
    texts += [f"subject {schema.subject}"] if schema.subject else []
    flags = "--condition, --subject and --exclude choose others; --categorical A,B takes numbers as codes"
    return [f"{'; '.join(texts)}. {flags}"]


def _kind_of(column: Column) -> str:
    """The kind of a column in words of the table."""
    if column.moment is not None and column.moment.startswith("timedelta"):
        return "durations"
    if column.moment is not None:
        return "dates" if re.search("%[Yy]|^date|D", column.moment) else "times"
    if column.below or column.above:
        return f"censored {column.kind}"
    return f"{column.kind} of few levels" if column.levels else column.kind


def _shortened(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _subjects(rows: pd.DataFrame, subject: str | None) -> int:
    return len(rows) if subject is None else int(rows[subject].nunique())


def _of_expression(
    root: Path,
    kind: str,
    expression: Expression,
    held_out: np.ndarray,
    content: str,
    sigma_data: float,
    declared: dict[str, Any],
) -> Fingerprint:
    values, totals = expression.matrix(np.arange(min(len(expression), _MOST_ROWS)))
    labels = None
    filled = values.nnz if sparse.issparse(values) else int((values != 0).sum())
    zero_share = round(1 - filled / (values.shape[0] * values.shape[1]), 4)
    details: dict[str, Any] = {
        "assumed": _roles_of_obs(expression.obs, declared),
        "genes": len(expression.genes),
        "zero_share": zero_share,
        "library_sizes": [round(float(value), 1) for value in np.percentile(totals, [0, 50, 100])],
        "held_out_rows": len(held_out),
    }
    if expression.fields.label:
        labels = expression.obs[expression.fields.label].astype(object)
        counts = labels.map(str, na_action="ignore").value_counts(dropna=False)
        details["rows_of_each_label"] = {
            "without one" if pd.isna(name) else name: count for name, count in counts.to_dict().items()
        }
    return Fingerprint(
        data=str(root),
        kind=kind,
        modality=content,
        modality_from=f"the values of {expression.layer}",
        cases=len(expression),
        subjects=_subjects(expression.obs, declared["subject"]),
        names=[],
        channels=len(expression.genes),
        sizes={name: [len(expression.genes)] for name in ("min", "median", "max")},
        percentiles=percentiles_by_name(values.toarray() if sparse.issparse(values) else np.asarray(values)),
        sigma_data=round(sigma_data, 4),
        mean=0.0,
        foreground_share=1 - zero_share,
        details={**details, **declared, "sigma_data": sigma_data},
        problems=_problems(root, len(held_out), labels),
    )


def _problems(root: Path, held_out: int, labels: pd.Series | None) -> list[Problem]:
    """Problems that do not stop a training but that its user must know."""
    problems = []
    if held_out < ENOUGH_HELD_OUT:
        problems.append(
            Problem(
                root.name, f"{ENOUGH_HELD_OUT} rows to hold out", f"{held_out}",
                "Add rows, or pass your own rows to the report (--real TRAIN TEST).", left_out=False,
            )
        )  # fmt: skip
    numbers = labels is None or (pd.api.types.is_float_dtype(labels) and labels.nunique() > FEW_OF_A_TYPE)
    rows = {} if numbers else labels.dropna().value_counts().to_dict()  # type: ignore[union-attr]
    rare = [f"{name} {number}" for name, number in rows.items() if number < FEW_OF_A_TYPE]
    if rare:
        problems.append(
            Problem(
                root.name, f"{FEW_OF_A_TYPE} rows of each type of {labels.name}", ", ".join(rare),  # type: ignore[union-attr]
                "Join types, or leave rare ones out: samples of a rare type repeat its rows.", left_out=False,
            )
        )  # fmt: skip
    return problems
