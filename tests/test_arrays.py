"""Arrays and pictures: found with their classes, exact values, and refused with a remedy."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from monai.transforms import Compose
from PIL import Image

from monai_diffscore import samples
from monai_diffscore.data import (
    FitSized,
    HeldOutSlabd,
    LoadArrayd,
    LoadPictured,
    SavePictured,
    class_names,
    list_arrays,
    split_by_subject,
)
from monai_diffscore.errors import DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (5, 7), dtype=np.uint16)


@pytest.fixture
def save(tmp_path):
    """Writes an array as .npy, or a picture by its suffix, below the folder ``data``, and returns its path."""

    def write(name: str, array: np.ndarray) -> str:
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, array)
        elif path.suffix == ".tif":
            tifffile.imwrite(path, array)
        else:
            Image.fromarray(array).save(path)
        return str(path)

    return write


# ---- found ----


@pytest.mark.parametrize(
    ("shape", "dims", "channels"), [((6, 9), 1, 1), ((6, 2, 9), 1, 2), ((6, 4, 5), 2, 1), ((6, 3, 4, 5), 2, 3)]
)
def test_each_row_is_a_case_with_its_own_values(save, shape, dims, channels):
    array = RNG.normal(size=shape)
    cases = list_arrays(save("x.npy", array), dims)
    assert [case["row"] for case in cases] == list(range(6))
    load = LoadArrayd("image", dims, channels)
    for row, case in enumerate(cases):
        image = load(case)["image"]
        assert image.dtype == torch.float32
        np.testing.assert_array_equal(image.numpy().reshape(shape[1:]), array[row].astype(np.float32))
        assert image.shape[0] == channels
        assert image.meta["filename_or_obj"] == f"{case['image']}[{row}]"


def test_no_row_is_in_both_parts_and_all_are_in_one(save):
    cases = list_arrays(save("x.npy", RNG.normal(size=(20, 9))), 1)
    train, validation = split_by_subject(cases, 0.2, seed=3)
    rows = [{case["row"] for case in part} for part in (train, validation)]
    assert len(rows[1]) == 4
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == set(range(20))


def test_rows_of_one_subject_stay_together(save, tmp_path):
    for subject in range(5):
        save(f"sub-{subject}/x.npy", RNG.normal(size=(3, 9)))
    train, validation = split_by_subject(list_arrays(tmp_path / "data", 1), 0.4)
    assert {case["label"] for case in train} == {-1}  # a subject is no class
    parts = [{case["subject"] for case in part} for part in (train, validation)]
    assert [len(part) for part in parts] == [3, 2]
    assert not parts[0] & parts[1]
    assert len(validation) == 6


def test_one_long_sequence_is_held_out_at_its_end(save):
    sequence = RNG.normal(size=100)
    train, validation = split_by_subject(list_arrays(save("x.npy", sequence), 1))
    load = Compose([LoadArrayd("image", 1), HeldOutSlabd("image", axis=0, share=0.3)])
    parts = [load(part[0])["image"].numpy()[0] for part in (train, validation)]
    assert [len(part) for part in parts] == [70, 30]
    np.testing.assert_array_equal(np.concatenate(parts), sequence.astype(np.float32))


def test_one_picture_cannot_be_split(save):
    cases = list_arrays(save("a.png", GREY), 2)
    with pytest.raises(DataError, match="at least two subjects"):
        split_by_subject(cases, slabs=False)


def test_the_class_is_the_sub_folder_in_alphabetical_order(save, tmp_path):
    for number, name in enumerate(("zebra/1.png", "ant/1.png", "ant/sub-7/2.png", "none.png")):
        save(name, GREY // 2 + number)
    cases = list_arrays(tmp_path / "data", 2)
    labels = {case["image"].split("data/")[1]: case["label"] for case in cases}
    assert labels == {"ant/1.png": 0, "ant/sub-7/2.png": 0, "none.png": -1, "zebra/1.png": 1}
    assert class_names(cases) == ["ant", "zebra"]


@pytest.mark.parametrize(
    "names",
    [
        [str(number) for number in range(12)],
        ["grade 2", "grade 3", "grade 10", "grade 11b"],
        ["007", "8", "a2", "a10", "b"],
    ],
)
def test_folders_of_classes_are_in_the_order_of_counting(names, save, tmp_path):
    """So that ``--label 2`` is folder 2 where there is a folder 10."""
    for name in reversed(names):
        save(f"{name}/a.npy", np.zeros((4, 4)))
    assert class_names(list_arrays(tmp_path, 2)) == names


def test_the_class_is_the_number_beside_the_array(save, tmp_path):
    save("x.npy", RNG.normal(size=(4, 9)))
    save("labels.npy", np.array([2, -1, 0, 2]))
    cases = list_arrays(tmp_path / "data", 1, num_classes=3)
    assert [case["label"] for case in cases] == [2, -1, 0, 2]
    assert class_names(cases) == ["0", "", "2"]
    with pytest.raises(DataError, match=r"num_classes = 2.*--num_classes 3"):
        list_arrays(tmp_path / "data", 1, num_classes=2)


def test_samples_have_the_content_of_their_packages():
    from sklearn.datasets import load_digits

    digits = load_digits()
    cases = list_arrays(samples.digits(), 2, num_classes=10)
    assert [case["label"] for case in cases] == digits.target.tolist()
    image = LoadPictured("image", size=(8, 8))(cases[-1])["image"]
    np.testing.assert_array_equal((image.numpy()[0] * 16 / 255).round(), digits.images[-1])
    import pywt

    (case,) = list_arrays(samples.ecg(), 1)
    np.testing.assert_array_equal(LoadArrayd("image", 1)(case)["image"].numpy()[0], pywt.data.ecg())


# ---- pictures ----


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_pictures_are_read_exactly_from_the_top(save, suffix):
    grey = LoadPictured("image")({"image": save(f"g{suffix}", GREY)})["image"]
    np.testing.assert_array_equal(grey.numpy(), GREY[None])
    same = np.repeat(GREY[..., None], 3, axis=2)
    np.testing.assert_array_equal(LoadPictured("image")({"image": save(f"s{suffix}", same)})["image"], GREY[None])
    colour = LoadPictured("image", channels=3)({"image": save(f"c{suffix}", COLOUR)})["image"]
    np.testing.assert_array_equal(colour.numpy(), COLOUR.transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_sixteen_bits_need_a_stated_range_and_keep_their_steps(save, suffix):
    path = save(f"d{suffix}", DEEP)
    with pytest.raises(DataError, match=r"stated value_range.*uint16"):
        LoadPictured("image")({"image": path})
    with pytest.raises(DataError, match=r"values in the value_range"):
        LoadPictured("image", value_range=(0, 255))({"image": path})
    image = LoadPictured("image", value_range=(0, 4095))({"image": path})["image"].numpy()[0]
    np.testing.assert_allclose(image, DEEP * (255 / 4095), rtol=1e-6)
    assert len(np.unique(image)) == len(np.unique(DEEP))


def test_eight_bits_among_sixteen_are_refused(save):
    with pytest.raises(DataError, match="8 bits"):
        LoadPictured("image", value_range=(0, 65535))({"image": save("g.png", GREY)})


def test_alpha_is_dropped_if_opaque_and_else_composed_on_white(save):
    alpha = np.full_like(GREY, 255)
    for channels, colours in ((1, GREY[..., None]), (3, COLOUR)):
        opaque = np.concatenate([colours, alpha[..., None]], axis=2)
        clear = opaque.copy()
        clear[..., -1] = 51  # a fifth
        load = LoadPictured("image", channels=channels)
        image = load({"image": save(f"o{channels}.png", opaque)})["image"].numpy()
        np.testing.assert_array_equal(image, colours.transpose(2, 0, 1))
        image = load({"image": save(f"t{channels}.png", clear)})["image"].numpy()
        np.testing.assert_allclose(image, colours.transpose(2, 0, 1) * 0.2 + 255 * 0.8, atol=0.5)


def test_saved_pictures_are_read_again(tmp_path):
    for channels, name in ((1, "L"), (3, "RGB")):
        image = torch.rand(channels, 4, 6) * 255
        SavePictured("pred", tmp_path / name)({"pred": image, "seed": torch.tensor(7)})
        path = tmp_path / name / "pred_0007.png"
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == (name, (6, 4))
        again = LoadPictured("image", channels=channels)({"image": str(path)})["image"]
        np.testing.assert_allclose(again, image.round())


def test_fitting_keeps_the_aspect_and_the_centre():
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(40.0), indexing="ij")
    image = torch.stack([rows, columns])
    fitted = FitSized("image", (10, 10))({"image": image})["image"]
    assert fitted.shape == (2, 10, 10)
    expected = torch.meshgrid(0.5 + 2 * torch.arange(10.0), 10.5 + 2 * torch.arange(10.0), indexing="ij")
    torch.testing.assert_close(fitted, torch.stack(expected))  # means of 2 x 2 pixels, a border included
    torch.testing.assert_close(FitSized("image", (20, 40))({"image": image})["image"], image)


# ---- refused ----


@pytest.mark.parametrize(
    ("files", "dims", "message"),
    [
        ({}, 2, "no such file or folder"),
        ({"a.txt.npy": np.ones((2, 2, 2, 2, 2))}, 2, r"\[N, H, W\].*shape \(2, 2, 2, 2, 2\)"),
        ({"a.npy": np.ones((0, 9))}, 1, r"every axis at least 1.*\(0, 9\)"),
        ({"a.npy": np.ones(9, dtype=complex)}, 1, "real numbers.*complex128"),
        ({"a.npy": np.array([{}, {}])}, 1, "a .npy file of numbers"),
        ({"a.png": GREY}, 1, r"got 1 file \(\.png\)"),
        ({"a.png": GREY, "b.npy": np.ones((2, 4, 4))}, 2, "of one kind"),
        ({"a.npy": np.ones((3, 9)), "labels.npy": np.arange(2)}, 1, r"shape \(3,\).*shape \(2,\)"),
        ({"a.npy": np.ones((2, 9)), "labels.npy": np.array([0.0, 1.0])}, 1, "integers.*float64"),
        ({"a.npy": np.ones((2, 9)), "labels.npy": np.array([0, -2])}, 1, "smallest -2"),
        ({"a.npy": np.ones((2, 9)), "b.npy": np.ones((2, 9)), "labels.npy": np.arange(2)}, 1, "beside 2 arrays"),
    ],
)
def test_folders_and_tables_without_cases_are_refused(save, tmp_path, files, dims, message):
    for name, array in files.items():
        save(name, array)
    with pytest.raises(DataError, match=message):
        list_arrays(tmp_path / "data", dims)


def with_nan(shape: tuple[int, ...]) -> np.ndarray:
    array = RNG.normal(size=shape)
    array[2, 3] = np.nan
    return array


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (with_nan((4, 9)), {}, r"x.npy\[2\].*1 of 9 values NaN"),
        (np.ones((4, 9)), {}, "the constant 1"),
        (RNG.normal(size=(4, 9)), {"size": [8]}, r"the size \(8,\).*got \(9,\)\. Resize"),
        (RNG.normal(size=(4, 2, 9)), {}, r"got shape \(2, 9\).*--image_channels 2"),
        (RNG.normal(size=(4, 9, 2)), {"channels": 2}, "Move the channels to the front"),
    ],
)
def test_rows_that_would_spoil_a_model_are_refused(save, array, options, message):
    cases = list_arrays(save("x.npy", array), 1)
    with pytest.raises(DataError, match=message):
        LoadArrayd("image", 1, **options)(cases[2])


def test_pictures_of_the_other_kind_and_damaged_ones_are_refused(save, tmp_path):
    with pytest.raises(DataError, match=r"a grey picture.*--image_channels 3"):
        LoadPictured("image")({"image": save("c.png", COLOUR)})
    with pytest.raises(DataError, match="a colour picture"):
        LoadPictured("image", channels=3)({"image": save("g.png", GREY)})
    with pytest.raises(DataError, match=r"pictures.*got 2"):
        LoadPictured("image", channels=2)({"image": save("g.png", GREY)})
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"bad\.png.*readable"):
        LoadPictured("image")({"image": str(tmp_path / "bad.png")})
