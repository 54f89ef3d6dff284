"""Synthetic series come back exactly in every reader, hold no trace of a patient, and are written whole or not."""

from __future__ import annotations

import re
import shutil
import subprocess

import highdicom
import itk
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from dicom_series import LPS_TO_RAS, phantom, write_enhanced, write_series
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientation

from monai_diffscore.data import BlankVolumed, SaveDicomd, read_dicom_series
from monai_diffscore.data.dicom import DicomReport, write_dicom_seg, write_dicom_series
from monai_diffscore.data.files import file_hash
from monai_diffscore.errors import DataError
from monai_diffscore.transforms import WindowIntensityd

HASH = "sha256:0123456789abcdef"
ROTATION = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1.0]])
AFFINES = {
    "RAS": np.diag([2.0, 1.5, 3.0, 1]),
    "LPS": np.diag([-2.0, -1.5, 3.0, 1]),
    "LAS": np.diag([-2.0, 1.5, 3.0, 1]),
    "SRP": np.array([[0, 2.0, 0, 5], [0, 0, -1.5, 6], [3.0, 0, 0, 7], [0, 0, 0, 1]]),
    "oblique": np.block([[ROTATION * [0.957, 1.1, 2.5], np.array([[-12.345], [6.789], [101.5]])], [np.zeros(3), 1]]),
}


def volume_of(affine: np.ndarray, values: np.ndarray | None = None) -> MetaTensor:
    """Whole HU over all of int16 that CT has, in an array of three different sizes, with an affine."""
    if values is None:
        values = np.random.default_rng(0).integers(-1024, 3072, size=(6, 7, 8))
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(affine))


def in_lps(volume: MetaTensor) -> MetaTensor:
    return Orientation("LPS", labels=None)(volume)


@pytest.fixture(params=AFFINES)
def written(request, tmp_path):
    volume = volume_of(AFFINES[request.param])
    return in_lps(volume), write_dicom_series(volume, tmp_path / "ct", modality="CT", model_hash=HASH)


def test_simpleitk_reads_the_written_series(written):
    volume, series = written
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series.folder))
    image = sitk.ReadImage(names)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), volume[0].numpy())
    lps = LPS_TO_RAS @ volume.affine.numpy()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    np.testing.assert_allclose(image.GetSpacing(), spacing, atol=1e-8)
    np.testing.assert_allclose(image.GetOrigin(), lps[:3, 3], atol=1e-8)
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), lps[:3, :3] / spacing, atol=1e-8)


def test_itk_reads_the_written_series(written):
    volume, series = written
    image = itk.imread([str(f) for f in series.files])
    np.testing.assert_array_equal(itk.array_from_image(image).transpose(2, 1, 0), volume[0].numpy())
    lps = LPS_TO_RAS @ volume.affine.numpy()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    np.testing.assert_allclose(np.asarray(image.GetSpacing()), spacing, atol=1e-8)
    np.testing.assert_allclose(itk.array_from_matrix(image.GetDirection()), lps[:3, :3] / spacing, atol=1e-8)


def test_pydicom_reads_the_written_series(written):
    volume, series = written
    lps = LPS_TO_RAS @ volume.affine.numpy()
    for k, file in enumerate(series.files):
        ds = pydicom.dcmread(file)
        hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
        np.testing.assert_array_equal(hu.T, volume[0, ..., k].numpy())
        np.testing.assert_allclose(ds.ImagePositionPatient, lps[:3, 3] + k * lps[:3, 2], atol=1e-8)
        np.testing.assert_allclose(ds.PixelSpacing, np.linalg.norm(lps[:3, [1, 0]], axis=0), atol=1e-8)
        assert ds.InstanceNumber == k + 1


def test_the_strict_reader_and_highdicom_read_the_written_series(written):
    volume, series = written
    back = read_dicom_series(series.folder)
    np.testing.assert_array_equal(back.numpy(), volume.numpy())
    np.testing.assert_allclose(back.affine.numpy(), volume.affine.numpy(), atol=1e-8)
    assert DicomReport.of(back.meta).unit == "HU"
    theirs = highdicom.get_volume_from_series([pydicom.dcmread(f) for f in series.files])
    assert sorted(theirs.array.ravel()) == sorted(volume[0].numpy().ravel())


