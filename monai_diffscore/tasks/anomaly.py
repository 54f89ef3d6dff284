"""Anomaly maps of a folder of cases: residuals, calibration on healthy ones, p-values and label maps."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from scipy import ndimage
from torch import Tensor, nn

from monai_diffscore.anomaly import BallScan, HealthyReference, HealthyScores, healthy_residuals, smoothed
from monai_diffscore.atomic_files import write_json
from monai_diffscore.data.tiles import tissue_mask
from monai_diffscore.errors import DataError
from monai_diffscore.gallery import ColourMap, save_findings
from monai_diffscore.inferers import Progress, progress_bar, sample_numbers
from monai_diffscore.tasks.cases import CaseTable, WriteNifti, on_source_grid
from monai_diffscore.tensors import random_stream
from monai_diffscore.tiling import any_size

logger = logging.getLogger(__name__)

_MOST_VOXELS = 200_000  # scores that a calibration keeps of each case


class AnomalyInferer(Inferer):
    """Residuals against a healthy prior, one channel for each level, [B, L, *S].

    Args:
        levels: noise levels in units of the normalised data.
        window: window of the tiling, the patch size of the training. Two axes take a volume slice by slice.
        pairs: pairs of noise and its negative for each level.
        overlap, windows_at_once: options of the tiling.
        seed: seed of the noise; each case has a stream of its own.
        progress: show a progress bar of the evaluations, or a function that makes one.
        smoothing, channels: see :func:`~monai_diffscore.anomaly.healthy_residuals`; "norm" for colours.
    """

    def __init__(
        self,
        levels: Sequence[float],
        window: Sequence[int],
        pairs: int = 1,
        overlap: float = 0.25,
        windows_at_once: int = 4,
        seed: int = 0,
        progress: Progress = True,
        smoothing: float = 0.0,
        channels: Literal["sum", "norm"] = "sum",
    ) -> None:
        super().__init__()
        self.smoothing, self.channels = smoothing, channels
        self.levels, self.window, self.pairs = list(levels), tuple(window), pairs
        self.overlap, self.windows_at_once, self.seed, self.progress = overlap, windows_at_once, seed, progress

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        images = convert_to_tensor(inputs, track_meta=False).float()
        tiled = any_size(network, self.window, images.ndim - 2, self.overlap, self.windows_at_once)
        total = 2 * self.pairs * len(self.levels)
        with progress_bar(self.progress, total=total, desc=f"residuals of {len(images)}") as bar:

            def denoise(x: Tensor, sigma: Tensor) -> Tensor:
                bar.update(1)
                return tiled(x, sigma, **condition)

            return healthy_residuals(
                denoise,
                images,
                self.levels,
                pairs=self.pairs,
                smoothing=self.smoothing,
                channels=self.channels,
                generator=[random_stream(self.seed, number) for number in sample_numbers(len(images), seed)],
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a calibration must share. Other settings give other residuals and scores."""
        names = ("levels", "pairs", "smoothing", "channels")
        return {**{name: getattr(self, name) for name in names}, "window": list(self.window)}


def foreground(image: Tensor, threshold: float = -0.8) -> Tensor:
    """The foreground of an image [C, *S] in [-1, 1]: above ``threshold`` after smoothing, which keeps a dark lesion
    inside."""
    return smoothed(image[None, :1], 1.5)[0] > threshold


def tissue(image: Tensor) -> Tensor:
    """The mask [1, H, W] of tissue in RGB [3, H, W] in [-1, 1]; glass is False."""
    pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return torch.from_numpy(tissue_mask(pixels))[None]


