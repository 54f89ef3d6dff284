r"""Fingerprint to plan: the rules, one function a kind of data.

=====================================================  ==================================================
data                                                   network
=====================================================  ==================================================
volumes of many subjects                               U-Nets of the scales of a whole volume
volumes with --given or --mask                         3-D U-Net with the other images as channels
volumes with --mask and --joint                        3-D U-Net of the image and the classes as channels
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

Noise levels. Training draws ln sigma from EDM's distribution, mean -1.2 and standard deviation 1.2 (Karras et al. 2022,
arXiv:2206.00364, Table 1), for every sigma_data: moving it with ln sigma_data was no better (docs/BENCHMARKS.md).
Sampling starts at a level that hides every image. Song and Ermon (2020, arXiv:2006.09011, Technique 1) take the largest
distance between two images. The rules take :math:`2\sqrt{2N}\,\sigma_{data}`, twice the root mean square distance of
images of N independent elements, and at most EDM's 80 at sigma_data 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_diffscore.composing import network_of
from monai_diffscore.data.label_maps import class_text
from monai_diffscore.data.labelled_images import joint_channels
from monai_diffscore.errors import DataError
from monai_diffscore.planning.arrays import SHORTEST
from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.gene_rules import plan_cells, plan_expression, plan_table
from monai_diffscore.planning.plan import Budget, Choice, Plan
from monai_diffscore.planning.whole import whole_or_patches

#: voxels along the edge of a 3-D patch, and pixels along that of a 2-D image
PATCH_EDGE = {False: 32, True: 64}
PICTURE_EDGE = {False: 64, True: 128}
#: a volume whose slices are this many times as thick as a pixel is wide is trained as slices
THICK = 3.0
#: images, subjects and core minutes from which the rules plan a transformer, which starts more slowly
MANY_PICTURES, MANY_SUBJECTS, MUCH_COMPUTE = 10_000, 200, 5_000
#: share of a volume that a patch should show, as in nnU-Net (Isensee et al. 2021); factors of spacing tried for it
PATCH_SHARE, COARSER = 0.25, (1.0, 1.25, 1.5, 2.0)


def make_plan(fingerprint: Fingerprint, budget: Budget, graph: str | None = None, model: str | None = None) -> Plan:
    """The plan for a data set within a budget. Time and memory are estimates until a trial measures them.

    Args:
        fingerprint: that of the data.
        budget: memory and time of the training.
        graph: absolute path of the edges between genes, for expression matrices.
        model: "whole" or "patches" of volumes, whatever the rules propose.
    Raises:
        DataError: if no rule fits the data; for a model of what is no volume of many slices.
    """
    rules: dict[str, Callable[[Fingerprint, Budget], Plan]] = {
        "volumes": lambda fingerprint, limits: plan_volumes(fingerprint, limits, model),
        "pictures": plan_pictures,
        "slides": plan_slides,
        "sequences": plan_sequences,
        "cells": plan_cells,
        "expression": lambda fingerprint, limits: plan_expression(fingerprint, limits, graph),
        "table": plan_table,
    }
    if model is not None and fingerprint.kind != "volumes":
        raise DataError(
            fingerprint.data, key=model, expected="volumes", got=fingerprint.kind, remedy=f"Leave --{model} out."
        )
    return rules[fingerprint.kind](fingerprint, budget)


def plan_volumes(fingerprint: Fingerprint, budget: Budget, model: str | None = None) -> Plan:
    """The plan for volumes: whole volumes, 3-D patches, or 2-D patches of thick slices; ``model`` as of make_plan."""
    assert fingerprint.spacing_mm is not None
    native = fingerprint.spacing_mm["median"]
    flat = fingerprint.modality == "CT" and max(native) / min(native) >= THICK and native.index(max(native)) == 2
    thin = fingerprint.foreground_sizes["median"][2] < 8
    slices = flat or thin
    given, joint = fingerprint.details.get("given", []), fingerprint.details.get("joint", False)
    if given:
        _refuse_given(fingerprint, slices, model)
    axes = (0, 1) if slices else (0, 1, 2)
    edge = 3 * PATCH_EDGE[budget.accelerator] if slices else PATCH_EDGE[budget.accelerator]
    coarser = COARSER[:1] if given and not joint else COARSER
    spacing, patch, why_spacing = _spacing_and_patch(fingerprint, axes, edge, coarser)
    large = not slices and not given and fingerprint.subjects >= MANY_SUBJECTS and budget.compute >= MUCH_COMPUTE
    if large:
        network = {**network_of("mri_dit3d"), "input_size": patch}
        why = f"{fingerprint.subjects} subjects and {budget.minutes:g} minutes: enough for a transformer to learn what "
        why += "a convolution has built in"
    else:
        network, why = _unet(budget, patch, "3-D U-Net" if not slices else "2-D U-Net of slices")
        why += f"; a transformer is planned from {MANY_SUBJECTS} subjects and {MUCH_COMPUTE} core minutes"
    volumes = "ct_unet3d" if fingerprint.modality == "CT" else "mri_dit3d" if large else "mri_unet3d"
    with_given = "mri_labelled3d" if joint else "mri_translate3d"
    template = "ct_unet2d" if slices else with_given if given else volumes
    classes = fingerprint.details["classes"] if joint else {}
    channels = joint_channels(classes) if joint else fingerprint.channels
    reason = "thick slices: an anatomy changes more from one to the next than a 3-D kernel can follow" if flat else ""
    reason = "fewer than 8 slices" if thin else reason
    training = max(1, round(0.8 * fingerprint.cases))
    choices = {
        "network": Choice(network, f"{why}{'; ' + reason if reason else ''}"),
        "spacing_mm": Choice(spacing, why_spacing),
        "patch_size": Choice(
            patch, f"about {edge} voxels a side, of equal length in mm along all axes, a multiple of 8"
        ),
        "normalisation": _normalisation(fingerprint),
        "patches_per_volume": Choice(max(2, math.ceil(128 / training)), "an epoch has at least about 128 patches"),
        **_common(fingerprint, budget, patch, 8 if budget.accelerator else 4, channels),
    }
    if joint:
        network |= dict.fromkeys(("in_channels", "out_channels"), "@joint_channels")
        text = class_text(classes[given[0]])
        choices["mask"] = Choice(given[0], f"each of its classes {text} is a channel, -1 or 1, beside the image")
    elif given:
        choices["given_dropout"] = Choice(
            0.5, f"one model for each subset of {', '.join(given)}, which a training sees equally often"
        )
    plan = Plan.of(fingerprint, budget, template, choices)
    if given:
        return plan
    if not slices:
        return whole_or_patches(plan, fingerprint, budget, model)
    if model == "whole":
        raise DataError(
            fingerprint.data, key="whole", expected="volumes of at least 8 slices that are not thick",
            got=f"voxels of {native} mm, {fingerprint.foreground_sizes['median'][2]} slices",
            remedy="Leave --whole out: slices are planned.",
        )  # fmt: skip
    return plan


def _refuse_given(fingerprint: Fingerprint, slices: bool, model: str | None) -> None:
    """Raises a DataError for a model with other images or label maps that no bundle has."""
    if model == "whole":
        got, remedy = "--whole", "Leave --whole out."
    elif slices:
        got, remedy = "thick or few slices", "Leave --given, --mask and --joint out, or choose another --image."
    else:
        return
    raise DataError(
        fingerprint.data, key="given", expected="targets of at least 8 slices, and a model of patches", got=got,
        remedy=remedy,
    )  # fmt: skip


def _spacing_and_patch(
    fingerprint: Fingerprint, axes: Sequence[int], edge: int, coarser: Sequence[float] = COARSER
) -> tuple[list[float], list[int], str]:
    assert fingerprint.spacing_mm is not None
    native = [fingerprint.spacing_mm["median"][axis] for axis in axes]
    sizes = [fingerprint.foreground_sizes["median"][axis] for axis in axes]
    for factor in coarser:
        spacing = [step * factor for step in native]
        patch = _patch(spacing, [size / factor for size in sizes], edge)
        share = math.prod(patch) / max(1.0, math.prod(size / factor for size in sizes))
        if share >= PATCH_SHARE:
            break
    lengths = "the median of the data" if factor == 1 else f"the median of the data, {factor:g} times as coarse"
    several = fingerprint.spacing_mm["min"] != fingerprint.spacing_mm["max"]
    if len(coarser) == 1:
        reason = f"{lengths}: the other images show each patch its surroundings in detail"
    else:
        reason = f"{lengths}, so that a patch shows {min(share, 1):.0%} of a volume (a quarter is wanted"
        reason += ", at most twice as coarse)" if factor == coarser[-1] else ")"
    if several:
        reason += (
            f"; files from {fingerprint.spacing_mm['min']} to {fingerprint.spacing_mm['max']} mm are resampled to it"
        )
    return [float(f"{step:.4g}") for step in spacing], patch, reason


def _patch(spacing: Sequence[float], sizes: Sequence[float], edge: int) -> list[int]:
    """Sides of a patch of edge^d voxels: equal lengths in mm, multiples of 8, at most the data (rounded up)."""
    length = edge * math.prod(spacing) ** (1 / len(spacing))
    equal = [max(8, 8 * round(length / step / 8)) for step in spacing]
    return [min(side, max(8, 8 * math.ceil(size / 8))) for side, size in zip(equal, sizes, strict=True)]


def _normalisation(fingerprint: Fingerprint) -> Choice:
    if fingerprint.modality == "CT":
        lowest, highest = fingerprint.percentiles["0"], fingerprint.percentiles["100"]
        share = "fixed units: the window keeps air, tissue and most bone, and inverts exactly to HU"
        return Choice({"window_hu": [-1000.0, 1000.0]}, f"{share}; values: {lowest:g} to {highest:g} HU")
    by_channel = ", each channel by itself" if fingerprint.channels > 1 else ""
    reason = f"intensities of {fingerprint.modality} have no unit: percentiles of each image{by_channel}"
    return Choice({"percentiles": [0.5, 99.5]}, reason)


def plan_pictures(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plan for pictures: whole pictures, or patches of a single picture."""
    alone = fingerprint.subjects < 2
    edge = PICTURE_EDGE[budget.accelerator]
    median = fingerprint.sizes["median"]
    if alone:
        rows, columns = median
        # the upper 30 % of the columns are held out and must contain a patch
        side = 8 * int(min(edge, rows, 0.3 * columns) // 8)
        size = [max(8, side)] * 2
        why_size = "one picture: patches of it, as large as fit into the 30 % of its columns that are held out"
    else:
        scale = min(1.0, edge / max(median))
        size = [_even(side * scale) for side in median]
        why_size = "the size of the pictures" if scale == 1 else f"the pictures, scaled to at most {edge} pixels a side"
    large = not alone and fingerprint.cases >= MANY_PICTURES
    if large:
        network = {**network_of("natural_dit2d"), "input_size": "@image_size"}
        network.pop("condition", None)
        why = f"{fingerprint.cases} images: a large set, for which a transformer scales best"
    else:
        network, why = _unet(budget, size, "2-D U-Net")
        why += f"; a transformer is planned from {MANY_PICTURES} images"
    fit = not alone and (not fingerprint.details["of_one_size"] or size != median)
    training = max(1, round(0.8 * fingerprint.cases))
    batch = 64 if math.prod(size) <= 256 else 16
    choices = {
        "network": Choice(network, why),
        "image_size": Choice(size, why_size),
        "fit": Choice(fit, "scaled until they cover the size, the centre kept" if fit else "no picture is scaled"),
        "patches_per_image": Choice(512 if alone else 0, "drawn at random in an epoch" if alone else "whole pictures"),
        "normalisation": Choice({"range": [0.0, 255.0]}, "brightness has a range: 0 to 255 to [-1, 1]"),
        **_common(fingerprint, budget, size, batch if alone else min(batch, max(1, training // 2))),
    }
    return Plan.of(fingerprint, budget, "natural_dit2d", choices)


def _even(side: float) -> int:
    """The largest multiple of 8 (of 2 below 32) up to ``side``."""
    step = 8 if side >= 32 else 2
    return max(step, step * int(side // step))


def plan_slides(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plan for slides: tiles of tissue with their low-power surroundings."""
    finest = fingerprint.details["mpp_um"][1]
    mpp = max(0.5, finest)
    tile = PICTURE_EDGE[budget.accelerator]
    while tile > 32 and min(fingerprint.sizes["median"]) * finest / mpp < 3 * tile:
        tile //= 2
    tiles = (
        fingerprint.cases
        * math.prod(fingerprint.sizes["median"])
        * (finest / mpp / tile) ** 2
        * fingerprint.foreground_share
    )
    stride = tile if tiles >= 256 else max(8, tile // 8)
    network = network_of("pathology_hierarchical_unet")
    overlap = "" if stride == tile else ": few, so they overlap"
    choices = {
        "network": Choice(network, "whole slides: a hierarchical U-Net that sees each tile and its surroundings"),
        "mpp_um": Choice(mpp, f"0.5 um (20x), or the coarsest slide's ({finest:g} um), which every slide has"),
        "tile_size": Choice(tile, "pixels a side: a multiple of 32, at most a third of a slide"),
        "stride": Choice(stride, f"about {tiles:.0f} tiles side by side{overlap}"),
        "normalisation": Choice({"range": [0.0, 255.0]}, "exactly invertible; augmentation varies the stains"),
        **_common(fingerprint, budget, [tile, tile], 16 if budget.accelerator else 8, channels=3),
    }  # fmt: skip
    del choices["cache_memory_gb"]  # tiles are read from the slides
    return Plan.of(fingerprint, budget, "pathology_hierarchical_unet", choices)


def plan_sequences(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plan for sequences: windows of them."""
    length = fingerprint.sizes["min"][0]
    room = 0.3 * length if fingerprint.subjects < 2 else length
    if room < SHORTEST:
        raise DataError(
            fingerprint.data, expected=f"two subjects, or one of at least {math.ceil(SHORTEST / 0.3)} points, of which "
            "30 % are held out", got=f"one subject of {length} points",
            remedy="Add sequences of another subject, or longer ones.",
        )  # fmt: skip
    window = 8 * int(min(1024 if budget.accelerator else 256, room) // 8)
    p = fingerprint.percentiles
    heavy = (p["100"] - p["0"]) > 5 * (p["99.5"] - p["0.5"])
    limits, why = [0.0, 100.0], "the range of each sequence"
    if heavy:
        limits, why = [0.5, 99.5], "a few values are outliers"
    training = max(1, round(0.8 * fingerprint.cases))
    choices = {
        "network": Choice(network_of("signal_dit1d"), "sequences: a 1-D transformer over patches of 8 points"),
        "window_size": Choice([window], f"the shortest sequence has {length} points; a multiple of 8"),
        "normalisation": Choice({"percentiles": limits}, why),
        "windows_per_sequence": Choice(max(2, math.ceil(1024 / training)), "an epoch has at least about 1024 windows"),
        **_common(fingerprint, budget, [window], 32),
    }  # fmt: skip
    return Plan.of(fingerprint, budget, "signal_dit1d", choices)


def _unet(budget: Budget, size: Sequence[int], name: str) -> tuple[dict[str, Any], str]:
    """A U-Net whose coarsest grid is even, with the width that the budget allows."""
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
    fingerprint: Fingerprint, budget: Budget, size: Sequence[int], batch: int, channels: int | None = None
) -> dict[str, Choice]:
    """The choices that all kinds of images have."""
    sigma_data, elements = fingerprint.sigma_data, math.prod(size) * (channels or fingerprint.channels)
    share = 0.2 if fingerprint.subjects < 50 else 0.1 if fingerprint.subjects < 1000 else 0.05
    sigma_max = min(160 * sigma_data, 2 * math.sqrt(2 * elements) * sigma_data)
    return {
        "batch_size": Choice(batch, "small: more steps in the same time; the learning rate is measured at this size"),
        "autocast_dtype": precision(budget.accelerator),
        "checkpointing": Choice(False, "costs a third more time; planned only where memory runs out"),
        "noise": Choice(
            {"mean": -1.2, "std": 1.2},
            f"EDM's distribution of ln sigma, at sigma_data {sigma_data:g} too: moving it does not help "
            "(docs/BENCHMARKS.md)",
        ),
        "sigma_max": Choice(
            float(f"{sigma_max:.3g}"),
            f"hides an image of {elements} elements: twice the distance of two images, at most EDM's 160 sigma_data",
        ),
        "optimizer": Choice(
            {"learning_rate": 0.002}, "MuonAdamW, the best optimizer measured on this family (docs/BENCHMARKS.md)"
        ),
        "ema_length": Choice(0.1, "the average remembers a tenth of the training, whatever its length"),
        "validation_share": Choice(share, _why_split(fingerprint)),
        "cache_memory_gb": Choice(round(0.3 * budget.memory_gb, 2), "GB of preprocessed data in memory, else on disk"),
    }  # fmt: skip


def _why_split(fingerprint: Fingerprint) -> str:
    if fingerprint.subjects < 2:
        return "one subject: a slab of it is held out, and the result flatters; a claim needs other subjects"
    whom = {"volumes": "patients", "slides": "patients or slides"}.get(fingerprint.kind, "subjects")
    return f"of the {fingerprint.subjects} {whom}, each wholly on one side; never by slice or patch"


def precision(accelerator: bool) -> Choice:
    """bfloat16 where the device has it in hardware, else None for float32."""
    if accelerator:
        bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    else:
        check = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        bfloat16 = bool(check()) if check is not None else False
    if bfloat16:
        return Choice("bfloat16", "the device computes in it; the network uses it, everything else is float32")
    return Choice(None, "the device has no bfloat16: float32")
