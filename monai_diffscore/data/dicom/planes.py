"""Reads image planes: the header of each image in a DICOM file, by pydicom, without checking its values.

A classic file has one plane, an enhanced multi-frame file one for each frame, with its attributes in functional groups
(PS3.3 C.7.6.16). Both become the same :class:`Plane`, so that the checks of a series do not depend on the kind of file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_diffscore.data.tree import walk
from monai_diffscore.errors import DataError

# Image Storage classes whose planes lie in the patient: CT, MR, PET; classic, enhanced, legacy converted enhanced
VOLUME_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.4",
    "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.130",
    "1.2.840.10008.5.1.4.1.1.128.1",
}
# attributes that distinguish images of one position: echoes, phases, b-values, contrasts
TRAITS = (
    "ImageType",
    "EchoNumbers",
    "EchoTime",
    "EffectiveEchoTime",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "DiffusionBValue",
    "AcquisitionNumber",
    "FrameAcquisitionNumber",
    "StackID",
)
_HEADER = """SOPClassUID SOPInstanceUID Modality SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID PatientID
    SeriesDescription PhotometricInterpretation SamplesPerPixel Rows Columns BitsAllocated BitsStored
    PixelRepresentation NumberOfFrames ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness
    RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence PixelPaddingValue PixelPaddingRangeLimit Units
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence LossyImageCompression"""
_LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}
_FIRST_ELEMENTS = {0x0000, 0x0001, 0x0002, 0x0005, 0x0008, 0x0012, 0x0016, 0x0018}  # of a file without its preamble
_LONGEST_FIRST = 128  # bytes of the value of its first element, at most
_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR lists files and is no image
_GROUPS = """PixelMeasuresSequence PlanePositionSequence PlaneOrientationSequence PixelValueTransformationSequence
    FrameContentSequence CTImageFrameTypeSequence MRImageFrameTypeSequence PETFrameTypeSequence MREchoSequence
    MRDiffusionSequence MRTimingAndRelatedParametersSequence"""


@dataclass(frozen=True)
class Plane:
    """One image of a series, as its header describes it. None means that the header lacks the attribute.

    ``position`` and ``orientation`` are ImagePositionPatient [3] and ImageOrientationPatient [6] in LPS and mm,
    ``spacing_mm`` is PixelSpacing (between rows, between columns), ``padding`` a range of stored values, ``frame`` the
    number among the ``frames`` of an enhanced file. ``damage`` describes damage of the file; it is empty without any.
    """

    file: str
    frame: int | None
    series_uid: str
    study_uid: str
    frame_of_reference: str
    sop_class: str
    transfer_syntax: str
    patient: str
    description: str
    modality: str
    image_type: tuple[str, ...]
    photometric: str
    samples: int
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    rescale_type: str
    lookup_table: bool
    padding: tuple[int, int] | None
    units: str
    frames: int
    is_lossy: bool
    damage: str
    traits: dict[str, str] = field(hash=False)

    @property
    def is_localizer(self) -> bool:
        """Whether ImageType marks the image as a scout."""
        return any(part in ("LOCALIZER", "SCOUT", "TOPOGRAM") for part in self.image_type)

    @property
    def is_derived(self) -> bool:
        """Whether ImageType marks the image as computed from others: reformatted, projected, synthetic."""
        return self.image_type[:2] == ("DERIVED", "SECONDARY")


def list_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files of ``paths``, and those below folders of ``paths``, sorted, without hidden files."""
    return sorted({file for path in paths for file in walk(path).files if not file.name.startswith(".")})


def is_dicom(path: str | Path) -> bool:
    """Whether the file begins with 128 bytes, then DICM (PS3.10 7.1), or at once with the elements of a header.

    Old archives and networks write files without the 128 bytes. Their first element is of the group 0002 or 0008, with
    its type in two letters, or with a short even length.
    """
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    if len(start) < 132 or start[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    element, length = struct.unpack("<HI", start[2:8])
    has_type = start[4:6] in (b"UL", b"OB", b"UI", b"CS")
    return element in _FIRST_ELEMENTS and (has_type or (length % 2 == 0 and length <= _LONGEST_FIRST))


def read_planes(path: str | Path) -> list[Plane]:
    """The planes of a DICOM file, without their pixels; empty for a DICOMDIR or a file without an image.

    Raises:
        DataError: for an unreadable header.
    """
    with open(path, "rb") as file:
        try:
            tags = [*_HEADER.split(), *TRAITS]
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags, force=True)
            if header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
                return []
            syntax = UID(header.file_meta.get("TransferSyntaxUID") or _syntax_of_elements(header))
            damage = _damage(file, header, syntax)
            _check_complete(header)
            if "PerFrameFunctionalGroupsSequence" not in header:
                return [_plane(str(path), None, header, syntax, damage)]
            return [
                _plane(str(path), number, frame, syntax, damage)
                for number, frame in enumerate(_frames(header, header.PerFrameFunctionalGroupsSequence))
            ]
        except Exception as error:  # pydicom decodes values lazily, and its converters raise errors of many types
            expected = "a readable DICOM header"
            remedy = "The file is cut off or damaged: copy it again, or remove it from the folder."
            got = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
            raise DataError(path, expected=expected, got=got, remedy=remedy) from error


def _syntax_of_elements(header: Dataset) -> str:
    """The transfer syntax of a file that does not state it: uncompressed, as pydicom found its elements."""
    implicit, little = header.original_encoding
    if not little:
        return str(ExplicitVRBigEndian)
    return str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)


