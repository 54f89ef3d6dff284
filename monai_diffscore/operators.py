r"""Linear measurements :math:`y = A x + \sigma_y n` of an image or a profile: the forward half of inverse problems.

Each operator is a module with

* ``forward(x)``: :math:`A x`, for a batch x [B, ...], differentiable;
* ``adjoint(y)``: :math:`A^T y`, so that :math:`\langle A x, y\rangle = \langle x, A^T y\rangle` (the tests hold that
  for all);
* ``solve(y, prior_variance, noise_variance)``: :math:`(r^2 A A^T + \sigma_y^2 I)^{-1} y`, what a Gaussian posterior
  needs: with :math:`x \sim N(m, r^2 I)` its mean is :math:`m + r^2 A^T (r^2 A A^T + \sigma_y^2 I)^{-1}(y - A m)`. In
  closed form where A A^T is diagonal in a known basis, by conjugate gradients else;
* ``pseudo_inverse(y)``: the regularised least-squares image of smallest norm, a starting point and a baseline.

==============================  =========================================  ============================================
operator                        what it is                                 x to y
==============================  =========================================  ============================================
:class:`Mask`                   inpainting, cropped field of view          [B, C, *S] to the same
:class:`Downsample`             thick slices, low resolution               [B, C, *S] to [B, C, *S / factors]
:class:`Blur`                   Gaussian point spread function             [B, C, *S] to the same
:class:`FourierUndersampling`   accelerated MR, one or several coils       [B, C, *S] to [B, C, coils, *S, 2]
:class:`Radon`                  CT, sparse-view or limited-angle           [B, C, X, Y, Z] to [B, C, angles, bins, Z]
:class:`GeneDropout`            panels, zeros of single-cell counts        [B, G] to the same
:class:`GeneLoadings`           a panel, by a model of components          [B, K] to [B, G]
==============================  =========================================  ============================================

Everything is real: complex measurements carry (real, imaginary) in a last axis of 2, so that the inner product, and
noise of one standard deviation, are the ordinary ones.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from monai_diffscore.tensors import per_channel, per_sample


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], right: Tensor, iterations: int = 100, tolerance: float = 1e-6
) -> Tensor:
    r"""The solution u of :math:`M u = b` for symmetric positive definite M, each sample of the batch on its own.

    Args:
        apply: u to M u, for a batch [B, ...]; samples must not influence each other.
        right: b, [B, ...].
        iterations: at most this many applications of M.
        tolerance: of the residual norm relative to that of b; the batch stops when all samples have reached it.

    Source: Hestenes and Stiefel 1952, doi:10.6028/jres.049.044.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return per_sample((a * b).flatten(1).sum(1), a)

    solution, residual = torch.zeros_like(right), right
    direction, power = residual, dot(residual, residual)
    goal = tolerance**2 * power
    for _ in range(iterations):
        if bool((power <= goal).all()):
            break
        image = apply(direction)
        curvature = dot(direction, image)
        # a sample that has converged has no direction left: it stays where it is
        step = torch.where(curvature > 0, power / curvature.clamp_min(torch.finfo(right.dtype).tiny), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        following = dot(residual, residual)
        ratio = torch.where(power > 0, following / power.clamp_min(torch.finfo(right.dtype).tiny), 0.0)
        direction, power = residual + ratio * direction, following
    return solution


class Operator(nn.Module, ABC):
    """A linear map of each sample of a batch.

    Subclasses must implement ``forward`` and ``adjoint``; they implement ``solve`` where it is cheap.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, of the shape of x."""

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        r""":math:`(r^2 A A^T + \sigma_y^2 I)^{-1} y`.

        Args:
            y: measurements [B, ...].
            prior_variance: r^2, one number or [B].
            noise_variance: sigma_y^2 > 0.
        """
        prior = _over_samples(prior_variance, y)
        return conjugate_gradients(lambda u: prior * self(self.adjoint(u)) + noise_variance * u, y)

    def pseudo_inverse(self, y: Tensor, regularisation: float = 1e-3) -> Tensor:
        r""":math:`A^T (A A^T + \epsilon \lVert A\rVert^2 I)^{-1} y`: least squares of smallest norm, noise kept in
        bounds.

        Args:
            y: measurements [B, ...].
            regularisation: epsilon, relative to the largest eigenvalue of A A^T.
        """
        return self.adjoint(self.solve(y, 1.0, regularisation * self.squared_norm(y[:1])))

    @torch.no_grad()
    def squared_norm(self, like: Tensor, iterations: int = 20) -> float:
        """The largest eigenvalue of A A^T, by power iteration from a fixed start.

        Args:
            like: a tensor of the shape, dtype and device of y.
            iterations: of the power method; the result is a lower bound that is close after few.
        """
        u = torch.randn(like.shape, generator=torch.Generator().manual_seed(0), dtype=like.dtype).to(like.device)
        value = 0.0
        for _ in range(iterations):
            u = u / u.norm()
            image = self(self.adjoint(u))
            value, u = float((u * image).sum()), image
        return value


def _over_samples(values: Tensor | float, like: Tensor) -> Tensor:
    return per_sample(torch.as_tensor(values, dtype=like.dtype, device=like.device), like)


class Mask(Operator):
    """Sees some elements and not others: y = mask * x.

    Args:
        mask: 1 where measured, 0 where missing, broadcast against x [B, ...]. Values between are gains.
    Raises:
        ValueError: if the mask holds NaN or negative values, or measures nothing.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        mask = mask.float()
        if not bool((mask >= 0).all()) or not bool((mask > 0).any()):
            raise ValueError(
                f"{type(self).__name__} needs a mask of values >= 0 with one > 0, got {int((mask > 0).sum())} of "
                f"{mask.numel()} > 0, {int(mask.isnan().sum())} NaN, minimum {float(mask.min()):g}. 1 means measured."
            )
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self.mask.to(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        return y / (_over_samples(prior_variance, y) * self.mask.to(y) ** 2 + noise_variance)


class GeneDropout(Mask):
    """Expression [B, G] of which some genes were not seen: a targeted panel, or the zeros of single cells.

    In the (normalised) space of the denoiser: a gene that is unseen carries no information, where a measured zero
    would.

    Args:
        observed: [G] for a panel, or [B, G] for each cell; true where measured.
        capture: gain of a measured gene, one number or [B, 1], such as a relative sequencing depth.
    """

    def __init__(self, observed: Tensor, capture: Tensor | float = 1.0) -> None:
        super().__init__(observed.float() * capture)


class GeneLoadings(Operator):
    r"""Genes of which some were seen, read off components: :math:`y = M \Lambda^\top z`, [B, K] to [B, G].

    With :math:`\Lambda` in units of what the components leave of each gene, noise of standard deviation 1 makes this
    the likelihood of factor analysis.

    Args:
        loadings: :math:`\Lambda` [K, G].
        observed: [G] or [B, G]; true where measured.
    Raises:
        ValueError: for numbers of genes that differ.
    """

    loadings: Tensor
    observed: Tensor

    def __init__(self, loadings: Tensor, observed: Tensor) -> None:
        super().__init__()
        if loadings.ndim != 2 or loadings.shape[1] != observed.shape[-1]:
            raise ValueError(
                f"GeneLoadings needs loadings [K, G] and observed [..., G], got {tuple(loadings.shape)} and "
                f"{tuple(observed.shape)}."
            )
        self.register_buffer("loadings", loadings)
        self.register_buffer("observed", observed.bool())

    def forward(self, x: Tensor) -> Tensor:
        return self.observed.to(x) * (x @ self.loadings.to(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return (self.observed.to(y) * y) @ self.loadings.to(y).T


class _Separable(Operator):
    """One matrix for each spatial axis, applied one after the other: A is their Kronecker product.

    A A^T is then diagonal in the product of the eigenvectors of each axis, which makes ``solve`` exact.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self._matrices: dict[tuple[int, int], Tensor] = {}  # (axis, size of x): float64, on the CPU

    def matrix(self, axis: int, size: int) -> Tensor:
        """The float64 matrix [size of y, size of x] of a spatial axis."""
        raise NotImplementedError

    def image_size(self, axis: int, measured: int) -> int:
        """Size of x along an axis of which y has ``measured`` elements."""
        return measured

    def _matrix(self, axis: int, size: int) -> Tensor:
        if (axis, size) not in self._matrices:
            self._matrices[axis, size] = self.matrix(axis, size)
        return self._matrices[axis, size]

    def _check(self, x: Tensor) -> None:
        if x.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"{type(self).__name__} was made for {self.spatial_dims} spatial axes: expected [B, C, *S] with "
                f"{self.spatial_dims + 2} axes, got shape {tuple(x.shape)}."
            )

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        for axis, size in enumerate(x.shape[2:]):
            x = _along(self._matrix(axis, size), x, axis)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y)
        for axis, measured in enumerate(y.shape[2:]):
            y = _along(self._matrix(axis, self.image_size(axis, measured)).T, y, axis)
        return y

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        eigenvalues = torch.ones([1] * self.spatial_dims, dtype=torch.float64)
        bases = []
        for axis, measured in enumerate(y.shape[2:]):
            matrix = self._matrix(axis, self.image_size(axis, measured))
            values, basis = torch.linalg.eigh(matrix @ matrix.T)
            eigenvalues = eigenvalues * values.clamp_min(0).reshape([-1 if a == axis else 1 for a in range(y.ndim - 2)])
            bases.append(basis)
        for axis, basis in enumerate(bases):
            y = _along(basis.T, y, axis)
        y = y / (_over_samples(prior_variance, y) * eigenvalues.to(y) + noise_variance)
        for axis, basis in enumerate(bases):
            y = _along(basis, y, axis)
        return y


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """The matrix [m, n] applied to spatial axis ``axis`` of x [B, C, *S]."""
    return torch.tensordot(x, matrix.to(x), dims=([axis + 2], [1])).movedim(-1, axis + 2)


