"""What a report compares: generated images, unseen real ones and training volumes, of a run or of folders.

The records of a training are in its output folder: ``mlflow_run.json`` leads to the run, whose parameters hold the
intensity range, and whose artifact ``configuration_*.json`` all that the command gave, flags and overlays merged. So
real images pass through the very transforms that the model was trained with.
"""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImage
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_diffscore.credentials import reveal
from monai_diffscore.data import list_volumes, spread
from monai_diffscore.data.arrays import LABELS, read_labels
from monai_diffscore.errors import DataError
from monai_diffscore.report.volumes import Volumes
from monai_diffscore.tensors import per_channel

_SUFFIXES = (".nii", ".nii.gz", ".npy")
#: parameters that override the ids of the same name where a training, started from Python, left its train.json alone
_RECORDED_IDS = ("dataset_dir", "seed", "patch_size", "spacing_mm", "validation_share")


@dataclass(frozen=True)
class RunRecord:
    """What MLflow knows of a training: where it is, its parameters, its configuration."""

    uri: str
    run_id: str
    name: str
    parameters: dict[str, str]
    config: str | None = None  # a JSON text
    executed: bool = False  # whether that is what the command ran, and not the bundle's train.json
    bundle: str | None = None  # folder of the bundle when it was trained

    @property
    def intensity_range(self) -> tuple[float, float] | None:
        """The data units of -1 and 1; None if they are unknown, or one of each channel."""
        found = [self.parameters.get(name) for name in ("low", "high")]
        if self.channel_ranges is not None or None in found:
            return None
        return float(found[0]), float(found[1])  # type: ignore[arg-type]

    @property
    def channel_ranges(self) -> tuple[list[float], list[float]] | None:
        """The data units of -1 and 1 of each channel, if each has its own."""
        found = [self.parameters.get(name, "") for name in ("low", "high")]
        if not all(text.startswith("[") for text in found):
            return None
        low, high = (json.loads(text) for text in found)
        return low, high


