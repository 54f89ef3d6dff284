"""Scores of the images of a datastore by a prior; :mod:`lib.ranking` defines them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib.infer import ONE_AT_A_TIME
from lib.problems import cause_of
from lib.scores import ScoreFolder, volume_score
from lib.served import ServedBundle
from lib.slides import tile_evidence
from lib.workflow import Calibration

logger = logging.getLogger(__name__)


class PriorScoring(ScoringMethod):
    """Scores all unlabelled images without a score by a bundle. Finished scores survive a stop.

    Args:
        bundle: bundle of the prior.
        scores: folder of the scores.
        calibration, studies: arguments of the anomaly task.
    """

    def __init__(
        self, bundle: ServedBundle, scores: ScoreFolder, calibration: Calibration, studies: Callable[[], list[str]]
    ) -> None:
        super().__init__(f"The difference of each unlabelled image from the prior of {bundle.name}")
        self.bundle, self.scores, self.calibration, self.studies = bundle, scores, calibration, studies

    def unscored(self, datastore: Datastore) -> list[str]:
        """Ids of unlabelled images without a score by the present weights."""
        images = sorted(datastore.get_unlabeled_images())
        return [image for image in images if self.scores.read(self.bundle, datastore.get_image_uri(image)) is None]

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        scores: dict[str, Any] = {}
        images = sorted(datastore.get_unlabeled_images())
        for number, image in enumerate(images, start=1):
            file = datastore.get_image_uri(image)
            score = self.scores.read(self.bundle, file)
            is_new = score is None
            if score is None:
                score = self.score(file, request)
                self.scores.write(self.bundle, file, score)
            facts = {name: value for name, value in score.items() if name != "thumbnail"}
            logger.info(f"scored {number} of {len(images)}, {image}{'' if is_new else ' (stored)'}: {facts}")
            scores[image] = facts
        return scores

    def score(self, file: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The score of an image, or the reason for which the bundle refuses it."""
        try:
            with ONE_AT_A_TIME:
                if self.bundle.of_slides:
                    return tile_evidence(self.bundle, file, self.calibration, self.studies())
                return volume_score(self.bundle, file, self.calibration, self.studies(), request)
        except Exception as error:
            cause = cause_of(error)
            if not isinstance(cause, ValueError):
                raise
            return {"refused": str(cause)}
