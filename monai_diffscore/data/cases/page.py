"""Describes cases for people: the role of each file, the files that are left out, and the held-out subjects."""

from __future__ import annotations

import os

from monai_diffscore.data.cases.case import CONTRAST, Case, Cases, counts_text
from monai_diffscore.data.cases.leakage import leaks
from monai_diffscore.data.volumes import split_by_subject

_ROWS = 40


def describe_cases(cases: Cases, image: str = "", validation_share: float | None = None) -> str:
    """The page: one line on the layout, the table, one line for each reason to leave files out.

    Args:
        cases: to describe.
        image: roles, for :meth:`Cases.images`.
        validation_share: adds the subjects that a training with this share holds out, and the leaks; None adds nothing.
    Raises:
        DataError: for unknown roles.
    """
    sessions = len({(case.subject, case.session) for case in cases})
    lines = [
        f"{cases.root}: layout {cases.layout}; {len(cases.subjects)} subjects, {sessions} sessions, "
        f"{sum(len(case.images) for case in cases)} images",
        *(f"note: {note}" for note in cases.notes),
        "",
        *_table(cases),
        "",
        f"images: {counts_text(cases.roles) or 'none'}",
    ]
    if cases.masks:
        lines.append(f"masks: {counts_text(cases.masks)}")
    for reason, count in cases.reasons.items():
        first = next(one.path for one in cases.left_out if one.reason == reason)
        lines.append(f"left out: {count} x {reason} (first: {_inside(cases, first)})")
    if image:
        items = cases.images(image)
        lines.append(f"--image {image}: {len(items)} images of {len({item['subject'] for item in items})} subjects")
    elif len(cases.roles) > 1:
        lines.append("choose: --image ROLE takes one of them, --image ROLE,ROLE several as channels of one image")
    if validation_share is not None:
        lines += _split(cases, image, validation_share)
    return "\n".join(lines)


def _table(cases: Cases) -> list[str]:
    rows = [["subject", "session", "images", "masks", "facts"]]
    rows += [_row(cases, case) for case in list(cases)[:_ROWS]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines + ([f"... and {len(cases) - _ROWS} more"] if len(cases) > _ROWS else [])


def _row(cases: Cases, case: Case) -> list[str]:
    images = ", ".join(f"{name}={_inside(cases, path)}" for name, path in case.images.items())
    facts = ", ".join(f"{name}={value}" for name, value in case.facts.items())
    return [case.subject, case.session, images, ", ".join(case.masks), facts]


def _inside(cases: Cases, path: str) -> str:
    """The path below the folder of the cases, or the whole path of a file elsewhere."""
    root, place = os.path.abspath(cases.root), os.path.abspath(path)
    top = os.path.dirname(root) if os.path.isfile(root) else root
    return os.path.relpath(place, top) if os.path.commonpath([place, top]) == top else place


def _split(cases: Cases, image: str, share: float) -> list[str]:
    if not cases:
        return ["held out: none"]
    items = cases.images(image, conditions=() if image else [CONTRAST])  # no choice of a role changes the subjects
    train, held_out = split_by_subject(items, share)
    if len(cases.subjects) == 1:
        return [f"held out: a slab of each image of {cases.subjects[0]}, the only subject"]
    names = sorted({item["subject"] for item in held_out})
    lines = [f"held out: {', '.join(names)} ({len(held_out)} of {len(items)} images)"]
    pairs = leaks(train, held_out)
    return lines + [f"leak: {leak}" for leak in pairs] + ([] if pairs else ["leaks: none"])
