r"""From noise to data: grids of noise levels, and solvers that walk down them.

In noise coordinates the probability-flow ODE of every SDE is (Karras et al. 2022, Eq. 1 and 3)

.. math::  \frac{dx}{d\sigma} = \frac{x - D(x, \sigma)}{\sigma}
           \quad\Longleftrightarrow\quad
           x_{s} = \frac{s}{\sigma}\, x_\sigma + s \int_s^\sigma \frac{D(x_u, u)}{u^2}\, du .

The right-hand form is exact, with the linear part solved; the exponential integrators approximate D alone. With D
frozen it gives :math:`x_s = D + \frac{s}{\sigma}(x - D)`, which is Euler, and DDIM.

A **grid** is a float64 tensor [steps + 1] of descending noise levels that usually ends in 0; arrays and lists serve
too. A **solver** is a pure function of ``(denoise, x, sigmas)``: it keeps no state and is told each level that it steps
between, so that any grid serves any solver. ``denoise(x, sigma)`` gets sigma as [B] in the dtype of x, and has its
condition bound (``functools.partial(denoiser, **condition)``); guidance, inverse problems and tiling wrap it.

``x`` starts at the largest level: ``x = sigmas[0] * noise``, plus a mean if the data has one. (Noise of mean 0 at
sigma_max scales the mean of the samples by about :math:`1 - s/\sigma_{max}`.) Steps to 0 end on the denoiser.
Nothing is clipped.

**Which one.** :func:`sample_adams` on :func:`asinh_sigmas`, at any number of evaluations: docs/BENCHMARKS_SAMPLING.md
has the figures. ``ORDERS`` declares the order of convergence of the deterministic solvers; the tests measure it.

A callback sees each :class:`Step`, and stops the sampling by returning True: the sampler then returns the denoiser's
current estimate.
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
