"""What a report compares: generated images, unseen real ones and training volumes, of a run or of folders.

The records of a training are in its output folder: ``mlflow_run.json`` leads to the run, whose parameters hold the
intensity range, and whose artifact ``configuration_*.json`` all that the command gave, flags and overlays merged. So
real images pass through the very transforms that the model was trained with.
"""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImage
from torch import Tensor

from monai_diffscore.data import DataError, list_volumes, spread

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
    """All that a panel needs: normalised images [N, C, *S]; ``low`` and ``high`` are what -1 and 1 stand for."""

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
    Raises:
        DataError: if samples or a needed record are missing, or sizes do not fit.
    """
    path = Path(path)
    files = find_samples(path)
    raw = read_images(spread(files, count), count)
    if record is not None and record.channel_ranges is not None:
        raw = [_by_channel(image, *record.channel_ranges) for image in raw]
        intensity_range, unit = (-1.0, 1.0), "normalised"
    unseen, unseen_name = _volumes(record, 1, real, volumes)
    trained, trained_name = _volumes(record, 0, train, volumes)
    low, high = intensity_range or (record and record.intensity_range) or _percentiles(unseen)
    preprocessed = record is not None and record.config is not None
    to_unit = _Affine(low, high)
    samples = to_unit(torch.stack(raw))
    if not preprocessed:  # the transforms of a run normalise; without them all data go through one range
        unseen, trained = [to_unit(v) for v in unseen], [to_unit(v) for v in trained]
    size = tuple(samples.shape[1:])
    unseen, trained = _slices(unseen, len(size)), _slices(trained, len(size))
    trained = _large_enough(trained, size, "--train", trained_name)
    unseen = _large_enough(unseen, size, "--real", unseen_name)
    windows = random_windows(unseen, size, 2 * len(samples), seed)
    if unit is None:
        unit = "HU" if record is not None and "WindowHU" in (record.config or "") else "intensity units"
    facts = {
        "generated": f"{len(samples)} of {len(files)} file(s)" if len(files) > count else f"{len(samples)} images",
        "size of an image": " x ".join(map(str, size[1:])) + (f", {size[0]} channels" if size[0] > 1 else ""),
        "unseen real": f"{len(windows)} windows of {len(unseen)} volume(s)",
        "training data searched": f"{len(trained)} volume(s)" if trained else "none given",
        "range": f"{low:g} to {high:g} {unit}",
        "real from": unseen_name,
    }
    if record is not None:
        facts = {"training": record.name, **facts}
    return Material(
        samples=samples,
        real=windows,
        training=trained,
        copied=random_windows(trained, size, len(samples), seed + 1) if trained else None,
        low=low,
        high=high,
        unit=unit,
        mirrored=record is not None and "RandFlipd" in (record.config or ""),
        facts=facts,
        warnings=_warnings(samples, windows, unseen, trained, trained_name == unseen_name and record is not None),
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
                client = MlflowClient(known["uri"])
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
                executed=name != "train.json",
            )  # fmt: skip
    return None


def find_samples(path: str | Path) -> list[Path]:
    """The generated images of a run or folder, sorted.

    Raises:
        DataError: if there are none.
    """
    root = Path(path)
    folder = root / "samples" if (root / "samples").is_dir() else root
    files = [f for f in sorted(folder.rglob("*")) if f.name.endswith(_SUFFIXES) and not f.name.startswith(".")]
    if not files:
        raise DataError(
            folder,
            key="samples",
            expected=f"generated images ({', '.join(_SUFFIXES)})",
            got="none" if folder.is_dir() else "no such folder",
            remedy="Run the bundle's sampling with --output_dir there, or give the folder of its samples.",
        )
    return files


def read_images(files: Sequence[Path], count: int) -> list[Tensor]:
    """At most ``count`` images [C, *S] of equal size: NIfTI files hold one each, .npy files a set [N, C, *S].

    Raises:
        DataError: for a file that cannot be read, NaN, or images of several sizes.
    """
    images: list[Tensor] = []
    for file in files:
        images += _read(file)
        _check_alike(file, images)
    return spread(images, count)


def random_windows(volumes: Sequence[Tensor], size: Sequence[int], count: int, seed: int = 0) -> Tensor:
    """``count`` windows [count, C, *S] at random places, as many from each volume; whole images are not repeated."""
    random = np.random.default_rng(seed)
    if all(tuple(volume.shape) == tuple(size) for volume in volumes):
        return torch.stack(spread(volumes, count))
    windows = []
    for number in range(count):
        volume = volumes[number % len(volumes)]
        starts = [int(random.integers(v - s + 1)) for v, s in zip(volume.shape[1:], size[1:], strict=True)]
        cut = tuple(slice(start, start + edge) for start, edge in zip(starts, size[1:], strict=True))
        windows.append(volume[(slice(None), *cut)])
    return torch.stack(windows)


def _by_channel(image: Tensor, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """An image [C, *S] with each channel's range mapped to [-1, 1]."""
    below, above = (torch.tensor(limits).reshape(-1, *[1] * (image.ndim - 1)) for limits in (low, high))
    return (image - below) * (2 / (above - below)) - 1


