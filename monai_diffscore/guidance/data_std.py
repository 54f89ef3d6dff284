"""The standard deviation of the data of a denoiser, which approximations of its prior need."""

from __future__ import annotations

from torch import nn

from monai_diffscore.denoiser import EDMPreconditioning


def data_std(denoiser: nn.Module, guidance: str, remedy: str = "") -> float:
    """The ``sigma_data`` of the denoiser's :class:`~monai_diffscore.denoiser.EDMPreconditioning`.

    Args:
        denoiser: with one or several of them.
        guidance: the class that asks, for the message.
        remedy: ends the message.
    Raises:
        ValueError: unless there is one value.
    """
    stds = {float(module.sigma_data) for module in denoiser.modules() if isinstance(module, EDMPreconditioning)}
    if len(stds) != 1:
        raise ValueError(
            f"{guidance} needs sigma_data, the standard deviation of the data: expected one value of it in the "
            f"EDMPreconditioning of the denoiser, got {sorted(stds) or 'none'}. Pass sigma_data{remedy}."
        )
    return stds.pop()
