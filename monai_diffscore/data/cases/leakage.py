r"""Finds leaks between the sides of a split: shared subjects, files of one content, and nearly equal images.

The features of an image are its means on 16 equal steps along each axis, minus their mean: of a volume in RAS, of a
picture in the mean of its colours, of a slide in its overview. With three or more images the mean of all features is
subtracted as well, because all heads look alike. Then for the features u, v

.. math::  r = \frac{u \cdot v}{|u| |v|}

is 1 for copies that were rescaled, renamed or stored anew, and below :data:`NEAR` for two patients.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientation

from monai_diffscore.data.cases.content import equal_files
from monai_diffscore.data.cases.names import PICTURES, ending
from monai_diffscore.data.cases.pictures import is_projection
from monai_diffscore.data.paths import split_channel
from monai_diffscore.data.pictures import read_values
from monai_diffscore.data.slides import Slide, is_slide
from monai_diffscore.data.volumes import LoadVolumed

#: smallest correlation of features of two images that count as nearly the same
NEAR = 0.98
#: largest number of images whose voxels reports and checks compare by default; of more they compare contents alone
NEAR_AT_MOST = 64
_STEPS = 16
_OVERVIEW = 128  # pixels of a slide, along its longer side


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
    if all("slab" in item for item in (*train, *held_out)):
        return []
    pairs: dict[tuple[str, str], Leak] = {}
    subjects = {str(item["subject"]): _source(item, key) for item in train}
    for item in held_out:
        if (name := str(item["subject"])) in subjects:
            pair = subjects[name], _source(item, key)
            pairs[pair] = Leak("subject", *pair)
    sides = [[path for item in items if "row" not in item for path in _paths(item, key)] for items in (train, held_out)]
    for group in map(set, equal_files({split_channel(path)[0] for path in (*sides[0], *sides[1]) if _is_file(path)})):
        ends = [[path for path in side if split_channel(path)[0] in group] for side in sides]
        for one, other in itertools.product(*ends):
            pairs.setdefault((one, other), Leak("same content", one, other, 1.0))
    if near:
        for leak in _near(*(_features(items, key) for items in (train, held_out))):
            pairs.setdefault((leak.train, leak.held_out), leak)
    return list(pairs.values())


def _is_file(path: str) -> bool:
    """Whether the path is a file, or a channel of one; a DICOM series may be a folder."""
    return split_channel(path)[0].is_file()


def _features(items: Sequence[Mapping[str, Any]], key: str) -> dict[str, np.ndarray]:
    """The features of each readable image by its source."""
    features: dict[str, np.ndarray | None] = {}
    for item in items:
        if "row" in item:
            features[_source(item, key)] = _of_plane(np.load(item[key], mmap_mode="r")[item["row"]])
        else:
            features |= {path: image_features(path) for path in _paths(item, key) if path not in features}
    return {source: vector for source, vector in features.items() if vector is not None}


def _near(train: Mapping[str, np.ndarray], held_out: Mapping[str, np.ndarray]) -> list[Leak]:
    readable = {**train, **held_out}
    for length in {len(vector) for vector in readable.values()}:
        alike = {source: vector for source, vector in readable.items() if len(vector) == length}
        if len(alike) > 2:
            mean = np.mean(list(alike.values()), axis=0)
            readable |= {source: vector - mean for source, vector in alike.items()}
    pairs = []
    for one in train:
        for other in held_out:
            u, v = readable[one], readable[other]
            if one != other and len(u) == len(v):
                r = float(u @ v / max(float(np.linalg.norm(u) * np.linalg.norm(v)), 1e-12))
                if r >= NEAR:
                    pairs.append(Leak("nearly the same", one, other, r))
    return pairs


def image_features(path: str | Path) -> np.ndarray | None:
    """The features of a volume [16^3], slide or picture [16^2]; None for an unreadable file, which training reports."""
    file = split_channel(path)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_slide(file):
                return _of_plane(Slide(file, assume_mpp_um=1.0).overview(_OVERVIEW)[0])
            if file.suffix == ".npy":
                return _of_plane(np.load(file, mmap_mode="r"))
            if ending(file) in PICTURES or is_projection(file):
                return _of_plane(read_values(file))
            volume: Any = LoadVolumed("image", channels=None, slices=True)({"image": str(path)})["image"]
            upright = torch.as_tensor(np.asarray(Orientation(axcodes="RAS", labels=None)(volume)))
            return _centred(torch.nn.functional.adaptive_avg_pool3d(upright[:1], (_STEPS,) * 3))
    except Exception:  # whatever a damaged file makes of its reader
        return None


def _of_plane(values: np.ndarray) -> np.ndarray:
    """The features [16^2] of [H, W] or [C, H, W], and of a sequence [L], which is cut into 16 rows."""
    plane = torch.as_tensor(np.array(values, dtype=np.float64))
    if plane.ndim == 1:
        plane = torch.nn.functional.adaptive_avg_pool1d(plane[None], _STEPS**2).reshape(_STEPS, _STEPS)
    plane = plane.mean(0) if plane.ndim == 3 else plane
    return _centred(torch.nn.functional.adaptive_avg_pool2d(plane[None], (_STEPS,) * 2))


def _centred(small: torch.Tensor) -> np.ndarray:
    values = small.flatten().double().numpy()
    centred: np.ndarray = values - values.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-12)


def _paths(item: Mapping[str, Any], key: str) -> list[str]:
    return [item[key]] if isinstance(item[key], str) else list(item[key])


def _source(item: Mapping[str, Any], key: str) -> str:
    """The first path of an item, with its row."""
    first = _paths(item, key)[0]
    return f"{first}[{item['row']}]" if "row" in item else first
