"""Who has which case until when.

A case that is offered belongs to its annotator for some time, and nobody else is offered it. Leases are in a file, so
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
    """Who has which case until when.

    Args:
        path: of the JSON file.
        seconds: that a lease lasts.
        clock: tells the time in seconds.
    """

    def __init__(self, path: Path, seconds: float, clock: Callable[[], float] = time.time) -> None:
        if seconds <= 0:
            raise ValueError(f"A lease must last longer than nothing, got {seconds} seconds.")
        self.path, self.seconds, self.clock = path, seconds, clock
        self.lock = threading.RLock()

    def held(self) -> dict[str, dict[str, Any]]:
        """Image id to holder (``client``), ``until``, and the clients that passed it over (``skipped``)."""
        if not self.path.is_file():
            return {}
        held = json.loads(self.path.read_text())
        for lease in held.values():
            if lease["until"] <= self.clock():
                lease["client"] = None
        return held

    def holder(self, image: str) -> str | None:
        """Who has an image, if somebody does."""
        return self.held().get(image, {}).get("client")

    def take(self, image: str, client: str) -> float:
        """Leases an image; returns until when."""
        held = self.held()
        skipped = held.get(image, {}).get("skipped", [])
        held[image] = {"client": client, "until": self.clock() + self.seconds, "skipped": skipped}
        self._write(held)
        return held[image]["until"]

    def skip(self, image: str, client: str) -> None:
        """Gives an image back, not to be offered to the same client again."""
        held = self.held()
        skipped = sorted({*held.get(image, {}).get("skipped", []), client})
        held[image] = {"client": None, "until": 0.0, "skipped": skipped}
        self._write(held)

    def _write(self, held: Mapping[str, Any]) -> None:
        with whole_file(self.path) as file:
            file.write(json.dumps(held, indent=4).encode())
