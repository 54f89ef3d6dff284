r"""Patches of volumes: held-out slabs, fixed patches for validation, positions, and statistics.

Preconditioning needs :math:`\sigma_{data}`, the standard deviation of the network's input, after normalisation. It is
measured on the training set, never assumed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, iter_patch_position
from monai.transforms import MapTransform, SpatialCrop
from tqdm import tqdm

from monai_diffscore.atomic_files import write_json
from monai_diffscore.errors import DataError
from monai_diffscore.tensors import per_channel


class HeldOutSlabd(MapTransform):
    """Cuts a volume in two along an axis and keeps the part of its ``slab`` entry.

    A data set of one subject has nothing else to hold out. Cases without the entry pass unchanged. Neighbouring
    voxels on both sides of the cut are alike, so the error on the held-out slab is too small; a real validation set has
    other subjects.

    Args:
        keys: keys of volumes [C, *S].
        axis: spatial axis; 1 of a RAS volume runs from posterior to anterior. (Left and right are near mirror images.)
        share: share of the axis to hold out, at its upper end.
        slab_key: key of "train" or "validation".
    """

    def __init__(self, keys: KeysCollection, axis: int = 1, share: float = 0.25, slab_key: str = "slab") -> None:
        super().__init__(keys)
        self.axis, self.share, self.slab_key = axis, share, slab_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        cut_data = dict(data)
        slab = cut_data.get(self.slab_key)
        if slab is None:
            return cut_data
        for key in self.key_iterator(cut_data):
            start, end = [0] * (cut_data[key].ndim - 1), list(cut_data[key].shape[1:])
            cut = round((1 - self.share) * end[self.axis])
            if slab == "train":
                end[self.axis] = cut
            else:
                start[self.axis] = cut
            cut_data[key] = SpatialCrop(roi_start=start, roi_end=end)(cut_data[key])
        return cut_data


class GridPatchesd(MapTransform):
    """Cuts each volume into a **fixed** list of patches, spread evenly over the grid that tiles it.

    Deterministic, unlike ``RandSpatialCropd``: validation has the same patches at every epoch. Returns a list of
    dictionaries, which MONAI's loaders join.

    Args:
        keys: keys of volumes [C, *S] of equal size.
        patch_size: spatial size; no axis of the volume may be shorter.
        count: largest number of patches of a volume.
    Raises:
        DataError: for a volume smaller than a patch.
    """

    def __init__(self, keys: KeysCollection, patch_size: Sequence[int], count: int = 8) -> None:
        super().__init__(keys)
        self.patch_size, self.count = tuple(patch_size), count

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        sizes = data[self.keys[0]].shape[1:]
        if any(size < patch for size, patch in zip(sizes, self.patch_size, strict=True)):
            raise DataError(
                getattr(data[self.keys[0]], "meta", {}).get("filename_or_obj", "a volume"),
                key=str(self.keys[0]),
                expected=f"at least {self.patch_size} voxels for a patch",
                got=f"{tuple(sizes)}",
                remedy="Lower --patch_size or --spacing_mm of the training, or pad with SpatialPadd.",
            )
        starts = [
            tuple(min(begin, size - patch) for begin, size, patch in zip(start, sizes, self.patch_size, strict=True))
            for start in iter_patch_position(sizes, self.patch_size, padded=True)
        ]
        patches = []
        for start in evenly_spaced(starts, self.count):
            end = [begin + patch for begin, patch in zip(start, self.patch_size, strict=True)]
            crop = SpatialCrop(roi_start=start, roi_end=end)
            patches.append({**data, **{key: crop(data[key]) for key in self.keys}})
        return patches


class PositionChannelsd(MapTransform):
    r"""Adds the position of each voxel in the patient: world coordinates, as channels beside the image.

    .. math::  p(i) = \bigl(A\,(i, 1) - o\bigr) / scale_{mm}

    with the affine A that a ``MetaTensor`` updates through crops, flips, rotations and resampling. Apply it after the
    last spatial transform, such as ``RandSpatialCropd`` or :class:`GridPatchesd`: it then gives the position of a patch
    in the whole. Declare the condition as ``ConditionEncoder(concat={"position": 3})``.

    Args:
        keys: key of the volume [C, *S] with the geometry.
        position_key: key for the positions, float32 [D, *S]; D is 3 for an affine of 4 x 4, also in a 2-D slice.
        scale_mm: the length that becomes 1, in mm; about half of the extent of the training volumes.
        origin: "world" takes the scanner's origin, for registered images; "volume" takes the centre of the patch's
            file (or of the patch, if the file is unknown), for others.
    Raises:
        ValueError: for a scale that is not positive, or an unknown origin.
        DataError: in the call, for an image without an affine.
    """

    def __init__(
        self, keys: KeysCollection, position_key: str = "position", scale_mm: float = 100.0, origin: str = "world"
    ) -> None:
        super().__init__(keys)
        if scale_mm <= 0 or origin not in ("world", "volume") or len(self.keys) != 1:
            raise ValueError(
                "PositionChannelsd needs one key, scale_mm > 0 and the origin 'world' or 'volume', got "
                f"{self.keys}, {scale_mm} and {origin!r}."
            )
        self.position_key, self.scale_mm, self.origin = position_key, float(scale_mm), origin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data[self.keys[0]]
        if not isinstance(image, MetaTensor):
            raise DataError(
                "a patch",
                key=str(self.keys[0]),
                expected="a MetaTensor, whose affine gives its position",
                got=type(image).__name__,
                remedy="Load it with LoadVolumed, and leave the tracking of metadata on.",
            )
        affine, sizes = torch.as_tensor(image.affine, dtype=torch.float64), image.shape[1:]
        dims = len(sizes)
        indices = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) for size in sizes], indexing="ij")
        world = torch.einsum("wd,d...->w...", affine[:-1, :dims], torch.stack(indices))
        offset = affine[:-1, -1] - (self._centre(image) if self.origin == "volume" else 0)
        position = (world + per_channel(offset, world)) / self.scale_mm
        return {**data, self.position_key: MetaTensor(position.float(), affine=image.affine)}

    def _centre(self, image: MetaTensor) -> torch.Tensor:
        """World coordinates of the middle of the image's file."""
        affine = torch.as_tensor(image.meta.get("original_affine", image.affine), dtype=torch.float64)
        sizes = image.meta.get("spatial_shape", image.shape[1:]) if "original_affine" in image.meta else image.shape[1:]
        rows = len(image.affine) - 1
        middle = (torch.as_tensor([float(size) for size in sizes], dtype=torch.float64) - 1) / 2
        return affine[:rows, : len(middle)] @ middle + affine[:rows, -1]


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly spread over them, in order."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))]


