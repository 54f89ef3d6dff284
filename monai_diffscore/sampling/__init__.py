r"""Samplers: grids of noise levels, and solvers that integrate from the largest level to the smallest.

In noise coordinates the probability-flow ODE of every SDE is (Karras et al. 2022, Eq. 1 and 3)

.. math::  \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma}
           \quad\Longleftrightarrow\quad
           x_{s} = \frac{s}{\sigma}\, x_\sigma + s \int_s^\sigma \frac{D(x_u, u)}{u^2}\, du .

The right-hand form is exact. It solves the linear part, and exponential integrators approximate D alone. A constant D
gives :math:`x_s = D + \frac{s}{\sigma}(x - D)`. This is Euler's method, and DDIM.

A **grid** is a float64 tensor [steps + 1] of descending noise levels that usually ends in 0. An array or a list is a
grid, too. A **solver** is a pure function of ``(denoise, x, sigmas)``. It keeps no state, and takes any grid.
``denoise(x, sigma)`` gets sigma as [B] in the dtype of x. Bind its condition: ``functools.partial(denoiser,
**condition)``. Guidance, inverse problems and tiling wrap it.

``x`` starts at the largest level: ``x = sigmas[0] * noise``, plus the mean of the data. (A start of mean 0 at sigma_max
scales the mean of the samples by about :math:`1 - s/\sigma_{max}`.) A step to 0 returns an estimate of :math:`D` at the
last positive level, or its extrapolation to 0 (:func:`sample_adams`). No solver clips.

**Recommendation.** :func:`sample_adams` on :func:`asinh_sigmas`, for any number of evaluations:
docs/BENCHMARKS_SAMPLING.md has the figures. ``ORDERS`` declares the order of convergence of the deterministic solvers;
the tests measure it.

A callback gets each :class:`Step`. It stops the sampling by returning True: the sampler then returns the current
estimate of the denoiser.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "deterministic": "encode ORDERS sample_adams sample_dpmpp_2m sample_euler sample_heun sample_rk45",
        "grids": "Grid asinh_sigmas check_sigmas cosine_sigmas karras_sigmas log_uniform_sigmas time_uniform_sigmas",
        "steps": "Callback Denoise Step",
        "stochastic": (
            "sample_ancestral sample_dpmpp_2m_sde sample_predictor_corrector sample_repaint sample_reverse_sde"
        ),
    },
)
