r"""Fingerprint to plan: the rules, one function a kind of data.

=====================================================  ==================================================
data                                                   network
=====================================================  ==================================================
volumes                                                3-D U-Net; DiT where data and compute are large
volumes of few slices, CT of thick ones                2-D U-Net of slices
pictures: a small set                                  2-D U-Net
pictures: a large set                                  2-D DiT
whole slides                                           hierarchical U-Net with its surroundings
sequences                                              1-D DiT
gene matrix                                            residual MLP over genes
gene matrix with a graph                               message passing on the graph
single cells                                           gene attention, counts decoder
table                                                  residual MLP over encoded columns
=====================================================  ==================================================

Noise levels. EDM's training distribution, ln sigma of mean -1.2 and standard deviation 1.2 (Karras et al. 2022,
arXiv:2206.00364, Table 1), is taken whatever sigma_data: moving it with ln sigma_data was no better
(docs/BENCHMARKS.md). Sampling starts at a level that hides any image: Song and Ermon (2020, arXiv:2006.09011,
Technique 1) take the largest distance between two of them; :math:`2\sqrt{2N}\,\sigma_{data}` is twice the root mean
square distance of images of N independent elements, and no more than EDM's 80 at 0.5 is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_diffscore.composing import network_of
from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.gene_rules import plan_cells, plan_expression, plan_table
from monai_diffscore.planning.plan import Budget, Choice, Plan

#: voxels along the edge of a 3-D patch, and pixels along that of a 2-D image
PATCH_EDGE = {False: 32, True: 64}
PICTURE_EDGE = {False: 64, True: 128}
#: slices so many times as thick as a pixel is wide are trained as slices
THICK = 3.0
#: sets and compute from which a transformer is worth its slower start
MANY_PICTURES, MANY_SUBJECTS, MUCH_COMPUTE = 10_000, 200, 5_000
#: share of a volume that a patch should show, as nnU-Net asks (Isensee et al. 2021), and how much may be given for it
PATCH_SHARE, COARSER = 0.25, (1.0, 1.25, 1.5, 2.0)
_LEAD = {"volumes": "3-D", "pictures": "2-D"}


def make_plan(fingerprint: Fingerprint, budget: Budget, graph: str | None = None) -> Plan:
    """The plan for a data set within a budget; time and memory are estimates until it is measured.

    Args:
        fingerprint: of the data.
        budget: memory and time.
        graph: absolute path of the edges between genes, for expression matrices.
    Raises:
        DataError: if the data cannot be planned for.
    """
    rules: dict[str, Callable[[Fingerprint, Budget], Plan]] = {
        "volumes": plan_volumes,
        "pictures": plan_pictures,
        "slides": plan_slides,
        "sequences": plan_sequences,
        "cells": plan_cells,
        "expression": lambda found, limits: plan_expression(found, limits, graph),
        "table": plan_table,
    }
    return rules[fingerprint.kind](fingerprint, budget)


def plan_volumes(found: Fingerprint, budget: Budget) -> Plan:
    """Patches of volumes, 3-D, or of thick slices, 2-D."""
    assert found.spacing_mm is not None
    native = found.spacing_mm["median"]
    flat = found.modality == "CT" and max(native) / min(native) >= THICK and native.index(max(native)) == 2
    thin = found.foreground_sizes["median"][2] < 8
    slices = flat or thin
    axes = (0, 1) if slices else (0, 1, 2)
    edge = 3 * PATCH_EDGE[budget.accelerator] if slices else PATCH_EDGE[budget.accelerator]
    spacing, patch, why_spacing = _spacing_and_patch(found, axes, edge)
    large = not slices and found.subjects >= MANY_SUBJECTS and budget.compute >= MUCH_COMPUTE
    if large:
        network = {**network_of("mri_dit3d"), "input_size": patch}
        why = f"{found.subjects} subjects and {budget.minutes:g} minutes: enough for a transformer to learn what a "
        why += "convolution is given"
    else:
        network, why = _unet(budget, patch, "3-D U-Net" if not slices else "2-D U-Net of slices")
        why += f"; a transformer is planned from {MANY_SUBJECTS} subjects and {MUCH_COMPUTE} core minutes"
    volumes = "ct_unet3d" if found.modality == "CT" else "mri_dit3d" if large else "mri_unet3d"
    template = "ct_unet2d" if slices else volumes
    reason = "thick slices: an anatomy changes more from one to the next than a 3-D kernel can follow" if flat else ""
    reason = "fewer than 8 slices" if thin else reason
    training = max(1, round(0.8 * found.cases))
    choices = {
        "network": Choice(network, f"{why}{'; ' + reason if reason else ''}"),
        "spacing_mm": Choice(spacing, why_spacing),
        "patch_size": Choice(
            patch, f"about {edge} voxels a side, of equal length in mm along all axes, a multiple of 8"
        ),
        "normalisation": _normalisation(found),
        "patches_per_volume": Choice(max(2, math.ceil(128 / training)), "an epoch has at least about 128 patches"),
        **_common(found, budget, patch, 8 if budget.accelerator else 4),
    }
    return Plan.of(found, budget, template, choices)


def _spacing_and_patch(found: Fingerprint, axes: Sequence[int], edge: int) -> tuple[list[float], list[int], str]:
    assert found.spacing_mm is not None
    native = [found.spacing_mm["median"][axis] for axis in axes]
    sizes = [found.foreground_sizes["median"][axis] for axis in axes]
    for factor in COARSER:
        spacing = [step * factor for step in native]
        patch = _patch(spacing, [size / factor for size in sizes], edge)
        share = math.prod(patch) / max(1.0, math.prod(size / factor for size in sizes))
        if share >= PATCH_SHARE:
            break
    lengths = "the median of the data" if factor == 1 else f"the median of the data, {factor:g} times as coarse"
    spread = found.spacing_mm["min"] != found.spacing_mm["max"]
    reason = f"{lengths}, so that a patch shows {min(share, 1):.0%} of a volume (a quarter is wanted"
    reason += ", at most twice as coarse)" if factor == COARSER[-1] else ")"
    if spread:
        reason += f"; files from {found.spacing_mm['min']} to {found.spacing_mm['max']} mm are resampled to it"
    return [float(f"{step:.4g}") for step in spacing], patch, reason


def _patch(spacing: Sequence[float], sizes: Sequence[float], edge: int) -> list[int]:
    """edge^d voxels, of equal length in mm along the axes, multiples of 8, none longer than the data (rounded up)."""
    length = edge * math.prod(spacing) ** (1 / len(spacing))
    wanted = [max(8, 8 * round(length / step / 8)) for step in spacing]
    return [min(want, max(8, 8 * math.ceil(size / 8))) for want, size in zip(wanted, sizes, strict=True)]


def _normalisation(found: Fingerprint) -> Choice:
    if found.modality == "CT":
        share = "fixed units: the window keeps air, tissue and most bone, and is exact back to HU"
        return Choice({"window_hu": [-1000.0, 1000.0]}, f"{share}; all values lie from {found.percentiles['0']:g} to "
                      f"{found.percentiles['100']:g} HU")  # fmt: skip
    by_channel = ", each channel by itself" if found.channels > 1 else ""
    reason = f"intensities of {found.modality} have no unit: percentiles of each image{by_channel}"
    return Choice({"percentiles": [0.5, 99.5]}, reason)


def plan_pictures(found: Fingerprint, budget: Budget) -> Plan:
    """Whole pictures; patches of one picture, if there is one alone."""
    alone = found.subjects < 2
    edge = PICTURE_EDGE[budget.accelerator]
    median = found.sizes["median"]
    if alone:
        rows, columns = median
        # the upper 30 % along the columns are held out, and must hold a patch
        side = 8 * int(min(edge, rows, 0.3 * columns) // 8)
        size = [max(8, side)] * 2
        why_size = "one picture: patches of it, as large as fit into the 30 % of its columns that are held out"
    else:
        scale = min(1.0, edge / max(median))
        size = [_even(side * scale) for side in median]
        why_size = "the size of the pictures" if scale == 1 else f"the pictures, scaled to at most {edge} pixels a side"
    large = not alone and found.cases >= MANY_PICTURES
    if large:
        network = {**network_of("natural_dit2d"), "input_size": "@image_size"}
        network.pop("condition", None)
        why = f"{found.cases} images: a large set, for which a transformer scales best"
    else:
        network, why = _unet(budget, size, "2-D U-Net")
        why += f"; a transformer is planned from {MANY_PICTURES} images"
    fit = not alone and (not found.details["of_one_size"] or size != median)
    training = max(1, round(0.8 * found.cases))
    batch = 64 if math.prod(size) <= 256 else 16
    choices = {
        "network": Choice(network, why),
        "image_size": Choice(size, why_size),
        "fit": Choice(fit, "scaled until they cover the size, the centre kept" if fit else "no picture is scaled"),
        "patches_per_image": Choice(512 if alone else 0, "drawn at random in an epoch" if alone else "whole pictures"),
        "normalisation": Choice({"range": [0.0, 255.0]}, "brightness has a range: 0 to 255 to [-1, 1]"),
        **_common(found, budget, size, batch if alone else min(batch, max(1, training // 2))),
    }
    return Plan.of(found, budget, "natural_dit2d", choices)


def _even(side: float) -> int:
    """The largest multiple of 8 (of 2 below 32) that is not above ``side``."""
    step = 8 if side >= 32 else 2
    return max(step, step * int(side // step))


def plan_slides(found: Fingerprint, budget: Budget) -> Plan:
    """Tiles of tissue with their low-power surroundings."""
    finest = found.details["mpp_um"][1]
    mpp = max(0.5, finest)
    tile = PICTURE_EDGE[budget.accelerator]
    while tile > 32 and min(found.sizes["median"]) * finest / mpp < 3 * tile:
        tile //= 2
    tiles = found.cases * math.prod(found.sizes["median"]) * (finest / mpp / tile) ** 2 * found.foreground_share
    stride = tile if tiles >= 256 else max(8, tile // 8)
    network = network_of("pathology_hierarchical_unet")
    overlap = "" if stride == tile else ": few, so they overlap"
    choices = {
        "network": Choice(network, "whole slides: a hierarchical U-Net that sees each tile and its surroundings"),
        "mpp_um": Choice(mpp, f"0.5 um (20x), or the coarsest slide's ({finest:g} um), which all can give"),
        "tile_size": Choice(tile, "pixels a side: a multiple of 32, at most a third of a slide"),
        "stride": Choice(stride, f"about {tiles:.0f} tiles side by side{overlap}"),
        "normalisation": Choice({"range": [0.0, 255.0]}, "exactly invertible; stains vary by augmentation instead"),
        **_common(found, budget, [tile, tile], 16 if budget.accelerator else 8, channels=3),
    }  # fmt: skip
    return Plan.of(found, budget, "pathology_hierarchical_unet", choices)


def plan_sequences(found: Fingerprint, budget: Budget) -> Plan:
    """Windows of sequences."""
    length = found.sizes["min"][0]
    room = 0.3 * length if found.subjects < 2 else length
    window = max(16, 8 * int(min(1024 if budget.accelerator else 256, room) // 8))
    p = found.percentiles
    heavy = (p["100"] - p["0"]) > 5 * (p["99.5"] - p["0.5"])
    limits, why = [0.0, 100.0], "the range of each sequence"
    if heavy:
        limits, why = [0.5, 99.5], "a few values lie far out"
    training = max(1, round(0.8 * found.cases))
    choices = {
        "network": Choice(network_of("signal_dit1d"), "sequences: a 1-D transformer over patches of 8 points"),
        "window_size": Choice([window], f"the shortest sequence has {length} points; a multiple of 8"),
        "normalisation": Choice({"percentiles": limits}, why),
        "windows_per_sequence": Choice(max(2, math.ceil(1024 / training)), "an epoch has at least about 1024 windows"),
        **_common(found, budget, [window], 32),
    }  # fmt: skip
    return Plan.of(found, budget, "signal_dit1d", choices)


def _unet(budget: Budget, size: Sequence[int], name: str) -> tuple[dict[str, Any], str]:
    """A U-Net whose coarsest level still has an even grid, as wide as the budget pays for."""
    levels = 1
    while levels < 4 and all(
        side % 2**levels == 0 and side // 2**levels >= (1 if len(size) == 3 else 2) for side in size
    ):
        levels += 1
    if budget.accelerator:
        channels, blocks, width = [32, 64, 128, 256], [1, 2, 2, 2], "for an accelerator"
        if budget.compute >= 4 * MUCH_COMPUTE:
            channels, blocks, width = [64, 128, 256, 256], [2, 2, 3, 3], "for an accelerator and hours"
    elif len(size) == 3:
        channels, blocks, width = [16, 32, 64, 128], [1, 1, 2, 2], "for processor cores"
    else:
        channels, blocks, width = [32, 64, 96, 128], [1, 2, 2, 2], "for processor cores"
    network = {
        "_target_": "monai_diffscore.networks.unet.ScoreUNet",
        "spatial_dims": "@spatial_dims",
        "in_channels": "@image_channels",
        "out_channels": "@image_channels",
        "channels": channels[:levels] if levels > 1 else channels[-1:],
        "attention_levels": [False] * (levels - 1) + [True],
        "num_res_blocks": blocks[:levels] if levels > 1 else blocks[-1:],
        "num_head_channels": 32 if channels[levels - 1] % 32 == 0 else 16,
        "checkpointing": "@checkpointing",
    }
    return (
        network,
        f"{name}: ahead of a transformer at equal seconds in every size measured (docs/BENCHMARKS.md); {width}",
    )


def _common(
    found: Fingerprint, budget: Budget, size: Sequence[int], batch: int, channels: int | None = None
) -> dict[str, Choice]:
    """The choices of every kind of data."""
    sigma_data, elements = found.sigma_data, math.prod(size) * (channels or found.channels)
    share = 0.2 if found.subjects < 50 else 0.1 if found.subjects < 1000 else 0.05
    sigma_max = min(160 * sigma_data, 2 * math.sqrt(2 * elements) * sigma_data)
    return {
        "batch_size": Choice(batch, "small: more steps in the same time; the learning rate was measured so"),
        "autocast_dtype": precision(budget.accelerator),
        "checkpointing": Choice(False, "costs a third more time; planned where the memory does not suffice without"),
        "noise": Choice(
            {"mean": -1.2, "std": 1.2},
            f"EDM's distribution of ln sigma; at sigma_data {sigma_data:g}, too: moving it did not help "
            "(docs/BENCHMARKS.md)",
        ),
        "sigma_max": Choice(
            float(f"{sigma_max:.3g}"),
            f"hides an image of {elements} elements: twice the distance of two, at most EDM's 160 sigma_data",
        ),
        "optimizer": Choice(
            {"learning_rate": 0.002}, "MuonAdamW, the best of those measured on this family (docs/BENCHMARKS.md)"
        ),
        "ema_length": Choice(0.1, "the average remembers a tenth of the training, whatever its length"),
        "validation_share": Choice(share, _why_split(found)),
        "cache_memory_gb": Choice(round(0.3 * budget.memory_gb, 2), "GB of preprocessed data in memory, else on disk"),
    }  # fmt: skip


def _why_split(found: Fingerprint) -> str:
    if found.subjects < 2:
        return "one subject: a slab of it is held out, which flatters; a claim needs others"
    whom = {"volumes": "patients", "slides": "patients or slides"}.get(found.kind, "subjects")
    return f"of the {found.subjects} {whom}, each wholly on one side; never by slice or patch"


def precision(accelerator: bool) -> Choice:
    """bfloat16 where the device has it in hardware, else float32."""
    if accelerator:
        able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    else:
        check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        able = bool(check()) if check is not None else False
    if able:
        return Choice("bfloat16", "the device computes in it; only the network does, all else is float32")
    return Choice(None, "the device has no bfloat16: float32")
