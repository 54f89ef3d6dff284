r"""Finds leaks between the sides of a split: shared subjects, files or rows of one content, and nearly equal images.

The features of an image are its means on 16 equal steps along each axis, minus their mean: of a volume in RAS, of a
picture in the mean of its colours, of a slide in its overview; of the whole image, and of the box of its foreground,
which a crop of the background leaves. With three or more images the mean of all features is subtracted as well, because
all heads look alike. Then for the features u, v

.. math::  r = \frac{u \cdot v}{|u| |v|}

is 1 for copies that were rescaled, renamed, stored anew or cropped, and below :data:`NEAR` for two patients. The
largest r of all reflections of v counts, because a copy may have another orientation in its header.
"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Orientation

from monai_diffscore.data.cases.content import equal_files
from monai_diffscore.data.cases.names import PICTURES, ending
from monai_diffscore.data.cases.pictures import is_projection
from monai_diffscore.data.paths import split_channel, split_series
from monai_diffscore.data.pictures import read_values
from monai_diffscore.data.slides import Slide, is_slide
from monai_diffscore.data.volumes import LoadVolumed

#: smallest correlation of features of two images that count as nearly the same
NEAR = 0.98
#: largest size of the files, in bytes, whose voxels reports and checks read; of more they compare contents alone
NEAR_BYTES = 2 * 2**30
_STEPS = 16
_FOREGROUND = 0.1  # of the range of the intensities
_MOST_REFLECTED = 10**6  # pairs whose reflections are compared
_BLOCK = 1024
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
    rows = {digest: source for source, digest in _row_hashes(train, key)}
    for other, digest in _row_hashes(held_out, key):
        if digest in rows:
            pairs.setdefault((rows[digest], other), Leak("same content", rows[digest], other, 1.0))
    if near:
        copies = {leak.held_out for leak in pairs.values() if leak.kind == "same content"}
        for leak in _near(*(_features(items, key) for items in (train, held_out))):
            if leak.held_out not in copies:
                pairs.setdefault((leak.train, leak.held_out), leak)
    return list(pairs.values())


def may_read_voxels(
    train: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]], key: str = "image"
) -> bool:
    """Whether all files have at most :data:`NEAR_BYTES` together, so that a report may read them."""
    places = {split_channel(split_series(path)[0])[0] for item in (*train, *held_out) for path in _paths(item, key)}
    total = 0
    for place in places:
        files = place.iterdir() if place.is_dir() else (place,)
        total += sum(file.stat().st_size for file in files if file.is_file())
        if total > NEAR_BYTES:
            return False
    return True


def _of_arrays(items: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[int]]:
    """The rows of the items by the array that holds them."""
    rows: dict[str, list[int]] = defaultdict(list)
    for item in items:
        if "row" in item:
            rows[item[key]].append(int(item["row"]))
    return rows


def _row_hashes(items: Sequence[Mapping[str, Any]], key: str) -> Iterator[tuple[str, bytes]]:
    """The source and the hash of the values of each row."""
    for file, rows in _of_arrays(items, key).items():
        array = np.load(file, mmap_mode="r")
        for row in rows:
            values = np.ascontiguousarray(array[row])
            yield f"{file}[{row}]", hashlib.blake2b(values.tobytes(), salt=values.dtype.str.encode()).digest()


def _is_file(path: str) -> bool:
    """Whether the path is a file, or a channel of one; a DICOM series may be a folder."""
    return split_channel(path)[0].is_file()


def _features(items: Sequence[Mapping[str, Any]], key: str) -> dict[str, np.ndarray]:
    """The features of each readable image by its source."""
    features: dict[str, np.ndarray | None] = {}
    for item in items:
        if "row" not in item:
            features |= {path: image_features(path) for path in _paths(item, key) if path not in features}
    for file, rows in _of_arrays(items, key).items():
        array = np.load(file, mmap_mode="r")
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            several = zip(block, _of_planes(array[block]), strict=True)
            features |= {f"{file}[{row}]": vector for row, vector in several}
    return {source: vector for source, vector in features.items() if vector is not None}


def _near(train: Mapping[str, np.ndarray], held_out: Mapping[str, np.ndarray]) -> list[Leak]:
    """The nearest training image of each held-out one, where it is nearly the same."""
    nearest: dict[str, tuple[float, str]] = {}
    for shape in {vector.shape for vector in train.values()}:
        ones, others = ([source for source in side if side[source].shape == shape] for side in (train, held_out))
        if not others:
            continue
        several = len({*ones, *others}) > 2
        axes = range(1, len(shape)) if len(shape) > 2 and len(ones) * len(others) <= _MOST_REFLECTED else ()
        for variant in range(shape[0]):
            u, v = (np.stack([side[s][variant] for s in names]) for side, names in ((train, ones), (held_out, others)))
            mean = np.concatenate([u, v]).mean(0) if several else np.zeros(1, np.float32)
            for flipped in itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(len(axes) + 1)):
                _keep_nearest(nearest, ones, others, _unit(u - mean), _unit(np.flip(v, flipped) - mean))
    return [Leak("nearly the same", one, other, r) for other, (r, one) in nearest.items()]


def _keep_nearest(
    nearest: dict[str, tuple[float, str]], ones: Sequence[str], others: Sequence[str], u: np.ndarray, v: np.ndarray
) -> None:
    """Keeps the largest r of each held-out image and its training image, from :data:`NEAR` on."""
    for start in range(0, len(others), _BLOCK):
        products = u @ v[start : start + _BLOCK].T
        for number, other in enumerate(others[start : start + _BLOCK]):
            place = int(products[:, number].argmax())
            r = min(float(products[place, number]), 1.0)
            if r >= NEAR and r > nearest.get(other, (0.0, ""))[0] and ones[place] != other:
                nearest[other] = r, ones[place]


def _unit(features: np.ndarray) -> np.ndarray:
    """The features [N, ...] as vectors [N, L] of length 1."""
    flat = features.reshape(len(features), -1)
    unit: np.ndarray = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return unit


def image_features(path: str | Path) -> np.ndarray | None:
    """The features of a volume [2, 16, 16, 16], slide or picture [2, 16, 16], or sequence [1, 256].

    The first of two are of the whole image, the second of the box of its foreground. None for an unreadable file, which
    the training reports.
    """
    file = split_channel(path)[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_slide(file):
                return _of_planes(Slide(file, assume_mpp_um=1.0).overview(_OVERVIEW)[0][None])[0]
            if file.suffix == ".npy":
                return _of_planes(np.load(file, mmap_mode="r")[None])[0]
            if ending(file) in PICTURES or is_projection(file):
                return _of_planes(read_values(file)[None])[0]
            volume: Any = LoadVolumed("image", channels=None, slices=True)({"image": str(path)})["image"]
            upright = torch.as_tensor(np.asarray(Orientation(axcodes="RAS", labels=None)(volume)))[0]
            return np.stack([_small(part) for part in (upright, _foreground(upright))])
    except Exception:  # whatever a damaged file makes of its reader
        return None


def _of_planes(values: np.ndarray) -> np.ndarray:
    """The features [N, 2, 16, 16] of N planes [H, W] or [C, H, W], and [N, 1, 256] of N sequences [L]."""
    planes = torch.as_tensor(np.array(values, dtype=np.float32))
    if planes.ndim == 2:
        return np.stack([_centred(torch.nn.functional.adaptive_avg_pool1d(one[None], _STEPS**2)) for one in planes])
    planes = planes.mean(1) if planes.ndim == 4 else planes
    return np.stack([[_small(one), _small(_foreground(one))] for one in planes])


def _foreground(image: torch.Tensor) -> torch.Tensor:
    """The box of an image [*S] with all values above a tenth of the range; some values tell the range."""
    some = image.flatten()[:: max(1, image.numel() // 2**16)].float()
    low, high = float(some.min()), float(torch.quantile(some, 0.99))
    inside = image > low + _FOREGROUND * (high - low)
    box = []
    for axis in range(image.ndim):
        places = inside.transpose(0, axis).flatten(1).any(1)
        numbers = places.nonzero().flatten().tolist() or [0, image.shape[axis] - 1]
        box.append(slice(numbers[0], numbers[-1] + 1))
    return image[tuple(box)]


def _small(image: torch.Tensor) -> np.ndarray:
    """The centred means of an image [*S] on 16 steps along each axis."""
    batch = image[None].float()
    if image.ndim == 2:
        return _centred(torch.nn.functional.adaptive_avg_pool2d(batch, (_STEPS, _STEPS))[0])
    return _centred(torch.nn.functional.adaptive_avg_pool3d(batch, (_STEPS, _STEPS, _STEPS))[0])


def _centred(small: torch.Tensor) -> np.ndarray:
    values = small.float().numpy()
    centred: np.ndarray = values - values.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-12)


def _paths(item: Mapping[str, Any], key: str) -> list[str]:
    return [item[key]] if isinstance(item[key], str) else list(item[key])


def _source(item: Mapping[str, Any], key: str) -> str:
    """The first path of an item, with its row."""
    first = _paths(item, key)[0]
    return f"{first}[{item['row']}]" if "row" in item else first
