"""One image through a bundle and the overlay of a task, as ``python -m monai.bundle run`` runs it.

The components of the bundle's configurations do the work. This module inserts the case, reads the results from the
overlay's output folder, and times each stage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import IterationEvents, SupervisedEvaluator
from torch import Tensor
from tqdm import tqdm

from lib.conditions import conditions_of, fields_of, requested_conditions
from lib.problems import cause_of, raise_cause
from lib.served import TRANSLATE, ServedBundle
from monai_diffscore.data import list_slides, list_volumes, listed_cases, seeded_cases
from monai_diffscore.data.slides import Slide
from monai_diffscore.errors import DataError
from monai_diffscore.tasks.anomaly import load_scores

logger = logging.getLogger(__name__)


class LoggedBar(tqdm):
    """A progress bar that writes lines to the log, at most one every two seconds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(mininterval=2.0, maxinterval=10.0, ncols=60, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self.n or not self.total:
            logger.info(str(self))
        return True

    def close(self) -> None:
        self.leave = False
        super().close()


@dataclass
class Outcome:
    """The result of a task for one image.

    ``row`` has its numbers, ``folder`` holds its files by the case's name, ``image`` [C, *S] is the preprocessed image,
    and ``seconds`` the time of each stage.
    """

    folder: Path
    row: dict[str, Any]
    image: Tensor
    seconds: dict[str, float]

    def file(self, kind: str) -> Path:
        """The file of the case with this ending, in any format."""
        (file,) = self.folder.glob(f"{self.row['case']}_{kind}.*")
        return file


def configure(bundle: ServedBundle, task: str, changes: Mapping[str, Any] | None = None) -> ConfigParser:
    """The configuration of a task of a bundle, with its weights, and with ``changes`` of ids."""
    parser = ConfigParser()
    parser.read_config(bundle.configurations(task))
    parser["bundle_root"] = str(bundle.folder)
    parser["checkpoint"] = str(bundle.weights)
    for name, value in (changes or {}).items():
        parser[name] = value
    return parser


def use_device(parser: ConfigParser, device: str | None) -> None:
    """Sets the device of a request; None keeps that of the configuration."""
    if device:
        parser["device"] = torch.device(device)


def translated_case(parser: ConfigParser, image: str) -> dict[str, Any]:
    """The case of an image: the other images and label maps in its folder. The result gets the grid of the image.

    Raises:
        DataError: if the image is of no role that the training saw.
    """
    target, roles = parser.get_parsed_content("image"), parser.get_parsed_content("roles")
    cases = listed_cases(Path(image).parent, masks_alone=True).pairs(target, roles, incomplete=True)
    for case in cases:
        paths = [Path(path).resolve() for path in (case["image"], *case["given"]) if path]
        if Path(image).resolve() in paths:
            has_target = case["has_target"] and Path(image).resolve() == paths[0]
            return {**case, "image": image, "has_target": has_target}
    raise DataError(
        image, key="image", expected=f"an image of the roles {', '.join([target, *roles])}, by the name of its file",
        got="another one", remedy="Ask for one of those, or rename the file.",
    )  # fmt: skip


def run_case(parser: ConfigParser, image: str, folder: Path) -> Outcome:
    """Runs the evaluator of a configuration on one image; results go to ``folder``.

    Raises:
        DataError: if the image is unusable.
    """
    case = translated_case(parser, image) if parser["task"] == TRANSLATE else {"image": image}
    parser["dataset#data"] = [{**case, "seed": 0, **conditions_of(parser, image)}]
    parser["evaluator#intake"], parser["evaluator#source"] = None, image  # no folder is listed
    parser["output_dir"] = str(folder)
    # only the handler that loads the weights: requests have no record
    parser["handlers"] = ["@load_weights"]
    # the parser would instantiate a class among the arguments
    parser["inferer#progress"] = {"_target_": "lib.workflow.LoggedBar", "_mode_": "callable"}
    begin = time.perf_counter()
    try:
        evaluator: SupervisedEvaluator = parser.get_parsed_content("evaluator")
        clock = StageClock(evaluator, begin)
        evaluator.run()
    except Exception as error:
        raise_cause(error)
    table = parser.get_parsed_content("table")
    (output,) = evaluator.state.output
    return Outcome(folder, plain(table.rows[-1]), output["image"], clock.seconds)


class StageClock:
    """The seconds of an evaluator for setup, loading and preprocessing, inference, and results."""

    def __init__(self, evaluator: SupervisedEvaluator, begin: float) -> None:
        self.begin = self.last = begin
        self.seconds: dict[str, float] = {}
        for event, stage in (
            (Events.STARTED, "setup"),
            (Events.GET_BATCH_COMPLETED, "pre"),
            (IterationEvents.FORWARD_COMPLETED, "infer"),
            (Events.COMPLETED, "post"),
        ):
            evaluator.add_event_handler(event, self.note, stage)

    def note(self, _engine: SupervisedEvaluator, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self.last, 3)
        self.seconds["total"] = round(now - self.begin, 3)
        self.last = now


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for JSON: NaN and infinity become None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


@dataclass(frozen=True)
class Calibration:
    """Calibration of bundles without healthy scores for these settings and weights.

    Args:
        folder: folder of the scores.
        healthy_dir: folder of healthy images; "" takes the studies themselves, most of which should be healthy.
        cases: number of images at most.
    """

    folder: Path
    healthy_dir: str = ""
    cases: int = 4

    def provide(self, parser: ConfigParser, studies: Sequence[str], image: str) -> str:
        """Calibrates a configuration unless it is calibrated; returns the source of the calibration.

        Raises:
            DataError: if ``image`` is unreadable, before the calibration.
        """

        def choose(source: str) -> None:
            parser.get_parsed_content("reading#0")({"image": image})
            self._volumes(parser, studies, source)

        return self._provide(parser, choose)

    def provide_slides(self, parser: ConfigParser, studies: Sequence[str]) -> str:
        """Like :meth:`provide`, for bundles of slides, by their tiles."""
        return self._provide(parser, lambda source: self._slides(parser, studies, source))

    def _provide(self, parser: ConfigParser, choose: Callable[[str], None]) -> str:
        settings = parser.get_parsed_content("calibration_settings")
        own = parser.get_parsed_content("calibration")
        try:
            load_scores(own, settings)
            return "the bundle's calibration"
        except DataError:
            pass
        source = f"healthy images in {self.healthy_dir}" if self.healthy_dir else "the studies themselves"
        inputs = [settings, source, requested_conditions(parser)]
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]
        path = self.folder / f"calibration_{digest}.json"
        parser["calibration"] = str(path)
        if not path.is_file():
            choose(source)
            parser["inferer#progress"] = {"_target_": "lib.workflow.LoggedBar", "_mode_": "callable"}
            try:
                parser.get_parsed_content("calibrator").run()
            except Exception as error:
                raise_cause(error)
            finally:
                parser.parse(reset=True)  # the run needs an evaluator of its own
        return f"calibrated on {json.loads(path.read_text())['cases']} of {source}"

    def _slides(self, parser: ConfigParser, studies: Sequence[str], source: str) -> None:
        slides = list_slides(self.healthy_dir) if self.healthy_dir else [{"image": path} for path in sorted(studies)]
        readable = []
        for slide in slides:
            try:
                Slide(slide["image"], parser.get_parsed_content("assume_mpp_um")).mpp_um  # noqa: B018  # opens it
                readable.append(slide)
            except DataError as error:
                logger.warning(f"not calibrated on {slide['image']}: {error}")
        if not readable:
            raise self._nothing(len(slides))
        logger.info(f"calibrating on tiles of {source} (once for these settings and weights)")
        parser["healthy_slides"] = readable[: self.cases]

    def _nothing(self, count: int) -> DataError:
        return DataError(
            self.healthy_dir or "the studies",
            expected="at least one image that the bundle can be calibrated on",
            got=f"{count} images, all refused",
            remedy="Name a folder of healthy images: --conf healthy_dir FOLDER.",
        )

    def _volumes(self, parser: ConfigParser, studies: Sequence[str], source: str) -> None:
        images = self._healthy_images(parser) if self.healthy_dir else sorted(studies)
        preprocessing = parser.get_parsed_content("preprocessing")
        cases: list[str] = []
        for image in random.Random(0).sample(images, len(images)):
            try:
                preprocessing({"image": image})
                cases.append(image)
            except Exception as error:
                logger.warning(f"not calibrated on {image}: {cause_of(error)}")
            if len(cases) == self.cases:
                break
        if not cases:
            raise self._nothing(len(images))
        logger.info(f"calibrating on {len(cases)} of {source} (once for these settings and weights)")
        references = [{"image": image, **conditions_of(parser, image, is_reference=True)} for image in cases]
        parser["calibrator#val_data_loader#dataset#data"] = seeded_cases(references, healthy=True)

    def _healthy_images(self, parser: ConfigParser) -> list[str]:
        """The images of ``healthy_dir`` of the role that the bundle takes."""
        options = {name: parser.get_parsed_content(name) for name in ("layout", "image", "subject")}
        return [case["image"] for case in list_volumes(self.healthy_dir, conditions=fields_of(parser), **options)]
