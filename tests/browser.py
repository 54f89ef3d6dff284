"""Pages opened in a real browser without a screen."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def check_page(page: Path, folder: Path) -> None:
    """Opens a page in Chromium: no complaint on its console, and something to see. ``folder`` takes the screenshot."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium: install it with apt-get install chromium")
    picture = folder / "page.png"
    done = subprocess.run(
        [
            browser,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"),
            *("--window-size=1280,3000", f"--user-data-dir={folder}/profile", f"--screenshot={picture}"),
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr
    assert picture.is_file(), done.stderr
    from matplotlib.image import imread

    seen = imread(picture)
    assert seen.shape[:2] == (3000, 1280)
    assert seen[..., :3].std() > 0.05  # not a blank page
