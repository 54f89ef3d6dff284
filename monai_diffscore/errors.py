"""The errors for data and flags that cannot be used, and the cause of an error under the layers that wrap it.

A pipeline wraps an exception once a layer (transform, engine, workflow). Its cause is the plain error among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any


class DataError(ValueError):
    """Data that cannot be used as it is. The message has one sentence for the problem and one for the remedy.

    Args:
        source: the file or folder.
        key: the key of the batch dictionary, a column or a flag. The message names another one than "image".
        expected: the right shapes, values or counts.
        got: the actual shapes, values or counts.
        remedy: what the user can do.
    """

    def __init__(self, source: object, *, key: str = "image", expected: str, got: str, remedy: str) -> None:
        place = f"{source}" if key == "image" else f"{source} (key '{key}')"  # the usual key tells a user nothing
        super().__init__(f"{place}: expected {expected}, got {got}. {remedy}")
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


class FlagError(ValueError):
    """A flag of the command line that nothing reads, or whose value has the wrong kind."""


#: errors whose message is for the user
_PLAIN = (DataError, FlagError, FloatingPointError, KeyboardInterrupt)
#: the text of an error that torch carries out of a worker process: the traceback of all its layers
_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n")
_CAUSE_OF_WORKER = re.compile(r"^(?:[\w.]*\.)?(\w+(?:Error|Exception)): (.*)$", re.MULTILINE)


def find_cause(error: BaseException | None) -> BaseException | None:
    """The plain error among ``error`` and its causes; None without one."""
    return next((layer for layer in layers_of(error) if isinstance(layer, _PLAIN)), None)


def layers_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, without ``__context__``, which is an error of the cleanup."""
    while error is not None:
        yield error
        error = error.__cause__


def explain(error: BaseException) -> str:
    """One line about an error: the plain error, else the error of this package, else the first cause.

    The line names the class of an error that is neither plain nor of this package. A worker process of a loader sends
    its error as a text; the line is then the first cause in this text.
    """
    plain = find_cause(error)
    layers = list(layers_of(error))
    own = next((layer for layer in reversed(layers) if _raised_here(layer)), None)
    cause = plain or own or layers[-1]
    worker = next((str(layer) for layer in layers if _WORKER.match(str(layer))), None)
    if plain is None and worker is not None and (first := _CAUSE_OF_WORKER.search(worker)):
        kind, text = first.groups()
        return text if kind in {plain.__name__ for plain in _PLAIN} else f"{kind}: {text}"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    if len(lines) > 1:
        text += f" {lines[1]}" + (f" (and {len(lines) - 2} more lines)" if len(lines) > 2 else "")
    return text if cause is plain or cause is own or isinstance(cause, OSError) else f"{type(cause).__name__}: {text}"


def _raised_here(error: BaseException) -> bool:
    """Whether a module of this package raised the error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and str(traceback.tb_frame.f_globals.get("__name__", "")).startswith(f"{__package__}.")
