"""Scores of images by a prior, kept by the hashes of image and weights; what they mean: :mod:`lib.ranking`."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib.infer import ONE_AT_A_TIME
from lib.options import OPTIONS, changes, usable
from lib.served import ServedBundle
from lib.slides import tile_evidence
from lib.workflow import Calibration, configure, run_case
from monai_diffscore.command_line import find_cause
from monai_diffscore.data.files import file_hash, whole_file

logger = logging.getLogger(__name__)

_SIDE = 6  # voxels along each axis of the thumbnail that tells images apart
#: of the likelihood, where the request does not say: an eighth of the overlay's cost
_QUICK = {"patches": 4, "probes": 1, "likelihood_sigmas#steps": 10}


class ScoreFolder:
    """Scores as one small JSON file each, named by what they were made of: a file that is there is not made again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, bundle: ServedBundle, image: str) -> Path:
        """Where the score of an image file by the present weights of a bundle is, or goes."""
        key = f"{content_hash(image)} {content_hash(str(bundle.weights))}"
        return self.folder / bundle.name / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def read(self, bundle: ServedBundle, image: str) -> dict[str, Any] | None:
        path = self.path(bundle, image)
        return json.loads(path.read_text()) if path.is_file() else None

    def write(self, bundle: ServedBundle, image: str, score: Mapping[str, Any]) -> None:
        with whole_file(self.path(bundle, image)) as file:
            file.write(json.dumps(score).encode())


def content_hash(path: str) -> str:
    """The hash of a file; computed again when its time or size changes."""
    stamp = Path(path).stat()
    return _content_hash(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=4096)
def _content_hash(path: str, _changed: int, _size: int) -> str:
    return file_hash(path)


class PriorScoring(ScoringMethod):
    """Scores all unlabelled images by a bundle, those not scored yet; what was scored stays when it is stopped.

    Args:
        bundle: whose prior.
        scores: where they are kept.
        calibration, studies: of the anomaly task.
    """

    def __init__(
        self, bundle: ServedBundle, scores: ScoreFolder, calibration: Calibration, studies: Callable[[], list[str]]
    ) -> None:
        super().__init__(f"How unlike the prior of {bundle.name} each unlabelled image is")
        self.bundle, self.scores, self.calibration, self.studies = bundle, scores, calibration, studies

    def unscored(self, datastore: Datastore) -> list[str]:
        """Ids of unlabelled images without a score by the present weights."""
        images = sorted(datastore.get_unlabeled_images())
        return [image for image in images if self.scores.read(self.bundle, datastore.get_image_uri(image)) is None]

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        found: dict[str, Any] = {}
        images = sorted(datastore.get_unlabeled_images())
        for number, image in enumerate(images, start=1):
            file = datastore.get_image_uri(image)
            score = self.scores.read(self.bundle, file)
            made = score is None
            if score is None:
                score = self.score(file, request)
                self.scores.write(self.bundle, file, score)
            shown = {name: value for name, value in score.items() if name != "thumbnail"}
            logger.info(f"scored {number} of {len(images)}, {image}{'' if made else ' (kept)'}: {shown}")
            found[image] = shown
        return found

    def score(self, file: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The score of one image; of one that the bundle does not take, why not."""
        try:
            with ONE_AT_A_TIME:
                if self.bundle.of_slides:
                    return tile_evidence(self.bundle, file, self.calibration, self.studies())
                return self._score_volume(file, request)
        except Exception as error:
            cause = find_cause(error)
            if cause is None:
                raise
            return {"refused": str(cause)}

    def _score_volume(self, file: str, request: Mapping[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="diffscore-") as folder:
            options = [option for option in OPTIONS["anomaly"] if option.name in request]
            parser = configure(self.bundle, "anomaly", {**changes(options, request), "noise_pairs": 1})
            self.calibration.provide(parser, self.studies(), file)
            outcome = run_case(parser, file, Path(folder))
        names = ("evidence", "smallest_p", "share_below_alpha", "marked_ml")
        score = {name: outcome.row[name] for name in names}
        image = outcome.image.as_tensor()[None]  # type: ignore[attr-defined]
        thumbnail = torch.nn.functional.adaptive_avg_pool3d(image, _SIDE).flatten()
        score["thumbnail"] = [round(float(value), 3) for value in thumbnail]
        if (self.bundle.folder / "configs/likelihood.json").is_file():
            options = usable(OPTIONS["likelihood"], configure(self.bundle, "likelihood"))
            with tempfile.TemporaryDirectory(prefix="diffscore-") as folder:
                parser = configure(self.bundle, "likelihood", {**_QUICK, **changes(options, request)})
                row = run_case(parser, file, Path(folder)).row
            score |= {"nats_per_dim": row["nats_per_dim"], "patch_standard_error": row["patch_standard_error"]}
        return score
