r"""Numbers that compare models.

**Held-out denoising error.** At each level of a fixed grid the mean squared error in x0 units (:func:`level_errors`),
and one summary (:class:`DenoisingError`): the mean over the grid of :math:`\lambda(\sigma) \lVert D - x_0\rVert^2 / d`
with EDM's weight. It is 1 for the best denoiser that treats every voxel alone as Gaussian with ``sigma_data`` and mean
0, which is where an EDM network of zeros starts, and 0 for perfect knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor

from monai_diffscore.losses import edm_weight
from monai_diffscore.tiling import window_starts


class PredictionMean(Metric):
    """Mean over all samples of the entries of ``engine.state.output["pred"]`` [B] or [B, columns]; one column if named.

    Args:
        column: which column; None takes all.
        scale: factor of the result, such as -1 to report a negative log likelihood.
    """

    required_output_keys = None
    _state_dict_all_req_keys = ("_total", "_count")

    def __init__(self, column: int | None = None, scale: float = 1.0, device: str | torch.device = "cpu") -> None:
        self.column = column
        self.scale = scale
        super().__init__(output_transform=_prediction, device=device)

    @reinit__is_reduced
    def reset(self) -> None:
        self._total = torch.zeros((), dtype=torch.float64)
        self._count = 0

    @reinit__is_reduced
    def update(self, prediction: Tensor) -> None:
        values = self.values(prediction.detach().to("cpu", torch.float64))
        self._total += values.sum()
        self._count += values.numel()

    @sync_all_reduce("_total", "_count")
    def compute(self) -> float:
        if self._count == 0:
            raise ValueError("No sample was evaluated: the validation data is empty.")
        return self.scale * float(self._total) / self._count

    def values(self, prediction: Tensor) -> Tensor:
        """The numbers whose mean is taken."""
        return prediction if self.column is None else prediction[:, self.column]


class DenoisingError(PredictionMean):
    r"""EDM-weighted squared x0 error, mean over levels and samples, of a ``DenoisingErrorInferer``'s output.

    Args:
        sigmas: the levels of the inferer.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, sigmas: Sequence[float], sigma_data: float, device: str | torch.device = "cpu") -> None:
        self.weights = edm_weight(torch.tensor(list(sigmas), dtype=torch.float64), sigma_data)
        super().__init__(device=device)

    def values(self, prediction: Tensor) -> Tensor:
        return prediction * self.weights


def level_errors(sigmas: Sequence[float]) -> dict[str, PredictionMean]:
    """A metric for each noise level: the mean squared error there, in x0 units, named ``error_at_sigma_<level>``."""
    return {f"error_at_sigma_{sigma:g}": PredictionMean(column) for column, sigma in enumerate(sigmas)}


def lower_is_better(current: float, best: float) -> bool:
    """For MONAI's ``metric_cmp_fn``, whose default takes an error for a score."""
    return current < best


def _prediction(output: Any) -> Tensor:
    if isinstance(output, list):  # MONAI's decollated form
        return torch.stack([item["pred"] for item in output])
    prediction: Tensor = output["pred"]
    return prediction


def seam_ratio(volume: Tensor, window: Sequence[int], overlap: float) -> float:
    r"""Gradient energy across the borders of the windows over that elsewhere; 1 means no seam.

    For each axis, :math:`(x_i - x_{i-1})^2` is averaged over the places i where a window of
    :class:`~monai_diffscore.tiling.TiledDenoiser` begins or ends, and over all others; the ratio is of
    the sums over the axes.
    An image whose structure happens to lie at a border has a ratio other than 1 too: average over several.

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
        energy = (
            volume.double().diff(dim=axis + 2).square().movedim(axis + 2, 0).flatten(1).mean(1)
        )  # between i-1 and i
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
