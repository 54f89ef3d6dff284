r"""Anomalous regions of whole-slide images as polygons.

MONAI Label cuts a slide into tiles (``tile_size`` level-0 pixels) and requests the polygons of each. This module reads
a tile at the bundle's pixel size, with the margin that the smoothing and the network's windows need. The overlay's
inferer gives the residuals, and calibrated p-values in tissue up to ``threshold`` become polygons in level-0 pixels.
The whole slide is never in memory.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.transform.writer import PolygonWriter
from monailabel.utils.others.generic import device_list, name_to_device

from lib.infer import ONE_AT_A_TIME
from lib.options import Option, changes, panel
from lib.outlines import polygons
from lib.served import ServedBundle
from lib.workflow import Calibration, configure, use_device
from monai_diffscore.anomaly import HealthyReference
from monai_diffscore.data import SlideTiles
from monai_diffscore.data.slides import Slide
from monai_diffscore.errors import DataError
from monai_diffscore.tasks import tissue
from monai_diffscore.tasks.anomaly import load_scores

logger = logging.getLogger(__name__)

#: options of a request
OPTIONS = (
    Option("noise_levels", "levels", low=1e-3, high=100, several=True),
    Option("noise_pairs", "noise_pairs", int, low=1, high=64),
    Option("threshold", "alpha", low=1e-6, high=0.5),
    Option("min_area_um2", "min_area_um2", low=0, high=1e9),
    Option("smoothing", "smoothing", low=0, high=16),
    Option("overlap", "overlap", low=0, high=0.9),
    Option("assume_mpp_um", "assume_mpp_um", low=0.02, high=50, may_be_empty=True),
)
_MARGIN = 16  # pixels around a tile that are read but not reported
_MOST_PIXELS = 4096**2  # largest tile at the bundle's pixel size
_COLOUR = {"anomaly": (255, 0, 0)}


class SlideInferTask(InferTask):
    """Polygons of anomalous tissue; arguments of :class:`lib.infer.OverlayInferTask`."""

    modality = None

    def __init__(
        self, bundle: ServedBundle, task: str, calibration: Calibration, studies: Callable[[], list[str]]
    ) -> None:
        configuration = configure(bundle, task)
        super().__init__(
            type=InferType.SEGMENTATION,
            labels={"anomaly": 1},
            dimension=2,
            description=f"{task} by {bundle.title}",
            config={"device": device_list(), "multi_gpu": torch.cuda.device_count() > 1, "max_workers": 1,
                    "label_colors": _COLOUR, **panel(OPTIONS, configuration)},
        )  # fmt: skip
        self.bundle, self.task, self.calibration, self.studies = bundle, task, calibration, studies
        self.cached: tuple[Any, SlideRegion | None] = (None, None)

    def region(self, changed: Mapping[str, Any], device: Any) -> SlideRegion:
        """The network and the reference of a request. All tiles of the request share them."""
        files = [self.bundle.weights, self.bundle.weights.with_name("anomaly_calibration.json")]
        key = [dict(changed), device, *(file.stat().st_mtime_ns for file in files if file.is_file())]
        cached_key, region = self.cached
        if region is None or cached_key != key:
            region = SlideRegion(self.bundle, changed, device, self.calibration, self.studies)
            self.cached = key, region
        return region

    def info(self) -> dict[str, Any]:
        return {**super().info(), "pathology": True}

    def is_valid(self) -> bool:
        return self.bundle.weights.is_file()

    def get_path(self, validate: bool = True) -> str | None:
        return str(self.bundle.weights) if self.is_valid() or not validate else None

    def completed(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request of a client, with the options of MONAI Label's tiling for this machine."""
        changes(OPTIONS, request)
        number = [*(request.get("size") or ()), *(request.get("location") or ()), *(request.get("tile_size") or ())]
        if any(not isinstance(value, int) or value < 0 for value in number) or 0 in (request.get("tile_size") or [1]):
            raise DataError(
                "the request", key="size, location, tile_size", expected="whole level-0 pixels, a tile_size > 0",
                got=str(number), remedy="Use size [0, 0] for the whole slide.",
            )  # fmt: skip
        return {**request, "multi_gpu": bool(request.get("multi_gpu")) and torch.cuda.device_count() > 1,
                "max_workers": 1}  # fmt: skip

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        begin = time.perf_counter()
        changed = changes(OPTIONS, request)
        with ONE_AT_A_TIME:
            region = self.region(changed, request.get("device"))
            slide = Slide(str(request["image"]), region.parser.get_parsed_content("assume_mpp_um"))
            corner = [int(value) for value in request.get("location") or (0, 0)]
            size = [int(value) for value in request.get("size") or (0, 0)]
            size = size if all(size) else [slide.size[0] - corner[0], slide.size[1] - corner[1]]
            seconds = {"pre": round(time.perf_counter() - begin, 3)}
            p, scale = region.p_values(slide, corner, size)
            seconds["infer"] = round(time.perf_counter() - begin - seconds["pre"], 3)
        alpha = region.parser["alpha"]
        least = max(float(request.get("min_poly_area") or 0), region.parser["min_area_um2"] / slide.mpp_um**2)
        contours = polygons(p <= alpha, corner, scale, least)
        elements = [{"label": "anomaly", "contours": contours}] if contours else []
        seconds["total"] = round(time.perf_counter() - begin, 3)
        seconds["post"] = round(seconds["total"] - seconds["pre"] - seconds["infer"], 3)
        logger.info(f"{self.bundle.name} at {corner}, {size}: {len(contours)} regions, seconds {seconds}")
        result = {
            "annotation": {"location": corner, "size": size, "elements": elements, "labels": _COLOUR},
            "calibration": region.calibrated,
            "share_below_threshold": float((p[p < 1] <= alpha).mean()) if (p < 1).any() else 0.0,
            "latencies": seconds,
        }
        return PolygonWriter(json="result")({**request, "result": result, "latencies": seconds})


