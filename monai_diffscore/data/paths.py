"""Paths of parts of files: a series in a folder of DICOM, a channel of a 4-D image.

``FOLDER/series:UID`` and ``FILE/channel:2`` look like a file in a folder. They have no character that is special in a
shell or in a MONAI configuration, and lie below the root of their folder or file.
"""

from __future__ import annotations

import os
from pathlib import Path

_SERIES, _CHANNEL = "series:", "channel:"


def locate(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` expanded.

    MONAI's configurations replace every ``#`` in a text by ``::``. If a path with ``::`` does not exist and the one
    with ``#`` does, this returns the latter.
    """
    place = Path(path).expanduser()
    if "::" in str(place) and not place.exists():
        original = Path(str(place).replace("::", "#"))
        if split_series(original)[0].exists() or split_channel(original)[0].exists():
            return original
    return place


def split_series(path: str | Path) -> tuple[Path, str | None]:
    """The folder or file of ``FOLDER/series:UID`` and the UID (or description), or the path itself and None."""
    return _split(Path(path), _SERIES)


def names_series(name: str) -> bool:
    """Whether a relative path names a series: ``series:UID`` or ``FOLDER/series:UID``."""
    return f"/{_SERIES}" in f"/{name}"


def split_channel(path: str | Path) -> tuple[Path, int | None]:
    """The file of ``FILE/channel:2`` and the number, or the path itself and None."""
    place, number = _split(Path(path), _CHANNEL)
    return place, None if number is None else int(number)


def _split(path: Path, mark: str) -> tuple[Path, str | None]:
    folder, separator, name = str(path).rpartition(f"/{mark}")
    return (Path(folder), name) if separator else (path, None)
