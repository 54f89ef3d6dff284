"""Leases: cases and their annotators, for a time.

An offered case belongs to its annotator for some time, and no other annotator gets it. A file holds the leases, so that
they outlive the server.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monai_diffscore.atomic_files import whole_file


class Leases:
    """The leases of a server.

    Args:
        path: the JSON file.
        seconds: length of a lease.
        clock: returns the time in seconds.
    """

    def __init__(self, path: Path, seconds: float, clock: Callable[[], float] = time.time) -> None:
        if seconds <= 0:
            raise ValueError(f"Expected a lease of more than 0 seconds, got {seconds}.")
        self.path, self.seconds, self.clock = path, seconds, clock
        self.lock = threading.RLock()

    def held(self) -> dict[str, dict[str, Any]]:
        """For each image id its holder (``client``), the end of its lease (``until``) and clients that skipped it."""
        if not self.path.is_file():
            return {}
        leases = json.loads(self.path.read_text())
        for lease in leases.values():
            if lease["until"] <= self.clock():
                lease["client"] = None
        return leases

    def holder(self, image: str) -> str | None:
        """The client that holds an image, or None."""
        return self.held().get(image, {}).get("client")

    def take(self, image: str, client: str) -> float:
        """Leases an image; returns the end of the lease."""
        leases = self.held()
        skipped = leases.get(image, {}).get("skipped", [])
        leases[image] = {"client": client, "until": self.clock() + self.seconds, "skipped": skipped}
        self._write(leases)
        return leases[image]["until"]

    def skip(self, image: str, client: str) -> None:
        """Returns an image. The same client does not get it again."""
        leases = self.held()
        skipped = sorted({*leases.get(image, {}).get("skipped", []), client})
        leases[image] = {"client": None, "until": 0.0, "skipped": skipped}
        self._write(leases)

    def _write(self, leases: Mapping[str, Any]) -> None:
        with whole_file(self.path) as file:
            file.write(json.dumps(leases, indent=4).encode())
