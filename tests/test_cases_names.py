"""What names of files and folders tell: one patient on one side, and no second contrast as a second run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from case_folders import images, save, write_mask
from case_folders import write_study as study

from monai_diffscore.data.cases import list_cases
from monai_diffscore.errors import DataError
from monai_diffscore.planning.images import fingerprint_volumes

#: (subject, session, role) of each file
NAMES = {
    "maps beside weighted images": {
        "p1_T1.nii.gz": ("p1", "", "t1"), "p1_T1_map.nii.gz": ("p1", "", "t1map"),
        "p2_T1.nii.gz": ("p2", "", "t1"), "p2_T1_map.nii.gz": ("p2", "", "t1map"),
    },
    "a map alone beside images of others": {
        "p1_T1.nii.gz": ("p1", "", "t1"), "p2_T1_map.nii.gz": ("p2", "", "t1map"), "p3_ADC.nii.gz": ("p3", "", "adc"),
    },
    "derived images beside their source": {
        "p1_PET.nii.gz": ("p1", "", "pt"), "p1_SUV.nii.gz": ("p1", "", "suv"),
        "p2/asl.nii.gz": ("p2", "", "asl"), "p2/CBF.nii.gz": ("p2", "", "cbf"),
    },
    "two words for one role": {
        "p1/T1.nii.gz": ("p1", "", "t1"), "p1/mprage.nii.gz": ("p1", "", "t1_mprage"),
        "p2/T1.nii.gz": ("p2", "", "t1"), "p2/CT.nii.gz": ("p2", "", "ct"), "p2/CBCT.nii.gz": ("p2", "", "ct_cbct"),
    },
    "protocols of one contrast": {
        "c/c_t1_mprage_20200101_2.nii.gz": ("c", "20200101", "t1_mprage"),
        "c/c_t1_tse_20200101_3.nii.gz": ("c", "20200101", "t1_tse"),
        "d/d_t1_mprage_20200101_2.nii.gz": ("d", "20200101", "t1_mprage"),
    },
    "folders of contrasts": {
        "T1/P1.nii.gz": ("P1", "", "t1"), "T2/P1.nii.gz": ("P1", "", "t2"), "T1/P2.nii.gz": ("P2", "", "t1"),
    },
    "folders of contrasts below patients": {
        "anna/T1/scan.nii.gz": ("anna", "", "t1_scan"), "anna/T1 map/scan.nii.gz": ("anna", "", "t1map_scan"),
        "ben/T1/scan.nii.gz": ("ben", "", "t1_scan"),
    },
    "folders of modalities": {
        "CT/p1.nii.gz": ("p1", "", "ct"), "MR/p1.nii.gz": ("p1", "", "mr"), "MR/p2.nii.gz": ("p2", "", "mr"),
    },
    "folders of parts of a data set": {
        "train/anna.nii.gz": ("anna", "", "image"), "test/anna.nii.gz": ("anna", "", "image"),
        "val/ben.nii.gz": ("ben", "", "image"),
    },
    "visits above patients": {
        "baseline/P1/T1.nii.gz": ("P1", "baseline", "t1"), "followup/P1/T1.nii.gz": ("P1", "followup", "t1"),
        "baseline/P2/T1.nii.gz": ("P2", "baseline", "t1"),
    },
    "files of patients in folders of visits": {
        "baseline/P1.nii.gz": ("P1", "baseline", "image"), "followup/P1.nii.gz": ("P1", "followup", "image"),
    },
    "sites above patients above visits": {
        "siteA/P1/v1/T1.nii.gz": ("siteA/P1", "v1", "t1"), "siteA/P1/v2/T1.nii.gz": ("siteA/P1", "v2", "t1"),
        "siteB/P1/v1/T1.nii.gz": ("siteB/P1", "v1", "t1"),
    },
    "several scans in the folder of a patient": {
        "P1/scan0.nii.gz": ("P1", "", "image"), "P1/scan1.nii.gz": ("P1", "", "image"),
        "P2/scan0.nii.gz": ("P2", "", "image"),
    },
    "two sides of a patient": {
        "pat1_left_knee.nii.gz": ("pat1", "", "left_knee"), "pat1_right_knee.nii.gz": ("pat1", "", "right_knee"),
        "pat2_left_knee.nii.gz": ("pat2", "", "left_knee"),
    },
    "visits in names": {
        "pat1_baseline.nii.gz": ("pat1", "baseline", "image"), "pat1_m12.nii.gz": ("pat1", "m12", "image"),
        "pat1_2020-01-01.nii.gz": ("pat1", "2020-01-01", "image"), "pat2_m12.nii.gz": ("pat2", "m12", "image"),
    },
    "names of single scans": {"p1_ab.nii.gz": ("p1", "", "image"), "p2_cd.nii.gz": ("p2", "", "image")},
    "years before the number of a patient": {
        "patient_2021_001.nii.gz": ("patient_2021_001", "", "image"),
        "patient_2021_002.nii.gz": ("patient_2021_002", "", "image"),
    },
    "labels of BIDS in capitals": {
        "sub-01_ses-1_T1w.nii.gz": ("sub-01", "", "t1"), "SUB-01_ses-2_T1w.nii.gz": ("sub-01", "", "t1"),
        "sub-02_T1w.nii.gz": ("sub-02", "", "t1"),
    },
}  # fmt: skip


@pytest.mark.parametrize("right", NAMES.values(), ids=NAMES)
def test_names_tell_subject_session_and_role(right, tmp_path):
    images(tmp_path, *right)
    listing = list_cases(tmp_path)
    assert {
        str(Path(path).relative_to(tmp_path)): (case.subject, case.session, role)
        for case in listing
        for role, path in case.images.items()
    } == right
    roles = {role for _, _, role in right.values()}
    if len(roles) > 1:
        with pytest.raises(DataError, match="got the roles"):
            listing.images()


@pytest.mark.parametrize(("word", "modality"), [("CT", "CT"), ("PET", "PT"), ("SUV", "PT"), ("T1", "MR")])
def test_a_role_tells_the_modality_of_a_plan(word, modality, tmp_path):
    values = np.random.default_rng(0).uniform(-500, 500, (16, 16, 16)).astype(np.float32)
    for number in (1, 2):
        save(tmp_path / f"p{number}_{word}.nii.gz", values + number)
    assert fingerprint_volumes(tmp_path).modality == modality


@pytest.mark.parametrize("name", ["lungmask", "tumor_segmentation", "a_prob", "GTV", "defacemask", "probmap"])
def test_words_that_end_as_masks_do_are_masks(name, tmp_path):
    images(tmp_path, "s1/t1.nii.gz", f"s1/{name}.nii.gz", "s2/t1.nii.gz")
    listing = list_cases(tmp_path)
    assert listing.roles == {"t1": 2}
    assert list(listing.masks.values()) == [1]


def test_series_of_one_contrast_are_roles_by_their_description(tmp_path):
    """A map, a subtraction and a second sequence of T1 are no runs of it; the scout is left out by its description."""
    names = {"a": "t1_mprage", "bb": "t1_tse", "ccc": "T1 map", "dddd": "t1 SUB", "eeeee": "AAHead_Scout"}
    study(tmp_path, "s1", "PAT1", 1, names)
    study(tmp_path, "s2", "PAT2", 2, {"a": "t1_mprage"})
    listing = list_cases(tmp_path)
    assert listing.roles == {"t1_mprage": 2, "t1_sub": 1, "t1_tse": 1, "t1map": 1}
    assert listing.reasons == {"scout by its description": 1}


def test_channels_of_one_name_stay_apart(tmp_path):
    for number in (0, 1):
        images(tmp_path, f"imagesTr/a_000{number}.nii.gz", f"imagesTr/b_000{number}.nii.gz")
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T1 pre", "1": "T1 late"}}')
    assert list_cases(tmp_path).roles == {"t1_0000": 2, "t1_0001": 2}


def test_masks_follow_the_patient_of_their_image(tmp_path):
    images(tmp_path, "baseline/P1_left.nii.gz", "baseline/P1_right.nii.gz", "baseline/P2_left.nii.gz")
    write_mask(tmp_path / "baseline/P1_left_mask.nii.gz")
    (case,) = [case for case in list_cases(tmp_path) if case.masks]
    assert (case.subject, case.session) == ("P1", "baseline")
