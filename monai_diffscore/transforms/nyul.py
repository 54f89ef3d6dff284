r"""Standardises MR intensities by landmarks of the histogram, after Nyul and Udupa.

Percentiles :math:`k_0 < \dots < k_n` of an image (its knots) map to standard positions
:math:`s_0 = -1 < \dots < s_n = 1`, piecewise linearly between them and clipped outside. The positions are means over
the training images of their knots, scaled to [-1, 1]. The map is invertible because both sequences increase strictly;
an image with equal knots (few grey levels) drops the repeated ones.

Source: Nyul and Udupa 1999, Magn. Reson. Med. 42:1072-1081; Nyul, Udupa and Zhang 2000, IEEE Trans. Med. Imaging
19:143-150.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection

from monai_diffscore.atomic_files import write_json
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.intensity import (
    IntensityTransform,
    IntensityTransformd,
    clipped_to_unit,
    percentiles_of,
    source_of,
)

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
KNOTS = ("image", "cohort")


class NyulStandardize(IntensityTransform):
    """Maps an image's histogram landmarks piecewise linearly to standard ones in [-1, 1]; :meth:`fit` measures these.

    Args:
        landmarks: of :meth:`fit`, or its JSON file: ``percentiles``, ``standard`` positions in [-1, 1] and the
            ``cohort``'s median knots in raw intensities, all of one length.
        knots: "image" measures the knots of each image. "cohort" takes the cohort's medians, for **generated** images,
            which have no histogram before they exist.
        nan_policy: see :class:`~monai_diffscore.transforms.intensity.IntensityTransform`.
    Raises:
        ValueError: for landmarks that do not increase, or another choice of knots.
        DataError: in the call, for a nearly constant image; for a missing file.
    """

    def __init__(
        self, landmarks: str | Path | Mapping[str, Sequence[float]], knots: str = "image", nan_policy: str = "raise"
    ) -> None:
        super().__init__(nan_policy)
        if knots not in KNOTS:
            raise ValueError(f"knots is one of {KNOTS}, got {knots!r}.")
        self.knots = knots
        self.landmarks = _read(landmarks) if isinstance(landmarks, (str, Path)) else dict(landmarks)
        for name in ("percentiles", "standard", "cohort"):
            row = self.landmarks.get(name, ())
            if len(row) != len(self.landmarks.get("percentiles", ())) or len(row) < 2 or not (np.diff(row) > 0).all():
                raise ValueError(f"Nyul landmarks need '{name}' that increase strictly, all of one length, got {row}.")

    @classmethod
    def fit(
        cls, images: Iterable[torch.Tensor], percentiles: Sequence[float] = PERCENTILES, nan_policy: str = "raise"
    ) -> NyulStandardize:
        """Measures the standard positions on training images (crop the air first).

        Raises:
            DataError: for no image, or an image with equal landmarks.
        """
        rows = []
        for image in images:
            knots = np.array(percentiles_of(image, percentiles))
            if not (np.diff(knots) > 0).all():
                raise DataError(
                    source_of(image),
                    expected=f"percentiles {tuple(percentiles)} that increase strictly",
                    got=f"{[float(f'{knot:g}') for knot in knots]}",
                    remedy="Crop the background, fit on other images, or choose fewer percentiles.",
                )
            rows.append(knots)
        if not rows:
            raise DataError("the images", expected="at least one", got="none", remedy="Give the training images.")
        all_knots = np.stack(rows)  # [images, landmarks]
        low, high = all_knots[:, :1], all_knots[:, -1:]
        standard = (2 * (all_knots - low) / (high - low) - 1).mean(0)
        landmarks = {
            "percentiles": [float(p) for p in percentiles],
            "standard": standard.tolist(),
            "cohort": np.median(all_knots, axis=0).tolist(),
        }
        return cls(landmarks, nan_policy=nan_policy)

    def save(self, path: str | Path) -> None:
        """Writes the landmarks as JSON, whole or not at all."""
        write_json(path, self.landmarks)

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        standard = np.array(self.landmarks["standard"])
        if self.knots == "cohort":
            knots = np.array(self.landmarks["cohort"], dtype=np.float32)
        else:
            knots = np.array(percentiles_of(image, self.landmarks["percentiles"]), dtype=np.float32)
        if not knots[0] < knots[-1]:
            raise DataError(
                source_of(image),
                key=key,
                expected=f"different percentiles {self.landmarks['percentiles'][0]:g} and "
                f"{self.landmarks['percentiles'][-1]:g}",
                got=f"{knots[0]:g} for both",
                remedy="The image is nearly constant: remove it, or crop its foreground first.",
            )
        distinct = np.concatenate([[True], np.diff(knots) > 0])
        knots, standard = knots[distinct], standard[distinct]
        # equal knots at the upper end drop the last position: set the ends to -1 and 1
        standard[0], standard[-1] = -1.0, 1.0
        return {
            "low": float(knots[0]),
            "high": float(knots[-1]),
            "knots": knots.tolist(),
            "standard": standard.tolist(),
        }

    def apply(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        return piecewise_linear(image, record["knots"], record["standard"])

    def restore(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        return clipped_to_unit(image, piecewise_linear(image, record["standard"], record["knots"]))


def piecewise_linear(x: torch.Tensor, knots: Sequence[float], values: Sequence[float]) -> torch.Tensor:
    """``values[i]`` at ``knots[i]``, linear between them, constant outside; of the shape of x."""
    at, to = (torch.tensor(row, dtype=torch.float64, device=x.device) for row in (knots, values))
    clipped = x.double().clip(at[0], at[-1])
    interval = torch.bucketize(torch.as_tensor(clipped), at[1:-1], right=True)
    slope = (to[1:] - to[:-1]) / (at[1:] - at[:-1])
    y = to[interval] + (clipped - at[interval]) * slope[interval]
    return y.clip(to[0], to[-1]).to(x.dtype)


def _read(path: str | Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise DataError(
            path,
            expected="landmarks that NyulStandardize.fit(images).save(path) wrote",
            got="no such file",
            remedy="Fit the landmarks on the training images first.",
        )
    landmarks: dict[str, Any] = json.loads(Path(path).read_text())
    return landmarks


class NyulStandardized(IntensityTransformd):
    """Dictionary form of :class:`NyulStandardize`."""

    def __init__(
        self,
        keys: KeysCollection,
        landmarks: str | Path | Mapping[str, Sequence[float]],
        knots: str = "image",
        nan_policy: str = "raise",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, NyulStandardize(landmarks, knots, nan_policy), allow_missing_keys)
