r"""Colours of pathology tiles: to [-1, 1] and back, from one slide's stains to another's, and randomly varied.

Tiles are [3, H, W] with values 0 to 255. All but :class:`ToRGB` are invertible, and record in the ``MetaTensor`` what
they did.

- :class:`ScaleRGB`: :math:`x = I/127.5 - 1`.
- :class:`NormalizeStains`: linear in optical density, with the bases M of two slides (residual direction included),

  .. math::  OD' = OD\; M_s^{-1}\,\mathrm{diag}(k)\,M_t, \qquad k = (c_{t,1}/c_{s,1},\ c_{t,2}/c_{s,2},\ 1),

  a bijection: the inverse is exact where I' is not clipped to 0..255. Empty glass maps to the target's glass.
- :class:`NormalizeReinhard`: an affine map of L, a and b; exact where the colours stay within sRGB.
- :class:`JitterStains` and its random twin :class:`RandJitterStains`: :math:`c' = a c + b` for both stains of a slide.
  After Tellez et al. 2018, "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference", IEEE TMI
  37(9).

The records come from :mod:`monai_diffscore.transforms.pathology_stains`, fitted once a slide. NaN stands for "not seen"
in a context beyond the slide; it is refused unless ``allow_nan``, and then passes through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, RandomizableTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_numpy
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.colours import as_rgb8, intensity_of, optical_density
from monai_diffscore.transforms.pathology_stains import LabStatistics, Stains

_BACKEND = [TransformBackends.TORCH]


class ToRGB(Transform):
    """8-bit RGB, explicitly: see :func:`~monai_diffscore.transforms.colours.as_rgb8`.

    Args:
        value_range: values of black and white, needed for 16-bit and float tiles.
    """

    backend = _BACKEND

    def __init__(self, value_range: tuple[float, float] | None = None) -> None:
        self.value_range = value_range

    def __call__(self, image: Tensor) -> Tensor:
        colours = as_rgb8(convert_to_numpy(image), _source(image), value_range=self.value_range)
        return _like(torch.from_numpy(np.array(colours)), image)


class _Invertible(InvertibleTransform):
    """Checks a tile, maps it in float32, records how, and maps it back; subclasses say how."""

    backend = _BACKEND

    def __init__(self, allow_nan: bool = False) -> None:
        self.allow_nan = allow_nan

    def forward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def backward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def __call__(self, image: Tensor, **given: Any) -> Tensor:  # type: ignore[override]
        _check(image, self.allow_nan)
        record = {"dtype": str(image.dtype).removeprefix("torch."), **given}
        mapped = _like(self.forward(torch.as_tensor(image).as_subclass(Tensor).float(), record), image)
        self.push_transform(mapped, extra_info=record)
        return mapped

    def inverse(self, image: Tensor) -> Tensor:
        """The tile as it was, in its own type: rounded and clipped if that was integer."""
        record = self.pop_transform(image)["extra_info"]
        restored = self.backward(torch.as_tensor(image).as_subclass(Tensor).float(), record)
        dtype = getattr(torch, record["dtype"])
        restored = restored if dtype.is_floating_point else restored.round().clip(0, 255)
        back = _like(restored.to(dtype), image)
        if isinstance(back, MetaTensor) and "clipped_share" in record:
            back.meta["clipped_share"] = record["clipped_share"]
        return back


class ScaleRGB(_Invertible):
    """0..255 to [-1, 1]: ``x = I/127.5 - 1``, exactly undone for 8-bit tiles.

    The inverse clips to [-1, 1], which a model may leave slightly, and says so in ``meta["clipped_share"]``.

    Args:
        allow_nan: let NaN (pixels that were not seen) pass.
    Raises:
        DataError: for another shape, values outside 0..255, NaN, or float tiles that look like [0, 1].
    """

    def forward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        record.update(low=0.0, high=255.0)
        return image / 127.5 - 1

    def backward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        record["clipped_share"] = float((image.abs() > 1).float().mean())
        return (image.clip(-1, 1) + 1) * 127.5


class _MappedColours(_Invertible):
    """A map of colours that may leave 0..255, where it is clipped; the record says how much of the tile that was."""

    def _clip(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        # 1e-3 grey levels: rounding of the map itself
        record["clipped_share"] = float(((image < -1e-3) | (image > 255 + 1e-3)).float().mean())
        return image.clip(0, 255)


class _MappedDensity(_MappedColours):
    """An affine map of optical density, OD' = OD A + b, between two colours of glass."""

    def _map(
        self, image: Tensor, matrix: Tensor, shift: Tensor, white: Sequence[float], new: Sequence[float]
    ) -> Tensor:
        density = optical_density(image.double(), white)
        mapped = torch.einsum("chw,cd->dhw", density, matrix) + shift.reshape(3, 1, 1)
        return intensity_of(mapped, new).float()

    def _unmap(
        self, image: Tensor, matrix: Tensor, shift: Tensor, white: Sequence[float], new: Sequence[float]
    ) -> Tensor:
        inverse = torch.linalg.inv(matrix)
        return self._map(image, inverse, -shift @ inverse, new, white)


