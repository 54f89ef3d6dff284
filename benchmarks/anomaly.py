r"""Anomaly maps against two baselines, on held-out MNI152 with synthetic lesions of several sizes and contrasts.

    python -m benchmarks.anomaly --checkpoint bundles/mri_unet3d/models/model.pt [--lesions 6] [--markdown FILE]

Patches of 32 x 32 x 32 voxels of 2 mm lie at the front of the head, and only voxels of the slab that the training held
out (the front 30%) count. The left half calibrates the scores. The right half gets the lesions: spheres in tissue,
a constant added to the image, at any place between voxels, with partial volume at their edges as in a scanner.
(The halves are near mirror images of one averaged, smooth head: this is easier than another subject.)

Methods: the score model as in `anomaly.json`; the same residuals voxel by voxel, without the scan over balls; the
intensity z-score, x - mean of the healthy half; and the blur residual, x - Gaussian blur of x with 1 voxel, both with
the same scan. All get their p-values in the same way. AUROC: that of the score for the voxels of a patch. Dice: that of
p <= alpha, and that at the best threshold of each patch, which no user knows. Means over the lesions of a row.
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
from torch.nn import functional

from monai_diffscore import samples
from monai_diffscore.anomaly import HealthyReference, healthy_residuals, smoothed
from monai_diffscore.data import load_statistics
from monai_diffscore.tasks.anomaly import foreground

BUNDLE = Path(__file__).resolve().parent.parent / "bundles/mri_unet3d"
PATCH, HELD_OUT = 32, 0.3
SPACING_MM, RADII_MM, CONTRASTS = 2.0, (4, 6, 8, 12), (0.2, 0.4)
FINE = 4  # points along each axis of a voxel that decide how much of it a sphere fills
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
    drawn: list[Lesion] = []
    for radius in RADII_MM:
        for contrast in CONTRASTS:
            goal = len(drawn) + count
            while len(drawn) < goal:
                x = int(torch.randint(low, high + 1, (1,), generator=g))
                z = int(torch.randint(0, volume.shape[2] - PATCH + 1, (1,), generator=g))
                patch, counted = cut(volume, x, z)
                share = sphere(radius / SPACING_MM, g)
                mask = share > 0.5
                if bool((counted & (patch > -0.6))[mask].float().mean() < 0.95):
                    continue
                sign = 1 if len(drawn) % 2 else -1
                image = (patch + sign * contrast * share).clamp(-1, 1)
                drawn.append(Lesion(radius, contrast, image, mask, counted))
    return drawn


def sphere(radius: float, generator: torch.Generator) -> Tensor:
    """The share of each voxel [1, *S] that lies in a sphere of ``radius`` voxels at a random place, also between
    voxels."""
    centre = radius + torch.rand(3, generator=generator) * (PATCH - 1 - 2 * radius)
    points = (torch.arange(FINE * PATCH) + 0.5) / FINE - 0.5
    x, y, z = [(points - middle).square() for middle in centre]
    inside = x[:, None, None] + y[:, None] + z <= radius**2
    return functional.avg_pool3d(inside[None].float(), FINE)


def best_dice(truth: np.ndarray, score: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, score)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def dice(truth: np.ndarray, marked: np.ndarray) -> float:
    return float(2 * (truth & marked).sum() / max(truth.sum() + marked.sum(), 1))


def in_batches(method: Method, patches: list[Tensor], size: int = 8) -> Tensor:
    return torch.cat([method(torch.stack(patches[i : i + size])) for i in range(0, len(patches), size)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=BUNDLE / "models/model.pt")
    parser.add_argument("--lesions", type=int, default=6, help="of each size and contrast")
    parser.add_argument("--seed", type=int, default=0, help="of the lesions and of the noise")
    parser.add_argument("--alpha", type=float, default=1e-2)
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    a = parser.parse_args()
    bundle, network = load(a.checkpoint)
    volume = head(bundle)
    healthy, sick = healthy_patches(volume), lesions(volume, a.lesions, a.seed)
    inside = torch.stack([counted for _, counted in healthy])
    tissue = torch.stack([patch for patch, _ in healthy])[inside]
    inferer, radii = bundle.get_parsed_content("inferer"), bundle.get_parsed_content("radii_voxels")

    def residuals_of(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(a.seed)
        return healthy_residuals(network, x, inferer.levels, pairs=inferer.pairs, generator=generator)

    methods: dict[str, tuple[Method, list[float]]] = {
        "score model": (residuals_of, radii),
        "voxel by voxel": (residuals_of, [0]),
        "z-score": (lambda x: x - tissue.mean(), radii),
        "blur residual": (lambda x: x - smoothed(x, 1.0), radii),
    }
    rows: dict[tuple[float, float], dict[str, list[tuple[float, float, float]]]] = {}
    false_positives: dict[str, float] = {}
    begin = time.perf_counter()
    with torch.no_grad():
        for name, (method, sizes) in methods.items():
            residuals = in_batches(method, [patch for patch, _ in healthy])
            reference = HealthyReference.of(residuals, inside, sizes)
            outside = []
            for lesion, scores in zip(
                sick, reference.scan(in_batches(method, [lesion.image for lesion in sick])), strict=True
            ):
                p = reference.healthy.p_value(scores)[lesion.counted].numpy()
                score = scores.abs()[lesion.counted].numpy()
                truth = lesion.mask[lesion.counted].numpy()
                far = ~smoothed(lesion.mask[None].float(), 3.0)[0].gt(1e-3)[lesion.counted].numpy()
                outside.append(float((p[far] <= a.alpha).mean()))
                measures = (float(roc_auc_score(truth, score)), dice(truth, p <= a.alpha), best_dice(truth, score))
                rows.setdefault((lesion.radius_mm, lesion.contrast), {}).setdefault(name, []).append(measures)
            false_positives[name] = float(np.mean(outside))
            print(f"{name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    lines = ["| radius | contrast | " + " | ".join(f"{name}: AUROC, Dice, best Dice" for name in methods) + " |"]
    lines.append("|---" * (2 + len(methods)) + "|")
    for (radius, contrast), results in rows.items():
        cells = [", ".join(f"{value:.2f}" for value in np.mean(results[name], axis=0)) for name in methods]
        lines.append(f"| {radius} mm | {contrast} | " + " | ".join(cells) + " |")
    cells = [f"{false_positives[name]:.4f}" for name in methods]
    lines.append(f"| voxels far from the lesion with p <= {a.alpha:g} | | " + " | ".join(cells) + " |")
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