class _Affine:
    def __init__(self, low: float, high: float) -> None:
        if not low < high:
            raise DataError("--range", key="range", expected="low < high", got=f"{low}, {high}", remedy="Give others.")
        self.low, self.high = low, high

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.low) * (2 / (self.high - self.low)) - 1


def _read(file: Path) -> list[Tensor]:
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
    # a picture in a NIfTI file has a third axis of one voxel
    return [image.squeeze(-1) if image.ndim == 4 and image.shape[-1] == 1 else image for image in loaded]


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


def _volumes(record: RunRecord | None, part: int, given: str | Path | None, most: int) -> tuple[list[Tensor], str]:
    """Training (part 0) or unseen (part 1) volumes, and where they come from."""
    flag, what = ("--train", "training") if part == 0 else ("--real", "unseen real")
    config = record.config if record is not None else None
    if given is not None and config is None:
        root = Path(given)
        files = find_samples(root)
        return [image for file in spread(files, most * 64) for image in _read(file)], str(given)
    if config is None or record is None:
        if part == 0:
            return [], "none given"
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
    transform = Compose(parser.get_parsed_content("train#deterministic_transforms"))
    if given is None and "train#plain_tiles" in parser:  # slides are read tile by tile
        tiles = parser.get_parsed_content(("train#plain_tiles", "validate#dataset")[part])
        loaded = [item["image"] for item in spread(tiles, most * 64)]
    else:
        loaded = [transform(case)["image"] for case in spread(cases, most)]
    tensors = [torch.as_tensor(v.as_tensor() if hasattr(v, "as_tensor") else v).float() for v in loaded]
    name = str(given) if given is not None else f"{Path(str(parser.get_parsed_content('dataset_dir'))).name}"
    return tensors, name


def run_parser(record: RunRecord) -> ConfigParser:
    """The configuration of a run, with the flags that it was given."""
    parser = ConfigParser()
    parser.read_config(json.loads(record.config or "{}"))
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


def _slices(volumes: list[Tensor], dims: int) -> list[Tensor]:
    """Volumes as they are, or their slices along the last axis if the samples are slices."""
    if not volumes or volumes[0].ndim != dims + 1:
        return volumes
    return [part for volume in volumes for part in volume.unbind(-1)]


def _large_enough(volumes: list[Tensor], size: tuple[int, ...], flag: str, name: str) -> list[Tensor]:
    fits = [
        v.ndim == len(size)
        and v.shape[0] == size[0]
        and all(a >= b for a, b in zip(v.shape[1:], size[1:], strict=True))
        for v in volumes
    ]
    if volumes and not all(fits):
        wrong = tuple(volumes[fits.index(False)].shape)
        raise DataError(
            name,
            key=flag.lstrip("-"),
            expected=f"images of {size[0]} channel(s) and at least {size[1:]} voxels, as the samples",
            got=f"{wrong}",
            remedy=f"Give larger images with {flag}, or smaller samples.",
        )
    return volumes


def _warnings(
    samples: Tensor, real: Tensor, unseen: Sequence[Tensor], trained: Sequence[Tensor], one_source: bool
) -> list[str]:
    warnings = []
    if min(len(samples), len(real) // 2) < 32:
        warnings.append(
            f"Only {min(len(samples), len(real) // 2)} images a set: intervals are wide, and little can be told apart."
        )
    volume = samples[0].numel()
    independent = sum(v.numel() for v in unseen) / volume
    if independent < len(real):
        warnings.append(
            f"The {len(real)} real windows overlap: the unseen volumes hold {independent:.0f} windows side by side. "
            "The floor and its interval are too narrow for a claim beyond these volumes."
        )
    if len(unseen) == 1 and one_source and len(trained) == 1:
        warnings.append(
            "One subject in all: training and unseen data are two parts of one volume, which differ in anatomy. The "
            "control 'copied' shows how far: no model of the training part can come nearer to the unseen part."
        )
    return warnings
