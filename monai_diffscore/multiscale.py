r"""Score models of whole volumes: one model for the coarse image, and one for the details of each scale.

:mod:`monai_diffscore.scales` splits a volume into a coarse image and details, x = (a_J, d_J, ..., d_1). The image
:math:`a_j` of scale j holds all structure that is coarser than its details :math:`d_j`. The factorisation

.. math::  \ln p(x) = \ln p(a_J) + \sum_{j=1}^{J} \ln p(d_j \mid a_j)

is exact. Each factor has a score model of its own.

The coarse model sees the whole volume in few voxels and draws the anatomy. A model of details has
:math:`C (2^D - 1)` channels at the size of :math:`a_j`. It needs a small field of view: the image :math:`a_j` and the
position describe its surroundings. It therefore runs in tiles, and its cost is linear in the size of the volume.

Guidance and :class:`~monai_diffscore.tiling.TiledDenoiser` wrap the denoiser of a scale like any other denoiser.

Sources: Guth et al. 2022, arXiv:2208.05003, Eq. 10 (the factorisation; scales of equal condition); Kadkhodaie et al.
2023, arXiv:2303.02984 (local models of details given the coarser scale).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import Denoiser, Preconditioning, ScriptableDenoiser
from monai_diffscore.latent import Latent
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.losses import DenoisingLoss, NoiseDistribution, Weight
from monai_diffscore.sampling import sample_adams
from monai_diffscore.scales import Scale, Scales
from monai_diffscore.tensors import Generators, missing_mark, noise_like, per_sample


class MultiScale(nn.Module):
    """A denoiser for each scale of a volume.

    Args:
        scales: splits volumes and merges them.
        denoisers: one for each scale, the coarsest first, of standardised coefficients. A denoiser of details takes
            the fields of :meth:`Scales.fields`. All denoisers take the condition of the volume.
    Raises:
        ValueError: if the numbers of denoisers and scales differ.
    """

    def __init__(self, scales: Scales | Latent, denoisers: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(denoisers) != len(scales):
            raise ValueError(
                f"MultiScale expects a denoiser for each of {len(scales)} scales, got {len(denoisers)}. Give the "
                "coarse image and each scale of details a network (a bundle: an entry of detail_channels)."
            )
        self.scales = scales
        self.denoisers = nn.ModuleList(denoisers)

    @classmethod
    def of_networks(
        cls,
        scales: Scales | Latent,
        networks: Sequence[nn.Module],
        preconditioning: Preconditioning,
        autocast_dtype: torch.dtype | None = None,
        start: nn.Module | None = None,
    ) -> MultiScale:
        """A model with a :class:`Denoiser` for each network.

        Args:
            scales: splits volumes and merges them.
            networks: one for each scale, the coarsest first.
            preconditioning: for data of standard deviation 1; each denoiser gets a copy.
            autocast_dtype: of all denoisers.
            start: of the denoiser of the coarse image, such as a :class:`~monai_diffscore.low_rank_start.LowRankStart`.
        """
        starts = [start] + [None] * (len(networks) - 1)
        denoisers = [
            Denoiser(network, copy.deepcopy(preconditioning), autocast_dtype, start=start)
            for network, start in zip(networks, starts, strict=True)
        ]
        return cls(scales, denoisers)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, *, scale: int = 0, **condition: Tensor) -> Tensor:
        """The estimate of the denoiser of one scale, [B, C_j, *S_j].

        Args:
            x: noisy standardised coefficients [B, C_j, *S_j].
            sigma: noise levels, [B] or a number, in units of standardised coefficients.
            scale: number of the scale; 0 is the coarse image.
            condition: fields of this scale.
        """
        return self.denoisers[scale](x, sigma, **condition)

    def __prepare_scriptable__(self) -> nn.Module:
        """The module that ``torch.jit.script`` compiles in place of this one: the coarse image's denoiser."""
        return ScriptableDenoiser(self.denoisers[0])  # type: ignore[arg-type]

    def wrapped(self, wrap: Callable[[nn.Module], nn.Module], details: bool = True) -> MultiScale:
        """A model of the same scales whose denoisers are wrapped, in guidance or in tiles.

        Args:
            wrap: maps a denoiser to a denoiser, such as ``lambda d: TiledDenoiser(d, (24, 24, 24))``.
            details: True wraps the denoisers of details alone. False wraps the denoiser of the coarse image, too.
        """
        first = 1 if details else 0
        return MultiScale(self.scales, [*self.denoisers[:first], *[wrap(d) for d in self.denoisers[first:]]])


