"""The images and label maps of a case: one geometry, soft classes, shifts, and what is refused."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Orientationd, RandFlipd, RandSpatialCropd, Spacingd, SpatialPadd
from small_data import smooth_head, write_contrasts

from monai_diffscore.data import (
    GridPatchesd,
    LoadGivend,
    LoadVolumed,
    label_classes,
    listed_cases,
    misregistration_mm,
    part_sizes,
    role_names,
)
from monai_diffscore.errors import DataError

WORLD = np.array([3.0, -2.0, 1.0])  # of a linear image: interpolation leaves it exact


def write_linear(path: Path, affine: np.ndarray, shape: tuple[int, ...] = (24, 26, 22), scale: float = 1.0) -> str:
    """An image with the value scale (1000 + WORLD . r) at the place r in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    values = scale * (1000 + (grid @ affine[:3, :3].T + affine[:3, 3]) @ WORLD)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return str(path)


def expected(volume: MetaTensor, path: str) -> np.ndarray:
    """The values at the voxels of ``volume`` of the linear image in a file, from [lowest, highest] to [-1, 1]."""
    image = nib.load(path).get_fdata()
    scale = 2.0 if "T2w" in path else 1.0
    grid = np.stack(np.meshgrid(*map(np.arange, volume.shape[1:]), indexing="ij"), -1)
    affine = np.asarray(volume.affine)
    values = scale * (1000 + (grid @ affine[:3, :3].T + affine[:3, 3]) @ WORLD)
    return 2 * (values - image.min()) / (image.max() - image.min()) - 1


@pytest.fixture
def linear(tmp_path: Path) -> dict[str, str]:
    """A target, an image on its grid in other directions, and a finer image with a smaller field of view."""
    target = np.diag([2.0, 2.0, 2.0, 1.0])
    turned = np.array([[-2.0, 0, 0, 46], [0, 0, 2, 0], [0, -2, 0, 42], [0, 0, 0, 1]])
    fine = np.diag([1.5, 1.5, 1.5, 1.0])
    fine[:3, 3] = (4.0, 4.0, 4.0)
    return {
        "flair": write_linear(tmp_path / "sub-1_FLAIR.nii.gz", target),
        "t1": write_linear(tmp_path / "sub-1_T1w.nii.gz", turned, (24, 22, 26)),
        "t2": write_linear(tmp_path / "sub-1_T2w.nii.gz", fine, scale=2.0),
    }


def preprocessing(*random: object) -> Compose:
    return Compose(
        [
            LoadVolumed("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=[3.0, 3.0, 3.0], mode="bilinear"),
            CropForegroundd("image", source_key="image", select_fn=lambda image: image > 1010),
            LoadGivend("given", roles=["t1", "t2"], percentiles=(0, 100)),
            *random,
        ]
    )


def check_one_geometry(item: dict, paths: dict[str, str]) -> None:
    """Each image has, at each voxel, the value at the place of that voxel."""
    image, given = item["image"], item["given"]
    assert image.shape[1:] == given.shape[1:]
    torch.testing.assert_close(image.affine, given.affine)
    raw = np.asarray(image[0])
    low, high = nib.load(paths["flair"]).get_fdata().min(), nib.load(paths["flair"]).get_fdata().max()
    inside = slice(2, -2)  # the resampling of the target repeats its border
    np.testing.assert_allclose(
        (2 * (raw - low) / (high - low) - 1)[inside, inside, inside],
        expected(image, paths["flair"])[inside, inside, inside], atol=1e-3,
    )  # fmt: skip
    for channel, role in enumerate(("t1", "t2")):
        values = np.asarray(given[channel])
        present = ~np.isnan(values)
        inner = np.zeros_like(present)
        inner[1:-1, 1:-1, 1:-1] = True
        for axis in range(3):  # the outermost half voxel of a file repeats its border
            inner &= np.roll(present, 1, axis) & np.roll(present, -1, axis)
        present &= inner
        assert present.sum() > 20
        np.testing.assert_allclose(values[present], expected(given, paths[role])[present], atol=1e-3)


def test_all_images_of_a_case_have_one_geometry_after_resampling_crops_and_flips(linear):
    random = (
        RandSpatialCropd(["image", "given"], roi_size=[8, 8, 8], random_size=False).set_random_state(1),
        *(RandFlipd(["image", "given"], prob=1.0, spatial_axis=axis) for axis in range(3)),
    )
    paths = {"image": linear["flair"], "given": [linear["t1"], linear["t2"]]}
    check_one_geometry(preprocessing()(paths), linear)
    cropped = preprocessing(*random)(paths)
    assert cropped["given"].shape == (2, 8, 8, 8)
    check_one_geometry(cropped, linear)
    for patch in preprocessing(GridPatchesd(["image", "given"], [8, 8, 8], count=3))(paths):
        check_one_geometry(patch, linear)


def test_voxels_outside_the_field_of_view_and_missing_images_are_nan(linear):
    padded = preprocessing(), SpatialPadd("image", spatial_size=[40, 40, 40])
    image = Compose(padded[0].transforms[:-1])({"image": linear["flair"], "given": [None, linear["t2"]]})
    image = LoadGivend("given", roles=["t1", "t2"])(padded[1](image))
    given, affine = image["given"], np.asarray(image["image"].affine)
    assert given[0].isnan().all()
    grid = np.stack(np.meshgrid(*map(np.arange, given.shape[1:]), indexing="ij"), -1)
    index = (grid @ affine[:3, :3].T + affine[:3, 3] - 4.0) / 1.5
    inside = ((index >= -0.5) & (index <= np.array([24, 26, 22]) - 0.5)).all(-1)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(~np.isnan(np.asarray(given[1])), inside)
    assert given.meta["is_given"].tolist() == given.meta["resampled"].tolist() == [False, True]
    assert given.meta["misregistration_mm"].isnan()[0]


def test_an_image_of_another_place_is_refused(linear, tmp_path):
    far = np.diag([2.0, 2.0, 2.0, 1.0])
    far[0, 3] = 500.0
    elsewhere = write_linear(tmp_path / "far/sub-1_T1w.nii.gz", far)
    image = LoadVolumed("image")({"image": linear["flair"]})
    load = LoadGivend("given", roles=["t1", "t2"])
    with pytest.raises(DataError, match=r"far/sub-1_T1w.*key 'given'.*without a common voxel.*origin"):
        load({**image, "given": [elsewhere, None]})
    with pytest.raises(DataError, match=r"each of the roles \['t1', 't2'\]"):
        load({**image, "given": [None]})


# ---- label maps ----


def write_labels(path: Path, values: np.ndarray, edge_mm: float = 2.0) -> str:
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.diag([edge_mm] * 3 + [1.0])), path)
    return str(path)


