r"""Resamples unevenly spaced or tilted slices to a straight grid by linear interpolation.

A slice at height h between the heights of its neighbours is their weighted mean; a slice that a tilt has moved by
(a, b) within its plane moves back by the bilinear weights of the fraction of a pixel. Both reproduce an image that is
linear in space exactly.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_diffscore.data.dicom.layout import Layout
from monai_diffscore.data.dicom.pixels import Mask, Volume


def straighten(volume: Volume, inside: Mask, layout: Layout, fill: float) -> tuple[Volume, Mask, NDArray[np.float64]]:
    """Moves slices [X, Y, Z] of a tilted gantry over each other, and their mask; also returns the new affine (LPS).

    The grid grows in plane by the shift of the last slice; voxels without a slice are ``fill``, outside the mask.
    """
    affine = layout.affine_lps.copy()
    spacing = np.linalg.norm(affine[:3, :2], axis=0)
    shifts = layout.offsets_mm / spacing  # [Z, 2] voxels
    start, end = np.floor(shifts.min(axis=0)).astype(int), np.ceil(shifts.max(axis=0)).astype(int)
    size = np.array(volume.shape[:2]) + end - start
    moved = np.full((*size, volume.shape[2]), fill, dtype=np.float32)
    moved_inside = np.zeros(moved.shape, dtype=np.bool_)
    grow = [(0, int(g)) for g in end - start]
    for k, shift in enumerate(shifts - start):
        values = np.pad(volume[..., k], grow, constant_values=fill)
        cover = np.pad(inside[..., k].astype(np.float32), grow)
        exists = np.pad(np.ones(volume.shape[:2], np.float32), grow)
        weight = ndimage.shift(exists, shift, order=1, prefilter=False)
        image = ndimage.shift(values, shift, order=1, prefilter=False, cval=fill)
        moved[..., k] = np.where(weight > 1 - 1e-6, image, fill)
        moved_inside[..., k] = ndimage.shift(cover, shift, order=1, prefilter=False) > 1 - 1e-6
    normal = np.cross(affine[:3, 0], affine[:3, 1]) / spacing.prod()
    affine[:3, 3] += affine[:3, :2] @ start
    affine[:3, 2] = normal * layout.heights_mm[-1] / (len(layout.planes) - 1)
    return moved, moved_inside, affine


def even_out(
    volume: Volume, inside: Mask, heights_mm: NDArray[np.float64], affine: NDArray[np.float64]
) -> tuple[Volume, Mask, NDArray[np.float64], int]:
    """Interpolates slices [X, Y, Z] on a grid of their smallest step; also the mask, the affine, and the number of
    interpolated slices.

    The first slice keeps its position; the last slice lies less than a step above the last one of the grid.
    """
    step = float(np.diff(heights_mm).min())
    grid = np.arange(int(heights_mm[-1] / step + 1e-3) + 1) * step
    upper = np.clip(np.searchsorted(heights_mm, grid, side="right"), 1, len(heights_mm) - 1)
    lower = upper - 1
    share = (grid - heights_mm[lower]) / (heights_mm[upper] - heights_mm[lower])
    share = np.clip(np.where(np.abs(share - share.round()) < 1e-3, share.round(), share), 0, 1).astype(np.float32)
    even = (volume[..., lower] * (1 - share) + volume[..., upper] * share).astype(np.float32)
    covered: Mask = (inside[..., lower] | (share == 1)) & (inside[..., upper] | (share == 0))
    straight = affine.copy()
    straight[:3, 2] *= step / np.linalg.norm(affine[:3, 2])
    return even, covered, straight, int(((share > 0) & (share < 1)).sum())
