r"""Restoration tasks of a trained bundle beside classical ones, on held-out volumes.

    python -m benchmarks.restorations bundles/ct_unet2d --checkpoint MODEL.pt reconstruct_ct super_resolve

Each task runs as its configuration says (operator, noise, posterior samples), on a part of the held-out volumes
(`--region`), or on several parts (`--places`), with the means over the parts. The other methods restore the same
measurement: the operator's pseudo-inverse; filtered back-projection (CT); scikit-image's biharmonic inpainting (masks);
and total variation: scikit-image's `denoise_tv_chambolle` of the best of these. Its weight is the one **nearest to the
truth**, an advantage, because no user knows the truth. Metrics: root mean square error in the units of the data,
structural similarity, and the share of voxels within two standard deviations of the mean. For masks they count hidden
voxels only."""

from __future__ import annotations

import argparse
import math
import os
import sys
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

#: error, similarity and share of each method, and the output of the inferer
Rows = tuple[dict[str, tuple[float, float, float]], Tensor]
WEIGHTS = (0.003, 0.006, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3)


def configuration(bundle: Path, task: str, options: argparse.Namespace) -> ConfigParser:
    files = [bundle / "configs" / f"{name}.json" for name in ("inference", *options.overlays, "cases", task)]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    parser["bundle_root"] = str(bundle)
    parser["checkpoint"] = str(options.checkpoint)
    parser["output_dir"] = str(options.out / task)
    parser["region_size"] = [-1] * len(options.region) if options.places else options.region
    parser["steps"] = options.steps
    if not options.autocast:
        parser["autocast_dtype"] = None
    for name in ("method", "posterior_samples"):
        if getattr(options, name) is not None:
            parser[name] = getattr(options, name)
    if options.first_order:
        parser["sampler"] = {
            "_target_": "monai_diffscore.sampling.sample_adams", "_mode_": "callable", "order": 1,
        }  # fmt: skip
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


def regions(image: Tensor, options: argparse.Namespace) -> list[tuple[slice, ...]]:
    """The regions of an image [1, *S]: all of it, or ``places`` of the size of a region, each ``step`` further."""
    if not options.places:
        return [tuple(slice(0, size) for size in image.shape)]
    axes = list(zip(options.begin, options.step, options.region, strict=True))
    return [
        (slice(None), *(slice(begin + n * step, begin + n * step + size) for begin, step, size in axes))
        for n in range(options.places)
    ]


def restored(inferer: Any, network: torch.nn.Module, truth: Tensor, number: int, slices: bool, noise: float) -> Rows:
    """Error in normalised units, similarity and share within two standard deviations (NaN: none) of each method, and
    the output of the inferer."""
    operator = inferer.operator(truth.shape[2:])
    inputs = truth
    if not inferer.measure:  # denoising
        inputs = truth + noise * noise_like(truth, random_stream(1, number, 1))
    pred = inferer(inputs, network, torch.tensor([number]))
    mean, spread, baseline = pred.chunk(3, dim=1)
    y = operator(truth) if inferer.measure else inputs
    if inferer.measure:
        y = y + inferer.noise_std * noise_like(y, random_stream(inferer.seed, number, 1))
    hole = None
    if isinstance(operator, Mask) and float(operator.mask.min()) == 0:
        hole = (operator.mask == 0).expand_as(truth)
    near = ((mean - truth).abs() <= 2 * spread).float()
    estimates = {"posterior mean": mean, **classical(operator, y, baseline, truth, slices)}
    rows = {
        name: (_rmse(estimate, truth, hole), _similarity(estimate, truth, slices), math.nan)
        for name, estimate in estimates.items()
    }
    share = float((near if hole is None else near[hole]).mean())
    rows["posterior mean"] = (*rows["posterior mean"][:2], share)
    return rows, pred


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
    results: dict[str, list[tuple[float, float, float]]] = {}
    scale, start = 1.0, time.process_time()
    for case in split_by_subject(cases, 0.2, 0)[1][: options.cases]:
        image = preprocessing(case)["image"]
        low, high = intensity_range(image)
        scale = (high - low) / 2
        for region in regions(image, options):
            truth = torch.as_tensor(image.as_tensor())[region][None].float()
            number = len(results.get("posterior mean", ()))
            rows, pred = restored(inferer, network, truth, number, slices, options.noise)
            for name, row in rows.items():
                results.setdefault(name, []).append(row)
            errors = ", ".join(f"{name} {row[0] * scale:.1f}" for name, row in rows.items())
            print(f"{Path(case['image']).name} {number}: {errors}", file=sys.stderr, flush=True)
            if not options.places:
                save({"image": image, "pred": pred[0]})
    for name, values in results.items():
        error, similarity, share = (sum(column) / len(column) for column in zip(*values, strict=True))
        within = "" if math.isnan(share) else f"{share:.2f}"
        print(f"| {task} | {name} | {error * scale:.1f} | {similarity:.3f} | {within} |", flush=True)
    count = len(results["posterior mean"])
    print(f"{count} regions, {time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--checkpoint", type=Path, required=True, help="data_statistics.json lies beside it")
    parser.add_argument("--out", type=Path, default=Path("output/restorations"), help="for the tasks' own files")
    parser.add_argument("--region", type=int, nargs=3, default=[96, 96, 4], help="voxels, of the middle")
    parser.add_argument("--overlays", nargs="*", default=[], help="overlays of the bundle, such as demo")
    parser.add_argument("--places", type=int, default=0, help="number of regions of a volume; 0: its middle")
    parser.add_argument("--begin", type=int, nargs=3, default=[0, 0, 0], help="first voxel of the first region")
    parser.add_argument("--step", type=int, nargs=3, default=[0, 0, 0], help="from one region to the next, voxels")
    parser.add_argument("--cases", type=int, default=1)
    parser.add_argument("--method", help="of PosteriorGuidance, in place of the task's")
    parser.add_argument("--posterior-samples", type=int, help="in place of the task's number")
    parser.add_argument("--first-order", action="store_true", help="the sampler of order 1, in place of the task's")
    parser.add_argument("--autocast", action="store_true", help="the precision of the bundle, not float32")
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
