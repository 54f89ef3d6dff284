"""Variants of one known series: right ones, ones that an option makes right, and wrong ones with their cause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from dicom_series import (
    AXIAL,
    COLUMNS,
    OBLIQUE,
    ORIGIN,
    ROWS,
    SAGITTAL,
    SLICES,
    SPACING,
    STEP,
    Truth,
    dataset,
    normal_of,
    phantom,
    positions_of,
    save,
    setter,
    truth_of,
    write_enhanced,
    write_series,
)
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

Write = Callable[[Path], "Truth | None"]


@dataclass(frozen=True)
class Variant:
    """A folder to write; ``error`` is the message of its refusal, None if the reader must read the truth."""

    write: Write
    error: str | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    warns: str | None = None
    file: str = ""  # inside the folder


VARIANTS: dict[str, Variant] = {}


def variant(
    error: str | None = None, warns: str | None = None, file: str = "", **rules: Any
) -> Callable[[Write], Write]:
    def add(write: Write) -> Write:
        VARIANTS[write.__name__] = Variant(write, error, rules, warns, file)
        return write

    return add


def usual(folder: Path, **changes: Any) -> Truth:
    """The plain series with changes that do not change its truth."""
    hu = changes.pop("hu", phantom())
    write_series(folder, hu, **changes)
    return truth_of(hu, changes.get("positions"), changes.get("orientation", AXIAL))


def edited(**attributes: Any) -> Callable[[Path], Truth]:
    """The plain series with attributes set in each file; None deletes."""
    return lambda folder: usual(folder, edit=setter(**attributes))


def shuffled(seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).permutation(SLICES).tolist()


# exact


@variant()
def plain(folder):
    return usual(folder)


@variant()
def file_names_shuffled(folder):
    return usual(folder, names=[f"{k:03d}.dcm" for k in shuffled()])


@variant()
def file_names_without_suffix(folder):
    return usual(folder, names=[f"IM{k:04d}" for k in range(SLICES)])


@variant()
def files_in_folders_of_their_own(folder):
    return usual(folder, names=[f"S{k}/I" for k in shuffled()])


@variant()
def z_descending(folder):
    hu, positions = phantom(), positions_of()
    write_series(folder, hu[::-1], positions=positions[::-1])
    return truth_of(hu)


@variant()
def signed_with_intercept_0(folder):
    return usual(folder, signed=True, intercept=0.0)


@variant()
def slope_2(folder):
    hu = 2 * phantom() // 2 * 1.0
    hu -= hu % 2
    return usual(folder, hu=hu, slopes=2.0)


@variant()
def slope_of_each_slice(folder):
    slopes = np.resize([1, 1.1, 1.234567], SLICES)
    stored = ((phantom() + 1024) / slopes[:, None, None]).round()
    return usual(folder, hu=stored * slopes[:, None, None] - 1024, slopes=slopes)


@variant()
def sagittal(folder):
    return usual(folder, orientation=SAGITTAL)


@variant()
def oblique(folder):
    return usual(folder, orientation=OBLIQUE)


@variant()
def instance_numbers_not_spatial(folder):
    numbers = shuffled(5)
    return usual(folder, edit=lambda ds, k: setattr(ds, "InstanceNumber", numbers[k] + 1))


@variant()
def no_instance_numbers(folder):
    return edited(InstanceNumber=None)(folder)


@variant()
def positions_rounded_by_the_scanner(folder):
    """Steps within 1% of each other: read at the mean step."""
    positions = positions_of()
    positions[1:-1, 2] += 0.007 * np.array([1, -1] * 5)
    return usual(folder, positions=positions)


def with_padding(folder, value: float, declare: dict[str, Any], **changes: Any) -> Truth:
    """The corners of each slice hold a value that is no measurement."""
    hu = phantom()
    inside = np.ones(hu.shape, dtype=bool)
    for rows in (slice(0, 2), slice(-2, None)):
        for columns in (slice(0, 2), slice(-2, None)):
            inside[:, rows, columns] = False
    edit = setter(**declare)
    write_series(folder, np.where(inside, hu, value), signed=True, edit=edit, **changes)
    return truth_of(np.where(inside, hu, -1000), inside=inside)


@variant()
def padding_declared(folder):
    return with_padding(folder, -3024.0, {"PixelPaddingValue": -2000})  # stored -2000, intercept -1024


@variant()
def padding_declared_as_unsigned(folder):
    def edit(ds, k):
        ds[0x00280120] = pydicom.DataElement(0x00280120, "US", 65536 - 2000)

    truth = with_padding(folder, -3024.0, {})
    for path in folder.glob("*.dcm"):
        ds = pydicom.dcmread(path)
        edit(ds, 0)
        ds.save_as(path)
    return truth


@variant()
def padding_declared_implicit_vr(folder):
    return with_padding(folder, -3024.0, {"PixelPaddingValue": -2000}, syntax=ImplicitVRLittleEndian)


@variant()
def padding_range(folder):
    return with_padding(folder, -3000.0, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1900})


@variant()
def padding_undeclared_2000(folder):
    return with_padding(folder, -2000.0, {})


@variant()
def padding_undeclared_3024(folder):
    return with_padding(folder, -3024.0, {})


@variant()
def padding_blurred_by_lossy_compression(folder):
    """The edge of the padding rings; voxels nearer to padding than to air become padding."""
    hu = phantom()
    inside = np.ones(hu.shape, dtype=bool)
    inside[:, :2, :3] = False
    padded = np.where(inside, hu, -3024)
    padded[:, 1, :3] = [-3339, -2200, -2900]
    edit = setter(PixelPaddingValue=-2000, LossyImageCompression="01")
    write_series(folder, padded, signed=True, edit=edit)
    return truth_of(np.where(inside, hu, -1000), inside=inside)


@variant()
def undershoot_is_kept(folder):
    """Voxels below -1024 that are no padding, as sharp kernels make beside metal."""
    hu = phantom()
    hu[:, 4:6, 3:5] = -1100
    return usual(folder, hu=hu, signed=True)


@variant()
def air_at_0_of_unsigned_with_padding_0(folder):
    hu = phantom()
    hu[:, :2, :2] = -1024
    inside = hu != -1024
    write_series(folder, hu, edit=setter(PixelPaddingValue=0))
    return truth_of(np.where(inside, hu, -1000), inside=inside)


@variant(warns="passed over series 1.2.826.2.2.*LOCALIZER")
def scout_beside(folder):
    scout = setter(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder, phantom(3, 30, 40), orientation=SAGITTAL, uid="1.2.826.2.2", edit=scout,
                 names=[f"0{k}scout.dcm" for k in range(3)])  # fmt: skip
    return usual(folder)


@variant(warns="1 scout images")
def scout_inside(folder):
    scout = setter(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder, phantom(1, 30, 40), orientation=SAGITTAL, edit=scout, names=["scout.dcm"])
    return usual(folder)


@variant(warns="passed over series 1.2.826.2.3.*DERIVED")
def reformatted_beside(folder):
    derived = setter(ImageType=["DERIVED", "SECONDARY", "MPR"])
    write_series(folder, phantom(3), uid="1.2.826.2.3", edit=derived, names=["a", "b", "c"])
    return usual(folder)


@variant()
def derived_alone(folder):
    return edited(ImageType=["DERIVED", "SECONDARY", "AXIAL"])(folder)


@variant(series_uid="1.2.826.2.4")
def one_of_several_series_chosen(folder):
    usual(folder, hu=phantom(seed=1))
    return usual(folder, uid="1.2.826.2.4", names=[f"x{k}.dcm" for k in range(SLICES)])


@variant()
def other_files_beside(folder):
    truth = usual(folder)
    (folder / "README.txt").write_text("not an image")
    (folder / "._000.dcm").write_bytes(b"resource fork")
    directory = dataset("1")
    directory.SOPClassUID = directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    save(directory, folder / "DICOMDIR")
    return truth


@variant(warns="passed over series 1.2.826.2.5")
def document_beside(folder):
    save(dataset("1.2.826.2.5", sop_class="1.2.840.10008.5.1.4.1.1.88.11"), folder / "report.dcm")
    return usual(folder)


@variant()
def implicit_vr(folder):
    return usual(folder, syntax=ImplicitVRLittleEndian)


@variant()
def big_endian(folder):
    return usual(folder, syntax=ExplicitVRBigEndian)


@variant()
def deflated(folder):
    return usual(folder, syntax=DeflatedExplicitVRLittleEndian)


@variant()
def run_length_compressed(folder):
    return usual(folder, syntax=RLELossless)


@variant()
def jpeg_ls_compressed(folder):
    return usual(folder, syntax=JPEGLSLossless)


def mr(folder, **changes):
    return usual(folder, hu=np.abs(phantom()), modality="MR", **changes)


@variant()
def mr_without_rescale(folder):
    return mr(folder, intercept=None)


@variant()
def mr_with_rescale(folder):
    slope, intercept = 3.774, 0.5
    hu = (np.abs(phantom()) / slope).round() * slope + intercept
    return usual(folder, hu=hu, modality="MR", slopes=slope, intercept=intercept)


@variant()
def mr_of_8_bits(folder):
    return usual(folder, hu=np.abs(phantom()) % 256, modality="MR", intercept=None, bits=8)


@variant()
def pet_with_slope_of_each_slice(folder):
    slopes = np.linspace(0.5, 3, SLICES)[:, None, None]
    hu = (np.abs(phantom()) / slopes).round() * slopes
    return usual(folder, hu=hu, modality="PT", slopes=slopes.ravel(), intercept=0.0, edit=setter(Units="BQML"))


@variant(select={"EchoTime": 30})
def one_of_two_echoes_chosen(folder):
    write_series(folder, phantom(seed=1), modality="MR", edit=setter(EchoTime=10.0), names=[f"a{k}" for k in range(12)])
    return mr(folder, edit=setter(EchoTime=30.0))


@variant()
def enhanced(folder):
    write_enhanced(folder / "e.dcm", phantom())
    return truth_of(phantom())


@variant()
def enhanced_frames_shuffled(folder):
    write_enhanced(folder / "e.dcm", phantom(), order=shuffled())
    return truth_of(phantom())


@variant(file="e.dcm")
def enhanced_file_with_slope_of_each_frame(folder):
    slopes = np.resize([1, 1.1, 1.234567], SLICES)
    hu = ((phantom() + 1024) / slopes[:, None, None]).round() * slopes[:, None, None] - 1024
    write_enhanced(folder / "e.dcm", hu, slopes=slopes, order=shuffled())
    return truth_of(hu)


@variant()
def enhanced_mr(folder):
    write_enhanced(folder / "e.dcm", np.abs(phantom()), modality="MR", order=shuffled())
    return truth_of(np.abs(phantom()))


@variant(select={"TemporalPositionIndex": 2})
def one_of_two_enhanced_phases_chosen(folder):
    def phase(group, k):
        content = Dataset()
        content.TemporalPositionIndex = 1 + k // SLICES
        group.FrameContentSequence = [content]

    hu, positions = np.concatenate([phantom(seed=1), phantom()]), np.concatenate([positions_of()] * 2)
    order = np.random.default_rng(0).permutation(2 * SLICES)
    write_enhanced(folder / "e.dcm", hu, modality="MR", positions=positions, order=order, edit=phase)
    return truth_of(phantom())


# what an option asks for


def linear_in_height(heights: np.ndarray) -> np.ndarray:
    return phantom(1) // 10 + 10.0 * (heights / STEP)[:, None, None]


@variant(on_gap="resample")
def missing_slices_interpolated(folder):
    keep = [k for k in range(SLICES) if k not in (4, 5, 8)]
    hu = linear_in_height(np.arange(SLICES) * STEP)
    write_series(folder, hu[keep], positions=positions_of()[keep])
    return truth_of(hu)


@variant(on_gap="resample")
def mixed_spacing_interpolated(folder):
    heights = np.cumsum([0, 1.5, 1.5, 1.5, 3, 3, 3, 3])
    positions = np.array(ORIGIN) + heights[:, None] * normal_of(AXIAL)
    write_series(folder, linear_in_height(heights), positions=positions)
    return truth_of(linear_in_height(np.arange(12) * STEP))


@variant(on_duplicate="drop")
def exact_copies_dropped(folder):
    (path, *_) = write_series(folder, phantom())
    (folder / "copy.dcm").write_bytes(path.read_bytes())
    return truth_of(phantom())


@variant(assume_intercept=-1024)
def no_rescale_assumed(folder):
    return edited(RescaleSlope=None, RescaleIntercept=None)(folder)


TILT_SHEAR = (0.0, STEP * np.tan(np.radians(15)), 0.0)


@variant(on_tilt="resample")
def tilt_straightened(folder):
    """A field that is linear in space, which interpolation keeps."""
    positions = positions_of(shear=TILT_SHEAR)
    rows, columns = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")

    def field(x, y, z):
        return 20 * x - 30 * y + 4 * z

    hu = np.stack([field(p[0] + columns * SPACING[1], p[1] + rows * SPACING[0], p[2]) for p in positions])
    write_series(folder, hu, positions=positions, slopes=0.05)
    grown = int(np.ceil(TILT_SHEAR[1] * (SLICES - 1) / SPACING[0])) + ROWS
    y = ORIGIN[1] + np.arange(grown) * SPACING[0]
    straight = positions_of()
    truth, inside = np.full((SLICES, grown, COLUMNS), -1000.0), np.zeros((SLICES, grown, COLUMNS), dtype=bool)
    for k, p in enumerate(straight):
        covered = (y >= positions[k, 1] - 1e-6) & (y <= positions[k, 1] + (ROWS - 1) * SPACING[0] + 1e-6)
        values = field(p[0] + np.arange(COLUMNS)[None] * SPACING[1], y[:, None], p[2])
        truth[k, covered], inside[k, covered] = values[covered], True
    return truth_of(truth, straight, inside=inside)


@variant(tilt_tolerance_degrees=20)
def tilt_kept_in_the_affine(folder):
    return usual(folder, positions=positions_of(shear=TILT_SHEAR))


@variant(spacing_tolerance=0.1)
def uneven_within_a_wider_tolerance(folder):
    positions = positions_of()
    positions[5, 2] += 0.06
    return usual(folder, positions=positions)


def rounded(decimals: int, length_mm: float, orientation=AXIAL) -> np.ndarray:
    """Positions of even slices, as an exporter rounds them; the first and the last are exact."""
    positions = positions_of(orientation=orientation, step=length_mm / (SLICES - 1), origin=(-10, -20, 30))
    return np.round(positions, decimals)


@variant()
def positions_rounded_to_a_tenth(folder):
    return usual(folder, positions=rounded(1, 6.9))


@variant()
def positions_rounded_to_a_hundredth(folder):
    return usual(folder, positions=rounded(2, 1.17))


@variant()
def positions_of_thick_slices_rounded_to_whole_mm(folder):
    return usual(folder, positions=rounded(0, 72))


@variant()
def rounded_positions_of_an_oblique_stack(folder):
    positions = rounded(1, 15.0, OBLIQUE)
    return usual(folder, positions=positions, orientation=OBLIQUE)


def without_preamble(folder: Path, meta: bool, **options: Any) -> Truth:
    """The plain series, each file from its first element on, or from the first one behind the file's meta group."""
    truth = usual(folder, **options)
    for file in folder.iterdir():
        length = pydicom.dcmread(file).file_meta.FileMetaInformationGroupLength
        file.write_bytes(file.read_bytes()[132 if meta else 132 + 12 + length :])
    return truth


