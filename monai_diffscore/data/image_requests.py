"""Requests for samples of images: seeds, labels, surroundings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def requested_labels(num_classes: int | None, label: int | Sequence[int], count: int) -> list[dict[str, int]]:
    """A request for each sample: its seed, and its class label if the model has classes.

    Args:
        num_classes: of the model; None has none.
        label: of all samples, or several in turn; -1 is any class.
        count: number of samples.
    """
    if num_classes is None:
        return [{"seed": number} for number in range(count)]
    labels = [label] if isinstance(label, int) else list(label)
    return [{"seed": number, "label": labels[number % len(labels)]} for number in range(count)]


def requested_tiles(count: int, tiles: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """A request for each sample: its seed, and the low-power surroundings of a tile.

    Args:
        count: number of samples; at most the number of tiles.
        tiles: items with ``context``; None requests samples without surroundings.
    """
    if tiles is None:
        return [{"seed": number} for number in range(count)]
    return [{"seed": number, "context": tiles[number]["context"]} for number in range(min(count, len(tiles)))]


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
