r"""Linear measurements :math:`y = A x + \sigma_y n` of an image or a profile, for inverse problems.

Each operator is a module with

* ``forward(x)``: :math:`A x`, for a batch x [B, ...], differentiable;
* ``adjoint(y)``: :math:`A^T y`, with :math:`\langle A x, y\rangle = \langle x, A^T y\rangle` (the tests check it for
  all operators);
* ``solve(y, prior_variance, noise_variance)``: :math:`(r^2 A A^T + \sigma_y^2 I)^{-1} y`. The mean of the Gaussian
  posterior for :math:`x \sim N(m, r^2 I)` is :math:`m + r^2 A^T (r^2 A A^T + \sigma_y^2 I)^{-1}(y - A m)`. If an
  explicit basis makes A A^T diagonal, the solution has a closed form; otherwise conjugate gradients compute it;
* ``pseudo_inverse(y)``: the regularised least-squares image of smallest norm, a starting point and a baseline.

==============================  =========================================  ============================================
operator                        measurement                                x to y
==============================  =========================================  ============================================
:class:`Mask`                   inpainting, cropped field of view          [B, C, *S] to the same
:class:`Downsample`             thick slices, low resolution               [B, C, *S] to [B, C, *S / factors]
:class:`Blur`                   Gaussian point spread function             [B, C, *S] to the same
:class:`FourierUndersampling`   accelerated MR, one or several coils       [B, C, *S] to [B, C, coils, *S, 2]
:class:`Radon`                  CT, sparse-view or limited-angle           [B, C, X, Y, Z] to [B, C, angles, bins, Z]
:class:`GeneDropout`            panels, zeros of single-cell counts        [B, G] to the same
:class:`GeneLoadings`           a panel, by a model of components          [B, K] to [B, G]
==============================  =========================================  ============================================

All tensors are real. Complex measurements hold (real, imaginary) in a last axis of size 2: the inner product and the
standard deviation of the noise are those of real tensors.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "genes": "GeneDropout GeneLoadings",
        "k_space": "FourierUndersampling cartesian_lines",
        "linear_map": "Operator conjugate_gradients",
        "mask": "Mask",
        "radon": "Radon",
        "resolution": "Blur Downsample",
    },
)