# what a file may hold, and nothing else
ALLOWED = """SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID SyntheticData StudyDate SeriesDate ContentDate
    StudyTime SeriesTime ContentTime AccessionNumber Modality Manufacturer ReferringPhysicianName StudyDescription
    SeriesDescription ManufacturerModelName DerivationDescription PatientName PatientID PatientBirthDate PatientSex
    SliceThickness KVP SoftwareVersions PatientPosition StudyInstanceUID SeriesInstanceUID StudyID SeriesNumber
    Laterality AcquisitionNumber InstanceNumber ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID
    PositionReferenceIndicator SliceLocation ImageComments SamplesPerPixel PhotometricInterpretation Rows Columns
    PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation BurnedInAnnotation WindowCenter WindowWidth
    RescaleIntercept RescaleSlope RescaleType WindowCenterWidthExplanation LossyImageCompression PixelData
    ScanningSequence SequenceVariant ScanOptions MRAcquisitionType EchoTime EchoTrainLength RepetitionTime
    SpacingBetweenSlices"""


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_nothing_of_a_patient_is_in_a_file(modality, tmp_path):
    """Whatever the metadata of the volume say: a series read from a patient and written again."""
    write_series(tmp_path / "patient", phantom())
    volume = read_dicom_series(tmp_path / "patient")
    volume.meta |= {"0010|0010": "Doe^Jane", "PatientName": "Doe^Jane", "patient_id": "PAT-1"}
    series = write_dicom_series(volume, tmp_path / "out", modality=modality, model_hash=HASH)
    source = pydicom.dcmread(tmp_path / "patient/000.dcm")
    for file in series.files:
        ds = pydicom.dcmread(file)
        assert {element.keyword for element in ds} <= set(ALLOWED.split())
        content = file.read_bytes()
        for secret in (b"Doe", b"Jane", b"PAT-1", b"19700101", b"1.2.826.1.", b"1.2.826.2.", str(tmp_path).encode()):
            assert secret not in content
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert ds[name].value.startswith("2.25.")
            assert ds[name].value != source[name].value


def test_every_file_says_that_it_is_synthetic(tmp_path):
    series = write_dicom_series(volume_of(AFFINES["RAS"]), tmp_path / "ct", modality="CT", model_hash=HASH)
    headers = [pydicom.dcmread(f) for f in series.files]
    for ds in headers:
        assert ds.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
        assert ds.SyntheticData == "YES"
        assert ds.SeriesDescription.startswith("SYNTHETIC")
        assert ds.BurnedInAnnotation == "NO"
        assert HASH in ds.DerivationDescription
        assert re.fullmatch(r"SYNTH-[0-9a-f-]{36}", ds.PatientID)
        assert ds.PatientBirthDate == ds.PatientSex == ""
        assert len(ds.WindowCenter) == len(ds.WindowWidth) == len(ds.WindowCenterWidthExplanation) == 4
    assert len({ds.SOPInstanceUID for ds in headers}) == len(headers)
    assert len({ds.SeriesInstanceUID for ds in headers}) == 1
    other = write_dicom_series(volume_of(AFFINES["RAS"]), tmp_path / "ct2", modality="CT", model_hash=HASH)
    assert {series.series_uid, series.study_uid}.isdisjoint({other.series_uid, other.study_uid})


def test_a_series_shown_upright_has_rows_to_the_left_and_columns_to_the_back(tmp_path):
    """One bright voxel at the patient's right, front and feet is the first pixel of the first image."""
    values = np.full((6, 7, 8), -1000.0)
    values[5, 6, 0] = 500  # RAS: right-most, front-most, lowest
    series = write_dicom_series(volume_of(AFFINES["RAS"], values), tmp_path / "ct", modality="CT", model_hash=HASH)
    first = pydicom.dcmread(series.files[0])
    assert first.pixel_array[0, 0] == 500
    assert list(first.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]


def test_fractions_of_hu_are_rounded_and_the_error_is_stated(tmp_path):
    values = np.random.default_rng(0).uniform(-1000, 1000, size=(6, 7, 8))
    volume = volume_of(AFFINES["LPS"], values)
    series = write_dicom_series(volume, tmp_path / "ct", modality="CT", model_hash=HASH)
    assert 0.4 < series.rounding <= 0.5
    back = read_dicom_series(series.folder).numpy()
    assert np.abs(back - volume.numpy()).max() == pytest.approx(series.rounding)


