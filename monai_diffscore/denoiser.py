r"""The denoiser :math:`D(x, \sigma)`: samplers, losses, likelihoods and guidance all call this one function.

For a noisy :math:`x = x_0 + \sigma n`

.. math::  D(x, \sigma) = E[x_0 \mid x], \qquad
           \nabla_x \ln p_\sigma(x) = \frac{D(x, \sigma) - x}{\sigma^2}
           \quad \text{(Tweedie; Karras et al. 2022, Eq. 3)}.

A network F becomes a denoiser by **preconditioning** (Karras et al. 2022, Eq. 7):

.. math::  D(x, \sigma) = c_{skip} x + c_{out}\, F(c_{in} x,\, c_{noise}).

EDM, noise (VP, VE), velocity and flow prediction differ in these four coefficients alone. All set ``c_noise`` to
:math:`\ln(\sigma)/4`. One time embedding therefore serves every formulation, and a network never sees an SDE.

:class:`MixtureDenoiser` and :class:`GaussianDenoiser` are exact. Tests use them to measure the error of a sampler, a
likelihood or a guidance.

Shapes: ``x`` is [B, ...] with any number of further dimensions. ``sigma`` is [B], a 0-d tensor or a float, in units of
the (normalised) data.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from contextlib import nullcontext, suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn

from monai_diffscore.tensors import (
    check_estimate,
    check_floating,
    noise_like,
    per_sample,
    per_sample_sigma,
    positive_sigma,
)

#: what to do about data of another scale
NORMALISE = (
    "Normalise the data to mean 0 (grey values from 0 to 255: x0 / 127.5 - 1), or give EDMPreconditioning the standard "
    "deviation of the data as sigma_data."
)


class Coefficients(NamedTuple):
    """The four coefficients of :math:`D = c_{skip} x + c_{out} F(c_{in} x, c_{noise})`, each of shape [B]."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Preconditioning(nn.Module, ABC):
    """Maps noise levels [B] to :class:`Coefficients`.

    A preconditioning is a module, so that the state_dict holds its name and its buffers. Weights of another
    preconditioning have the same shapes and another meaning. ``load_state_dict`` refuses them by the name.
    """

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(type(self).__name__.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        trained = bytes(state.tolist()).decode()
        if trained != type(self).__name__:
            raise ValueError(
                f"Expected weights of {type(self).__name__}, got weights that were trained with {trained}. Use the "
                "overlay (or preconditioning) of the training for sampling and evaluation, too."
            )

    @property
    def assumed_std(self) -> float | None:
        """The standard deviation that the formula assumes of the data; None if it assumes none."""
        return 1.0

    @abstractmethod
    def forward(self, sigma: Tensor) -> Coefficients: ...

    def __call__(self, sigma: Tensor) -> Coefficients:
        return super().__call__(sigma)


class EDMPreconditioning(Preconditioning):
    r"""Gives the network's input and target unit variance at every noise level.

    :math:`c_{skip} = s^2/(\sigma^2+s^2)`, :math:`c_{out} = \sigma s/\sqrt{\sigma^2+s^2}`,
    :math:`c_{in} = 1/\sqrt{\sigma^2+s^2}`, with s = ``sigma_data``.

    Args:
        sigma_data: standard deviation of the training data, whose mean is near 0. It is a buffer: a checkpoint holds
            the value of its training.
    Raises:
        ValueError: unless sigma_data is finite and > 0.

    Source: Karras et al. 2022, Table 1 (column "Ours").
    """

    sigma_data: Tensor

    def __init__(self, sigma_data: float = 0.5) -> None:
        super().__init__()
        if not (sigma_data > 0 and math.isfinite(sigma_data)):
            raise ValueError(f"Expected sigma_data, the standard deviation of the data, to be > 0, got {sigma_data}.")
        self.register_buffer("sigma_data", torch.tensor(float(sigma_data)))

    @property
    def assumed_std(self) -> float:
        return float(self.sigma_data)

    def forward(self, sigma: Tensor) -> Coefficients:
        sigma_data = self.sigma_data.to(sigma.dtype)
        total = torch.sqrt(sigma**2 + sigma_data**2)
        return Coefficients((sigma_data / total) ** 2, sigma * sigma_data / total, 1 / total, sigma.log() / 4)

    def extra_repr(self) -> str:
        return f"sigma_data={self.sigma_data.item():.4g}"


class VPPreconditioning(Preconditioning):
    r"""The network predicts the noise of a variance-preserving process: :math:`D = x - \sigma F`.

    :math:`c_{in} = 1/\sqrt{1+\sigma^2}` is the VP signal scale. Source: Karras et al. 2022, Table 1 (column "VP").
    """

    def forward(self, sigma: Tensor) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / torch.sqrt(1 + sigma**2), sigma.log() / 4)


