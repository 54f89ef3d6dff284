"""The error for data that cannot be used."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """Data that cannot be used as it is. The message has one sentence for the problem and one for the remedy.

    Args:
        source: the file or folder.
        key: the key of the batch dictionary.
        expected: the right shapes, values or counts.
        got: the actual shapes, values or counts.
        remedy: what the user can do.
    """

    def __init__(self, source: object, *, key: str = "image", expected: str, got: str, remedy: str) -> None:
        super().__init__(f"{source} (key '{key}'): expected {expected}, got {got}. {remedy}")
        self._parts = {"source": str(source), "key": key, "expected": expected, "got": got, "remedy": remedy}

    @property
    def parts(self) -> dict[str, str]:
        """Source, key, expected, got and remedy as separate texts."""
        return dict(self._parts)

    def under(self, key: str) -> DataError:
        """The same error for the entry ``key`` of a batch dictionary."""
        return _rebuild({**self._parts, "key": key})

    def of(self, source: object) -> DataError:
        """The same error for the file ``source``; a caller that knows the file adds it this way."""
        return _rebuild({**self._parts, "source": source})

    def __reduce__(self) -> tuple[Any, ...]:  # pickle cannot pass keyword arguments between processes by itself
        return _rebuild, (self._parts,)


def _rebuild(parts: dict[str, Any]) -> DataError:
    return DataError(parts.pop("source"), **parts)
