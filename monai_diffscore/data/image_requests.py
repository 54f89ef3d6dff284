"""Requests for samples of images, and for results of cases: seeds, labels, surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_diffscore.data.requests import place_of
from monai_diffscore.errors import DataError

#: seed of the first healthy case of a calibration: it shares no noise with the cases of a task
FIRST_HEALTHY_SEED = 10**6


def requested_labels(
    num_classes: int | None,
    label: Any | Sequence[Any],
    count: int,
    classes: Sequence[str] | None = None,
) -> list[dict[str, int]]:
    """A request for each sample: its seed, and its class label if the model has classes.

    Args:
        num_classes: of the model; None has none.
        label: name or number of the class of all samples, or several in turn; None and -1 are any class.
        count: number of samples.
        classes: names of the classes, in the order of their numbers; None: they have none.
    Raises:
        DataError: for a class that the model does not have, or any class where it has none.
    """
    labels = list(label) if isinstance(label, list | tuple) else [label]
    if num_classes is None:
        if any(one not in (None, -1) for one in labels):
            raise DataError(
                "the request", key="label", expected="none: the model has no classes", got=repr(label),
                remedy="Leave --label out.",
            )  # fmt: skip
        return [{"seed": number} for number in range(count)]
    names = list(classes or map(str, range(num_classes)))
    numbers = [-1 if one in (None, -1) else place_of(one, names) for one in labels]
    return [{"seed": number, "label": numbers[number % len(numbers)]} for number in range(count)]


def requested_tiles(count: int, tiles: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """A request for each sample: its seed, and the low-power surroundings of a tile.

    Args:
        count: number of samples; at most the number of tiles.
        tiles: items with ``context``; None requests samples without surroundings.
    """
    if tiles is None:
        return [{"seed": number} for number in range(count)]
    return [{"seed": number, "context": tiles[number]["context"]} for number in range(min(count, len(tiles)))]


def seeded_cases(cases: Sequence[Mapping[str, Any]], healthy: bool = False) -> list[dict[str, Any]]:
    """The cases, each with the ``seed`` of its noise: 0, 1, ..., and from :data:`FIRST_HEALTHY_SEED` for a calibration.

    Args:
        cases: dictionaries before preprocessing.
        healthy: whether they are the healthy cases of a calibration.
    """
    first = FIRST_HEALTHY_SEED if healthy else 0
    return [{**case, "seed": seed} for seed, case in enumerate(cases, start=first)]


def labels_in_turn(
    num_classes: int | None, classes: Sequence[str] | None, count: int, device: torch.device
) -> dict[str, Tensor]:
    """The condition of a gallery: each class in turn [count]; -1 (any class) for data without labels.

    Args:
        num_classes: of the model; None has none, and no condition.
        classes: names of the classes in the data.
        count: number of samples.
        device: of the tensor.
    """
    if num_classes is None:
        return {}
    label = torch.arange(count, device=device) % num_classes if classes else torch.full([count], -1, device=device)
    return {"label": label}
