"""The scores of an image by a prior, and their files; :mod:`lib.ranking` defines them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lib.options import OPTIONS, changes, usable
from lib.served import ServedBundle
from lib.workflow import Calibration, configure, run_case
from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.files import file_hash

_SIDE = 6  # voxels along each axis of the thumbnail, which compares images
#: defaults of the likelihood: an eighth of the overlay's cost
_QUICK = {"patches": 4, "probes": 1, "likelihood_sigmas#steps": 10}


class ScoreFolder:
    """Scores, each in a small JSON file. The hashes of its inputs name it, so that a score is computed once.

    Args:
        folder: folder of the files.
        calibration: calibration of the scores; each has files of its own.
    """

    def __init__(self, folder: Path, calibration: Calibration) -> None:
        self.folder, self.calibration = folder, calibration

    def path(self, bundle: ServedBundle, image: str) -> Path:
        """The path of the score of an image file by the present weights of a bundle."""
        key = f"{content_hash(image)} {content_hash(str(bundle.weights))} {self.calibration.healthy_dir}"
        own = bundle.weights.with_name("anomaly_calibration.json")
        if own.is_file():
            key += f" {content_hash(str(own))}"
        return self.folder / bundle.name / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def read(self, bundle: ServedBundle, image: str) -> dict[str, Any] | None:
        path = self.path(bundle, image)
        return json.loads(path.read_text()) if path.is_file() else None

    def write(self, bundle: ServedBundle, image: str, score: Mapping[str, Any]) -> None:
        with whole_file(self.path(bundle, image)) as file:
            file.write(json.dumps(score).encode())


def content_hash(path: str) -> str:
    """The hash of a file, cached until its time or size changes."""
    stamp = Path(path).stat()
    return _content_hash(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=4096)
def _content_hash(path: str, _changed: int, _size: int) -> str:
    return file_hash(path)


def volume_score(
    bundle: ServedBundle,
    file: str,
    calibration: Calibration,
    studies: Sequence[str],
    request: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The score of a volume, by the overlays anomaly (one pair of noise) and likelihood (at an eighth of its cost).

    It holds ``largest_score``, ``nats_per_dim`` with ``patch_standard_error`` (for bundles with the overlay), further
    numbers of the anomaly task, and a ``thumbnail`` of numbers.

    Args:
        bundle: bundle of the prior.
        file: the volume.
        calibration, studies: arguments of the anomaly task.
        request: options of both overlays.
    """
    request = request or {}
    with tempfile.TemporaryDirectory(prefix="diffscore-") as folder:
        options = usable(OPTIONS["anomaly"], configure(bundle, "anomaly"))
        options = [option for option in options if option.name in request]
        parser = configure(bundle, "anomaly", {**changes(options, request), "noise_pairs": 1})
        calibration.provide(parser, studies, file)
        outcome = run_case(parser, file, Path(folder))
    names = ("largest_score", "evidence", "smallest_p", "share_below_alpha", "marked_ml")
    score = {name: outcome.row[name] for name in names}
    image = outcome.image.as_tensor()[None]  # type: ignore[attr-defined]
    thumbnail = torch.nn.functional.adaptive_avg_pool3d(image, _SIDE).flatten()
    score["thumbnail"] = [round(float(value), 3) for value in thumbnail]
    if (bundle.folder / "configs/likelihood.json").is_file():
        options = usable(OPTIONS["likelihood"], configure(bundle, "likelihood"))
        with tempfile.TemporaryDirectory(prefix="diffscore-") as folder:
            parser = configure(bundle, "likelihood", {**_QUICK, **changes(options, request)})
            row = run_case(parser, file, Path(folder)).row
        score |= {"nats_per_dim": row["nats_per_dim"], "patch_standard_error": row["patch_standard_error"]}
    return score
