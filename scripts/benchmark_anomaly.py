#!/usr/bin/env python3
r"""Anomaly maps against two baselines, on held-out MNI152 with synthetic lesions of several sizes and contrasts.

    python scripts/benchmark_anomaly.py --checkpoint bundles/mri_unet3d/models/model.pt [--lesions 6] [--markdown FILE]

Patches of 32 x 32 x 32 voxels of 2 mm lie at the front of the head, and only voxels of the slab that the training held
out (the front 30%) count. Scores are calibrated on the left half, lesions are put in the right half: spheres that lie
in tissue, of a constant added to the image. (The halves are near mirror images of one averaged head: this is easier
than another subject.)

Methods: the residuals of `anomaly.json`; the intensity z-score, |x - mean| / standard deviation of the healthy half;
the blur residual, |x - Gaussian blur of x| with 2 voxels, smoothed as the first. All three get their p-values in the
same way. AUROC: of the score for the voxels of a patch. Dice: of p <= alpha, and at the best threshold of each patch,
which nobody knows beforehand. Means over the lesions of a row.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser
from sklearn.metrics import precision_recall_curve, roc_auc_score
from torch import Tensor

from monai_diffscore.anomaly import HealthyScores, healthy_residuals, smoothed
from monai_diffscore.data import load_statistics, samples
from monai_diffscore.tasks.anomaly import foreground

BUNDLE = Path(__file__).resolve().parent.parent / "bundles/mri_unet3d"
PATCH, HELD_OUT = 32, 0.3
RADII_MM, CONTRASTS = (4, 6, 8, 12), (0.2, 0.4)
Method = Callable[[Tensor], Tensor]  # patches [N, 1, *S] to residuals [N, L, *S]


class Lesion(NamedTuple):
    """A patch with a lesion: the image and the mask of its voxels [1, *S], and which voxels count."""

    radius_mm: float
    contrast: float
    image: Tensor
    mask: Tensor
    counted: Tensor


def load(checkpoint: Path) -> tuple[ConfigParser, torch.nn.Module]:
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs/inference.json"))
    for name in ("cases", "anomaly"):
        parser.update(ConfigParser.load_config_file(BUNDLE / f"configs/{name}.json"))
    parser["checkpoint"] = str(checkpoint)
    parser["statistics"] = load_statistics(checkpoint.parent / "data_statistics.json")
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(checkpoint, weights_only=True, map_location="cpu"))
    return parser, network


def head(parser: ConfigParser) -> Tensor:
    """The whole preprocessed volume [*S] in [-1, 1]."""
    return parser.get_parsed_content("preprocessing")({"image": samples.mni152()})["image"].as_tensor()[0]


def cut(volume: Tensor, x: int, z: int) -> tuple[Tensor, Tensor]:
    """A patch at the front [1, *S], and the voxels of it that the training did not see and that show tissue."""
    start = volume.shape[1] - PATCH
    patch = volume[None, x : x + PATCH, start:, z : z + PATCH]
    unseen = torch.arange(start, volume.shape[1]) >= round((1 - HELD_OUT) * volume.shape[1])
    return patch.clone(), foreground(patch) & unseen[:, None]


def healthy_patches(volume: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Patches of the left half, spread over it."""
    places = [(x, z) for x in (0, volume.shape[0] // 2 - PATCH) for z in range(0, volume.shape[2] - PATCH + 1, 11)]
    return [cut(volume, x, z) for x, z in places]


def lesions(volume: Tensor, count: int, seed: int, half: int = 1) -> list[Lesion]:
    """``count`` lesions, bright and dark in turn, of each size and contrast in one half of the head."""
    g = torch.Generator().manual_seed(seed)
    middle = -(-volume.shape[0] // 2)
    low, high = (middle, volume.shape[0] - PATCH) if half else (0, volume.shape[0] // 2 - PATCH)
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(PATCH))] * 3, indexing="ij"))
    made: list[Lesion] = []
    for radius in RADII_MM:
        for contrast in CONTRASTS:
            wanted = len(made) + count
            while len(made) < wanted:
                x = int(torch.randint(low, high + 1, (1,), generator=g))
                z = int(torch.randint(0, volume.shape[2] - PATCH + 1, (1,), generator=g))
                patch, counted = cut(volume, x, z)
                centre = torch.randint(radius // 2, PATCH - radius // 2, (3,), generator=g)
                mask = ((grid - centre[:, None, None, None]).square().sum(0) <= (radius / 2) ** 2)[None]
                if bool((counted & (patch > -0.6))[mask].float().mean() < 0.95):
                    continue
                sign = 1 if len(made) % 2 else -1
                image = (patch + sign * contrast * mask).clamp(-1, 1)
                made.append(Lesion(radius, contrast, image, mask, counted))
    return made


def best_dice(truth: np.ndarray, score: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, score)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def dice(truth: np.ndarray, found: np.ndarray) -> float:
    return float(2 * (truth & found).sum() / max(truth.sum() + found.sum(), 1))


def in_batches(method: Method, patches: list[Tensor], size: int = 8) -> Tensor:
    return torch.cat([method(torch.stack(patches[i : i + size])) for i in range(0, len(patches), size)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLE / "models/model.pt")
    parser.add_argument("--lesions", type=int, default=6, help="of each size and contrast")
    parser.add_argument("--seed", type=int, default=0, help="of the lesions and of the noise")
    parser.add_argument("--alpha", type=float, default=1e-3)
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    a = parser.parse_args()
    bundle, network = load(a.checkpoint)
    volume = head(bundle)
    healthy, sick = healthy_patches(volume), lesions(volume, a.lesions, a.seed)
    inside = torch.stack([counted for _, counted in healthy])
    tissue = torch.stack([patch for patch, _ in healthy])[inside]
    inferer = bundle.get_parsed_content("inferer")
    methods: dict[str, Method] = {
        "score model": lambda x: healthy_residuals(
            network,
            x,
            inferer.levels,
            pairs=inferer.pairs,
            smoothing=inferer.smoothing,
            generator=torch.Generator().manual_seed(a.seed),
        ),
        "z-score": lambda x: x - tissue.mean(),
        "blur residual": lambda x: smoothed(x - smoothed(x, 2.0), inferer.smoothing),
    }
    rows: dict[tuple[float, float], dict[str, list[tuple[float, float, float]]]] = {}
    false_positives: dict[str, float] = {}
    begin = time.perf_counter()
    with torch.no_grad():
        for name, method in methods.items():
            scores = HealthyScores.of(in_batches(method, [patch for patch, _ in healthy]).movedim(1, -1)[inside[:, 0]])
            residuals = in_batches(method, [lesion.image for lesion in sick])
            outside = []
            for lesion, residual in zip(sick, residuals, strict=True):
                score = scores.signed_score(residual[None])[0].abs()[lesion.counted].numpy()
                p = scores.p_value(residual[None])[0][lesion.counted].numpy()
                truth = lesion.mask[lesion.counted].numpy()
                far = ~smoothed(lesion.mask[None].float(), 2.0)[0].gt(1e-3)[lesion.counted].numpy()
                outside.append(float((p[far] <= a.alpha).mean()))
                figures = (float(roc_auc_score(truth, score)), dice(truth, p <= a.alpha), best_dice(truth, score))
                rows.setdefault((lesion.radius_mm, lesion.contrast), {}).setdefault(name, []).append(figures)
            false_positives[name] = float(np.mean(outside))
            print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    lines = ["| radius | contrast | " + " | ".join(f"{name}: AUROC, Dice, best Dice" for name in methods) + " |"]
    lines.append("|---" * (2 + len(methods)) + "|")
    for (radius, contrast), found in rows.items():
        cells = [", ".join(f"{figure:.2f}" for figure in np.mean(found[name], axis=0)) for name in methods]
        lines.append(f"| {radius} mm | {contrast} | " + " | ".join(cells) + " |")
    cells = [f"{false_positives[name]:.4f}" for name in methods]
    lines.append(f"| healthy voxels with p <= {a.alpha:g} | | " + " | ".join(cells) + " |")
    trained = time.strftime("%Y-%m-%d %H:%M", time.localtime(a.checkpoint.stat().st_mtime))
    lines.append(
        f"\nN = {a.lesions} lesions a row, {len(healthy)} healthy patches with {int(inside.sum())} voxels, "
        f"seed {a.seed}, weights of {trained}, {torch.get_num_threads()} threads."
    )
    print("\n".join(lines))
    if a.markdown:
        a.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
