"""Facts of the training data that lie beside the weights, as ``data_statistics.json``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.transforms import Compose

from monai_diffscore.data.patches import evenly_spaced, load_statistics, measure_statistics
from monai_diffscore.errors import DataError

NAME = "data_statistics.json"


def measure_cases(cases: Sequence[Any], transforms: Sequence[Any], count: int = 32, **facts: Any) -> dict[str, Any]:
    """Statistics of preprocessed cases, and facts that inference needs beside them.

    Args:
        cases: dictionaries before preprocessing.
        transforms: the preprocessing.
        count: at most this many cases are read, evenly spaced.
        facts: such as ``spacing_mm``.
    Returns:
        What :func:`~monai_diffscore.data.measure_statistics` gives, and the facts.
    """
    preprocessed: Any = Dataset(evenly_spaced(cases, count), Compose(transforms))
    return {**measure_statistics(preprocessed), **facts}


def evenly_spaced_items(dataset: Sequence[Any], count: int) -> Dataset:
    """At most ``count`` items of a data set, evenly spaced; patches of one case count one by one."""
    if len(dataset) and isinstance(dataset[0], list):
        dataset = [patch for patches in dataset for patch in patches]
    return Dataset(evenly_spaced(dataset, count))


def statistics_beside(checkpoint: str | Path, untrained: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The statistics of the training that wrote some weights.

    Args:
        checkpoint: the weights; the statistics lie in their folder. A checkpoint of a training has them inside.
        untrained: what stands for the statistics until there are weights, so that the network can be built and looked
            at. None refuses that.
    Raises:
        DataError: if there are weights without statistics, or neither and no ``untrained``.
    """
    path = Path(checkpoint).with_name(NAME)
    if untrained is not None and not path.is_file() and not Path(checkpoint).is_file():
        return dict(untrained)
    if not path.is_file() and re.fullmatch(r"iteration_\d+\.pt", Path(checkpoint).name) and Path(checkpoint).is_file():
        training = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True).get("training", {})
        statistics = json.loads(training.get("statistics", "null"))
        if statistics is not None:
            return dict(statistics)
    return load_statistics(path)


def require_weights(checkpoint: str | Path) -> None:
    """Refuses to run without weights.

    Raises:
        DataError: if there is no such file.
    """
    if not Path(checkpoint).is_file():
        raise DataError(
            checkpoint, expected="weights that a training wrote", got="no such file",
            remedy="Train first (run training --config_file configs/train.json), or give another --checkpoint.",
        )  # fmt: skip


def weights_folder(output_dir: str | Path, bundle_root: str | Path, name: str = "") -> str:
    """The folder of a training's weights: two trainings with two output folders never write one file.

    Args:
        output_dir: of the training.
        bundle_root: folder of the bundle.
        name: of one of several trainings that a bundle describes.
    Returns:
        ``models/<name>`` of the bundle, if ``output_dir`` is the bundle's own ``output/<name>``; else ``models`` in
        ``output_dir``.
    """
    own = os.path.join(bundle_root, "output", name)
    if os.path.realpath(output_dir) == os.path.realpath(own):
        return os.path.join(bundle_root, "models", name).rstrip(os.sep)
    return os.path.join(output_dir, "models")
