r"""The product of a fixed sparse matrix with dense features, differentiable in the features.

.. math::  y = A x, \qquad \bar x = A^\top \bar y, \qquad y_i = \sum_{e:\, r_e = i} v_e\, x_{c_e}.

The module stores A and its transpose by rows (CSR). Both directions then read the features row by row and add in
registers; no tensor has the size of the entries times the features. The kernel is ``embedding_bag``, which computes
this sum. It took half of the time of torch's CSR product (MKL) on a gene graph, and it exports.

The matrix is six dense buffers. An exponential moving average deep-copies a network, and ``deepcopy`` fails for a
buffer of a sparse layout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SparseMatrix(nn.Module):
    """A matrix A [rows, columns] as a module. It maps x [columns, F] to A x [rows, F], in float64 or float32.

    It has derivatives of any order in x, forward and backward, also batched (``torch.func.vmap``).

    Args:
        indices: integers [2, E], row and column of each entry. Entries of the same row and column add up.
        values: [E].
        shape: (rows, columns).

    Raises:
        ValueError: for indices outside the shape, or another number of values. In the call: for x of another shape.
    """

    row_starts: Tensor
    columns: Tensor
    values: Tensor
    column_starts: Tensor
    rows: Tensor
    transposed_values: Tensor

    def __init__(self, indices: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        if indices.ndim != 2 or len(indices) != 2 or indices.is_floating_point() or values.shape != indices.shape[1:]:
            raise ValueError(
                f"A sparse matrix expects integer indices [2, E] and values [E], got {indices.dtype} "
                f"{tuple(indices.shape)} and {tuple(values.shape)}."
            )
        for name, index, size in zip(("rows", "columns"), indices, shape, strict=True):
            if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < size):
                raise ValueError(
                    f"A sparse matrix of {size} {name} expects their indices in 0 to {size - 1}, got "
                    f"{int(index.min())} to {int(index.max())}."
                )
        self.shape = shape
        forward, backward = _by_rows(indices, values, shape), _by_rows(indices.flip(0), values, shape[::-1])
        for name, buffer in zip(("row_starts", "columns", "values"), forward, strict=True):
            self.register_buffer(name, buffer)
        for name, buffer in zip(("column_starts", "rows", "transposed_values"), backward, strict=True):
            self.register_buffer(name, buffer)

    @property
    def entries(self) -> int:
        """Number of stored entries."""
        return self.columns.numel()

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[0] != self.shape[1]:
            raise ValueError(f"A sparse matrix {self.shape} expects x [{self.shape[1]}, F], got {tuple(x.shape)}.")
        x = x if x.dtype == torch.float64 else x.float()  # sums in half precision lose small terms
        values, transposed_values = self.values.to(x.dtype), self.transposed_values.to(x.dtype)
        if torch.jit.is_tracing():  # TorchScript files cannot hold functions of Python
            return _sum_rows(x, self.row_starts, self.columns, values)
        product: Tensor = _Product.apply(
            x, self.row_starts, self.columns, values, self.column_starts, self.rows, transposed_values
        )
        return product


def _sum_rows(x: Tensor, starts: Tensor, places: Tensor, values: Tensor) -> Tensor:
    return F.embedding_bag(
        places, x.contiguous(), starts, mode="sum", per_sample_weights=values, include_last_offset=True
    )


class _Product(torch.autograd.Function):
    """Maps x, (row starts, columns, values of A) and (the same of A^T) to A x."""

    @staticmethod
    def forward(x: Tensor, *matrix: Tensor) -> Tensor:
        return _sum_rows(x, *matrix[:3])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrix = ctx.saved_tensors
        return _Product.apply(gradient, *matrix[3:], *matrix[:3]), *[None] * 6

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        product: Tensor = _Product.apply(tangent, *ctx.saved_tensors)
        return product

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *matrix: Tensor) -> tuple[Tensor, int]:
        """Merges the mapped dimension with the columns of x."""
        mapped = x.movedim(in_dims[0] or 0, 1)
        product = _Product.apply(mapped.flatten(1), *matrix)
        return product.unflatten(1, mapped.shape[1:]), 1


def _by_rows(indices: Tensor, values: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Row starts [rows + 1], columns [E] and values [E] of the entries, ordered by rows."""
    places, order = torch.unique(indices[0].long() * shape[1] + indices[1], return_inverse=True)
    totals = values.new_zeros(len(places)).index_add(0, order, values)
    counts = torch.bincount(places // shape[1], minlength=shape[0])
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), places % shape[1], totals