@variant()
def no_preamble(folder):
    return without_preamble(folder, meta=True)


@variant()
def no_preamble_and_no_ending(folder):
    return without_preamble(folder, meta=True, names=[f"I{number:03d}" for number in range(SLICES)])


@variant()
def no_meta_group_explicit(folder):
    return without_preamble(folder, meta=False)


@variant()
def no_meta_group_implicit(folder):
    return without_preamble(folder, meta=False, syntax=ImplicitVRLittleEndian)


# refused


@variant("expected a DICOM file .*got 400 bytes of neither")
def another_format_with_the_ending(folder):
    usual(folder)
    (folder / "x.dcm").write_bytes(b"\x08\0\x77\x01" + b"text" * 99)


@variant(r"unevenly spaced slices: .*2.5 mm \(1 times\)")
def missing_slice_among_rounded_positions(folder):
    keep = [k for k in range(SLICES) if k != 4]
    write_series(folder, phantom()[keep], positions=rounded(1, 13.7)[keep])


@variant("unevenly spaced slices")
def positions_rounded_more_coarsely_than_the_slices(folder):
    usual(folder, positions=rounded(0, 25))


@variant("no DICOM file")
def empty_folder(folder):
    folder.mkdir()


@variant("no DICOM file")
def no_dicom(folder):
    folder.mkdir()
    (folder / "a.txt").write_text("x")


