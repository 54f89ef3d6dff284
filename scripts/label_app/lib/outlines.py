"""Outlines of regions of slides as polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.measure import approximate_polygon, find_contours, label, regionprops


def polygons(mask: np.ndarray, corner: Sequence[int], scale: float, least_area: float) -> list[list[list[int]]]:
    """The outlines of the connected groups of a mask [rows, columns], as lists of x and y in level-0 pixels.

    Args:
        mask: mask of a region.
        corner: x and y of its upper left pixel, level 0.
        scale: level-0 pixels in one of its pixels.
        least_area: smallest area of a group, in level-0 pixels.
    """
    outlines = []
    for group in regionprops(label(mask, connectivity=2)):
        if group.area * scale**2 < max(least_area, 1):
            continue
        padded = np.pad(group.image, 1)
        outline = max(find_contours(padded.astype(float), 0.5), key=len)
        outline = approximate_polygon(outline, tolerance=1.0)[:-1]
        rows_columns = outline - 1 + np.array(group.bbox[:2]) + 0.5  # from centres of pixels to their corners
        outlines.append(np.rint(rows_columns[:, ::-1] * scale + np.array(corner)).astype(int).tolist())
    return [polygon for polygon in outlines if len(polygon) >= 3]