@dataclass(frozen=True)
class Material:
    """All that a panel needs: normalised images [N, C, *S]; ``low`` and ``high`` are what -1 and 1 stand for.

    ``labels``, if all images have one: of ``samples``, ``real`` and ``copied``, as ``assess`` takes them.
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
) -> Material:
    """Reads samples, real images and training volumes.

    Args:
        path: the output folder of a training, whose ``samples`` are taken, or a folder of generated NIfTI or .npy
            files.
        real: folder of unseen real images; None takes the validation cases of the run.
        train: folder of training images; None takes the training cases of the run, or none without a run.
        count: at most this many samples, and twice as many real images.
        intensity_range: what stands for -1 and 1; None takes the run's, else the percentiles 0.5 and 99.5 of the
            real images.
        unit: name of the data's unit.
        seed: of the places where real images are cut out.
        volumes: at most this many real and training volumes are read, spread over all.
        record: from :func:`find_run`, if any.
        label_key: of the label in the run's cases. Samples, and images in folders, have theirs in labels.npy beside.
    Raises:
        DataError: if samples or a needed record are missing, or sizes do not fit.
    """
    path = Path(path)
    files = find_samples(path)
    raw, raw_labels = read_images(spread(files, count), count)
    if record is not None and record.channel_ranges is not None:
        raw = [_by_channel(image, *record.channel_ranges) for image in raw]
        intensity_range, unit = (-1.0, 1.0), "normalised"
    unseen = _volumes(record, 1, real, volumes, raw[0].shape[1:], label_key)
    trained = _volumes(record, 0, train, volumes, raw[0].shape[1:], label_key)
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
    known = {"model": raw_labels, "real": labels, "copied": copied_labels}
    why = _against_labels(known)
    if unit is None:
        unit = "HU" if record is not None and "WindowHU" in (record.config or "") else "intensity units"
    facts = {
        "generated": f"{len(samples)} of {len(files)} file(s)" if len(files) > count else f"{len(samples)} images",
        "size of an image": " x ".join(map(str, size[1:])) + (f", {size[0]} channels" if size[0] > 1 else ""),
        "unseen real": f"{len(windows)} windows of {len(unseen)} volume(s)",
        "training data searched": f"{len(trained)} volume(s)" if trained else "none given",
        "range": f"{low:g} to {high:g} {unit}",
        "real from": unseen.name,
    }
    if record is not None:
        facts = {"training": record.name, **facts}
    return Material(
        samples=samples,
        real=windows,
        training=trained.images,
        copied=copied,
        low=low,
        high=high,
        unit=unit,
        mirrored=record is not None and "RandFlipd" in (record.config or ""),
        facts=facts,
        warnings=_warnings(samples, windows, unseen, trained, record is not None) + ([why] if why else []),
        labels=None if why is not None else known,
    )


def find_run(path: str | Path) -> RunRecord | None:
    """The record of the training whose output folder ``path`` is, or lies in; None if there is none.

    Raises:
        DataError: if there is a record that cannot be opened.
    """
    for folder in (Path(path), Path(path).parent):
        file = folder / "mlflow_run.json"
        if file.is_file():
            known = json.loads(file.read_text())
            try:
                client = MlflowClient(reveal(known["uri"]))
                run = client.get_run(known["run_id"])
                name, config = _configuration(client, known["run_id"])
            except Exception as error:
                raise DataError(
                    file,
                    key="run_id",
                    expected="the MLflow run that it names",
                    got=f"{type(error).__name__}: {error}",
                    remedy="Start the tracking server or move the database back, or copy the samples elsewhere.",
                ) from error
            return RunRecord(
                known["uri"], known["run_id"], run.info.run_name or "", dict(run.data.params), config,
                executed=name != "train.json", bundle=run.data.tags.get("bundle"),
            )  # fmt: skip
    return None


def find_samples(path: str | Path) -> list[Path]:
    """The generated images of a run or folder, sorted.

    Raises:
        DataError: if there are none.
    """
    root = Path(path)
    folder = root / "samples" if (root / "samples").is_dir() else root
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.name.endswith(_SUFFIXES) and not file.name.startswith(".") and file.name != LABELS
    ]
    if not files:
        raise DataError(
            folder,
            key="samples",
            expected=f"generated images ({', '.join(_SUFFIXES)})",
            got="none" if folder.is_dir() else "no such folder",
            remedy="Run the bundle's sampling with --output_dir there, or give the folder of its samples.",
        )
    return files


def read_images(files: Sequence[Path], count: int) -> tuple[list[Tensor], Tensor]:
    """At most ``count`` images [C, *S] of equal size, and their labels: NIfTI files hold one each, .npy files a set
    [N, C, *S] with the labels in labels.npy beside it. A label is -1 where there is none.

    Raises:
        DataError: for a file that cannot be read, NaN, or images of several sizes.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    for file in files:
        some, their_labels = _read(file)
        images, labels = images + some, labels + their_labels
        _check_alike(file, images)
    return spread(images, count), torch.tensor(spread(labels, count))


def _by_channel(image: Tensor, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """An image [C, *S] with each channel's range mapped to [-1, 1]."""
    below, above = (per_channel(torch.tensor(limits), image) for limits in (low, high))
    return (image - below) * (2 / (above - below)) - 1


class _Affine:
    def __init__(self, low: float, high: float) -> None:
        if not low < high:
            raise DataError("--range", key="range", expected="low < high", got=f"{low}, {high}", remedy="Give others.")
        self.low, self.high = low, high

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.low) * (2 / (self.high - self.low)) - 1


def _read(file: Path) -> tuple[list[Tensor], list[int]]:
    """Images [C, *S] of a file, and their labels."""
    labels = None
    try:
        if file.suffix == ".npy":
            loaded = [torch.from_numpy(np.ascontiguousarray(image)).float() for image in np.load(file)]
        else:
            volume = LoadImage(image_only=True, ensure_channel_first=True, dtype=np.float32)(str(file))
            loaded = [torch.as_tensor(volume.as_tensor())]
    except Exception as error:
        raise DataError(
            file, expected="a readable image", got=f"{type(error).__name__}: {error}", remedy="Replace or remove it."
        ) from error
    for image in loaded:
        bad = int((~torch.isfinite(image)).sum())
        if image.ndim < 2 or bad:
            got = f"{bad} voxels NaN or infinite" if bad else f"shape {tuple(image.shape)}"
            raise DataError(
                file,
                expected="finite images [C, *S]; in .npy files [N, C, *S]",
                got=got,
                remedy="A model that makes such samples is broken; take them out to report on the rest.",
            )
    if file.suffix == ".npy":
        labels = read_labels(file, len(loaded), "label")
    # a picture in a NIfTI file has a third axis of one voxel
    images = [image.squeeze(-1) if image.ndim == 4 and image.shape[-1] == 1 else image for image in loaded]
    return images, [-1] * len(images) if labels is None else labels.tolist()


