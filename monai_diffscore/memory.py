"""The largest memory that a process has held.

``getrusage`` alone does not say it: on Linux its peak is handed down to a child process, through ``exec`` as well, so
that whatever a large program starts seems to need as much as that program.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_memory_bytes(pid: int | None = None) -> int:
    """Peak of the resident set of this process alone: ``VmHWM`` of Linux, elsewhere the one of ``getrusage``.

    Args:
        pid: of another process, on Linux.
    """
    status = Path(f"/proc/{pid or 'self'}/status")
    if pid or status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