class AtScale(nn.Module):
    """One scale of a :class:`MultiScale` as a denoiser.

    Args:
        model: the MultiScale, or a wrapper of it. It is called, so that hooks of DistributedDataParallel run.
        scale: number of the scale; 0 is the coarse image.
        condition: fields that every call passes to the denoiser.
    """

    def __init__(self, model: nn.Module, scale: int, condition: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.model, self.scale, self.condition = model, scale, dict(condition or {})

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        """The estimate of x [B, C_j, *S_j] at this scale."""
        denoised: Tensor = self.model(x, sigma, scale=self.scale, **self.condition, **condition)
        return denoised


class MultiScaleLoss(nn.Module):
    """The mean of the denoising losses of all scales, per sample [B].

    A scale with a window trains on windows around random voxels. The probability of a voxel is proportional to the root
    mean square of its coefficients, plus a tenth of the mean over the volume: there is more to learn inside an organ
    than around it. The loss cuts the same window from the coefficients and from the fields of the scale.

    Args:
        scales: of the model.
        losses: one for each scale, the coarsest first.
        windows: spatial size of the windows of each scale, in voxels of the scale; None is the whole scale.
        counts: number of windows of each volume, for each scale; default 1.
        dropout: probability that the condition of a volume is missing, in all scales: NaN for numbers, -1 for classes
            (integers). The network learns what :class:`~monai_diffscore.guidance.ClassifierFree` needs. The fields of
            the scales are never missing.
        coarse_noise: for each scale, the largest standard deviation of white noise on the coarse image of its details,
            in units of the volume; default 0. Each window has another one, uniform from 0. A coarse image that is drawn
            differs from real ones; a network that trains with noise follows its faults less (Ho et al. 2022,
            arXiv:2106.15282, Section 4.2).
    Raises:
        ValueError: if the numbers of losses, windows, counts or coarse noises differ from the number of scales, or a
            count is below 1. In the call: for a window that is larger than its scale, or a condition with spatial axes.
    """

    def __init__(
        self,
        scales: Scales | Latent,
        losses: Sequence[DenoisingLoss],
        windows: Sequence[Sequence[int] | None],
        counts: Sequence[int] | None = None,
        dropout: float = 0.1,
        coarse_noise: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        counts = [1] * len(scales) if counts is None else list(counts)
        coarse_noise = [0.0] * len(scales) if coarse_noise is None else list(coarse_noise)
        if {len(losses), len(windows), len(counts), len(coarse_noise)} != {len(scales)} or min(counts) < 1:
            raise ValueError(
                f"MultiScaleLoss expects a loss, a window (or None), a count >= 1 and a coarse noise for each of "
                f"{len(scales)} scales, got {len(losses)} losses, the windows {list(windows)}, the counts {counts} and "
                f"the noises {coarse_noise}."
            )
        self.scales = scales
        self.losses = nn.ModuleList(losses)
        self.windows = [None if window is None else tuple(window) for window in windows]
        self.counts, self.dropout, self.coarse_noise = counts, dropout, coarse_noise

    @classmethod
    def of_noise(
        cls,
        scales: Scales | Latent,
        noise: NoiseDistribution | Sequence[NoiseDistribution],
        weight: Weight,
        windows: Sequence[Sequence[int] | None],
        counts: Sequence[int] | None = None,
        dropout: float = 0.1,
        coarse_noise: Sequence[float] | None = None,
    ) -> MultiScaleLoss:
        """The loss with a :class:`DenoisingLoss` for each scale.

        Args:
            scales: of the model.
            noise: one distribution for all scales, or one for each, the coarsest first.
            weight: function of the noise levels, for all scales.
            windows, counts, dropout, coarse_noise: as of the constructor.
        """
        each = [noise] * len(scales) if isinstance(noise, NoiseDistribution) else noise
        return cls(scales, [DenoisingLoss(one, weight) for one in each], windows, counts, dropout, coarse_noise)

    def forward(
        self, model: nn.Module, x0: Tensor, generator: torch.Generator | None = None, **condition: Tensor
    ) -> Tensor:
        """The loss per sample [B] for volumes ``x0`` [B, C, *S] and a condition without spatial axes."""
        _check_condition(x0, condition)
        return torch.stack(self.by_scale(model, x0, generator, **condition)).mean(0)

    def by_scale(
        self, model: nn.Module, x0: Tensor, generator: torch.Generator | None = None, **condition: Tensor
    ) -> list[Tensor]:
        """The losses [B] of each scale, the coarsest first. Arguments as in the call."""
        values = []
        condition = self._dropped(condition, len(x0), generator)
        for number, scale in enumerate(self.scales.split(x0)):
            fields = {name: field.repeat_interleave(self.counts[number], 0) for name, field in condition.items()}
            clean, scale_fields = self._windows(number, scale, generator)
            if self.training and self.coarse_noise[number] > 0:
                scale_fields |= self._noisy(number, scale_fields, generator)
            loss = self.losses[number](AtScale(model, number), clean, generator, **scale_fields, **fields)
            values.append(loss.reshape(len(x0), -1).mean(1))
        return values

    def _dropped(
        self, condition: Mapping[str, Tensor], batch: int, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The condition, missing for random samples while training."""
        if not (self.training and self.dropout > 0 and condition):
            return dict(condition)
        drawn = torch.rand(batch, generator=generator) < self.dropout
        return {
            name: torch.where(per_sample(drawn.to(field.device), field), missing_mark(field), field)
            for name, field in condition.items()
        }

    def _noisy(self, number: int, fields: Mapping[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
        """The coarse image of each window with noise."""
        assert isinstance(self.scales, Scales)  # a latent image has no coarse one
        name = self.scales.coarse_key
        coarse = fields[name]
        std = self.coarse_noise[number] * torch.rand(len(coarse), generator=generator)
        return {name: coarse + per_sample(std.to(coarse), coarse) * noise_like(coarse, generator)}

    def _windows(
        self, number: int, scale: Scale, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """N random windows for each sample: of the coefficients [B N, C_j, *W], and of the fields."""
        window, size = self.windows[number], tuple(scale.coefficients.shape[2:])
        window = size if window is None else window
        if len(window) != len(size) or any(w > s for w, s in zip(window, size, strict=True)):
            raise ValueError(
                f"MultiScaleLoss expects windows of at most {size} voxels at scale {number}, got {window}. Set smaller "
                "windows."
            )
        cuts: list[tuple[int | slice, ...]] = []
        for sample, _ in itertools.product(range(len(scale.coefficients)), range(self.counts[number])):
            centre = _random_voxel(scale.coefficients[sample], generator)
            begin = [min(max(c - w // 2, 0), s - w) for c, w, s in zip(centre, window, size, strict=True)]
            cuts.append((sample, slice(None), *(slice(b, b + w) for b, w in zip(begin, window, strict=True))))

        def cut(field: Tensor) -> Tensor:
            return torch.stack([field[place] for place in cuts])

        return cut(scale.coefficients), {name: cut(field) for name, field in scale.fields.items()}


def _random_voxel(coefficients: Tensor, generator: torch.Generator | None) -> tuple[int, ...]:
    """The index of a voxel of [C, *S], with the probability that :class:`MultiScaleLoss` states."""
    size = coefficients.square().mean(0).sqrt().double()
    total = (size + 0.1 * size.mean() + torch.finfo(torch.double).tiny).flatten().cumsum(0)
    draw = torch.rand((), generator=generator, dtype=torch.double).to(total) * total[-1]
    voxel = min(int(torch.searchsorted(total, draw, right=True)), len(total) - 1)
    return tuple(int(index) for index in torch.unravel_index(torch.tensor(voxel), size.shape))


@torch.no_grad()
def sample_scales(
    model: MultiScale,
    shape: Sequence[int],
    sigmas: Tensor | Sequence[Tensor],
    sampler: Callable[..., Tensor] = sample_adams,
    *,
    coarse: Tensor | None = None,
    generator: Generators = None,
    callback: Any = None,
    dtype: torch.dtype = torch.float32,
    **condition: Tensor,
) -> Tensor:
    """Draws volumes [B, C, *S]: it draws the coarse image, then the details of each scale on that image.

    Args:
        model: the denoisers of all scales.
        shape: [B, C, *S] of the result.
        sigmas: one grid of noise levels for all scales, or a grid for each, the coarsest first, in units of
            standardised coefficients.
        sampler: any sampler of :mod:`monai_diffscore.sampling`.
        coarse: an image [B, C, *S / 2^j] in units of the volume, for super-resolution: the function draws the details
            of the finest j scales alone. With a Haar pyramid the local means of the result equal this image.
        generator: one, or one per sample.
        callback: of the sampler. Each scale calls it.
        dtype: of the result.
        condition: fields without spatial axes, for all scales.
    Raises:
        ValueError: for sizes that the pyramid does not take, or a coarse image whose size is no scale of the pyramid.
    """
    scales = model.scales
    sizes = scales.shapes(shape)
    grids = [sigmas] * len(sizes) if isinstance(sigmas, Tensor) else list(sigmas)
    first, image = scales.start(shape, coarse)
    device = next(scales.buffers()).device
    for number in range(first, len(sizes)):
        fields = {} if image is None else scales.fields(number, image)
        start = noise_like(torch.empty(sizes[number], dtype=dtype, device=device), generator) * float(grids[number][0])
        denoise = AtScale(model, number, {**fields, **condition})
        coefficients = sampler(denoise, start, grids[number], generator=generator, callback=callback)
        image = scales.refine(number, image, coefficients)
    assert image is not None
    return image


def log_likelihood_scales(
    model: MultiScale,
    x: Tensor,
    sigmas: Tensor | Sequence[Tensor],
    *,
    divergence: Literal["exact", "hutchinson"] = "exact",
    probes: int = 1,
    generator: Generators = None,
    callback: Callable[[int, int], None] | None = None,
    **condition: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""The log likelihood of each scale [J + 1, B] given the coarser ones, and its standard error, in nats.

    The sum over the scales is :math:`\ln p(x)`. Standard errors of scales add up in quadrature.

    Args:
        model: the denoisers of all scales.
        x: volumes [B, C, *S].
        sigmas: one grid of noise levels for all scales, or a grid for each, the coarsest first.
        condition: fields without spatial axes, for all scales.
    Raises:
        ValueError: for a condition with spatial axes, or as :func:`~monai_diffscore.likelihood.log_likelihood`.

    Other arguments as of :func:`~monai_diffscore.likelihood.log_likelihood`.
    """
    _check_condition(x, condition)
    parts = model.scales.split(x)
    grids = [sigmas] * len(parts) if isinstance(sigmas, Tensor) else list(sigmas)
    nats, errors = [], []
    for number, (part, grid) in enumerate(zip(parts, grids, strict=True)):
        log_volume = model.scales.log_volume(number, part.coefficients)
        value, error = log_likelihood(
            AtScale(model, number, {**part.fields, **condition}),
            part.coefficients,
            grid,
            divergence=divergence,
            probes=probes,
            prior_std=1.0,
            generator=generator,
            callback=callback,
        )
        nats.append(value - log_volume)
        errors.append(error)
    return torch.stack(nats), torch.stack(errors)


def _check_condition(x: Tensor, condition: Mapping[str, Tensor]) -> None:
    spatial = [name for name, field in condition.items() if field.ndim > 2]
    if spatial:
        raise ValueError(
            f"A MultiScale model expects conditions [B] or [B, K], got the fields {spatial} with spatial axes for x of "
            f"shape {tuple(x.shape)}. Remove them from condition_keys, or use a model of one scale."
        )
