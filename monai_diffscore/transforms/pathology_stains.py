r"""Fits the stains of a slide, their colours and concentrations, **once a slide**, never a tile.

In optical density (:mod:`monai_diffscore.transforms.colours`) a pixel is a sum of stains,

.. math::  OD = c\,M, \qquad M = \text{rows of unit length: stain 1, stain 2, residual},

with concentrations c. The third row is orthogonal to both stains, so that M is invertible and keeps every colour. The
first stain absorbs more red (haematoxylin).

- :func:`fit_macenko`: the extreme directions of the OD in the plane of its two largest singular vectors. Macenko et
  al. 2009, "A method for normalizing histology slides for quantitative analysis", ISBI, section 2.
- :func:`fit_vahadane`: sparse non-negative factorisation, the minimum over c >= 0 and M >= 0 of
  :math:`\tfrac12 \lVert OD - cM\rVert^2 + \lambda\lVert c\rVert_1`, by scikit-learn's online dictionary learning,
  started at Macenko's stains. After Vahadane et al. 2016, "Structure-preserving color normalization and sparse stain
  separation for histological images", IEEE TMI 35(8).
- :func:`fit_reinhard`: mean and standard deviation in CIELAB. After Reinhard et al. 2001, "Color transfer between
  images", IEEE CG&A 21(5), who use another opponent colour space.

A record is a frozen dataclass of plain numbers: ``json.dumps(asdict(record))`` writes it, and
``Stains(**json.loads(text))`` reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.colours import optical_density

logger = logging.getLogger(__name__)

_WHITE = (255.0, 255.0, 255.0)
#: two stains are not distinct below this ratio of squared singular values, or this angle between vectors in degrees
_LEAST_RATIO, _LEAST_ANGLE = 1e-3, 5.0
_LEAST_PIXELS = 100


def _degrees(first: np.ndarray, second: np.ndarray) -> float:
    cosine = abs(first @ second) / (np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.degrees(np.arccos(min(1.0, cosine))))


@dataclass(frozen=True)
class Stains:
    """Two stains of a slide.

    Args:
        matrix: their optical density of red, green and blue, two rows of unit length.
        concentrations: the 99th percentile of each, over the tissue.
        white: colour of the glass, 0 to 255.
        method: name of the fit.
    """

    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    concentrations: tuple[float, float]
    white: tuple[float, float, float] = _WHITE
    method: str = "given"

    def __post_init__(self) -> None:
        rows = np.array(self.matrix, dtype=float)
        norms = np.linalg.norm(rows, axis=-1) if rows.shape == (2, 3) else np.zeros(2)
        apart = _degrees(*rows) if norms.min() > 0 else 0.0
        finite = bool(np.isfinite([*rows.ravel(), *self.concentrations, *self.white]).all())
        if not finite or apart < _LEAST_ANGLE or min(self.concentrations) <= 0 or min(self.white) <= 0:
            raise DataError(
                "the stains",
                expected=f"two stain vectors [2, 3] at least {_LEAST_ANGLE:g} degrees apart, with concentrations > 0",
                got=f"{self.matrix}, {apart:.1f} degrees apart, with concentrations {self.concentrations}",
                remedy="Normalisation by stains needs two stains: use Reinhard, or leave this slide as it is.",
            )
        # rows of a user may lack unit length; rows of unit length keep their last bit
        norms = np.where(np.abs(norms - 1) < 1e-12, 1.0, norms)
        object.__setattr__(self, "matrix", tuple(map(tuple, (rows / norms[:, None]).tolist())))
        object.__setattr__(self, "concentrations", tuple(self.concentrations))
        object.__setattr__(self, "white", tuple(self.white))

    def basis(self) -> Tensor:
        """M [3, 3], float64: both stains, and the direction orthogonal to them."""
        first, second = torch.tensor(self.matrix, dtype=torch.float64)
        rest = torch.linalg.cross(first, second)
        return torch.stack([first, second, rest / rest.norm()])


@dataclass(frozen=True)
class LabStatistics:
    """Mean and standard deviation of a slide's tissue in CIELAB: L in 0 to 100, a and b about -100 to 100."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    method: str = "given"

    def __post_init__(self) -> None:
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise DataError(
                "the colour statistics",
                expected="finite means and standard deviations > 0 of L, a and b",
                got=f"means {self.mean}, standard deviations {self.std}",
                remedy="The pixels have one colour: fit on tissue of the whole slide.",
            )
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))


