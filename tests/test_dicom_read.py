"""A DICOM series is read to the voxel and the millimetre, or refused with its cause: no third outcome."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import warnings

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_series import CLASSES, LPS_TO_RAS, phantom, positions_of, setter, write_series
from dicom_variants import EXACT, REFUSED, VARIANTS
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImaged, SpatialPadd
from pydicom.data import get_testdata_file
from workflows import workflow

from monai_diffscore.data import LoadVolumed, list_volumes
from monai_diffscore.data.dicom import DicomReport, StrictDicomReader, read_dicom_series, read_with_field_of_view
from monai_diffscore.data.dicom.pixels import read_pixels
from monai_diffscore.data.dicom.planes import read_planes
from monai_diffscore.data.files import file_hash
from monai_diffscore.errors import DataError, find_cause

each_exact = pytest.mark.parametrize("name", EXACT)
each_refused = pytest.mark.parametrize("name", REFUSED)


@contextlib.contextmanager
def expected_warnings(name):
    """The warning that belongs to the variant, and no other of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = [str(w.message) for w in caught if w.category is UserWarning and "NvImg" not in str(w.message)]
    expected = VARIANTS[name].warns
    if expected is None:
        assert not [text for text in ours if "passed over" in text]
    else:
        assert any(re.search(expected, text, re.S) for text in ours)


def test_twenty_variants_are_exact_and_twenty_are_refused():
    assert len(EXACT) >= 20
    assert len(REFUSED) >= 20


@each_exact
def test_a_right_series_is_read_exactly(name, tmp_path):
    """By itself, and through MONAI's loader."""
    variant = VARIANTS[name]
    truth = variant.write(tmp_path / "series")
    path = tmp_path / "series" / variant.file
    with expected_warnings(name):
        volume, inside = read_with_field_of_view(path, **variant.rules)
    assert volume.shape == (1, *truth.voxels.shape)
    expected = np.ones(truth.voxels.shape) if truth.inside is None else truth.inside
    np.testing.assert_array_equal(inside[0].numpy(), expected)
    assert DicomReport.of(volume.meta).modality in ("CT", "MR", "PT")
    loaded = LoadImaged("image", reader=StrictDicomReader(**variant.rules), ensure_channel_first=True)({"image": path})
    for image in (volume, loaded["image"]):
        np.testing.assert_allclose(image[0].numpy(), truth.voxels, atol=0.05)
        np.testing.assert_allclose(image.affine.numpy(), truth.affine, atol=1e-6)


@each_refused
def test_a_wrong_series_is_refused_with_its_cause(name, tmp_path):
    """By itself, and through MONAI's loader, which silently tries its other readers if read() raises."""
    variant = VARIANTS[name]
    variant.write(tmp_path / "series")
    path = tmp_path / "series" / variant.file
    load = LoadImaged("image", reader=StrictDicomReader(**variant.rules), ensure_channel_first=True)
    for read in (lambda: read_dicom_series(path, **variant.rules), lambda: load({"image": path})):
        with pytest.raises(DataError) as caught:
            read()
        assert re.search(variant.error, str(caught.value), re.S), str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["plain", "run_length_compressed", "enhanced"])
def test_a_file_cut_anywhere_is_refused(name, tmp_path):
    """Also beside a whole series whose UID is asked for: a part of a file never counts as another series."""
    VARIANTS[name].write(tmp_path)
    (path, *others) = sorted(tmp_path.glob("*.dcm"))
    content = path.read_bytes()
    for file in others[3:]:
        file.unlink()
    for size in range(133, len(content) - 8, 23):
        path.write_bytes(content[:size])
        with pytest.raises(DataError):
            read_dicom_series(tmp_path, series_uid="1.2.826.2.7" if name == "enhanced" else "1.2.826.2.1")


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["plain", "run_length_compressed", "enhanced"])
def test_no_cut_of_a_header_escapes_as_an_error_of_the_decoder(name, step, tmp_path):
    """Byte for byte: values cut in their middle fail in pydicom's converters, when they are first looked at."""
    VARIANTS[name].write(tmp_path)
    path = min(tmp_path.glob("*.dcm"))
    content = path.read_bytes()
    for size in range(133, len(content) - 8, step):
        path.write_bytes(content[:size])
        with contextlib.suppress(DataError):
            assert all(plane.damage for plane in read_planes(path)), f"a whole file at {size} of {len(content)} bytes"


