"""Fingerprints of volumes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import CropForeground, Orientation

from monai_diffscore.data.cases.names import ending
from monai_diffscore.data.dicom import holds_dicom
from monai_diffscore.data.label_maps import Classes, label_classes
from monai_diffscore.data.labelled_images import joint_classes
from monai_diffscore.data.nibabel_images import count_channels, open_image
from monai_diffscore.data.nifti_header import NIFTI, states_orientation
from monai_diffscore.data.participants import declare_fields
from monai_diffscore.data.paths import split_channel
from monai_diffscore.data.volumes import LoadVolumed, listed_cases
from monai_diffscore.errors import DataError
from monai_diffscore.planning.fingerprint import (
    Fingerprint,
    Problem,
    first_path,
    list_readable,
    one_number_of_channels,
    path_below,
    percentiles_by_name,
    read_each,
    read_listed,
    refuse_unless_some,
    shown_names,
    some_values,
    spans,
)
from monai_diffscore.planning.given_images import survey_given
from monai_diffscore.transforms import HounsfieldUnits
from monai_diffscore.transforms.hounsfield import BODY_HU

#: modality by the role of an image whose header does not state it
_MODALITIES = {"ct": "CT", "cta": "CT", "pt": "PT", "suv": "PT"}
_NEGATIVE = 0.01  # a larger share of negative values is unusual in MR


@dataclass(frozen=True)
class _Volume:
    size: tuple[int, ...]
    box: tuple[int, ...]
    spacing: tuple[float, ...]
    codes: str
    modality: str
    modality_is_stated: bool
    values: np.ndarray
    inside: list[np.ndarray]
    foreground: float

    @property
    def extent_mm(self) -> list[float]:
        return [count * step for count, step in zip(self.size, self.spacing, strict=True)]


def fingerprint_volumes(
    root: Path,
    modality: str | None = None,
    layout: str = "auto",
    image: str = "",
    subject: str = "",
    reading: Mapping[str, Any] | None = None,
    conditions: Sequence[str] = (),
    exclude: Sequence[str] = (),
    given: Sequence[str] = (),
    joint: bool = False,
) -> Fingerprint:
    """The fingerprint of a folder of volumes and DICOM series, of a table of cases, or of one volume.

    Args:
        root: folder or file.
        modality: "CT", "MR" or "PT"; None reads DICOM headers, else the roles ("ct", "pt"), else the intensities.
        layout, image, subject: as :func:`~monai_diffscore.data.list_volumes` takes them.
        reading: ``dicom_options`` of :class:`~monai_diffscore.data.LoadVolumed`, and the arguments of
            :class:`~monai_diffscore.transforms.HounsfieldUnits`.
        conditions: names; the fingerprint declares those that the cases state themselves ("contrast", and facts).
        exclude: files, folders and series below ``root`` to leave out.
        given: roles and masks from which a model draws the image of ``image``.
        joint: ``given`` is one mask, and the model draws image and mask together.
    """
    units = dict(reading or {})
    dicom_options = units.pop("dicom_options", {})
    lister = _Lister(root, layout, image, subject, conditions, given, joint)
    cases, problems = list_readable(root, lister, exclude)
    channels = one_number_of_channels(root, cases, _channels)
    load: Any = LoadVolumed("image", spatial_dims=3, channels=channels, slices=True, dicom=dicom_options)
    pairs, problems = read_listed(
        root, lister, cases, problems, lambda case: _measure(load(case)["image"], modality, lister.modality, units)
    )
    pairs, others = _of_one_modality(root, pairs)
    problems += others
    refuse_unless_some(root, "volumes", pairs, problems)
    if given:
        lines, unread = survey_given(root, [case for case, _ in pairs], given, lister.classes, dicom_options)
        lister.assumed += lines
        problems += unread
    volumes = [volume for _, volume in pairs]
    _refuse_units_unless_ct(root, units, volumes[0].modality)
    subjects = [case["subject"] for case, _ in pairs]
    return Fingerprint(
        data=str(root.resolve()),
        kind="volumes",
        modality=volumes[0].modality,
        modality_from="--modality" if modality else _source_of_modality(volumes, lister),
        cases=len(volumes),
        subjects=len(set(subjects)),
        names=shown_names(subjects),
        channels=channels,
        **_facts_of_volumes(volumes),
        details={
            "dicom_series": sum(holds_dicom(first_path(case["image"])) for case, _ in pairs),
            "listing": {"layout": layout, "image": image, "subject": subject},
            **({"given": list(given), "joint": joint, "classes": lister.classes} if given else {}),
            "reading": dict(reading or {}),
            "assumed": [f"{lister.assumed[0]}, {_assumed_modality(pairs)}", *lister.assumed[1:], *_unstated(pairs)],
            "files": {"layout": lister.detected, "roles": lister.files_by_role([case["image"] for case, _ in pairs])},
        },
        conditions=_stated_conditions([case for case, _ in pairs], conditions),
        problems=problems,
    )


@dataclass
class _Lister:
    """Lists the cases of a folder, and notes its assumptions and the modalities of the roles.

    The other arguments are those of :func:`fingerprint_volumes`.
    """

    root: Path
    layout: str
    image: str
    subject: str
    conditions: Sequence[str]
    given: Sequence[str]
    joint: bool
    assumed: list[str] = field(default_factory=list)
    classes: dict[str, Classes] = field(default_factory=dict)
    modalities: set[str] = field(default_factory=set)
    detected: str = ""
    roles: dict[str, str] = field(default_factory=dict)

    def __call__(self, left_out: Sequence[str]) -> list[dict[str, Any]]:
        listed = listed_cases(self.root, left_out=left_out, layout=self.layout, subject=self.subject)
        roles = self.image or ",".join(listed.roles)
        self.modalities |= {_MODALITIES.get(role.strip().partition("_")[0], "") for role in roles.split(",")}
        self.detected = listed.layout
        self.roles = {path: role for case in listed for role, path in case.images.items()}
        rule = self.subject or "the layout"
        self.assumed = [
            f"kind volumes (--kind), layout {listed.layout} (--layout), image {roles} (--image), "
            f"subjects by {rule} (--subject)",
            *listed.notes,
            *(f"left out: {count} x {reason}" for reason, count in listed.reasons.items()),
        ]
        if self.given:
            pairs = listed.pairs(self.image, self.given, conditions=self.conditions, complete=self.joint)
            self.classes = joint_classes(listed, *self.given) if self.joint else label_classes(listed, self.given)
            return pairs
        return listed.images(self.image, conditions=self.conditions)

    def files_by_role(self, images: Iterable[str | Sequence[str]]) -> dict[str, list[str]]:
        """The files of the images by role; a file of all channels stands under all of their roles."""
        files: dict[str, list[str]] = {}
        for image in images:
            for path in [image] if isinstance(image, str) else image:
                files.setdefault(self.roles.get(path, self.image), []).append(path_below(self.root, path))
        return files

    @property
    def modality(self) -> str:
        """The modality of the roles if they have one; else ""."""
        return next(iter(self.modalities)) if len(self.modalities) == 1 else ""


def _refuse_units_unless_ct(root: Path, units: Mapping[str, Any], modality: str) -> None:
    if units and modality != "CT":
        name = next(iter(units))
        raise DataError(
            root, key=name, expected="CT", got=f"{modality}, of which --{name} says nothing",
            remedy="State --modality CT, or leave the flag out.",
        )  # fmt: skip


def _source_of_modality(volumes: Sequence[_Volume], lister: _Lister) -> str:
    if all(volume.modality_is_stated for volume in volumes):
        return "the DICOM headers"
    return "the role of the images" if lister.modality else "the intensities: NIfTI does not state it"


def _facts_of_volumes(volumes: Sequence[_Volume]) -> dict[str, Any]:
    """Sizes, spacing, orientations and intensities."""
    normal = np.concatenate([_normalised(volume) for volume in volumes])
    return {
        "sizes": spans([volume.size for volume in volumes]),
        "foreground_sizes": spans([volume.box for volume in volumes]),
        "spacing_mm": spans([volume.spacing for volume in volumes], digits=4),
        "extents_mm": spans([volume.extent_mm for volume in volumes], digits=1),
        "orientations": dict(Counter(volume.codes for volume in volumes)),
        "percentiles": percentiles_by_name(np.concatenate([volume.values for volume in volumes])),
        "foreground_share": round(float(np.mean([volume.foreground for volume in volumes])), 4),
        "sigma_data": float(f"{normal.std():.4g}"),
        "mean": float(f"{normal.mean():.4g}"),
    }


def _assumed_modality(pairs: Sequence[tuple[dict[str, Any], _Volume]]) -> str:
    """The modality with its flag, and a hint where the values are unusual for it."""
    modality = pairs[0][1].modality
    negative = float((np.concatenate([volume.values for _, volume in pairs]) < 0).mean())
    looks_like_ct = modality == "MR" and negative > _NEGATIVE and not any(v.modality_is_stated for _, v in pairs)
    hint = f"; {negative:.0%} of the values are negative, as in CT: --modality CT" if looks_like_ct else ""
    return f"modality {modality} (--modality){hint}"


def _unstated(pairs: Sequence[tuple[dict[str, Any], _Volume]]) -> Iterator[str]:
    """One line for each thing that the files do not state."""
    files = [split_channel(first_path(case["image"]))[0] for case, _ in pairs]
    unstated = sum(ending(file) in NIFTI and not states_orientation(file) for file in files)
    if unstated:
        yield f"{unstated} file(s) state no orientation (sform_code and qform_code 0): left may be right"


def _stated_conditions(cases: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The fields of the conditions that the cases themselves state."""
    stated = [name for name in names if any(name in case for case in cases)]
    table = {
        str(number): {name.lower(): str(case.get(name, "")) for name in stated} for number, case in enumerate(cases)
    }
    return {"table": None, "fields": declare_fields(table, stated, "the cases")} if stated else {}


