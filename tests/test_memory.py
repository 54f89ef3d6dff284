"""The peak of this process's memory is its own, and covers what it has let go."""

from __future__ import annotations

import os
import subprocess
import sys

from monai_diffscore.memory import peak_memory_bytes

READ = "from monai_diffscore.memory import peak_memory_bytes; print(peak_memory_bytes())"


def test_the_peak_stays_when_the_memory_is_given_back():
    held = b"\1" * (peak_memory_bytes() + 2**26)
    size = len(held)
    del held
    assert peak_memory_bytes() >= size
    assert peak_memory_bytes(os.getpid()) >= size


def test_a_child_does_not_inherit_the_peak_of_its_parent():
    parent = "import subprocess, sys; held = b'1' * 2**30; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    done = subprocess.run([sys.executable, "-c", parent, READ], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**30