def test_the_report_lists_the_findings(tmp_path):
    VARIANTS["missing_slices_interpolated"].write(tmp_path / "series")
    report = DicomReport.of(read_dicom_series(tmp_path / "series", on_gap="resample").meta)
    assert (report.modality, report.unit, report.kind) == ("CT", "HU", "CT Image Storage")
    assert (report.slices, report.shape) == (9, (8, 10, 12))
    assert report.spacing_mm == pytest.approx((0.7, 0.8, 1.5))
    assert report.step_range_mm == pytest.approx((1.5, 4.5))
    assert report.slice_thickness_mm == 2.0
    assert report.repairs == ("on_gap='resample': 3 of 12 slices interpolated",)
    assert DicomReport(**report.__dict__) == report


@pytest.mark.parametrize(
    ("name", "repair"),
    [
        ("exact_copies_dropped", "on_duplicate='drop': 1 exact copies left out"),
        ("no_rescale_assumed", "assume_intercept=-1024: no rescale in the files"),
        ("tilt_straightened", "on_tilt='resample': slices of a gantry tilted by 15.00 degrees moved back"),
        ("plain", None),
    ],
)
def test_the_effect_of_an_option_is_recorded(name, repair, tmp_path):
    VARIANTS[name].write(tmp_path / "series")
    report = DicomReport.of(read_dicom_series(tmp_path / "series", **VARIANTS[name].rules).meta)
    assert report.repairs == ((repair,) if repair else ())


def test_tilt_and_gaps_are_repaired_together(tmp_path):
    """The linear field again, tilted and with slices missing: exact inside the field of view."""
    truth = VARIANTS["tilt_straightened"].write(tmp_path / "series")
    for k in (3, 7, 8):
        (tmp_path / f"series/{k:03d}.dcm").unlink()
    volume, inside = read_with_field_of_view(tmp_path / "series", on_tilt="resample", on_gap="resample")
    assert volume.shape == (1, *truth.voxels.shape)
    seen = inside[0].numpy() > 0
    assert seen.mean() > 0.5
    np.testing.assert_allclose(volume[0].numpy()[seen], truth.voxels[seen], atol=0.05)


@pytest.mark.parametrize("name", ["plain", "z_descending", "sagittal", "oblique", "slope_2", "jpeg_ls_compressed"])
def test_where_itk_is_right_the_result_is_the_same(name, tmp_path):
    VARIANTS[name].write(tmp_path / "series")
    ours = read_dicom_series(tmp_path / "series")
    theirs = LoadImaged("image", reader="ITKReader", ensure_channel_first=True)({"image": str(tmp_path / "series")})
    np.testing.assert_array_equal(ours.numpy(), theirs["image"].numpy())
    np.testing.assert_allclose(ours.affine.numpy(), theirs["image"].affine.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "instance_numbers_not_spatial", "sagittal", "enhanced_frames_shuffled"])
def test_highdicom_sees_the_same_volume(name, tmp_path):
    VARIANTS[name].write(tmp_path / "series")
    ours = read_dicom_series(tmp_path / "series")
    if name.startswith("enhanced"):
        theirs = highdicom.imread(tmp_path / "series/e.dcm").get_volume()
    else:
        files = sorted((tmp_path / "series").glob("*"))
        theirs = highdicom.get_volume_from_series([pydicom.dcmread(f) for f in files])
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in ours.shape[1:]])))
    by_place = {}
    for volume, affine in (
        (ours[0].numpy(), LPS_TO_RAS @ ours.affine.numpy()),
        (theirs.array, theirs.affine),
    ):
        ends = np.array(list(itertools.product(*[(0, n - 1) for n in volume.shape])))
        places = (affine[:3, :3] @ ends.T).T + affine[:3, 3]
        by_place.setdefault("values", []).append(
            {tuple(p.round(3) + 0.0): volume[tuple(e)] for p, e in zip(places, ends, strict=True)}
        )
    assert len(corners) == 8
    assert by_place["values"][0] == by_place["values"][1]


def test_options_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(TypeError, match="no option on_gaps; it has on_gap,"):
        read_dicom_series(tmp_path, on_gaps="resample")
    with pytest.raises(ValueError, match=r"on_gap must be one of .*'fill'"):
        StrictDicomReader(on_gap="fill")
    with pytest.raises(ValueError, match="content must be"):
        StrictDicomReader(content="mask")


