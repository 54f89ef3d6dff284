"""Folders of tiny volumes in the layouts that people have, and what is right to read from each."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from dicom_series import phantom, write_series

SHAPE = (8, 8, 8)


def write_image(path: Path, seed: int | str, shape: Sequence[int] = SHAPE, dtype: type = np.int16) -> Path:
    """A volume of noise, another one for each seed."""
    number = seed if isinstance(seed, int) else zlib.crc32(seed.encode())
    values = np.random.default_rng(number).integers(1, 2000, tuple(shape)).astype(dtype)
    return save(path, values)


def write_mask(path: Path, labels: int = 2) -> Path:
    """A label map: a cube in the middle of each label."""
    values = np.zeros(SHAPE, np.uint8)
    for label in range(1, labels):
        values[1 + label : 7, 2:6, 2:6] = label
    return save(path, values)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def images(root: Path, *names: str) -> None:
    for name in names:
        write_image(root / name, name)


@dataclass(frozen=True)
class Folder:
    """What a layout's folder holds, by the paths below it.

    Args:
        layout: that auto detection finds.
        cases: (subject, session) to the image of each role.
        masks: (subject, session) to the names of masks.
        left_out: reason to paths.
        start: the path below the folder that is read; "" is the folder.
        class_names: mask to value to names.
    """

    layout: str
    cases: Mapping[tuple[str, str], Mapping[str, str]]
    masks: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    start: str = ""
    class_names: Mapping[str, Mapping[int, Sequence[str]]] = field(default_factory=dict)


def nnunet(root: Path) -> Folder:
    """nnU-Net raw: two channels, labels, a test case."""
    for number in (1, 2, 9):
        part = "imagesTs" if number == 9 else "imagesTr"
        images(root, f"{part}/brain_{number}_0000.nii.gz", f"{part}/brain_{number}_0001.nii.gz")
        if number != 9:
            write_mask(root / f"labelsTr/brain_{number}.nii.gz")
    content = {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz"}
    content["labels"] = {"background": 0, "whole tumour": [1, 2], "core": 2}
    (root / "dataset.json").write_text(json.dumps(content))
    where = {1: "imagesTr", 2: "imagesTr", 9: "imagesTs"}
    return Folder(
        "nnunet",
        {
            (f"brain_{n}", ""): {"t1": f"{f}/brain_{n}_0000.nii.gz", "t2": f"{f}/brain_{n}_0001.nii.gz"}
            for n, f in where.items()
        },
        {("brain_1", ""): ["label"], ("brain_2", ""): ["label"]},
        class_names={"label": {0: ["background"], 2: ["core"]}},
    )


def nnunet_of_other_endings(root: Path) -> Folder:
    """nnU-Net without `dataset.json`, as `.nrrd`."""
    import SimpleITK

    for number in (1, 2):
        file = write_image(root / "x.nii.gz", number)
        (root / "imagesTr").mkdir(exist_ok=True)
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(file)), str(root / f"imagesTr/c{number}_0000.nrrd"))
        file.unlink()
    return Folder("nnunet", {(f"c{n}", ""): {"0000": f"imagesTr/c{n}_0000.nrrd"} for n in (1, 2)})


def decathlon(root: Path) -> Folder:
    """Medical Segmentation Decathlon: 4-D images of two channels, and one image that is not on the list."""
    for number in (1, 2):
        write_image(root / f"imagesTr/b_{number}.nii.gz", number, (*SHAPE, 2))
        write_mask(root / f"labelsTr/b_{number}.nii.gz")
        (root / f"imagesTr/._b_{number}.nii.gz").write_bytes(b"\0")
    write_image(root / "imagesTr/b_3.nii.gz", 3, (*SHAPE, 2))
    training = [{"image": f"./imagesTr/b_{n}.nii.gz", "label": f"./labelsTr/b_{n}.nii.gz"} for n in (1, 2)]
    content = {"modality": {"0": "FLAIR", "1": "T1w"}, "training": training, "test": []}
    content["labels"] = {"0": "background", "1": "edema"}
    (root / "dataset.json").write_text(json.dumps(content))
    return Folder(
        "datalist",
        {
            (f"b_{n}", ""): {"flair": f"imagesTr/b_{n}.nii.gz/channel:0", "t1": f"imagesTr/b_{n}.nii.gz/channel:1"}
            for n in (1, 2)
        },
        {(f"b_{n}", ""): ["label"] for n in (1, 2)},
        {"not listed": ["imagesTr/b_3.nii.gz"], "hidden file": ["imagesTr/._b_1.nii.gz", "imagesTr/._b_2.nii.gz"]},
        class_names={"label": {0: ["background"], 1: ["edema"]}},
    )


def bids(root: Path) -> Folder:
    """BIDS: two sessions, two acquisitions of T1, T2, lesion masks, `func`, `derivatives`."""
    cases: dict[tuple[str, str], dict[str, str]] = {}
    for name in ("01", "02"):
        for session in ("1", "2"):
            place = f"sub-{name}/ses-{session}/anat/sub-{name}_ses-{session}"
            images(root, f"{place}_acq-low_T1w.nii.gz", f"{place}_acq-high_T1w.nii.gz", f"{place}_T2w.nii.gz")
            write_mask(root / f"{place}_label-lesion_mask.nii.gz")
            write_image(root / f"sub-{name}/ses-{session}/func/sub-{name}_ses-{session}_task-rest_bold.nii.gz", 5)
            cases[f"sub-{name}", session] = {
                "t1_acq-low": f"{place}_acq-low_T1w.nii.gz",
                "t1_acq-high": f"{place}_acq-high_T1w.nii.gz",
                "t2": f"{place}_T2w.nii.gz",
            }
        images(root, f"derivatives/p/sub-{name}/anat/sub-{name}_desc-preproc_T1w.nii.gz")
        (root / f"sub-{name}/sub-{name}_sessions.tsv").write_text("session_id\tbmi\nses-1\t20\nses-2\t21\n")
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t31\nsub-02\t32\n")
    return Folder(
        "bids",
        cases,
        {key: ["lesion-mask"] for key in cases},
        {
            "derivatives (name that folder itself to read it)": [
                f"derivatives/p/sub-{n}/anat/sub-{n}_desc-preproc_T1w.nii.gz" for n in ("01", "02")
            ],
            "func: time series, directions or field maps (a table takes them)": [
                f"sub-{n}/ses-{s}/func/sub-{n}_ses-{s}_task-rest_bold.nii.gz" for n in ("01", "02") for s in "12"
            ],
        },
    )


def bids_derivatives(root: Path) -> Folder:
    """The derivatives of a BIDS pipeline: masks, segmentations and probabilities beside the image."""
    for name in ("01", "02"):
        place = root / f"sub-{name}/anat"
        images(place, f"sub-{name}_desc-preproc_T1w.nii.gz")
        write_mask(place / f"sub-{name}_desc-brain_mask.nii.gz")
        write_mask(place / f"sub-{name}_dseg.nii.gz", 4)
        (place / f"sub-{name}_dseg.tsv").write_text(f"index\tname\tcolour\n3\tof sub-{name}\tred\n")
        write_image(place / f"sub-{name}_label-GM_probseg.nii.gz", 3, dtype=np.float32)
    (root / "dseg.tsv").write_text("index\tname\n0\tbackground\n")
    (root / "desc-aseg_dseg.tsv").write_text("index\tname\n1\tof other masks\n")
    return Folder(
        "bids",
        {(f"sub-{n}", ""): {"t1": f"sub-{n}/anat/sub-{n}_desc-preproc_T1w.nii.gz"} for n in ("01", "02")},
        {(f"sub-{n}", ""): ["brain-mask", "dseg", "GM-probseg"] for n in ("01", "02")},
        class_names={"dseg": {0: ["background"], 3: ["of sub-01", "of sub-02"]}},
    )


def brats(root: Path) -> Folder:
    """BraTS 2020: a folder for each patient."""
    cases = {}
    for name in ("BraTS20_Training_001", "BraTS20_Training_002"):
        files = {role: f"{name}/{name}_{role}.nii" for role in ("t1", "t1ce", "t2", "flair")}
        images(root, *files.values())
        write_mask(root / f"{name}/{name}_seg.nii", 4)
        cases[name, ""] = files
    return Folder("brats", cases, {key: ["seg"] for key in cases})


def brats_of_time_points(root: Path) -> Folder:
    """BraTS 2023: time points of a patient, suffixes with hyphens."""
    cases = {}
    for patient, time in (("00001", "000"), ("00001", "001"), ("00002", "000")):
        name = f"BraTS-GLI-{patient}-{time}"
        suffixes = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
        files = {role: f"{name}/{name}-{suffix}.nii.gz" for role, suffix in suffixes.items()}
        images(root, *files.values())
        write_mask(root / f"{name}/{name}-seg.nii.gz", 4)
        cases[f"BraTS-GLI-{patient}", time] = files
    return Folder("brats", cases, {key: ["seg"] for key in cases})


def flat(root: Path) -> Folder:
    """Files of one contrast, a note and a scout."""
    images(root, "a.nii.gz", "b.nii", "Größe [3] x.NII.GZ", "c_localizer.nii.gz")
    (root / "notes.txt").write_text("no image")
    return Folder(
        "flat",
        {("a", ""): {"image": "a.nii.gz"}, ("b", ""): {"image": "b.nii"},
         ("Größe [3] x", ""): {"image": "Größe [3] x.NII.GZ"}},
        left_out={"no image by its ending": ["notes.txt"], "scout by its name": ["c_localizer.nii.gz"]},
    )  # fmt: skip


def flat_of_contrasts(root: Path) -> Folder:
    """Files with the names of subject and contrast; masks beside them and in a folder."""
    cases = {}
    for name in ("p1", "p2"):
        files = {"t1": f"{name}_T1.nii.gz", "t2": f"{name}_T2.nii.gz", "adc": f"{name}_ADC.nii.gz"}
        images(root, *files.values())
        write_mask(root / f"{name}_lesion_mask.nii.gz")
        write_mask(root / f"masks/{name}.nii.gz")
        cases[name, ""] = files
    return Folder("flat", cases, {key: ["lesion", "masks"] for key in cases})


def flat_of_words(root: Path) -> Folder:
    """Words that recur are contrasts, and numbers that recur are visits."""
    names = [f"p{n}_{end}" for n in (1, 2) for end in ("fixed", "moving")] + [f"q{n}_{v}" for n in (1, 2) for v in "12"]
    images(root, *(f"{name}.nii.gz" for name in names))
    return Folder(
        "flat",
        {
            **{(f"p{n}", ""): {e: f"p{n}_{e}.nii.gz" for e in ("fixed", "moving")} for n in (1, 2)},
            **{(f"q{n}", v): {"image": f"q{n}_{v}.nii.gz"} for n in (1, 2) for v in "12"},
        },
    )


def folders(root: Path) -> Folder:
    """A folder for each subject, with its masks in a folder below."""
    for name in ("s1", "s2", "s3"):
        images(root, f"{name}/ct.nii.gz")
        write_mask(root / f"{name}/segmentations/liver.nii.gz")
        write_mask(root / f"{name}/segmentations/spleen.nii.gz", 3)
    return Folder(
        "folders",
        {(n, ""): {"ct": f"{n}/ct.nii.gz"} for n in ("s1", "s2", "s3")},
        {(n, ""): ["liver", "spleen"] for n in ("s1", "s2", "s3")},
    )


def folders_of_visits(root: Path) -> Folder:
    """A folder for each subject, and in it one for each visit."""
    cases = {(f"Patient{p}", f"visit{v}"): {"t1": f"Patient{p}/visit{v}/T1.nii.gz"} for p in (1, 2) for v in (0, 1)}
    images(root, *(files["t1"] for files in cases.values()))
    return Folder("folders", cases)


def folders_of_groups(root: Path) -> Folder:
    """Folders of subjects in the folders of two groups."""
    places = ("healthy/A1", "healthy/A2", "tumour/B1")
    images(root, *(f"{place}/T1.nii.gz" for place in places))
    return Folder("folders", {(place, ""): {"t1": f"{place}/T1.nii.gz"} for place in places})


def dcm2niix(root: Path) -> Folder:
    """dcm2niix's default names: two echoes, a phase, a resampled copy, a scout's slice."""
    for name in ("case0", "case1"):
        place, tail = f"{name}/{name}", "20200101_"
        images(root, *(f"{place}_gre_{tail}4_{end}.nii.gz" for end in ("e1", "e2", "e2_ph")))
        images(root, f"{place}_t1_mprage_{tail}3.nii.gz", f"{place}_t1_mprage_{tail}3_Eq_1.nii.gz")
        images(root, f"{place}_localizer_{tail}1_i00001.nii.gz")
        (root / f"{place}_t1_mprage_{tail}3.json").write_text("{}")
    names = ("case0", "case1")
    return Folder(
        "dcm2niix",
        {
            (n, "20200101"): {
                "t1": f"{n}/{n}_t1_mprage_20200101_3.nii.gz",
                "gre_e1": f"{n}/{n}_gre_20200101_4_e1.nii.gz",
                "gre_e2": f"{n}/{n}_gre_20200101_4_e2.nii.gz",
                "gre_e2_ph": f"{n}/{n}_gre_20200101_4_e2_ph.nii.gz",
            }
            for n in names
        },
        left_out={
            "resampled copy by its name": [f"{n}/{n}_t1_mprage_20200101_3_Eq_1.nii.gz" for n in names],
            "scout by its name": [f"{n}/{n}_localizer_20200101_1_i00001.nii.gz" for n in names],
        },
    )


def monai_datalist(root: Path) -> Folder:
    """A datalist of MONAI: two folds and a label; files that it does not name are not looked at."""
    images(root, "i/a.nii.gz", "i/b.nii.gz", "i/c.nii.gz")
    write_mask(root / "l/a.nii.gz")
    training = [{"image": "i/a.nii.gz", "label": "l/a.nii.gz", "fold": 0}, {"image": "i/b.nii.gz", "fold": 1}]
    (root / "list.json").write_text(json.dumps({"training": training}))
    return Folder(
        "datalist",
        {(name, ""): {"image": f"i/{name}.nii.gz"} for name in "ab"},
        {("a", ""): ["label"]},
        start="list.json",
    )


def table(root: Path) -> Folder:
    """A table of two sessions: files of two contrasts, a mask, and a fact."""
    images(root, "x/1.nii.gz", "x/2.nii.gz", "x/3.nii.gz", "x/4.nii.gz")
    write_mask(root / "x/lesion.nii.gz")
    rows = ("subject,session,t1,t2,mask:lesion,age", "p1,a,x/1.nii.gz,x/2.nii.gz,x/lesion.nii.gz,31",
            "p1,b,x/3.nii.gz,,,32", "p2,,x/4.nii.gz,,,40")  # fmt: skip
    (root / "cases.csv").write_text("\n".join(rows) + "\n")
    return Folder(
        "table",
        {
            ("p1", "a"): {"t1": "x/1.nii.gz", "t2": "x/2.nii.gz"},
            ("p1", "b"): {"t1": "x/3.nii.gz"},
            ("p2", ""): {"t1": "x/4.nii.gz"},
        },
        {("p1", "a"): ["lesion"]},
        start="cases.csv",
    )


def write_study(root: Path, name: str, patient: str, number: int, descriptions: Mapping[str, str]) -> None:
    """A DICOM study of MR series: the description of each by the name of its folder."""
    for place, description in descriptions.items():

        def describe(dataset, _, description=description):
            dataset.SeriesDescription, dataset.PatientID = description, patient
            dataset.StudyInstanceUID = f"1.3.{number}"

        uid = f"1.2.{number}.{len(place)}"
        write_series(root / name / place, phantom(4, seed=number), modality="MR", uid=uid, edit=describe)


def dicom(root: Path) -> Folder:
    """DICOM studies: two MR series of each patient, a second study of the first patient."""
    for number, patient in ((1, "PAT1"), (2, "PAT1"), (3, "PAT2")):
        write_study(root, f"s{number}", patient, number, {"a": "t1_mprage_sag", "bb": "AX FLAIR fs"})
    studies = {("PAT1", "1"): 1, ("PAT1", "2"): 2, ("PAT2", "1"): 3}
    return Folder("dicom", {key: {"t1": f"s{n}/a", "flair": f"s{n}/bb"} for key, n in studies.items()})


def dicom_beside_its_conversion(root: Path) -> Folder:
    """A series beside the NIfTI file that dcm2niix wrote from it."""
    for number in (1, 2):
        write_study(root, "", f"PAT{number}", number, {f"p{number}": "t1"})
        images(root, f"p{number}/p{number}_t1_20200101_3.nii.gz")
    return Folder(
        "dcm2niix+dicom",
        {(f"p{n}", "20200101"): {"t1": f"p{n}/p{n}_t1_20200101_3.nii.gz"} for n in (1, 2)},
        left_out={"DICOM in the folder of NIfTI files (--layout dicom reads it)": ["p1", "p2"]},
    )


def dicom_and_volumes(root: Path) -> Folder:
    """DICOM studies in one folder, NIfTI files of other patients in another."""
    write_study(root / "hospital", "x", "PAT1", 1, {"a": "t1"})
    images(root, "research/b_T1.nii.gz", "research/c_T1.nii.gz")
    return Folder(
        "dicom+flat",
        {
            ("PAT1", ""): {"t1": "hospital/x/a"},
            ("research/b", ""): {"t1": "research/b_T1.nii.gz"},
            ("research/c", ""): {"t1": "research/c_T1.nii.gz"},
        },
    )


def flat_of_copies(root: Path) -> Folder:
    """A copy under another name, label maps with the names of images, one slice, and a link to nothing."""
    images(root, "a.nii.gz", "b.nii.gz")
    (root / "c.nii.gz").write_bytes((root / "a.nii.gz").read_bytes())
    write_mask(root / "d.nii.gz", 3)
    write_image(root / "e.nii.gz", "e", (8, 8, 1))
    (root / "f.nii.gz").symlink_to(root / "gone.nii.gz")
    return Folder(
        "flat",
        {(name, ""): {"image": f"{name}.nii.gz"} for name in "ab"},
        left_out={
            "same content as another file": ["c.nii.gz"],
            "label map by its values, with the name of an image": ["d.nii.gz"],
            "one slice beside volumes": ["e.nii.gz"],
            "link to a missing file (not fetched?)": ["f.nii.gz"],
        },
    )


def two_datasets(root: Path) -> Folder:
    """A folder with an nnU-Net data set, a BIDS data set and a flat rest."""
    images(root, "d1/imagesTr/x_0000.nii.gz", "d2/sub-1/anat/sub-1_T1w.nii.gz", "rest/y.nii.gz", "rest/z.nii.gz")
    return Folder(
        "bids+flat+nnunet",
        {("d1/x", ""): {"0000": "d1/imagesTr/x_0000.nii.gz"}, ("sub-1", ""): {"t1": "d2/sub-1/anat/sub-1_T1w.nii.gz"},
         ("rest/y", ""): {"image": "rest/y.nii.gz"}, ("rest/z", ""): {"image": "rest/z.nii.gz"}},
    )  # fmt: skip


LAYOUTS = (
    nnunet, nnunet_of_other_endings, decathlon, bids, bids_derivatives, brats, brats_of_time_points, flat,
    flat_of_contrasts, flat_of_words, flat_of_copies, folders, folders_of_visits, folders_of_groups, dcm2niix,
    monai_datalist, table, dicom, dicom_beside_its_conversion, dicom_and_volumes, two_datasets,
)  # fmt: skip
