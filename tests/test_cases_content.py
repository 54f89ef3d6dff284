"""What names do not say: equal files, label maps, scouts, links; and what is on both sides of a split."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import case_folders
import nibabel as nib
import numpy as np
import pytest
import torch
from case_folders import SHAPE, images, save, write_image, write_mask
from dicom_series import phantom, write_series
from monai.data import MetaTensor
from PIL import Image

from monai_diffscore.__main__ import main
from monai_diffscore.data import LoadVolumed, list_arrays, list_slides, list_volumes
from monai_diffscore.data.cases import equal_files, is_label_map, leakage, leaks, list_cases
from monai_diffscore.data.cases.content import holds_label_map
from monai_diffscore.data.paths import locate, split_channel, split_series
from monai_diffscore.data.tree import walk
from monai_diffscore.errors import DataError
from monai_diffscore.planning.kinds import find_kind
from monai_diffscore.tasks.cases import CaseTable


def reasons(root: Path, **options) -> dict[str, list[str]]:
    """The left out paths below a folder, by reason."""
    names: dict[str, list[str]] = {}
    for one in list_cases(root, **options).left_out:
        names.setdefault(one.reason, []).append(str(Path(one.path).relative_to(root)))
    return names


def test_one_content_under_several_names_is_one_image(tmp_path):
    file = write_image(tmp_path / "a.nii.gz", 1)
    (tmp_path / "b.nii").write_bytes(gzip.decompress(file.read_bytes()))
    shutil.copy(file, tmp_path / "c.nii.gz")
    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 1))
    (tmp_path / "e.nii.gz").symlink_to(file)
    write_image(tmp_path / "f.nii.gz", 2)
    assert [case.subject for case in list_cases(tmp_path)] == ["a", "f"]
    assert reasons(tmp_path) == {"same content as another file": ["b.nii", "c.nii.gz", "d.nii.gz", "e.nii.gz"]}


def test_equal_sizes_and_checksums_do_not_make_equal_files(tmp_path):
    """Files of one size and one CRC-32 differ by their SHA-256; a damaged file is equal to itself alone."""
    content = gzip.compress(np.random.default_rng(0).bytes(1000))
    for name, body in (("a", content), ("b", content), ("c", content[:50] + content[-8:])):
        (tmp_path / f"{name}.gz").write_bytes(body)
    assert equal_files(tmp_path.iterdir()) == [[tmp_path / "a.gz", tmp_path / "b.gz"]]


@pytest.mark.parametrize(
    ("values", "right"),
    [
        (np.pad(np.ones((4, 4, 4)), 2), True),
        (np.kron(np.arange(8).reshape(2, 2, 2), np.ones((4, 4, 4))), True),
        (np.random.default_rng(0).integers(0, 9, SHAPE), False),
        (np.random.default_rng(0).integers(0, 200, SHAPE), False),
        (np.pad(np.ones((4, 4, 4)), 2) * 0.5, True),
        (np.kron(np.arange(1, 344).reshape(7, 7, 7), np.ones((8, 8, 8))), True),
        (np.kron(np.arange(1, 344).reshape(7, 7, 7), np.ones((2, 2, 2))), False),
        (np.pad(np.ones((16, 16, 16)), 4, "linear_ramp"), True),
        (np.random.default_rng(0).random(SHAPE) > 0.5, True),
        (np.eye(8)[:, :, None] * np.eye(8)[None] * np.arange(1, 9), True),
        (np.random.default_rng(0).random(SHAPE), False),
        (np.clip(np.random.default_rng(0).random((16, 16, 16)), 0, 0.9) / 0.9, False),
        (np.ones(SHAPE), False),
        (np.full(SHAPE, np.nan), False),
    ],
    ids=["mask", "labels", "few values", "noise", "scaled mask", "343 instances", "343 values, too fine", "soft mask",
         "two values", "points", "shares", "clipped shares", "constant", "NaN"],
)  # fmt: skip
def test_values_distinguish_label_maps_from_images(values, right):
    assert is_label_map(values) is right


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
def test_label_maps_of_several_channels_are_no_images(tmp_path, ending):
    """One-hot masks are none; a mask beside an image is found by its channel, unless a packed file is too large."""
    import SimpleITK

    mask, image = np.pad(np.ones((4, 4, 4)), 2), np.random.default_rng(0).normal(size=SHAPE)
    for name, channels in (("one_hot", (mask, 1 - mask)), ("mixed", (mask, image))):
        values = np.stack(channels, -1).astype(np.float32)
        if ending == ".mha":
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values, isVector=True), str(tmp_path / f"{name}.mha"))
        else:
            save(tmp_path / f"{name}{ending}", values)
    assert holds_label_map(tmp_path / f"one_hot{ending}")
    assert not holds_label_map(tmp_path / f"mixed{ending}")
    assert holds_label_map(tmp_path / f"mixed{ending}/channel:0") is (ending != ".nii.gz")
    assert not holds_label_map(tmp_path / f"mixed{ending}/channel:1")


def test_a_label_map_with_the_name_of_an_image_is_refused_by_name(tmp_path):
    images(tmp_path, "a.nii.gz", "b.nii.gz")
    write_mask(tmp_path / "c.nii.gz", 3)
    write_mask(tmp_path / "d.nii", 4)
    label_maps = "label map by its values, with the name of an image"
    assert reasons(tmp_path) == {label_maps: ["c.nii.gz", "d.nii"]}
    with pytest.warns(UserWarning, match=f"left out 2 x {label_maps}"):
        assert len(list_volumes(tmp_path)) == 2
    with pytest.raises(DataError, match=r"got 1 label maps alone \(first: .*c\.nii\.gz\)"):
        list_volumes(tmp_path / "c.nii.gz")


def test_one_slice_is_left_out_beside_volumes_and_taken_alone(tmp_path):
    write_image(tmp_path / "a.nii.gz", 1, (8, 8, 1))
    assert len(list_cases(tmp_path)) == 1
    images(tmp_path, "b.nii.gz")
    assert reasons(tmp_path) == {"one slice beside volumes": ["a.nii.gz"]}


def test_dicom_beside_its_conversion_is_one_image(tmp_path):
    write_series(tmp_path / "p1", phantom(4), modality="MR")
    images(tmp_path, "p1/p1_t1_20200101_3.nii.gz")
    (case,) = list_cases(tmp_path)
    assert case.images == {"t1": str(tmp_path / "p1/p1_t1_20200101_3.nii.gz")}
    assert reasons(tmp_path) == {"DICOM in the folder of NIfTI files (--layout dicom reads it)": ["p1"]}
    assert [list(case.images) for case in list_cases(tmp_path, "dicom")] == [["image"]]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_dicom_and_its_conversion_in_another_folder_are_one_image(order, tmp_path):
    """Under other names and along other axes; a scan of the same size of another patient is another image."""
    for number in range(3):
        voxels = phantom(4, seed=number)
        write_series(tmp_path / f"dicom/x{number}", voxels, modality="MR", uid=f"1.2.{number + 1}")
        if number < 2:
            save(tmp_path / f"nifti/scan_{number}.nii.gz", (voxels if number else voxels + 40.0).transpose(order)[::-1])
    listing = list_cases(tmp_path)
    assert sorted(str(Path(p).relative_to(tmp_path)) for c in listing for p in c.images.values()) == [
        "dicom/x0", "dicom/x2", "nifti/scan_0.nii.gz", "nifti/scan_1.nii.gz"
    ]  # fmt: skip
    assert reasons(tmp_path) == {
        "DICOM of which a NIfTI file has the same scan (--layout dicom reads it)": ["dicom/x1"]
    }
    assert len(list_cases(tmp_path, "dicom")) == 3


def test_hidden_stores_are_not_entered_and_links_are_followed_once(tmp_path):
    store = tmp_path / "ds/.git/annex/objects/x.nii.gz"
    write_image(store, 1)
    link = tmp_path / "ds/sub-1/anat/sub-1_T1w.nii.gz"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(store, link.parent))
    (link.parent / "sub-2_T1w.nii.gz").symlink_to("../../.git/annex/objects/gone.nii.gz")
    (tmp_path / "ds/sub-1/again").symlink_to(tmp_path / "ds")  # a cycle
    images(tmp_path / "elsewhere", "sub-3/anat/sub-3_T1w.nii.gz")
    (tmp_path / "ds/sub-3").symlink_to(tmp_path / "elsewhere/sub-3")
    (tmp_path / "ds/twice").symlink_to(tmp_path / "elsewhere/sub-3")
    (tmp_path / "ds/.DS_Store").write_bytes(b"\0")
    root = tmp_path / "ds"
    assert [str(file.relative_to(root)) for file in walk(root).files] == [
        "sub-1/anat/sub-1_T1w.nii.gz", "sub-3/anat/sub-3_T1w.nii.gz"
    ]  # fmt: skip
    assert reasons(root) == {
        "hidden file": [".DS_Store"],
        "hidden folder": [".git"],
        "link to a folder that is read already": ["sub-1/again", "twice"],
        "link to a missing file (not fetched?)": ["sub-1/anat/sub-2_T1w.nii.gz"],
    }


def test_results_below_the_data_are_no_data(tmp_path):
    """A bundle and the results of a task, by default below it, are read only by their own names; so are bins."""
    names = ("my_mri/output/samples/sample_0000.nii.gz", "denoised/a_mean.nii.gz", "$RECYCLE.BIN/c.nii.gz")
    images(tmp_path, "a.nii.gz", "b.nii.gz", "listed/d.nii.gz", *names)
    (tmp_path / "my_mri/configs").mkdir()
    (tmp_path / "my_mri/configs/metadata.json").write_text("{}")
    table = CaseTable(tmp_path / "denoised")
    table.add({**table.identify(MetaTensor(torch.zeros(1), meta={"filename_or_obj": "a.nii.gz"})), "error": "x"})
    (tmp_path / "listed/cases.csv").write_text("subject,t1\nd,d.nii.gz\n")
    assert [case.subject for case in list_cases(tmp_path)] == ["a", "b", "listed/d"]
    assert reasons(tmp_path) == {
        "no image by its ending": ["listed/cases.csv"],
        "bundle with its results (name that folder itself to read it)": ["my_mri"],
        "results of a task (name that folder itself to read it)": ["denoised"],
        "hidden folder": ["$RECYCLE.BIN"],
    }
    assert len(list_cases(tmp_path / "my_mri")) == len(list_cases(tmp_path / "denoised")) == 1


def test_every_format_is_read_on_its_grid(tmp_path):
    """The same voxels at the same place from each ending; half a pair is left out by name."""
    import SimpleITK

    values = np.random.default_rng(0).integers(1, 2000, (5, 6, 7)).astype(np.int16)
    affine = np.array([[-2.0, 0, 0, 10], [0, 3.0, 0, -20], [0, 0, 1.5, 5], [0, 0, 0, 1]])
    image = nib.Nifti1Image(values, affine)
    nib.save(image, tmp_path / "a.nii.gz")
    for ending in ("nrrd", "mha", "mhd"):
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / f"{ending}.{ending}"))
    nib.save(nib.Nifti1Pair(values, affine), tmp_path / "pair.img")
    nib.save(nib.MGHImage(values.astype(np.float32), affine), tmp_path / "fs.mgz")
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "B.NII.GZ")
    (tmp_path / "half.img").write_bytes(b"\0")
    load = LoadVolumed("image")
    for name in ("a.nii.gz", "B.NII.GZ", "nrrd.nrrd", "mha.mha", "mhd.mhd", "pair.hdr", "fs.mgz"):
        volume = load({"image": str(tmp_path / name)})["image"]
        np.testing.assert_array_equal(volume[0].numpy(), values, err_msg=name)
        np.testing.assert_allclose(volume.affine.numpy(), affine, atol=1e-4, err_msg=name)
    assert "half of a pair .hdr/.img" in reasons(tmp_path)
    assert len(list_cases(tmp_path)) == 6


def test_channels_are_picked_and_joined_on_one_grid_alone(tmp_path):
    values = np.random.default_rng(0).integers(1, 2000, (*SHAPE, 3)).astype(np.int16)
    save(tmp_path / "a.nii.gz", values)
    load, file = LoadVolumed("image", channels=2), str(tmp_path / "a.nii.gz")
    volume = load({"image": [f"{file}/channel:2", f"{file}/channel:0"]})["image"]
    np.testing.assert_array_equal(volume.numpy(), values[..., [2, 0]].transpose(3, 0, 1, 2))
    with pytest.raises(DataError, match="a channel 3"):
        load({"image": f"{file}/channel:3"})
    other = write_image(tmp_path / "b.nii.gz", 1, (8, 8, 9))
    with pytest.raises(DataError, match=r"expected the grid of .*got \(8, 8, 9\).*--image"):
        load({"image": [f"{file}/channel:0", str(other)]})


def test_paths_with_a_hash_survive_a_configuration(tmp_path):
    """MONAI writes ``::`` for ``#`` in every text of a configuration."""
    root = tmp_path / "Studie #3 Köln"
    images(root, "P1/T1.nii.gz", "P2/T1.nii.gz")
    as_configured = str(root).replace("#", "::")
    assert locate(as_configured) == root
    assert [Path(case["image"]).parent.name for case in list_volumes(as_configured)] == ["P1", "P2"]
    LoadVolumed("image")({"image": f"{as_configured}/P1/T1.nii.gz"})
    assert split_series("a/b/series:1.2.3") == (Path("a/b"), "1.2.3")
    assert split_channel("a#b.nii/channel:2") == (Path("a#b.nii"), 2)


