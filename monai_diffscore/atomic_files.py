"""Atomic writes: a file or folder appears complete, or not at all; places that cannot be written are refused early."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from monai_diffscore.errors import DataError


def require_writable(path: str | Path, flag: str) -> None:
    """Checks that a file or folder can be written there, and writes nothing. Commands that take long call it first.

    Args:
        path: the file or folder, which need not exist.
        flag: the flag that names another place, such as "--output_dir".
    Raises:
        DataError: if the folder, or the nearest one above it that exists, is on a read-only disk or has no permission.
    """
    target = Path(path).absolute()
    nearest = next(place for place in (target, *target.parents) if place.exists())
    if not os.access(nearest, os.W_OK | (os.X_OK if nearest.is_dir() else 0)):
        read_only = os.statvfs(nearest).f_flag & os.ST_RDONLY
        got = "a read-only disk" if read_only else f"no permission to write in {nearest}"
        raise DataError(path, expected="a place to write to", got=got, remedy=f"Name another one: {flag} PATH.")
    if nearest != target and not nearest.is_dir():
        raise DataError(
            path,
            expected="a place to write to",
            got=f"{nearest}, which is a file",
            remedy=f"Name another: {flag} PATH.",
        )


@contextmanager
def whole_path(path: str | Path) -> Iterator[Path]:
    """A context with a temporary path to write. At its end the file gets the name ``path``.

    The temporary path has the suffix of ``path``, for libraries that open their files themselves. The context makes the
    folder of ``path``. It renames the file after all of it is on the disk. A crash or an exception leaves the old file,
    or no file.
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
        flush_folder(target.parent)  # otherwise a power cut can undo the renaming
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A context with a binary file to write. It is otherwise as :func:`whole_path`."""
    with whole_path(path) as temporary, open(temporary, "wb") as file:
        yield file


def write_json(path: str | Path, content: Any, **options: Any) -> None:
    """Writes JSON for people, with four spaces for each level, atomically. Options are those of ``json.dumps``."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=4, **options) + "\n").encode())


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A context with an empty temporary folder to fill. At its end the folder gets the name ``path``.

    It renames the folder after all its files are on the disk. A crash or an exception leaves no folder of that name.

    Raises:
        FileExistsError: if ``path`` exists and is not an empty folder.
    """
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty folder: name another folder, or remove it.")
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


def flush_folder(folder: Path) -> None:
    """Waits until the names of a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
