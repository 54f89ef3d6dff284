r"""The scales of a volume: standardised coefficients of a coarse image and of the details of each scale.

The :class:`~monai_diffscore.pyramid.Pyramid` turns a volume into a coarse image and details, x = (a_J, d_J, ..., d_1),
without loss. :class:`Scales` standardises the coefficients of each channel of each scale, :math:`u = (d - m) / s`. The
mean m and the standard deviation s are those of the training data. Every scale then has ``sigma_data`` 1, and a noise
level has the same meaning in all scales.

The log density of d is the log density of u minus :math:`\ln s` for each coefficient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_diffscore.pyramid import Pyramid
from monai_diffscore.tensors import channels_of, positions


class Scale(NamedTuple):
    """One scale of a batch of volumes."""

    coefficients: Tensor  # standardised, [B, C_j, *S_j]
    fields: dict[str, Tensor]  # conditions of its denoiser: the image of the coarser scales, and the position


class Scales(nn.Module):
    """Splits volumes into standardised scales, the coarsest first, and merges them again.

    Args:
        pyramid: has J scales of details. There are J + 1 scales in all.
        channels: C of the volumes.
        statistics: the result of :func:`measure_scales`, in units of the pyramid's coefficients. None is mean 0 and
            standard deviation 1; the state_dict of trained weights replaces them.
        coarse_key: name of the field that carries the image of a scale, [B, C, *S_j], in units of the volume, to the
            denoiser of its details.
        position_key: name of the field that carries the position of each voxel in the volume, [B, D, *S_j], from -1
            to 1 along each axis, to the denoiser of details. None leaves the field out.
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
                f"Scales expects a list of means and a list of standard deviations > 0 for each scale, the coarsest "
                f"first, of {counts} channels, got {lengths}: {dict(statistics)}. Use measure_scales with this pyramid."
            )
        for name in ("mean", "std"):
            for number, row in enumerate(statistics[name]):
                self.register_buffer(f"{name}_{number}", torch.tensor(row, dtype=torch.float64))

    def __len__(self) -> int:
        return self.pyramid.scales + 1

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Returns the shapes of the scales of volumes of ``shape`` [B, C, *S], the coarsest first.

        Raises:
            ValueError: for sizes that the pyramid does not take.
        """
        return self.pyramid.shapes(shape)

    def split(self, x: Tensor) -> list[Scale]:
        """The scales of volumes x [B, C, *S], from the coarse image to the finest details.

        Raises:
            ValueError: for sizes that the pyramid does not take.
        """
        image, details = self.pyramid.analysis(x)
        scales = [Scale(self._standardised(0, image), {})]
        for number, detail in enumerate(details, start=1):
            scales.append(Scale(self._standardised(number, detail), self.fields(number, image)))
            image = self.pyramid.join(image, detail)
        return scales

    def fields(self, number: int, image: Tensor) -> dict[str, Tensor]:
        """The condition fields of the denoiser of scale ``number`` >= 1.

        Args:
            number: of the scale of details.
            image: the pyramid's image of this scale [B, C, *S_j], in units of the pyramid's coefficients.
        """
        fields = {self.coarse_key: image * self._gain(number)}
        if self.position_key is not None:
            fields[self.position_key] = positions(image)
        return fields

    def start(self, shape: Sequence[int], coarse: Tensor | None) -> tuple[int, Tensor | None]:
        """Returns the number of the first scale to draw, and the pyramid's image of that scale; (0, None) without one.

        Args:
            shape: [B, C, *S] of the volumes.
            coarse: an image [B, C, *S / 2^j] in units of the volume, or None.
        Raises:
            ValueError: for sizes that the pyramid does not take, or a coarse image whose size is no scale of it.
        """
        if coarse is None:
            return 0, None
        sizes = [(*shape[:2], *size[2:]) for size in self.shapes(shape)[1:]]
        if tuple(coarse.shape) not in sizes:
            raise ValueError(
                f"sample_scales expects a coarse image of one of the shapes {sizes}, got {tuple(coarse.shape)}. "
                "Resample it."
            )
        number = 1 + sizes.index(tuple(coarse.shape))
        return number, coarse / self._gain(number)

    def refine(self, number: int, image: Tensor | None, coefficients: Tensor) -> Tensor:
        """The pyramid's image of twice the size; for scale 0, the coarse image.

        Args:
            number: of the scale.
            image: the pyramid's image of this scale [B, C, *S_j]; None for scale 0.
            coefficients: standardised, [B, C_j, *S_j].
        """
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
        r""":math:`\sum \ln s` over the coefficients of one sample.

        The log density of the coefficients is the log density of the standardised ones minus this sum.
        """
        _, std = self._statistics(number, coefficients.double())
        return float(std.log().sum()) * coefficients[0, 0].numel()

    def deviations(self, number: int, like: Tensor) -> Tensor:
        """The standard deviations s of the channels of a scale, [C_j, 1, ...], for coefficients ``like`` its own."""
        return self._statistics(number, like)[1]

    def _gain(self, number: int) -> float:
        """The factor from the pyramid's image of a scale of details to units of the volume."""
        return 2.0 ** (-0.5 * self.pyramid.spatial_dims * (len(self) - number))

    def _standardised(self, number: int, values: Tensor) -> Tensor:
        mean, std = self._statistics(number, values)
        return (values - mean) / std

    def _statistics(self, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = channels_of(like, *(getattr(self, f"{name}_{number}") for name in ("mean", "std")))
        return mean, std


def measure_scales(pyramid: Pyramid, volumes: Iterable[Tensor]) -> dict[str, list[list[float]]]:
    """The ``statistics`` of :func:`measure_scales_and_images` alone."""
    return measure_scales_and_images(pyramid, volumes)[0]


def measure_scales_and_images(
    pyramid: Pyramid, volumes: Iterable[Tensor]
) -> tuple[dict[str, list[list[float]]], Tensor]:
    """The ``statistics`` of :class:`Scales`, and the standardised coarse images [N, C, *S_J] of N volumes.

    The statistics are the mean and the standard deviation of each channel of each scale: {"mean": [[...], ...],
    "std": [[...], ...]}, the coarsest scale first, in units of the pyramid's coefficients.

    Args:
        pyramid: of the model.
        volumes: the training data: tensors, or MONAI's tensors, of shape [C, *S]. Each is read once.
    Raises:
        ValueError: for no volumes, volumes of several sizes, or a constant channel.
    """
    sums: list[Tensor] = []
    images: list[Tensor] = []
    for volume in volumes:
        coarse, details = pyramid.analysis(torch.as_tensor(volume)[None].double())
        images.append(coarse[0])
        parts = [part[0].flatten(1) for part in (coarse, *details)]
        moments = [torch.stack([torch.full_like(p[:, 0], p.shape[1]), p.sum(1), p.square().sum(1)]) for p in parts]
        sums = [total + new for total, new in zip(sums, moments, strict=True)] if sums else moments
    if not sums:
        raise ValueError("measure_scales needs at least one volume, got none.")
    sizes = sorted({tuple(image.shape) for image in images})
    if len(sizes) > 1:
        raise ValueError(f"measure_scales expects volumes of one size, got coarse images of {sizes}. Pad or crop them.")
    means = [total / count for count, total, _ in sums]
    variances = [square / count - mean**2 for (count, _, square), mean in zip(sums, means, strict=True)]
    constant = [number for number, variance in enumerate(variances) if float(variance.min()) <= 0]
    if constant:
        raise ValueError(
            f"measure_scales expects no constant channel, got some at scales {constant}. Use fewer scales."
        )
    stds = [variance.sqrt() for variance in variances]
    coarse_images = torch.stack(images)
    mean, std = channels_of(coarse_images, means[0], stds[0])
    statistics = {"mean": [mean.tolist() for mean in means], "std": [std.tolist() for std in stds]}
    return statistics, ((coarse_images - mean) / std).float()
