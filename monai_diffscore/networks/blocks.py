r"""Blocks of the networks: time embeddings, FiLM residual blocks, attention, resampling.

**Time embedding.** Networks receive :math:`c_{noise} = \ln(\sigma)/4`. It is about [-1.6, 1.1] for noise levels from
0.002 to 80. The frequencies of the embeddings suit that range: one period of the lowest frequency covers it, and the
highest frequency resolves a factor of about two in sigma. (The positional encoding of DDPM, for t in 0..1000, is nearly
constant on this range.)

**FiLM** (Perez et al. 2018, arXiv:1709.07871; "AdaGN" of Dhariwal and Nichol 2021, arXiv:2105.05233, Section 3.1): each
residual block scales and shifts its normalised activations by an affine function of the embedding of noise level
and condition, :math:`h \leftarrow (1 + \gamma(e)) \mathrm{norm}(h) + \beta(e)`.

Every residual branch ends in a layer of zeros: each block is the identity before training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_diffscore.tensors import per_sample


class ThinConv3d(nn.Conv3d):
    """A 3-D convolution. On a CPU it trains in float32 on volumes thinner than its kernel, even under autocast.

    It avoids a fault of oneDNN in torch 2.13 (with AVX-512): the bfloat16 gradient of a 3 x 3 x 3 weight on volumes of
    two voxels along the first axis (of a 5 x 5 x 5 weight, three or four voxels) reads uninitialised memory. Most such
    gradients are not finite, or differ from run to run.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.shape[2] >= self.kernel_size[0] or not torch.is_grad_enabled():
            return super().forward(x)
        dtype = x.dtype
        if torch.is_autocast_enabled("cpu") and dtype != torch.float64:  # autocast does not change float64
            dtype = torch.get_autocast_dtype("cpu")
        if dtype not in (torch.bfloat16, torch.float16):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return self._conv_forward(x.float(), self.weight.float(), bias).to(dtype)


CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d] | type[nn.Conv3d]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: ThinConv3d,
}


def convolution(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, ...] = 3,
    stride: int | tuple[int, ...] = 1,
    padding: int | None = None,
) -> nn.Module:
    """A convolution in 1, 2 or 3 dimensions. The default padding keeps the size at stride 1 (odd kernels).

    Raises:
        ValueError: for another number of dimensions.
    """
    if spatial_dims not in CONVOLUTIONS:
        raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}.")
    if padding is None:
        padding = (kernel_size - 1) // 2 if isinstance(kernel_size, int) else 0
    layer: nn.Module = CONVOLUTIONS[spatial_dims](
        in_channels,
        out_channels,
        kernel_size,  # type: ignore[arg-type]
        stride=stride,  # type: ignore[arg-type]
        padding=padding,
    )
    return layer


def check_image(network: nn.Module, x: Tensor, spatial_dims: int, in_channels: int) -> None:
    """Raises a ValueError unless x is [B, in_channels, *S] with ``spatial_dims`` spatial axes."""
    if x.ndim != spatial_dims + 2 or x.shape[1] != in_channels:
        raise ValueError(
            f"{type(network).__name__} with spatial_dims={spatial_dims} and in_channels={in_channels} expects x "
            f"[B, {in_channels}, {', '.join('XYZ'[:spatial_dims])}], got {tuple(x.shape)}."
        )


def check_stride(network: nn.Module, x: Tensor, stride: int) -> None:
    """Raises a ValueError unless the spatial sizes of x are divisible by ``stride``."""
    if any(size % stride for size in x.shape[2:]):
        raise ValueError(
            f"{type(network).__name__} halves the size level by level and needs spatial sizes divisible by {stride}, "
            f"got {tuple(x.shape[2:])} from x {tuple(x.shape)}. "
            f'Crop patches to such a size, or pad with DivisiblePadd(keys="image", k={stride}).'
        )


