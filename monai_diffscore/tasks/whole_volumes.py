r"""Tasks of a model of scales on whole volumes: restoration, residuals against a healthy prior, likelihood.

The postprocessings are those of the tasks of patches. **Restoration** guides all scales at once
(:class:`~monai_diffscore.joint_scales.JointScales`). **Residuals** come from each scale given the true coarser image,
in units u of its standardised coefficients. With :math:`r_j` of :func:`~monai_diffscore.anomaly.healthy_residuals` on
scale j, of standard deviations :math:`s_j` and synthesis :math:`W_j`, the map of the volume is

.. math::  r_\sigma = \sum_j W_j\, s_j^{-1} r_{j, \sigma} .

For Gaussian scales with the covariance :math:`C_j` it is
:math:`\sum_j W_j s_j^{-1} \sigma^2 (C_j + \sigma^2 I)^{-1} s_j^{-1} W_j^T (x - m)`: the image whitened, as with a model
of one scale. The **likelihood** of a volume is the sum over its scales.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.anomaly import level_residual
from monai_diffscore.detail_tiles import DetailTiles
from monai_diffscore.guidance import GuidanceMethod, PosteriorGuidance
from monai_diffscore.inferers import (
    Progress,
    ScaleLikelihoodInferer,
    multi_scale,
    progress_bar,
    sample_numbers,
    std_over_draws,
)
from monai_diffscore.joint_scales import JointScales, StateOperator, scales_of_pyramid
from monai_diffscore.multiscale import AtScale, MultiScale
from monai_diffscore.operators import Operator
from monai_diffscore.sampling import sample_adams
from monai_diffscore.tasks.likelihood import likelihood_settings
from monai_diffscore.tasks.restoration import RestorationInferer
from monai_diffscore.tensors import random_stream

#: under a strong measurement the denoiser of the posterior changes too fast between steps for a polynomial through
#: earlier estimates: higher orders overshoot
FIRST_ORDER: Callable[..., Tensor] = partial(sample_adams, order=1)


class WholeRestorationInferer(RestorationInferer):
    """Posterior mean, standard deviation and baseline of whole volumes, [B, 3 C, *S], by a model of scales.

    Args:
        operator: makes A for volumes of a spatial size.
        tiles: of the details; None runs them whole.
        steps: of the grid of noise levels, which reaches the details of all scales.
        lead: of :class:`~monai_diffscore.joint_scales.JointScales`.
        method: of :class:`~monai_diffscore.guidance.PosteriorGuidance`, other than "diffpir": its white covariance is
            not that of the scales.
        sampler: see :class:`~monai_diffscore.inferers.SamplingInferer`. The default is :data:`FIRST_ORDER`.
        options: see :class:`RestorationInferer`; ``window``, ``sigmas`` and ``sigma_data`` do not apply.
    Raises:
        ValueError: for the method "diffpir".
    """

    def __init__(
        self,
        operator: Callable[[Sequence[int]], Operator],
        tiles: DetailTiles | None = None,
        steps: int = 24,
        lead: float = 4.0,
        method: GuidanceMethod = "pigdm",
        sampler: Callable[..., Tensor] = FIRST_ORDER,
        **options: Any,
    ) -> None:
        if method == "diffpir":
            raise ValueError("WholeRestorationInferer expects method 'pigdm', 'mmps' or 'dps', got 'diffpir'.")
        super().__init__(operator, (), sigma_data=1.0, method=method, sampler=sampler, **options)
        self.tiles, self.steps, self.lead = tiles, steps, lead

    def _prior(self, network: nn.Module, spatial_dims: int) -> JointScales:
        return JointScales(_in_tiles(network, self.tiles), self.lead)

    def _restore(self, image: Tensor, prior: nn.Module, number: int, condition: dict[str, Tensor]) -> Tensor:
        assert isinstance(prior, JointScales)
        operator, y, noise_std = self._measurement(image, number)
        state = StateOperator(operator, prior)
        about = y - state.offset(image)
        guided = PosteriorGuidance(prior, state, about, noise_std, self.method, self.sigma_data)
        grid = prior.sigmas(self.steps).to(image.device)
        states = self.draws(guided, torch.zeros_like(image), [number], self.count, sigmas=grid, **condition)[0]
        volumes = prior.volume(states)
        baseline = operator.pseudo_inverse(y, regularisation=1e-2)
        return torch.cat([volumes.mean(0, keepdim=True), std_over_draws(volumes, 0)[None], baseline], dim=1)


def _in_tiles(network: nn.Module, tiles: DetailTiles | None) -> MultiScale:
    """The model of scales, with its details in tiles if there are any."""
    model = multi_scale(network)
    return model if tiles is None else tiles(model)


class WholeAnomalyInferer(Inferer):
    """Residuals of whole volumes against a healthy model of scales, one channel for each level, [B, L, *S].

    Args:
        levels: noise levels in standard deviations of the coefficients of each scale.
        tiles: of the details; None runs them whole.
        pairs: pairs of noise and its negative for each level.
        seed: seed of the noise; each case has a stream of its own.
        progress: show a progress bar over the scales and levels, or a function that makes one.
    """

    def __init__(
        self,
        levels: Sequence[float],
        tiles: DetailTiles | None = None,
        pairs: int = 1,
        seed: int = 0,
        progress: Progress = True,
    ) -> None:
        super().__init__()
        self.levels, self.tiles, self.pairs, self.seed, self.progress = list(levels), tiles, pairs, seed, progress

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        volumes = convert_to_tensor(inputs, track_meta=False).float()
        model = _in_tiles(network, self.tiles)
        scales = scales_of_pyramid(model)
        streams = [random_stream(self.seed, number) for number in sample_numbers(len(volumes), seed)]
        parts = scales.split(volumes)
        maps = []
        total = len(self.levels) * len(parts)
        with progress_bar(self.progress, total=total, desc=f"residuals of {len(volumes)}") as bar:
            for level in self.levels:
                residuals = []
                for number, part in enumerate(parts):
                    denoiser = AtScale(model, number, {**part.fields, **condition})
                    residual = level_residual(denoiser, part.coefficients, level, self.pairs, streams)
                    residuals.append(residual / scales.deviations(number, residual))
                    bar.update(1)
                whole = scales.pyramid.synthesis(residuals[0], residuals[1:])
                maps.append(whole.sum(1, keepdim=True))
        return torch.cat(maps, dim=1)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a calibration must share."""
        return {"levels": self.levels, "pairs": self.pairs}


class WholeLikelihoodInferer(ScaleLikelihoodInferer):
    """Log likelihood of whole volumes and its standard error in nats per voxel, [B, 2, 1]: one entry for a volume.

    Arguments as of :class:`~monai_diffscore.inferers.LikelihoodInferer`.
    """

    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        return super().__call__(inputs, network, **condition)[:, :, None]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a reference must share."""
        return likelihood_settings(self.sigmas)