class CalibrateAnomaly:
    """Writes the scores of healthy cases, the reference of p-values; a postprocessing of MONAI's evaluators.

    The first case sets the units of the scan. All cases give scores in these units. Each case rewrites the file with
    the scores of all cases so far.

    Args:
        path: the JSON file.
        settings: settings of the inferer, and other values that a use of the file must share, such as the hash of the
            weights.
        radii: radii of the balls of the scan, in voxels of the preprocessed image.
        inside: gives the mask [1, *S] of the voxels of an image [C, *S] that count: :func:`foreground`, or
            :func:`tissue` for slides.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        radii: Sequence[float],
        inside: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.path, self.settings, self.radii = Path(path), dict(settings), list(radii)
        self.inside = inside or foreground
        self.scan: BallScan | None = None
        self.scores: list[Tensor] = []

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        residuals = convert_to_tensor(item["pred"], track_meta=False).float().cpu()[None]
        inside = self.inside(convert_to_tensor(item["image"], track_meta=False).float().cpu())
        try:
            self.scan = self.scan or BallScan.of(residuals, inside[None], self.radii)
            scores = self.scan(residuals, inside[None])[0][inside]
            seed = torch.Generator().manual_seed(len(self.scores))
            self.scores.append(scores[torch.randperm(len(scores), generator=seed)[:_MOST_VOXELS]])
            reference = HealthyReference(self.scan, HealthyScores.of(torch.cat(self.scores)))
        except ValueError as error:
            raise DataError(
                getattr(item["image"], "meta", {}).get("filename_or_obj", "a case"),
                expected="healthy cases with at least 100 voxels of foreground",
                got=str(error),
                remedy="Put healthy images with content into --healthy_dir.",
            ) from error
        content = {"settings": self.settings, "cases": len(self.scores), **reference.as_dict()}
        write_json(self.path, content)
        logger.info(
            "calibrated on %d healthy voxels of %d cases: %s", reference.healthy.count, len(self.scores), self.path
        )
        return item


def load_scores(path: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that a run on healthy cases wrote, with the same settings.

    Raises:
        DataError: if the file does not exist, or its settings or weights differ.
    """
    remedy = "Run calibrating first, with the same configuration and --healthy_dir FOLDER."
    if not Path(path).is_file():
        raise DataError(path, expected="the scores of healthy cases", got="no such file", remedy=remedy)
    content: dict[str, Any] = json.loads(Path(path).read_text())
    recorded = content.get("settings", {})
    different = [name for name in sorted({*recorded, *settings}) if recorded.get(name) != settings.get(name)]
    if different:
        raise DataError(
            path,
            key=", ".join(different),
            expected=f"a calibration with {[settings.get(name) for name in different]}",
            got=f"{[recorded.get(name) for name in different]}",
            remedy=remedy,
        )
    return content