@variant("000.dcm.*a DICOM file")
def dicom_by_name_alone(folder):
    usual(folder)
    (folder / "000.dcm").write_bytes(b"not an image")


def cut_header(folder, keyword: str) -> None:
    """The first file ends where this element begins."""
    usual(folder)
    path = folder / "000.dcm"
    with path.open("rb") as file:
        pydicom.filereader.read_partial(file, stop_when=lambda tag, *_: tag == pydicom.tag.Tag(keyword))
        size = file.tell()
    path.write_bytes(path.read_bytes()[:size])


@variant("000.dcm.*a readable DICOM header, got no SOPClassUID")
def header_cut_at_once(folder):
    cut_header(folder, "SOPClassUID")


@variant("000.dcm.*a readable DICOM header, got no SeriesInstanceUID")
def header_cut_before_the_series(folder):
    cut_header(folder, "StudyInstanceUID")


@variant("000.dcm.*a readable DICOM header, got no Rows")
def header_cut_before_the_size(folder):
    cut_header(folder, "SamplesPerPixel")


@variant("whole files, got no pixel data.*first: 000.dcm")
def header_cut_before_the_pixels(folder):
    cut_header(folder, "PixelData")


@variant(r"whole files, got truncated: 100 of 160 bytes.*first: 005\.dcm")
def truncated(folder):
    usual(folder)
    (folder / "005.dcm").write_bytes((folder / "005.dcm").read_bytes()[:-60])


