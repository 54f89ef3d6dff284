r"""Estimates the smooth multiplicative field of MR coils, divides by it, and multiplies it back.

.. math::  v(x) = u(x)\, e^{f(x)}, \qquad u = v\, e^{-f},

with f a B-spline, estimated by SimpleITK's N4 on a shrunken image. The record has f on a coarse grid, because every
patch of the volume carries it. Forward and inverse interpolate the same grid linearly, so that they are exact inverses
for any accuracy of the interpolation.

Source: Tustison et al. 2010, N4ITK: improved N3 bias correction, IEEE Trans. Med. Imaging 29:1310-1320.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import SimpleITK as sitk
import torch
import torch.nn.functional as F
from monai.config import KeysCollection

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.intensity import IntensityTransform, IntensityTransformd, source_of


class N4BiasCorrect(IntensityTransform):
    """Divides the image by its N4 bias field and keeps its unit: scale it to [-1, 1] afterwards. For MR.

    Otsu's threshold gives the foreground. Each channel has its own field.

    Args:
        shrink: the field is estimated on every ``shrink``-th voxel, and recorded on a grid of the same step.
        iterations: largest number of iterations at each level of resolution.
        nan_policy: see :class:`~monai_diffscore.transforms.intensity.IntensityTransform`.
    Raises:
        ValueError: unless shrink >= 1 and iterations > 0.
        DataError: in the call, for a constant image, or an image without a positive intensity.
    """

    def __init__(
        self, shrink: int = 4, iterations: Sequence[int] = (50, 50, 50, 50), nan_policy: str = "raise"
    ) -> None:
        super().__init__(nan_policy)
        if shrink < 1 or not iterations or min(iterations) < 1:
            raise ValueError(f"N4BiasCorrect needs shrink >= 1 and iterations > 0, got {shrink} and {iterations}.")
        self.shrink, self.iterations = shrink, [int(number) for number in iterations]

    def measure(self, image: torch.Tensor, key: str) -> dict[str, Any]:
        low, high = float(image.min()), float(image.max())
        if not low < high or high <= 0:
            raise DataError(
                source_of(image),
                key=key,
                expected="positive intensities with contrast",
                got=f"values from {low:g} to {high:g}",
                remedy="Remove the image, or correct the field before scaling the intensities.",
            )
        spacing = getattr(image, "pixdim", torch.ones(image.ndim - 1)).tolist()
        return {"log_field": torch.stack([self._log_field(channel, spacing) for channel in torch.as_tensor(image)])}

    def apply(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        return image * torch.exp(-_expand(record["log_field"], image))

    def restore(self, image: torch.Tensor, record: Mapping[str, Any]) -> torch.Tensor:
        return image * torch.exp(_expand(record["log_field"], image))

    def _log_field(self, channel: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
        """f on a coarse grid with the corners of the image, [*coarse]."""
        volume = sitk.GetImageFromArray(channel.cpu().numpy().T)  # ITK's axes run x, y, z; numpy's the other way
        volume.SetSpacing([float(size) for size in spacing])
        shrunk = sitk.Shrink(volume, [min(self.shrink, size) for size in volume.GetSize()])
        corrector = sitk.N4BiasFieldCorrectionImageFilter()
        corrector.SetMaximumNumberOfIterations(self.iterations)
        corrector.Execute(shrunk, sitk.OtsuThreshold(shrunk, 0, 1))
        coarse = [-(-(size - 1) // self.shrink) + 1 for size in volume.GetSize()]
        grid = sitk.Image(coarse, sitk.sitkFloat32)
        steps = zip(volume.GetSpacing(), volume.GetSize(), coarse, strict=True)
        grid.SetSpacing([step * (size - 1) / max(1, count - 1) or step for step, size, count in steps])
        field = sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(grid)).T
        return torch.from_numpy(field.copy())


def _expand(log_field: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The field on the voxels of the image, [C, *S], linear between grid points that end at its corners."""
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[image.ndim - 1]
    field = log_field[None].to(image.device, image.dtype)
    return F.interpolate(field, size=image.shape[1:], mode=mode, align_corners=True)[0]


class N4BiasCorrectd(IntensityTransformd):
    """Dictionary form of :class:`N4BiasCorrect`."""

    def __init__(
        self,
        keys: KeysCollection,
        shrink: int = 4,
        iterations: Sequence[int] = (50, 50, 50, 50),
        nan_policy: str = "raise",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, N4BiasCorrect(shrink, iterations, nan_policy), allow_missing_keys)
