r"""Restoration tasks of a trained bundle beside classical ones, on held-out volumes.

    python -m benchmarks.restorations bundles/ct_unet2d --checkpoint MODEL.pt reconstruct_ct super_resolve

Each task runs as its configuration says (operator, noise, posterior samples), on a part of the held-out volumes
(`--region`). The other methods restore the same measurement: the operator's pseudo-inverse; filtered back-projection
(CT); scikit-image's biharmonic inpainting (masks); and total variation: scikit-image's `denoise_tv_chambolle` of the
best of these. Its weight is the one **nearest to the truth**, an advantage, because no user knows the truth. Metrics:
root mean square error in the units of the data, structural similarity, and the share of voxels within two standard
deviations of the mean. For masks they count hidden voxels only."""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_tv_chambolle, inpaint_biharmonic
from torch import Tensor

from monai_diffscore import Mask, Operator, Radon
from monai_diffscore.data import list_volumes, split_by_subject
from monai_diffscore.tasks.cases import intensity_range
from monai_diffscore.tensors import noise_like, random_stream

WEIGHTS = (0.003, 0.006, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3)


def configuration(bundle: Path, task: str, options: argparse.Namespace) -> ConfigParser:
    files = [bundle / "configs" / f"{name}.json" for name in ("inference", "cases", task)]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser["bundle_root"] = str(bundle)
    parser["checkpoint"] = str(options.checkpoint)
    parser["output_dir"] = str(options.out / task)
    parser["region_size"] = options.region
    parser["steps"] = options.steps
    parser["autocast_dtype"] = None
    return parser


def classical(operator: Operator, y: Tensor, start: Tensor, truth: Tensor, slices: bool) -> dict[str, Tensor]:
    """Baselines by name, [1, C, *S]."""
    estimates = {"pseudo-inverse": start}
    if isinstance(operator, Radon):
        estimates["filtered back-projection"] = operator.filtered_back_projection(y)
    if isinstance(operator, Mask) and float(operator.mask.min()) == 0:
        hole = operator.mask.expand_as(truth)[0, 0].numpy() == 0
        estimates["biharmonic"] = torch.from_numpy(inpaint_biharmonic(start[0, 0].numpy(), hole))[None, None].to(truth)
    best = min(estimates.values(), key=lambda image: _rmse(image, truth))
    smooth = [_total_variation(best, weight, slices) for weight in WEIGHTS]
    estimates["total variation"] = min(smooth, key=lambda image: _rmse(image, truth))
    return estimates


def _total_variation(image: Tensor, weight: float, slices: bool) -> Tensor:
    array = image[0, 0].numpy()
    out = denoise_tv_chambolle(array, weight, channel_axis=-1 if slices else None, max_num_iter=100)
    return torch.from_numpy(np.asarray(out))[None, None].to(image)


def _rmse(image: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    error = (image - truth).square()
    return math.sqrt(float(error.mean() if where is None else error[where].mean()))


def _similarity(image: Tensor, truth: Tensor, slices: bool) -> float:
    pairs = [(image[0, 0].numpy(), truth[0, 0].numpy())]
    if slices:
        pairs = [(pairs[0][0][..., k], pairs[0][1][..., k]) for k in range(truth.shape[-1])]
    return float(np.mean([structural_similarity(a.clip(-1, 1), b, data_range=2.0) for a, b in pairs]))


def measure(bundle: Path, task: str, options: argparse.Namespace) -> None:
    parser = configuration(bundle, task, options)
    parser.parse()
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(options.checkpoint, weights_only=True))
    preprocessing: Any = parser.get_parsed_content("preprocessing")
    inferer: Any = parser.get_parsed_content("inferer")
    save: Any = parser.get_parsed_content("postprocessing")
    cases = list_volumes(parser.get_parsed_content("dataset_dir"))
    slices = len(parser.get_parsed_content("window")) == 2
    for number, case in enumerate(split_by_subject(cases, 0.2, 0)[1][: options.cases]):
        image = preprocessing(case)["image"]
        low, high = intensity_range(image)
        truth = torch.as_tensor(image.as_tensor())[None].float()
        operator = inferer.operator(truth.shape[2:])
        inputs = truth
        if not inferer.measure:  # denoising
            inputs = truth + options.noise * noise_like(truth, random_stream(1, number, 1))
        start = time.perf_counter()
        pred = inferer(inputs, network, torch.tensor([number]))
        seconds = time.perf_counter() - start
        mean, spread, baseline = pred.chunk(3, dim=1)
        y = operator(truth) if inferer.measure else inputs
        if inferer.measure:
            y = y + inferer.noise_std * noise_like(y, random_stream(inferer.seed, number, 1))
        hole = None
        if isinstance(operator, Mask) and float(operator.mask.min()) == 0:
            hole = (operator.mask == 0).expand_as(truth)
        rows = {"posterior mean": mean, **classical(operator, y, baseline, truth, slices)}
        save({"image": image, "pred": pred[0]})
        for name, estimate in rows.items():
            within = ""
            if name == "posterior mean":
                near = (mean - truth).abs() <= 2 * spread
                within = f"{float((near if hole is None else near[hole]).float().mean()):.2f}"
            error = _rmse(estimate, truth, hole) * (high - low) / 2
            print(
                f"| {task} | {name} | {error:.1f} | {_similarity(estimate, truth, slices):.3f} | {within} |", flush=True
            )
        print(f"{case['image']}: {tuple(truth.shape[2:])} voxels, {seconds:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--checkpoint", type=Path, required=True, help="data_statistics.json lies beside it")
    parser.add_argument("--out", type=Path, default=Path("output/restorations"), help="for the tasks' own files")
    parser.add_argument("--region", type=int, nargs=3, default=[96, 96, 4], help="voxels, of the middle")
    parser.add_argument("--cases", type=int, default=1)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--noise", type=float, default=0.1, help="of the task denoise, normalised units")
    options = parser.parse_args()
    torch.manual_seed(0)
    print("| task | method | error | similarity | within 2 sd |\n|---|---|---|---|---|")
    for task in options.tasks:
        measure(options.bundle.resolve(), task, options)
    print(f"threads: {os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())}")


if __name__ == "__main__":
    main()
