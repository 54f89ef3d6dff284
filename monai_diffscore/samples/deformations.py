r"""Smooth random fields, and the smooth invertible maps that they generate.

A stationary velocity v(x) in mm generates the map :math:`\exp(v)` that follows it for a unit of time. It is a
diffeomorphism for every smooth v, with the inverse :math:`\exp(-v)`, and is computed by scaling and squaring,

.. math::  \exp(v) = \bigl(\exp(v / 2^n)\bigr)^{2^n}, \qquad \exp(v / 2^n) \approx x + v / 2^n .

Source: Arsigny et al. 2006, doi:10.1007/11866565_113, Section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft

_SQUARINGS = 6


@dataclass(frozen=True)
class Grid:
    """Voxels of a volume in world coordinates.

    Args:
        shape: voxels along each of three axes.
        spacing_mm: edge of a voxel.
        origin_mm: centre of the first voxel.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    origin_mm: tuple[float, float, float]

    def points(self) -> torch.Tensor:
        """World coordinates of the voxels, [X, Y, Z, 3] in mm."""
        axes = [o + self.spacing_mm * torch.arange(n) for o, n in zip(self.origin_mm, self.shape, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)

    def affine(self) -> np.ndarray:
        """Voxel indices to world coordinates, [4, 4]."""
        affine = np.diag([self.spacing_mm] * 3 + [1.0])
        affine[:3, 3] = self.origin_mm
        return affine

    def resampled(self, spacing_mm: float) -> Grid:
        """The same field of view with voxels of another size.

        Raises:
            ValueError: if the field of view is not a whole number of voxels.
        """
        sizes = [size * self.spacing_mm / spacing_mm for size in self.shape]
        if any(abs(size - round(size)) > 1e-6 or size < 1 for size in sizes):
            extent = tuple(size * self.spacing_mm for size in self.shape)
            raise ValueError(f"Expected a voxel edge that divides {extent} mm, got {spacing_mm} mm. Take 1, 2 or 4 mm.")
        shift = (spacing_mm - self.spacing_mm) / 2
        origin = tuple(o + shift for o in self.origin_mm)
        return Grid(tuple(round(size) for size in sizes), spacing_mm, origin)  # type: ignore[arg-type]


def sample_at(volume: torch.Tensor, grid: Grid, points_mm: torch.Tensor, padding: str = "zeros") -> torch.Tensor:
    """Trilinear values [C, *P] of a volume [C, X, Y, Z] at world coordinates [*P, 3].

    Args:
        volume: values on ``grid``.
        grid: of the volume.
        points_mm: the points.
        padding: outside the volume: "zeros", or the "border" value.
    """
    last = torch.tensor([size - 1 for size in grid.shape], dtype=points_mm.dtype)
    index = (points_mm - torch.tensor(grid.origin_mm, dtype=points_mm.dtype)) / grid.spacing_mm
    relative = (2 * index / last - 1).flip(-1)  # torch counts the last axis first
    values = F.grid_sample(volume[None], relative.reshape(1, -1, 1, 1, 3), padding_mode=padding, align_corners=True)
    return values.reshape(-1, *points_mm.shape[:-1])


def refined(field: torch.Tensor, grid: Grid) -> torch.Tensor:
    """A field [C, X, Y, Z] in the voxels of another grid of the same field of view, trilinear."""
    return F.interpolate(field[None], size=grid.shape, mode="trilinear", align_corners=False)[0]


def smooth_field(random: np.random.Generator, channels: int, grid: Grid, length_mm: float) -> torch.Tensor:
    r"""Gaussian field [C, X, Y, Z] of unit variance with correlation :math:`e^{-r^2 / (4 l^2)}`; periodic.

    White noise is filtered by a Gaussian of standard deviation l in the Fourier domain.

    Args:
        random: source of the noise.
        channels: number of independent fields C.
        grid: its voxels.
        length_mm: l.
    """
    noise = random.standard_normal((channels, *grid.shape), dtype=np.float32)
    full = np.ones((1, 1, 1))
    for axis, size in enumerate(grid.shape):
        waves = 2 * math.pi * np.fft.fftfreq(size, grid.spacing_mm)
        gain = np.exp(-0.5 * (waves * length_mm) ** 2)
        full = full * gain.reshape([-1 if a == axis else 1 for a in range(3)])
    scale = 1 / math.sqrt(float((full**2).mean()))
    gain = (scale * full[..., : grid.shape[2] // 2 + 1]).astype(np.float32)
    axes = (1, 2, 3)
    field = fft.irfftn(fft.rfftn(noise, axes=axes) * gain, s=grid.shape, axes=axes)
    return torch.from_numpy(np.ascontiguousarray(field, dtype=np.float32))


def exponential(velocity_mm: torch.Tensor, grid: Grid) -> torch.Tensor:
    r"""Displacement u [3, X, Y, Z] in mm of the map :math:`\exp(v)(x) = x + u(x)`.

    Args:
        velocity_mm: v [3, X, Y, Z] on ``grid``.
        grid: its voxels.
    """
    points = grid.points()
    displacement = velocity_mm / 2**_SQUARINGS
    for _ in range(_SQUARINGS):
        displacement = displacement + sample_at(displacement, grid, points + displacement.movedim(0, -1), "border")
    return displacement


def moved(points_mm: torch.Tensor, displacements_mm: Sequence[torch.Tensor], grid: Grid) -> torch.Tensor:
    """World coordinates [X, Y, Z, 3] after a sequence of maps x + u(x).

    Args:
        points_mm: [X, Y, Z, 3].
        displacements_mm: u of each map, in the order in which they act, [3, X, Y, Z] on ``grid``.
        grid: of the displacements.
    """
    for displacement in displacements_mm:
        points_mm = points_mm + sample_at(displacement, grid, points_mm, "border").movedim(0, -1)
    return points_mm