def test_the_field_of_view_is_read_as_an_image_of_its_own(tmp_path):
    truth = VARIANTS["padding_declared"].write(tmp_path / "series")
    reader = StrictDicomReader(content="field_of_view")
    mask = LoadImaged("inside", reader=reader, ensure_channel_first=True)({"inside": str(tmp_path / "series")})
    np.testing.assert_array_equal(mask["inside"][0].numpy(), truth.inside)


def test_statistics_do_not_see_the_padding(tmp_path):
    VARIANTS["padding_undeclared_3024"].write(tmp_path / "series")
    volume = read_dicom_series(tmp_path / "series")
    assert volume.min() >= -1000
    assert DicomReport.of(volume.meta).padding == (-3024.0,)
    assert DicomReport.of(volume.meta).padding_share == pytest.approx(16 / 80)


# ---- folders of many series ----


@pytest.fixture
def archive(tmp_path):
    """Two patients, one with two series in one folder and a scout; one series spread over folders; one NIfTI file."""
    rename = {"a": "PAT-A", "b": "PAT-B"}
    volumes = {}
    for uid, folder, patient, names in (
        ("1.2.11", "one", "a", None),
        ("1.2.12", "one", "a", [f"x{k}" for k in range(12)]),
        ("1.2.13", "two", "b", [f"S{k}/I" for k in range(12)]),
        ("1.2.14", "three/only", "", None),
    ):
        volumes[uid] = phantom(seed=len(volumes))
        edit = setter(PatientID=rename.get(patient, ""), StudyInstanceUID=f"1.3.{folder}".replace("/", "."))
        write_series(tmp_path / folder, np.abs(volumes[uid]), modality="MR", uid=uid, names=names, edit=edit)
    scout = setter(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "two", phantom(3), modality="MR", uid="1.2.15", edit=scout, names=["p", "q", "r"])
    image = nib.Nifti1Image(np.abs(phantom(8)).astype(np.float32), np.eye(4))
    nib.save(image, tmp_path / "sub-9.nii.gz")
    return tmp_path, volumes


def test_series_are_found_beside_nifti_with_their_patients(archive):
    root, _ = archive
    with pytest.warns(UserWarning, match=r"left out 1 x scout \(DICOM\)"):
        cases = list_volumes(root)
    assert [(case["image"].removeprefix(f"{root}/"), case["subject"]) for case in cases] == [
        ("one/series:1.2.11", "PAT-A"),
        ("one/series:1.2.12", "PAT-A"),
        ("sub-9.nii.gz", "sub-9"),
        ("three/only", "three/only"),
        ("two/series:1.2.13", "PAT-B"),
    ]


def test_listed_series_are_loaded_and_joined_to_batches(archive):
    root, volumes = archive
    with pytest.warns(UserWarning, match="left out"):
        cases = list_volumes(root)
    load = LoadVolumed("image", modality="MR")
    for case in cases:
        uid = DicomReport.of(load(case)["image"].meta).series_uid if "nii" not in case["image"] else None
        if uid is not None:
            np.testing.assert_allclose(load(case)["image"][0].numpy(), np.abs(volumes[uid]).transpose(2, 1, 0))
    dataset = Dataset(cases, Compose([load, SpatialPadd("image", (16, 16, 16))]))
    (batch,) = DataLoader(dataset, batch_size=len(cases), num_workers=0)
    assert batch["image"].shape == (5, 1, 16, 16, 16)
    assert batch["image"].affine.shape == (5, 4, 4)


def test_a_series_of_another_modality_is_refused(tmp_path):
    VARIANTS["plain"].write(tmp_path / "series")
    with pytest.raises(DataError, match=r"series \(key 'scan'\): expected a series of modality MR, got CT"):
        LoadVolumed("scan", modality="MR")({"scan": str(tmp_path / "series")})
    VARIANTS["missing_slices"].write(tmp_path / "gap")
    with pytest.raises(DataError, match=r"gap \(key 'scan'\).*2 missing slices"):
        LoadVolumed("scan")({"scan": str(tmp_path / "gap")})
    LoadVolumed("scan", dicom={"on_gap": "resample"})({"scan": str(tmp_path / "gap")})


# ---- real files ----


REAL = """693_J2KI J2K_pixelrep_mismatch CT_small MR_small MR_small_RLE MR_small_bigendian MR_small_expb
    MR_small_implicit MR_small_jp2klossless MR_small_jpeg_ls_lossless MR_small_padded"""


