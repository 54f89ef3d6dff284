r"""Score models of whole volumes, one model a scale: first the coarse image, then the details of each scale given it.

The :class:`~monai_diffscore.pyramid.Pyramid` turns a volume into a coarse image and details, x = (a_J, d_J, ..., d_1),
without loss. The image :math:`a_j` of scale j holds all that is coarser than its details :math:`d_j`, so that

.. math::  \ln p(x) = \ln p(a_J) + \sum_{j=1}^{J} \ln p(d_j \mid a_j)

is exact, and every factor is a conditional score model of its own. The coarse model sees the whole volume in few voxels
and draws the anatomy. Models of details have :math:`2^D - 1` channels at half the size of their image, and need a small
field of view, because :math:`a_j` and the position tell them where they are: they run in tiles of any size, at a cost
that is linear in the volume.

Each scale is standardised for itself, channel by channel: :math:`u = (d - m) / s` with mean m and standard deviation s
over the training data. So ``sigma_data`` is 1 and the noise levels of all scales mean the same. The log density of d is
that of u minus :math:`\ln s` for each coefficient.

The denoiser of a scale is any denoiser: guidance and :class:`~monai_diffscore.tiling.TiledDenoiser` wrap it as usual.

Sources: Guth et al. 2022, arXiv:2208.05003, Eq. 10 (the factorisation; scales of equal condition); Kadkhodaie et al.
2023, arXiv:2303.02984 (local models of details given the coarser scale).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import Denoiser, Preconditioning, ScriptableDenoiser
from monai_diffscore.likelihood import log_likelihood
from monai_diffscore.losses import DenoisingLoss, NoiseDistribution, Weight
from monai_diffscore.pyramid import Pyramid
from monai_diffscore.sampling import sample_adams
from monai_diffscore.tensors import Generators, noise_like, per_channel


class Scale(NamedTuple):
    """One scale of a batch."""

    coefficients: Tensor  # standardised, [B, C_j, *S_j]
    given: dict[str, Tensor]  # what its denoiser is told of the coarser scales and of the position


class Scales(nn.Module):
    """Splits volumes into standardised scales, the coarsest first, and puts them together again.

    Args:
        pyramid: of J scales of details; there are J + 1 scales in all.
        channels: C of the volumes.
        statistics: what :func:`measure_scales` returns; None is mean 0 and standard deviation 1, to be loaded with the
            weights.
        coarse_key: field that tells a model of details the image of its scale, [B, C, *S_j], in units of the volume.
        position_key: field that tells it the position of each of its voxels in the volume, [B, D, *S_j], from -1 to 1
            along each axis; None tells none.
    Raises:
        ValueError: for statistics of other scales or channels, or a standard deviation that is not positive.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        channels: int = 1,
        statistics: Mapping[str, Sequence[Sequence[float]]] | None = None,
        coarse_key: str = "coarse",
        position_key: str | None = None,
    ) -> None:
        super().__init__()
        self.pyramid, self.channels = pyramid, channels
        self.coarse_key, self.position_key = coarse_key, position_key
        counts = [channels] + [channels * pyramid.bands] * pyramid.scales
        if statistics is None:
            statistics = {"mean": [[0.0] * count for count in counts], "std": [[1.0] * count for count in counts]}
        lengths = {name: [len(row) for row in statistics[name]] for name in ("mean", "std")}
        if lengths != {"mean": counts, "std": counts} or min(map(min, statistics["std"])) <= 0:
            raise ValueError(
                f"Expected means and standard deviations > 0 of {counts} channels, a list a scale, the coarsest first, "
                f"got {lengths}: {dict(statistics)}. Take them from measure_scales with the same pyramid."
            )
        for name in ("mean", "std"):
            for number, row in enumerate(statistics[name]):
                self.register_buffer(f"{name}_{number}", torch.tensor(row, dtype=torch.float64))

    def __len__(self) -> int:
        return self.pyramid.scales + 1

    def split(self, x: Tensor) -> list[Scale]:
        """The scales of volumes x [B, C, *S], from the coarse image to the finest details.

        Raises:
            ValueError: for sizes that the pyramid does not take.
        """
        image, details = self.pyramid.analysis(x)
        scales = [Scale(self._standardised(0, image), {})]
        for number, detail in enumerate(details, start=1):
            scales.append(Scale(self._standardised(number, detail), self.given(number, image)))
            image = self.pyramid.join(image, detail)
        return scales

    def given(self, number: int, image: Tensor) -> dict[str, Tensor]:
        """What the denoiser of details ``number`` is told, where ``image`` is the pyramid's image of their scale."""
        gain = 2 ** (-0.5 * self.pyramid.spatial_dims * (len(self) - number))  # of a constant volume
        fields = {self.coarse_key: image * gain}
        if self.position_key is not None:
            axes = [torch.linspace(-1, 1, size, dtype=image.dtype, device=image.device) for size in image.shape[2:]]
            position = torch.stack(torch.meshgrid(*axes, indexing="ij"))
            fields[self.position_key] = position.expand(len(image), *position.shape)
        return fields

    def refine(self, number: int, image: Tensor | None, coefficients: Tensor) -> Tensor:
        """The pyramid's image of twice the size, from standardised details; of scale 0, the coarse image itself."""
        mean, std = self._statistics(number, coefficients)
        values = coefficients * std + mean
        return values if image is None else self.pyramid.join(image, values)

    def merge(self, coefficients: Sequence[Tensor]) -> Tensor:
        """Volumes [B, C, *S] of standardised coefficients, the coarsest first: the inverse of :meth:`split`."""
        image: Tensor | None = None
        for number, values in enumerate(coefficients):
            image = self.refine(number, image, values)
        assert image is not None
        return image

    def log_volume(self, number: int, coefficients: Tensor) -> float:
        r""":math:`\sum \ln s` over the coefficients of one sample: what standardising takes from its log density."""
        _, std = self._statistics(number, coefficients.double())
        return float(std.log().sum()) * coefficients[0, 0].numel()

    def _standardised(self, number: int, values: Tensor) -> Tensor:
        mean, std = self._statistics(number, values)
        return (values - mean) / std

    def _statistics(self, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (getattr(self, f"{name}_{number}").to(like) for name in ("mean", "std"))
        return per_channel(mean, like[0]), per_channel(std, like[0])


def measure_scales(pyramid: Pyramid, volumes: Iterable[Tensor]) -> dict[str, list[list[float]]]:
    """Mean and standard deviation of each channel of each scale: {"mean": [[...], ...], "std": ...}, coarsest first.

    Args:
        pyramid: of the model.
        volumes: training data [C, *S] or MONAI's tensors of that shape, one after the other.
    Raises:
        ValueError: without volumes, or for a channel that is constant.
    """
    sums: list[Tensor] = []
    for volume in volumes:
        coarse, details = pyramid.analysis(torch.as_tensor(volume)[None].double())
        parts = [part[0].flatten(1) for part in (coarse, *details)]
        moments = [torch.stack([torch.full_like(p[:, 0], p.shape[1]), p.sum(1), p.square().sum(1)]) for p in parts]
        sums = [total + new for total, new in zip(sums, moments, strict=True)] if sums else moments
    if not sums:
        raise ValueError("measure_scales needs at least one volume, got none.")
    means = [total / count for count, total, _ in sums]
    variances = [square / count - mean**2 for (count, _, square), mean in zip(sums, means, strict=True)]
    constant = [number for number, variance in enumerate(variances) if float(variance.min()) <= 0]
    if constant:
        raise ValueError(f"Expected details that vary, got constant channels at scales {constant}. Use fewer scales.")
    return {"mean": [mean.tolist() for mean in means], "std": [variance.sqrt().tolist() for variance in variances]}


class MultiScale(nn.Module):
    """One denoiser a scale, over the scales of a volume.

    Args:
        scales: how volumes are split.
        denoisers: one for each scale, the coarsest first. Each works on standardised coefficients; those of details
            take the fields of :meth:`Scales.given`. All take the further condition.
    Raises:
        ValueError: for another number of denoisers than of scales.
    """

    def __init__(self, scales: Scales, denoisers: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(denoisers) != len(scales):
            raise ValueError(f"Expected a denoiser for each of {len(scales)} scales, got {len(denoisers)}.")
        self.scales = scales
        self.denoisers = nn.ModuleList(denoisers)

    @classmethod
    def of_networks(
        cls,
        scales: Scales,
        networks: Sequence[nn.Module],
        preconditioning: Preconditioning,
        autocast_dtype: torch.dtype | None = None,
    ) -> MultiScale:
        """A denoiser of each network, with a preconditioning of its own for data of standard deviation 1."""
        return cls(scales, [Denoiser(net, copy.deepcopy(preconditioning), autocast_dtype) for net in networks])

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, *, scale: int = 0, **condition: Tensor) -> Tensor:
        """The estimate of the denoiser of one scale."""
        return self.denoisers[scale](x, sigma, **condition)

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles instead: the denoiser of the coarse image."""
        return ScriptableDenoiser(self.denoisers[0])  # type: ignore[arg-type]

    def wrapped(self, wrap: Callable[[nn.Module], nn.Module], details: bool = True) -> MultiScale:
        """The same model with each denoiser wrapped: in guidance, or in tiles.

        Args:
            wrap: a denoiser to a denoiser, such as ``lambda d: TiledDenoiser(d, (24, 24, 24))``.
            details: wrap the denoisers of details alone; False wraps that of the coarse image, too.
        """
        kept = 1 if details else 0
        return MultiScale(self.scales, [*self.denoisers[:kept], *[wrap(d) for d in self.denoisers[kept:]]])


class AtScale(nn.Module):
    """One scale of a :class:`MultiScale` as a denoiser.

    Args:
        model: which is called, so that hooks of DistributedDataParallel run.
        scale: number of the scale, 0 is the coarse image.
        condition: fields that are bound.
    """

    def __init__(self, model: nn.Module, scale: int, condition: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.model, self.scale, self.condition = model, scale, dict(condition or {})

    def forward(self, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
        """The estimate at this scale."""
        denoised: Tensor = self.model(x, sigma, scale=self.scale, **self.condition, **condition)
        return denoised


class MultiScaleLoss(nn.Module):
    """The mean of the denoising losses of all scales, per sample [B].

    Scales with a window are trained on random windows of it, cut from coefficients and fields alike.

    Args:
        scales: of the model.
        losses: one for each scale, the coarsest first.
        windows: spatial size of the windows of each scale; None is the whole scale.
        counts: windows of each volume and scale.
    Raises:
        ValueError: for other numbers of them than of scales. In the call: for windows larger than their scale.
    """

    def __init__(
        self,
        scales: Scales,
        losses: Sequence[DenoisingLoss],
        windows: Sequence[Sequence[int] | None],
        counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        counts = [1] * len(scales) if counts is None else list(counts)
        if {len(losses), len(windows), len(counts)} != {len(scales)} or min(counts) < 1:
            raise ValueError(
                f"Expected a loss, a window (or None) and a count >= 1 for each of {len(scales)} scales, got "
                f"{len(losses)} losses, the windows {list(windows)} and the counts {counts}."
            )
        self.scales = scales
        self.losses = nn.ModuleList(losses)
        self.windows = [None if window is None else tuple(window) for window in windows]
        self.counts = counts

    @classmethod
    def of_noise(
        cls,
        scales: Scales,
        noise: NoiseDistribution | Sequence[NoiseDistribution],
        weight: Weight,
        windows: Sequence[Sequence[int] | None],
        counts: Sequence[int] | None = None,
    ) -> MultiScaleLoss:
        """The losses with one noise distribution for all scales, or one for each, and one weight."""
        each = [noise] * len(scales) if isinstance(noise, NoiseDistribution) else noise
        return cls(scales, [DenoisingLoss(one, weight) for one in each], windows, counts)

    def forward(
        self, model: nn.Module, x0: Tensor, generator: torch.Generator | None = None, **condition: Tensor
    ) -> Tensor:
        """Loss per sample [B] for volumes ``x0`` [B, C, *S]; the condition has no spatial axes."""
        _check_condition(x0, condition)
        return torch.stack(self.by_scale(model, x0, generator, **condition)).mean(0)

    def by_scale(
        self, model: nn.Module, x0: Tensor, generator: torch.Generator | None = None, **condition: Tensor
    ) -> list[Tensor]:
        """The losses [B] of each scale."""
        values = []
        for number, scale in enumerate(self.scales.split(x0)):
            fields = {name: field.repeat_interleave(self.counts[number], 0) for name, field in condition.items()}
            clean, given = self._windows(number, scale, generator)
            loss = self.losses[number](AtScale(model, number), clean, generator, **given, **fields)
            values.append(loss.reshape(len(x0), -1).mean(1))
        return values

    def _windows(
        self, number: int, scale: Scale, generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Random windows of the coefficients [B N, C_j, *W], and of the fields."""
        window, size = self.windows[number], tuple(scale.coefficients.shape[2:])
        window = size if window is None else window
        if len(window) != len(size) or any(w > s for w, s in zip(window, size, strict=True)):
            raise ValueError(f"Windows of scale {number}: expected at most {size}, got {window}. Make them smaller.")
        cuts: list[tuple[int | slice, ...]] = []
        for sample, _ in itertools.product(range(len(scale.coefficients)), range(self.counts[number])):
            room = zip(window, size, strict=True)
            begin = [int(torch.randint(s - w + 1, (), generator=generator)) for w, s in room]
            cuts.append((sample, slice(None), *(slice(b, b + w) for b, w in zip(begin, window, strict=True))))

        def cut(field: Tensor) -> Tensor:
            return torch.stack([field[place] for place in cuts])

        return cut(scale.coefficients), {name: cut(field) for name, field in scale.given.items()}


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
    """Volumes [B, C, *S]: the coarse image first, then the details of each scale given it.

    Args:
        model: of all scales.
        shape: [B, C, *S] of the result.
        sigmas: the noise levels of all scales, or a grid for each, the coarsest first. Data have standard deviation 1.
        sampler: any of :mod:`monai_diffscore.sampling`.
        coarse: an image [B, C, *S / 2^j] in units of the volume, to which the details of the finest j scales are drawn:
            super-resolution. It is the local mean of the result (of a Haar pyramid).
        generator: one, or one per sample.
        callback: of the sampler, called in each scale.
        dtype: of the result.
        condition: fields without spatial axes, passed to all scales.
    Raises:
        ValueError: for sizes that the pyramid does not take, or a coarse image that is none of its scales.
    """
    scales = model.scales
    sizes = scales.pyramid.shapes(shape)
    grids = [sigmas] * len(sizes) if isinstance(sigmas, Tensor) else list(sigmas)
    first, image = _start(scales, sizes, coarse)
    device = next(scales.buffers()).device
    for number in range(first, len(sizes)):
        given = {} if image is None else scales.given(number, image)
        start = noise_like(torch.empty(sizes[number], dtype=dtype, device=device), generator) * float(grids[number][0])
        denoise = AtScale(model, number, {**given, **condition})
        drawn = sampler(denoise, start, grids[number], generator=generator, callback=callback)
        image = scales.refine(number, image, drawn)
    assert image is not None
    return image


def _start(scales: Scales, sizes: Sequence[Sequence[int]], coarse: Tensor | None) -> tuple[int, Tensor | None]:
    """The first scale to draw, and the pyramid's image that it is given."""
    if coarse is None:
        return 0, None
    for number in range(1, len(sizes)):
        if tuple(coarse.shape) == (*sizes[0][:2], *sizes[number][2:]):
            return number, coarse / 2 ** (-0.5 * scales.pyramid.spatial_dims * (len(sizes) - number))
    expected = [(*sizes[0][:2], *size[2:]) for size in sizes[1:]]
    raise ValueError(f"Expected a coarse image of a shape among {expected}, got {tuple(coarse.shape)}. Resample it.")


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
    r"""Log likelihood in nats of each scale [J + 1, B] given the coarser, and its standard error [J + 1, B].

    The sum over the scales is :math:`\ln p(x)`; standard errors of scales add up in quadrature.

    Args:
        x: volumes [B, C, *S].
        sigmas: the noise levels of all scales, or a grid for each.
        condition: fields without spatial axes, passed to all scales.

    Other arguments, and errors, as of :func:`~monai_diffscore.likelihood.log_likelihood`.
    """
    _check_condition(x, condition)
    parts = model.scales.split(x)
    grids = [sigmas] * len(parts) if isinstance(sigmas, Tensor) else list(sigmas)
    nats, errors = [], []
    for number, (part, grid) in enumerate(zip(parts, grids, strict=True)):
        value, error = log_likelihood(
            AtScale(model, number, {**part.given, **condition}),
            part.coefficients,
            grid,
            divergence=divergence,
            probes=probes,
            prior_std=1.0,
            generator=generator,
            callback=callback,
        )
        nats.append(value - model.scales.log_volume(number, part.coefficients))
        errors.append(error)
    return torch.stack(nats), torch.stack(errors)


def _check_condition(x: Tensor, condition: Mapping[str, Tensor]) -> None:
    spatial = [name for name, field in condition.items() if field.ndim > 2]
    if spatial:
        raise ValueError(
            f"Models of scales take conditions [B] or [B, K], got the fields {spatial} with spatial axes for x of "
            f"shape {tuple(x.shape)}. Leave them out of condition_keys, or use a model of one scale."
        )