class Downsample(_Separable):
    """Means of neighbouring voxels: low resolution, or thick slices when one factor alone is above 1.

    The mean over the thickness of a slice is the partial-volume model of a thick slice with a boxcar profile.

    Args:
        factors: voxels that become one, for each spatial axis, such as (1, 1, 4).
    Raises:
        ValueError: for factors below 1. In the call: if a size of x is not divisible by its factor.
    """

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__(len(factors))
        if any(factor < 1 for factor in factors):
            raise ValueError(f"Downsample needs factors >= 1, one for each spatial axis, got {list(factors)}.")
        self.factors = tuple(int(factor) for factor in factors)

    def matrix(self, axis: int, size: int) -> Tensor:
        factor = self.factors[axis]
        if size % factor:
            raise ValueError(
                f"Downsample by {self.factors}: expected sizes divisible by their factor, got {size} on spatial axis "
                f"{axis}. Pad with DivisiblePadd, or crop."
            )
        return torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor

    def image_size(self, axis: int, measured: int) -> int:
        return measured * self.factors[axis]


class Blur(_Separable):
    """A Gaussian point spread function, mirrored at the borders so that a constant stays one. A is symmetric.

    Args:
        std_voxels: standard deviation for each spatial axis, in voxels; 0 leaves an axis alone.
    Raises:
        ValueError: for a negative standard deviation.
    """

    def __init__(self, std_voxels: Sequence[float]) -> None:
        super().__init__(len(std_voxels))
        if any(not std >= 0 for std in std_voxels):
            raise ValueError(f"Blur needs standard deviations >= 0, got {list(std_voxels)}.")
        self.std_voxels = tuple(float(std) for std in std_voxels)

    def matrix(self, axis: int, size: int) -> Tensor:
        std = self.std_voxels[axis]
        reach = math.ceil(4 * std)
        offsets = torch.arange(-reach, reach + 1)
        kernel = torch.exp(-0.5 * (offsets.double() / std) ** 2) if std > 0 else torch.ones(1, dtype=torch.float64)
        kernel = kernel / kernel.sum()
        rows = torch.arange(size)[:, None]
        columns = (rows + offsets) % (2 * size)  # the signal and its mirror image repeat with period 2 size
        columns = torch.where(columns < size, columns, 2 * size - 1 - columns)
        matrix = torch.zeros(size, size, dtype=torch.float64)
        return matrix.index_put_((rows.expand_as(columns), columns), kernel.expand(columns.shape), accumulate=True)


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


