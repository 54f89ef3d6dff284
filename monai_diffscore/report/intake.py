"""The data of a training: its subjects and cases, and leaks between both sides of its split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from monai_diffscore.data.cases.case import counts_text
from monai_diffscore.data.cases.leakage import NEAR_BYTES, leaks, may_read_voxels
from monai_diffscore.data.intake import intake_lines
from monai_diffscore.report.runs import RunRecord, run_parser
from monai_diffscore.report.sources import Material


@dataclass(frozen=True)
class RunIntake:
    """The first facts of a report.

    Args:
        lines: subjects and cases of the training, held-out subjects and cases, and skipped files.
        leaks: pairs of images, one on each side, that make the held-out numbers too good.
    """

    lines: tuple[str, ...]
    leaks: tuple[str, ...] = ()

    def added_to(self, material: Material) -> Material:
        """The material with these facts and warnings."""
        warnings = [f"Leak: {leak}." for leak in self.leaks]
        return replace(
            material,
            facts={**material.facts, "taken in": "; ".join(self.lines)},
            warnings=[*warnings, *material.warnings],
        )


def read_intake(record: RunRecord | None) -> RunIntake | None:
    """Lists the data of a run again; None without its configuration or its data.

    Images are compared by content, and by voxels too if their files have at most ``NEAR_BYTES``.
    """
    if record is None or record.config is None:
        return None
    parser = run_parser(record)
    if "intake" not in parser or not Path(str(parser.get_parsed_content("dataset_dir"))).exists():
        return None
    train, held_out = parser.get_parsed_content("cases")
    lines = intake_lines(parser.get_parsed_content("intake"), parser.get_parsed_content("dataset_dir"), held_out)
    if "listing" not in parser:
        return RunIntake(tuple(lines))
    listing = parser.get_parsed_content("listing")
    image = parser.get_parsed_content("image") if "image" in parser else ""
    roles = {
        role: count for role, count in listing.roles.items() if not image or role in image.replace(",", " ").split()
    }
    lines.append(f"files: layout {listing.layout}, images {counts_text(roles)}")
    near = may_read_voxels(train, held_out)
    limit = f"content alone (more than {NEAR_BYTES / 2**30:g} GiB: `check BUNDLE --leaks voxels` reads them)"
    compared = "content and voxels" if near else limit
    pairs = tuple(str(leak) for leak in leaks(train, held_out, near=near))
    return RunIntake((*lines, f"leaks: {len(pairs) or 'none'} (by subject, {compared})"), pairs)
