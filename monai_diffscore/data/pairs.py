"""The other images and label maps of a case, on the grid of a target, for models that condition an image on them.

The grid is that of the target after its own resampling, crops and padding. Each other image moves to this grid in one
interpolation, at the world coordinates that both files state. Random crops and flips then take all images of the case
together. Voxels outside the field of view of an image are NaN, as are all voxels of an image that the case lacks: NaN
marks a missing value of :class:`~monai_diffscore.networks.ConditionEncoder`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import CropForeground, MapTransform, SpatialResample
from torch import Tensor

from monai_diffscore.data.label_maps import Classes, one_hot, part_sizes, read_label_map
from monai_diffscore.data.misregistration import misregistration_mm
from monai_diffscore.data.volumes import LoadVolumed
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.hounsfield import AIR_HU, WATER_HU
from monai_diffscore.transforms.intensity import PercentileScale

logger = logging.getLogger(__name__)


class LoadTargetd(LoadVolumed):
    """Loads the target of a case, or the grid for the target of a case that lacks it (``has_target`` is False).

    The grid is that of another image, perhaps of another modality, whose values have no meaning for the target. The
    grid of a CT is water where the other image is above its smallest value, and air elsewhere.

    Args, Raises: of :class:`~monai_diffscore.data.LoadVolumed`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_dims: int = 3,
        channels: int | None = 1,
        modality: str | None = None,
        dicom: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(keys, spatial_dims, channels, modality=modality, dicom=dicom)
        self.load_grid = LoadVolumed(keys, spatial_dims, channels, dicom=dicom)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        if data.get("has_target", True):
            return super().__call__(data)
        loaded = self.load_grid(data)
        for key in self.key_iterator(loaded):
            values = loaded[key].as_tensor()
            if self.modality == "CT":
                values = torch.where(values > values.min(), WATER_HU, AIR_HU)
            meta = {name: value for name, value in loaded[key].meta.items() if name not in ("modality", "affine")}
            loaded[key] = MetaTensor(values, affine=loaded[key].affine, meta=meta)
        return loaded


