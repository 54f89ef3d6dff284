r"""Transforms colours of pathology tiles: to [-1, 1] and back, to another slide's stains, and at random.

Tiles are [3, H, W] with values 0 to 255. All transforms except :class:`ToRGB` are invertible, and record their
parameters in the ``MetaTensor``.

- :class:`ScaleRGB`: :math:`x = I/127.5 - 1`.
- :class:`NormalizeStains`: linear in optical density, with the bases M of two slides (residual direction included),

  .. math::  OD' = OD\; M_s^{-1}\,\mathrm{diag}(k)\,M_t, \qquad k = (c_{t,1}/c_{s,1},\ c_{t,2}/c_{s,2},\ 1),

  a bijection: the inverse is exact where I' is not clipped to 0..255. Empty glass maps to the target's glass.
- :class:`NormalizeReinhard`: an affine map of L, a and b; exact where the colours stay within sRGB.
- :class:`JitterStains` and its random twin :class:`RandJitterStains`: :math:`c' = a c + b` for both stains of a slide.
  After Tellez et al. 2018, "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference", IEEE TMI
  37(9).

The records come from :mod:`monai_diffscore.transforms.pathology_stains`, fitted once a slide. NaN marks unseen pixels
of a context beyond the slide; ``allow_nan`` lets it pass, else it is an error.
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
    """Converts to 8-bit RGB, see :func:`~monai_diffscore.transforms.colours.as_rgb8`.

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
    """Checks a tile, maps it in float32, records the parameters, and maps it back; subclasses implement the maps."""

    backend = _BACKEND

    def __init__(self, allow_nan: bool = False) -> None:
        self.allow_nan = allow_nan

    def forward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def backward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        raise NotImplementedError

    def __call__(self, image: Tensor, **parameters: Any) -> Tensor:  # type: ignore[override]
        _check(image, self.allow_nan)
        record = {"dtype": str(image.dtype).removeprefix("torch."), **parameters}
        mapped = _like(self.forward(torch.as_tensor(image).as_subclass(Tensor).float(), record), image)
        self.push_transform(mapped, extra_info=record)
        return mapped

    def inverse(self, image: Tensor) -> Tensor:
        """The tile before the map, in its own type; an integer type is rounded and clipped."""
        record = self.pop_transform(image)["extra_info"]
        restored = self.backward(torch.as_tensor(image).as_subclass(Tensor).float(), record)
        dtype = getattr(torch, record["dtype"])
        restored = restored if dtype.is_floating_point else restored.round().clip(0, 255)
        back = _like(restored.to(dtype), image)
        if isinstance(back, MetaTensor) and "clipped_share" in record:
            back.meta["clipped_share"] = record["clipped_share"]
        return back


class ScaleRGB(_Invertible):
    """Maps 0..255 to [-1, 1]: ``x = I/127.5 - 1``; the inverse is exact for 8-bit tiles.

    Samples of a model may leave [-1, 1] slightly: the inverse clips them and records ``meta["clipped_share"]``.

    Args:
        allow_nan: let NaN (unseen pixels) pass.
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
    """A map of colours that may leave 0..255; clips them, and records the clipped share of the tile."""

    def _clip(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        # rounding of the map alone gives up to 1e-3 grey levels
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
    """Maps the stains of one slide to those of a target.

    Args:
        target: stains of the result.
        source: stains of the slide; an argument of the call overrides them.
        allow_nan: let NaN pass.
    """

    def __init__(self, target: Stains, source: Stains | None = None, allow_nan: bool = False) -> None:
        super().__init__(allow_nan)
        self.target, self.source = target, source

    def __call__(self, image: Tensor, source: Stains | None = None) -> Tensor:  # type: ignore[override]
        source = source or self.source
        if source is None:
            raise ValueError("NormalizeStains needs the stains of the slide (source): fit_slide(path) fits them.")
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
            raise ValueError("JitterStains needs the stains of the slide: fit_slide(path) fits them.")
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
        stains: of the slide; an argument of the call overrides them.
        scale_range: s, below 1.
        shift_range: b, in optical density.
        prob: probability of a change.
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
        """Draws whether to jitter, and the numbers; :attr:`jitter` is the deterministic transform."""
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
        # the record is complete for the inverse, but has the id of another object
        image.applied_operations[-1]["id"] = id(recorded)  # type: ignore[attr-defined]
        return recorded.inverse(image)


class NormalizeReinhard(_MappedColours):
    """Maps mean and standard deviation of one slide in CIELAB to those of a target.

    The map moves the colour of glass too: check the result on tiles with much glass.

    Args:
        target: statistics of the result.
        source: statistics of the slide; an argument of the call overrides them.
    """

    def __init__(self, target: LabStatistics, source: LabStatistics | None = None) -> None:
        super().__init__(allow_nan=False)
        self.target, self.source = target, source

    def __call__(self, image: Tensor, source: LabStatistics | None = None) -> Tensor:  # type: ignore[override]
        source = source or self.source
        if source is None:
            raise ValueError("NormalizeReinhard needs the statistics of the slide (source): fit_slide fits them.")
        scale = [new / old for new, old in zip(self.target.std, source.std, strict=True)]
        return super().__call__(image, scale=scale, mean=source.mean, new_mean=self.target.mean)

    def forward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        scale, mean, new = (np.array(record[name]) for name in ("scale", "mean", "new_mean"))
        return self._clip(_through_lab(image, lambda lab: (lab - mean) * scale + new), record)

    def backward(self, image: Tensor, record: dict[str, Any]) -> Tensor:
        scale, mean, new = (np.array(record[name]) for name in ("scale", "mean", "new_mean"))
        return _through_lab(image, lambda lab: (lab - new) / scale + mean)


def _through_lab(image: Tensor, change: Any) -> Tensor:
    """The tile after ``change`` in CIELAB; clipped only at black, by the gamut of XYZ."""
    from skimage.color import lab2xyz, rgb2lab

    lab = rgb2lab(image.double().permute(1, 2, 0).numpy() / 255)
    xyz = lab2xyz(change(lab))
    # not skimage's xyz2rgb, which clips to [0, 1] silently; the caller clips, and records the share
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
    """Raises a DataError unless the tile is [3, H, W] in 0..255; :class:`ToRGB` converts others."""
    plain = torch.as_tensor(image).as_subclass(Tensor)
    finite = plain.isfinite() if plain.is_floating_point() else None
    bad = 0 if finite is None else int((~(finite | plain.isnan()) if allow_nan else ~finite).sum())
    values = plain if finite is None else plain[finite]
    low, high = (float(values.min()), float(values.max())) if values.numel() else (0.0, 0.0)
    # only a black 8-bit tile stays below 1; a float tile in [0, 1] may come from MONAI's readers
    unit = finite is not None and 0 < high <= 1 and bool((values % 1 != 0).any())
    if plain.ndim != 3 or len(plain) != 3 or plain.dtype == torch.bool or bad or low < 0 or high > 255 or unit:
        raise DataError(
            _source(image),
            expected="a colour tile [3, H, W] with values 0 to 255",
            got=f"shape {tuple(plain.shape)} of {plain.dtype} from {low:g} to {high:g}"
            + (f", {bad} values NaN or infinite" if bad else ""),
            remedy="Convert it with ToRGB (value_range=... for 16 bits and float, alpha on white).",
        )
