"""Label maps: the classes of a training, and one channel for each class.

A label map has the number of a class at each voxel. The channel of a class is 1 where the map has this class, and 0
elsewhere. Interpolated channels are shares of a voxel, so resampled borders between classes are soft, and no third
class appears between two others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.data import MetaTensor

from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.volumes import LoadVolumed
from monai_diffscore.errors import DataError


def read_label_map(path: str, key: str = "label") -> MetaTensor:
    """A label map [1, *S] with its geometry; a single class is allowed.

    Raises:
        DataError: for an unreadable file, or values that are not whole numbers.
    """
    volume: MetaTensor = LoadVolumed(key, constant=True)({key: path})[key]
    if not bool((volume == volume.round()).all()):
        raise DataError(
            path, key=key, expected="a label map of whole numbers", got=f"values such as {float(volume.max()):g}",
            remedy="Give the label map, not a probability map; resample label maps by nearest neighbours.",
        )  # fmt: skip
    return volume


def classes_of(label_map: torch.Tensor) -> list[int]:
    """The classes in a label map, sorted."""
    return [int(value) for value in label_map.unique()]


def label_classes(cases: Cases, roles: Sequence[str]) -> dict[str, list[int]]:
    """The classes of each role that is a mask of the cases, sorted: the channels of its one-hot form.

    Args:
        cases: with the label maps.
        roles: of images and masks; a role of an image has no classes.
    Raises:
        DataError: as :func:`read_label_map`.
    """
    masks = [role for role in roles if role not in cases.roles]
    classes: dict[str, set[int]] = {role: set() for role in masks}
    for case in cases:
        for role in masks:
            if role in case.masks:
                classes[role].update(classes_of(read_label_map(case.masks[role], role)))
    return {role: sorted(values) for role, values in classes.items()}


def one_hot(label_map: MetaTensor, classes: Sequence[int], key: str = "label") -> MetaTensor:
    """The channels of the classes of a label map [1, *S]: [len(classes), *S], 1 or 0.

    Raises:
        DataError: for a class that is not in ``classes``.
    """
    unseen = sorted(set(classes_of(label_map)) - set(classes))
    if unseen:
        raise DataError(
            label_map.meta.get("filename_or_obj", "a label map"), key=key,
            expected=f"classes that the training saw: {list(classes)}", got=f"also {unseen}",
            remedy="Give these voxels one of those classes, or train on label maps with all classes.",
        )  # fmt: skip
    numbers = torch.tensor(list(classes), dtype=label_map.dtype).reshape(-1, *(1 for _ in label_map.shape[1:]))
    return MetaTensor((label_map.as_tensor() == numbers).float(), meta=label_map.meta)


def part_sizes(roles: Sequence[str], classes: Mapping[str, Sequence[int]]) -> list[int]:
    """The number of channels of each role: 1 for an image, one for each class of a label map."""
    return [len(classes.get(role, (0,))) for role in roles]
