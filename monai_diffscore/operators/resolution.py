"""Operators of lower resolution, thick slices and blur, with one matrix for each spatial axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffscore.operators.linear_map import Operator, over_samples


class _Separable(Operator):
    """A Kronecker product of one matrix for each spatial axis.

    A A^T is diagonal in the product of the eigenvectors of the axes: ``solve`` is exact.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self._matrices: dict[tuple[int, int], Tensor] = {}  # (axis, size of x): float64, on the CPU

    def matrix(self, axis: int, size: int) -> Tensor:
        """The float64 matrix [size of y, size of x] of a spatial axis."""
        raise NotImplementedError

    def image_size(self, axis: int, measured: int) -> int:
        """The size of x along an axis with ``measured`` elements of y."""
        return measured

    def _matrix(self, axis: int, size: int) -> Tensor:
        if (axis, size) not in self._matrices:
            self._matrices[axis, size] = self.matrix(axis, size)
        return self._matrices[axis, size]

    def _check(self, x: Tensor) -> None:
        if x.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"{type(self).__name__} of {self.spatial_dims} spatial axes expects [B, C, *S] with "
                f"{self.spatial_dims + 2} axes, got shape {tuple(x.shape)}."
            )

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        for axis, size in enumerate(x.shape[2:]):
            x = _along(self._matrix(axis, size), x, axis)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y)
        for axis, measured in enumerate(y.shape[2:]):
            y = _along(self._matrix(axis, self.image_size(axis, measured)).T, y, axis)
        return y

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        eigenvalues = torch.ones([1] * self.spatial_dims, dtype=torch.float64)
        bases = []
        for axis, measured in enumerate(y.shape[2:]):
            matrix = self._matrix(axis, self.image_size(axis, measured))
            values, basis = torch.linalg.eigh(matrix @ matrix.T)
            eigenvalues = eigenvalues * values.clamp_min(0).reshape([-1 if a == axis else 1 for a in range(y.ndim - 2)])
            bases.append(basis)
        for axis, basis in enumerate(bases):
            y = _along(basis.T, y, axis)
        y = y / (over_samples(prior_variance, y) * eigenvalues.to(y) + noise_variance)
        for axis, basis in enumerate(bases):
            y = _along(basis, y, axis)
        return y


def _number_of_axes(name: str, values: Sequence[float]) -> int:
    if isinstance(values, int | float):
        raise ValueError(f"{name} expects one number for each spatial axis, such as {[values] * 2}, got {values}.")
    return len(values)


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Applies the matrix [m, n] to spatial axis ``axis`` of x [B, C, *S]."""
    return torch.tensordot(x, matrix.to(x), dims=([axis + 2], [1])).movedim(-1, axis + 2)


class Downsample(_Separable):
    """Means of neighbouring voxels: low resolution, or thick slices if only one factor is above 1.

    The mean over the thickness of a slice is the partial-volume model of a slice with a boxcar profile.

    Args:
        factors: number of voxels of x in a voxel of y, for each spatial axis, such as (1, 1, 4).
    Raises:
        ValueError: for factors below 1, or one number for all axes. In the call: if a size of x is not divisible by its
            factor, or x has another number of axes.
    """

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__(_number_of_axes("Downsample", factors))
        if any(factor < 1 for factor in factors):
            raise ValueError(f"Downsample expects factors >= 1, one for each spatial axis, got {list(factors)}.")
        self.factors = tuple(int(factor) for factor in factors)

    def matrix(self, axis: int, size: int) -> Tensor:
        factor = self.factors[axis]
        if size % factor:
            raise ValueError(
                f"Downsample by {self.factors} expects sizes divisible by their factor, got {size} on spatial axis "
                f"{axis}. Pad with DivisiblePadd, or crop."
            )
        return torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor

    def image_size(self, axis: int, measured: int) -> int:
        return measured * self.factors[axis]


class Blur(_Separable):
    """A Gaussian point spread function with mirrored borders. It preserves constants, and A is symmetric.

    Args:
        std_voxels: standard deviation for each spatial axis, in voxels; 0 does not blur the axis.
    Raises:
        ValueError: for a negative standard deviation, or one number for all axes. In the call: for x of another number
            of axes.
    """

    def __init__(self, std_voxels: Sequence[float]) -> None:
        super().__init__(_number_of_axes("Blur", std_voxels))
        if any(not std >= 0 for std in std_voxels):
            raise ValueError(f"Blur expects standard deviations >= 0, got {list(std_voxels)}.")
        self.std_voxels = tuple(float(std) for std in std_voxels)

    def matrix(self, axis: int, size: int) -> Tensor:
        std = self.std_voxels[axis]
        reach = math.ceil(4 * std)
        offsets = torch.arange(-reach, reach + 1)
        kernel = torch.exp(-0.5 * (offsets.double() / std) ** 2) if std > 0 else torch.ones(1, dtype=torch.float64)
        kernel = kernel / kernel.sum()
        rows = torch.arange(size)[:, None]
        columns = (rows + offsets) % (2 * size)  # the signal and its mirror image repeat with period 2 size
        columns = torch.where(columns < size, columns, 2 * size - 1 - columns)
        matrix = torch.zeros(size, size, dtype=torch.float64)
        return matrix.index_put_((rows.expand_as(columns), columns), kernel.expand(columns.shape), accumulate=True)