def run_checkpointed(module: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """``module(*inputs)``. With ``checkpointing`` a training recomputes it in the backward pass, for memory."""
    if checkpointing and module.training and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


def modulate(h: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    r""":math:`(1 + \gamma) h + \beta`."""
    return torch.addcmul(beta, h, 1 + gamma)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Splits a joint projection [B, N, 3 * heads * d] into queries, keys and values [B, heads, N, d]."""
    return qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def space_to_depth(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Maps [B, C, *S] to [B, C * P, *S / stride], P = prod(stride): the pixels of a block become channels.

    The order of the channels is (C, *stride). :func:`depth_to_space` is the exact inverse.
    """
    dims = len(stride)
    split = x.reshape(
        *x.shape[:2], *(n for edge, step in zip(x.shape[2:], stride, strict=True) for n in (edge // step, step))
    )
    order = (0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))  # batch, channels, block, grid
    return split.permute(order).flatten(1, 1 + dims)


def depth_to_space(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Inverts :func:`space_to_depth`: maps [B, C * P, *S] to [B, C, *S * stride]."""
    dims = len(stride)
    split = x.unflatten(1, (-1, *stride))  # (B, C, *stride, *S)
    order = (0, 1, *(axis for pair in range(dims) for axis in (2 + dims + pair, 2 + pair)))
    joined = split.permute(order)
    for axis in range(2, 2 + dims):
        joined = joined.flatten(axis, axis + 1)
    return joined


def zero_init(module: nn.Module) -> nn.Module:
    """Sets all parameters of the module to 0 and returns it."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def add_local_variance(output: Tensor, x: Tensor, c_noise: Tensor) -> Tensor:
    r"""The raw network of a denoiser that knows the variance of the data at each voxel, of an output (F, b).

    .. math::  D = \frac{s^2}{s^2 + \sigma^2} x + c_{out} F, \qquad s^2 = e^b, \qquad \text{by} \quad
               F + \frac{\sigma (s^2 - 1)}{s^2 + \sigma^2} c_{in} x

    The first term is the posterior mean of data N(0, s^2). The preconditioning alone has s = sigma_data = 1 everywhere.
    Where the data are nearly constant (air, flat tissue), F would have to repeat the noise to remove it. It cannot,
    because the layers normalise each voxel. At b = 0 the result is F.

    Args:
        output: [B, 2 C, *S]; b is bounded to -12 to 4.
        x: input of the network, :math:`c_{in} x`, [B, C, *S], of data of standard deviation 1.
        c_noise: :math:`\tfrac14 \ln \sigma`, [B].
    """
    sigma = per_sample(torch.exp(4 * c_noise.float()), x)
    raw, log_variance = output.chunk(2, dim=1)
    variance = log_variance.float().clamp(-12, 4).exp()
    return raw + sigma * (variance - 1) / (variance + sigma**2) * x


def named_size(presets: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """The constructor options of a named size.

    Raises:
        ValueError: for a name that is not in ``presets``.
    """
    if name not in presets:
        raise ValueError(f"Expected one of the sizes {list(presets)}, got {name!r}.")
    return dict(presets[name])


def channels_last(x: Tensor) -> Tensor:
    """x [B, C, *S] with channels innermost in memory, for fast convolutions. It does not change 1-D data."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.ndim]) if x.ndim in formats else x


class SinusoidalTimeEmbedding(nn.Module):
    r"""Sines and cosines of :math:`c_{noise}` [B] at geometrically spaced frequencies, [B, features].

    Args:
        features: even number of outputs, at least 4.
        min_frequency: lowest frequency, in cycles per unit of c_noise. The period of the default is 8.
        max_frequency: highest frequency, in the same unit. The default has one cycle for a factor e in sigma.
    Raises:
        ValueError: for another number of features.
    """

    frequencies: Tensor

    def __init__(self, features: int, min_frequency: float = 0.125, max_frequency: float = 4.0) -> None:
        super().__init__()
        if features % 2 or features < 4:
            raise ValueError(f"SinusoidalTimeEmbedding expects an even number of features, at least 4, got {features}.")
        exponents = torch.linspace(math.log(min_frequency), math.log(max_frequency), features // 2)
        self.register_buffer("frequencies", 2 * math.pi * exponents.exp(), persistent=False)

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies.to(c_noise.dtype)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierFeatures(nn.Module):
    r"""Random Fourier features :math:`\sqrt2 \cos(2\pi (f x + \varphi))` of a scalar [B], [B, features].

    They have unit variance.

    Args:
        features: number of outputs.
        bandwidth: standard deviation of the frequencies f, in cycles per unit; 1 suits c_noise and z-scored covariates.

    Source: Tancik et al. 2020, arXiv:2006.10739, Eq. 5; the phase form is Karras et al. 2024, arXiv:2312.02696, Eq. 75.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int, bandwidth: float = 1.0) -> None:
        super().__init__()
        # random and therefore persistent: a checkpoint needs them
        self.register_buffer("frequencies", 2 * math.pi * bandwidth * torch.randn(features))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features))

    def forward(self, values: Tensor) -> Tensor:
        angles = values[:, None] * self.frequencies.to(values.dtype) + self.phases.to(values.dtype)
        return math.sqrt(2) * angles.cos()


class FiLM(nn.Module):
    r""":math:`(1 + \gamma(e))\,h + \beta(e)` of h [B, C, ...] and e [B, embedding_size]; h before training."""

    def __init__(self, embedding_size: int, channels: int) -> None:
        super().__init__()
        self.affine = zero_init(nn.Linear(embedding_size, 2 * channels))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        gamma, beta = self.affine(embedding).unflatten(1, (2, -1)).unbind(1)
        return modulate(h, per_sample(gamma, h), per_sample(beta, h))


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each position, [B, C, *S] to [B, C, *S].

    Each position has its own statistics. Unlike with group normalisation, they do not depend on the window of a volume.
    Its kernels are fast for channels innermost in memory. Source: Ba et al. 2016, arXiv:1607.06450, Eq. 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)  # for two dtypes autocast uses a slow kernel
        return F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, 1e-5).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, norm, FiLM, SiLU, zero convolution, plus the input. [B, C, *S] to [B, C, *S]."""

    def __init__(self, spatial_dims: int, channels: int, embedding_size: int) -> None:
        super().__init__()
        self.norm_in = ChannelNorm(channels)
        self.conv_in = convolution(spatial_dims, channels, channels)
        self.norm_out = ChannelNorm(channels)
        self.film = FiLM(embedding_size, channels)
        self.conv_out = zero_init(convolution(spatial_dims, channels, channels))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_in(F.silu(self.norm_in(x)))
        return x + self.conv_out(F.silu(self.film(self.norm_out(h), embedding)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all positions, plus the input. [B, C, *S] to [B, C, *S].

    Raises:
        ValueError: if the number of channels is no multiple of ``head_channels``.
    """

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        if channels % head_channels:
            raise ValueError(
                f"Attention needs channels divisible by num_head_channels, got {channels} channels and {head_channels}."
            )
        self.heads = channels // head_channels
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        q, k, v = split_heads(self.qkv(tokens), self.heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, C)
        return x + self.project(attended).transpose(1, 2).reshape(x.shape)
