r"""Converts colours to 8-bit red, green and blue, with an error for ambiguous values, and to optical density.

Stains absorb light: they add in optical density (Beer and Lambert), not in brightness. For 8-bit intensities I and the
colour w of the empty glass,

.. math::  OD = -\ln\frac{I + 1}{w + 1}, \qquad I = (w + 1)\,e^{-OD} - 1 .

The 1 keeps black finite (5.5), and the map is exactly invertible for every I, blank and black tiles included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.tensors import per_channel


def optical_density(intensity: Tensor, white: float | Sequence[float] = 255.0) -> Tensor:
    """Optical density of intensities [3, ...] in 0 to 255; negative for intensities brighter than ``white``."""
    glass = _for_channels(white, intensity)
    return -torch.log((intensity + 1) / (glass + 1))


def intensity_of(density: Tensor, white: float | Sequence[float] = 255.0) -> Tensor:
    """The inverse of :func:`optical_density`, not clipped."""
    return (_for_channels(white, density) + 1) * torch.exp(-density) - 1


def _for_channels(white: float | Sequence[float], like: Tensor) -> Tensor:
    glass = torch.as_tensor(white, dtype=torch.get_default_dtype() if not like.is_floating_point() else like.dtype)
    return per_channel(torch.atleast_1d(glass.to(like.device)), like)


def as_rgb8(
    image: np.ndarray,
    source: object = "an image",
    key: str = "image",
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    r"""The image as uint8 [3, H, W].

    Values v of a stated ``value_range`` become ``round(255 (v - low)/(high - low))``; 8-bit values stay. A fourth
    channel is alpha a: the image is composed on white, :math:`a v + (1 - a)\,255`; an opaque channel has no effect.

    Args:
        image: [3, H, W] or [4, H, W].
        source, key: names of the image, for messages.
        value_range: (low, high) of black and white, required for other types than uint8: 16 bits may contain 12, and
            float may mean [0, 1] or [0, 255].
    Raises:
        DataError: for another shape, another type without ``value_range``, values outside of it, NaN or infinity.
    """
    if image.ndim != 3 or image.shape[0] not in (3, 4):
        last = image.ndim == 3 and image.shape[-1] in (3, 4)
        raise DataError(
            source,
            key=key,
            expected="red, green and blue (and alpha) as the first axis: [3, H, W] or [4, H, W]",
            got=f"shape {tuple(image.shape)}",
            remedy="Move the channels to the front (EnsureChannelFirstd)." if last else "Use colour images.",
        )
    if value_range is None and image.dtype == np.uint8:
        return on_white(image)
    return on_white(np.rint(as_brightness(image, source, key, value_range)).astype(np.uint8))


def on_white(image: np.ndarray) -> np.ndarray:
    r"""8-bit [C, H, W] of [C + 1, H, W] with alpha a: :math:`a v + (1 - a)\,255`; keeps an image of 1 or 3 channels."""
    if len(image) in (1, 3):
        return image
    colours, alpha = image[:-1], image[-1:]
    if alpha.min(initial=255) == 255:
        return colours
    share = alpha.astype(np.float32) / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def as_brightness(
    image: np.ndarray, source: object, key: str = "image", value_range: tuple[float, float] | None = None
) -> np.ndarray:
    r"""The values v as float64 in 0 to 255: :math:`255 (v - low)/(high - low)`; 8-bit values stay.

    Args:
        image: of any shape.
        source, key: names of the image, for messages.
        value_range: (low, high) of black and white, required for other types than uint8.
    Raises:
        DataError: for another type without ``value_range``, values outside of it, NaN or infinity.
    """
    if value_range is None and image.dtype == np.uint8:
        return image.astype(np.float64)
    bad = 0 if image.dtype.kind in "bui" else int((~np.isfinite(image)).sum())
    low, high = (float(image.min()), float(image.max())) if not bad and image.size else (0.0, 0.0)
    if bad:
        raise DataError(
            source, key=key, expected="finite colours", got=f"{bad} of {image.size} values NaN or infinite",
            remedy="Remove the image, or fill these pixels first.",
        )  # fmt: skip
    if value_range is None:
        raise DataError(
            source,
            key=key,
            expected="8 bits a colour (uint8), or a stated value_range",
            got=f"{image.dtype} from {low:g} to {high:g}",
            remedy='Say what is black and what is white: --value_range "[0, 65535]", [0, 4095], [0, 1] ...',
        )
    black, white = value_range
    if image.dtype == np.uint8 and white > 255:
        raise DataError(
            source, key=key, expected=f"more than 8 bits, for the value_range {value_range}", got="8 bits (uint8)",
            remedy="Put files of 8 bits and files of more bits in separate folders: with this range 8 bits are black.",
        )  # fmt: skip
    if not black < white or low < black or high > white:
        raise DataError(
            source,
            key=key,
            expected=f"values in the value_range {value_range}, which increases",
            got=f"{low:g} to {high:g}",
            remedy="Give the range of the scanner or of the file format, not the range of one image.",
        )
    brightness: np.ndarray = (image.astype(np.float64) - black) * (255 / (white - black))
    return brightness
