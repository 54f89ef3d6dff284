"""Pictures that a test looks at: whether data are drawn in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def check_picture(file: Path, grey: bool = False) -> None:
    """A PNG shows data, not axes and letters alone.

    Those are black on white, and cover a few percent. Points, curves and maps have colours; with ``grey``, images in
    grey values cover a fifth of the picture, in many values.
    """
    with Image.open(file) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(int)
    if grey:
        dark = pixels.min(-1) < 240
        assert dark.mean() > 0.2, file
        assert len(np.unique(pixels[dark], axis=0)) > 20, file
    else:
        coloured = pixels.max(-1) - pixels.min(-1) > 30
        assert coloured.sum() > 10, file
