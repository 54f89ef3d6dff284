"""The kind of data at a path: from the names of its files, and from headers where a name is ambiguous."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_diffscore.data.arrays import kind_of_array
from monai_diffscore.data.cases.names import VOLUMES
from monai_diffscore.data.cases.pictures import is_projection
from monai_diffscore.data.cases.table import read_table_of_cases
from monai_diffscore.data.delimited import conversion
from monai_diffscore.data.dicom import holds_dicom
from monai_diffscore.data.expression_stores import matrices_of_10x
from monai_diffscore.data.files import kinds_in_words
from monai_diffscore.data.gene_names import are_genes
from monai_diffscore.data.matrices import genes_are_in
from monai_diffscore.data.paths import locate, split_channel, split_series
from monai_diffscore.data.pictures import SUFFIXES as PICTURES
from monai_diffscore.data.pictures import is_tiled
from monai_diffscore.data.slides import SLIDE_SUFFIXES
from monai_diffscore.data.tree import Tree, walk
from monai_diffscore.errors import DataError

CELLS = (".h5ad", ".zarr", ".h5")
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".csv.gz", ".tsv.gz", ".txt.gz")
_TIFF = (".tif", ".tiff")


def find_kind(path: str | Path, graph: str | Path | None = None) -> str:
    """The kind of data below a path, one of :data:`~monai_diffscore.planning.fingerprint.KINDS`.

    Args:
        path: file or folder.
        graph: with a graph of genes, a table of numbers is a matrix of expression.
    Raises:
        DataError: if the path holds no known kind, or several kinds.
    """
    root = locate(path)
    if not root.exists():
        raise DataError(root, expected="data", got="no such file or folder", remedy="Name an existing path.")
    if root.suffix.lower() == ".json":
        return "volumes"
    if root.suffix in CELLS or matrices_of_10x(root):
        return "cells" if graph is None else "expression"
    if root.is_dir() and any(matrices_of_10x(path) or path.suffix == ".zarr" for path in root.iterdir()):
        return "cells" if graph is None else "expression"
    tree = walk(root)
    files = tree.files
    kinds = {file: kind for file in files if (kind := _kind_of(file))}
    votes = Counter(kinds.values())
    images = {kind: count for kind, count in votes.items() if kind not in ("table", "labels")}
    if not images and votes["table"]:
        return _kind_of_table(next(file for file, kind in kinds.items() if kind == "table"), graph)
    if set(images) == {"slides", "pictures"}:  # a thumbnail beside a slide
        images = {"slides": images["slides"]}
    if set(images) == {"volumes", "pictures"} and _are_figures(kinds):
        images = {"volumes": images["volumes"]}
    if set(images) <= {"volumes", "pictures"} and images and _are_projections(kinds):
        return "pictures"
    if len(images) == 1:
        return next(iter(images))
    raise DataError(
        root,
        expected="one kind of data: NIfTI, DICOM, slides, pictures, .npy arrays, .h5ad, or a table",
        got=f"several: {images}" if images else f"{kinds_in_words(files)}{_left_out(tree)}",
        remedy=_remedy(images, tree, files),
    )


def kind_of_cases(table: str | Path) -> str:
    """The kind of the images of a table of cases, by its first one.

    Raises:
        DataError: as :func:`~monai_diffscore.data.cases.table.read_table_of_cases`.
    """
    first = next((path for case in read_table_of_cases(locate(table)) for path in case.images.values()), "")
    file = split_channel(split_series(first)[0])[0]
    return find_kind(file) if file.is_file() else "volumes"


def _remedy(images: Mapping[str, int], tree: Tree, files: Sequence[Path]) -> str:
    if images:
        return f"Name one of them, such as --kind {next(iter(images))}, or give each kind a folder of its own."
    if any("not fetched" in entry.reason for entry in tree.left_out):
        return "Fetch the files that the links name (datalad get, git annex get, git lfs pull)."
    return next(filter(None, map(conversion, files)), "Convert it to one of these.")


def _are_figures(kinds: Mapping[Path, str]) -> bool:
    """Whether each picture lies in the folder of a volume, as the views of quality control do."""
    folders = {file.parent for file, kind in kinds.items() if kind == "volumes"}
    return all(file.parent in folders for file, kind in kinds.items() if kind == "pictures")


def _are_projections(kinds: Mapping[Path, str]) -> bool:
    """Whether the files of volumes are radiographs or photographs in DICOM alone."""
    volumes = [file for file, kind in kinds.items() if kind == "volumes"]
    return bool(volumes) and all(is_projection(file) for file in volumes)


def _left_out(tree: Tree) -> str:
    counts = Counter(entry.reason for entry in tree.left_out)
    return "".join(f"; {count} x {reason}" for reason, count in counts.items())


def _kind_of(file: Path) -> str:
    name = file.name.lower()
    if name.endswith(VOLUMES):
        return "volumes"
    if name.endswith(TABLES):
        return "table"
    if name == "labels.npy":
        return "labels"
    if name.endswith(".npy"):
        return kind_of_array(file)
    if name.endswith(CELLS):
        return "cells"
    if name.endswith(_TIFF):
        return "slides" if is_tiled(file) else "pictures"
    if name.endswith(SLIDE_SUFFIXES):
        return "slides"
    if name.endswith(PICTURES):
        return "pictures"
    return "volumes" if name.endswith((".dcm", ".ima", ".dicom")) or holds_dicom(file) else ""


def _kind_of_table(file: Path, graph: str | Path | None) -> str:
    """ "expression" for names of genes in columns or rows, or with a graph of genes; else "table"."""
    if graph is not None:
        return "expression"
    if file.suffix == ".parquet":
        return "expression" if _parquet_of_genes(file) else "table"
    return "table" if genes_are_in(file) is None else "expression"


def _parquet_of_genes(file: Path) -> bool:
    """Whether the columns, the index or the first column of a Parquet file have the names of genes."""
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(file)
        names = [name for name in schema.names if name not in (schema.pandas_metadata or {}).get("index_columns", [])]
        frame = pyarrow.parquet.read_table(file, columns=names[:1], use_pandas_metadata=True).to_pandas()
    except pyarrow.ArrowException:  # its reader says what is wrong
        return False
    rows = (frame.index, frame.iloc[:, 0]) if names else ()
    return are_genes(names) or any(are_genes(list(map(str, cells[:1000]))) for cells in rows)
