r"""Arranges the planes of a series in space, and checks that they make a volume.

With the unit vectors r and c of ImageOrientationPatient (along a row and along a column), the spacing (s_c between
columns, s_r between rows) and the position p_k of plane k, voxel (i, j) of that plane lies at (PS3.3 C.7.6.2.1.1)

.. math::  x = p_k + i\,s_c\,r + j\,s_r\,c \quad \text{(LPS, mm)}.

Planes are ordered by their height :math:`h_k = p_k \cdot n` along the normal :math:`n = r \times c`, never by
InstanceNumber, and make a volume if :math:`p_k = p_0 + k\,d` with one step d, which is parallel to n unless the gantry
was tilted. The step comes from the positions; SliceThickness and SpacingBetweenSlices may differ from it.

An exporter may round positions to a unit u, such as 0.1 mm. Even slices then have the heights

.. math::  |h_k - h_0' - k s| \le \tfrac{u}{2} \lVert n \rVert_1 \quad \text{for one } h_0', s .

If such a step s exists and u is at most a fifth of it, the slices are even: no missing slice looks like this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from monai_diffscore.data.dicom.pixels import pixels_equal
from monai_diffscore.data.dicom.planes import Plane
from monai_diffscore.data.dicom.rules import ReadingRules
from monai_diffscore.errors import DataError

Array = NDArray[np.float64]
_SAME_PLACE = 0.05  # share of the usual step; closer planes have one position
_ROUNDING = 0.2  # unit of rounded positions at most, as a share of the step


@dataclass(frozen=True)
class Layout:
    """Planes in order along their normal.

    Args:
        planes: one for each position.
        heights_mm: [Z] along the normal, the first is 0.
        offsets_mm: [Z, 2] along a row and along a column, relative to the first plane; 0 without tilt.
        affine_lps: [4, 4] of indices (column, row, slice) to mm, by the mean step.
        tilt_degrees: angle between the step and the normal.
        has_gaps, is_tilted: whether the reader must resample the planes; true only if the rules allow it.
        repairs: the repairs so far, which the rules allow.
    """

    planes: tuple[Plane, ...]
    heights_mm: Array
    offsets_mm: Array
    affine_lps: Array
    tilt_degrees: float
    has_gaps: bool
    is_tilted: bool
    repairs: tuple[str, ...]


def arrange(source: object, planes: Sequence[Plane], rules: ReadingRules) -> Layout:
    """Arranges planes as a volume.

    Raises:
        DataError: for planes of different kinds, planes without position or unit, or planes that make no volume,
            unless the rules allow it.
    """
    _check_each(source, planes, rules)
    _check_alike(source, planes)
    row, column = np.reshape(np.array(planes[0].orientation), (2, 3))
    normal = np.cross(row, column)
    order = np.argsort([np.dot(p.position or (), normal) for p in planes], kind="stable")
    planes, repairs = _without_duplicates(source, [planes[k] for k in order], normal, rules)
    relative = np.array([p.position for p in planes], dtype=np.float64) - np.array(planes[0].position)
    heights, offsets = relative @ normal, relative @ np.stack([row, column], axis=1)
    rounding = _rounding_mm(planes, normal, heights)
    tilt, is_tilted = _check_tilt(source, heights, offsets, rounding, rules)
    has_gaps = rounding == 0 and _check_steps(source, heights, rules)
    if rounding and not _are_even(heights, rules):
        repairs.append(
            f"positions rounded to {rounding:g} mm: the slices are even, {heights[-1] / (len(planes) - 1):.4g} mm"
        )
    affine = np.eye(4)
    row_spacing, column_spacing = planes[0].spacing_mm or ()
    step = relative[-1] / (len(planes) - 1)
    affine[:3] = np.stack([row * column_spacing, column * row_spacing, step, np.array(planes[0].position)], axis=1)
    return Layout(tuple(planes), heights, offsets, affine, tilt, has_gaps, is_tilted, tuple(repairs))


def _check_each(source: object, planes: Sequence[Plane], rules: ReadingRules) -> None:
    for expected, is_wrong, got, remedy in _REQUIREMENTS:
        if wrong := [p for p in planes if is_wrong(p, rules)]:
            raise DataError(
                source,
                expected=expected,
                got=f"{got(wrong[0])} in {len(wrong)} of {len(planes)} images (first: {_name(wrong[0])})",
                remedy=remedy,
            )
    if len(planes) < 2:
        raise DataError(
            source,
            expected="at least 2 slices",
            got=f"1 image ({_name(planes[0])})",
            remedy="Point at the folder of the whole series instead of one file.",
        )


_Requirement = tuple[str, Callable[[Plane, ReadingRules], bool], Callable[[Plane], str], str]


def _lacks_rescale(plane: Plane, rules: ReadingRules) -> bool:
    stated = [plane.slope is not None, plane.intercept is not None]
    assumed = plane.modality == "CT" and rules.assume_intercept is not None and not any(stated)
    return not all(stated) and not assumed and (any(stated) or plane.modality in ("CT", "PT"))


def _bad_orientation(plane: Plane, rules: ReadingRules) -> bool:
    vectors = np.reshape(np.array(plane.orientation, dtype=np.float64), (2, 3))
    return not np.allclose(vectors @ vectors.T, np.eye(2), atol=1e-3)


# (expected, whether a plane is wrong, its value, remedy), in the order of the checks
_REQUIREMENTS: list[_Requirement] = [
    (
        "whole files",
        lambda p, r: bool(p.damage),
        lambda p: p.damage,
        "Copy the files again from where they came from.",
    ),
    (
        "images of one slice",
        lambda p, r: "MOSAIC" in p.image_type,
        lambda p: "mosaics of many slices",
        "Convert the series with dcm2niix.",
    ),
    (
        "one image in a file, or an enhanced multi-frame file",
        lambda p, r: p.frame is None and p.frames > 1,
        lambda p: f"{p.frames} frames without functional groups",
        "The frames have no position: export the series as single or enhanced images.",
    ),
    (
        "grey values that grow with the signal (PhotometricInterpretation MONOCHROME2)",
        lambda p, r: p.photometric != "MONOCHROME2" or p.samples != 1,
        lambda p: f"{p.photometric or 'no PhotometricInterpretation'} with {p.samples} sample(s) a pixel",
        "Readers disagree about what such values mean: export the original grey-scale series; if its values are not "
        "inverted, correct the tag.",
    ),
    (
        "values with a linear rescale",
        lambda p, r: p.lookup_table,
        lambda p: "a ModalityLUTSequence",
        "Export the series with RescaleSlope and RescaleIntercept.",
    ),
    (
        "RescaleSlope and RescaleIntercept",
        _lacks_rescale,
        lambda p: f"slope {_or_none(p.slope)}, intercept {_or_none(p.intercept)}",
        "Without them a CT may be off by 1024 HU: export the series anew; or, if you know it of this scanner, give "
        "--dicom_options#assume_intercept -1024 (CT without either).",
    ),
    (
        "a finite RescaleSlope and RescaleIntercept, slope not 0",
        lambda p, r: p.slope is not None and not (np.isfinite([p.slope, p.intercept or 0.0]).all() and p.slope),
        lambda p: f"slope {p.slope:g}, intercept {_or_none(p.intercept)}",
        "Export the series anew, or remove it from the folder.",
    ),
    (
        "CT in Hounsfield units",
        lambda p, r: p.modality == "CT" and p.rescale_type.upper() not in ("", "HU", "US"),
        lambda p: f"RescaleType {p.rescale_type}",
        "Take the series of HU instead of the material or effective-Z map.",
    ),
    (
        "PixelSpacing, two positive numbers",
        lambda p, r: p.spacing_mm is None or not all(0 < s < np.inf for s in p.spacing_mm),
        lambda p: "none" if p.spacing_mm is None else str(p.spacing_mm),
        "Readers would assume 1 mm: export the series anew with its geometry.",
    ),
    (
        "ImagePositionPatient, three finite numbers",
        lambda p, r: p.position is None or not np.isfinite(p.position).all(),
        lambda p: "none" if p.position is None else str(p.position),
        "Without it the order and the distance of the slices are unknown: export the series anew with its geometry.",
    ),
    (
        "ImageOrientationPatient, two perpendicular unit vectors",
        lambda p, r: p.orientation is None or _bad_orientation(p, r),
        lambda p: "none" if p.orientation is None else str(p.orientation),
        "Export the series anew with its geometry.",
    ),
]


def _or_none(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _name(plane: Plane) -> str:
    return Path(plane.file).name + ("" if plane.frame is None else f", frame {plane.frame + 1}")


def _names(pair: Sequence[Plane]) -> str:
    """The names of two planes; with their folders, if the names are equal."""
    names = [_name(plane) for plane in pair]
    if names[0] == names[1]:
        names = [f"{Path(plane.file).parent.name}/{name}" for plane, name in zip(pair, names, strict=True)]
    return " and ".join(names)


def _check_alike(source: object, planes: Sequence[Plane]) -> None:
    first = planes[0]
    exact: dict[str, Callable[[Plane], object]] = {
        "modality": lambda p: p.modality,
        "kind of image (SOP class)": lambda p: UID(p.sop_class).name,
        "size of images": lambda p: f"{p.rows}x{p.columns}",
        "RescaleType": lambda p: p.rescale_type or "none",
        "Units": lambda p: p.units or "none",
        "FrameOfReferenceUID": lambda p: p.frame_of_reference,
        "StudyInstanceUID": lambda p: p.study_uid,
        # a message must not show the value
        "PatientID": lambda p: "the first" if p.patient == first.patient else "another",
        "PixelSpacing": lambda p: (
            first.spacing_mm if np.allclose(p.spacing_mm or 0, first.spacing_mm or 0, rtol=1e-4) else p.spacing_mm
        ),
        "orientation": lambda p: (
            first.orientation if np.allclose(p.orientation or 0, first.orientation or 0, atol=1e-3) else p.orientation
        ),
    }
    for noun, value_of in exact.items():
        counts = Counter(map(value_of, planes))
        if len(counts) > 1:
            raise DataError(
                source,
                expected=f"one {noun} in a series",
                got=" and ".join(f"{value} ({count} images)" for value, count in counts.most_common(4)),
                remedy="Keep one kind, by --dicom_options#select or in a folder of its own: a mixture makes no volume.",
            )


def _without_duplicates(
    source: object, planes: list[Plane], normal: Array, rules: ReadingRules
) -> tuple[list[Plane], list[str]]:
    """Drops copies of sorted planes, so that one plane stays at each position."""
    heights = np.array([np.dot(p.position or (), normal) for p in planes])
    steps = np.diff(heights)
    usual = float(np.median(steps[steps > 1e-4])) if (steps > 1e-4).any() else np.inf
    groups: list[list[Plane]] = [[planes[0]]]
    for plane, step in zip(planes[1:], steps, strict=True):
        if step < _SAME_PLACE * usual:
            groups[-1].append(plane)
        else:
            groups.append([plane])
    crowded = [group for group in groups if len(group) > 1]
    if not crowded:
        return planes, []
    copies = all(pixels_equal(group[0], other) for group in crowded for other in group[1:])
    if copies and rules.on_duplicate == "drop" and len(groups) > 1:
        dropped = sum(len(group) - 1 for group in crowded)
        return [group[0] for group in groups], [f"on_duplicate='drop': {dropped} exact copies left out"]
    raise _crowd(source, groups, crowded, copies)


def _crowd(source: object, groups: list[list[Plane]], crowded: list[list[Plane]], copies: bool) -> DataError:
    pair = crowded[0][:2]
    differing = [
        f"{name} {pair[0].traits.get(name, 'none')} / {pair[1].traits.get(name, 'none')}"
        for name in sorted(set(pair[0].traits) | set(pair[1].traits))
        if pair[0].traits.get(name) != pair[1].traits.get(name)
    ]
    if copies:
        nature = "duplicate slices, the same to the byte"
        remedy = "Take the copies out, or give --dicom_options#on_duplicate drop."
    elif differing:
        nature = f"images that differ in {', '.join(differing)}"
        name = differing[0].split()[0]
        example = f"{{'{name}': {pair[0].traits.get(name)!r}}}"
        remedy = f'Choose one kind, for instance --dicom_options#select "{example}".'
    else:
        nature, remedy = "duplicate slices with different pixels", "Find out which slices are right, and keep those."
    return DataError(
        source,
        expected="one image at each position",
        got=f"{len(crowded)} of {len(groups)} positions with several: {nature} ({_names(pair)})",
        remedy=remedy,
    )


def _rounding_mm(planes: Sequence[Plane], normal: Array, heights: Array) -> float:
    """The unit of rounded positions if rounding explains the differences between the steps, else 0."""
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    step = heights[-1] / (len(heights) - 1)
    units = (1.0, 0.1, 0.01)
    unit = next((unit for unit in units if np.allclose(positions, np.round(positions / unit) * unit, atol=1e-6)), 0.0)
    if not 0 < unit <= _ROUNDING * step:
        return 0.0
    # two slices i < j bound the step: (h_j - h_i - margin) / (j - i) <= s <= (h_j - h_i + margin) / (j - i)
    margin = unit * float(np.abs(normal).sum()) + 1e-6
    lowest, highest = 0.0, np.inf
    for number in range(len(heights) - 1):
        rise, run = heights[number + 1 :] - heights[number], np.arange(1, len(heights) - number)
        lowest, highest = max(lowest, ((rise - margin) / run).max()), min(highest, ((rise + margin) / run).min())
    return unit if lowest <= highest else 0.0


def _check_tilt(
    source: object, heights: Array, offsets: Array, rounding_mm: float, rules: ReadingRules
) -> tuple[float, bool]:
    """The angle between the step and the normal in degrees, and whether it counts as a tilt."""
    slope = offsets[-1] / heights[-1]
    tilt = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    stray = float(np.abs(offsets - heights[:, None] * slope).max())
    step = heights[-1] / (len(heights) - 1)
    if stray > max(rules.spacing_tolerance * step, 0.01, 2 * rounding_mm):
        raise DataError(
            source,
            expected="slices stacked along a line",
            got=f"slices up to {stray:.3g} mm beside it",
            remedy="The series contains several stacks: keep one of them in its own folder.",
        )
    is_tilted = tilt > rules.tilt_tolerance_degrees
    if is_tilted and rules.on_tilt == "refuse":
        raise DataError(
            source,
            expected="slices stacked along their normal",
            got=f"a gantry tilt of {tilt:.2f} degrees",
            remedy="Readers drop the shear and do not warn. --dicom_options#on_tilt resample interpolates it away.",
        )
    return tilt, is_tilted


def _are_even(heights: Array, rules: ReadingRules) -> bool:
    steps = np.diff(heights)
    return bool(np.abs(steps / steps.mean() - 1).max() <= rules.spacing_tolerance)


def _check_steps(source: object, heights: Array, rules: ReadingRules) -> bool:
    """Whether the steps differ by more than the tolerance; an error if the rules forbid that."""
    steps = np.diff(heights)
    if _are_even(heights, rules):
        return False
    if rules.on_gap == "resample":
        return True
    usual = float(np.median(steps))
    long = np.flatnonzero(steps > (1 + rules.spacing_tolerance) * usual)
    multiples = steps / usual
    whole = np.abs(multiples / np.maximum(multiples.round(), 1) - 1).max() <= rules.spacing_tolerance
    if whole and len(long) <= len(steps) / 4:
        count = int((multiples.round() - 1).sum())
        got = f"{count} missing slices (a step of {steps[long[0]]:.4g} mm after slice {long[0] + 1} of {len(heights)})"
    else:
        common = Counter(steps.round(3).tolist()).most_common(3)
        got = "unevenly spaced slices: steps of " + ", ".join(f"{step:g} mm ({count} times)" for step, count in common)
    raise DataError(
        source,
        expected=f"slices at one distance (here {usual:.4g} mm, to {rules.spacing_tolerance:.1%} of the mean)",
        got=got,
        remedy="Complete the series; or interpolate (--dicom_options#on_gap resample), or take larger differences "
        "(--dicom_options#spacing_tolerance 0.1).",
    )