@pytest.fixture
def labelled(tmp_path: Path) -> dict:
    """A target with voxels of 4 mm; its label map has voxels of 2 mm: class 5 below the plane x = 20 mm, 0 above."""
    values = np.zeros((20, 20, 20))
    values[:10] = 5
    nib.save(
        nib.Nifti1Image(1000.0 + np.arange(1000).reshape(10, 10, 10), np.diag([4.0, 4.0, 4.0, 1.0])),
        tmp_path / "T1w.nii.gz",
    )
    image = LoadVolumed("image")({"image": str(tmp_path / "T1w.nii.gz")})["image"]
    return {"image": image, "given": [write_labels(tmp_path / "dseg.nii.gz", values)]}


def test_a_label_map_has_a_channel_for_each_class_and_soft_borders(labelled):
    load = LoadGivend("given", roles=["dseg"], classes={"dseg": {"0": "", "3": "", "5": ""}})
    given = load(labelled)["given"]
    # the centre of voxel i lies at 4 i mm, at the index 2 i of the label map, whose last voxel of class 5 is 9
    np.testing.assert_array_equal(given[2, :, 0, 0], [1.0] * 5 + [0.0] * 5)
    np.testing.assert_array_equal(given[0] + given[2], np.ones((10, 10, 10)))
    assert (given[1] == 0).all()
    target = labelled["image"]
    target.affine[0, 3] = (
        2.5  # now at the index 2 i + 1.25: voxel 4 has three quarters of voxel 9, the last of its class
    )
    soft = load(labelled)["given"][2, :, 0, 0]
    np.testing.assert_allclose(soft, [1.0] * 4 + [0.75] + [0.0] * 5, atol=1e-6)


def test_classes_are_those_of_all_label_maps(cohort):
    cases = listed_cases(cohort)
    classes = label_classes(cases, ["t1", "dseg"])
    assert classes == {"dseg": {"0": "", "1": "", "2": ""}}
    assert part_sizes(["t1", "dseg"], classes) == [1, 3]
    (first, *_) = cases.pairs("flair", ["dseg", "t1"])
    assert names(first["given"]) == ["dseg", "T1w"]


def test_a_class_of_two_names_is_refused_and_named(cohort):
    for number, name in ((1, "csf"), (2, "grey")):
        (cohort / f"sub-{number}/anat/sub-{number}_dseg.tsv").write_text(f"index\tname\n1\t{name}\n")
    with pytest.raises(DataError, match=r"one name of the class 1, got csf, grey"):
        label_classes(listed_cases(cohort), ["dseg"])
    (cohort / "sub-2/anat/sub-2_dseg.tsv").unlink()
    assert label_classes(listed_cases(cohort), ["dseg"]) == {"dseg": {"0": "", "1": "csf", "2": ""}}


def test_classes_that_a_training_did_not_see_are_refused_by_name(labelled):
    load = LoadGivend("given", roles=["dseg"], classes={"dseg": {"0": "background", "1": "csf", "3": ""}})
    message = r"dseg.nii.gz.*key 'given'.*the training saw: 0 \(background\), 1 \(csf\), 3, got also 5"
    with pytest.raises(DataError, match=message):
        load(labelled)


