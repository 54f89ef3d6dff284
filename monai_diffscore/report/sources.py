"""The data of a report: generated images, unseen real images and training volumes, of a run or of folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_diffscore.data import evenly_spaced, list_volumes
from monai_diffscore.errors import DataError
from monai_diffscore.report.image_files import find_samples, read_file, read_images
from monai_diffscore.report.runs import RunRecord, run_parser
from monai_diffscore.report.volumes import Volumes
from monai_diffscore.tensors import per_channel

#: transforms whose input is in Hounsfield units
_WINDOWS = frozenset({"WindowHU", "WindowHUd"})


@dataclass(frozen=True)
class Material:
    """The data of a panel: normalised images [N, C, *S]; ``low`` and ``high`` are the data units of -1 and 1.

    ``labels`` has those of ``samples``, ``real`` and ``copied`` if all images have one, see ``assess``.
    """

    samples: Tensor
    real: Tensor
    training: list[Tensor]
    copied: Tensor | None
    low: float
    high: float
    unit: str
    mirrored: bool
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    labels: dict[str, Tensor] | None = None

    @property
    def scale(self) -> float:
        """Data units in a normalised unit."""
        return (self.high - self.low) / 2


def gather(
    path: str | Path,
    real: str | Path | None = None,
    train: str | Path | None = None,
    count: int = 64,
    intensity_range: tuple[float, float] | None = None,
    unit: str | None = None,
    seed: int = 0,
    volumes: int = 16,
    record: RunRecord | None = None,
    label_key: str = "label",
    image: str = "",
) -> Material:
    """Reads samples, real images and training volumes.

    Args:
        path: the output folder of a training with its ``samples``, or a folder of generated NIfTI or .npy files.
        real: folder of unseen real images; None takes the validation cases of the run.
        train: folder of training images; None takes the training cases of the run, or none without a run.
        count: number of samples at most; twice as many real images.
        intensity_range: data units of -1 and 1; None takes the run's, else the percentiles 0.5 and 99.5 of the real
            images.
        unit: name of the data's unit.
        seed: seed of the places of the real windows.
        volumes: number of real and of training volumes to read at most, at even distances.
        record: from :func:`~monai_diffscore.report.runs.find_run`, or None.
        label_key: key of the label in the run's cases. Samples and images in folders have labels.npy beside.
        image: role of the images in ``real`` and ``train``; "" takes that of the run.
    Raises:
        DataError: if samples or a needed record are missing, or sizes do not fit.
    """
    path = Path(path)
    files = find_samples(path)
    raw, raw_labels = read_images(evenly_spaced(files, count), count)
    if record is not None and record.channel_ranges is not None:
        raw = [_by_channel(image, *record.channel_ranges) for image in raw]
        intensity_range, unit = (-1.0, 1.0), "normalised"
    unseen = _volumes(record, 1, real, volumes, raw[0].shape[1:], label_key, image)
    trained = _volumes(record, 0, train, volumes, raw[0].shape[1:], label_key, image)
    low, high = intensity_range or (record and record.intensity_range) or _percentiles(unseen.images)
    preprocessed = record is not None and record.config is not None
    to_unit = _Affine(low, high)
    samples = to_unit(torch.stack(raw))
    if not preprocessed:  # the transforms of a run normalise; without them all data go through one range
        unseen, trained = (replace(v, images=[to_unit(image) for image in v.images]) for v in (unseen, trained))
    size = tuple(samples.shape[1:])
    trained = trained.sliced(len(size) - 1).checked(size, "--train")
    unseen = unseen.sliced(len(size) - 1).checked(size, "--real")
    windows, labels = unseen.windows(size, 2 * len(samples), seed)
    copied, copied_labels = trained.windows(size, len(samples), seed + 1) if len(trained) else (None, labels)
    all_labels = {"model": raw_labels, "real": labels, "copied": copied_labels}
    obstacle = _against_labels(all_labels)
    if unit is None:
        unit = "HU" if record is not None and record.components & _WINDOWS else "intensity units"
    facts = {} if record is None else {"training": record.name}
    facts |= {
        "generated": f"{len(samples)} of {len(files)} file(s)" if len(files) > count else f"{len(samples)} images",
        **_facts(windows, unseen, trained),
        "range": f"{low:g} to {high:g} {unit}",
        "real from": unseen.name,
    }
    return Material(
        samples=samples,
        real=windows,
        training=trained.images,
        copied=copied,
        low=low,
        high=high,
        unit=unit,
        mirrored=record is not None and "RandFlipd" in record.components,
        facts=facts,
        warnings=_warnings(samples, windows, unseen, trained, record is not None) + ([obstacle] if obstacle else []),
        labels=None if obstacle is not None else all_labels,
    )


def _facts(windows: Tensor, unseen: Volumes, trained: Volumes) -> dict[str, str]:
    """The size of an image, and the numbers of real windows and volumes."""
    channels, *size = windows.shape[1:]
    return {
        "size of an image": " x ".join(map(str, size)) + (f", {channels} channels" if channels > 1 else ""),
        "unseen real": f"{len(windows)} windows of {len(unseen)} volume(s)",
        "training data searched": f"{len(trained)} volume(s)" if trained else "none given",
    }


def _by_channel(image: Tensor, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """An image [C, *S] with each channel's range mapped to [-1, 1]."""
    below, above = (per_channel(torch.tensor(limits), image) for limits in (low, high))
    return (image - below) * (2 / (above - below)) - 1


