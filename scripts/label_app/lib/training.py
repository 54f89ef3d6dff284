"""Further training of a bundle's prior on unlabelled images: a prior needs no labels.

It runs the bundle's own train.json on the unlabelled images of the datastore that the bundle takes. It starts from the
served weights, with the statistics of their training. It holds out a share of the subjects and stops when their
denoising error has not fallen for ``patience`` validations. The weights of the best validation replace the served
weights only if they are better on the same held-out images. The replaced weights stay beside them as
``model_before.pt``.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.handlers import EarlyStopHandler
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list
from torch import nn

from lib.conditions import conditions_of, subjects_of
from lib.options import Option, changes
from lib.problems import cause_of
from lib.served import ServedBundle, training_command
from monai_diffscore.atomic_files import whole_file, write_json
from monai_diffscore.data import load_statistics, split_by_subject, used_files
from monai_diffscore.errors import DataError
from monai_diffscore.handlers.checkpoint import save_atomically

logger = logging.getLogger(__name__)

#: options of a request
OPTIONS = (
    Option("max_epochs", "max_epochs", int, low=1, high=100_000),
    Option("learning_rate", "learning_rate", low=1e-8, high=1),
    Option("batch_size", "batch_size", int, low=1, high=4096),
    Option("patches", "patches", int, low=1, high=100_000),
    Option("val_split", "validation_share", low=0.01, high=0.9),
    Option("val_interval", "val_interval", int, low=1, high=1000),
    Option("patience", "patience", int, low=1, high=1000),
)
_PATCHES = ("patches_per_volume", "tiles_per_slide")
_DEFAULTS = {"max_epochs": 20, "val_interval": 1, "patience": 5, "learning_rate": 5e-4}


class PriorTrainTask(BundleTrainTask):
    """Fine-tunes the score model of a bundle.

    Args:
        bundle: the bundle.
        folder: parent of the output folders; each training has one.
        conf: configuration of the app.
    """

    def __init__(self, bundle: ServedBundle, folder: Path, conf: dict[str, str]) -> None:
        super().__init__(str(bundle.folder), conf)
        self.served, self.folder = bundle, folder

    def check(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The ids that a request sets, after a check.

        Raises:
            DataError: for a value that is not allowed, or for demonstration weights, whose network differs from that of
                train.json.
        """
        if self.served.for_a_first_look:
            raise DataError(
                self.served.weights, expected=f"trained weights of {self.served.name}", got="demonstration weights",
                remedy=f"Train it first: {training_command(self.served.folder)}",
            )  # fmt: skip
        return changes(OPTIONS, {name: value for name, value in request.items() if name != "model"})

    def config(self) -> dict[str, Any]:
        """The options in a client's panel."""
        defaults = self._defaults()
        return {"device": device_list(), **{option.name: defaults[option.id] for option in OPTIONS}}

    def _defaults(self) -> dict[str, Any]:
        configuration = ConfigParser.load_config_file(self.bundle_config_path)
        patches = next(configuration[name] for name in _PATCHES if name in configuration)
        return {**configuration, "patches": patches or 64, **_DEFAULTS}

    def stats(self) -> dict[str, Any]:
        """The last training of this bundle."""
        reports = sorted((self.folder / self.served.name).glob("*/report.json"))
        return ConfigParser.load_config_file(str(reports[-1])) if reports else {}

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, Any]]:
        """The unlabelled images that the bundle takes. MONAI Label's own method lists the labelled ones."""
        loads = ConfigParser()
        loads.read_config(self.bundle_config_path)
        loads["bundle_root"] = self.bundle_path
        check = None if self.served.of_slides else loads.get_parsed_content("reading#0")
        images, problems = [], []
        for image in sorted(datastore.get_unlabeled_images()):
            path = datastore.get_image_uri(image)
            try:
                if check is not None:
                    check({"image": path})
                images.append(path)
            except DataError as error:
                problems.append(image)
                logger.warning(f"not trained on {image}: {error}")
        if not images:
            raise DataError(
                "the datastore",
                expected=f"at least one unlabelled image that {self.served.name} takes",
                got=f"{len(datastore.list_images())} images, {len(problems)} of them unusable",
                remedy="Add images of its kind.",
            )
        subjects = subjects_of(images, self.served.of_slides)
        return [{"image": path, "subject": subjects[path], **conditions_of(loads, path)} for path in images]

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        try:
            report = self.fine_tune(request, self._fetch_datalist(request, datastore))
        except Exception as error:
            cause = cause_of(error)
            logger.error(f"training of {self.served.name} failed: {' '.join(str(cause).split())}")
            raise cause from None
        return report

    def fine_tune(self, request: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Trains on the cases; returns a report."""
        settings = {**self._defaults(), **self.check(request)}
        folder = self.folder / self.served.name / time.strftime("%Y%m%d-%H%M%S")
        train, validation = split_by_subject(cases, settings["validation_share"], slabs=True)
        logger.info(f"training {self.served.name} on {len(train)} images, {len(validation)} held out, in {folder}")
        workflow = ConfigWorkflow(
            self.bundle_config_path,
            meta_file=self.bundle_metadata_path,
            logging_file=False,
            workflow_type="train",
            **self._update_overrides(self._overrides(settings, folder, [train, validation])),
        )
        workflow.initialize()
        parser = workflow.parser
        trainer, validator = (parser.get_parsed_content(f"{name}") for name in ("train#trainer", "validate#evaluator"))
        best = BestWeights(parser.get_parsed_content("ema").network, folder / "best.pt")
        best.attach(validator)
        EarlyStopHandler(
            settings["patience"],
            lambda engine: -engine.state.metrics["denoising_error"],
            trainer=trainer,
            epoch_level=True,
        ).attach(validator)
        workflow.run()
        report = {
            "started": folder.name,
            "images": len(train),
            "held_out": len(validation),
            "iterations": trainer.state.iteration,
            "stopped_early": trainer.state.epoch < settings["max_epochs"],
            "error_before": best.errors[0],
            "error_best": min(best.errors),
            "served": min(best.errors) < best.errors[0],
        }
        if report["served"]:
            self.serve(folder / "best.pt")
        else:
            logger.warning("the served weights are better on the held-out images, and stay")
        write_json(folder / "report.json", report)
        logger.info(f"training of {self.served.name}: {report}")
        return report

    def _overrides(self, settings: Mapping[str, Any], folder: Path, cases: list[Any]) -> dict[str, Any]:
        configuration = ConfigParser.load_config_file(self.bundle_config_path)
        weights = self.served.weights
        hyperparameters = {
            name: settings[name] for name in ("max_epochs", "learning_rate", "batch_size", "val_interval")
        }
        patches = {name: settings["patches"] for name in _PATCHES if name in configuration}
        return {
            **hyperparameters,
            **patches,
            "bundle_root": self.bundle_path,
            "dataset_dir": "the datastore",
            "output_dir": str(folder),
            "ckpt_dir": str(folder / "models"),
            "cases": cases,
            # the datastore lists the images, and the app has named those that it does not take
            "passed_over": {},
            "used_files": used_files(*cases),
            "statistics": load_statistics(weights.with_name("data_statistics.json")),
            "network": {
                "_target_": "lib.training.loaded", "network": "@network_def", "path": str(weights), "device": "@device"
            },
            # without pictures of samples, which nobody sees here
            "train#handlers": [
                handler for handler in configuration["train"]["handlers"] if "Gallery" not in handler["_target_"]
            ],
        }  # fmt: skip

    def serve(self, weights: Path) -> None:
        """Replaces the served weights, and keeps them beside the new ones."""
        shutil.copyfile(self.served.weights, self.served.weights.with_name("model_before.pt"))
        with whole_file(self.served.weights) as file:
            file.write(weights.read_bytes())
        logger.info(f"serving the new weights of {self.served.name}")


def loaded(network: nn.Module, path: str, device: torch.device) -> nn.Module:
    """The network with the weights of a file, on a device."""
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.to(device)


class BestWeights:
    """Keeps the weights of the best validation.

    Args:
        network: the validated network.
        path: file of the weights.
    """

    def __init__(self, network: nn.Module, path: Path) -> None:
        self.network, self.path = network, path
        self.errors: list[float] = []

    def attach(self, validator: Engine) -> None:
        validator.add_event_handler(Events.COMPLETED, self.note)

    def note(self, validator: Engine) -> None:
        error = float(validator.state.metrics["denoising_error"])
        if math.isfinite(error) and (not self.errors or error < min(self.errors)):
            save_atomically(self.network.state_dict(), self.path)
        self.errors.append(error)