@variant("whole files, got truncated: the compressed pixel data break off")
def truncated_compressed(folder):
    usual(folder, syntax=RLELossless)
    (folder / "005.dcm").write_bytes((folder / "005.dcm").read_bytes()[:-60])


@variant("whole files, got truncated", file="e.dcm")
def truncated_enhanced(folder):
    enhanced(folder)
    (folder / "e.dcm").write_bytes((folder / "e.dcm").read_bytes()[:-200])


@variant("no pixel data")
def without_pixels(folder):
    edited(PixelData=None)(folder)


@variant("000.dcm.*pixels that can be decoded, got High-Throughput JPEG 2000.*Decompress")
def compressed_without_codec(folder):
    def edit(ds, k):
        ds.PixelData = pydicom.encaps.encapsulate([bytes(ds.PixelData)])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = HTJ2KLossless

    usual(folder, edit=edit)


@variant(r"one series, got 2 series:.*1\.2\.826\.2\.1 .*1\.2\.826\.2\.4 .*FOLDER/series:UID")
def several_series(folder):
    one_of_several_series_chosen(folder)


@variant("the series 1.2.3, got 1 series", series_uid="1.2.3")
def series_not_there(folder):
    usual(folder)


@variant("CT, MR or PET series, got no image volume")
def radiographs(folder):
    write_series(folder, phantom(), modality="CR")


