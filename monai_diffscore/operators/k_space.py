"""Undersampled k-space of magnetic resonance, and the lines that are sampled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffscore.operators.linear_map import Operator


class FourierUndersampling(Operator):
    r"""Undersampled k-space of one or several receive coils: :math:`y_c = M F (S_c x)`.

    The Fourier transform is unitary and centred (zero frequency in the middle), as scanners store it.

    Args:
        mask: 1 where k-space was sampled, [*S], centred; :func:`cartesian_lines` makes one.
        sensitivities: complex coil maps [coils, *S]; None is one coil of sensitivity 1.
        complex_image: x holds complex images, (real, imaginary) in two channels [B, 2, *S]; else real ones.
    Raises:
        ValueError: if the shapes do not fit, or nothing is sampled.
    """

    mask: Tensor
    sensitivities: Tensor

    def __init__(self, mask: Tensor, sensitivities: Tensor | None = None, complex_image: bool = False) -> None:
        super().__init__()
        if sensitivities is None:
            sensitivities = torch.ones(1, *mask.shape, dtype=torch.complex64)
        if sensitivities.shape[1:] != mask.shape or not bool(mask.any()):
            raise ValueError(
                f"FourierUndersampling needs a mask [*S] that samples something and coil maps [coils, *S], got "
                f"{tuple(mask.shape)} with {int((mask != 0).sum())} samples, and {tuple(sensitivities.shape)}."
            )
        self.register_buffer("mask", (mask != 0).float())
        self.register_buffer("sensitivities", torch.view_as_real(sensitivities.to(torch.complex128)))  # (coils, *S, 2)
        self.complex_image = complex_image
        self.axes = tuple(range(-mask.ndim, 0))

    def _maps(self, like: Tensor) -> Tensor:
        return torch.view_as_complex(self.sensitivities.to(like).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, *S] to [B, C, coils, *S, 2]; C is 1 for a complex image."""
        if x.shape[2:] != self.mask.shape or (self.complex_image and x.shape[1] != 2):
            channels = "2" if self.complex_image else "C"
            raise ValueError(
                f"FourierUndersampling: expected images [B, {channels}, {', '.join(map(str, self.mask.shape))}], "
                f"got {tuple(x.shape)}."
            )
        image = torch.view_as_complex(x.movedim(1, -1).contiguous())[:, None] if self.complex_image else x
        coils = self._maps(x) * image[:, :, None]
        spectrum = torch.fft.fftn(torch.fft.ifftshift(coils, self.axes), dim=self.axes, norm="ortho")
        return torch.view_as_real(self.mask.to(x) * torch.fft.fftshift(spectrum, self.axes))

    def adjoint(self, y: Tensor) -> Tensor:
        spectrum = self.mask.to(y) * torch.view_as_complex(y.contiguous())
        coils = torch.fft.ifftn(torch.fft.ifftshift(spectrum, self.axes), dim=self.axes, norm="ortho")
        image = (self._maps(y).conj() * torch.fft.fftshift(coils, self.axes)).sum(2)
        return torch.view_as_real(image[:, 0]).movedim(-1, 1) if self.complex_image else image.real


def cartesian_lines(
    shape: Sequence[int], acceleration: float, axis: int = 0, centre_share: float = 0.08, seed: int = 0
) -> Tensor:
    """A mask [*S] of whole k-space lines: a fully sampled centre, the rest at random. Float32 of 0 and 1.

    Args:
        shape: of k-space.
        acceleration: full number of lines over sampled ones, >= 1.
        axis: the phase-encoding axis, along which lines are left out.
        centre_share: share of the lines, around zero frequency, that are all sampled.
        seed: of the random lines.
    Raises:
        ValueError: for an acceleration below 1 or one that the centre alone exceeds.

    Source: the random Cartesian masks of Zbontar et al. 2018, arXiv:1811.08839 (fastMRI).
    """
    lines = shape[axis]
    total, centre = round(lines / acceleration), max(1, round(centre_share * lines))
    if acceleration < 1 or centre > total:
        raise ValueError(
            f"Expected 1 <= acceleration <= {lines / centre:.3g}, where the {centre} central lines are all there is, "
            f"got {acceleration}."
        )
    begin = (lines - centre + 1) // 2
    sampled = torch.zeros(lines)
    sampled[begin : begin + centre] = 1
    outer = torch.nonzero(sampled == 0).flatten()
    order = torch.randperm(len(outer), generator=torch.Generator().manual_seed(seed))
    sampled[outer[order[: total - centre]]] = 1
    return sampled.reshape([-1 if a == axis % len(shape) else 1 for a in range(len(shape))]).expand(*shape).clone()
