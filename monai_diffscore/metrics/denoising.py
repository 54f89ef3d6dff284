r"""Numbers that compare models.

**Held-out denoising error.** At each level of a fixed grid the mean squared error in x0 units (:func:`level_errors`),
and one summary (:class:`DenoisingError`): the mean over the grid of :math:`\lambda(\sigma) \lVert D - x_0\rVert^2 / d`
with EDM's weight. It is 1 for the best denoiser that treats every voxel alone as Gaussian with ``sigma_data`` and mean
0, where an EDM network of zeros starts, and 0 for a perfect denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced, sync_all_reduce
from torch import Tensor

from monai_diffscore.losses import edm_weight


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
        """The values whose mean is the metric."""
        return prediction if self.column is None else prediction[:, self.column]


class DenoisingError(PredictionMean):
    r"""EDM-weighted squared x0 error, mean over levels and samples, of a ``DenoisingErrorInferer``'s output.

    Args:
        sigmas: the levels of the inferer.
        sigma_data: standard deviation of the data.
        scale: of a ``ScaleErrorInferer``'s output, the scale that is taken; None takes the mean of all.
    """

    def __init__(
        self,
        sigmas: Sequence[float],
        sigma_data: float,
        device: str | torch.device = "cpu",
        scale: int | None = None,
    ) -> None:
        self.weights = edm_weight(torch.tensor(list(sigmas), dtype=torch.float64), sigma_data)
        super().__init__(column=scale, device=device)

    def values(self, prediction: Tensor) -> Tensor:
        return super().values(prediction) * self.weights


def level_errors(sigmas: Sequence[float]) -> dict[str, PredictionMean]:
    """A metric for each noise level: the mean squared error there, in x0 units, named ``error_at_sigma_<level>``."""
    return {f"error_at_sigma_{sigma:g}": PredictionMean(column) for column, sigma in enumerate(sigmas)}


def scale_errors(sigmas: Sequence[float], sigma_data: float, scales: int) -> dict[str, PredictionMean]:
    """A metric for each scale of a ``ScaleErrorInferer``: its EDM-weighted error, ``denoising_error_of_scale_<n>``.

    Args:
        sigmas: levels of the inferer.
        sigma_data: of the preconditioning.
        scales: number of finer scales; 0 is the coarse image.
    """
    return {f"denoising_error_of_scale_{n}": DenoisingError(sigmas, sigma_data, scale=n) for n in range(scales + 1)}


def lower_is_better(current: float, best: float) -> bool:
    """For MONAI's ``metric_cmp_fn``, whose default prefers larger values."""
    return current < best


def _prediction(output: Any) -> Tensor:
    if isinstance(output, list):  # MONAI's decollated form
        return torch.stack([item["pred"] for item in output])
    prediction: Tensor = output["pred"]
    return prediction
