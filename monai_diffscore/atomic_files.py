"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


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


def flush_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
