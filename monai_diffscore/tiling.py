r"""Volumes of any size from a denoiser of patches: overlapping windows, blended at every noise level.

The denoiser of patches runs on windows w that cover the volume. A weighted mean of its estimates is the result,

.. math::  D(x, \sigma) = \sum_w R_w^T\bigl(W_w \odot D_{patch}(R_w x, \sigma)\bigr), \qquad
           \sum_w R_w^T W_w = 1 ,

where R_w cuts window w out. Windows overlap. The blending is **inside** the denoiser: it happens at each noise level of
a sampler. Neighbouring windows therefore agree on their overlap before its details form, and the result has no seam
(MultiDiffusion; Bar-Tal et al. 2023, arXiv:2302.08113). The windows form a product grid, and a weight W is a product of
one Gaussian for each axis. The weights sum to 1 along each axis; no volume of weights is stored.

The result is a denoiser of volumes. Guidance, inverse problems and the likelihood wrap it like any other denoiser. Its
memory is that of the volume, its estimate and one batch of windows. This holds for its gradient, too: the backward pass
recomputes the windows, batch by batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_diffscore.tensors import per_sample_sigma, positions


class TiledDenoiser(nn.Module):
    """A denoiser of x [B, C, *S] for any S at least as large as ``window``. It runs on windows of that size.

    It cuts condition fields of the spatial size of x (masks, low-resolution images) into the same windows. It passes
    each other field to all windows of its sample.

    Args:
        denoiser: of patches, ``(x, sigma: [B], **condition)``.
        window: spatial size of a patch, in voxels.
        overlap: smallest share of the window that two neighbours have in common, 0 to below 1, for all axes or for
            each. A larger share gives a smoother result and more windows: their number grows as 1 / (1 - overlap) for
            each axis.
        position_key: name of the condition field with the position of each voxel in the volume, from -1 to 1 along
            each axis, [B, axes, *window]. The denoiser of tiles computes the field unless the caller passes it. None
            leaves it out.
        batch_size: number of windows in one call of ``denoiser``.
    Raises:
        ValueError: for a window size below 1, or an overlap or a batch size out of range. In the call: for x of another
            number of spatial axes, or smaller than the window.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        window: Sequence[int],
        overlap: float | Sequence[float] = 0.5,
        position_key: str | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        overlaps = tuple(overlap) if isinstance(overlap, Sequence) else (overlap,) * len(window)
        shares = len(overlaps) == len(window) and all(0 <= share < 1 for share in overlaps)
        if not shares or batch_size < 1 or not window or min(window) < 1:
            raise ValueError(
                "TiledDenoiser needs window sizes >= 1, 0 <= overlap < 1 for all axes or for each, and batch_size >= "
                f"1, got {list(window)}, {overlap} and {batch_size}."
            )
        self.denoiser = denoiser
        self.window = tuple(int(size) for size in window)
        self.overlap = overlaps
        self.position_key = position_key
        self.batch_size = batch_size

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if len(size) != len(self.window) or any(s < w for s, w in zip(size, self.window, strict=True)):
            raise ValueError(
                f"TiledDenoiser expects x [B, C, *S] with {len(self.window)} spatial axes of at least {self.window} "
                f"voxels, the window, got shape {tuple(x.shape)}. Use a larger volume, pad it with SpatialPadd, or use "
                "the denoiser without tiling."
            )
        sigma = per_sample_sigma(x, sigma)
        starts = [window_starts(*axis) for axis in zip(size, self.window, self.overlap, strict=True)]
        weights = [_blending(s, w, begin) for s, w, begin in zip(size, self.window, starts, strict=True)]
        indices = list(itertools.product(range(len(x)), *[range(len(begin)) for begin in starts]))
        denoised: Tensor | None = None
        # batches of nearly equal size: for a last batch of one window libraries choose algorithms with more memory
        count = -(-len(indices) // self.batch_size)
        ends = [len(indices) * number // count for number in range(count + 1)]
        for first, end in itertools.pairwise(ends):
            batch = indices[first:end]
            windows = [(index[0], [begin[i] for begin, i in zip(starts, index[1:], strict=True)]) for index in batch]
            estimates = self._estimate(x, sigma, condition, windows)
            if denoised is None:  # the first estimates give the number of channels
                denoised = estimates.new_zeros(len(x), estimates.shape[1], *size)
            for estimate, index, (sample, begin) in zip(estimates, batch, windows, strict=True):
                for axis, i in enumerate(index[1:]):
                    weight = weights[axis][i].to(estimate)
                    estimate = estimate * weight.reshape([-1 if a == axis else 1 for a in range(len(size))])
                denoised[sample][self._cut(begin)].add_(estimate)
        assert denoised is not None
        return denoised

    def _estimate(
        self, x: Tensor, sigma: Tensor, condition: dict[str, Tensor], windows: list[tuple[int, list[int]]]
    ) -> Tensor:
        """The estimates of one batch of windows (sample, first voxel).

        A backward pass recomputes them, so that memory holds the graph of one batch alone.
        """
        samples = torch.tensor([sample for sample, _ in windows], device=x.device)

        def cut(field: Tensor) -> Tensor:
            return torch.stack([field[sample][self._cut(begin)] for sample, begin in windows])

        fields = {
            name: cut(field) if field.ndim == x.ndim and field.shape[2:] == x.shape[2:] else field[samples]
            for name, field in condition.items()
        }
        if self.position_key is not None and self.position_key not in fields:
            fields[self.position_key] = torch.cat([positions(x[:1], begin, self.window) for _, begin in windows])
        names = list(fields)

        def run(patch: Tensor, level: Tensor, *values: Tensor) -> Tensor:
            return self.denoiser(patch, level, **dict(zip(names, values, strict=True)))

        arguments = (cut(x), sigma[samples], *fields.values())
        if torch.is_grad_enabled() and arguments[0].requires_grad:
            return checkpoint(run, *arguments, use_reentrant=False)
        return run(*arguments)

    def _cut(self, begin: Sequence[int]) -> tuple[slice, ...]:
        """The index of a window in one sample [C, *S]."""
        return (slice(None), *(slice(b, b + w) for b, w in zip(begin, self.window, strict=True)))


class SliceDenoiser(nn.Module):
    """A denoiser of volumes [B, C, X, Y, Z] that runs a denoiser of slices [B, C, X, Y] on each slice of the last axis.

    The prior treats slices as independent. A measurement of several slices couples them. The denoiser cuts condition
    fields of the spatial size of x into slices. It passes each other field to all slices of its sample.

    Args:
        denoiser: of slices, ``(x, sigma: [B], **condition)``.
    Raises:
        ValueError: in the call: for x that is not [B, C, X, Y, Z].
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        if x.ndim != 5:
            raise ValueError(f"SliceDenoiser expects a volume [B, C, X, Y, Z], got shape {tuple(x.shape)}.")
        count = x.shape[-1]

        def slices(field: Tensor) -> Tensor:
            if field.ndim == x.ndim and field.shape[2:] == x.shape[2:]:
                return field.movedim(-1, 1).flatten(0, 1)
            return field.repeat_interleave(count, dim=0)

        sigma = per_sample_sigma(x, sigma).repeat_interleave(count)
        fields = {name: slices(field) for name, field in condition.items()}
        return self.denoiser(slices(x), sigma, **fields).unflatten(0, (len(x), count)).movedim(1, -1)


def any_size(
    denoiser: nn.Module, window: Sequence[int], spatial_dims: int, overlap: float = 0.25, batch_size: int = 4
) -> nn.Module:
    """A denoiser of images of any size, from a denoiser of patches.

    It tiles the images. If the patches are slices of the images, it runs slice by slice.

    Args:
        denoiser: of patches.
        window: spatial size of a patch, in voxels.
        spatial_dims: number of spatial axes of the images.
        overlap, batch_size: as of :class:`TiledDenoiser`.
    Raises:
        ValueError: if the window does not have the dimensions of the images or of their slices.
    """
    tiled = TiledDenoiser(denoiser, window, overlap, batch_size=batch_size)
    if len(window) == spatial_dims:
        return tiled
    if (len(window), spatial_dims) == (2, 3):
        return SliceDenoiser(tiled)
    raise ValueError(
        f"any_size expects a window of {spatial_dims} axes, or of 2 for the slices of a volume, got {list(window)}."
    )


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """The first voxels of the fewest windows that cover an axis with at least this overlap, evenly spaced.

    Args:
        size: of the axis, in voxels, >= window.
        window: in voxels.
        overlap: share of the window, below 1.
    """
    stride = max(1, int(window * (1 - overlap)))
    count = -(-(size - window) // stride) + 1
    return [round(i * (size - window) / max(count - 1, 1)) for i in range(count)]


def _blending(size: int, window: int, starts: Sequence[int]) -> Tensor:
    """The weights [windows, window] of one axis: a Gaussian for each window, over their sum at each voxel."""
    offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    # MONAI's sliding windows have the same standard deviation, window / 8; the floor keeps 1 / total finite
    kernel = torch.exp(-0.5 * (offset / (0.125 * window)) ** 2).clamp_min(1e-6)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += kernel
    return torch.stack([kernel / total[start : start + window] for start in starts])