@variant("CT, MR or PET series, got no image volume.*LOCALIZER")
def scout_alone(folder):
    edited(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])(folder)


@variant("at least 2 slices", file="000.dcm")
def one_file_of_a_series(folder):
    usual(folder)


@variant(r"2 missing slices \(a step of 4.5 mm after slice 4.*on_gap")
def missing_slices(folder):
    keep = [k for k in range(SLICES) if k not in (4, 5)]
    write_series(folder, phantom()[keep], positions=positions_of()[keep])


@variant(r"unevenly spaced slices: steps of 3 mm \(4 times\), 1.5 mm \(3 times\)")
def mixed_spacing(folder):
    mixed_spacing_interpolated(folder)


@variant("unevenly spaced slices")
def one_slice_out_of_step(folder):
    positions = positions_of()
    positions[5, 2] += 0.06
    usual(folder, positions=positions)


@variant("duplicate slices, the same to the byte.*on_duplicate drop")
def duplicate_slice(folder):
    exact_copies_dropped(folder)


@variant("1 of 12 positions with several: duplicate slices with different pixels", on_duplicate="drop")
def duplicate_position_with_other_pixels(folder):
    usual(folder)
    write_series(folder, phantom(1, seed=9), names=["again.dcm"])


@variant("12 of 12 positions with several: images that differ in EchoTime 30.0 / 10.0.*dicom_options#select ")
def two_echoes(folder):
    one_of_two_echoes_chosen(folder)


@variant("differ in TemporalPositionIndex")
def two_enhanced_phases(folder):
    one_of_two_enhanced_phases_chosen(folder)


@variant("images with EchoTime 99", select={"EchoTime": 99})
def echo_not_there(folder):
    one_of_two_echoes_chosen(folder)


@variant("one image at each position", on_duplicate="drop")
def all_at_one_position(folder):
    usual(folder, positions=np.tile(ORIGIN, (SLICES, 1)))


@variant("gantry tilt of 15.00 degrees.*on_tilt")
def gantry_tilt(folder):
    tilt_straightened(folder)


@variant("gantry tilt of 15.00 degrees")
def enhanced_gantry_tilt(folder):
    write_enhanced(folder / "e.dcm", phantom(), positions=positions_of(shear=TILT_SHEAR))


