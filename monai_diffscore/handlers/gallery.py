"""Handlers that draw samples, during a training and after sampling."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, EventEnum, Events
from monai.engines import IterationEvents
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.arrays import LABELS
from monai_diffscore.gallery import save_gallery
from monai_diffscore.handlers.collector import Collector, concatenated
from monai_diffscore.handlers.tracking import Tracking
from monai_diffscore.inferers import SamplingInferer
from monai_diffscore.sharding import is_sharded

logger = logging.getLogger(__name__)


class SampleGallery:
    """Draws samples every N iterations and at the end of a training, writes a PNG, and logs it.

    The seeds stay the same, so that the pictures show one set of samples over the training.

    Args:
        network: the denoiser, normally the EMA's.
        inferer: the sampler, its grid and seed.
        shape: shape of one sample, channels first.
        folder: folder of the pictures.
        count: number of samples.
        every: iterations between galleries; 0 draws only at the end.
        tracking: optional record that also receives the pictures.
        condition: keyword tensors [count, ...] for the network.
        device: device of the samples.
        pictures: images are [C, rows, columns] from the top.
    """

    def __init__(
        self,
        network: nn.Module,
        inferer: SamplingInferer,
        shape: Sequence[int],
        folder: str | Path,
        count: int = 4,
        every: int = 0,
        tracking: Tracking | None = None,
        condition: dict[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
        pictures: bool = False,
    ) -> None:
        self.network = network
        self.inferer = inferer
        self.shape = tuple(shape)
        self.folder = Path(folder)
        self.count = count
        self.every = every
        self.tracking = tracking
        self.condition = condition or {}
        self.device = device
        self.pictures = pictures

    def attach(self, engine: Engine) -> None:
        if self.every > 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.draw)
        engine.add_event_handler(Events.COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        if idist.get_rank() != 0 and not is_sharded(self.network):
            return
        training = self.network.training
        self.network.eval()
        samples = self.inferer(torch.empty(self.count, *self.shape, device=self.device), self.network, **self.condition)
        self.network.train(training)
        if idist.get_rank() != 0:
            return
        iteration = engine.state.iteration
        path = self.folder / f"samples_{iteration:08d}.png"
        try:
            save_gallery(samples, path, f"samples after {iteration} iterations", pictures=self.pictures)
        except OSError as error:  # a full disk must not end a training for a picture
            logger.error(f"{path}: {error}")
            return
        if self.tracking is not None:
            self.tracking.log_artifact(path, "samples")


class PredictionCollector(Collector):
    """Writes an evaluator's predictions [N, ...] in normalised units, before postprocessing.

    Args:
        path: the file.
        key: key of the predictions in the evaluator's output.
    """

    event: EventEnum | Events = IterationEvents.FORWARD_COMPLETED

    def __init__(self, path: str | Path, key: str) -> None:
        self.path = Path(path)
        self.key = key

    def records(self, engine: Any) -> list[dict[str, Any]]:
        prediction = convert_to_tensor(engine.state.output[self.key], track_meta=False)
        return [{"pred": prediction.detach().cpu()}]

    def write(self, records: list[dict[str, Any]]) -> None:
        self.save(concatenated(records)["pred"])

    @abstractmethod
    def save(self, predictions: Tensor) -> None:
        """Writes predictions [N, ...]."""


class SaveGallery(PredictionCollector):
    """Writes the predictions of an evaluator as one PNG at its end.

    Args:
        path: the PNG.
        title: heading.
        reference: optional real data of the same kind, drawn beside the samples.
        key: key of the samples in the evaluator's output.
        pictures: images are [C, rows, columns] from the top.
    """

    def __init__(
        self,
        path: str | Path,
        title: str = "samples",
        reference: Tensor | None = None,
        key: str = "pred",
        pictures: bool = False,
    ) -> None:
        super().__init__(path, key)
        self.title = title
        self.reference = reference
        self.pictures = pictures

    def save(self, predictions: Tensor) -> None:
        save_gallery(predictions, self.path, self.title, self.reference, self.pictures)


class SaveRows(PredictionCollector):
    """Writes the normalised predictions [B, columns] of an evaluator as one .npy file at its end.

    Args:
        path: the file.
        key: key of the samples in the evaluator's output.
    """

    def __init__(self, path: str | Path, key: str = "pred") -> None:
        super().__init__(path, key)

    def save(self, predictions: Tensor) -> None:
        with whole_file(self.path) as file:
            np.save(file, predictions.numpy())


class SaveArray(SaveRows):
    """Writes the predictions of an evaluator as one .npy file [B, C, *S] at its end, in the units of the data.

    Unlike :class:`SaveRows` it reads them after postprocessing.

    Args:
        path: the file.
        key: key of the samples in the evaluator's output.
        label_key: key of the requested label in the evaluator's batch. The labels go to labels.npy beside the file.
    """

    event = Events.ITERATION_COMPLETED

    def __init__(self, path: str | Path, key: str = "pred", label_key: str | None = None) -> None:
        super().__init__(path, key)
        self.label_key = label_key

    def records(self, engine: Any) -> list[dict[str, Any]]:
        items = [convert_to_tensor(item[self.key], track_meta=False) for item in engine.state.output]
        records: list[dict[str, Any]] = [{"pred": item.detach().cpu()[None]} for item in items]
        if self.label_key is not None:
            for record, entry in zip(records, engine.state.batch, strict=True):
                record["label"] = int(entry[self.label_key])
        return records

    def write(self, records: list[dict[str, Any]]) -> None:
        self.save(torch.cat([record["pred"] for record in records]))
        if self.label_key is not None:
            with whole_file(self.path.parent / LABELS) as file:
                np.save(file, np.array([record["label"] for record in records], dtype=np.int64))
