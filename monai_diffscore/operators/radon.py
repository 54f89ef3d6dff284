"""Line integrals of computed tomography: sinograms, back-projection and filtered back-projection."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffscore.operators.linear_map import Operator, conjugate_gradients, over_samples
from monai_diffscore.tensors import per_channel


class Radon(Operator):
    r"""Parallel-beam line integrals of each slice: sinograms of CT, in units of (image value x voxels).

    :math:`y(\theta, s) = \sum_{ij} x_{ij}\, \Lambda(s - i\cos\theta - j\sin\theta)` with the hat function
    :math:`\Lambda`. It projects each voxel of the first two spatial axes onto the detector, and splits it linearly
    between the two nearest bins. The adjoint is back-projection with linear interpolation, and is exact. Further axes
    are slices.

    Args:
        size: (X, Y) of the slices, in voxels.
        angles_degrees: [angles], in degrees: all of [0, 180) for a full scan, few for sparse views, a part for a
            limited angle.
        bins: number of bins of the detector, one voxel wide; None covers the diagonal.
        iterations, tolerance: of the conjugate gradients in ``solve``. One iteration projects and back-projects once.
    Raises:
        ValueError: for no angles, or a size that is not two numbers > 0. In the call: for slices of another size, or a
            sinogram of another number of angles or bins.

    Source: Kak and Slaney 1988, Computerized Tomographic Imaging, Chapter 3 (filtered back-projection).
    """

    angles: Tensor

    def __init__(
        self,
        size: Sequence[int],
        angles_degrees: Sequence[float] | Tensor,
        bins: int | None = None,
        iterations: int = 100,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        angles = torch.as_tensor(angles_degrees, dtype=torch.float64).flatten()
        if len(angles) == 0:
            raise ValueError("Radon needs at least one angle, got none.")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"Radon needs the size (X, Y) of the slices, got {tuple(size)}.")
        self.size = (int(size[0]), int(size[1]))
        self.register_buffer("angles", angles * (math.pi / 180))
        self.bins = bins or 2 * math.ceil(math.hypot(*self.size) / 2) + 1
        self.iterations, self.tolerance = iterations, tolerance

    def _places(self, angle: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """The lower bin [X * Y] of each voxel, and the share of the upper bin.

        Index 0 and the indices above ``bins`` are outside the detector.
        """
        i, j = (torch.arange(n, device=like.device, dtype=torch.float64) - (n - 1) / 2 for n in self.size)
        s = (i[:, None] * math.cos(angle) + j[None] * math.sin(angle)).flatten() + (self.bins - 1) / 2 + 1
        s = s.clamp(0, self.bins + 0.999999)
        return s.floor().long(), (s - s.floor()).to(like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:4] != self.size:
            raise ValueError(
                f"Radon expects slices of its own size, [B, C, {self.size[0]}, {self.size[1]}, ...], got shape "
                f"{tuple(x.shape)}. Build a Radon of that size."
            )
        bins = self.bins
        voxels = x.flatten(2, 3)  # (B, C, X * Y, ...)
        rows = []
        for angle in self.angles.tolist():
            lower, share = self._places(angle, x)
            share = per_channel(share, voxels[0, 0])
            row = voxels.new_zeros(*voxels.shape[:2], bins + 3, *voxels.shape[3:])
            row = row.index_add(2, lower, voxels * (1 - share)).index_add(2, lower + 1, voxels * share)
            rows.append(row[:, :, 1 : bins + 1])
        return torch.stack(rows, dim=2)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-projects [B, C, angles, bins, ...] onto [B, C, X, Y, ...]."""
        if y.shape[2:4] != (len(self.angles), self.bins):
            raise ValueError(
                f"Radon expects a sinogram [B, C, {len(self.angles)}, {self.bins}, ...] (angles, bins), got shape "
                f"{tuple(y.shape)}. Build a Radon of these angles and bins."
            )
        size = self.size
        total = y.new_zeros(*y.shape[:2], size[0] * size[1], *y.shape[4:])
        padded = torch.cat([torch.zeros_like(y[:, :, :, :1]), y, torch.zeros_like(y[:, :, :, :2])], dim=3)
        for number, angle in enumerate(self.angles.tolist()):
            lower, share = self._places(angle, y)
            share = per_channel(share, y[0, 0, 0])
            row = padded[:, :, number]
            total = total + (1 - share) * row[:, :, lower] + share * row[:, :, lower + 1]
        return total.unflatten(2, size)

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        prior = over_samples(prior_variance, y)

        def apply(u: Tensor) -> Tensor:
            return prior * self(self.adjoint(u)) + noise_variance * u

        return conjugate_gradients(apply, y, self.iterations, self.tolerance)

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        """The classical reconstruction [B, C, X, Y, ...] (ramp filter) of a full scan.

        It is the baseline for an incomplete scan.
        """
        bins = y.shape[3]
        length = 2 ** math.ceil(math.log2(2 * bins))
        # the transform of the ramp in space (Kak and Slaney, Chapter 3) has the right mean
        n = torch.arange(length, device=y.device)
        n = torch.where(n < length // 2, n, n - length)
        kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.double()) ** 2, 0.0)
        kernel[0] = 0.25
        ramp = per_channel(torch.fft.rfft(kernel).real.to(y.dtype), y[0, 0, 0])
        filtered = torch.fft.irfft(torch.fft.rfft(y, n=length, dim=3) * ramp, n=length, dim=3)[:, :, :, :bins]
        return self.adjoint(filtered) * (math.pi / len(self.angles))
