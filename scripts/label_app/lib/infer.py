"""Tasks on volumes: the overlay of a bundle on the image of a request."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from lib.options import OPTIONS, changes, panel, usable
from lib.results import deliver
from lib.served import ServedBundle
from lib.workflow import Calibration, Outcome, configure, run_case, use_device

logger = logging.getLogger(__name__)

#: one task at a time uses the processor (or the device) and its memory; others wait
ONE_AT_A_TIME = threading.Lock()


class OverlayInferTask(InferTask):
    """A task of a bundle. Proposals of anomalies are segmentations, which every client shows; images are "others".

    Args:
        bundle, task: the bundle and the name of its task.
        calibration: source of healthy scores.
        studies: gives the images to calibrate on.
    """

    def __init__(
        self, bundle: ServedBundle, task: str, calibration: Calibration, studies: Callable[[], list[str]]
    ) -> None:
        configuration = configure(bundle, task)
        self.options = usable(OPTIONS[task], configuration)
        anomaly = task == "anomaly"
        super().__init__(
            type=InferType.SEGMENTATION if anomaly else InferType.OTHERS,
            labels={"anomaly": 1} if anomaly else [],
            dimension=3,  # volumes, also for networks of slices
            description=f"{task} by {bundle.title}",
            config={"device": device_list(), "result_extension": ".nii.gz", **panel(self.options, configuration)},
        )
        self.bundle, self.task, self.calibration, self.studies = bundle, task, calibration, studies
        self.modality = bundle.modality

    def is_valid(self) -> bool:
        return self.bundle.weights.is_file()

    def get_path(self, validate: bool = True) -> str | None:
        return str(self.bundle.weights) if self.is_valid() or not validate else None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        begin = time.perf_counter()
        changed = changes(self.options, request)
        result = changed.pop("result", "label" if self.task == "anomaly" else "mean")
        with ONE_AT_A_TIME, tempfile.TemporaryDirectory(prefix="diffscore-") as folder:
            waited = time.perf_counter() - begin
            logger.info(f"{self.bundle.name} {self.task}: {request['image']}")
            outcome, calibrated = self.run(str(request["image"]), Path(folder), changed, request.get("device"))
            dtype = request.get("result_dtype")
            file = deliver(
                outcome.file(result), request.get("result_extension"), dtype, bool(request.get("result_compress"))
            )
        seconds = {"waited": round(waited, 3), **outcome.seconds, "total": round(time.perf_counter() - begin, 3)}
        logger.info(f"{self.bundle.name} {self.task}: {outcome.row}, seconds {seconds}")
        return file, {
            "label_names": self.labels,
            "model": f"{self.bundle.name}_{self.task}",
            "result": outcome.row,
            "calibration": calibrated,
            "options": changed,
            "latencies": seconds,
            "centroids": {},
        }

    def run(
        self, image: str, folder: Path, changed: Mapping[str, Any], device: Any = None
    ) -> tuple[Outcome, str | None]:
        """The outcome for an image, and the reference of its p-values."""
        parser = configure(self.bundle, self.task, changed)
        use_device(parser, name_to_device(device) if device else None)
        calibrated = self.calibration.provide(parser, self.studies(), image) if self.task == "anomaly" else None
        return run_case(parser, image, folder), calibrated
