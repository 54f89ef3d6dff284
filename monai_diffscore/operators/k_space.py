"""Undersampled k-space of magnetic resonance, and masks of sampled lines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_diffscore.operators.linear_map import Operator


class FourierUndersampling(Operator):
    r"""Undersampled k-space of one or several receive coils: :math:`y_c = M F (S_c x)`.

    The Fourier transform is unitary and centred (zero frequency in the middle), as in the files of scanners.

    Args:
        mask: M, 1 for sampled positions of k-space, [*S], centred, such as :func:`cartesian_lines`.
        sensitivities: S_c, complex coil maps [coils, *S]; None is one coil of sensitivity 1.
        complex_image: True for complex images, with (real, imaginary) in two channels [B, 2, *S]; False for real ones.
    Raises:
        ValueError: if the shapes do not fit together, or the mask has no sample. In the call: for x of another shape.
    """

    mask: Tensor
    sensitivities: Tensor

    def __init__(self, mask: Tensor, sensitivities: Tensor | None = None, complex_image: bool = False) -> None:
        super().__init__()
        if sensitivities is None:
            sensitivities = torch.ones(1, *mask.shape, dtype=torch.complex64)
        if sensitivities.shape[1:] != mask.shape or not bool(mask.any()):
            raise ValueError(
                f"FourierUndersampling expects a mask [*S] with at least one sample and coil maps [coils, *S], got "
                f"{tuple(mask.shape)} with {int((mask != 0).sum())} samples, and {tuple(sensitivities.shape)}."
            )
        self.register_buffer("mask", (mask != 0).float())
        self.register_buffer("sensitivities", torch.view_as_real(sensitivities.to(torch.complex128)))  # (coils, *S, 2)
        self.complex_image = complex_image
        self.axes = tuple(range(-mask.ndim, 0))

    def _maps(self, like: Tensor) -> Tensor:
        return torch.view_as_complex(self.sensitivities.to(like).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, *S] to [B, C, coils, *S, 2]. For a complex image it maps [B, 2, *S] to [B, 1, coils, *S, 2]."""
        if x.shape[2:] != self.mask.shape or (self.complex_image and x.shape[1] != 2):
            channels = "2" if self.complex_image else "C"
            raise ValueError(
                f"FourierUndersampling expects images [B, {channels}, {', '.join(map(str, self.mask.shape))}], "
                f"got {tuple(x.shape)}. Crop or pad them to the size of the mask."
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
    """A mask [*S] of whole k-space lines, all lines of the centre and random other lines. Float32, 0 or 1.

    Args:
        shape: of k-space, [*S].
        acceleration: number of all lines over the number of sampled lines, >= 1.
        axis: the phase-encoding axis, along which the mask omits lines.
        centre_share: share of the lines, around zero frequency, in the centre.
        seed: of the random lines.
    Raises:
        ValueError: for an acceleration below 1, or with fewer sampled lines than the centre has.

    Source: the random Cartesian masks of Zbontar et al. 2018, arXiv:1811.08839 (fastMRI).
    """
    lines = shape[axis]
    total, centre = round(lines / acceleration), max(1, round(centre_share * lines))
    if acceleration < 1 or centre > total:
        raise ValueError(
            f"cartesian_lines expects 1 <= acceleration <= {lines / centre:.3g} for {centre} central lines of {lines}, "
            f"got {acceleration}. Lower acceleration or centre_share."
        )
    begin = (lines - centre + 1) // 2
    sampled = torch.zeros(lines)
    sampled[begin : begin + centre] = 1
    outer = torch.nonzero(sampled == 0).flatten()
    order = torch.randperm(len(outer), generator=torch.Generator().manual_seed(seed))
    sampled[outer[order[: total - centre]]] = 1
    return sampled.reshape([-1 if a == axis % len(shape) else 1 for a in range(len(shape))]).expand(*shape).clone()
