r"""Guidance and inverse problems: denoisers that wrap denoisers.

Guidance adds a likelihood to the prior. The gradient of the likelihood shifts the estimate of the denoiser:

.. math::  D_y(x, \sigma) = E[x_0 \mid x, y] = D(x, \sigma) + \sigma^2\, \nabla_x \ln p_\sigma(y \mid x) .

Every class here is a module with ``forward(x, sigma, **condition)``. It wraps a denoiser and is a denoiser. It
therefore combines with every sampler, with the likelihood, with :class:`~monai_diffscore.tiling.TiledDenoiser`, and
with other guidance.

``extrapolation`` has guidance by a weaker denoiser, ``inpaint`` replacement, ``posterior`` linear measurements with
Gaussian noise, ``counts`` measured counts.
"""

from monai_diffscore.exports import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "counts": "LikelihoodGuidance",
        "extrapolation": "Autoguidance ClassifierFree GuidanceInterval",
        "inpaint": "Inpaint",
        "posterior": "GuidanceMethod PosteriorGuidance",
    },
)