class NormalizeStains(_MappedDensity):
    """From the stains of one slide to those of a target.

    Args:
        target: stains to have.
        source: stains of the slide; may be given in the call instead.
        allow_nan: let NaN pass.
    """

    def __init__(self, target: Stains, source: Stains | None = None, allow_nan: bool = False) -> None:
        super().__init__(allow_nan)
        self.target, self.source = target, source

    def __call__(self, image: Tensor, source: Stains | None = None) -> Tensor:  # type: ignore[override]
        source = source or self.source
        if source is None:
            raise ValueError("NormalizeStains needs the stains of the slide (source): fit_slide(path) finds them.")
        return super().__call__(image, matrix=self._matrix(source).tolist(), white=source.white, new=self.target.white)

    def _matrix(self, source: Stains) -> Tensor:
        factors = [new / old for new, old in zip(self.target.concentrations, source.concentrations, strict=True)]
        scale = torch.diag(torch.tensor([*factors, 1.0], dtype=torch.float64))
        return torch.linalg.inv(source.basis()) @ scale @ self.target.basis()

    def forward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        return self._clip(self._map(image, *_affine(record), record["white"], record["new"]), record)

    def backward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        return self._unmap(image, *_affine(record), record["white"], record["new"])


class JitterStains(_MappedDensity):
    """Scales and shifts the concentrations of a slide's two stains: c' = scale c + shift.

    Args:
        stains: of the slide.
        scale: of each stain, > 0.
        shift: of each stain, in optical density; tints the glass too.
        allow_nan: let NaN pass.
    """

    def __init__(
        self,
        stains: Stains | None = None,
        scale: Sequence[float] = (1.0, 1.0),
        shift: Sequence[float] = (0.0, 0.0),
        allow_nan: bool = False,
    ) -> None:
        super().__init__(allow_nan)
        if min(scale) <= 0:
            raise ValueError(f"JitterStains needs scales > 0, got {tuple(scale)}.")
        self.stains, self.scale, self.shift = stains, tuple(map(float, scale)), tuple(map(float, shift))

    def __call__(self, image: Tensor, stains: Stains | None = None) -> Tensor:  # type: ignore[override]
        stains = stains or self.stains
        if stains is None:
            raise ValueError("JitterStains needs the stains of the slide: fit_slide(path) finds them.")
        basis = stains.basis()
        scale = torch.diag(torch.tensor([*self.scale, 1.0], dtype=torch.float64))
        matrix = torch.linalg.inv(basis) @ scale @ basis
        shift = torch.tensor([*self.shift, 0.0], dtype=torch.float64) @ basis
        return super().__call__(image, matrix=matrix.tolist(), shift=shift.tolist(), white=stains.white)

    def forward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        return self._clip(self._map(image, *_affine(record), record["white"], record["white"]), record)

    def backward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        return self._unmap(image, *_affine(record), record["white"], record["white"])


