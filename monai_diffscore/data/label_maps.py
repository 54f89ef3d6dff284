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

#: value of each class, as a text, to its name; "" without a name
Classes = Mapping[str, str]


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


def values_of(label_map: torch.Tensor) -> list[int]:
    """The values of the classes in a label map, sorted."""
    return [int(value) for value in label_map.unique()]


def label_classes(cases: Cases, roles: Sequence[str]) -> dict[str, Classes]:
    """The classes of each role that is a mask of the cases, by value: the channels of its one-hot form.

    Each class has its value as a text, as JSON does, and its name, "" where the files of the cases state none.

    Args:
        cases: with the label maps.
        roles: of images and masks; a role of an image has no classes.
    Raises:
        DataError: as :func:`read_label_map`; for a class of several names.
    """
    masks = [role for role in roles if role not in cases.roles]
    values: dict[str, set[int]] = {role: set() for role in masks}
    for case in cases:
        for role in masks:
            if role in case.masks:
                values[role].update(values_of(read_label_map(case.masks[role], role)))
    return {role: {str(value): _name(cases, role, value) for value in sorted(values[role])} for role in masks}


def _name(cases: Cases, role: str, value: int) -> str:
    names = cases.class_names.get(role, {}).get(value, ())
    if len(names) > 1:
        raise DataError(
            cases.root, key=role, expected=f"one name of the class {value}", got=", ".join(names),
            remedy="Correct dseg.tsv or dataset.json, or give the classes of all label maps the same values.",
        )  # fmt: skip
    return names[0] if names else ""


def class_text(classes: Classes) -> str:
    """The values of classes with their names: ``0 (background), 1``."""
    return ", ".join(f"{value} ({name})" if name else str(value) for value, name in classes.items())


def refuse_unseen(label_map: MetaTensor, classes: Classes, key: str = "label") -> None:
    """Raises a DataError for a class of a label map that is not in ``classes``, those of a training."""
    unseen = sorted(set(values_of(label_map)) - set(map(int, classes)))
    if unseen:
        raise DataError(
            label_map.meta.get("filename_or_obj", "a label map"), key=key,
            expected=f"classes that the training saw: {class_text(classes)}",
            got=f"also {', '.join(map(str, unseen[:8]))}",
            remedy="Give these voxels one of those classes, leave the case out, or train on label maps with all "
            "classes.",
        )  # fmt: skip


def one_hot(label_map: MetaTensor, classes: Classes, key: str = "label") -> MetaTensor:
    """The channels of the classes of a label map [1, *S]: [len(classes), *S], 1 or 0.

    Raises:
        DataError: as :func:`refuse_unseen`.
    """
    refuse_unseen(label_map, classes, key)
    values = torch.tensor([int(value) for value in classes], dtype=label_map.dtype)
    channels = label_map.as_tensor() == values.reshape(-1, *(1 for _ in label_map.shape[1:]))
    return MetaTensor(channels.float(), meta=label_map.meta)


def part_sizes(roles: Sequence[str], classes: Mapping[str, Classes]) -> list[int]:
    """The number of channels of each role: 1 for an image, one for each class of a label map."""
    return [len(classes[role]) if role in classes else 1 for role in roles]