@pytest.mark.parametrize(
    ("scale", "slope"), [(1.0, 1e-4), (1059.3, 0.1), (1e-4, 1e-8), (32767.4, 1.0)], ids=lambda v: f"{v:g}"
)
def test_mr_keeps_its_units_to_four_digits(scale, slope, tmp_path):
    values = scale * np.random.default_rng(0).uniform(0.0, 1, size=(6, 7, 8))
    values[0, 0, 0] = scale
    volume = volume_of(AFFINES["LPS"], values)
    series = write_dicom_series(volume, tmp_path / "mr", modality="MR", model_hash=HASH)
    assert series.slope == pytest.approx(slope)
    assert series.rounding <= 0.51 * slope
    for back in (
        read_dicom_series(series.folder).numpy()[0],
        itk.array_from_image(itk.imread([str(f) for f in series.files], pixel_type=itk.F)).transpose(2, 1, 0),
    ):
        np.testing.assert_allclose(back, values, atol=0.51 * slope)
    header = pydicom.dcmread(series.files[0])
    assert "arbitrary units" in header.ImageComments
    assert DicomReport.of(read_dicom_series(series.folder).meta).unit == "arbitrary"


def test_mr_of_a_known_unit_states_the_unit(tmp_path):
    volume = volume_of(AFFINES["LPS"])
    series = write_dicom_series(volume, tmp_path / "mr", modality="MR", model_hash=HASH, unit="ms")
    back = read_dicom_series(series.folder)
    np.testing.assert_array_equal(back.numpy(), volume.numpy())
    assert back.meta["unit"] == "ms"


BAD = {
    "nan": (lambda v: v * np.nan, "336 NaN or infinite"),
    "beyond_16_bits": (lambda v: v * 100, r"finite values within \(-32768, 32767\)"),
    "not_inverted": (lambda v: v / 4000, r"CT in HU, got values in .*Invertd"),
    "two_channels": (lambda v: np.stack([v, v]), "one channel"),
    "flat": (lambda v: v[..., 0], "one channel"),
}


@pytest.mark.parametrize("name", BAD)
def test_values_outside_of_the_format_are_refused_before_writing(name, tmp_path):
    change, message = BAD[name]
    values = change(volume_of(np.eye(4))[0].numpy())
    with pytest.raises(DataError, match=message):
        write_dicom_series(
            torch.from_numpy(values), tmp_path / "ct", modality="CT", model_hash=HASH, affine=AFFINES["RAS"]
        )
    assert list(tmp_path.iterdir()) == []


def test_a_volume_without_a_place_or_with_shear_is_refused(tmp_path):
    plain = volume_of(np.eye(4)).as_tensor()
    with pytest.raises(DataError, match="affine none"):
        write_dicom_series(plain, tmp_path / "ct", modality="CT", model_hash=HASH)
    sheared = np.eye(4)
    sheared[1, 2] = 0.3
    with pytest.raises(DataError, match="perpendicular axes"):
        write_dicom_series(plain, tmp_path / "ct", modality="CT", model_hash=HASH, affine=sheared)
    for modality, model_hash in (("US", HASH), ("CT", " ")):
        with pytest.raises(ValueError, match="Expected modality CT or MR and a model_hash"):
            write_dicom_series(volume_of(np.eye(4)), tmp_path / "ct", modality=modality, model_hash=model_hash)
    assert list(tmp_path.iterdir()) == []


