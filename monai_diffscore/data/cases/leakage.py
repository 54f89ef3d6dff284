r"""Finds leaks between the sides of a split: shared subjects, files of one content, and nearly equal images.

The features of an image are its means on 16 equal steps along each axis, in RAS, minus their mean. With three or more
images the mean of all features is subtracted as well, because all heads look alike. Then for the features u, v

.. math::  r = \frac{u \cdot v}{|u| |v|}

is 1 for copies that were rescaled, renamed or stored anew, and below :data:`NEAR` for two patients.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientation

from monai_diffscore.data.cases.content import equal_files
from monai_diffscore.data.cases.names import ending
from monai_diffscore.data.paths import split_channel
from monai_diffscore.data.volumes import LoadVolumed

#: smallest correlation of features of two images that count as nearly the same
NEAR = 0.98
#: largest number of images whose voxels reports and checks compare by default; of more they compare contents alone
NEAR_AT_MOST = 64
_STEPS = 16


@dataclass(frozen=True)
class Leak:
    """A pair of images on the two sides of a split that makes the held-out error too small.

    Args:
        kind: "subject", "same content" or "nearly the same".
        train, held_out: the paths.
        correlation: of the features; 1 for the same content, None for a subject.
    """

    kind: str
    train: str
    held_out: str
    correlation: float | None = None

    def __str__(self) -> str:
        share = "" if self.correlation is None else f" (r = {self.correlation:.3f})"
        return f"{self.kind}{share}: {self.train} is trained on, {self.held_out} is held out"


def leaks(
    train: Sequence[Mapping[str, Any]],
    held_out: Sequence[Mapping[str, Any]],
    key: str = "image",
    near: bool = True,
) -> list[Leak]:
    """The leaks between two lists of images of :meth:`Cases.images`, one leak a pair, of the surest kind.

    The two slabs of a single subject are no leak.

    Args:
        train: the training images.
        held_out: the held-out images.
        key: of the path, or paths.
        near: compare the voxels too, which reads all images.
    """
    slabs = all("slab" in item for item in (*train, *held_out))
    train_paths, held_out_paths = _paths(train, key), _paths(held_out, key)
    pairs: dict[tuple[str, str], Leak] = {}
    if not slabs:
        subjects = {str(item["subject"]): _first(item[key]) for item in train}
        for item in held_out:
            if (name := str(item["subject"])) in subjects:
                pair = subjects[name], _first(item[key])
                pairs[pair] = Leak("subject", *pair)
        for group in equal_files(
            {split_channel(path)[0] for path in (*train_paths, *held_out_paths) if ending(split_channel(path)[0])}
        ):
            for one in train_paths:
                for other in held_out_paths:
                    if {split_channel(one)[0], split_channel(other)[0]} <= set(group):
                        pairs.setdefault((one, other), Leak("same content", one, other, 1.0))
        if near:
            for leak in _near(train_paths, held_out_paths):
                pairs.setdefault((leak.train, leak.held_out), leak)
    return list(pairs.values())


def _near(train: Sequence[str], held_out: Sequence[str]) -> list[Leak]:
    features = {path: image_features(path) for path in dict.fromkeys((*train, *held_out))}
    readable = {path: vector for path, vector in features.items() if vector is not None}
    if len(readable) > 2:
        mean = np.mean(list(readable.values()), axis=0)
        readable = {path: vector - mean for path, vector in readable.items()}
    pairs = []
    for one in train:
        for other in held_out:
            if one in readable and other in readable and one != other:
                u, v = readable[one], readable[other]
                r = float(u @ v / max(float(np.linalg.norm(u) * np.linalg.norm(v)), 1e-12))
                if r >= NEAR:
                    pairs.append(Leak("nearly the same", one, other, r))
    return pairs


def image_features(path: str | Path) -> np.ndarray | None:
    """The features [16^3] of a volume, of mean 0 and length 1; None for an unreadable file, which training reports."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            volume: Any = LoadVolumed("image", channels=None, slices=True)({"image": str(path)})["image"]
            upright = torch.as_tensor(np.asarray(Orientation(axcodes="RAS", labels=None)(volume)))
    except ValueError:
        return None
    small = torch.nn.functional.adaptive_avg_pool3d(upright[:1], (_STEPS,) * 3).flatten().double().numpy()
    centred: np.ndarray = small - small.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-12)


def _paths(items: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return [path for item in items for path in ([item[key]] if isinstance(item[key], str) else item[key])]


def _first(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else value[0]
