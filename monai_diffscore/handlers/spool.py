"""The record of a training on its own disk: JSON lines that the training appends and that nothing holds up.

:mod:`~monai_diffscore.handlers.delivery` sends them to MLflow.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Spool:
    """JSON lines in ``folder/tracking.jsonl``, in order: a run, its parameters, metrics, artifacts and states."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        self.path = self.folder / "tracking.jsonl"
        self.state_file = self.folder / "mlflow_run.json"  # of the delivery

    def append(self, *entries: Mapping[str, Any], to_disk: bool = False) -> None:
        """Adds lines in one write: a killed program leaves all of them or, at worst, a torn last one.

        Args:
            entries: one for each line.
            to_disk: wait until the lines would survive a power cut.
        Raises:
            OSError: if the disk is full. Then it adds no line.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            text = ("\n" if torn else "") + "".join(json.dumps(dict(entry)) + "\n" for entry in entries)
            content = text.encode()
            if os.write(handle, content) < len(content):
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if to_disk:
                os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, start: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
        """Whole lines from byte ``start`` on, each with the byte after it. It skips a torn line."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                yield entry, start

    def last_steps(self) -> dict[str, int]:
        """For each metric, the last iteration that the record holds."""
        last: dict[str, int] = {}
        for entry, _ in self.read():
            for name, _value, _time, step in entry.get("metrics", ()):
                last[name] = max(step, last.get(name, -1))
        return last

    def run(self) -> dict[str, str]:
        """Name of the run and, once the tracker has created it, its id there; empty before the record begins."""
        first = next(self.read(), None)
        if first is None or "run" not in first[0]:
            return {}
        run = {"run": first[0]["run"]["name"]}
        state = json.loads(self.state_file.read_text()) if self.state_file.is_file() else {}
        return run | ({"run_id": state["run_id"]} if state.get("run_id") else {})

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Locks the spool: one process at a time delivers it.

        Raises:
            BlockingIOError: if another process holds the lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".tracking.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