class LoadGivend(MapTransform):
    """Loads the images beside a target as the channels of one volume [channels, *S] on the grid of the target.

    It runs after the last transform of the target that is not random. Percentiles of each image, in the box of its own
    voxels above 0, become [-1, 1], so that no crop of the target changes them. A label map has a channel from 0 to 1
    for each class (:mod:`~monai_diffscore.data.label_maps`). It logs each image of another grid, and warns of each
    image that is shifted against the target. ``meta`` has ``is_given``, ``resampled`` and ``misregistration_mm``
    [roles]; the last is NaN for label maps and missing images.

    Args:
        keys: key of the paths; None is a missing image.
        target_key: key of the loaded target.
        roles: names of the images and label maps, in the order of the channels.
        classes: of each role that is a label map, value to name; the others are images.
        percentiles: of :class:`~monai_diffscore.transforms.PercentileScale`.
        dicom: of :class:`~monai_diffscore.data.LoadVolumed`.
        tolerance_mm: largest shift without a warning. The shift is a whole number of voxels of each axis.
    Raises:
        DataError: in the call: for another number of paths than roles; as ``LoadVolumed``, ``PercentileScale``,
            ``read_label_map`` and ``one_hot``; for an image whose field of view does not meet that of the target.
    """

    def __init__(
        self,
        keys: KeysCollection,
        target_key: str = "image",
        roles: Sequence[str] = (),
        classes: Mapping[str, Classes] | None = None,
        percentiles: tuple[float, float] = (0.5, 99.5),
        dicom: Mapping[str, Any] | None = None,
        tolerance_mm: float = 3.0,
    ) -> None:
        super().__init__(keys)
        self.target_key, self.roles, self.tolerance_mm = target_key, tuple(roles), tolerance_mm
        self.classes = dict(classes or {})
        self.load = LoadVolumed("volume", dicom=dicom)
        self.box = CropForeground(allow_smaller=True)
        self.scale = PercentileScale(*percentiles)
        self.move = SpatialResample(mode="bilinear", padding_mode="border")
        self._told: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        target = loaded[self.target_key]
        for key in self.key_iterator(loaded):
            paths = loaded[key]
            if len(paths) != len(self.roles):
                raise DataError(
                    _file(target), key=str(key),
                    expected=f"a path or None for each of the roles {list(self.roles)}", got=f"{paths}",
                    remedy="List the cases with the roles of --given, in the same order.",
                )  # fmt: skip
            loaded[key] = self._volume(paths, target, str(key))
        return loaded

    def _volume(self, paths: Sequence[str | None], target: MetaTensor, key: str) -> MetaTensor:
        """The channels of all roles, NaN where an image is missing."""
        size = tuple(target.shape[1:])
        parts, resampled, shifts = [], [], []
        for role, path, channels in zip(self.roles, paths, part_sizes(self.roles, self.classes), strict=True):
            if path is None:
                parts.append(torch.full((channels, *size), torch.nan))
                resampled.append(False)
                shifts.append(math.nan)
                continue
            volume = self._read(role, path, key)
            part = self._on_grid(volume, target, path, key)
            parts.append(part)
            resampled.append(not _equal_grids(*_grid_of_file(volume), *_grid_of_file(target)))
            shifts.append(math.nan if role in self.classes else self._shift(role, path, part[0], target))
            if resampled[-1]:
                self._tell(f"{path} ({role}) is resampled to the grid of {_file(target)}", logging.INFO)
        meta = {
            "is_given": torch.tensor([path is not None for path in paths]),
            "resampled": torch.tensor(resampled),
            "misregistration_mm": torch.tensor(shifts),
        }
        return MetaTensor(torch.cat(parts), affine=target.affine, meta=meta)

    def _read(self, role: str, path: str, key: str) -> MetaTensor:
        """An image in [-1, 1], or the classes of a label map, on the grid of its file."""
        if role in self.classes:
            return one_hot(read_label_map(path, key), self.classes[role], key)
        try:
            volume = self.load({"volume": path})["volume"]
        except DataError as error:
            raise error.under(key) from error
        box = self.box(volume)
        scaled: Any = self.scale.apply(volume, self.scale.measure(box if box.numel() else volume, key))
        return scaled

    def _on_grid(self, volume: MetaTensor, target: MetaTensor, path: str, key: str) -> Tensor:
        """The volume on the grid of the target, NaN outside its field of view."""
        outside = _outside(volume, target)
        if bool(outside.all()):
            raise DataError(
                path, key=key, expected=f"an image of the same place as {_file(target)}",
                got="fields of view without a common voxel",
                remedy="Correct the origin in the header, or register the image to the other one.",
            )  # fmt: skip
        moved = self.move(volume, dst_affine=target.affine, spatial_size=target.shape[1:])
        return torch.where(outside, torch.nan, torch.as_tensor(moved).float())

    def _shift(self, role: str, path: str, channel: Tensor, target: MetaTensor) -> float:
        shift = misregistration_mm(target.as_tensor()[0], channel, [float(step) for step in target.pixdim])
        if shift > self.tolerance_mm:
            self._tell(
                f"{path} ({role}) lies about {shift:.1f} mm from {_file(target)}, measured by their edges. Register "
                "the images of the case, or leave this one out.",
                logging.WARNING,
            )
        return shift

    def _tell(self, text: str, level: int) -> None:
        """Logs a text once: several passes over the data read each case again."""
        if text not in self._told:
            self._told.add(text)
            logger.log(level, text)


def _grid_of_file(volume: MetaTensor) -> tuple[Sequence[int], Any]:
    """Size and affine of the file of a volume that may have moved since."""
    size = volume.meta.get("spatial_shape", volume.shape[1:])
    return [int(side) for side in size], volume.meta.get("original_affine", volume.affine)


def _equal_grids(size: Sequence[int], affine: Any, other_size: Sequence[int], other_affine: Any) -> bool:
    return list(size) == list(other_size) and np.allclose(np.asarray(affine), np.asarray(other_affine), atol=1e-3)


def _outside(volume: MetaTensor, target: MetaTensor) -> Tensor:
    """The voxels [*S] of the target whose centre lies in no voxel of the volume."""
    to_volume = torch.linalg.solve(volume.affine.double(), target.affine.double())
    dims = target.ndim - 1
    outside = torch.zeros(tuple(target.shape[1:]), dtype=torch.bool)
    for axis, size in enumerate(volume.shape[1:]):
        index = to_volume[axis, -1].clone()
        for other in range(dims):
            steps = to_volume[axis, other] * torch.arange(target.shape[1 + other], dtype=torch.float64)
            index = index + steps.reshape([-1 if place == other else 1 for place in range(dims)])
        outside |= (index < -0.5 - 1e-3) | (index > size - 0.5 + 1e-3)
    return outside


def _file(image: MetaTensor) -> str:
    return str(image.meta.get("filename_or_obj", "the target"))