class VEPreconditioning(Preconditioning):
    r"""The network predicts :math:`\sigma` times the score of unscaled data: :math:`D = x + \sigma F(x)`.

    Source: Karras et al. 2022, Table 1 (column "VE").
    """

    @property
    def assumed_std(self) -> None:
        return None

    def forward(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, sigma.log() / 4)


class VelocityPreconditioning(Preconditioning):
    r"""The network predicts :math:`v = \alpha n - \mathrm{std}\, x_0` of a VP process.

    With :math:`\alpha = 1/\sqrt{1+\sigma^2}`: :math:`D = \alpha^2 x - \sigma \alpha F(\alpha x)`.
    Source: Salimans and Ho 2022, arXiv:2202.00512, Section 4 and Appendix D.
    """

    def forward(self, sigma: Tensor) -> Coefficients:
        alpha = 1 / torch.sqrt(1 + sigma**2)
        return Coefficients(alpha**2, -sigma * alpha, alpha, sigma.log() / 4)


class FlowPreconditioning(Preconditioning):
    r"""The network predicts the velocity :math:`n - x_0` of the straight path :math:`x_t = (1-t) x_0 + t n`.

    With :math:`t = \sigma/(1+\sigma)`: :math:`D = x_t - t F(x_t)`, :math:`x_t = x/(1+\sigma)`.
    Source: Liu et al. 2022, arXiv:2209.03003, Eq. 1; Lipman et al. 2023, arXiv:2210.02747, Eq. 23.
    """

    def forward(self, sigma: Tensor) -> Coefficients:
        scale = 1 / (1 + sigma)
        return Coefficients(scale, -sigma * scale, scale, sigma.log() / 4)