class RandJitterStains(RandomizableTransform, InvertibleTransform):
    """:class:`JitterStains` with random numbers: scale from 1 - s to 1 + s, shift from -b to b, for each stain.

    Args:
        stains: of the slide; may be given in the call instead.
        scale_range: s, below 1.
        shift_range: b, in optical density.
        prob: probability to do anything.
        allow_nan: let NaN pass.
    """

    backend = _BACKEND

    def __init__(
        self,
        stains: Stains | None = None,
        scale_range: float = 0.2,
        shift_range: float = 0.0,
        prob: float = 0.5,
        allow_nan: bool = False,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if not 0 <= scale_range < 1 or shift_range < 0:
            raise ValueError(
                f"Expected 0 <= scale_range < 1 and shift_range >= 0, got {scale_range} and {shift_range}."
            )
        self.stains, self.scale_range, self.shift_range, self.allow_nan = stains, scale_range, shift_range, allow_nan
        self.jitter = JitterStains(stains, allow_nan=allow_nan)

    def randomize(self, data: Any = None) -> None:
        """Draws whether, and how much; the deterministic twin is :attr:`jitter`."""
        super().randomize(data)
        scale = self.R.uniform(1 - self.scale_range, 1 + self.scale_range, 2)
        shift = self.R.uniform(-self.shift_range, self.shift_range, 2)
        self.jitter = JitterStains(self.stains, scale.tolist(), shift.tolist(), self.allow_nan)

    def __call__(self, image: Tensor, stains: Stains | None = None, randomize: bool = True) -> Tensor:
        if randomize:
            self.randomize()
        jittered = self.jitter(image, stains) if self._do_transform else image
        self.push_transform(jittered, extra_info={"jittered": self._do_transform})
        return jittered

    def inverse(self, image: Tensor) -> Tensor:
        record = self.pop_transform(image)["extra_info"]
        if not record["jittered"]:
            return image
        recorded = JitterStains()
        # the record of the twin holds all that its inverse needs; its own name and id belong to another object
        image.applied_operations[-1]["id"] = id(recorded)  # type: ignore[attr-defined]
        return recorded.inverse(image)


class NormalizeReinhard(_MappedColours):
    """Mean and standard deviation in CIELAB of one slide to those of a target.

    Glass is moved with the tissue: look at the result where there is much of it.

    Args:
        target: statistics to have.
        source: statistics of the slide; may be given in the call instead.
    """

    def __init__(self, target: LabStatistics, source: LabStatistics | None = None) -> None:
        super().__init__(allow_nan=False)
        self.target, self.source = target, source

    def __call__(self, image: Tensor, source: LabStatistics | None = None) -> Tensor:  # type: ignore[override]
        source = source or self.source
        if source is None:
            raise ValueError("NormalizeReinhard needs the statistics of the slide (source): fit_slide finds them.")
        scale = [new / old for new, old in zip(self.target.std, source.std, strict=True)]
        return super().__call__(image, scale=scale, mean=source.mean, new_mean=self.target.mean)

    def forward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        scale, mean, new = (np.array(record[name]) for name in ("scale", "mean", "new_mean"))
        return self._clip(_through_lab(image, lambda lab: (lab - mean) * scale + new), record)

    def backward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        scale, mean, new = (np.array(record[name]) for name in ("scale", "mean", "new_mean"))
        return _through_lab(image, lambda lab: (lab - new) / scale + mean)


def _through_lab(image: Tensor, change: Any) -> Tensor:
    """The tile after ``change`` in CIELAB; not clipped at white, at black by the gamut of XYZ."""
    from skimage.color import lab2xyz, rgb2lab

    lab = rgb2lab(image.double().permute(1, 2, 0).numpy() / 255)
    xyz = lab2xyz(change(lab))
    # skimage's xyz2rgb clips to [0, 1] without a word; clipping is recorded by the caller
    linear = xyz @ _XYZ_TO_RGB.T
    encoded = np.where(linear > 0.0031308, 1.055 * np.abs(linear) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return torch.from_numpy(255 * encoded).permute(2, 0, 1).float()


# sRGB primaries, D65: IEC 61966-2-1
_XYZ_TO_RGB = np.linalg.inv(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)


def _affine(record: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    matrix = torch.tensor(record["matrix"], dtype=torch.float64)
    return matrix, torch.tensor(record.get("shift", (0.0, 0.0, 0.0)), dtype=torch.float64)


def _source(image: Tensor) -> str:
    return str(getattr(image, "meta", {}).get("filename_or_obj", "a tile"))


def _like(mapped: Tensor, image: Tensor) -> Tensor:
    return convert_to_dst_type(mapped, image, dtype=mapped.dtype)[0]


def _check(image: Tensor, allow_nan: bool) -> None:
    """Raises a DataError unless the tile is [3, H, W] in 0..255: conversion is the business of :class:`ToRGB`."""
    plain = torch.as_tensor(image).as_subclass(Tensor)
    finite = plain.isfinite() if plain.is_floating_point() else None
    bad = 0 if finite is None else int((~(finite | plain.isnan()) if allow_nan else ~finite).sum())
    values = plain if finite is None else plain[finite]
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    # no 8-bit tile that is not black is darker than 1; a float tile of [0, 1] is what MONAI's readers may give
    unit = finite is not None and 0 < high <= 1 and bool((values % 1 != 0).any())
    if plain.ndim != 3 or len(plain) != 3 or plain.dtype == torch.bool or bad or low < 0 or high > 255 or unit:
        raise DataError(
            _source(image),
            expected="a colour tile [3, H, W] with values 0 to 255",
            got=f"shape {tuple(plain.shape)} of {plain.dtype} from {low:g} to {high:g}"
            + (f", {bad} values NaN or infinite" if bad else ""),
            remedy="Convert it with ToRGB (value_range=... for 16 bits and float, alpha on white).",
        )
