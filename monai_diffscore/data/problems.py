"""Problems with the data, said once and plainly.

A bundle runs inside several layers (command line, config expressions, transforms, engine), and an exception leaves
them wrapped in as many others. :class:`DataError` holds the one sentence that helps; :func:`report_plainly` makes it
the last thing on the screen.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
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

    def __reduce__(self) -> tuple[Any, ...]:  # keyword arguments do not survive the default way between processes
        return _rebuild, (self._parts,)


def _rebuild(parts: dict[str, Any]) -> DataError:
    return DataError(parts.pop("source"), **parts)


def report_plainly() -> bool:
    """Makes uncaught :class:`DataError`, :class:`FloatingPointError` and Ctrl-C end the program with one clear line.

    Call it from the ``initialize`` list of a bundle. ``MONAI_DIFFSCORE_TRACEBACK=1`` keeps the whole traceback.
    Other exceptions are shown as ever. Returns True, so that it can stand in a config expression.
    """
    if not os.environ.get("MONAI_DIFFSCORE_TRACEBACK"):
        sys.excepthook = _one_line
    return True


def find_cause(error: BaseException | None) -> BaseException | None:
    """The :class:`DataError`, :class:`FloatingPointError` or Ctrl-C that ``error`` goes back to, if any."""
    while error is not None:
        if isinstance(error, DataError | FloatingPointError | KeyboardInterrupt):
            return error
        error = error.__cause__  # not __context__: an error while closing up is another matter
    return None


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    cause = find_cause(error)
    if cause is None:
        sys.__excepthook__(kind, error, traceback)
    elif isinstance(cause, KeyboardInterrupt):
        print("\ninterrupted: the same command continues from the last checkpoint in output_dir.", file=sys.stderr)
    else:
        print(f"\nerror: {cause}\n(MONAI_DIFFSCORE_TRACEBACK=1 shows the whole traceback)", file=sys.stderr)
