"""Opens expression matrices in memory, or on the disk in AnnData's HDF5 and zarr."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import sparse

from monai_diffscore.data.delimited import DELIMITERS
from monai_diffscore.data.matrices import read_matrix
from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)

#: endings of files with an expression matrix
ENDINGS = (".h5ad", ".zarr", ".h5", *DELIMITERS)
#: ends of the name of a matrix of 10x Genomics, behind the name of a sample or nothing
_MTX = ("matrix.mtx", "matrix.mtx.gz")


def open_store(source: Any, transposed: bool = False, obs_path: str | Path | None = None) -> HeldMatrix | StoredMatrix:
    """Opens the matrix of an AnnData object, a file, or a folder with one file.

    Args:
        source, transposed, obs_path: as for :class:`~monai_diffscore.data.anndata.Expression`.
    Raises:
        DataError: for another file, or a folder without a matrix, or with several.
    """
    if not isinstance(source, str | Path):
        return HeldMatrix.of(source)
    path = only_matrix(Path(source))
    if any(ending.lower() in DELIMITERS for ending in path.suffixes[-2:]):
        return HeldMatrix.read(path, transposed, obs_path)
    if path.suffix == ".h5" or path.name.endswith(_MTX):
        return HeldMatrix.of(_read_10x(path))
    return StoredMatrix(path)


def only_matrix(path: Path) -> Path:
    """The path of a file or a .zarr folder; for another folder, the only matrix inside, or in a folder of 10x in it.

    Raises:
        DataError: for a folder without a matrix, or with several.
    """
    if not path.is_dir() or path.suffix == ".zarr":
        return path
    inside = sorted(path.iterdir())
    matrices = matrices_of_10x(path) or [
        *(file for file in inside if any(end.lower() in ENDINGS for end in file.suffixes[-2:])),
        *(matrix for folder in inside for matrix in matrices_of_10x(folder)),
    ]
    if len(matrices) != 1:
        raise DataError(
            path, expected="one matrix in the folder", got=", ".join(file.name for file in matrices[:8]) or "none",
            remedy="Give the path of the file.",
        )  # fmt: skip
    return matrices[0]


def matrices_of_10x(path: Path) -> list[Path]:
    """The matrices ``matrix.mtx`` of 10x Genomics at a path: the file itself, or those in a folder.

    Their names may begin with that of a sample (``GSM1_matrix.mtx.gz``) and end with ``.gz``.
    """
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.name.endswith(_MTX))
    return [path] if path.name.endswith(_MTX) else []


def _read_mtx(matrix: Path) -> Any:
    """The matrix with ``barcodes.tsv`` and ``features.tsv`` (``genes.tsv``) of its sample, each also .gz, as AnnData.

    The second column of the features has the symbols, where there is one. The third, the type, selects gene expression.
    """
    import anndata
    from scipy.io import mmread

    sample = matrix.name.partition("matrix.mtx")[0]

    def table(*names: str) -> pd.DataFrame:
        files = [matrix.with_name(f"{sample}{name}.tsv{end}") for name in names for end in ("", ".gz")]
        file = next((file for file in files if file.is_file()), files[0])
        return pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False)

    barcodes, features = table("barcodes"), table("features", "genes")
    adata = anndata.AnnData(
        sparse.csr_matrix(mmread(matrix).T, dtype="float32"),
        obs=pd.DataFrame(index=barcodes[0].to_numpy()),
        var=pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=features[min(1, features.columns[-1])].to_numpy()),
    )
    return adata[:, (features[2] == "Gene Expression").to_numpy()].copy() if 2 in features else adata


def _read_10x(path: Path) -> Any:
    import scanpy

    try:
        adata = scanpy.read_10x_h5(path) if path.suffix == ".h5" else _read_mtx(path)
    except Exception as error:
        raise DataError(
            path, expected="a matrix of 10x Genomics, as Cell Ranger writes it", got=f"{type(error).__name__}: {error}",
            remedy="Copy it again: matrix.mtx, barcodes.tsv and features.tsv together, or the .h5 file.",
        ) from error  # fmt: skip
    if not adata.var_names.is_unique:
        logger.warning(f"{path.name}: genes of the same name get numbers (scanpy's var_names_make_unique)")
        adata.var_names_make_unique()
    return adata


class HeldMatrix:
    """A matrix in memory."""

    def __init__(self, obs: pd.DataFrame, var: dict[str, pd.DataFrame], values: dict[str, Any]) -> None:
        self._obs, self._var, self._values = obs, var, values

    @classmethod
    def of(cls, adata: Any) -> HeldMatrix:
        values = {"X": adata.X, **dict(adata.layers), **({} if adata.raw is None else {"raw": adata.raw.X})}
        return cls(
            adata.obs,
            {name: adata.raw.var if name == "raw" else adata.var for name in values},
            {name: _by_rows(matrix) for name, matrix in values.items() if matrix is not None},
        )

    @classmethod
    def read(cls, file: Path, transposed: bool, obs_path: str | Path | None) -> HeldMatrix:
        values, samples, genes = read_matrix(file, transposed)
        obs = pd.DataFrame(index=pd.Index(samples))
        if obs_path is not None:
            obs = pd.read_csv(obs_path, sep=None, engine="python", index_col=0)
            obs.index = obs.index.astype(str)
            missing = [name for name in samples if name not in obs.index]
            if missing or not obs.index.is_unique:
                raise DataError(
                    obs_path, key="obs", expected=f"one row for each of the {len(samples)} samples of {file.name}",
                    got=f"{len(missing)} missing, such as {missing[:5]}" if missing else "samples twice",
                    remedy="Name the samples alike in the first columns of both files.",
                )  # fmt: skip
            obs = obs.loc[samples]
        return cls(obs, {"X": pd.DataFrame(index=pd.Index(genes))}, {"X": values})

    def obs(self) -> pd.DataFrame:
        """The table of the rows."""
        return self._obs

    def var(self, layer: str) -> pd.DataFrame:
        """The table of the columns of a layer."""
        return self._var[layer]

    def has(self, layer: str) -> bool:
        return layer in self._values

    @property
    def layers(self) -> list[str]:
        return [name for name in self._values if name not in ("X", "raw")]

    def rows(self, layer: str, start: int, stop: int) -> Any:
        return self._values[layer][start:stop]


def _by_rows(matrix: Any) -> Any:
    return matrix.tocsr() if sparse.issparse(matrix) else matrix


def _of_parquet(path: Path) -> str:
    """The command that writes a Parquet file of genes as text; nothing for another file."""
    if path.suffix != ".parquet":
        return ""
    script = (
        "import sys, pandas; f = pandas.read_parquet(sys.argv[1]); "
        "(f if f.index.dtype == object else f.set_index(f.columns[0])).to_csv(sys.argv[2])"
    )
    names = " ".join(shlex.quote(str(file)) for file in (path, path.with_suffix(".csv")))
    return f"Convert it: python -c {shlex.quote(script)} {names}"


class StoredMatrix:
    """A matrix on the disk, in HDF5 or zarr; each process opens it for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, Any] | None = None
        self._matrices: dict[str, Any] = {}
        if not path.exists() or path.suffix not in (".h5ad", ".zarr"):
            raise DataError(
                path,
                expected="a .h5ad file, a .zarr folder, 10x's .h5 or matrix.mtx, or a text file (.csv, .tsv)",
                got=f"the ending {path.suffix!r}" if path.exists() else "no such file",
                remedy=_of_parquet(path) or "Give the path of data of one of these kinds.",
            )
        if "encoding-type" not in self._root()["obs"].attrs:
            raise DataError(
                path,
                expected="the AnnData format of version 0.7 or later",
                got="an older one",
                remedy="Write it again: anndata.read_h5ad(path).write_h5ad(new_path).",
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_matrices": {}}  # open files do not travel between processes

    def _root(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            self._matrices = {}
            try:
                if self.path.suffix == ".zarr":
                    import zarr

                    self._opened = os.getpid(), zarr.open_group(self.path, mode="r")
                else:
                    import h5py

                    self._opened = os.getpid(), h5py.File(self.path, "r")
            except OSError as error:
                raise DataError(
                    self.path, expected="a whole AnnData file", got=str(error), remedy="Copy or write it again."
                ) from error
        return self._opened[1]

    def obs(self) -> pd.DataFrame:
        from anndata.io import read_elem

        return read_elem(self._root()["obs"])

    def var(self, layer: str) -> pd.DataFrame:
        from anndata.io import read_elem

        return read_elem(self._root()["raw/var" if layer == "raw" else "var"])

    def has(self, layer: str) -> bool:
        return _name_of(layer) in self._root()

    @property
    def layers(self) -> list[str]:
        return list(self._root()["layers"]) if "layers" in self._root() else []

    def rows(self, layer: str, start: int, stop: int) -> Any:
        root = self._root()  # a new process forgets the matrices of the old one
        if layer not in self._matrices:
            self._matrices[layer] = self._open(root, layer)
        return self._matrices[layer][start:stop]

    def _open(self, root: Any, layer: str) -> Any:
        from anndata.io import sparse_dataset

        name = _name_of(layer)
        if name not in root:
            raise DataError(
                self.path, expected=f"a matrix {name}", got=f"{sorted(root)}", remedy="Name another layer, or none."
            )
        group = root[name]
        kind = group.attrs.get("encoding-type")
        if kind == "csc_matrix":
            logger.info(f"{self.path.name}: {layer} is stored by columns and therefore read into memory as a whole")
            return sparse_dataset(group).to_memory().tocsr()
        return sparse_dataset(group) if kind == "csr_matrix" else group


def _name_of(layer: str) -> str:
    return {"X": "X", "raw": "raw/X"}.get(layer, f"layers/{layer}")
