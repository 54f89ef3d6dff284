r"""The data of a report of profiles: real and synthetic cells, samples or rows of a table, from files.

Expression comes from .h5ad, .zarr or a text matrix, as :class:`~monai_diffscore.data.Expression` reads it; tables come
from :mod:`~monai_diffscore.report.profile_tables`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from monai_diffscore.data.anndata import Expression
from monai_diffscore.data.expression_stores import matrices_of_10x, only_matrix
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.manifests import of_newest_command
from monai_diffscore.errors import DataError
from monai_diffscore.metrics import Profiles, log_profiles
from monai_diffscore.report.profile_tables import ROWS, TABLES, encode_tables, numbered_frame, read_frame
from monai_diffscore.report.runs import RunRecord, run_parser

EXPRESSION = (".h5ad", ".zarr")
#: values of held-out and synthetic rows that the metrics use; of larger tables, the columns that vary most
_BUDGET = 4_000_000
_FEW, _LEAST = 100, 16


@dataclass(frozen=True)
class ProfileMaterial:
    """All that a panel of profiles needs."""

    real: Profiles
    train: Profiles
    synthetic: Profiles
    table: bool
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def noun(self) -> str:
        """The noun of a row."""
        return "rows" if self.table or self.real.library is None else "cells"


@dataclass(frozen=True)
class ProfileFields:
    """How to read the files.

    Args:
        label: column of ``obs``, or of a table, with the type of each row; None for none.
        total: column of ``obs`` with the total count of each whole cell; None sums all genes of a file.
        content: "counts" or "continuous", of expression; None takes a table.
        layer: "X", "raw" or a name in ``layers``; None takes the first that holds ``content``.
    """

    label: str | None = None
    total: str | None = None
    content: str | None = "counts"
    layer: str | None = None


def is_profiles(path: str | Path) -> bool:
    """Whether a path is a file of profiles. A .npy file is one if it holds rows [N, columns]."""
    path = Path(path)
    if path.suffix != ROWS or not path.is_file():
        return path.suffix in EXPRESSION + TABLES
    try:
        return bool(np.load(path, mmap_mode="r", allow_pickle=False).ndim == 2)
    except (ValueError, OSError):
        return False  # a reader of the file reports the problem


def find_profiles(path: str | Path) -> list[Path]:
    """The generated files of a run or folder, or the file itself; empty without any.

    The folder ``samples`` of a run holds them; a manifest there names those of the newest sampling. Of files with one
    name and several suffixes it takes one.
    """
    root = Path(path)
    if is_profiles(root):
        return [root] if root.exists() else []
    folder = root / "samples" if (root / "samples").is_dir() else root
    files: dict[str, Path] = {}
    for suffix in (*EXPRESSION, *TABLES, ROWS):
        for file in of_newest_command(folder, list(filter(is_profiles, folder.glob(f"*{suffix}")))):
            files.setdefault(file.stem, file)
    return sorted(files.values())


def only_profiles(path: Path) -> Path:
    """The path of a file or a .zarr folder; for another folder, the only file of profiles or matrix of 10x inside.

    Raises:
        DataError: for a folder without such a file, or with several.
    """
    if not path.is_dir() or path.suffix == ".zarr":
        return path
    files = [] if matrices_of_10x(path) else find_profiles(path)  # the tables of 10x are no rows
    if len(files) > 1:
        raise DataError(
            path, expected="one file of cells, profiles or rows in the folder",
            got=", ".join(file.name for file in files[:8]), remedy="Give the path of the file.",
        )  # fmt: skip
    return files[0] if files else only_matrix(path)


def holds_expression(file: Path) -> bool:
    """Whether a file is a matrix of genes by its ending, and no table: .h5ad, .zarr, .h5 or .mtx of 10x."""
    return any(suffix in (*EXPRESSION, ".h5", ".mtx") for suffix in file.suffixes[-2:])


def gather_profiles(
    synthetic: Sequence[str | Path],
    train: str | Path,
    test: str | Path,
    fields: ProfileFields,
    count: int = 1000,
    seed: int = 0,
) -> ProfileMaterial:
    """Reads the three sets and makes them comparable.

    It takes at most ``count`` held-out rows, with their shares of types, and as many synthetic rows of each type. The
    search for near records uses all training rows.

    Args:
        synthetic: files of generated rows.
        train, test: files of real rows, for training and held out.
        fields: columns and content of the files.
        count: number of rows to compare at most.
        seed: seed of the drawn rows.
    Raises:
        DataError: if a file is unreadable, or the files do not fit together.
    """
    files = [Path(file) for file in synthetic]
    left_out: list[str] = []
    if fields.content is None:
        frames = [read_frame(Path(train)), read_frame(Path(test)), pd.concat(map(read_frame, files), ignore_index=True)]
        sets, left_out = encode_tables(frames, (train, test, _names(files)), fields.label)
    else:
        trained = _expression(Path(train), fields)
        sets = [trained, _expression(Path(test), fields, trained.names)]
        sets.append(_joined([_expression(file, fields, trained.names) for file in files]))
    names = {"real, trained on": Path(train).name, "real, held out": Path(test).name, "synthetic": _names(files)}
    return _comparable(sets, names, left_out, fields.content is None, count, seed)


def gather_run_profiles(
    record: RunRecord, synthetic: Sequence[str | Path], fields: ProfileFields, count: int = 1000, seed: int = 0
) -> ProfileMaterial:
    """Like :func:`gather_profiles`, with the training rows and held-out rows of a run. Its configuration has the id
    ``cases`` (training and validation), rows of ``expression`` or two tables, or the id ``rows``, two arrays.

    Args:
        record: from :func:`~monai_diffscore.report.runs.find_run`.
        synthetic, count, seed: as for :func:`gather_profiles`.
        fields: values other than None replace the run's ``label_key``, ``total_key`` and ``layer``.
    Raises:
        DataError: if the run lacks these ids, or a file is unreadable.
    """
    files = [Path(file) for file in synthetic]
    parser = run_parser(record)
    for name, value in (("label_key", fields.label), ("total_key", fields.total), ("layer", fields.layer)):
        if value is not None and name in parser:
            parser[name] = value
    of_rows = "cases" if "cases" in parser else "rows"
    if of_rows not in parser:
        raise DataError(
            record.name, expected="a training of cells, profiles or tables, with the id 'cases'",
            got="none in its configuration", remedy="Name the real rows with --real TRAIN TEST.",
        )  # fmt: skip
    left_out: list[str] = []
    cases: Any = parser.get_parsed_content(of_rows)
    if of_rows == "rows":
        cases = [numbered_frame(np.asarray(part)) for part in cases]
    table = isinstance(cases[0], pd.DataFrame)
    if table:
        label = fields.label or (parser.get_parsed_content("label_key") if "label_key" in parser else None)
        frames = [*cases, pd.concat(map(read_frame, files), ignore_index=True)]
        sets, left_out = encode_tables(frames, (record.name, record.name, _names(files)), label)
    else:
        expression: Expression = parser.get_parsed_content("expression")
        declared = replace(expression.fields, layer=None, labels=(), batches=(), batch=None, covariates=())
        sets = [_rows(expression, indices) for indices in cases]
        sets.append(_joined([_rows(Expression(file, declared)) for file in files]))
    names = {"training": record.name, "synthetic": _names(files)}
    held_out = ["The held-out rows validated the training: choices made by them look better than they are."]
    return _comparable(sets, names, [*held_out, *left_out], table, count, seed)


def _comparable(
    sets: Sequence[Profiles], names: dict[str, str], warnings: Sequence[str], table: bool, count: int, seed: int
) -> ProfileMaterial:
    for source, part in zip(("training rows", "held-out rows", "synthetic rows"), sets, strict=True):
        if len(part) < _LEAST:
            raise DataError(
                source, key="rows", expected=f"{_LEAST} or more", got=f"{len(part)}", remedy="Add or generate rows."
            )
    material = match_profiles(sets[0], sets[1], sets[2], table, count, np.random.default_rng(seed))
    return replace(material, facts={**material.facts, **names}, warnings=[*warnings, *material.warnings])


def match_profiles(
    train: Profiles,
    real: Profiles,
    synthetic: Profiles,
    table: bool = False,
    count: int = 1000,
    random: np.random.Generator | None = None,
) -> ProfileMaterial:
    """Takes equal numbers of synthetic and held-out rows of each type, and the columns that vary most in training."""
    random = random or np.random.default_rng(0)
    totals = {"trained on": len(train), "held out": len(real), "generated": len(synthetic)}
    warnings = []
    if train.labels is None:
        order = random.permutation(len(real))[:count]
        real, synthetic = real.rows(np.sort(order)), synthetic.rows(_some(len(synthetic), len(order), random))
    else:
        real = real.rows(_with_shares(np.asarray(real.labels), count, random))
        places, short = _as_many(np.asarray(real.labels), np.asarray(synthetic.labels), random)
        if short:
            warnings.append(f"Fewer synthetic than held-out rows: {short}.")
        synthetic = synthetic.rows(places)
        unknown = sorted(set(real.labels) - set(train.labels))  # type: ignore[arg-type]
        if unknown:
            warnings.append(f"Types that the training rows do not have: {', '.join(map(str, unknown))}.")
    columns = max(1, _BUDGET // (len(real) + len(synthetic)))
    width = train.values.shape[1]
    if width > columns:
        most_varying = np.sort(np.argsort(-_variance(train.values), kind="stable")[:columns])
        train, real, synthetic = (part.columns(most_varying) for part in (train, real, synthetic))
        warnings.append(f"The metrics use the {columns} columns, of {width}, that vary most in the training rows.")
    if min(len(real), len(synthetic)) < _FEW:
        warnings.append(
            f"Only {len(real)} held-out and {len(synthetic)} synthetic rows: intervals are wide, and few "
            "differences show."
        )
    facts = {
        "compared": f"{len(synthetic)} synthetic with {len(real)} held-out rows",
        "rows in the files": ", ".join(f"{number} {name}" for name, number in totals.items()),
        "columns": f"{width}" if table else f"{width} genes",
    }
    if train.labels is not None:
        facts["types"] = str(len(set(real.labels)))  # type: ignore[arg-type]
    return ProfileMaterial(real, train, synthetic, table, facts, warnings)


def _expression(path: Path, fields: ProfileFields, genes: tuple[str, ...] = ()) -> Profiles:
    declared = GeneFields(
        layer=fields.layer, label=fields.label, total=fields.total, content=str(fields.content), genes=genes
    )
    return _rows(Expression(path, declared))


def _rows(expression: Expression, indices: np.ndarray | None = None) -> Profiles:
    """Rows of an expression matrix, in log space."""
    values, totals = expression.matrix(indices)
    fields = expression.fields
    labels = None
    if fields.label is not None:
        column = expression.obs[fields.label] if indices is None else expression.obs[fields.label].iloc[indices]
        labels = column.astype(str).to_numpy(dtype=object)
    if fields.content == "counts":
        return log_profiles(values, totals, labels, fields.genes)
    dense = values.toarray() if sparse.issparse(values) else values
    return Profiles(np.asarray(dense, dtype=np.float64), labels, None, fields.genes)


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files)


def _joined(parts: Sequence[Profiles]) -> Profiles:
    if len(parts) == 1:
        return parts[0]
    values: Any = [part.values for part in parts]
    stacked = sparse.vstack(values).tocsr() if sparse.issparse(values[0]) else np.concatenate(values)
    labels = [part.labels for part in parts if part.labels is not None]
    totals = [part.library for part in parts if part.library is not None]
    return Profiles(
        stacked, np.concatenate(labels) if labels else None, np.concatenate(totals) if totals else None, parts[0].names
    )


def _some(length: int, count: int, random: np.random.Generator) -> np.ndarray:
    return np.sort(random.permutation(length)[:count])


def _with_shares(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Places of at most ``count`` rows, with the share of each type."""
    if len(labels) <= count:
        return np.arange(len(labels))
    parts = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        parts.append(random.permutation(places)[: max(1, round(count * len(places) / len(labels)))])
    return np.sort(np.concatenate(parts))


def _as_many(reference: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, str]:
    """Places in ``labels`` of as many rows of each type as in ``reference``, and the types with fewer rows."""
    parts, short = [], []
    for label in np.unique(reference):
        places, number = np.flatnonzero(labels == label), int((reference == label).sum())
        parts.append(random.permutation(places)[:number])
        if len(places) < number:
            short.append(f"{label} {len(places)} of {number}")
    return np.sort(np.concatenate(parts)), ", ".join(short)


def _variance(values: Any) -> np.ndarray:
    if not sparse.issparse(values):
        return np.asarray(values.var(0))
    mean = np.asarray(values.mean(0)).ravel()
    squares = np.asarray(values.multiply(values).mean(0)).ravel()
    return squares - mean**2