class SlideRegion:
    """The p-values of regions of slides, by a bundle."""

    def __init__(
        self,
        bundle: ServedBundle,
        changed: Mapping[str, Any],
        device: Any,
        calibration: Calibration,
        studies: Callable[[], Sequence[str]],
    ) -> None:
        self.parser = configure(bundle, "anomaly", {"healthy_dir": calibration.healthy_dir, **changed})
        use_device(self.parser, name_to_device(device) if device else None)
        self.calibrated = calibration.provide_slides(self.parser, studies())
        settings = self.parser.get_parsed_content("calibration_settings")
        self.reference = HealthyReference.from_dict(
            load_scores(self.parser.get_parsed_content("calibration"), settings)
        )
        count = self.reference.healthy.count
        if self.parser["alpha"] < 1 / (count + 1):
            raise DataError(
                "the request", key="threshold", expected=f"at least 1 / {count + 1}, the smallest p-value",
                got=str(self.parser["alpha"]), remedy="Raise it, or calibrate on more tissue (--conf healthy_dir).",
            )  # fmt: skip
        self.network = self.parser.get_parsed_content("network").eval()
        self.network.load_state_dict(torch.load(bundle.weights, weights_only=True, map_location="cpu"))
        self.inferer = self.parser.get_parsed_content("inferer")
        self.scale = self.parser.get_parsed_content("preprocessing")
        self.mpp_um = float(self.parser.get_parsed_content("mpp_um"))

    def p_values(self, slide: Slide, corner: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, float]:
        """p [rows, columns] of a region at the bundle's pixel size, 1 outside of tissue; level-0 pixels in a pixel."""
        scale = slide.span(1, self.mpp_um)
        wide, high = (max(1, round(side / scale)) for side in size)
        if wide * high > _MOST_PIXELS:
            raise DataError(
                slide.path, key="tile_size", expected=f"at most {_MOST_PIXELS} pixels of {self.mpp_um:g} um in a tile",
                got=f"{wide} x {high}", remedy="Request a smaller region or tile_size.",
            )  # fmt: skip
        window = int(self.inferer.window[0])
        shape = [max(side + 2 * _MARGIN, window) for side in (wide, high)]
        begin = [position - _MARGIN * scale for position in corner]
        tile = torch.from_numpy(slide.read(begin, shape, self.mpp_um))
        image = self.scale({"image": MetaTensor(tile, meta={"filename_or_obj": slide.path})})["image"].as_tensor()
        inside = tissue(image)[0].numpy()[_MARGIN : _MARGIN + high, _MARGIN : _MARGIN + wide]
        if not inside.any():  # glass: nothing to denoise
            return np.ones((high, wide)), scale
        device = next(self.network.parameters()).device
        residuals = self.inferer(image[None].to(device), self.network).cpu()
        p = self.reference.p_value(residuals)[0, 0].numpy()[_MARGIN : _MARGIN + high, _MARGIN : _MARGIN + wide]
        return np.where(inside, p, 1.0), scale


def tile_evidence(
    bundle: ServedBundle, file: str, calibration: Calibration, studies: Sequence[str], tiles: int = 8
) -> dict[str, Any]:
    """The evidence (see :mod:`lib.ranking`) of tiles at even distances on a slide."""
    region = SlideRegion(bundle, {}, None, calibration, lambda: studies)
    parser = region.parser
    side = int(parser["region_tile"])
    options = {"min_tissue": parser["min_tissue"], "assume_mpp_um": parser["assume_mpp_um"], "count": tiles}
    slide_tiles = SlideTiles([{"image": file}], side, region.mpp_um, **options)
    values, pictures = [], []
    for corner in slide_tiles.corners[0]:
        slide = slide_tiles.slide(0)
        span = slide.span(side, region.mpp_um)
        p, _ = region.p_values(slide, [int(value) for value in corner], [int(span), int(span)])
        values.append(p[p < 1])
        pictures.append(slide.read(corner, (side, side), region.mpp_um).reshape(3, -1).mean(1))
    evidence = -np.log10(np.concatenate(values))
    return {
        "evidence": float(evidence.mean()),
        "smallest_p": float(10.0 ** -evidence.max()),
        "share_below_alpha": float((evidence >= -np.log10(parser["alpha"])).mean()),
        "tiles": len(values),
        "thumbnail": np.concatenate([np.mean(pictures, axis=0), np.std(pictures, axis=0)]).round(2).tolist(),
    }