def _check_alike(file: Path, images: Sequence[Tensor]) -> None:
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) > 1:
        raise DataError(
            file,
            key="samples",
            expected="images of one size",
            got=f"{shapes[:4]}",
            remedy="Report on each size by itself.",
        )


def _volumes(
    record: RunRecord | None, part: int, given: str | Path | None, most: int, size: Sequence[int], label_key: str
) -> Volumes:
    """Training (part 0) or unseen (part 1) volumes; of images of the samples' ``size`` 64 times as many are read."""
    flag, what = ("--train", "training") if part == 0 else ("--real", "unseen real")
    config = record.config if record is not None else None
    if given is not None and config is None:
        read = [_read(file) for file in spread(find_samples(given), most * 64)]
        return Volumes(
            [image for images, _ in read for image in images],
            [label for _, labels in read for label in labels],
            str(given),
        )
    if config is None or record is None:
        if part == 0:
            return Volumes([], [], "none given")
        raise DataError(
            "the run's records" if record else "the folder",
            key="real",
            expected="a training's mlflow_run.json with its configuration, to read real images from",
            got="none",
            remedy=f"Give a folder of {what} images with {flag}.",
        )
    parser = run_parser(record)
    cases: Any = list_volumes(given) if given is not None else None
    if cases is None:
        source = Path(str(parser.get_parsed_content("dataset_dir")))
        if not source.exists():
            raise DataError(
                source, key="dataset_dir", expected="the data of the run", got="nothing", remedy=f"Give {flag} FOLDER."
            )
        cases = parser.get_parsed_content("cases")[part]
    read_case: Any = Compose(parser.get_parsed_content("train#deterministic_transforms"))
    if given is None and "train#plain_tiles" in parser:  # slides are read tile by tile
        cases = parser.get_parsed_content(("train#plain_tiles", "validate#dataset")[part])
        read_case = dict
    if part == 1 and label_key not in (*cases[0], "label"):
        raise DataError(
            record.name, key="label-key", expected=f"one of {sorted(cases[0])}", got=label_key, remedy="Give another."
        )
    loaded = [read_case(cases[0])]
    whole = tuple(loaded[0]["image"].shape[1:]) == tuple(size)
    loaded += [read_case(cases[place]) for place in spread(range(len(cases)), most * 64 if whole else most)[1:]]
    tensors = [convert_to_tensor(item["image"], track_meta=False, dtype=torch.float32) for item in loaded]
    name = str(given) if given is not None else f"{Path(str(parser.get_parsed_content('dataset_dir'))).name}"
    return Volumes(tensors, [int(item.get(label_key, -1)) for item in loaded], name)


def run_parser(record: RunRecord) -> ConfigParser:
    """The configuration of a run, with the flags that it was given."""
    parser = ConfigParser()
    parser.read_config(json.loads(record.config or "{}"))
    if record.bundle is not None and "bundle_root" in parser and Path(record.bundle).is_dir():
        parser["bundle_root"] = record.bundle
    for name in () if record.executed else _RECORDED_IDS:
        if name in record.parameters and name in parser:
            parser[name] = _literal(record.parameters[name])
    return parser


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _configuration(client: MlflowClient, run_id: str) -> tuple[str, str | None]:
    """Name and text of what the last command of a run executed, else of the bundle's train.json, if it is there."""
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    name = max((name for name in names if name.startswith("configuration_")), default="train.json")
    if name not in names:
        return name, None
    with tempfile.TemporaryDirectory() as folder:
        return name, Path(client.download_artifacts(run_id, name, folder)).read_text()


def _percentiles(volumes: Sequence[Tensor]) -> tuple[float, float]:
    values = np.concatenate([volume.flatten()[:: max(1, volume.numel() // 100_000)].numpy() for volume in volumes])
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high)


def _against_labels(labels: Mapping[str, Tensor]) -> str | None:
    """Why no classifier is trained on the labels: None if it can be, "" if samples have none, which is usual."""
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
            f"Only {min(len(samples), len(real) // 2)} images a set: intervals are wide, and little can be told apart."
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
