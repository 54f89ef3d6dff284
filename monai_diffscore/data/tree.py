"""Lists the files below a folder, with links, and without hidden folders and files of desktops.

The walk does not enter a hidden folder (``.git``, ``.datalad``). It follows a link to a folder once, so that a cycle of
links ends. It does not enter a bundle or the results of a task below the folder, which are made of its data. It records
each file and folder that it leaves out, with a reason.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_diffscore.data.paths import names_series
from monai_diffscore.errors import DataError

#: folders of desktops and archives, which hold no data of their own
_DESKTOP = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "#recycle", "lost+found", "System Volume Information"}
#: the file of a bundle, and the table of the results of a task with the beginning of its header
_OF_BUNDLE = "configs/metadata.json"
_OF_RESULTS, _HEADER = "cases.csv", b"case,file"
#: how pointers of git-annex and of Git LFS begin, the longest last; and their bytes at most
_POINTERS = (b"/annex/objects/", b"version https://git-lfs")
_LONGEST_POINTER = 1024


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read.

    Args:
        path: of the file or folder.
        reason: the same words for all files of one kind.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Tree:
    """The files below ``root``, sorted, and the files and folders that the walk left out."""

    root: Path
    files: tuple[Path, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def top(self) -> Path:
        """The folder of relative paths."""
        return self.root.parent if self.root.is_file() else self.root

    def below(self, folder: Path) -> Tree:
        """The part of the tree below one of its folders."""
        return Tree(folder, tuple(file for file in self.files if folder in file.parents))

    def without(self, paths: Sequence[Path]) -> Tree:
        """The tree without these files, and without the files below these folders."""
        removed = set(paths)
        files = tuple(file for file in self.files if not removed & {file, *file.parents})
        return Tree(self.root, files, self.left_out)


def walk(root: str | Path) -> Tree:
    """All files below a folder, or the file ``root`` itself; empty for a missing path."""
    root = Path(root)
    if not root.is_dir():
        return Tree(root, (root,) if root.is_file() else ())
    files: list[Path] = []
    left_out: list[LeftOut] = []
    above = {os.path.realpath(folder) for folder in Path(os.path.realpath(root)).parents}
    visited: set[str] = set()
    folders, links = [root], list[Path]()
    while folders or links:
        # real folders come before links, so that a folder has its real name
        folder = folders.pop() if folders else links.pop(0)
        place = os.path.realpath(folder)
        if place in visited or place in above:
            left_out.append(LeftOut(str(folder), "link to a folder that is read already"))
            continue
        visited.add(place)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except PermissionError:
            left_out.append(LeftOut(str(folder), "folder without permission to read"))
            continue
        for entry in entries:
            path = folder / entry.name
            if reason := _reason(entry):
                left_out.append(LeftOut(str(path), reason))
            elif entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif entry.is_file():
                files.append(path)
    return Tree(root, tuple(sorted(files)), tuple(sorted(left_out, key=lambda one: one.path)))


def _reason(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "link to a missing file (not fetched?)"
    if entry.name in _DESKTOP or (entry.name.startswith(".") and entry.is_dir()):
        return "hidden folder"
    if entry.name.startswith("."):
        return "hidden file"
    if entry.is_dir():
        return _results(Path(entry.path))
    return "pointer to a file that is not fetched" if _is_pointer(entry) else ""


def _results(folder: Path) -> str:
    """Whose results a folder holds, as a reason; "" for other folders."""
    if (folder / _OF_BUNDLE).is_file():
        return "bundle with its results (name that folder itself to read it)"
    table = folder / _OF_RESULTS
    if not table.is_file() or not os.access(table, os.R_OK):
        return ""
    with open(table, "rb") as file:
        begins = file.read(len(_HEADER)) == _HEADER
    return "results of a task (name that folder itself to read it)" if begins else ""


def _is_pointer(entry: os.DirEntry[str]) -> bool:
    """Whether git-annex or Git LFS wrote the file in place of a content that it has not fetched."""
    if not entry.is_file() or entry.stat().st_size > _LONGEST_POINTER or not os.access(entry.path, os.R_OK):
        return False
    with open(entry.path, "rb") as file:
        return file.read(len(_POINTERS[-1])).startswith(_POINTERS)


def walk_without(root: str | Path, left_out: Sequence[str], key: str = "image") -> Tree:
    """The tree without the files and folders of ``left_out``, which are relative to ``root``.

    A name may end in ``series:UID``; the reader of DICOM handles these. An absolute path outside of ``root`` leaves
    nothing out: it is of another data set.

    Raises:
        DataError: for a missing file or folder: the list must fit the data.
    """
    tree = walk(root)
    top = Path(os.path.abspath(root))
    places = [top / name for name in left_out if not names_series(name)]
    gone = [tree.root / place.relative_to(top) for place in places if place.is_relative_to(top)]
    missing = [str(path.relative_to(tree.root)) for path in gone if not os.path.lexists(path)]
    if missing:
        raise DataError(
            root, key=key, expected="the files and folders that left_out names", got=f"no {', '.join(missing[:4])}",
            remedy='Take them out of --left_out ("[]" is none; `plan` calls it --exclude), or plan again.',
        )  # fmt: skip
    return tree.without(gone) if gone else tree
