"""Fits a plan to its budget: trials measure it, and steps in a fixed order make it smaller."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from monai_diffscore.errors import DataError
from monai_diffscore.planning.bundle import write_bundle
from monai_diffscore.planning.plan import Plan
from monai_diffscore.planning.trial import Trial, estimate, run_trial

#: largest estimated share of the memory; largest relative error of the estimate of a peak
SAFE_SHARE, TOLERANCE = 0.9, 0.15
#: a training of fewer iterations learns little; smaller batches give more iterations
FEW_ITERATIONS = 1000
_ROUNDS = 8

TryBatch = Callable[[Plan, int, bool], Trial]


def try_bundle(plan: Plan, batch_size: int, validate: bool) -> Trial:
    """A trial of the bundle of a plan at a batch size, with a validation or without."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "trial"
        write_bundle(plan, bundle)
        return run_trial(bundle, {"batch_size": batch_size}, validate=validate)


def fit_plan(
    plan: Plan, adapt: bool = True, try_batch: TryBatch = try_bundle, say: Callable[[str], None] = print
) -> Plan:
    """The plan whose real step fits the budget, with the measurement. The batch shrinks first.

    Args:
        plan: from the rules, or edited by hand.
        adapt: change choices that do not fit. False only measures, for a plan edited by hand.
        try_batch: runs a trial, with a validation or without.
        say: receives a line before each trial.
    Raises:
        DataError: if the smallest plan does not fit.
    """
    for _ in range(_ROUNDS):
        planned = plan["batch_size"]
        low, high = max(1, planned // 4), max(1, planned // 2)
        say(f"trying batches of {low} and {high}")
        first = try_batch(plan, low, False)
        second = try_batch(plan, high, False) if high != low else first
        batch = _batch_that_fits(plan, first, second) if adapt else planned
        if batch < 1:
            plan = smaller(plan)
            continue
        plan = _with_batch(plan, batch)
        memory, seconds = estimate(first, second, batch)
        say(f"trying the planned batch of {batch}: {memory:.2f} GB and {seconds:.2g} s an iteration estimated")
        final = try_batch(plan, batch, True)
        if adapt and abs(final.memory_gb - memory) > TOLERANCE * final.memory_gb:
            # the estimate was wrong: this trial is a better point of the line
            first, second = (first, final) if final.batch_size != first.batch_size else (final, final)
            memory = final.memory_gb
        if adapt and final.memory_gb > plan.budget.memory_gb:
            plan = _with_batch(plan, max(1, batch // 2)) if batch > 1 else smaller(plan)
            continue
        return scheduled(plan, final, memory, seconds)
    raise DataError(
        plan.data,
        expected=f"a training in {plan.budget.memory_gb:g} GB",
        got=f"{first.memory_gb:.2f} GB for the smallest trial",
        remedy="Raise --memory-gb: the libraries alone take about 1 GB.",
    )


def _batch_that_fits(plan: Plan, first: Trial, second: Trial) -> int:
    """The planned batch, halved until it fits the memory, and the time if possible; 0 if none fits."""
    batch = plan["batch_size"]
    while batch >= 1 and estimate(first, second, batch)[0] > SAFE_SHARE * plan.budget.memory_gb:
        batch //= 2
    while batch > 2 and 60 * plan.budget.minutes / estimate(first, second, batch)[1] < FEW_ITERATIONS:
        faster = estimate(first, second, batch // 2)[1] < 0.75 * estimate(first, second, batch)[1]
        if not faster:
            break
        batch //= 2
    return batch


def _with_first_stage(plan: Plan, trial: Trial) -> tuple[Plan, float]:
    """The plan with at most half of the minutes for a first stage, and the seconds of that stage."""
    planned = plan.get("first_stage_epochs")
    if planned is None:
        return plan, 0.0
    epochs = max(1, min(planned, int(0.5 * 60 * plan.budget.minutes / trial.first_stage_seconds)))
    seconds = epochs * trial.first_stage_seconds
    reason = f"of {trial.first_stage_seconds:.3g} s: {seconds / 60:.2g} of the {plan.budget.minutes:g} minutes"
    if epochs < planned:
        reason += f", half of them; the rules have {planned}"
    return plan.with_choices(first_stage_epochs=(epochs, reason)), seconds


def _with_batch(plan: Plan, batch: int) -> Plan:
    if batch == plan["batch_size"]:
        return plan
    planned = plan["batch_size"]
    return plan.with_choices(batch_size=(batch, f"the rules have {planned}; memory and time allow this"))


def smaller(plan: Plan) -> Plan:
    """The plan with less memory: recomputed activations first, then smaller patches, then a narrower network.

    Raises:
        DataError: if the plan is already the smallest.
    """
    if not plan["checkpointing"]:
        return plan.with_choices(checkpointing=(True, "memory runs out without it; it takes a third more time"))
    for name in ("patch_size", "image_size", "window_size"):
        size = plan.get(name)
        if size is not None and max(size) > 16:
            axis = size.index(max(size))
            halved = [max(16, 8 * (side // 16)) if at == axis else side for at, side in enumerate(size)]
            return plan.with_choices(**{name: (halved, "halved along its longest axis: memory runs out with more")})
    if plan.whole and min(plan["coarse_channels"]) > 16:  # attention has heads of 32 channels
        coarse = [width // 2 for width in plan["coarse_channels"]]
        details = [[width // 2 for width in widths] for widths in plan["detail_channels"]]
        why = "half as wide: memory runs out with more"
        return plan.with_choices(coarse_channels=(coarse, why), detail_channels=(details, why))
    network = plan.get("network", {})
    if "channels" in network and network["channels"][0] > 8:
        narrow = {**network, "channels": [width // 2 for width in network["channels"]], "num_head_channels": 16}
        return plan.with_choices(network=(narrow, "half as wide: memory runs out with more"))
    raise DataError(
        plan.data, expected=f"a training in {plan.budget.memory_gb:g} GB",
        got="more for the smallest plan",
        remedy="Raise --memory-gb: the libraries alone take about 1 GB.",
    )  # fmt: skip


def scheduled(plan: Plan, trial: Trial, memory_gb: float, seconds: float) -> Plan:
    """The plan with its length: iterations in the minutes that the first stage and the validations leave."""
    validations = 10
    plan, first_stage = _with_first_stage(plan, trial)
    remaining = 60 * plan.budget.minutes - first_stage
    free = max(0.5 * remaining, remaining - (validations + 1) * trial.validation_seconds)
    iterations = max(1, int(free / trial.seconds))
    epochs = max(1, math.ceil(iterations / max(1, trial.epoch_length)))
    plan = plan.with_choices(
        max_epochs=(epochs, f"{iterations} iterations of {trial.seconds:.3g} s, {trial.epoch_length} an epoch"),
        val_interval=(max(1, epochs // validations), f"epochs: about {validations} validations in all"),
        save_every=(max(10, min(1000, int(120 / trial.seconds))), "iterations: a checkpoint about every two minutes"),
        gallery_every=(max(1, iterations // 4), "iterations: four galleries in all"),
        time_limit_seconds=(60 * plan.budget.minutes, "the minutes of the budget, in case the machine is slower"),
    )
    return replace(
        plan,
        measured={
            "memory_gb": round(trial.memory_gb, 4),
            "estimated_memory_gb": round(memory_gb, 4),
            "seconds_per_iteration": float(f"{trial.seconds:.4g}"),
            "estimated_seconds_per_iteration": float(f"{seconds:.4g}"),
            "validation_seconds": round(trial.validation_seconds, 3),
            "iterations": iterations,
            "epoch_length": trial.epoch_length,
            "first_stage_seconds": round(first_stage, 1),
            "parameters": trial.parameters,
        },
    )
