"""Inpainting by replacement of the known values."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Inpaint(nn.Module):
    r"""Inpainting by replacement, :math:`D_y = m y + (1 - m) D(x, \sigma)`, for measurements without noise.

    In a deterministic sampler the known part of the state is :math:`y + \sigma n` at each level, with the noise n of
    the start. RePaint draws it from the same distribution at each step. The unknown part gets y through the receptive
    field of the denoiser, one noise level late. To harmonise both parts, use
    :func:`~monai_diffscore.sampling.sample_repaint`, which repeats each step, or :class:`PosteriorGuidance` with
    :class:`~monai_diffscore.operators.Mask`.

    Args:
        denoiser: the prior.
        mask: m, 1 at known values, broadcast against x.
        known: y, the known values, broadcast against x, in the normalised units of the denoiser. Values where the mask
            is 0, NaN included, have no effect.
    Raises:
        ValueError: for a mask of other values than 0 and 1, or a known value that is not finite. In the call: for a
            mask or known values that do not broadcast to the shape of x.

    Source: Lugmayr et al. 2022, arXiv:2201.09865.
    """

    mask: Tensor
    known: Tensor

    def __init__(self, denoiser: nn.Module, mask: Tensor, known: Tensor) -> None:
        super().__init__()
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"Inpaint expects a mask of 0 and 1, got values from {float(mask.min()):g} to {float(mask.max()):g}. "
                "Compare an image with a threshold, such as image > 0."
            )
        count = int((~torch.isfinite(known) & mask.bool()).sum())
        if count:
            raise ValueError(f"Inpaint expects finite known values, got {count} NaN or infinite where the mask is 1.")
        self.denoiser = denoiser
        self.register_buffer("mask", mask.bool(), persistent=False)
        self.register_buffer("known", known, persistent=False)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        guided = torch.where(self.mask, self.known.to(x), self.denoiser(x, sigma, **condition))
        if guided.shape != x.shape:
            raise ValueError(
                f"Inpaint expects a mask and known values that broadcast to the shape of x, {tuple(x.shape)}, got "
                f"{tuple(self.mask.shape)} and {tuple(self.known.shape)}."
            )
        return guided