class Radon(Operator):
    r"""Parallel-beam line integrals of each slice: sinograms of CT, in units of (image value x voxels).

    :math:`y(\theta, s) = \sum_{ij} x_{ij}\, \Lambda(s - i\cos\theta - j\sin\theta)`: each voxel of the first two
    spatial axes is projected onto the detector and shared linearly between the two nearest bins (:math:`\Lambda` is the
    hat function), which makes the adjoint, back-projection with linear interpolation, exact. Further axes are slices.

    Args:
        size: (X, Y) of the slices, in voxels.
        angles_degrees: [angles]; all of [0, 180) for a full scan, few for sparse views, a part for a limited angle.
        bins: of the detector, one voxel wide; None takes the diagonal.
        iterations, tolerance: of the conjugate gradients in ``solve``; each projects and back-projects once.
    Raises:
        ValueError: for no angles, or a size that is not two numbers > 0. In the call: for slices of another size, or a
            sinogram of another number of angles or bins.

    Source: Kak and Slaney 1988, Computerized Tomographic Imaging, Chapter 3 (filtered back-projection).
    """

    angles: Tensor

    def __init__(
        self,
        size: Sequence[int],
        angles_degrees: Sequence[float] | Tensor,
        bins: int | None = None,
        iterations: int = 100,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        angles = torch.as_tensor(angles_degrees, dtype=torch.float64).flatten()
        if len(angles) == 0:
            raise ValueError("Radon needs at least one angle, got none.")
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"Radon needs the size (X, Y) of the slices, got {tuple(size)}.")
        self.size = (int(size[0]), int(size[1]))
        self.register_buffer("angles", angles * (math.pi / 180))
        self.bins = bins or 2 * math.ceil(math.hypot(*self.size) / 2) + 1
        self.iterations, self.tolerance = iterations, tolerance

    def _places(self, angle: float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lower bin [X * Y] of each voxel, and the share of the upper one; one more bin on each side takes the rest."""
        i, j = (torch.arange(n, device=like.device, dtype=torch.float64) - (n - 1) / 2 for n in self.size)
        s = (i[:, None] * math.cos(angle) + j[None] * math.sin(angle)).flatten() + (self.bins - 1) / 2 + 1
        s = s.clamp(0, self.bins + 0.999999)
        return s.floor().long(), (s - s.floor()).to(like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:4] != self.size:
            raise ValueError(
                f"Radon projects slices of the size that it was built with: expected [B, C, {self.size[0]}, "
                f"{self.size[1]}, ...], got shape {tuple(x.shape)}."
            )
        bins = self.bins
        voxels = x.flatten(2, 3)  # (B, C, X * Y, ...)
        rows = []
        for angle in self.angles.tolist():
            lower, share = self._places(angle, x)
            share = per_channel(share, voxels[0, 0])
            row = voxels.new_zeros(*voxels.shape[:2], bins + 3, *voxels.shape[3:])
            row = row.index_add(2, lower, voxels * (1 - share)).index_add(2, lower + 1, voxels * share)
            rows.append(row[:, :, 1 : bins + 1])
        return torch.stack(rows, dim=2)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back-projection of [B, C, angles, bins, ...] onto [B, C, X, Y, ...]."""
        if y.shape[2:4] != (len(self.angles), self.bins):
            raise ValueError(
                f"Expected a sinogram [B, C, {len(self.angles)}, {self.bins}, ...] (angles, bins), got shape "
                f"{tuple(y.shape)}."
            )
        size = self.size
        total = y.new_zeros(*y.shape[:2], size[0] * size[1], *y.shape[4:])
        padded = torch.cat([torch.zeros_like(y[:, :, :, :1]), y, torch.zeros_like(y[:, :, :, :2])], dim=3)
        for number, angle in enumerate(self.angles.tolist()):
            lower, share = self._places(angle, y)
            share = per_channel(share, y[0, 0, 0])
            row = padded[:, :, number]
            total = total + (1 - share) * row[:, :, lower] + share * row[:, :, lower + 1]
        return total.unflatten(2, size)

    def solve(self, y: Tensor, prior_variance: Tensor | float, noise_variance: float) -> Tensor:
        prior = _over_samples(prior_variance, y)

        def apply(u: Tensor) -> Tensor:
            return prior * self(self.adjoint(u)) + noise_variance * u

        return conjugate_gradients(apply, y, self.iterations, self.tolerance)

    def filtered_back_projection(self, y: Tensor) -> Tensor:
        """The classical reconstruction of a full scan (ramp filter), and the baseline of an incomplete one."""
        bins = y.shape[3]
        length = 2 ** math.ceil(math.log2(2 * bins))
        # the ramp in space (Kak and Slaney, Chapter 3), whose transform has the right mean
        n = torch.arange(length, device=y.device)
        n = torch.where(n < length // 2, n, n - length)
        kernel = torch.where(n % 2 == 1, -1 / (math.pi * n.double()) ** 2, 0.0)
        kernel[0] = 0.25
        ramp = per_channel(torch.fft.rfft(kernel).real.to(y.dtype), y[0, 0, 0])
        filtered = torch.fft.irfft(torch.fft.rfft(y, n=length, dim=3) * ramp, n=length, dim=3)[:, :, :, :bins]
        return self.adjoint(filtered) * (math.pi / len(self.angles))
