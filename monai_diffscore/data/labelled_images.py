r"""Images and their label maps as the channels of one state, for a model of both together.

The state of an image x and a label map with k classes has 1 + k channels,

.. math::  z = (x,\; 2 p_0 - 1,\; \ldots,\; 2 p_{k-1} - 1)

where :math:`p_c` is the share of class c in a voxel: 0 or 1 on the grid of the label map, between them at borders after
resampling. The label of a drawn state is the class of the largest channel, so that of an image without resampling is
exact. No third class appears between two others. It would with the bits of the number of a class (Chen, Zhang and
Hinton 2023, arXiv:2208.04202): bits of a mixture of two classes can be those of a third.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_diffscore.data.cases.case import Cases
from monai_diffscore.data.label_maps import Classes, label_classes
from monai_diffscore.errors import DataError

#: of a file of 8 bits
_MOST = 256
_BACKGROUND = "background"
_IGNORE = "ignore"  # a name with a meaning in nnU-Net


def joint_classes(cases: Cases, mask: str) -> dict[str, Classes]:
    """The classes of the label maps of a mask, as :func:`~monai_diffscore.data.label_maps.label_classes`, with 0.

    Args:
        cases: with the label maps.
        mask: its name.
    Raises:
        DataError: unless the values are 0, 1, ..., which nnU-Net requires, and at most 256; as ``label_classes``.
    """
    classes = {"0": "", **label_classes(cases, [mask])[mask]}
    if sorted(map(int, classes)) != list(range(len(classes))) or len(classes) > _MOST:
        raise DataError(
            cases.root, key=mask, expected=f"classes with the values 0, 1, 2, ... without gaps, at most {_MOST}",
            got=", ".join(list(classes)[:20]),
            remedy="Give the classes of all label maps these values: nnU-Net requires them of a data set.",
        )  # fmt: skip
    return {mask: classes}


def joint_channels(classes: Mapping[str, Classes]) -> int:
    """The number of channels of a state: one of the image, and one of each class."""
    return 1 + sum(map(len, classes.values()))


def class_numbers(classes: Classes) -> dict[str, int]:
    """The ``labels`` of nnU-Net's ``dataset.json``: each name once, 0 is the background."""
    numbers = {_BACKGROUND: 0}
    for value, name in classes.items():
        if int(value):
            own = name not in ("", _IGNORE) and name not in numbers
            numbers[name if own else f"class {value}"] = int(value)
    return numbers


class JoinLabelsd(MapTransform):
    """Adds the channels of classes to an image: [1, *S] and shares [k, *S] become the state [1 + k, *S].

    Voxels outside the field of view of the label map, which are NaN, have class 0.

    Args:
        keys: keys of images in [-1, 1].
        given_key: key of the shares of :class:`~monai_diffscore.data.LoadGivend`, which it removes.
    """

    def __init__(self, keys: KeysCollection, given_key: str = "given") -> None:
        super().__init__(keys)
        self.given_key = given_key

    def __call__(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, MetaTensor]:
        joined = dict(data)
        shares = torch.as_tensor(joined.pop(self.given_key).as_tensor())
        background = torch.zeros_like(shares)
        background[0] = 1
        channels = 2 * torch.where(shares.isnan(), background, shares) - 1
        for key in self.key_iterator(joined):
            image = joined[key]
            state = torch.cat([image.as_tensor(), channels])
            joined[key] = MetaTensor(state, meta=image.meta, applied_operations=image.applied_operations)
        return joined


class SplitLabelsd(MapTransform):
    """Splits a drawn state [1 + k, *S] into the image [1, *S] and the label map [1, *S], 0 to k - 1.

    Args:
        keys: key of the state, which becomes the image.
        label_key: key for the label map.
    """

    def __init__(self, keys: KeysCollection, label_key: str = "label") -> None:
        super().__init__(keys)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        split = dict(data)
        for key in self.key_iterator(split):
            state = split[key]
            split[key] = state[:1]
            split[self.label_key] = state[1:].argmax(0, keepdim=True)
        return split
