"""The hash of a file's content, and the kinds of files in words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def file_hash(path: str | Path) -> str:
    """``sha256:`` and the SHA-256 of the file's content in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def kinds_in_words(files: Sequence[Path], most: int = 8) -> str:
    """The number of files and their endings, at most ``most``: "3 files (.nii.gz, .txt)"; or "an empty folder"."""
    names = sorted(
        {"".join(file.suffixes[-2:] if file.suffix == ".gz" else [file.suffix]) or file.name for file in files}
    )
    further = ", ..." if len(names) > most else ""
    noun = "file" if len(files) == 1 else "files"
    return f"{len(files)} {noun} ({', '.join(names[:most])}{further})" if files else "an empty folder"