def _check_complete(header: Dataset) -> None:
    """Refuses a header that breaks off; pydicom reads it as a complete one."""
    needed = ["SOPClassUID", "SeriesInstanceUID"]
    if header.get("SOPClassUID") in VOLUME_CLASSES:
        needed += ["Rows", "Columns"]
    if "PerFrameFunctionalGroupsSequence" in header:
        needed += ["PerFrameFunctionalGroupsSequence"]
    for name in needed:
        if not header.get(name):
            raise ValueError(f"no {name}")


def _frames(header: Dataset, groups: Sequence[Dataset]) -> Iterator[Dataset]:
    """The header of each frame: its own functional groups override the shared ones, which override the file's."""
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for group in groups:
        frame = Dataset()
        frame.update(header)
        for source in (shared[0], group):
            for name in _GROUPS.split():
                if source.get(name):
                    frame.update(source[name].value[0])
        if "FrameType" in frame:
            frame.add_new("ImageType", "CS", frame.FrameType)  # a new element: the old one is shared
        yield frame


def _plane(file: str, frame: int | None, header: Dataset, syntax: UID, damage: str) -> Plane:
    def text(keyword: str) -> str:
        return str(header.get(keyword) or "").strip()

    traits = {name: _text(header[name].value) for name in TRAITS if header.get(name) not in (None, "")}
    return Plane(
        file=file,
        frame=frame,
        series_uid=text("SeriesInstanceUID"),
        study_uid=text("StudyInstanceUID"),
        frame_of_reference=text("FrameOfReferenceUID"),
        sop_class=text("SOPClassUID"),
        transfer_syntax=str(syntax),
        patient=text("PatientID"),
        description=text("SeriesDescription"),
        modality=text("Modality"),
        image_type=tuple(_text(header.get("ImageType", "")).upper().split("\\")),
        photometric=text("PhotometricInterpretation"),
        samples=int(header.get("SamplesPerPixel") or 1),
        rows=int(header.get("Rows") or 0),
        columns=int(header.get("Columns") or 0),
        position=_numbers(header, "ImagePositionPatient", 3),
        orientation=_numbers(header, "ImageOrientationPatient", 6),
        spacing_mm=_numbers(header, "PixelSpacing", 2),
        thickness_mm=_number(header, "SliceThickness"),
        slope=_number(header, "RescaleSlope"),
        intercept=_number(header, "RescaleIntercept"),
        rescale_type=text("RescaleType"),
        lookup_table=bool(header.get("ModalityLUTSequence")),
        padding=_padding(header),
        units=text("Units"),
        frames=int(header.get("NumberOfFrames") or 1),
        is_lossy=text("LossyImageCompression") == "01" or str(syntax) in _LOSSY,
        damage=damage,
        traits=traits,
    )


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) or not isinstance(value, Sequence) else "\\".join(map(str, value))


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    value = header.get(keyword)
    if value in (None, "", []):
        return None
    numbers = tuple(float(number) for number in np.atleast_1d(np.asarray(value, dtype=np.float64)))
    if len(numbers) != count:
        raise ValueError(f"{keyword} has {len(numbers)} values, not {count}")
    return numbers


def _number(header: Dataset, keyword: str) -> float | None:
    numbers = _numbers(header, keyword, 1)
    return None if numbers is None else numbers[0]


def _padding(header: Dataset) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit in the signedness of the pixels, from any encoding."""
    ends = [_stored(header, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit") if name in header]
    return (min(ends), max(ends)) if ends else None


def _stored(header: Dataset, keyword: str) -> int:
    value = header[keyword].value
    bits, signed = int(header.get("BitsAllocated") or 16), bool(header.get("PixelRepresentation"))
    if isinstance(value, bytes):  # implicit VR leaves "US or SS" open
        value = int.from_bytes(value, "little")
    value = int(value) % 2**bits
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value


def _damage(file: BinaryIO, header: Dataset, syntax: UID) -> str:
    """The damage of the pixel data that begin at the position of ``file``; empty if the data are complete."""
    if syntax == DeflatedExplicitVRLittleEndian:
        return ""  # pydicom could not have inflated the header of a damaged file
    if not header.get("Rows") or not header.get("Columns"):
        return ""  # the file has no image
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    prefix = 8 if syntax.is_implicit_VR else 12
    opening = file.read(prefix)
    if len(opening) < prefix:
        return "no pixel data: the file ends after the header"
    if syntax.is_encapsulated:
        return _fragments_damage(file, size)
    frames = int(header.get("NumberOfFrames") or 1)
    bits = int(header.get("BitsAllocated") or 0) * int(header.get("SamplesPerPixel") or 1)
    needed = int(header.Rows) * int(header.Columns) * frames * bits // 8
    present = min(size - start - prefix, struct.unpack(_order(syntax) + "I", opening[-4:])[0])
    return f"truncated: {present} of {needed} bytes of pixel data" if present < needed else ""


def _fragments_damage(file: BinaryIO, size: int) -> str:
    """The damage of compressed pixel data: walks over the fragments to their end mark (PS3.5 A.4)."""
    while len(item := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHI", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            return ""
        if (group, element) != (0xFFFE, 0xE000) or file.tell() + length > size:
            break
        file.seek(length, os.SEEK_CUR)
    return f"truncated: the compressed pixel data break off in a file of {size} bytes"


def _order(syntax: UID) -> str:
    return "<" if syntax.is_little_endian else ">"