def fit_macenko(
    pixels: np.ndarray, white: Sequence[float] = _WHITE, least_density: float = 0.15, percentile: float = 1.0
) -> Stains:
    """The two stains of tissue pixels, by Macenko's method.

    Args:
        pixels: uint8 [N, 3], of the whole slide.
        white: colour of its glass.
        least_density: smallest optical density, in each colour, of the pixels in the fit; Macenko's beta.
        percentile: share of outliers on either side, in percent; Macenko's alpha.
    Raises:
        DataError: for fewer than 100 pixels of this density, or a slide of one stain.
    """
    density = _density(pixels, white)
    stained = _stained(density, least_density)
    plane, ratio = _plane(stained)
    if ratio < _LEAST_RATIO:
        raise DataError(
            "the slide",
            expected=f"two stains: a second squared singular value of at least {_LEAST_RATIO:g} of the first",
            got=f"{ratio:.2g}: all of it has one hue",
            remedy="Normalisation by stains needs two stains: use Reinhard, or leave this slide as it is.",
        )
    along = stained @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    low, high = np.percentile(angles, (percentile, 100 - percentile))
    vectors = [plane @ np.array([np.cos(angle), np.sin(angle)]) for angle in (low, high)]
    return _record(np.array(vectors), density, white, "macenko")


def fit_vahadane(
    pixels: np.ndarray,
    white: Sequence[float] = _WHITE,
    least_density: float = 0.15,
    sparsity: float = 0.02,
    most: int = 20_000,
) -> Stains:
    """The two stains of tissue pixels by sparse non-negative factorisation: most pixels contain mainly one stain.

    Args:
        pixels, white, least_density: as for :func:`fit_macenko`.
        sparsity: weight of the sum of concentrations beside half the squared error, for vectors of unit length. The
            paper's 0.1 draws the vectors together: 4 to 6 degrees off on a synthetic slide, 2 to 3 with 0.02.
        most: largest number of pixels in the fit, evenly chosen.
    Raises:
        DataError: as :func:`fit_macenko`.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning

    start = fit_macenko(pixels, white, least_density)
    density = _density(pixels, white)
    stained = _stained(density, least_density).clip(0)
    learner = MiniBatchDictionaryLearning(
        n_components=2, alpha=sparsity, dict_init=np.array(start.matrix).clip(1e-3), batch_size=256, max_iter=20,
        fit_algorithm="cd", transform_algorithm="lasso_cd", positive_code=True, positive_dict=True, random_state=0,
    )  # fmt: skip
    learner.fit(stained[:: -(-len(stained) // most)])
    return _record(learner.components_, density, white, "vahadane")


def fit_reinhard(pixels: np.ndarray, white: Sequence[float] = _WHITE) -> LabStatistics:
    """Mean and standard deviation of tissue pixels uint8 [N, 3] in CIELAB; ignores ``white``.

    Raises:
        DataError: for fewer than 100 pixels, or pixels of one colour.
    """
    from skimage.color import rgb2lab

    _enough(len(pixels), "tissue")
    lab = rgb2lab(pixels)
    mean, std = (tuple(values.astype(float).round(6).tolist()) for values in (lab.mean(0), lab.std(0)))
    return LabStatistics(mean, std, "reinhard")


def _density(pixels: np.ndarray, white: Sequence[float]) -> np.ndarray:
    if pixels.ndim != 2 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise DataError(
            "the pixels", expected="8-bit colours [N, 3]", got=f"{pixels.dtype} of shape {pixels.shape}",
            remedy="Convert with as_rgb8, and reshape to a list of pixels.",
        )  # fmt: skip
    density: np.ndarray = optical_density(torch.from_numpy(pixels.T.astype(float)), white).numpy().T
    return density


def _stained(density: np.ndarray, least: float) -> np.ndarray:
    stained: np.ndarray = density[(density >= least).all(1)]
    _enough(len(stained), f"of optical density {least} in all colours")
    return stained


def _enough(count: int, what: str) -> None:
    if count < _LEAST_PIXELS:
        raise DataError(
            "the slide",
            expected=f"at least {_LEAST_PIXELS} pixels {what}",
            got=f"{count}",
            remedy="A blank slide has no stain: remove it. Fit on the whole slide, never on a tile.",
        )


def _plane(stained: np.ndarray) -> tuple[np.ndarray, float]:
    """The two leading directions [3, 2], the first towards positive density, and the ratio of their strengths."""
    values, vectors = np.linalg.eigh(stained.T @ stained)
    first, second = vectors[:, -1], vectors[:, -2]
    return np.stack([first * np.sign(first.sum()), second], axis=1), float(values[-2] / values[-1])


def _record(vectors: np.ndarray, density: np.ndarray, white: Sequence[float], method: str) -> Stains:
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    vectors = vectors[np.argsort(-vectors[:, 0])]  # the first absorbs more red
    strongest = np.percentile(density @ np.linalg.pinv(vectors), 99, axis=0)
    first, second = (tuple(map(float, row.round(6))) for row in vectors)
    red, green, blue = map(float, white)
    return Stains((first, second), tuple(map(float, strongest.round(6))), (red, green, blue), method)  # type: ignore[arg-type]
