r"""The same cells as another batch (or type) would show them.

The probability-flow ODE takes a latent up to noise under the condition that it was measured in, and down again under
another: what the condition explains is exchanged, what it does not is kept. Under the same condition the way up and
down is the identity, to the error of the grid. It says what the model learned of the two conditions; where cell types
and batches are confounded, no model can tell them apart.

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
    """Latents [B, d] as they are under another condition.

    Args:
        target: name of a condition to its value for all cells, such as ``{"batch": 1}``; others stay as they are.
        options: as for :class:`~monai_diffscore.inferers.SamplingInferer`; the grid is used up and down.
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
        moved = self.sampler(partial(denoiser, **target), x, self.sigmas)
        return convert_to_dst_type(moved, inputs, dtype=moved.dtype)[0]  # with what Invertd needs, if it was there
