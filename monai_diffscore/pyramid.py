r"""An orthonormal pyramid of images in one, two or three dimensions: one coarse image, and the details of each scale.

Along one axis of even length n, a low-pass filter h of 2p taps and its mirror :math:`g_k = (-1)^k h_{2p-1-k}` split a
signal into two halves,

.. math::  s_i = \sum_k h_k\, x_{(2i+k) \bmod n}, \qquad d_i = \sum_k g_k\, x_{(2i+k) \bmod n} .

The rows of this map are orthonormal: its transpose is its inverse. (The code also shifts i by the centre of h, so that
coarse and fine images are in register.) In D dimensions the pyramid splits each axis in turn. One of the :math:`2^D`
bands is the image of half the size; the other bands are the **details**. The pyramid splits the image of half the size
again:

.. math::  x = a_0 \;\to\; (a_1, d_1) \;\to\; \dots \;\to\; (a_J, d_J, \dots, d_1), \qquad
           \lVert x \rVert^2 = \lVert a_J \rVert^2 + \sum_j \lVert d_j \rVert^2 .

The map is orthogonal. It preserves volumes, norms and white noise: the log density of an image is the log density of
its coefficients.

p = 1 is the Haar transform. Its details depend on two neighbours along each axis, and it does not cross the border.
With p > 1 the details of polynomials of degree p - 1 are 0, and the image wraps around at its border. The filters are
Daubechies's.

Sources: Mallat 1989, doi:10.1109/34.192463 (the pyramid); Daubechies 1988, doi:10.1002/cpa.3160410705, Section 4 (the
filters).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MOST_MOMENTS = 8  # with more moments the roots of the factorisation lose digits


class Pyramid:
    """Splits images [B, C, *S] into a coarse image and details, and joins them again.

    Args:
        spatial_dims: number D of spatial axes, 1, 2 or 3.
        scales: number J of scales of details.
        vanishing_moments: p, 1 to 8; 1 is the Haar transform.
    Raises:
        ValueError: for another number of axes, scales or moments.
    """

    def __init__(self, spatial_dims: int, scales: int, vanishing_moments: int = 1) -> None:
        if spatial_dims not in (1, 2, 3) or scales < 1:
            raise ValueError(f"Pyramid expects 1, 2 or 3 axes and at least one scale, got {spatial_dims} and {scales}.")
        self.spatial_dims, self.scales, self.vanishing_moments = spatial_dims, scales, vanishing_moments
        self.filter = daubechies(vanishing_moments)

    @property
    def stride(self) -> int:
        """Divisor of every spatial size, :math:`2^J`."""
        return 2**self.scales

    @property
    def bands(self) -> int:
        """Number of bands of details at each scale, :math:`2^D - 1`."""
        return 2**self.spatial_dims - 1

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shapes of the coarse image and of the details, from the coarsest scale to the finest.

        Args:
            shape: of the images x, [B, C, *S].
        Raises:
            ValueError: as :meth:`analysis`.
        """
        self._check(shape, torch.float32, self.scales)
        batch, channels, *sizes = shape
        halves = [tuple(size // 2**scale for size in sizes) for scale in range(self.scales, 0, -1)]
        details = [(batch, self.bands * channels, *half) for half in halves]
        return [(batch, channels, *halves[0]), *details]

    def analysis(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        r"""The coarse image and the details: the forward transform.

        Args:
            x: images [B, C, *S], floating point. Every size is a multiple of ``stride``.
        Returns:
            (:math:`a_J` [B, C, *S / 2^J], [:math:`d_J, \dots, d_1`]): details from the coarsest scale to the finest, of
            shape [B, (2^D - 1) C, *S / 2^j]. Channel b C + c holds band b of channel c. The binary digits of b + 1 mark
            the axes along which the band is high-pass; the highest digit is the first axis.
        Raises:
            ValueError: for another number of axes, a size that is no multiple of ``stride``, or integers.
        """
        self._check(x.shape, x.dtype, self.scales)
        details = []
        for _ in range(self.scales):
            x, detail = self.split(x)
            details.append(detail)
        return x, details[::-1]

    def synthesis(self, coarse: Tensor, details: Sequence[Tensor]) -> Tensor:
        """The image [B, C, *S] of coefficients: the inverse and the transpose of :meth:`analysis`.

        Args:
            coarse: [B, C, *S / 2^J].
            details: one tensor for each scale, in the order of :meth:`analysis`.
        Raises:
            ValueError: for another number of scales, or shapes that do not fit together.
        """
        if len(details) != self.scales:
            raise ValueError(
                f"Pyramid expects the details of {self.scales} scales, the coarsest first, got {len(details)}."
            )
        for detail in details:
            coarse = self.join(coarse, detail)
        return coarse

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Splits one scale: returns the image of half the size [B, C, *S / 2] and the details [B, (2^D - 1) C, *S / 2].

        Raises:
            ValueError: as :meth:`analysis`, for odd sizes.
        """
        self._check(x.shape, x.dtype, 1)
        batch, channels = x.shape[:2]
        bands = x.unsqueeze(1)  # [B, bands, C, *S]
        for axis in range(3, 3 + self.spatial_dims):
            bands = torch.stack(self._halve(bands, axis), 2).flatten(1, 2)
        details = bands[:, 1:].reshape(batch, self.bands * channels, *bands.shape[3:])
        return bands[:, 0], details

    def join(self, coarse: Tensor, details: Tensor) -> Tensor:
        """Inverts :meth:`split`: returns the image of twice the size [B, C, *S * 2].

        Args:
            coarse: [B, C, *S].
            details: [B, (2^D - 1) C, *S].
        Raises:
            ValueError: for details of another shape.
        """
        batch, channels, *sizes = coarse.shape
        expected = (batch, self.bands * channels, *sizes)
        if len(sizes) != self.spatial_dims or details.shape != expected:
            raise ValueError(
                f"Pyramid with {self.spatial_dims} axes expects details of shape {expected} for a coarse image of "
                f"shape {tuple(coarse.shape)}, got {tuple(details.shape)}. Pass the results of analysis in their order."
            )
        bands = torch.cat([coarse.unsqueeze(1), details.reshape(batch, self.bands, channels, *sizes)], 1)
        for axis in range(2 + self.spatial_dims, 2, -1):
            low, high = bands.unflatten(1, (-1, 2)).unbind(2)
            bands = self._double(low, high, axis)
        return bands[:, 0]

    def _halve(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """The low-pass and the high-pass half along one axis."""
        even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
        low, high = torch.zeros_like(even), torch.zeros_like(even)
        for shift, (h_even, h_odd), (g_even, g_odd) in self._taps():
            shifted_even, shifted_odd = _rolled(even, -shift, axis), _rolled(odd, -shift, axis)
            low = low + h_even * shifted_even + h_odd * shifted_odd
            high = high + g_even * shifted_even + g_odd * shifted_odd
        return low, high

    def _double(self, low: Tensor, high: Tensor, axis: int) -> Tensor:
        """Applies the transpose of :meth:`_halve`."""
        even, odd = torch.zeros_like(low), torch.zeros_like(low)
        for shift, (h_even, h_odd), (g_even, g_odd) in self._taps():
            shifted_low, shifted_high = _rolled(low, shift, axis), _rolled(high, shift, axis)
            even = even + h_even * shifted_low + g_even * shifted_high
            odd = odd + h_odd * shifted_low + g_odd * shifted_high
        return torch.stack([even, odd], axis + 1).flatten(axis, axis + 1)

    def _taps(self) -> list[tuple[int, tuple[float, float], tuple[float, float]]]:
        """Shift in pairs of samples, (even, odd) taps of h, and (even, odd) taps of g, for each pair of taps.

        The shift by the centre of h keeps coarse and fine images in register.
        """
        h = self.filter.tolist()
        g = [(-1) ** k * tap for k, tap in enumerate(reversed(h))]
        centre = round((sum(k * tap**2 for k, tap in enumerate(h)) - 0.5) / 2)
        pairs = range(self.vanishing_moments)
        return [(m - centre, (h[2 * m], h[2 * m + 1]), (g[2 * m], g[2 * m + 1])) for m in pairs]

    def _check(self, shape: Sequence[int], dtype: torch.dtype, scales: int) -> None:
        sizes, stride = tuple(shape[2:]), 2**scales
        if len(sizes) != self.spatial_dims or any(size < 1 or size % stride for size in sizes):
            whole = tuple(math.ceil(max(size, 1) / stride) * stride for size in sizes)
            raise ValueError(
                f"Pyramid with {scales} scales expects x [B, C, *S] with {self.spatial_dims} spatial axes, each a "
                f"multiple of {stride}, got shape {tuple(shape)}. Pad to {whole} (MONAI's DivisiblePadd with "
                f"k={stride}) and crop the result, or use fewer scales."
            )
        if not dtype.is_floating_point:
            raise ValueError(f"Pyramid expects floating point numbers, got {dtype}. Convert them with x.float().")


def daubechies(vanishing_moments: int) -> Tensor:
    r"""The orthonormal low-pass filter h [2p] with p vanishing moments and the shortest support, float64.

    :math:`\sum_k h_k = \sqrt 2` and :math:`\sum_k h_k h_{k+2m} = \delta_{m0}`. It is the product of
    :math:`\bigl(\tfrac{1+z}{2}\bigr)^p` and of a factor for each root inside the unit circle of

    .. math::  P(y) = \sum_{k<p} \binom{p-1+k}{k} y^k, \qquad y = \tfrac12 - \tfrac14 (z + z^{-1}) .

    Args:
        vanishing_moments: p, 1 to 8.
    Raises:
        ValueError: for another number.

    Source: Daubechies 1988, doi:10.1002/cpa.3160410705, Section 4; Daubechies 1992, Ten Lectures on Wavelets,
    Eq. 6.1.12 and Section 6.1.
    """
    p = vanishing_moments
    if not 1 <= p <= _MOST_MOMENTS:
        raise ValueError(f"daubechies expects 1 to {_MOST_MOMENTS} vanishing moments, got {p}. 1 is the Haar filter.")
    polynomial = torch.ones(1, dtype=torch.complex128)
    for root in _roots([math.comb(p - 1 + k, k) for k in range(p)]):
        half = 1 - 2 * root  # (z + 1/z) / 2
        z = half + torch.sqrt(half**2 - 1)
        z = z if z.abs() < 1 else 1 / z
        polynomial = _times(polynomial, torch.stack([torch.ones_like(z), -z]))
    for _ in range(p):
        polynomial = _times(polynomial, torch.ones(2, dtype=torch.complex128))
    real = polynomial.real
    return real * (math.sqrt(2) / real.sum())


def _roots(coefficients: Sequence[float]) -> Tensor:
    """The roots of a polynomial: the eigenvalues of its companion matrix. The constant coefficient is first."""
    degree = len(coefficients) - 1
    companion = torch.diag(torch.ones(max(degree - 1, 0), dtype=torch.float64), -1)
    if degree == 0:
        return torch.zeros(0, dtype=torch.complex128)
    companion[:, -1] = -torch.tensor(coefficients[:-1], dtype=torch.float64) / coefficients[-1]
    return torch.linalg.eigvals(companion)


def _times(a: Tensor, b: Tensor) -> Tensor:
    """The product of two polynomials."""
    product = torch.zeros(len(a) + len(b) - 1, dtype=a.dtype)
    for k, factor in enumerate(b):
        product[k : k + len(a)] += factor * a
    return product


def _rolled(x: Tensor, shift: int, axis: int) -> Tensor:
    return torch.roll(x, shift, axis) if shift else x
