"""The likelihood of a folder of cases, and their ranking by the difference from healthy cases."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor, iter_patch_position
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.atomic_files import write_json
from monai_diffscore.data import evenly_spaced
from monai_diffscore.gallery import save_gallery
from monai_diffscore.inferers import LikelihoodInferer, Progress
from monai_diffscore.tasks.anomaly import foreground, load_scores
from monai_diffscore.tasks.cases import CaseTable, write_rows

logger = logging.getLogger(__name__)


class PatchLikelihoodInferer(LikelihoodInferer):
    """Log likelihood in nats per dimension of patches at even distances in each image, [B, 2, patches].

    The first row is the estimate of each patch, the second the standard error of its probes. The patches come from the
    grid that tiles the image: those with foreground in half of their voxels, or all of them if none has.

    Args:
        window: spatial size of a patch, that of the training. A window of two axes takes slices of a volume.
        patches: number of patches of an image at most.
        patches_at_once: patches in one batch of the network.
        sigmas, probes, seed, progress: see :class:`~monai_diffscore.inferers.LikelihoodInferer`.
    """

    def __init__(
        self,
        sigmas: Tensor,
        window: Sequence[int],
        patches: int = 8,
        patches_at_once: int = 4,
        probes: int = 2,
        seed: int = 0,
        progress: Progress = True,
    ) -> None:
        super().__init__(sigmas, probes, seed, progress)
        self.window, self.patches, self.patches_at_once = tuple(window), patches, patches_at_once

    def __call__(  # type: ignore[override]
        self, inputs: Tensor, network: nn.Module, seed: Tensor | None = None, **condition: Tensor
    ) -> Tensor:
        images = convert_to_tensor(inputs, track_meta=False).float()
        # one image after the other: images have different numbers of patches
        return torch.stack(
            [
                self._of_image(image, network, {name: value[[number]] for name, value in condition.items()})
                for number, image in enumerate(images)
            ]
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that a reference must share. Likelihoods with other settings do not compare."""
        return {"window": list(self.window), **likelihood_settings(self.sigmas)}

    def _of_image(self, image: Tensor, network: nn.Module, condition: dict[str, Tensor]) -> Tensor:
        patches = evenly_spaced(patches_of(image, self.window), self.patches)
        rows = []
        for first in range(0, len(patches), self.patches_at_once):
            some = torch.stack(patches[first : first + self.patches_at_once])
            own = {name: value.expand(len(some), *value.shape[1:]) for name, value in condition.items()}
            rows.append(super().__call__(some, network, **own))
        return torch.cat(rows).T


def likelihood_settings(sigmas: Tensor) -> dict[str, Any]:
    """The ends of the grid of noise levels, which a reference must share."""
    return {"sigma_max_min": [float(sigmas.max()), float(sigmas[sigmas > 0].min())]}


def patches_of(image: Tensor, window: Sequence[int]) -> list[Tensor]:
    """The patches [C, *window] of an image [C, *S] on the grid that tiles it: those with foreground, else all."""
    size = (*window, *[1] * (image.ndim - 1 - len(window)))
    inside = foreground(image.cpu())[0]
    patches, in_foreground = [], []
    for start in iter_patch_position(image.shape[1:], size, padded=True):
        place = tuple(
            slice(min(begin, whole - part), min(begin, whole - part) + part)
            for begin, whole, part in zip(start, image.shape[1:], size, strict=True)
        )
        patches.append(image[(slice(None), *place)].reshape(-1, *window))
        in_foreground.append(float(inside[place].float().mean()) >= 0.5)
    foreground_patches = [patch for patch, is_foreground in zip(patches, in_foreground, strict=True) if is_foreground]
    return foreground_patches or patches


class SaveLikelihood:
    """Writes the likelihood of each case, and the ranking of all; a postprocessing of MONAI's evaluators.

    ``cases.csv`` has, in nats per dimension of the normalised data, the mean over patches, its standard error by the
    probes and by the patches, and, given a reference, the number of reference standard deviations z from its mean.
    ``ranking.csv`` has the cases in the order of decreasing \\|z\\|: too likely differs from the reference as much as
    too unlikely (a blurred image is more likely than a sharp one; Nalisnick et al. 2019, arXiv:1906.02994). Without a
    reference they are in the order of increasing likelihood. ``<case>.png`` shows the case. A *patch* is a part of the
    image whose likelihood the inferer computes. A model of whole volumes has one for each case, the volume itself:
    ``patches`` is 1, and ``patch_standard_error`` is NaN.

    Args:
        folder: folder of the files.
        reference: path of the JSON file of a run on healthy cases. If the file does not exist, the cases are ranked by
            likelihood, and the log warns.
        settings: settings of the inferer, and other values that a reference must share, such as the hash of the
            weights.
        make_reference: write the reference, from the patches of all cases so far.
        table: table of the cases; None makes one.
    """

    def __init__(
        self,
        folder: str | Path,
        reference: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        make_reference: bool = False,
        table: CaseTable | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.table = table or CaseTable(folder)
        self.path = None if reference is None else Path(reference)
        self.make_reference = make_reference
        self.patches: list[float] = []
        self.settings = dict(settings or {})
        self.reference: dict[str, float] | None = None
        if self.path is not None and not make_reference:
            if self.path.is_file():
                self.reference = load_scores(self.path, self.settings)
            else:
                logger.warning(f"{self.path}: no reference, so cases are ranked by likelihood alone: run calibrating.")

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        image: MetaTensor = item["image"]
        nats, error = convert_to_tensor(item["pred"], track_meta=False).double().cpu()
        count = len(nats)
        row: dict[str, Any] = {
            **self.table.identify(image),
            "nats_per_dim": float(nats.mean()),
            "probe_standard_error": float(error.square().sum().sqrt()) / count,
            "patch_standard_error": float(nats.std()) / math.sqrt(count) if count > 1 else math.nan,
            "patches": count,
        }
        if self.reference is not None:
            row["z"] = self._z(float(nats.mean()), count)
        self.table.add(row)
        if self.make_reference:
            self._write_reference(nats.tolist())
        self._rank()
        picture = convert_to_tensor(image, track_meta=False).float().cpu()[None]
        title = f"{row['case']}: {row['nats_per_dim']:.3f} nats per dimension"
        save_gallery(picture, self.folder / f"{row['case']}.png", title)
        return item

    def _z(self, nats: float, count: int) -> float:
        assert self.reference is not None
        return (nats - self.reference["mean"]) / (self.reference["patch_std"] / math.sqrt(count))

    def _write_reference(self, nats: list[float]) -> None:
        assert self.path is not None, "a reference needs a path"
        self.patches += nats
        values = torch.tensor(self.patches, dtype=torch.float64)
        if len(values) < 2:
            return
        content = {
            "settings": self.settings,
            "mean": float(values.mean()),
            "patch_std": float(values.std()),
            "patches": len(values),
        }
        write_json(self.path, content)

    def _rank(self) -> None:
        rows = self.table.results()
        order = sorted(rows, key=lambda row: -abs(row["z"]) if "z" in row else row["nats_per_dim"])
        write_rows(self.folder / "ranking.csv", [{"rank": place, **row} for place, row in enumerate(order, start=1)])
