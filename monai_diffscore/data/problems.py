"""A problem with the data, said once and plainly."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """Data that cannot be used as it is.

    Args:
        source: the file or folder.
        key: the key of the batch dictionary.
        expected: what would have been right.
        got: what was found: shapes, values, counts.
        remedy: what the user can do.
    """

    def __init__(self, source: object, *, key: str = "image", expected: str, got: str, remedy: str) -> None:
        super().__init__(f"{source} (key '{key}'): expected {expected}, got {got}. {remedy}")
        self._parts = {"source": str(source), "key": key, "expected": expected, "got": got, "remedy": remedy}

    @property
    def parts(self) -> dict[str, str]:
        """Source, key, expected, got and remedy, each by itself."""
        return dict(self._parts)

    def under(self, key: str) -> DataError:
        """The same problem, of the entry ``key`` of a batch dictionary."""
        return _rebuild({**self._parts, "key": key})

    def of(self, source: object) -> DataError:
        """The same problem, of a file that the place where it was found did not know."""
        return _rebuild({**self._parts, "source": source})

    def __reduce__(self) -> tuple[Any, ...]:  # keyword arguments do not survive the default way between processes
        return _rebuild, (self._parts,)


def _rebuild(parts: dict[str, Any]) -> DataError:
    return DataError(parts.pop("source"), **parts)
