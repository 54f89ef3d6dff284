"""Groups the planes of a folder into series by SeriesInstanceUID, and chooses the series to read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.uid import UID

from monai_diffscore.data.dicom.planes import VOLUME_CLASSES, Plane, is_dicom, list_files, read_planes
from monai_diffscore.errors import DataError

_SUFFIXES = (".dcm", ".ima", ".dicom")


@dataclass(frozen=True)
class Series:
    """The planes that share a SeriesInstanceUID, in the order of their files."""

    uid: str
    planes: tuple[Plane, ...]

    @property
    def is_volume(self) -> bool:
        """Whether all planes are of a class of images that make a volume, and at least one is no scout."""
        return all(p.sop_class in VOLUME_CLASSES for p in self.planes) and not all(p.is_localizer for p in self.planes)

    @property
    def is_derived(self) -> bool:
        """Whether all planes are computed from other images."""
        return all(p.is_derived for p in self.planes)

    @property
    def folder(self) -> Path:
        """The deepest folder with all files."""
        parents = [Path(file).parent for file in {p.file for p in self.planes}]
        common = parents[0]
        while not all(parent.is_relative_to(common) for parent in parents):
            common = common.parent
        return common

    def __str__(self) -> str:
        first = self.planes[0]
        kinds = sorted({"\\".join(p.image_type[:3]) for p in self.planes})
        size = f"{len(self.planes)} images {first.rows}x{first.columns}" if first.rows else UID(first.sop_class).name
        description = f" '{first.description}'" if first.description else ""
        return f"{self.uid} ({first.modality}{description}, {size}, {', '.join(kinds)})"


def find_series(paths: Sequence[str | Path]) -> list[Series]:
    """All series in files and below folders, ordered by their first file; ignores files that are not DICOM.

    Raises:
        DataError: for a file with the ending of DICOM that is none, or an unreadable header.
    """
    planes: dict[str, list[Plane]] = {}
    for file in list_files(paths):
        if is_dicom(file):
            for plane in read_planes(file):
                planes.setdefault(plane.series_uid, []).append(plane)
        elif file.suffix.lower() in _SUFFIXES:
            raise DataError(
                file,
                expected="a DICOM file (128 bytes, then 'DICM', or the elements of a header)",
                got=f"{file.stat().st_size} bytes of neither",
                remedy="The file is damaged or of another format: copy it again, or remove it from the folder.",
            )
    return [Series(uid, tuple(members)) for uid, members in planes.items()]


def volume_series(candidates: Sequence[Series]) -> tuple[list[Series], list[Series]]:
    """Splits series into volumes to read, and others: scouts, documents, and series derived from the volumes.

    A derived series (ImageType DERIVED\\SECONDARY) is among the others only beside an original of its study.
    """
    volumes = [series for series in candidates if series.is_volume]
    studies = {series.planes[0].study_uid for series in volumes if not series.is_derived}
    selection = [s for s in volumes if not s.is_derived or s.planes[0].study_uid not in studies]
    return selection, [series for series in candidates if series not in selection]


def choose_series(
    source: object, candidates: Sequence[Series], uid: str | None = None, select: Mapping[str, object] | None = None
) -> tuple[Series, list[str]]:
    """Chooses the one series to read, without its scouts; also returns, and warns of, the skipped series and images.

    Args:
        source: name of the data, for messages.
        candidates: all series.
        uid: SeriesInstanceUID or SeriesDescription of the series to read.
        select: attributes that its planes must have, as in :class:`~monai_diffscore.data.dicom.rules.ReadingRules`.
    Raises:
        DataError: for no series, or several.
    """
    volumes, others = volume_series(candidates)
    if uid is not None:
        volumes, others = [s for s in candidates if uid in (s.uid, s.planes[0].description)], []
    if len(volumes) != 1:
        raise _no_single_series(source, candidates, volumes, uid)
    series = volumes[0]
    skipped = [f"series {other}" for other in others]
    scouts = [p for p in series.planes if p.is_localizer]
    if scouts and len(scouts) < len(series.planes):
        series = replace(series, planes=tuple(p for p in series.planes if not p.is_localizer))
        skipped.append(f"{len(scouts)} scout images (ImageType LOCALIZER) in the series itself")
    if skipped:
        warnings.warn(f"{source}: passed over {'; '.join(skipped)}.", stacklevel=3)
    return _selected(source, series, select or {}), skipped


def _selected(source: object, series: Series, select: Mapping[str, object]) -> Series:
    for name, value in select.items():
        planes = tuple(p for p in series.planes if name in p.traits and _equal(p.traits[name], value))
        if not planes:
            present = sorted({p.traits.get(name, "nothing") for p in series.planes})
            raise DataError(
                source,
                expected=f"images with {name} {value}",
                got=f"{name} {', '.join(present)}",
                remedy="Give one of these values in --dicom_options#select.",
            )
        series = replace(series, planes=planes)
    return series


def _equal(text: str, value: object) -> bool:
    try:
        return float(text) == float(str(value))
    except ValueError:
        return text == str(value)


def _no_single_series(
    source: object, candidates: Sequence[Series], volumes: Sequence[Series], uid: str | None
) -> DataError:
    lines = "".join(f"\n  {series}" for series in (volumes or candidates))
    if not candidates:
        remedy = "Point at the folder that holds the files of one series."
        return DataError(source, expected="a DICOM series", got="no DICOM file", remedy=remedy)
    if uid is not None:
        got = f"{len(candidates)} series with other SeriesInstanceUIDs:{lines}\n"
        return DataError(source, expected=f"the series {uid}", got=got, remedy="Give one of these: FOLDER/series:UID.")
    if not volumes:
        return DataError(
            source,
            expected="a CT, MR or PET series",
            got=f"no image volume:{lines}\n",
            remedy="Radiographs, ultrasound, scouts and documents are not volumes; "
            "name a scout (FOLDER/series:UID) to read it.",
        )
    return DataError(
        source,
        expected="one series",
        got=f"{len(volumes)} series:{lines}\n",
        remedy="Choose one: FOLDER/series:UID is its path.",
    )
