r"""The latent image of a volume by an autoencoder: one scale, where a pyramid has several.

The encoder gives a normal distribution of latent images, of mean m(x) and standard deviation s(x). A model is trained
on standardised draws of it,

.. math::  u = (m(x) + s(x)\, n - \mu) / \tau, \qquad n \sim N(0, 1),

where :math:`\mu` and :math:`\tau` are the mean and the standard deviation of each latent channel over the training
data. A data set stores of a volume its m and s, not one draw, so that each step sees another draw. A sample u becomes a
volume through the decoder.

:class:`Latent` takes the place of :class:`~monai_diffscore.scales.Scales` in ``MultiScale``, its loss and its sampler.
The autoencoder is any module with MONAI's ``encode`` and ``decode``, such as an ``AutoencoderKL`` with pretrained
weights. It loses detail and has no inverse: a latent model has no likelihood of volumes.

Source: Rombach et al. 2022, arXiv:2112.10752, Section 3.1 and Appendix G (the scale of the latent).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_diffscore.scales import Scale
from monai_diffscore.tensors import Generators, channels_of, noise_like


class Latent(nn.Module):
    """Encodes volumes as one standardised scale, and decodes it.

    Args:
        autoencoder: ``encode(x [B, C, *S]) -> (mean, std)``, each [B, K, *S / stride], and ``decode(z) -> x``. Load its
            weights before, with its own ``load_state_dict``; it is frozen.
        channels: K of the latent image.
        stride: voxels of the volume along one axis for one of the latent image.
        statistics: the result of :func:`measure_latent`. None is mean 0 and standard deviation 1; the state_dict of
            trained weights replaces them.
    Raises:
        ValueError: for statistics of other channels, or a standard deviation that is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        autoencoder: nn.Module,
        channels: int,
        stride: int,
        statistics: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.channels, self.stride = channels, stride
        statistics = {"mean": [0.0] * channels, "std": [1.0] * channels} if statistics is None else statistics
        lengths = {name: len(statistics[name]) for name in ("mean", "std")}
        if set(lengths.values()) != {channels} or min(statistics["std"]) <= 0:
            raise ValueError(
                f"Latent expects {channels} means and standard deviations > 0, one for each latent channel, got "
                f"{dict(statistics)}. Use measure_latent with this autoencoder."
            )
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(statistics[name], dtype=torch.float64))

    def __len__(self) -> int:
        return 1

    def train(self, mode: bool = True) -> Latent:
        """Switches to draws (training) or means (evaluation); the autoencoder stays in evaluation."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """Returns the shape of the latent image, the only scale of volumes of ``shape`` [B, C, *S].

        Raises:
            ValueError: for a size that is not a multiple of ``stride``.
        """
        if any(size % self.stride for size in shape[2:]):
            raise ValueError(
                f"Latent expects volumes whose sizes are multiples of {self.stride}, got shape {tuple(shape)}. Pad "
                f"them with MONAI's DivisiblePadd, k={self.stride}."
            )
        return [(shape[0], self.channels, *(size // self.stride for size in shape[2:]))]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation [B, K, *S / stride] of the latent images of x [B, C, *S], standardised.

        Raises:
            ValueError: as :meth:`shapes`, or if the autoencoder returns another shape.
        """
        (expected,) = self.shapes(x.shape)
        mean, std = self.autoencoder.encode(x)  # type: ignore[operator]
        if tuple(mean.shape) != expected:
            raise ValueError(
                f"Latent of {self.channels} channels and stride {self.stride} expects latent images {expected} of x "
                f"{tuple(x.shape)}, got {tuple(mean.shape)}. Give the channels and the stride of the autoencoder."
            )
        middle, spread = self._statistics(mean)
        return (mean - middle) / spread, std / spread

    def draw(self, mean: Tensor, std: Tensor, generator: Generators = None) -> Tensor:
        """Returns a draw [B, K, *S / stride] of stored latent distributions: mean + std n."""
        return mean + std * noise_like(mean, generator)

    def split(self, x: Tensor) -> list[Scale]:
        """Returns the only scale of volumes x [B, C, *S]: a draw in training, the mean in evaluation."""
        mean, std = self.encode(x)
        return [Scale(self.draw(mean, std) if self.training else mean, {})]

    def start(self, shape: Sequence[int], coarse: Tensor | None) -> tuple[int, Tensor | None]:
        """Returns the number of the first scale to draw, 0, and no image.

        Raises:
            ValueError: for a coarse image, which a latent model does not take.
        """
        if coarse is not None:
            raise ValueError(f"A latent model draws no details: expected no coarse image, got {tuple(coarse.shape)}.")
        return 0, None

    def fields(self, number: int, image: Tensor) -> dict[str, Tensor]:
        """Returns no fields: nothing is coarser than the latent image."""
        return {}

    def refine(self, number: int, image: Tensor | None, coefficients: Tensor) -> Tensor:
        """Returns the decoded volume [B, C, *S] of standardised latent images."""
        mean, std = self._statistics(coefficients)
        volume: Tensor = self.autoencoder.decode(coefficients * std + mean)  # type: ignore[operator]
        return volume

    def merge(self, coefficients: Sequence[Tensor]) -> Tensor:
        """Returns the decoded volume of the only scale."""
        (only,) = coefficients
        return self.refine(0, None, only)

    def log_volume(self, number: int, coefficients: Tensor) -> float:
        """Raises TypeError: an autoencoder is no change of variables, so that a latent model has no likelihood."""
        raise TypeError("A latent model has no likelihood of volumes: its autoencoder has no inverse. Use a pyramid.")

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = channels_of(like, self.mean, self.std)
        return mean, std


@torch.no_grad()
def measure_latent(autoencoder: Any, volumes: Iterable[Tensor]) -> dict[str, list[float]]:
    r"""Returns mean and standard deviation of each latent channel, for ``statistics`` of :class:`Latent`.

    The variance is that of draws: :math:`\tau^2 = \mathrm{Var}[m(x)] + E[s(x)^2]`.

    Args:
        autoencoder: with MONAI's ``encode``.
        volumes: the training data [C, *S].
    Raises:
        ValueError: for no volumes.
    """
    moments: list[Tensor] = []
    for volume in volumes:
        mean, std = (part[0].double().flatten(1) for part in autoencoder.encode(torch.as_tensor(volume)[None]))
        moments.append(torch.stack([mean.mean(1), (mean.square() + std.square()).mean(1)]))
    if not moments:
        raise ValueError("measure_latent needs at least one volume, got none.")
    first, second = torch.stack(moments).mean(0)
    return {"mean": first.tolist(), "std": (second - first.square()).sqrt().tolist()}
