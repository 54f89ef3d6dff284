"""The peak memory of a process.

``getrusage`` is too large on Linux: a child process inherits the peak of its parent, also through ``exec``. A small
program that a large program starts then reports the peak of the large program.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory_bytes(pid: int | None = None) -> int:
    """The peak of the resident set of one process, in bytes.

    It reads ``VmHWM`` on Linux, and ``getrusage`` elsewhere.

    Args:
        pid: of another process, on Linux; None is this process.
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    if pid or status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
