"""Counts of the data of a command: subjects and cases of the training, held-out ones, and skipped files.

Every training, calibration, report and task on cases prints them first, and the record of a training or a task keeps
them: the results of a model do not show that its files are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

#: subjects that a line names at most
_NAMES = 20


def count_intake(
    training: Sequence[Any] = (),
    held_out: Sequence[Any] = (),
    passed_over: Mapping[str, int] | None = None,
    task: Sequence[Any] = (),
) -> dict[str, Any]:
    """The counts of a split, or of the cases of a task, for the record.

    Args:
        training: cases trained on.
        held_out: cases held out. A case with a ``subject`` is one of that subject; others are their own.
        passed_over: how many files are not read, by reason.
        task: cases that a task works on.
    Returns:
        ``training_subjects``, ``training_cases``, ``validation_subjects``, ``validation_cases``,
        ``subjects_on_both_sides`` (one subject alone is cut into two slabs) and ``passed_over``; of a task
        ``task_subjects``, ``task_cases`` and ``passed_over``.
    """
    if task:
        subjects = len(_subjects(task) or task)
        return {"task_subjects": subjects, "task_cases": len(task), "passed_over": dict(passed_over or {})}
    names = [_subjects(cases) for cases in (training, held_out)]
    return {
        "training_subjects": len(names[0] or training),
        "training_cases": len(training),
        "validation_subjects": len(names[1] or held_out),
        "validation_cases": len(held_out),
        "subjects_on_both_sides": len(names[0] & names[1]),
        "passed_over": dict(passed_over or {}),
    }


def _subjects(cases: Sequence[Any]) -> set[str]:
    """The names of the subjects; none for cases that have no subject."""
    listed = isinstance(cases, list) and all(isinstance(case, Mapping) and "subject" in case for case in cases)
    return {str(case["subject"]) for case in cases} if listed else set()


def intake_lines(intake: Mapping[str, Any], source: object = "", held_out: Sequence[Any] = ()) -> list[str]:
    """The counts as lines for a terminal.

    Args:
        intake: from :func:`count_intake`.
        source: of the cases, named in front.
        held_out: cases whose subjects a line names, at most 20 of them.
    """
    parts = [
        f"{intake[f'{name}_subjects']} subject(s), {intake[f'{name}_cases']} case(s) {what}"
        for name, what in (("training", "trained on"), ("validation", "held out"), ("task", "to work on"))
        if intake.get(f"{name}_cases")
    ]
    first = f"data: {'; '.join(parts) or 'none'}" + (f" ({source})" if source else "")
    if intake.get("subjects_on_both_sides"):
        first += f"; {intake['subjects_on_both_sides']} subject(s) on both sides, cut into slabs"
    subjects = sorted(_subjects(held_out))
    more = f" and {len(subjects) - _NAMES} more" if len(subjects) > _NAMES else ""
    named = [f"held out: {', '.join(subjects[:_NAMES])}{more}"] if subjects else []
    skipped = [f"passed over: {count} x {reason}" for reason, count in intake["passed_over"].items()]
    return [first, *named, *skipped]


def report_intake(intake: Mapping[str, Any], source: object = "", held_out: Sequence[Any] = ()) -> None:
    """Prints :func:`intake_lines`, once in a training of several processes."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank()):
        print("\n".join(intake_lines(intake, source, held_out)), flush=True)
