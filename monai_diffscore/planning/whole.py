r"""The plan for whole volumes, and the choice between it and the plan for patches.

A patch has many windows a volume, so a model of patches learns from one subject; it learns texture and no anatomy. A
model of whole volumes sees one anatomy a subject. The rules propose it if

- there are at least :data:`SUBJECTS` subjects. This is a choice, not a measured optimum: 24 to train, 6 to hold out;
- a patch shows less than a volume. A patch of the size of a volume makes a model of whole volumes anyway;
- the fields of view are alike, because nothing registers the volumes: along each axis the largest is at most
  :data:`ALIKE` times the median;
- the voxels that time and memory allow are at most :data:`COARSEST` times as wide as the median of the data.

The :class:`~monai_diffscore.pyramid.Pyramid` has J scales, so that the coarse image has about 32 voxels a side,

.. math::  J = \mathrm{round} \log_2 (N^{1/3} / 32), \qquad 1 \le J \le 4 ,

for N voxels: 1 for 64^3, 2 for 128^3, 3 for 256^3, 4 for 512^3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from monai_diffscore.composing import compose
from monai_diffscore.errors import DataError
from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.plan import Budget, Choice, Plan

SUBJECTS, ALIKE, COARSEST = 30, 1.5, 4.0
#: voxels a side: of the coarse image, of the largest volume on a processor and an accelerator
COARSE_EDGE, VOLUME_EDGE = 32, {False: 128, True: 512}
#: voxels a side of windows of details, by whether their scale is larger than the coarse image
WINDOW_EDGES = {False: 16, True: 24}
#: measured while a volume of 128^3 is drawn, in bfloat16 with 32 channels in the finest scale; share of the budget
BYTES_OF_A_VOXEL, SAMPLING_SHARE = 110, 0.5
_MOST_SCALES = 4


def whole_or_patches(patches: Plan, fingerprint: Fingerprint, budget: Budget, model: str | None = None) -> Plan:
    """The plan for whole volumes if the rules propose it, else that for patches; its choice ``model`` says why.

    Args:
        patches: the plan for patches, of three axes.
        fingerprint: of volumes.
        budget: memory and time of the training.
        model: "whole" or "patches", whatever the rules propose.
    Raises:
        DataError: for whole volumes of one subject.
    """
    reason = _why_patches(patches, fingerprint, budget)
    if model == "whole" and fingerprint.subjects < 2:
        raise DataError(
            fingerprint.data, key="whole", expected="at least two subjects, of whom one is held out",
            got=str(fingerprint.subjects), remedy="Leave --whole out: patches can be drawn from one volume.",
        )  # fmt: skip
    if model == "patches" or (reason and model is None):
        because = reason or "asked for by --patches; the rules propose whole volumes"
        return replace(patches, choices={"model": Choice("patches", because), **patches.choices})
    return _whole(patches, fingerprint, budget, f"asked for by --whole; {reason}" if reason else "")


def _why_patches(patches: Plan, fingerprint: Fingerprint, budget: Budget) -> str:
    """The first reason against whole volumes, empty without one."""
    subjects, patch_mm = fingerprint.subjects, _lengths(patches["patch_size"], patches["spacing_mm"])
    if subjects < SUBJECTS:
        return f"{subjects} subject(s): whole volumes are planned from {SUBJECTS}, one anatomy each (--whole)"
    extents = fingerprint.extents_mm
    if all(patch >= whole for patch, whole in zip(patch_mm, extents["median"], strict=True)):
        return f"a patch of {_mm(patch_mm)} shows a whole volume"
    if any(most > ALIKE * median for most, median in zip(extents["max"], extents["median"], strict=True)):
        spans = f"{_mm(extents['median'])} (median) and {_mm(extents['max'])} (largest)"
        return f"the fields of view differ, {spans}: whole volumes should show one region (--whole)"
    coarser = _spacing(fingerprint, budget)[1]
    if coarser > COARSEST:
        return f"whole volumes fit the budget with voxels {coarser:.1f} times as wide as the data's (--whole)"
    return ""


def _whole(patches: Plan, fingerprint: Fingerprint, budget: Budget, why: str) -> Plan:
    template = "ct_whole3d" if fingerprint.modality == "CT" else "mri_whole3d"
    shipped = compose(template)["train"]
    spacing, coarser = _spacing(fingerprint, budget)
    covered = _covered(fingerprint)
    scales = _scales([length / step for length, step in zip(covered, spacing, strict=True)])
    coarse = [_wide(width, budget) for width in shipped["coarse_channels"]]
    details = _by_scale(shipped["detail_channels"], scales)
    details = [[_wide(width, budget) for width in widths] for widths in details]
    multiple = 2 ** (scales + len(coarse) - 1)
    size = [multiple * math.ceil(length / step / multiple) for length, step in zip(covered, spacing, strict=True)]
    patch = _mm(_lengths(patches["patch_size"], patches["spacing_mm"]))
    why = why or f"{fingerprint.subjects} subjects of {_mm(covered)}: enough for one anatomy each (--patches)"
    left = " x ".join(str(side // 2**scales) for side in size)
    training = max(1, round(0.8 * fingerprint.cases))
    kept = ("normalisation", "batch_size", "autocast_dtype", "checkpointing", "optimizer", "ema_length",
            "validation_share", "cache_memory_gb")  # fmt: skip
    choices = {
        "model": Choice("whole", f"{why}; a patch shows {patch} and has no place in the body"),
        "spacing_mm": Choice(spacing, _why_spacing(coarser, budget)),
        "sample_size": Choice(size, _why_size(fingerprint, size, spacing, multiple)),
        "scales": Choice(scales, f"of details; the coarse image is {left}, about {COARSE_EDGE} voxels a side"),
        "coarse_channels": Choice(coarse, f"U-Net of the coarse image, as in {template}"),
        "detail_channels": Choice(details, "U-Nets of details, without attention, so they run in tiles"),
        "windows": Choice(_windows(size, scales), "voxels of each scale that train together, None: all of them"),
        "windows_per_volume": Choice(_by_scale(shipped["windows_per_volume"], scales + 1), f"as in {template}"),
        "coarse_noise": Choice(_by_scale(shipped["coarse_noise"], scales + 1), f"as in {template}"),
        "noise_mean": Choice(_by_scale(shipped["noise_mean"], scales + 1), f"of ln sigma, as in {template}"),
        "noise_std": Choice(_by_scale(shipped["noise_std"], scales + 1), f"of ln sigma, as in {template}"),
        "passes_per_epoch": Choice(max(1, math.ceil(128 / training)), "an epoch has at least about 128 volumes"),
        **{name: patches.choices[name] for name in kept},
    }
    conditions = fingerprint.conditions or fingerprint.offered
    if conditions:
        names = ", ".join(conditions["fields"])
        source = "asked for" if fingerprint.conditions else "columns of the table of subjects; --condition names others"
        choices["conditions"] = Choice(names, source)
    return replace(patches, template=template, choices=choices, conditions=conditions)


def _spacing(fingerprint: Fingerprint, budget: Budget) -> tuple[list[float], float]:
    """Edges of a voxel in mm, none finer than one edge t, and how many times as wide as the median they are.

    t is the smallest for which the volume has the voxels that time and memory allow.
    """
    assert fingerprint.spacing_mm is not None
    native, covered = fingerprint.spacing_mm["median"], _covered(fingerprint)
    finest_channels = _wide(32, budget)
    room = SAMPLING_SHARE * 1e9 * budget.memory_gb / (BYTES_OF_A_VOXEL * finest_channels / 32 * fingerprint.channels)
    most = min(room, VOLUME_EDGE[budget.accelerator] ** 3)
    edge, spacing = min(native), list(native)
    while math.prod(length / step for length, step in zip(covered, spacing, strict=True)) > most:
        edge *= 1.02
        spacing = [max(step, edge) for step in native]
    spacing = [float(f"{step:.3g}") for step in spacing]
    return spacing, math.prod(step / fine for step, fine in zip(spacing, native, strict=True)) ** (1 / 3)


def _covered(fingerprint: Fingerprint) -> list[float]:
    """Lengths in mm: those of the largest volume, but at most :data:`ALIKE` times the median."""
    extents = fingerprint.extents_mm
    return [min(most, ALIKE * median) for most, median in zip(extents["max"], extents["median"], strict=True)]


def _scales(voxels: Sequence[float]) -> int:
    """Number of scales of details of a volume with these sides, in voxels."""
    edge = math.prod(voxels) ** (1 / 3)
    return min(_MOST_SCALES, max(1, round(math.log2(edge / COARSE_EDGE))))


def _by_scale(values: Sequence[Any], count: int) -> list[Any]:
    """The first ``count`` values; the last one stands for all finer scales."""
    return [values[min(number, len(values) - 1)] for number in range(count)]


def _windows(size: Sequence[int], scales: int) -> list[list[int] | None]:
    """Of the coarse image, None, and of each scale of details: smaller where the scale has at most 32 voxels a side."""
    windows: list[list[int] | None] = [None]
    for halvings in range(scales, 0, -1):
        sides = [side // 2**halvings for side in size]
        edge = WINDOW_EDGES[max(sides) > COARSE_EDGE]
        windows.append([min(edge, side) for side in sides])
    return windows


def _wide(width: int, budget: Budget) -> int:
    return 2 * width if budget.accelerator else width


def _why_spacing(coarser: float, budget: Budget) -> str:
    if coarser <= 1:
        return "the median of the data"
    most = VOLUME_EDGE[budget.accelerator]
    return f"{coarser:.2g} times the median of the data, the finest for at most {most}^3 voxels in the memory"


def _why_size(fingerprint: Fingerprint, size: Sequence[int], spacing: Sequence[float], multiple: int) -> str:
    lengths, extents = _lengths(size, spacing), fingerprint.extents_mm
    cut = any(most > length for most, length in zip(extents["max"], lengths, strict=True))
    fate = "larger volumes are cropped around their middle" if cut else "it covers every volume, none is cropped"
    return f"{_mm(lengths)}, each side a multiple of {multiple}: {fate}, smaller ones are padded"


def _lengths(size: Sequence[int], spacing: Sequence[float]) -> list[float]:
    return [count * step for count, step in zip(size, spacing, strict=True)]


def _mm(lengths: Sequence[float]) -> str:
    return " x ".join(f"{length:.0f}" for length in lengths) + " mm"