def test_a_label_map_of_one_class_is_read_and_a_probability_map_is_refused(labelled, tmp_path):
    load = LoadGivend("given", roles=["dseg"], classes={"dseg": {"0": "", "1": ""}})
    empty = write_labels(tmp_path / "empty.nii.gz", np.zeros((20, 20, 20)))
    assert (load({**labelled, "given": [empty]})["given"][0] == 1).all()
    shares = nib.Nifti1Image(np.full((20, 20, 20), 0.5, np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    nib.save(shares, tmp_path / "probseg.nii.gz")
    with pytest.raises(DataError, match=r"probseg.nii.gz.*a label map of whole numbers.*0.5"):
        load({**labelled, "given": [str(tmp_path / "probseg.nii.gz")]})


# ---- shifts ----


def head() -> torch.Tensor:
    return torch.from_numpy(smooth_head())


@pytest.mark.parametrize("shift", [(0, 0, 0), (3, 0, 0), (0, -2, 1)])
def test_the_misregistration_of_a_shifted_other_contrast_is_its_shift(shift):
    image = head()
    other = (2.0 - image.square()).roll(shift, (0, 1, 2))  # no monotone function of the other
    spacing = [2.0, 1.0, 3.0]
    length = math.hypot(*(count * step for count, step in zip(shift, spacing, strict=True)))
    assert misregistration_mm(image, -image.roll(shift, (0, 1, 2)), spacing) == pytest.approx(length)
    assert misregistration_mm(image, other, spacing) == pytest.approx(length)


def test_no_common_edges_have_no_misregistration():
    image = head()
    assert math.isnan(misregistration_mm(image, torch.full_like(image, math.nan), [1.0] * 3))
    half = image.clone()
    half[:20] = math.nan  # the border of a field of view is no edge
    assert misregistration_mm(image, half, [2.0] * 3) == 0


def test_a_shifted_image_is_warned_of_once(tmp_path, caplog):
    image = 500 + 100 * head().numpy()
    for name, values in {"FLAIR": image, "T1w": np.roll(image, 4, 0), "T2w": 2000 - image}.items():
        nib.save(nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / f"sub-1_{name}.nii.gz")
    item = LoadVolumed("image")({"image": str(tmp_path / "sub-1_FLAIR.nii.gz")})
    item["given"] = [str(tmp_path / f"sub-1_{name}.nii.gz") for name in ("T1w", "T2w")]
    load = LoadGivend("given", roles=["t1", "t2"])
    with caplog.at_level(logging.WARNING):
        assert load(item)["given"].meta["misregistration_mm"].tolist() == [8.0, 0.0]
        load(item)
    (record,) = caplog.records
    assert "T1w.nii.gz (t1) lies about 8.0 mm from" in record.getMessage()


# ---- cases ----


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    return Path(write_contrasts(tmp_path / "cohort"))


def names(paths: list[str | None]) -> list[str]:
    return [Path(path).name.split("_")[1].split(".")[0] if path else "" for path in paths]


def test_pairs_have_none_where_a_case_lacks_a_contrast(cohort):
    cases = listed_cases(cohort)
    items = cases.pairs("flair", "t1, t2")
    assert [(item["subject"], names(item["given"])) for item in items] == [
        ("sub-1", ["T1w", "T2w"]), ("sub-2", ["T1w", ""]), ("sub-4", ["", ""]),
    ]  # fmt: skip
    assert all("FLAIR" in item["image"] for item in items)
    assert role_names("t1, t2") == role_names(["t1", "t2"]) == ["t1", "t2"]


def test_cases_without_the_target_are_listed_for_a_task_on_the_grid_of_another_image(cohort):
    items = {item["subject"]: item for item in listed_cases(cohort).pairs("flair", ["t2", "t1"], incomplete=True)}
    assert sorted(items) == ["sub-1", "sub-2", "sub-3"]
    assert [items[name]["has_target"] for name in sorted(items)] == [True, True, False]
    assert items["sub-3"]["image"] == items["sub-3"]["given"][1]


def test_a_label_map_alone_is_a_case_of_a_task_alone(tmp_path):
    folder = write_contrasts(tmp_path / "cohort", [("T1w", "dseg"), ("dseg",)])
    with pytest.warns(UserWarning, match="left out 1 x mask without an image"):
        assert [item["subject"] for item in listed_cases(folder).pairs("t1", "dseg")] == ["sub-1"]
    cases = listed_cases(folder, masks_alone=True)
    items = cases.pairs("t1", "dseg", incomplete=True)
    assert [(item["subject"], item["has_target"]) for item in items] == [("sub-1", True), ("sub-2", False)]
    assert items[1]["image"] == items[1]["given"][0]
    assert cases.reasons == {}


@pytest.mark.parametrize(
    ("image", "given", "message"),
    [
        ("flair", "t1,flair", "other roles of --given"), ("", "t1", "one role of --image"),
        ("flair", "", "other roles of --given"), ("t1,t2", "flair", "one role of --image"),
        ("flair", "t1,pd", "images of the role pd"), ("pd", "t1", "images of the role pd"),
    ],
)  # fmt: skip
def test_roles_that_make_no_pairs_are_refused_with_those_of_the_folder(cohort, image, given, message):
    with pytest.raises(DataError, match=rf"{message}.*the roles flair \(3\), t1 \(3\), t2 \(1\)"):
        listed_cases(cohort).pairs(image, given)
