"""The images and label maps beside the targets of a translation: how many cases have each, their grids and shifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Orientation

from monai_diffscore.data.label_maps import Classes, class_text
from monai_diffscore.data.pairs import LoadGivend
from monai_diffscore.data.volumes import LoadVolumed
from monai_diffscore.errors import DataError
from monai_diffscore.planning.fingerprint import Problem


def survey_given(
    root: Path,
    cases: Sequence[Mapping[str, Any]],
    roles: Sequence[str],
    classes: Mapping[str, Classes],
    dicom: Mapping[str, Any],
) -> tuple[list[str], list[Problem]]:
    """One line for each role, and a problem for each image that a training cannot read.

    Args:
        root: of the data.
        cases: of :meth:`~monai_diffscore.data.cases.Cases.pairs`, with readable targets.
        roles: of the other images and label maps.
        classes: of the label maps.
        dicom: options of :class:`~monai_diffscore.data.LoadVolumed`.
    Raises:
        DataError: if no case has a readable image of a role.
    """
    load_target, upright = LoadVolumed("image", dicom=dicom), Orientation(axcodes="RAS", labels=None)
    loaders = [LoadGivend("given", roles=[role], classes=classes, dicom=dicom) for role in roles]
    shifts: dict[str, list[float]] = {role: [] for role in roles}
    resampled = dict.fromkeys(roles, 0)
    problems: list[Problem] = []
    for case in cases:
        image = upright(load_target({"image": case["image"]})["image"])
        for role, path, load in zip(roles, case["given"], loaders, strict=True):
            if path is None:
                continue
            try:
                meta = load({"image": image, "given": [path]})["given"].meta
            except DataError as error:
                source = Path(error.parts["source"])
                inside = root in source.parents
                problems.append(Problem.of(error, source.relative_to(root) if inside else source, left_out=inside))
                continue
            shifts[role].append(float(meta["misregistration_mm"][0]))
            resampled[role] += int(meta["resampled"][0])
    empty = [role for role in roles if not shifts[role]]
    if empty:
        got = f"none; {problems[0].file}: {problems[0].got}" if problems else "none beside a target"
        raise DataError(
            root, key="given", expected=f"a readable image of {', '.join(empty)} in a case with the target", got=got,
            remedy="Leave the role out of --given and --mask, or add its images.",
        )  # fmt: skip
    tolerance = loaders[0].tolerance_mm
    lines = [_line(role, len(cases), resampled[role], shifts[role], tolerance) for role in roles]
    return [
        f"{line}, a label map of the classes {class_text(classes[role])}" if role in classes else line
        for role, line in zip(roles, lines, strict=True)
    ], problems


def _line(role: str, cases: int, resampled: int, shifts: Sequence[float], tolerance_mm: float) -> str:
    far = [shift for shift in shifts if shift > tolerance_mm]
    parts = [f"{role} in {len(shifts)} of {cases} cases"]
    if resampled:
        parts.append(f"{resampled} on another grid, resampled to that of the target")
    if far:
        parts.append(f"{len(far)} shifted by more than {tolerance_mm:g} mm, at most {max(far):.1f} mm: register them")
    return ", ".join(parts)
