"""Files and folders that are written whole or not at all, and the name that a file has by its content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from monai_diffscore.errors import DataError


@contextmanager
def whole_path(path: str | Path) -> Iterator[Path]:
    """A path for a file to write, which takes the name ``path`` when all of it is on the disk; makes the folder if need
    be. For libraries that open their files themselves; it ends as ``path`` does.

    A crash or an exception at any moment leaves the old file, or none, never a part of the new one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600
        os.replace(temporary, target)
        flush_folder(target.parent)  # without it a power cut may undo the renaming
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write, otherwise as :func:`whole_path`."""
    with whole_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_json(path: str | Path, content: Any, **options: Any) -> None:
    """Writes JSON to be read by people, four spaces to a level, whole or not at all; options are ``json.dumps``'s."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=4, **options) + "\n").encode())


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the name ``path`` when all files in it are on the disk.

    A crash or an exception at any moment leaves no folder of that name.

    Raises:
        FileExistsError: if there is something at ``path`` other than an empty folder.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty folder: give another one, or take it away.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb+") as written:
                    os.fsync(written.fileno())
        temporary.chmod(0o755)  # mkdtemp gives 0700
        temporary.replace(target)
        flush_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def file_hash(path: str | Path) -> str:
    """``sha256:`` and the SHA-256 of the file's content in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def flush_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