def size_to_turn(patch_size: Sequence[int]) -> list[int]:
    """The size of a crop from which a turned patch of ``patch_size`` voxels is cut: half as much again on each axis."""
    return [size + size // 2 for size in patch_size]


def rotation_ranges(degrees: float, spatial_dims: int) -> list[float]:
    """The largest angles of ``RandAffined`` in radians: one in the plane, three in space."""
    return [math.radians(degrees)] * (3 if spatial_dims == 3 else 1)


def measure_statistics(cases: Sequence[Mapping[str, Any]], key: str = "image") -> dict[str, Any]:
    r"""Measures the statistics of the normalised training data that a model and its users need.

    Args:
        cases: preprocessed cases, each with a volume [C, *S] whose last traced intensity transform recorded its range.
    Returns:
        ``sigma_data`` and ``mean`` of all voxels, the median ``low`` and ``high`` raw intensities that map to [-1, 1]
        (arbitrary units for MR), ``intensity_ranges`` recorded, number of ``cases``.
    """
    count, total, squares, ranges = 0, 0.0, 0.0, []
    for case in tqdm(cases, desc="measuring the training data", leave=False):
        volume = case[key]
        values = torch.as_tensor(volume).double()
        count += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
        ranges += [
            (operation["extra_info"]["low"], operation["extra_info"]["high"])
            for operation in getattr(volume, "applied_operations", [])
            if isinstance(operation, Mapping) and "low" in operation.get("extra_info", {})
        ]
    mean = total / count
    low, high = np.median(np.array(ranges), axis=0).tolist() if ranges else (-1.0, 1.0)
    sigma_data = float(np.sqrt(squares / count - mean**2))
    return {
        "sigma_data": float(f"{sigma_data:.4g}"),
        "mean": float(f"{mean:.4g}"),
        "low": low,
        "high": high,
        "intensity_ranges": len(ranges),
        "cases": len(cases),
    }


def save_statistics(statistics: Mapping[str, Any], path: str | Path) -> None:
    """Writes the statistics as JSON beside the weights, whole or not at all."""
    write_json(path, dict(statistics))


def load_statistics(path: str | Path) -> dict[str, Any]:
    """Reads a file of :func:`save_statistics`.

    Raises:
        DataError: for a missing file.
    """
    if not Path(path).is_file():
        raise DataError(
            path,
            expected="the statistics that training writes beside the weights",
            got="no such file",
            remedy="Train first (run training --config_file configs/train.json), or give another --checkpoint.",
        )
    statistics: dict[str, Any] = json.loads(Path(path).read_text())
    return statistics
