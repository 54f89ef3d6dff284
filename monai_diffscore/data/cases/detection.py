"""Detects the layout of a folder: by files that only one layout has, else by the names of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai_diffscore.data.cases.bids import is_bids, read_bids
from monai_diffscore.data.cases.brats import is_brats, read_brats
from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.cases.datalist import is_datalist, read_datalist
from monai_diffscore.data.cases.dcm2niix import is_dcm2niix, read_dcm2niix
from monai_diffscore.data.cases.dicom import read_dicom
from monai_diffscore.data.cases.flat import read_flat
from monai_diffscore.data.cases.folders import is_folders, read_folders
from monai_diffscore.data.cases.names import ending, is_volume
from monai_diffscore.data.cases.nnunet import is_nnunet, read_nnunet
from monai_diffscore.data.dicom.planes import is_dicom
from monai_diffscore.data.tree import LeftOut, Tree

#: the layouts of folders, by the name that --layout takes
LAYOUTS: dict[str, Callable[[Tree], Cases]] = {
    "nnunet": read_nnunet,
    "datalist": read_datalist,
    "bids": read_bids,
    "brats": read_brats,
    "dcm2niix": read_dcm2niix,
    "folders": read_folders,
    "flat": read_flat,
    "dicom": read_dicom,
}
_NO_DICOM = (".json", ".tsv", ".csv", ".txt", ".html", ".svg", ".pdf", ".md", ".bval", ".bvec", ".xml", ".raw", ".npy")
_DICOM = (".dcm", ".ima", ".dicom")


def find_parts(tree: Tree) -> tuple[list[tuple[str, Tree]], list[LeftOut]]:
    """The parts of a tree, each with its layout, and the files that no layout reads.

    A folder with ``dataset.json`` or ``imagesTr``, or with ``sub-<label>`` folders, is one data set. The other files
    are one more data set; their names tell its layout. DICOM files are another part.
    """
    parts: list[tuple[str, Tree]] = []
    remaining = list(tree.files)
    for folder in _folders(tree):
        own = {file for file in remaining if folder in file.parents}
        if layout := _layout_of(folder, own):
            parts.append((layout, Tree(folder, tuple(sorted(own)))))
            remaining = [file for file in remaining if file not in own]
    left_out, volumes, series = [], [], []
    for file in remaining:
        if is_volume(file):
            volumes.append(file)
        elif _may_be_dicom(file):
            series.append(file)
        elif file.suffix.lower() not in (".json", ".bval", ".bvec"):
            left_out.append(LeftOut(str(file), "no image by its ending"))
    if volumes:
        parts.append((_layout_of_names(tree.top, volumes), Tree(tree.root, tuple(volumes))))
    if series:
        parts.append(("dicom", Tree(tree.root, tuple(series))))
    return parts, left_out


def _folders(tree: Tree) -> list[Path]:
    """The folders of the tree, outer folders first."""
    if tree.root.is_file():
        return []
    above = {
        folder for file in tree.files for folder in file.parents if folder == tree.root or tree.root in folder.parents
    }
    return sorted(above, key=lambda folder: (len(folder.parts), folder))


def _layout_of(folder: Path, files: set[Path]) -> str:
    names = {file for file in files if file.parent == folder}
    if is_nnunet(folder, files):
        return "nnunet"
    if folder / "dataset.json" in names and is_datalist(folder / "dataset.json"):
        return "datalist"
    return "bids" if is_bids(folder, files) else ""


def _layout_of_names(top: Path, volumes: list[Path]) -> str:
    if is_brats(volumes):
        return "brats"
    if is_dcm2niix(volumes):
        return "dcm2niix"
    return "folders" if is_folders(top, volumes) else "flat"


def _may_be_dicom(file: Path) -> bool:
    """Whether the file is DICOM, or has its ending; the reader of series reports a file with only the ending."""
    suffix = file.suffix.lower()
    return suffix in _DICOM or (suffix not in _NO_DICOM and not ending(file) and is_dicom(file))
