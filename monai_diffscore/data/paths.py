"""Paths of parts of files: a series in a folder of DICOM, a channel of a 4-D image.

``FOLDER/series:UID`` and ``FILE/channel:2`` look like a file in a folder, hold no sign that a shell or a MONAI
configuration reads, and are below the same root as what they are part of.
"""

from __future__ import annotations

import os
from pathlib import Path

_SERIES, _CHANNEL = "series:", "channel:"


def locate(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` expanded.

    MONAI's configurations write ``::`` for every ``#`` of a text. A path with ``::`` that does not exist is taken with
    ``#`` if it exists so.
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


def split_channel(path: str | Path) -> tuple[Path, int | None]:
    """The file of ``FILE/channel:2`` and the number, or the path itself and None."""
    place, number = _split(Path(path), _CHANNEL)
    return place, None if number is None else int(number)


def _split(path: Path, mark: str) -> tuple[Path, str | None]:
    folder, found, name = str(path).rpartition(f"/{mark}")
    return (Path(folder), name) if found else (path, None)
