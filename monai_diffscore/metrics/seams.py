"""Seams of a volume that is sampled in windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffscore.tiling import window_starts


def seam_ratio(volume: Tensor, window: Sequence[int], overlap: float, moved: int = 0) -> float:
    r"""Gradient energy across the borders of the windows over that elsewhere; 1 means no seam.

    For each axis, :math:`(x_i - x_{i-1})^2` is averaged over the places i where a window of
    :class:`~monai_diffscore.tiling.TiledDenoiser` begins or ends, and over the others. Half a window
    at either end is left out: the rim of a volume is no seam, but samples of networks with padding are rougher there.
    The ratio is of the sums over the axes. A structure of the image at a border also changes the ratio: average over
    several images, or compare with the ratio of moved borders.

    Args:
        volume: [B, C, *S].
        window, overlap: those of the tiling.
        moved: shift of the borders in voxels, to places without seams.
    Raises:
        ValueError: if no window begins or ends in the inner part of the volume, or the volume is constant.
    """
    at, elsewhere = 0.0, 0.0
    for axis, (size, width) in enumerate(zip(volume.shape[2:], window, strict=True)):
        starts = window_starts(size, width, overlap)
        first, last = width // 2, size - width // 2
        edges = {edge + moved for start in starts for edge in (start, start + width) if 0 < edge < size}
        borders = [edge - first for edge in edges if first <= edge < last]
        if not borders:
            continue
        steps = volume.double().diff(dim=axis + 2).movedim(axis + 2, 0)  # between i-1 and i
        energy = steps.square().flatten(1).mean(1)[first - 1 : last - 1]
        at_border = torch.zeros(len(energy), dtype=torch.bool)
        at_border[borders] = True
        at += float(energy[at_border].mean())
        elsewhere += float(energy[~at_border].mean())
    if elsewhere == 0:
        raise ValueError(
            f"seam_ratio looks at borders between windows: expected a volume that varies and is larger than the window "
            f"{tuple(window)}, got shape {tuple(volume.shape)}."
        )
    return at / elsewhere