@pytest.mark.parametrize("name", REAL.split())
def test_slices_of_real_scanners_are_decoded_as_pydicom_does(name):
    path = get_testdata_file(f"{name}.dcm", download=False)
    (plane,) = read_planes(path)
    assert plane.damage == ""
    header = pydicom.dcmread(path)
    values, padding = read_pixels([plane])
    slope, intercept = header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)
    expected = header.pixel_array * float(slope) + float(intercept)
    np.testing.assert_allclose(values[..., 0].T, expected, atol=1e-3)
    if "PixelPaddingValue" in header:
        np.testing.assert_array_equal(padding[..., 0].T, header.pixel_array == plane.padding[0])


def test_a_real_file_cut_off_is_damaged():
    (plane,) = read_planes(get_testdata_file("MR_truncated.dcm", download=False))
    assert plane.damage.startswith("truncated")


# ---- the bundles ----


@pytest.mark.parametrize("bundle", [pytest.param("mri_unet3d", marks=pytest.mark.slow), "mri_dit3d"])
def test_a_bundle_trains_on_dicom_and_writes_dicom(bundle, tmp_path):
    """The same flag as for NIfTI: three subjects, trained, sampled, and the samples are MR series without a patient."""
    subjects = tmp_path / "data"
    for seed in range(3):
        edit = setter(PatientID=f"PAT-{seed}", FrameOfReferenceUID=f"1.2.{seed}", StudyInstanceUID=f"1.3.{seed}")
        hu = head(seed)
        positions = positions_of(len(hu), step=2.0)
        write_series(subjects / f"scan{seed}", hu, modality="MR", intercept=None, spacing=(2.0, 2.0), edit=edit,
                     positions=positions, uid=f"1.2.3.{seed}")  # fmt: skip
    where = {"output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path / "models"), "dataset_dir": str(subjects)}
    training = workflow(bundle, ["train"], ["smoke"], **where)
    cases = training.parser.get_parsed_content("cases")
    assert [len(part) for part in cases] == [2, 1]
    assert {case["subject"] for part in cases for case in part} == {"PAT-0", "PAT-1", "PAT-2"}
    training.run()
    statistics = json.loads((tmp_path / "models/data_statistics.json").read_text())
    assert 500 < statistics["high"] < 1100
    samples = workflow(
        bundle, ["inference"], ["smoke"], kind="infer", save="@save_dicom",
        checkpoint=str(tmp_path / "models/model.pt"), output_dir=str(tmp_path / "samples"),
    )  # fmt: skip
    samples.run()
    digest = file_hash(tmp_path / "models/model.pt")
    for number in range(2):
        volume = read_dicom_series(tmp_path / f"samples/sample_{number:04d}")
        assert volume.shape == (1, 32, 32, 32)
        assert statistics["low"] <= volume.min() < volume.max() <= statistics["high"] + 0.1
        header = pydicom.dcmread(tmp_path / f"samples/sample_{number:04d}/IM0001.dcm")
        assert digest in header.DerivationDescription
        assert header.PatientID.startswith("SYNTH-")


def test_a_bundle_names_the_fault_of_a_series_and_takes_the_option(tmp_path):
    VARIANTS["missing_slices_interpolated"].write(tmp_path / "data")
    for file in (tmp_path / "data").iterdir():
        header = pydicom.dcmread(file)
        header.Modality, header.SOPClassUID = "MR", CLASSES["MR"]
        header.save_as(file)
    where = {"output_dir": f"{tmp_path}/out", "ckpt_dir": f"{tmp_path}/models", "dataset_dir": f"{tmp_path}/data"}
    with pytest.raises(RuntimeError) as caught:
        workflow("mri_unet3d", ["train"], ["smoke"], **where)
    assert "3 missing slices" in str(find_cause(caught.value))
    workflow("mri_unet3d", ["train"], ["smoke"], dicom_options={"on_gap": "resample"}, **where)


def head(seed: int) -> np.ndarray:
    """A smooth head-like volume [40, 48, 40] with texture, in whole units."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in (40, 48, 40)], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    texture = np.random.default_rng(seed).normal(size=radius.shape)
    return np.where(radius < 0.9, 600 + 300 * np.cos(6 * radius) + 30 * texture, 0.0).round().clip(0)
