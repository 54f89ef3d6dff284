r"""The exact denoiser of Gaussian rows whose mean depends on their label: a start that a network corrects.

With :math:`x_0 \mid y \sim N(m_y, C)`

.. math::  D(x, \sigma \mid y) = m_y + C (C + \sigma^2 I)^{-1} (x - m_y).

:math:`m_y` is the mean of a category, :math:`m + b\,t` for a number with :math:`t = (y - \bar y)/s`, or m without a
label. A missing label has its expectation given x, which is exact for categories in their training shares and for a
standard normal t. A few hundred rows determine these moments well, and a network that starts at zero badly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: the most axes of a covariance that a model keeps
LARGEST = 512


def measure_moments(
    rows: np.ndarray, labels: np.ndarray | None, condition: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The moments of training rows for :class:`GaussianStart`, as lists for JSON; None for more than 512 axes.

    The covariance is that of the rows about the means of their labels, shrunk as Ledoit and Wolf 2004 do.

    Args:
        rows: encoded training rows [N, D].
        labels: their labels [N]; -1 or NaN is missing. None without one.
        condition: the fields of the network: ``categorical`` or ``attached`` has ``label``, or neither.
    """
    from sklearn.covariance import ledoit_wolf

    if rows.shape[1] > LARGEST:
        return None
    count, scale = condition.get("categorical", {}).get("label"), condition.get("attached", {}).get("label")
    mean = rows.mean(0)
    offsets, weights, slope = np.zeros((0, len(mean))), np.zeros(0), np.zeros(len(mean))
    rest = rows - mean
    if labels is not None and count is not None:
        members = [rest[labels == label] for label in range(count)]
        offsets = np.stack([part.mean(0) if len(part) else 0 * mean for part in members])
        weights = np.array([len(part) for part in members]) + 1e-9  # a category may have no row
        rest = np.where((labels >= 0)[:, None], rest - offsets[labels], rest)
    elif labels is not None and scale is not None:
        known = ~np.isnan(labels)
        units = (labels[known] - scale[0]) / scale[1]
        slope = units @ rest[known] / max(1e-12, float(units @ units))
        rest[known] -= units[:, None] * slope
    moments = {"mean": mean, "offsets": offsets, "weights": weights, "slope": slope, "covariance": ledoit_wolf(rest)[0]}
    lists = {name: np.round(values, 6).tolist() for name, values in moments.items()}
    return {**lists, "scale": None if scale is None else list(scale)}


class GaussianStart(nn.Module):
    """The denoiser of :func:`measure_moments`: x [B, D], sigma [B] and ``label`` [B] to [B, D].

    Args:
        moments: of the training rows.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    offsets: Tensor
    weights: Tensor
    slope: Tensor

    def __init__(self, moments: Mapping[str, Any]) -> None:
        super().__init__()
        mean = torch.tensor(moments["mean"], dtype=torch.float64)
        variances, axes = torch.linalg.eigh(torch.tensor(moments["covariance"], dtype=torch.float64))
        offsets = torch.tensor(moments["offsets"], dtype=torch.float64).reshape(-1, len(mean)) @ axes
        weights = torch.tensor(moments["weights"], dtype=torch.float64)
        slope = torch.tensor(moments["slope"], dtype=torch.float64) @ axes
        buffers = {"mean": mean, "axes": axes, "variances": variances.clamp_min(0), "offsets": offsets}
        for name, values in {**buffers, "weights": weights, "slope": slope}.items():
            self.register_buffer(name, values.float())
        self.scale = moments["scale"]

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        mean, axes, variances = self.mean.to(x), self.axes.to(x), self.variances.to(x)
        state = (x - mean) @ axes
        total = variances + sigma[:, None] ** 2
        shift = self._shift(state, total, label)
        return mean + (shift + variances / total * (state - shift)) @ axes.T

    def _shift(self, state: Tensor, total: Tensor, label: Tensor | None) -> Tensor:
        """m_y - m in the eigenvectors of C, [B, D] or [D]; its expectation for a missing label."""
        if len(self.offsets):
            offsets = self.offsets.to(state)
            distance = ((state[:, None] - offsets) ** 2 / total[:, None]).sum(2)
            shares = (self.weights.to(state).log() - distance / 2).softmax(1)
            if label is not None:
                members = F.one_hot(label.clamp_min(0), len(offsets)).to(state)
                shares = torch.where((label < 0)[:, None], shares, members)
            return shares @ offsets
        slope = self.slope.to(state)
        if self.scale is None:
            return torch.zeros_like(slope)
        units = (state * slope / total).sum(1) / (1 + (slope**2 / total).sum(1))
        if label is not None:
            mean, std = self.scale
            units = torch.where(label.isnan(), units, (label.to(state) - mean) / std)
        return units[:, None] * slope