@variant("2 missing slices")
def enhanced_missing(folder):
    keep = [k for k in range(SLICES) if k not in (4, 5)]
    write_enhanced(folder / "e.dcm", phantom()[keep], positions=positions_of()[keep])


@variant("stacked along a line, got slices up to")
def slices_beside_the_line(folder):
    positions = positions_of()
    positions[6:, 0] += 5
    positions[-1, 0] -= 5
    usual(folder, positions=positions)


@variant("PixelSpacing, two positive numbers, got none")
def no_pixel_spacing(folder):
    edited(PixelSpacing=None)(folder)


@variant("PixelSpacing, two positive numbers, got none")
def empty_pixel_spacing(folder):
    edited(PixelSpacing="")(folder)


@variant("PixelSpacing, two positive numbers")
def zero_pixel_spacing(folder):
    edited(PixelSpacing=[0.0, 0.7])(folder)


@variant("ImagePositionPatient, three finite numbers, got none")
def no_position(folder):
    edited(ImagePositionPatient=None)(folder)


@variant("ImagePositionPatient has 2 values|ImagePositionPatient")
def position_of_two_numbers(folder):
    edited(ImagePositionPatient=[1.0, 2.0])(folder)


@variant("ImageOrientationPatient, two perpendicular unit vectors, got none")
def no_orientation(folder):
    edited(ImageOrientationPatient=None)(folder)


@variant("two perpendicular unit vectors")
def skewed_orientation(folder):
    edited(ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0])(folder)


@variant("RescaleSlope and RescaleIntercept, got slope none, intercept none in 12 of 12.*assume_intercept")
def no_rescale(folder):
    no_rescale_assumed(folder)


@variant("RescaleSlope and RescaleIntercept, got slope 1, intercept none", assume_intercept=-1024)
def slope_without_intercept(folder):
    edited(RescaleIntercept=None)(folder)


@variant("RescaleSlope and RescaleIntercept.*in 1 of 12 images .first: 003")
def one_slice_without_rescale(folder):
    usual(folder, edit=setter(only=[3], RescaleSlope=None, RescaleIntercept=None))


@variant("a finite RescaleSlope and RescaleIntercept, slope not 0, got slope nan")
def nan_rescale(folder):
    edited(RescaleSlope=float("nan"))(folder)


@variant("slope not 0, got slope 0")
def zero_slope(folder):
    edited(RescaleSlope=0)(folder)


@variant("linear rescale, got a ModalityLUTSequence")
def lookup_table(folder):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [2, 0, 16], "HU", bytes(4)
    edited(ModalityLUTSequence=[table])(folder)


@variant("MONOCHROME2., got MONOCHROME1")
def monochrome1(folder):
    edited(PhotometricInterpretation="MONOCHROME1")(folder)


@variant("got RGB with 3 sample")
def colour(folder):
    def edit(ds, k):
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = bytes(ROWS * COLUMNS * 3)

    usual(folder, edit=edit)


@variant("CT in Hounsfield units, got RescaleType Z_EFF")
def effective_z(folder):
    edited(RescaleType="Z_EFF")(folder)


@variant("enhanced multi-frame file, got 2 frames without functional groups")
def frames_without_groups(folder):
    def edit(ds, k):
        ds.NumberOfFrames, ds.PixelData = 2, 2 * bytes(ds.PixelData)

    usual(folder, edit=edit)


@variant("one slice, got mosaics")
def mosaic(folder):
    edited(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])(folder)


@variant("one size of images in a series")
def mixed_sizes(folder):
    hu = phantom()
    write_series(folder, hu[:6], positions=positions_of()[:6])
    names = [f"b{k}.dcm" for k in range(6)]
    write_series(folder, phantom(6, 12, 12), positions=positions_of()[6:], names=names)


@variant("one orientation in a series")
def mixed_orientations(folder):
    usual(folder, edit=setter(only=[7], ImageOrientationPatient=list(SAGITTAL)))


@variant("one PixelSpacing in a series")
def mixed_pixel_spacing(folder):
    usual(folder, edit=setter(only=[7], PixelSpacing=[0.9, 0.9]))


@variant("one PatientID in a series")
def two_patients(folder):
    usual(folder, edit=setter(only=[7], PatientID="PAT-2"))


@variant("one FrameOfReferenceUID in a series")
def two_frames_of_reference(folder):
    usual(folder, edit=setter(only=[7], FrameOfReferenceUID="1.2.3"))


EXACT = [name for name, v in VARIANTS.items() if v.error is None]
REFUSED = [name for name, v in VARIANTS.items() if v.error is not None]
