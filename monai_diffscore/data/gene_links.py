"""Reads links between names of genes: tables of edges, STRING, SIF, and gene sets in GMT."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.data.delimited import DELIMITERS, ending_of
from monai_diffscore.errors import DataError

#: usual names of the columns of source and target, in lower case: plain, STRING, OmniPath and LIANA, mergeOmics
ENDS = (
    ("source_genesymbol", "target_genesymbol"),
    ("source", "target"),
    ("protein1", "protein2"),
    ("gene1", "gene2"),
    ("tail", "head"),
    ("from", "to"),
)
WEIGHTS = ("weight", "combined_score", "score", "confidence")
SIGNS = ("sign", "mor", "effect")


@dataclass(frozen=True)
class Links:
    """Names at both ends of each link, weights > 0, numbers and names of relations; ``sets``: targets are gene sets."""

    sources: Sequence[str]
    targets: Sequence[str]
    weights: np.ndarray
    relations: np.ndarray
    kinds: tuple[str, ...] = ("link",)
    sets: bool = False


def read_links(
    path: str | Path,
    columns: Sequence[str] | None = None,
    minimum_weight: float | None = None,
    complex_separator: str | None = None,
) -> Links:
    """Reads the links of a file, by its ending; see :func:`~monai_diffscore.data.gene_graph.read_gene_graph`.

    Raises:
        DataError: for another file, missing columns, incomplete rows, or invalid weights.
    """
    file = Path(path)
    name = file.name.lower().removesuffix(".gz")
    if not file.is_file():
        raise DataError(file, expected="a file of links or gene sets", got="no such file", remedy="Correct the path.")
    if name.endswith(".gmt"):
        return _read_gmt(file)
    if name.endswith(".sif"):
        return _read_sif(file)
    links = _read_table(file, columns, minimum_weight)
    return links if complex_separator is None else _members(links, complex_separator)


def read_aliases(path: str | Path) -> dict[str, str]:
    """Reads aliases and their genes, from the first two columns of a table with a header.

    Raises:
        DataError: for another file.
    """
    frame = _read_frame(Path(path))
    return dict(zip(frame.iloc[:, 0].astype(str), frame.iloc[:, 1].astype(str), strict=True))


def _read_frame(file: Path) -> pd.DataFrame:
    delimiter = DELIMITERS[ending_of(file)]
    with _opened(file) as text:
        header = text.readline()
    if delimiter == "\t" and "\t" not in header:
        delimiter = " "  # STRING
    try:
        frame = pd.read_csv(file, sep=delimiter, keep_default_na=False, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise _problem(file, "rows of equal length in UTF-8", str(error).strip(), "Write it again.") from error
    if frame.shape[1] < 2 or not len(frame):
        raise _problem(
            file,
            f"at least two columns between {delimiter!r}, and rows under their names",
            f"{frame.shape[1]} columns and {len(frame)} rows",
            "Look at the delimiter, and at the first row.",
        )
    return frame


def _read_table(file: Path, columns: Sequence[str] | None, minimum_weight: float | None) -> Links:
    frame = _read_frame(file)
    lower = {str(name).lower().lstrip("#").strip(): name for name in frame.columns}
    if columns is None:
        ends = next((pair for pair in ENDS if set(pair) <= set(lower)), None)
        end_columns = [] if ends is None else [lower[name] for name in ends]
    else:
        end_columns = [name for name in columns if name in frame]
    if len(end_columns) != 2:
        raise _problem(
            file,
            f"columns {list(columns)}" if columns else "columns of two names, such as source and target",
            f"columns {list(frame.columns)[:12]}",
            "Name both (--graph_columns SOURCE,TARGET), or give the first row such names.",
        )
    weights = _numbers(file, frame, lower, WEIGHTS)
    signs = _numbers(file, frame, lower, SIGNS)
    weights = np.ones(len(frame)) if weights is None else weights
    if minimum_weight is not None:
        keep = weights >= minimum_weight
        frame, weights, signs = frame[keep], weights[keep], None if signs is None else signs[keep]
    if len(weights) and not (weights > 0).all():
        raise _problem(
            file, "weights > 0", f"from {weights.min():g}",
            "Leave weaker links out (--graph_minimum_weight WEIGHT); a sign is another column, such as sign or mor.",
        )  # fmt: skip
    sources, targets = (frame[name].astype(str).tolist() for name in end_columns)
    if signs is None:
        return Links(sources, targets, weights, np.zeros(len(weights), dtype=np.int64))
    relations = np.where(signs > 0, 0, np.where(signs < 0, 1, 2))
    return Links(sources, targets, weights, relations, ("positive", "negative", "unsigned"))


def _numbers(file: Path, frame: pd.DataFrame, lower: dict[str, Any], names: Sequence[str]) -> np.ndarray | None:
    name = next((lower[name] for name in names if name in lower), None)
    if name is None:
        return None
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise _problem(
            file, f"numbers in the column {name!r}", f"{frame[name].iloc[row]!r} in row {row + 2}",
            "Take such links out, or rename the column.",
        )  # fmt: skip
    return values


def _read_sif(file: Path) -> Links:
    sources, targets, relations = [], [], []
    kinds: dict[str, int] = {}
    for number, cells in _lines(file):
        if len(cells) == 1:
            continue  # a node of its own
        if len(cells) == 2:
            raise _problem(
                file, "source, interaction, target in each row", f"{len(cells)} cells in row {number}", "Complete it."
            )
        for target in cells[2:]:
            sources.append(cells[0])
            targets.append(target)
            relations.append(kinds.setdefault(cells[1], len(kinds)))
    return Links(
        sources, targets, np.ones(len(sources)), np.array(relations, dtype=np.int64), tuple(kinds) or ("link",)
    )


def _read_gmt(file: Path) -> Links:
    genes: list[str] = []
    sets: list[str] = []
    names_of_sets: set[str] = set()
    for number, cells in _lines(file, "\t"):
        if len(cells) < 3 or cells[0] in names_of_sets:
            got = f"the set {cells[0]!r} again" if cells[0] in names_of_sets else f"{len(cells)} cells"
            raise _problem(
                file, "name, description and at least one gene between tabulators, each name once",
                f"{got} in row {number}", "Look at the file: GMT has one set in each row.",
            )  # fmt: skip
        names_of_sets.add(cells[0])
        members = dict.fromkeys(gene.split(",")[0] for gene in cells[2:] if gene)  # GMT may have "gene,weight"
        genes += members
        sets += [cells[0]] * len(members)
    return Links(genes, sets, np.ones(len(genes)), np.zeros(len(genes), dtype=np.int64), ("in set",), sets=True)


def _members(links: Links, separator: str) -> Links:
    """Splits complexes: links each member of a source with each member of a target."""
    parts = [
        (a, b, place)
        for place, ends in enumerate(zip(links.sources, links.targets, strict=True))
        for a, b in product(*(end.split(separator) for end in ends))
    ]
    places = np.array([place for *_, place in parts], dtype=np.int64)
    sources, targets = [a for a, *_ in parts], [b for _, b, _ in parts]
    return Links(sources, targets, links.weights[places], links.relations[places], links.kinds)


def _lines(file: Path, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Line numbers from 1 and cells of rows that are not empty; the default delimiter is the tabulator, else blanks."""
    with _opened(file) as text:
        for number, line in enumerate(text, start=1):
            if line.strip():
                between = delimiter or ("\t" if "\t" in line else None)
                yield number, [cell.strip() for cell in line.rstrip("\r\n").split(between)]


def _opened(file: Path) -> Any:
    return gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else open(file, encoding="utf-8")


def _problem(file: Path, expected: str, got: str, remedy: str) -> DataError:
    return DataError(file, expected=expected, got=got, remedy=remedy)
