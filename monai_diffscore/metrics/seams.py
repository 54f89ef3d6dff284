"""Whether a volume that was sampled in windows shows where they meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffscore.tiling import window_starts


def seam_ratio(volume: Tensor, window: Sequence[int], overlap: float, moved: int = 0) -> float:
    r"""Gradient energy across the borders of the windows over that elsewhere; 1 means no seam.

    For each axis, :math:`(x_i - x_{i-1})^2` is averaged over the places i where a window of
    :class:`~monai_diffscore.tiling.TiledDenoiser` begins or ends, and over the others. Half a window
    at either end is left out: the rim of a volume is no seam, but networks that pad are rougher there, and so are the
    samples. The ratio is of the sums over the axes. An image whose structure happens to lie at a border has a ratio
    other than 1 too: average over several, or compare with the ratio of borders that are moved.

    Args:
        volume: [B, C, *S].
        window, overlap: as the tiling's.
        moved: borders are looked for this many voxels further on, where none is.
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
        chosen = torch.zeros(len(energy), dtype=torch.bool)
        chosen[borders] = True
        at += float(energy[chosen].mean())
        elsewhere += float(energy[~chosen].mean())
    if elsewhere == 0:
        raise ValueError(
            f"seam_ratio looks at borders between windows: expected a volume that varies and is larger than the window "
            f"{tuple(window)}, got shape {tuple(volume.shape)}."
        )
    return at / elsewhere