def test_a_crash_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    save, count = pydicom.Dataset.save_as, 0

    def fail_at_the_fifth(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == 5:
            raise OSError("disk full")
        return save(self, *args, **kwargs)

    monkeypatch.setattr(pydicom.Dataset, "save_as", fail_at_the_fifth)
    with pytest.raises(OSError, match="disk full"):
        write_dicom_series(volume_of(np.eye(4)), tmp_path / "ct", modality="CT", model_hash=HASH)
    assert list(tmp_path.iterdir()) == []


def test_present_files_are_never_overwritten(tmp_path):
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct/old.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_dicom_series(volume_of(np.eye(4)), tmp_path / "ct", modality="CT", model_hash=HASH)
    assert [f.name for f in (tmp_path / "ct").iterdir()] == ["old.txt"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools (apt)")
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_files_conform_to_the_standard(modality, tmp_path):
    series = write_dicom_series(volume_of(AFFINES["oblique"]), tmp_path / "s", modality=modality, model_hash=HASH)
    done = subprocess.run(["dciodvfy", series.files[0]], capture_output=True, text=True, check=False)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    # SyntheticData came into the standard after this checker
    assert [line for line in errors if "(0x0008,0x001c)" not in line] == []


# ---- in a bundle ----


def test_the_saver_writes_after_the_inversion(tmp_path):
    """As in a bundle: a blank request, the window, a prediction in [-1, 1], inverted, written: whole HU come back."""
    request = Compose(
        [BlankVolumed("image", (6, 7, 8), (2, 2, 3), value=-1000.0), WindowIntensityd("image", -1000, 1000)]
    )
    save = SaveDicomd("pred", tmp_path, modality="CT", model_hash=HASH)
    finish = Compose([Invertd("pred", request, orig_keys="image", nearest_interp=False), save])
    hu = np.random.default_rng(0).integers(-1000, 1000, size=(6, 7, 8)).astype(np.float32)
    for seed in (0, 3):
        case = request({"seed": seed})
        case["pred"] = MetaTensor(torch.from_numpy(hu)[None] / 1000, meta=case["image"].meta)
        finish({**case, "seed": torch.tensor(seed)})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["sample_0000", "sample_0003"]
    back = Orientation("RAS", labels=None)(read_dicom_series(tmp_path / "sample_0003"))
    np.testing.assert_array_equal(back[0].numpy(), hu)
    np.testing.assert_allclose(back.affine.numpy(), case["image"].affine.numpy())


def test_the_saver_names_the_key_of_a_problem(tmp_path):
    save = SaveDicomd("pred", tmp_path, modality="CT", model_hash=HASH)
    with pytest.raises(DataError, match=r"key 'pred'.*CT in HU"):
        save({"pred": volume_of(np.eye(4), np.random.default_rng(0).uniform(-1, 1, (4, 4, 4)))})


def test_a_model_is_named_by_the_content_of_its_file(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(tmp_path / "model.pt") == f"sha256:{digest}"


# ---- label maps ----


def test_a_label_map_lies_on_its_series(written, tmp_path):
    """highdicom reads each label back at its place, by its own geometry, for all axes."""
    volume, series = written
    labels = volume.clone()
    labels[:] = 0
    labels[0, 1:4, 2:5, 3:6], labels[0, 4, 5, 1:7] = 1, 2
    ras = Orientation("RAS", labels=None)(labels)
    names = {1: "anomaly", 2: "other"}
    file = write_dicom_seg(ras, tmp_path / "labels.dcm", source=series.folder, names=names, model_hash=HASH)
    seg = highdicom.seg.segread(file)
    assert [seg.get_segment_description(n).SegmentLabel for n in (1, 2)] == ["anomaly", "other"]
    back = seg.get_volume(combine_segments=True)
    affine = LPS_TO_RAS @ back.affine
    for label in (1, 2):
        there = nib.affines.apply_affine(affine, np.argwhere(back.array == label))
        truth = nib.affines.apply_affine(volume.affine.numpy(), np.argwhere(labels[0].numpy() == label))
        np.testing.assert_allclose(there[np.lexsort(there.T.round(3))], truth[np.lexsort(truth.T.round(3))], atol=1e-3)
    source = pydicom.dcmread(series.files[0])
    assert seg.PatientID == source.PatientID
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID


def test_a_label_map_of_an_enhanced_file(tmp_path):
    hu = phantom()
    write_enhanced(tmp_path / "e.dcm", hu, order=np.random.default_rng(3).permutation(len(hu)).tolist())
    volume = read_dicom_series(tmp_path / "e.dcm")
    labels = MetaTensor((volume > 0).float(), meta=dict(volume.meta))
    file = write_dicom_seg(labels, tmp_path / "s.dcm", source=tmp_path / "e.dcm", names={1: "dense"}, model_hash=HASH)
    back = highdicom.seg.segread(file).get_volume(combine_segments=True)
    positions = (LPS_TO_RAS @ back.affine) @ np.array([*np.argwhere(back.array == 1).T, np.ones(int(back.array.sum()))])
    voxels = np.linalg.inv(volume.affine.numpy()) @ positions
    read = np.zeros(hu.T.shape)
    read[tuple(voxels[:3].round().astype(int))] = 1
    np.testing.assert_array_equal(read, labels[0].numpy())


def test_labels_of_another_grid_or_without_a_name_are_refused(tmp_path):
    series = write_dicom_series(volume_of(AFFINES["LPS"]), tmp_path / "ct", modality="CT", model_hash=HASH)
    labels = read_dicom_series(series.folder) > 1000
    arguments = {"source": series.folder, "model_hash": HASH}
    moved = MetaTensor(labels.as_tensor().float(), affine=labels.affine + torch.eye(4)[:, [3, 0, 1, 2]])
    with pytest.raises(DataError, match=r"key 'labels'.*on the grid of the source"):
        write_dicom_seg(moved, tmp_path / "s.dcm", names={1: "a"}, **arguments)
    with pytest.raises(DataError, match=r"labels 0 and \[1\].*values \[0.0, 2.0\]"):
        write_dicom_seg(2 * labels.float(), tmp_path / "s.dcm", names={1: "a"}, **arguments)
    with pytest.raises(ValueError, match="names of labels 1, 2"):
        write_dicom_seg(labels.float(), tmp_path / "s.dcm", names={2: "a"}, **arguments)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["ct"]