class SaveAnomaly:
    """Writes the p-values and the label map of each case; a postprocessing of MONAI's evaluators.

    Files on the grid of the source: ``<case>_p`` (1 outside of the foreground), ``<case>_score`` (signed: > 0 is
    brighter than healthy) and ``<case>_label`` (1 where p <= alpha in connected groups of at least ``min_volume_ml``).
    ``<case>.png`` shows the planes of strongest evidence: the image with the outline of the label, the signed score
    from -8 to 8, and -log10 p from 0 to 4. In the table ``cases.csv``, ``largest_score`` is the scan statistic of the
    case: the largest absolute score in the foreground. Unlike p it has no floor. ``evidence`` is the mean of -log10 p
    over the foreground, at most 1/ln 10 = 0.434 in expectation for voxels exchangeable with the healthy ones.

    Args:
        folder: folder of the files.
        calibration: path of the file of :class:`CalibrateAnomaly`.
        settings: settings of :class:`CalibrateAnomaly`.
        preprocessing: transforms of the cases, whose inverse brings maps back; None leaves maps on the network's grid.
        alpha: largest p-value of a marked voxel.
        min_volume_ml: smallest volume of a marked group.
        write: writer of labels.
        table: table of the cases; None makes one.
    """

    def __init__(
        self,
        folder: str | Path,
        calibration: str | Path,
        settings: Mapping[str, Any],
        preprocessing: Compose | None = None,
        alpha: float = 1e-2,
        min_volume_ml: float = 0.05,
        write: WriteNifti | None = None,
        table: CaseTable | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.reference = HealthyReference.from_dict(load_scores(calibration, settings))
        count = self.reference.healthy.count
        if not 1 / (count + 1) <= alpha < 1:
            raise ValueError(
                f"alpha must be below 1, and at least 1 / {count + 1}, the smallest p-value that a "
                f"calibration of {count} voxels gives, got {alpha}. Calibrate on more healthy data."
            )
        self.preprocessing, self.alpha, self.min_volume_ml = preprocessing, alpha, min_volume_ml
        self.write = write or WriteNifti()
        self.table = table or CaseTable(folder)

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        image = item["image"]
        truth = convert_to_tensor(image, track_meta=False).float().cpu()
        residuals = convert_to_tensor(item["pred"], track_meta=False).float().cpu()[None]
        inside = foreground(truth)
        score = self.reference.scan(residuals, inside[None])[0]
        # maps are resampled and padded as logarithms, where 0 means no evidence
        evidence = torch.zeros_like(score)
        evidence[inside] = -self.reference.healthy.p_value(score[inside]).log10()
        identity = self.table.identify(image)
        case = identity["case"]
        back = partial(on_source_grid, image=image, preprocessing=self.preprocessing)
        evidence_map = back(evidence)
        p_value = 10.0 ** -evidence_map.as_tensor().clamp_min(0)
        marked, groups, voxel_ml = mark(evidence_map, self.alpha, self.min_volume_ml)
        self.write(MetaTensor(p_value, meta=evidence_map.meta), self.folder, f"{case}_p", "map")
        self.write(back(score), self.folder, f"{case}_score", "map")
        self.write(
            MetaTensor(marked[None].to(torch.uint8), meta=evidence_map.meta), self.folder, f"{case}_label", "labels"
        )
        here, _, _ = mark(MetaTensor(evidence, affine=image.affine), self.alpha, self.min_volume_ml)
        strongest = np.unravel_index(int(smoothed(evidence[None], 2.0).argmax()), evidence.shape[1:])
        maps = [
            ColourMap("score: < 0 darker, > 0 brighter", score[0], -8, 8, "RdBu_r"),
            ColourMap("-log10 p", evidence[0], 0, 4, "magma"),
        ]
        title = f"{case}: p <= {self.alpha:g} in at least {self.min_volume_ml:g} ml"
        save_findings(truth, here, maps, self.folder / f"{case}.png", title, [int(place) for place in strongest])
        voxels = evidence[inside] if bool(inside.any()) else torch.zeros(1)
        self.table.add(
            {
                **identity,
                "smallest_p": float(p_value.min()),
                "largest_score": float(score.abs().max()),
                "share_below_alpha": float((voxels >= -np.log10(self.alpha)).float().mean()),
                "share_expected_if_healthy": self.alpha,
                "evidence": float(voxels.mean()),
                "groups": len(groups),
                "largest_group_ml": max(groups, default=0) * voxel_ml,
                "marked_ml": sum(groups) * voxel_ml,
            }
        )
        return item


def large_groups(mask: Tensor, voxels: float) -> tuple[Tensor, list[int]]:
    """The connected groups (by faces, edges and corners) of a mask [*S] with at least ``voxels`` voxels, and their
    sizes."""
    numbered, _ = ndimage.label(mask.numpy(), structure=np.ones([3] * mask.ndim))
    places = np.nonzero(numbered)
    numbers = numbered[places]
    sizes = np.bincount(numbers, minlength=1)
    large = sizes >= max(voxels, 1)
    groups = np.zeros(numbered.shape, dtype=bool)
    groups[places] = large[numbers]
    return torch.from_numpy(groups), sizes[large].tolist()


def mark(evidence: MetaTensor, alpha: float, min_volume_ml: float) -> tuple[Tensor, list[int], float]:
    """Where -log10 p [1, *S] reaches that of alpha in groups of at least a volume: the mask [*S], the sizes of the
    groups in voxels, and the size of a voxel in ml (of a picture, which has no place in the world, in pixels)."""
    affine = np.asarray(evidence.affine, dtype=np.float64)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000 if evidence.ndim == 4 else 1.0
    # the same arithmetic as for the written p-value
    marked, groups = large_groups(10.0 ** -evidence.as_tensor()[0].clamp_min(0) <= alpha, min_volume_ml / voxel_ml)
    return marked, groups, voxel_ml


class ProposeAnomaly:
    """The label map "anomaly" from the residuals of an image, [1, *S] uint8 on the grid of its source; a
    postprocessing of MONAI Label's own app for bundles.

    That app has no calibration on healthy cases. Without one the scores are compared with those of the **same image**.
    The map then marks a share ``alpha`` of its foreground, less the small groups, also in a healthy image.

    Args:
        preprocessing: transforms of the image, whose inverse brings the map back.
        alpha: share of the most unusual voxels; with a calibration, the largest p-value of a marked voxel.
        min_volume_ml: smallest volume of a marked group (pixels for a picture).
        radii: radii of the balls of the scan in voxels, without a calibration.
        calibration: path of the file of :class:`CalibrateAnomaly`.
        settings: settings of :class:`CalibrateAnomaly`.
        inside: see :class:`CalibrateAnomaly`.
    """

    def __init__(
        self,
        preprocessing: Compose | None = None,
        alpha: float = 1e-2,
        min_volume_ml: float = 0.05,
        radii: Sequence[float] = (0,),
        calibration: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        inside: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.preprocessing, self.alpha, self.min_volume_ml = preprocessing, alpha, min_volume_ml
        self.inside = inside or foreground
        self.radii = list(radii)
        self.reference = (
            None if calibration is None else HealthyReference.from_dict(load_scores(calibration, settings or {}))
        )

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        image = item["image"]
        residuals = convert_to_tensor(item["pred"], track_meta=False).float().cpu()[None]
        inside = self.inside(convert_to_tensor(image, track_meta=False).float().cpu())
        reference = self.reference or HealthyReference.of(residuals, inside[None], self.radii)
        score = reference.scan(residuals, inside[None])
        evidence = torch.where(inside, -reference.healthy.p_value(score)[0].log10(), 0.0)
        evidence_map = on_source_grid(evidence, image, self.preprocessing)
        marked, _, _ = mark(evidence_map, self.alpha, self.min_volume_ml)
        return {**item, "pred": MetaTensor(marked[None].to(torch.uint8), meta=evidence_map.meta)}