# ---- leaks ----


def smooth(seed: int, shape=(16, 16, 16)) -> np.ndarray:
    """A head that all patients share, and a part of one patient alone."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    own = np.random.default_rng(seed).normal(size=(6,))
    texture = sum(a * np.cos(k * axes[k % 3] + a) for k, a in enumerate(own, start=1))
    return ((np.sqrt(sum(a**2 for a in axes)) < 0.9) * (500 + 60 * texture)).astype(np.float32)


def test_leaks_name_subjects_copies_and_near_copies_and_nothing_else(tmp_path):
    for seed in range(6):
        save(tmp_path / f"p{seed}.nii.gz", smooth(seed))
    shutil.copy(tmp_path / "p0.nii.gz", tmp_path / "copy.nii.gz")
    noise = np.random.default_rng(9).normal(0, 5, (16, 16, 16))
    flipped = nib.Nifti1Image((2 * smooth(1) + 30 + noise)[::-1].astype(np.float32), np.diag([-2.0, 2, 2, 1]))
    nib.save(flipped, tmp_path / "rescaled.nii")

    def items(*names: str) -> list[dict[str, str]]:
        return [{"image": str(tmp_path / name), "subject": name.partition(".")[0]} for name in names]

    train = items("p0.nii.gz", "p1.nii.gz", "p2.nii.gz", "p3.nii.gz")
    assert leaks(train, items("p4.nii.gz", "p5.nii.gz")) == []
    pairs = leaks(train, items("p4.nii.gz", "copy.nii.gz", "rescaled.nii"))
    assert {(leak.kind, Path(leak.train).name, Path(leak.held_out).name) for leak in pairs} == {
        ("same content", "p0.nii.gz", "copy.nii.gz"),
        ("nearly the same", "p1.nii.gz", "rescaled.nii"),
    }
    assert [leak.kind for leak in leaks(train, items("rescaled.nii"), near=False)] == []
    later = [{"image": str(tmp_path / "p4.nii.gz"), "subject": "p2"}]
    assert [leak.kind for leak in leaks(train, later)] == ["subject"]


@pytest.mark.parametrize("copy", ["dtype", "format", "flipped", "header", "cropped", "rescaled"])
def test_a_copy_in_another_form_on_the_other_side_is_a_leak(copy, tmp_path):
    """Also with an orientation in its header that is wrong, and without the background around it."""
    shape = (32, 32, 32)
    for seed in range(6):
        save(tmp_path / f"p{seed}.nii.gz", smooth(seed, shape))
    values, right, wrong = smooth(1, shape), np.diag([2.0, 2, 2, 1]), np.diag([-2.0, 2, 2, 1])
    kinds = {
        "dtype": nib.Nifti1Image(values.astype(np.float64), right),
        "format": nib.MGHImage(values, right),
        "flipped": nib.Nifti1Image(values[::-1], wrong),
        "header": nib.Nifti1Image(values, wrong),
        "cropped": nib.Nifti1Image(values[2:, 1:-1, :-2], right),
        "rescaled": nib.Nifti1Image(3 * values - 7, right),
    }
    file = tmp_path / ("copy.mgz" if copy == "format" else "copy.nii.gz")
    nib.save(kinds[copy], file)
    items = [{"image": str(tmp_path / f"p{seed}.nii.gz"), "subject": f"p{seed}"} for seed in range(6)]
    pairs = leaks(items[:4], [*items[4:], {"image": str(file), "subject": "copy"}])
    assert [(leak.kind, Path(leak.train).name, leak.held_out) for leak in pairs] == [
        ("nearly the same", "p1.nii.gz", str(file))
    ]


@pytest.mark.parametrize("size", [(16, 16), (3, 16, 16), (256,)])
def test_equal_and_nearly_equal_rows_of_a_large_array_are_leaks(size, tmp_path):
    """All 1000 rows are compared: by the hash of their values, then by their features."""
    rows = np.random.default_rng(0).normal(size=(1000, *size)).astype(np.float32)
    rows[900] = rows[17]
    rows[950] = 2 * rows[500] + 3
    rows[999] = rows[4][..., ::-1]
    np.save(tmp_path / "rows.npy", rows)
    file = str(tmp_path / "rows.npy")
    items = [{"image": file, "row": row, "subject": f"s{row}"} for row in range(1000)]
    pairs = [(leak.kind, leak.train, leak.held_out) for leak in leaks(items[:800], items[800:])]
    right = [("same content", f"{file}[17]", f"{file}[900]"), ("nearly the same", f"{file}[500]", f"{file}[950]")]
    reflected = [("nearly the same", f"{file}[4]", f"{file}[999]")] if len(size) > 1 else []
    assert sorted(pairs) == sorted(right + reflected)
    exact = leaks(items[:800], items[800:], near=False)
    assert [(leak.train, leak.held_out) for leak in exact] == [(f"{file}[17]", f"{file}[900]")]


def test_reports_read_the_voxels_of_files_up_to_a_size(tmp_path, monkeypatch):
    images(tmp_path, "a.nii.gz", "b.nii.gz")
    write_series(tmp_path / "c", phantom(4), modality="MR")
    items = [{"image": str(tmp_path / name)} for name in ("a.nii.gz", "b.nii.gz/channel:0", "c/series:1.2")]
    total = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    for limit, right in ((total, True), (total - 1, False)):
        monkeypatch.setattr(leakage, "NEAR_BYTES", limit)
        assert leakage.may_read_voxels(items[:2], items[2:]) is right


def test_time_points_hidden_in_case_numbers_are_near_copies(tmp_path):
    """No name tells that 0800 and 0801 are one patient; their images do, and --subject mends it."""
    for patient in (8, 9, 10):
        for time in (0, 1):
            save(tmp_path / f"imagesTr/case_{patient:02d}{time:02d}_0000.nii.gz", smooth(patient) + time)
    items = list_cases(tmp_path).images()
    assert len({item["subject"] for item in items}) == 6
    assert len(leaks(items[:1], items[1:])) == 1
    mended = list_cases(tmp_path, subject=r"case_(\d\d)").images()
    assert sorted({item["subject"] for item in mended}) == ["08", "09", "10"]


# ---- pictures ----


def test_masks_beside_pictures_are_no_pictures_but_classes_may_be_called_so(tmp_path):
    picture = np.random.default_rng(0)

    def write(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.integers(0, 255, (8, 8)).astype(np.uint8)).save(tmp_path / name)

    write("two/images/a.png", "two/masks/a.png", "flat/benign/benign (1).png", "flat/benign/benign (1)_mask.png")
    write("faces/with_mask/1.png", "faces/without_mask/2.png")
    for folder, right in (("two", ["a.png"]), ("flat", ["benign (1).png"])):
        for lister in (lambda path: list_arrays(path, 2), list_slides):
            with pytest.warns(UserWarning, match="left out 1 x mask"):
                assert [Path(case["image"]).name for case in lister(tmp_path / folder)] == right
    assert {case["class_name"] for case in list_arrays(tmp_path / "faces", 2)} == {"with_mask", "without_mask"}


def test_a_folder_without_images_is_refused_with_its_content(tmp_path):
    (tmp_path / "sub-1_T1w.nii.gz").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"1 x link to a missing file \(not fetched\?\)"):
        list_volumes(tmp_path)
    case_folders.flat(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        list_volumes(tmp_path / "nowhere")


def test_what_is_no_volume_is_told_with_what_to_do_about_it(tmp_path, capsys):
    """Radiographs, links to nothing and pictures: each has its own remedy."""
    write_series(tmp_path / "dx", phantom(1), modality="CR", uid="1.2.3")
    with pytest.raises(DataError, match=r"got none \(1 x CR series\).*--value_range"):
        list_volumes(tmp_path / "dx")
    (tmp_path / "links").mkdir()
    (tmp_path / "links/sub-1_T1w.nii.gz").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"not fetched.*datalad get"):
        list_volumes(tmp_path / "links")
    with pytest.raises(DataError, match=r"not fetched.*datalad get"):
        find_kind(tmp_path / "links")
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "photos/b.png")
    assert main(["cases", str(tmp_path / "photos")]) == 0
    assert "layout pictures; 1 subjects, 1 sessions, 1 images" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_middle_plane_alone_makes_no_label_map_and_hides_none(tmp_path, ending):
    """It tells most images by a part of the file; what it does not tell, the whole file does."""
    labels = np.zeros((16, 16, 16), np.float32)
    labels[4:12, 4:12, 2:6] = 3
    image = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    image[:, :, 8] = 0
    for name, values in (("labels", labels), ("image", image)):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}{ending}")
    assert holds_label_map(tmp_path / f"labels{ending}")
    assert not holds_label_map(tmp_path / f"image{ending}")
