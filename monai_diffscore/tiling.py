r"""Volumes of any size from a denoiser of patches: overlapping windows, blended at every noise level.

A denoiser that was trained on patches is run on windows w that cover the volume, and its estimates are averaged,

.. math::  D(x, \sigma) = \sum_w R_w^T\bigl(W_w \odot D_{patch}(R_w x, \sigma)\bigr), \qquad
           \sum_w R_w^T W_w = 1 ,

where R_w cuts window w out. Windows overlap, and the blending happens **inside** the denoiser, at each noise level of a
sampler: neighbouring windows then agree on what is in their overlap long before it is visible, and no seam is left
(MultiDiffusion; Bar-Tal et al. 2023, arXiv:2302.08113). The windows stand on a product grid and the weights
W are products of one Gaussian for each axis, so they sum to 1 axis by axis and no volume of weights is kept.

The result is a denoiser of volumes: guidance, inverse problems and the likelihood wrap it as any other. Besides the
volume and its estimate, memory is that of one batch of windows, also of its gradient, which recomputes them window by
window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_diffscore.denoiser import per_sample_sigma


class TiledDenoiser(nn.Module):
    """A denoiser of [B, C, *S] for any S not smaller than ``window``, by windows of that size.

    Condition fields of the spatial size of x (masks, low-resolution images) are cut into windows with it; all others
    are passed to each window of their sample.

    Args:
        denoiser: of patches, ``(x, sigma: [B], **condition)``.
        window: spatial size of a patch.
        overlap: share of the window that neighbours have in common at least, 0 to below 1. More is smoother and dearer:
            the number of windows grows as 1 / (1 - overlap) for each axis.
        position_key: condition field that gets the position of each voxel in the volume, from -1 to 1 along each
            axis, [B, axes, *window], unless the caller passes it.
        batch_size: windows that go through the network together.
    Raises:
        ValueError: for an overlap or a batch size out of range. In the call: for x of another number of spatial axes,
            or smaller than the window.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        window: Sequence[int],
        overlap: float = 0.5,
        position_key: str | None = None,
        batch_size: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= overlap < 1 or batch_size < 1 or not window or min(window) < 1:
            raise ValueError(
                f"TiledDenoiser needs window sizes >= 1, 0 <= overlap < 1 and batch_size >= 1, got {list(window)}, "
                f"{overlap} and {batch_size}."
            )
        self.denoiser = denoiser
        self.window = tuple(int(size) for size in window)
        self.overlap = overlap
        self.position_key = position_key
        self.batch_size = batch_size

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        size = tuple(x.shape[2:])
        if len(size) != len(self.window) or any(s < w for s, w in zip(size, self.window, strict=True)):
            raise ValueError(
                f"TiledDenoiser with windows {self.window}: expected x [B, C, *S] with {len(self.window)} spatial "
                f"axes, none shorter than its window, got shape {tuple(x.shape)}. Ask for a larger volume, pad it with "
                "SpatialPadd, or use the denoiser without tiling."
            )
        sigma = per_sample_sigma(x, sigma)
        starts = [window_starts(s, w, self.overlap) for s, w in zip(size, self.window, strict=True)]
        weights = [_blending(s, w, begin) for s, w, begin in zip(size, self.window, starts, strict=True)]
        jobs = list(itertools.product(range(len(x)), *[range(len(begin)) for begin in starts]))
        denoised: Tensor | None = None
        # batches of equal size: a last one of a single window would take libraries' other, more wasteful ways
        count = -(-len(jobs) // self.batch_size)
        ends = [len(jobs) * number // count for number in range(count + 1)]
        for first, end in itertools.pairwise(ends):
            batch = jobs[first:end]
            places = [(job[0], [begin[i] for begin, i in zip(starts, job[1:], strict=True)]) for job in batch]
            estimates = self._estimate(x, sigma, condition, places)
            if denoised is None:  # the channels of D are known now
                denoised = estimates.new_zeros(len(x), estimates.shape[1], *size)
            for estimate, job, (sample, begin) in zip(estimates, batch, places, strict=True):
                for axis, i in enumerate(job[1:]):
                    weight = weights[axis][i].to(estimate)
                    estimate = estimate * weight.reshape([-1 if a == axis else 1 for a in range(len(size))])
                denoised[sample][self._cut(begin)].add_(estimate)
        assert denoised is not None
        return denoised

    def _estimate(
        self, x: Tensor, sigma: Tensor, condition: dict[str, Tensor], places: list[tuple[int, list[int]]]
    ) -> Tensor:
        """The denoiser on one batch of windows; recomputed in a backward pass, so that no window's graph is kept."""
        samples = torch.tensor([sample for sample, _ in places], device=x.device)

        def windows(field: Tensor) -> Tensor:
            return torch.stack([field[sample][self._cut(begin)] for sample, begin in places])

        fields = {
            name: windows(field) if field.ndim == x.ndim and field.shape[2:] == x.shape[2:] else field[samples]
            for name, field in condition.items()
        }
        if self.position_key is not None and self.position_key not in fields:
            fields[self.position_key] = torch.stack([self._position(begin, x) for _, begin in places])
        names = list(fields)

        def run(patch: Tensor, level: Tensor, *values: Tensor) -> Tensor:
            return self.denoiser(patch, level, **dict(zip(names, values, strict=True)))

        arguments = (windows(x), sigma[samples], *fields.values())
        if torch.is_grad_enabled() and arguments[0].requires_grad:
            return checkpoint(run, *arguments, use_reentrant=False)
        return run(*arguments)

    def _cut(self, begin: Sequence[int]) -> tuple[slice, ...]:
        """Index of a window in one sample [C, *S]."""
        return (slice(None), *(slice(b, b + w) for b, w in zip(begin, self.window, strict=True)))

    def _position(self, begin: Sequence[int], x: Tensor) -> Tensor:
        """Coordinates [axes, *window] of the voxels of a window: -1 and 1 are the first and last voxel of the
        volume."""
        axes = [
            2 * (torch.arange(b, b + w, device=x.device, dtype=x.dtype) / max(size - 1, 1)) - 1
            for b, w, size in zip(begin, self.window, x.shape[2:], strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class SliceDenoiser(nn.Module):
    """A denoiser of volumes [B, C, X, Y, Z] from one of slices [B, C, X, Y]: each slice along the last axis on its own.

    Slices know nothing of each other but what a measurement that sees several tells. Condition fields of the spatial
    size of x are cut likewise; all others are passed to each slice of their sample.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        if x.ndim != 5:
            raise ValueError(f"SliceDenoiser: expected a volume [B, C, X, Y, Z], got shape {tuple(x.shape)}.")
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
    """The denoiser of patches as one of images with ``spatial_dims`` axes, tiled, and slice by slice if it is of
    slices.

    Raises:
        ValueError: for a window of other dimensions than the images or their slices have.
    """
    tiled = TiledDenoiser(denoiser, window, overlap, batch_size=batch_size)
    if len(window) == spatial_dims:
        return tiled
    if (len(window), spatial_dims) == (2, 3):
        return SliceDenoiser(tiled)
    raise ValueError(
        f"Expected a window of {spatial_dims} axes, or of 2 for the slices of a volume, got {list(window)}."
    )


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the fewest windows that cover an axis with at least this overlap, evenly spread.

    Args:
        size: of the axis, in voxels, >= window.
        window: in voxels.
        overlap: share of the window, below 1.
    """
    stride = max(1, int(window * (1 - overlap)))
    count = -(-(size - window) // stride) + 1
    return [round(i * (size - window) / max(count - 1, 1)) for i in range(count)]


def _blending(size: int, window: int, starts: Sequence[int]) -> Tensor:
    """Weights [windows, window] of one axis, Gaussian over each window, that sum to 1 at every voxel of the axis."""
    offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
    # an eighth of the window as standard deviation, as is usual for sliding windows; the floor keeps 1 / total finite
    bell = torch.exp(-0.5 * (offset / (0.125 * window)) ** 2).clamp_min(1e-6)
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += bell
    return torch.stack([bell / total[start : start + window] for start in starts])
