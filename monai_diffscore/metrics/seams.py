"""Whether a volume that was sampled in windows shows where they meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffscore.tiling import window_starts


def seam_ratio(volume: Tensor, window: Sequence[int], overlap: float) -> float:
    r"""Gradient energy across the borders of the windows over that elsewhere; 1 means no seam.

    For each axis, :math:`(x_i - x_{i-1})^2` is averaged over the places i where a window of
    :class:`~monai_diffscore.tiling.TiledDenoiser` begins or ends, and over all others; the ratio is of the sums over
    the axes. An image whose structure happens to lie at a border has a ratio other than 1 too: average over several.

    Args:
        volume: [B, C, *S].
        window, overlap: as the tiling's.
    Raises:
        ValueError: if one window covers the volume, so that there is no border.
    """
    at, elsewhere = 0.0, 0.0
    for axis, (size, width) in enumerate(zip(volume.shape[2:], window, strict=True)):
        starts = window_starts(size, width, overlap)
        borders = sorted({edge for start in starts for edge in (start, start + width) if 0 < edge < size})
        if not borders:
            continue
        steps = volume.double().diff(dim=axis + 2).movedim(axis + 2, 0)  # between i-1 and i
        energy = steps.square().flatten(1).mean(1)
        chosen = torch.zeros(size - 1, dtype=torch.bool)
        chosen[torch.tensor(borders) - 1] = True
        at += float(energy[chosen].mean())
        elsewhere += float(energy[~chosen].mean())
    if elsewhere == 0:
        raise ValueError(
            f"seam_ratio looks at borders between windows: expected a volume that varies and is larger than the window "
            f"{tuple(window)}, got shape {tuple(volume.shape)}."
        )
    return at / elsewhere
