"""The MONAI Label app: image bundles of monai_diffscore, served to annotators. ``scripts/label`` starts it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.infer import OverlayInferTask
from lib.leases import Leases
from lib.problems import Unknown, raise_cause
from lib.scores import ScoreFolder
from lib.scoring import PriorScoring
from lib.served import ServedBundle, find_bundles
from lib.slides import SlideInferTask
from lib.strategy import MostUnlike
from lib.training import PriorTrainTask
from lib.workflow import Calibration
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask

from monai_diffscore.errors import DataError

logger = logging.getLogger(__name__)


class DiffscoreApp(MONAILabelApp):
    """Proposals, ranking and training by score models.

    ``--conf`` takes ``bundles`` (names, see scripts/label), ``healthy_dir`` (reference images of p-values, default the
    studies themselves; ``healthy_dir_BUNDLE`` for one bundle), ``calibration_cases`` (number of reference images at
    most), ``lease_minutes`` (time that a case belongs to an annotator) and ``work_dir`` (folder of scores, leases and
    calibrations; default in the studies folder).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.served = find_bundles(conf.get("bundles", ""))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="monai_diffscore",
            description="Anomaly proposals, restoration and ranking of cases by score-based diffusion models",
        )

    @property
    def work(self) -> Path:
        """The folder of scores, leases and calibrations."""
        own = self.conf.get("work_dir")
        return Path(own) if own else Path(self._datastore._datastore_path) / "diffscore"

    @property
    def priors(self) -> list[ServedBundle]:
        """The bundles that score an image alone; a translation scores none."""
        return [bundle for bundle in self.served if not bundle.translates]

    def calibration(self, bundle: ServedBundle) -> Calibration:
        """The reference of a bundle's p-values."""
        healthy = self.conf.get(f"healthy_dir_{bundle.name}", self.conf.get("healthy_dir", ""))
        return Calibration(self.work, healthy, int(self.conf.get("calibration_cases", "4")))

    def scores(self, bundle: ServedBundle) -> ScoreFolder:
        return ScoreFolder(self.work / "scores", self.calibration(bundle))

    def images(self) -> list[str]:
        """The files of all images of the datastore."""
        return [self.datastore().get_image_uri(image) for image in self.datastore().list_images()]

    def init_infers(self) -> dict[str, InferTask]:
        tasks: dict[str, InferTask] = {}
        for bundle in self.served:
            for task in bundle.tasks:
                kind = SlideInferTask if bundle.of_slides else OverlayInferTask
                tasks[f"{bundle.name}_{task}"] = kind(bundle, task, self.calibration(bundle), self.images)
        return tasks

    def init_trainers(self) -> dict[str, TrainTask]:
        return {bundle.name: PriorTrainTask(bundle, self.work / "training", self.conf) for bundle in self.priors}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        return {
            bundle.name: PriorScoring(bundle, self.scores(bundle), self.calibration(bundle), self.images)
            for bundle in self.priors
        }

    def init_strategies(self) -> dict[str, Strategy]:
        leases = Leases(self.work / "leases.json", 60 * float(self.conf.get("lease_minutes", "60")))
        return {f"{bundle.name}_most_unlike": MostUnlike(bundle, self.scores(bundle), leases) for bundle in self.priors}

    # ---- requests: the names are checked first, and problems with data keep their own messages

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        task = self._lookup(request.get("model"), self._infers, "model")
        image = request.get("image")
        if isinstance(image, str) and not os.path.exists(image):
            self._check_image(image, task)
        return self._plainly(super().infer, request, datastore)

    def infer_wsi(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        task = self._lookup(request.get("model"), self._infers, "model")
        if not isinstance(task, SlideInferTask):
            slides = [name for name, other in self._infers.items() if isinstance(other, SlideInferTask)]
            raise DataError(
                "the request", key="model", expected=f"a model of slides ({', '.join(slides) or 'none is served'})",
                got=str(request.get("model")), remedy="Use /infer/MODEL for volumes.",
            )  # fmt: skip
        image = request.get("image")
        if isinstance(image, str) and not os.path.exists(image):
            self._check_image(image, task)
        return self._plainly(super().infer_wsi, task.completed(request), datastore)

    def scoring(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        self.check_scoring(request.get("method", ""))
        return self._plainly(super().scoring, request, datastore)

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.check_training(request.get("model"), request)
        return self._plainly(super().train, request)

    def check_training(self, model: str | None, request: Mapping[str, Any] | None) -> None:
        """Refuses an impossible training before a process starts for it."""
        self._lookup(model, self._trainers, "model").check(request or {})

    def check_scoring(self, method: str) -> None:
        """Refuses an unknown method."""
        self._lookup(method, self._scoring_methods, "method")

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._lookup(request.get("strategy"), self._strategies, "strategy")
        return self._plainly(super().next_sample, request)

    def async_scoring(self, method: str | None, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Starts scoring in a process of its own if there are unscored images."""
        if method is None and not any(method.unscored(self.datastore()) for method in self._scoring_methods.values()):
            return {}
        return super().async_scoring(method, params)

    def _lookup(self, name: Any, tasks: Mapping[str, Any], kind: str) -> Any:
        if name not in tasks:
            raise Unknown(f"There is no {kind} '{name}'; there are: {', '.join(sorted(tasks)) or 'none'}.")
        return tasks[name]

    def _check_image(self, image: str, task: InferTask) -> None:
        if image not in self.datastore().list_images():
            raise Unknown(
                f"There is no image '{image}' in the datastore of {len(self.datastore().list_images())} images."
            )
        if isinstance(self.datastore(), DICOMWebDatastore):
            modality = self.datastore()._dicom_info(image)["Modality"]
            expected = getattr(task, "modality", None)
            if expected not in (None, modality):
                raise DataError(image, expected=f"a series of modality {expected}", got=modality,
                                remedy="Use a model for this modality.")  # fmt: skip

    @staticmethod
    def _plainly(call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            raise_cause(error)
