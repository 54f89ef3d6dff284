"""The files of a data set: a sorted list, and a name for each by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from monai_diffscore.errors import DataError


def file_hash(path: str | Path) -> str:
    """``sha256:`` and the SHA-256 of the file's content in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def files_below(root: str | Path, left_out: Sequence[str] = (), key: str = "image") -> list[Path]:
    """All files below a folder, sorted, or the one that ``root`` is, without those that ``left_out`` names.

    Args:
        root: folder or file.
        left_out: paths of files and folders relative to ``root``.
        key: for messages.
    Raises:
        DataError: for a name that is not there: a list that no longer fits the data is no list to train by.
    """
    root = Path(root)
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    if not left_out:
        return files
    gone = [root / name for name in left_out]
    absent = [str(path.relative_to(root)) for path in gone if not path.exists()]
    if absent:
        raise DataError(
            root, key=key, expected="the files and folders that left_out names", got=f"no {', '.join(absent[:4])}",
            remedy="Take them out of left_out, or plan again: the data has changed.",
        )  # fmt: skip
    return [file for file in files if not any(file == path or path in file.parents for path in gone)]