def _channels(path: str | Sequence[str]) -> int:
    """Number of channels in a header, or of files; 1 for an unreadable header, which fails when the file is read."""
    if not isinstance(path, str):
        return len(path)
    if split_channel(path)[1] is not None or holds_dicom(path):
        return 1
    try:
        return count_channels(open_image(path).shape)
    except Exception:  # a damaged file can raise any error
        return 1


def _measure(volume: Any, modality: str | None, of_roles: str, units: Mapping[str, Any]) -> _Volume:
    codes = "".join(nib.aff2axcodes(np.asarray(volume.affine)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        upright: Any = Orientation(axcodes="RAS", labels=None)(volume)
    stated = str(volume.meta.get("modality", ""))
    values = some_values(np.asarray(upright.as_tensor()))
    kind = modality or stated or of_roles or ("CT" if values.min() <= -900 and values.max() > 100 else "MR")
    if kind == "CT":  # as the training checks it
        upright = HounsfieldUnits(**units)(upright)
        values = some_values(np.asarray(upright.as_tensor()))
    limit = BODY_HU if kind == "CT" else 0.0
    box: Any = CropForeground(select_fn=lambda image: image > limit, allow_smaller=True)(upright)
    if min(box.shape[1:]) == 0:
        raise DataError(
            volume.meta.get("filename_or_obj", "a volume"), expected=f"voxels above {limit:g}, the background",
            got=f"none, from {values.min():g} to {values.max():g}",
            remedy="Shift the intensities so that the body is above it, or say which --modality this is.",
        )  # fmt: skip
    return _Volume(
        size=tuple(upright.shape[1:]),
        box=tuple(box.shape[1:]),
        spacing=tuple(float(step) for step in upright.pixdim),
        codes=codes,
        modality=kind,
        modality_is_stated=bool(stated) or modality is not None,
        values=values,
        inside=[some_values(channel) for channel in np.asarray(box.as_tensor())],
        foreground=float((values > limit).mean()),
    )


def _normalised(volume: _Volume) -> np.ndarray:
    """A volume after the plan's normalisation: [-1000, 1000] HU, or percentiles of each channel, to [-1, 1]."""
    parts = []
    for values in volume.inside:
        low, high = (-1000.0, 1000.0) if volume.modality == "CT" else np.percentile(values, (0.5, 99.5))
        parts.append(np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 2 - 1)
    return np.concatenate(parts)


def _of_one_modality(
    root: Path, pairs: Sequence[tuple[dict[str, Any], _Volume]]
) -> tuple[list[tuple[dict[str, Any], _Volume]], list[Problem]]:
    """The pairs of the commonest modality, and a problem for each other pair."""
    if not pairs:
        return [], []
    common = Counter(volume.modality for _, volume in pairs).most_common(1)[0][0]

    def check(case: dict[str, Any]) -> _Volume:
        volume = case["volume"]
        if volume.modality != common:
            raise DataError(
                case["image"], expected=f"{common}, as most of the other files", got=volume.modality,
                remedy=f"If all are of one, say --modality {volume.modality} or {common}; else plan each alone: "
                "--exclude, --image ROLE, or a folder of its own.",
            )  # fmt: skip
        return volume

    accepted, problems = read_each(root, [{**case, "volume": volume} for case, volume in pairs], check)
    return [({k: v for k, v in case.items() if k != "volume"}, volume) for case, volume in accepted], problems