class _Affine:
    def __init__(self, low: float, high: float) -> None:
        if not low < high:
            raise DataError(
                "--range", key="range", expected="low < high", got=f"{low}, {high}", remedy="Swap or change the limits."
            )
        self.low, self.high = low, high

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.low) * (2 / (self.high - self.low)) - 1


def _volumes(
    record: RunRecord | None,
    part: int,
    folder: str | Path | None,
    most: int,
    size: Sequence[int],
    label_key: str,
    image: str,
) -> Volumes:
    """Training (part 0) or unseen (part 1) volumes; of images with the samples' ``size`` it reads 64 times as many."""
    if record is not None and record.config is not None:
        return _volumes_of_run(record, part, folder, most, size, label_key, image)
    if folder is not None:
        return _volumes_of_folder(folder, most)
    if part == 0:
        return Volumes([], [], "none given")
    raise DataError(
        "the run's records" if record else "the folder",
        expected="a training's mlflow_run.json with its configuration, to read real images from",
        got="none",
        remedy="Name a folder of unseen real images with --real.",
    )


def _volumes_of_folder(folder: str | Path, most: int) -> Volumes:
    contents = [read_file(file) for file in evenly_spaced(find_samples(folder), most * 64)]
    images = [image for images, _ in contents for image in images]
    return Volumes(images, [label for _, labels in contents for label in labels], str(folder))


def _volumes_of_run(
    record: RunRecord, part: int, folder: str | Path | None, most: int, size: Sequence[int], label_key: str, image: str
) -> Volumes:
    """The cases of the run, or of ``folder``, through its transforms without the random ones."""
    parser = run_parser(record)
    if folder is None:
        source = Path(str(parser.get_parsed_content("dataset_dir")))
        if not source.exists():
            remedy = f"Pass {('--train', '--real')[part]} FOLDER."
            raise DataError(source, key="dataset_dir", expected="the data of the run", got="nothing", remedy=remedy)
        cases, name = parser.get_parsed_content("cases")[part], source.name
    else:
        cases, name = _cases_of_folder(record, folder, image), str(folder)
    steps = [parser.get_parsed_content(name) for name in ("reading", "padding", "intensity") if name in parser]
    read_case: Any = Compose([step for transforms in steps for step in transforms])
    if folder is None and "train#plain_tiles" in parser:  # slides are read tile by tile
        cases = parser.get_parsed_content(("train#plain_tiles", "validate#dataset")[part])
        read_case = dict
    if part == 1 and label_key not in (*cases[0], "label"):
        expected = f"one of {sorted(cases[0])}"
        raise DataError(record.name, key="label-key", expected=expected, got=label_key, remedy="Name one of these.")
    loaded = [read_case(cases[0])]
    whole = tuple(loaded[0]["image"].shape[1:]) == tuple(size)
    loaded += [read_case(cases[place]) for place in evenly_spaced(range(len(cases)), most * 64 if whole else most)[1:]]
    tensors = [convert_to_tensor(item["image"], track_meta=False, dtype=torch.float32) for item in loaded]
    return Volumes(tensors, [int(item.get(label_key, -1)) for item in loaded], name)


def _cases_of_folder(record: RunRecord, folder: str | Path, image: str) -> list[dict[str, Any]]:
    """The images of a folder as the training of the run lists them: volumes of its role, pictures, or sequences."""
    parser = run_parser(record)
    parser.update({"dataset_dir": str(folder), "left_out": [], "layout": "auto"})
    if image and "image" in parser:
        parser.update({"image": image})
    lists = [name for name in ("pictures", "sequences", "slides") if name in parser]
    if lists:
        listed: list[dict[str, Any]] = parser.get_parsed_content(lists[0])
        return listed
    if "listing" not in parser:
        return list_volumes(folder, image=image)
    images: list[dict[str, Any]] = parser.get_parsed_content("listing").images(
        parser.get_parsed_content("image"), conditions=parser.get_parsed_content("fields")
    )
    return images


def _percentiles(volumes: Sequence[Tensor]) -> tuple[float, float]:
    values = np.concatenate([volume.flatten()[:: max(1, volume.numel() // 100_000)].numpy() for volume in volumes])
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


def _against_labels(labels: Mapping[str, Tensor]) -> str | None:
    """The obstacle to a classifier on the labels: None without one, "" if samples have no labels, the usual case."""
    sets = {name: set(values.tolist()) for name, values in labels.items()}
    if sets["model"] == {-1}:
        return ""
    if -1 not in set.union(*sets.values()) and sets["model"] == sets["real"] and len(sets["real"]) > 1:
        return None
    return (
        "Train on synthetic, test on real is left out: it needs a label of every image, and the same two or more in "
        f"samples and real images, got {sorted(sets['model'])} and {sorted(sets['real'])} (-1: none)."
    )


def _warnings(samples: Tensor, real: Tensor, unseen: Volumes, trained: Volumes, of_a_run: bool) -> list[str]:
    warnings = []
    if min(len(samples), len(real) // 2) < 32:
        warnings.append(
            f"Only {min(len(samples), len(real) // 2)} images a set: intervals are wide, and few differences show."
        )
    volume = samples[0].numel()
    independent = sum(v.numel() for v in unseen.images) / volume
    if independent < len(real):
        warnings.append(
            f"The {len(real)} real windows overlap: the unseen volumes hold {independent:.0f} windows side by side. "
            "The floor and its interval are too narrow for a claim beyond these volumes."
        )
    if len(unseen) == len(trained) == 1 and of_a_run and unseen.name == trained.name:
        warnings.append(
            "One subject in all: training and unseen data are two parts of one volume, which differ in anatomy. The "
            "control 'copied' shows how far: no model of the training part can come nearer to the unseen part."
        )
    return warnings