class Denoiser(nn.Module):
    """A preconditioned network. It returns :math:`D(x, \\sigma)`, in the shape and dtype of ``x``.

    The network runs in its own precision: the dtype of its parameters, or ``autocast_dtype``. The coefficients and the
    sum with ``c_skip x`` are in the dtype of ``x``, which may be float64.

    Args:
        network: called as ``network(x, c_noise, **condition)`` with x [B, ...] and c_noise [B].
        preconditioning: the parameterisation.
        autocast_dtype: ``torch.bfloat16`` runs the network under autocast, on CPU and CUDA. With None an outer autocast
            (MONAI's ``amp``) decides.
        default_sigma: noise level of a call without sigma, in units of the data. Export tools and one-shot denoising
            servers call ``forward(x)``.
        start: a denoiser of (x, sigma, condition) that the network corrects: it replaces :math:`c_{skip} x`.
    Raises:
        ValueError: in the call: for sigma <= 0 or NaN (a number, or a tensor on the CPU), or a network that returns
            another shape than x.
        TypeError: for another preconditioning or autocast_dtype; in the call: for a network that does not return a
            tensor.

    The first call outside of a training warns of ``x`` that is far larger than data with its noise, such as grey values
    of 255.
    """

    def __init__(
        self,
        network: nn.Module,
        preconditioning: Preconditioning,
        autocast_dtype: torch.dtype | None = None,
        default_sigma: float = 0.5,
        start: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(preconditioning, Preconditioning):
            kind = "the class " if isinstance(preconditioning, type) else ""
            name = getattr(preconditioning, "__name__", type(preconditioning).__name__)
            raise TypeError(
                f"Denoiser expects a network and an object such as EDMPreconditioning(sigma_data), got {kind}{name}."
            )
        if not isinstance(autocast_dtype, torch.dtype | None):
            raise TypeError(f"Denoiser expects autocast_dtype as torch.bfloat16 or None, got {autocast_dtype!r}.")
        self.network = network
        self.preconditioning = preconditioning
        self.autocast_dtype = autocast_dtype
        self.default_sigma = default_sigma
        self.start = start
        self._compared = False

    def forward(self, x: Tensor, sigma: Tensor | float | None = None, **condition: Tensor) -> Tensor:
        sigma = positive_sigma(x, self.default_sigma if sigma is None else sigma)
        if not self._compared and not (self.training and torch.is_grad_enabled()):
            self._compared = True
            with suppress(RuntimeError):  # traced, compiled and batched (torch.func) states have no values
                _warn_of_another_scale(x, sigma, self.preconditioning)
        c = self.preconditioning(sigma)
        parameter = next(self.network.parameters(), x)
        # a trace records the cast of each weight; autocast's cache would leave out all casts but the first
        precision = (
            nullcontext()
            if self.autocast_dtype is None
            else torch.autocast(x.device.type, dtype=self.autocast_dtype, cache_enabled=not torch.jit.is_tracing())
        )
        with precision:
            output = self.network(
                (per_sample(c.c_in, x) * x).to(parameter.dtype), c.c_noise.to(parameter.dtype), **condition
            )
        check_estimate(output, x, "the network")
        skip = per_sample(c.c_skip, x) * x if self.start is None else self.start(x, sigma, **condition)
        return skip + per_sample(c.c_out, x) * output.to(x.dtype)

    def __prepare_scriptable__(self) -> nn.Module:
        """The module that ``torch.jit.script`` compiles: a trace, since TorchScript has no ``**condition``."""
        return ScriptableDenoiser(self)


def _warn_of_another_scale(x: Tensor, sigma: Tensor, preconditioning: Preconditioning) -> None:
    std = preconditioning.assumed_std
    if std is None or x.numel() < 64 or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return
    scale, noise = (float(values.detach().double().square().mean().sqrt()) for values in (x, sigma))
    if scale > 5 * math.hypot(std, noise):
        warnings.warn(
            f"x has a root mean square of {scale:.4g}, the {type(preconditioning).__name__} of the denoiser expects "
            f"{math.hypot(std, noise):.4g} (data of {std:.4g} with noise of {noise:.4g}). {NORMALISE}",
            stacklevel=5,
        )


class ScriptableDenoiser(nn.Module):
    """A traced :class:`Denoiser` without conditions, for TorchScript files and MONAI's ``ckpt_export``.

    Call it as ``module(x)``, at the default noise level, or ``module(x, sigma)`` with sigma [B]. It runs at any batch
    size, and at the spatial sizes of the network.

    Args:
        denoiser: its network has ``example_shape``. The constructor sets it to evaluation mode.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        parameter = next(denoiser.parameters())
        shape: tuple[int, ...] = denoiser.network.example_shape  # type: ignore[assignment]
        x = torch.zeros(2, *shape, device=parameter.device)
        with torch.no_grad(), warnings.catch_warnings():
            # the checks of shapes run once, while tracing: the trace needs none
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            self.traced = torch.jit.trace(denoiser.eval(), (x, x.new_full((2,), denoiser.default_sigma)))
        self.default_sigma = denoiser.default_sigma

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        if sigma is None:
            sigma = torch.full([x.shape[0]], self.default_sigma, dtype=x.dtype, device=x.device)
        denoised: Tensor = self.traced(x, sigma)
        return denoised


def score(denoiser: nn.Module, x: Tensor, sigma: Tensor | float, **condition: Tensor) -> Tensor:
    r"""The score :math:`\nabla_x \ln p_\sigma(x) = (D(x, \sigma) - x) / \sigma^2`, in the shape of ``x``.

    Args:
        denoiser: any denoiser.
        x: noisy data [B, ...].
        sigma: noise levels > 0, [B] or a number, in units of the data.
        condition: fields of the denoiser.
    Raises:
        ValueError: for sigma <= 0 or NaN (a number, or a tensor on the CPU).

    Source: Karras et al. 2022, Eq. 3.
    """
    sigma = positive_sigma(x, sigma)
    return (denoiser(x, sigma, **condition) - x) / per_sample(sigma, x) ** 2


class MixtureDenoiser(nn.Module):
    r"""The exact denoiser of data :math:`x_0 \sim \sum_k w_k N(m_k, C_k)`.

    .. math::  D(x, \sigma) = \sum_k r_k(x)\,\bigl[m_k + C_k (C_k + \sigma^2 I)^{-1} (x - m_k)\bigr],
               \qquad r_k \propto w_k N(x; m_k, C_k + \sigma^2 I).

    Args:
        weights: [K], positive. The constructor normalises them.
        means: [K, ...]; the trailing shape is the shape of one sample.
        covariances: [K, d, d], positive semi-definite, with d the number of elements of one sample.
        dtype: of the stored parameters; float64 for reference values.
    Raises:
        ValueError: for weights or covariances of other shapes, weights <= 0, or covariances that are not symmetric or
            not positive semi-definite; in the call: for sigma <= 0, or x of another shape.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        components, dims = means.shape[0], means[0].numel()
        if weights.shape != (components,) or covariances.shape != (components, dims, dims):
            raise ValueError(
                f"Expected weights of shape ({components},) and covariances of shape ({components}, {dims}, {dims}) "
                f"for {components} means of {dims} elements, got {tuple(weights.shape)} and "
                f"{tuple(covariances.shape)}."
            )
        if not bool((weights > 0).all()):
            raise ValueError(f"Expected weights > 0, got {weights.tolist()[:8]}.")
        variances, axes = torch.linalg.eigh(covariances.to(dtype))
        tolerance = 1e-4 * float(covariances.abs().amax())
        if bool((covariances - covariances.mT).abs().max() > tolerance) or bool(variances.min() < -tolerance):
            raise ValueError(
                "Expected symmetric covariances that are positive semi-definite, got a smallest eigenvalue of "
                f"{float(variances.min()):.4g}. Give C = A A^T, such as torch.eye(d)."
            )
        self.sample_shape = tuple(means.shape[1:])
        self.register_buffer("log_weights", (weights / weights.sum()).to(dtype).log())
        self.register_buffer("means", means.reshape(components, dims).to(dtype))
        self.register_buffer("variances", variances.clamp_min(0))  # (K, d)
        self.register_buffer("axes", axes)  # (K, d, d), eigenvectors in columns

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    axes: Tensor

    def _checked(self, x: Tensor) -> Tensor:
        dims = self.means.shape[1]
        if x.ndim < 2 or x[:1].numel() not in (0, dims):
            raise ValueError(f"Expected x of shape [B, ...] with {dims} elements in each sample, got {tuple(x.shape)}.")
        return x.to(self.means.dtype)

    def _components(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln p(x, k) [B, K], x - m_k in eigenvector coordinates [B, K, d], and the variance there [B, K, d]."""
        offset = torch.einsum("bkd,kde->bke", x.flatten(1)[:, None] - self.means, self.axes)  # (B, K, d)
        total = self.variances + sigma[:, None, None] ** 2  # (B, K, d)
        log_density = -0.5 * (offset**2 / total + total.log() + math.log(2 * math.pi)).sum(-1)
        return self.log_weights + log_density, offset, total

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """:math:`D(x, \\sigma)` for x [B, ...], in the dtype of ``x``. The computation is in the stored dtype."""
        check_floating(x)
        state = self._checked(x)
        log_joint, offset, total = self._components(state, positive_sigma(state, sigma))
        shrunk = torch.einsum("bke,kde->bkd", self.variances / total * offset, self.axes)
        denoised = torch.einsum("bk,bkd->bd", log_joint.softmax(-1), self.means + shrunk)
        return denoised.reshape(x.shape).to(x.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """The exact log density [B] of ``x`` at noise level ``sigma`` >= 0, in nats. 0 is the data itself.

        Raises:
            ValueError: for sigma < 0, or x of another shape.
        """
        state = self._checked(x)
        if not bool((torch.as_tensor(sigma) >= 0).all()):
            raise ValueError(f"Expected sigma >= 0, got {torch.as_tensor(sigma).flatten().tolist()[:8]}.")
        return self._components(state, per_sample_sigma(state, sigma))[0].logsumexp(-1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``count`` independent draws of the data, [count, ...]."""
        weights = self.log_weights.exp()
        component = torch.multinomial(weights, count, replacement=True, generator=generator)
        normal = noise_like(self.means[component], generator)
        deviation = torch.einsum("bde,be->bd", self.axes[component], self.variances[component].sqrt() * normal)
        return (self.means[component] + deviation).reshape(count, *self.sample_shape)

    def posterior(self, matrix: Tensor, y: Tensor, noise_std: float) -> MixtureDenoiser:
        r"""The exact denoiser of the data given :math:`y = A x_0 + \sigma_y n`. The posterior is a mixture.

        Each component of the posterior is the Gaussian posterior of a component of the prior. Its weight is the
        prior's weight times the evidence :math:`N(y; A m_k, A C_k A^T + \sigma_y^2 I)`.

        Args:
            matrix: A, [m, d].
            y: one measurement, m elements.
            noise_std: :math:`\sigma_y > 0`.
        """
        dtype = self.means.dtype
        matrix, y = matrix.to(dtype), y.flatten().to(dtype)
        covariances = torch.einsum("kde,ke,kfe->kdf", self.axes, self.variances, self.axes)
        total = matrix @ covariances @ matrix.mT + noise_std**2 * torch.eye(len(matrix), dtype=dtype)  # (K, m, m)
        residual = y - self.means @ matrix.T  # (K, m)
        gain = torch.linalg.solve(total, matrix @ covariances).mT  # (K, d, m)
        evidence = torch.distributions.MultivariateNormal(torch.zeros_like(residual), total).log_prob(residual)
        means = self.means + torch.einsum("kdm,km->kd", gain, residual)
        weights = (self.log_weights + evidence).softmax(0)
        covariances = covariances - gain @ matrix @ covariances
        return MixtureDenoiser(weights, means.reshape(-1, *self.sample_shape), covariances, dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean [d] and the covariance [d, d] of the data."""
        weights = self.log_weights.exp()
        mean = weights @ self.means
        within = torch.einsum("k,kde,ke,kfe->df", weights, self.axes, self.variances, self.axes)
        offset = self.means - mean
        return mean, within + torch.einsum("k,kd,ke->de", weights, offset, offset)


class GaussianDenoiser(MixtureDenoiser):
    r"""The exact denoiser of :math:`x_0 \sim N(m, C)`: :math:`D = m + C (C + \sigma^2 I)^{-1} (x - m)`.

    Args:
        mean: in the shape of one sample.
        covariance: [d, d], positive semi-definite, with d the number of elements of one sample.
        dtype: of the stored parameters; float64 for reference values.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(torch.ones(1), mean[None], covariance[None], dtype)
