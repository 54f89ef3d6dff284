r"""Transfer of cells to another batch or type.

The probability-flow ODE takes a latent up to noise under its own condition, and down again under another. This
exchanges the part that the condition explains and keeps the rest. Under the same condition the way up and down is the
identity, to the error of the grid. The result shows the two conditions as the model learned them. No model separates
cell types from batches where they are confounded.

Source: Su et al. 2023, "Dual diffusion implicit bridges", arXiv:2203.08382.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from monai.utils import convert_to_dst_type, convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.inferers import SamplingInferer
from monai_diffscore.sampling.deterministic import encode


class TransferInferer(SamplingInferer):
    """Latents [B, d], transferred to another condition.

    Args:
        target: name of a condition to its value for all cells, such as ``{"batch": 1}``; other conditions stay.
        options: see :class:`~monai_diffscore.inferers.SamplingInferer`; the grid serves both ways.
    """

    def __init__(self, target: Mapping[str, int], **options: Any) -> None:
        super().__init__(**options)
        if not target:
            raise ValueError("TransferInferer needs the condition to transfer to, such as {'batch': 1}; got none.")
        self.target = dict(target)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        denoiser = network if self.wrap is None else self.wrap(network)
        x = encode(partial(denoiser, **condition), convert_to_tensor(inputs, track_meta=False).float(), self.sigmas)
        target = {
            name: torch.full_like(value, self.target[name]) if name in self.target else value
            for name, value in condition.items()
        }
        transferred = self.sampler(partial(denoiser, **target), x, self.sigmas)
        return convert_to_dst_type(transferred, inputs, dtype=transferred.dtype)[
            0
        ]  # keeps the record that Invertd needs
