"""Pictures and slides as cases: whose they are, what is left out by name, and what is on both sides of a split."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from dicom_series import phantom, write_series
from monai.bundle import ConfigParser
from PIL import Image
from small_data import stained

from monai_diffscore.__main__ import main
from monai_diffscore.data import list_arrays, list_slides, listed_arrays, listed_slides, split_by_subject
from monai_diffscore.data.cases import leaks
from monai_diffscore.data.pictures import read_picture
from monai_diffscore.errors import DataError
from monai_diffscore.inspection import inspect_bundle
from monai_diffscore.planning.kinds import find_kind

PROJECTIONS = {
    "CR": "1.2.840.10008.5.1.4.1.1.1",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "MG": "1.2.840.10008.5.1.4.1.1.1.2",
}


def write_picture(path: Path, seed: int | str = 0, size: int = 16) -> Path:
    """A smooth picture of its own, with noise."""
    random = np.random.default_rng(seed if isinstance(seed, int) else list(seed.encode()))
    coarse = Image.fromarray(random.integers(0, 200, (4, 4)).astype(np.uint8)).resize((size, size), Image.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(coarse).astype(float) + random.integers(0, 9, (size, size))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(path)
    return path


def write_pictures(root: Path, *names: str) -> None:
    for name in names:
        write_picture(root / name, name)


def write_mask(path: Path, colours: bool = False) -> None:
    values = np.zeros((16, 16), np.uint8)
    values[4:12, 4:12] = 255
    values[6:9, 6:9] = 128
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([values, values // 2, values], -1) if colours else values).save(path)


def write_projection(
    path: Path, patient: str, modality: str = "DX", seed: int = 0, frames: int = 1, **tags
) -> np.ndarray:
    """One radiograph of 12 bits; its stored values."""
    stored = np.random.default_rng(seed).integers(0, 4096, (10, 8)).astype(np.uint16)

    def edit(dataset, _):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = PROJECTIONS[modality]
        dataset.Modality, dataset.PatientID, dataset.StudyInstanceUID = modality, patient, f"1.2.9.{seed + 1}"
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = np.repeat(stored[None], frames, 0).tobytes()
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept"):
            if name in dataset:
                del dataset[name]
        dataset.NumberOfFrames = frames
        for name, value in tags.items():
            setattr(dataset, name, value)

    folder = path.parent / f"{path.name}.writing"
    write_series(folder, phantom(1), modality="CR", uid=f"1.2.3.{seed + 1}", edit=edit)
    (file,) = folder.iterdir()
    file.rename(path)
    folder.rmdir()
    return stored


def left_out(cases, root: Path) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for one in cases.left_out:
        reasons.setdefault(one.reason, []).append(str(Path(one.path).relative_to(root)))
    return reasons


# ---- subjects ----


@pytest.mark.parametrize(
    ("names", "subjects"),
    [
        (["sub-1/a.png", "sub-1/b.png", "sub-2/a.png"], ["sub-1", "sub-1", "sub-2"]),
        (["P001/a.png", "P001/b.png", "P002/a.png"], ["P001", "P001", "P002"]),
        (["patient00001/study1/view1.png", "patient00001/study2/view1.png"], ["patient00001"] * 2),
        (["benign/case_3/1.png", "benign/case_3/2.png", "malignant/case_4/1.png"], ["case_3", "case_3", "case_4"]),
        (["p1_left.png", "p1_right.png", "p2_left.png"], ["p1", "p1", "p2"]),
        (["TCGA-AB-1234-01Z_x0_y0.png", "TCGA-AB-1234-01Z_x1_y0.png"], ["TCGA-AB-1234"] * 2),
        (["case1.png", "case2.png", "img_1.png"], ["case1.png", "case2.png", "img_1.png"]),
        (["cat/1.png", "dog/1.png"], ["cat/1.png", "dog/1.png"]),
    ],
)
def test_the_pictures_of_a_patient_have_one_subject(names, subjects, tmp_path):
    write_pictures(tmp_path, *names)
    for cases in (list_arrays(tmp_path, 2), list_slides(tmp_path)):
        assert [case["subject"] for case in cases] == subjects


def test_patients_and_folders_of_pictures_in_general_are_no_classes(tmp_path):
    write_pictures(tmp_path, "images/P1/a.png", "images/P2/a.png")
    assert {case["class_name"] for case in list_arrays(tmp_path, 2)} == {""}
    write_pictures(tmp_path, "benign/P3/a.png", "malignant/sub-4/a.png")
    assert [case["class_name"] for case in list_arrays(tmp_path, 2)] == ["benign", "", "", "malignant"]


@pytest.mark.parametrize(
    ("rule", "subjects"), [("folder", ["a", "a", "b", "b"]), (r"_(\d)", ["1", "2", "1", "2"]), ("a|b", list("aabb"))]
)
def test_a_rule_of_the_user_names_the_subjects(rule, subjects, tmp_path):
    write_pictures(tmp_path, "a/x_1.png", "a/x_2.png", "b/x_1.png", "b/x_2.png")
    for cases in (list_arrays(tmp_path, 2, subject=rule), list_slides(tmp_path, subject=rule)):
        assert [case["subject"] for case in cases] == subjects
    with pytest.raises(DataError, match=r"paths that match 'q'.*--subject"):
        listed_arrays(tmp_path, 2, subject="q")


def test_rows_of_an_array_take_the_subject_of_its_file(tmp_path):
    for name in ("p1_a", "p1_b", "x"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(len(name)).normal(size=(2, 4, 4)))
    subjects = ["p1"] * 4 + ["x.npy[0]", "x.npy[1]"]
    assert [case["subject"] for case in list_arrays(tmp_path, 2)] == subjects


# ---- left out ----


def test_what_is_no_picture_of_its_own_is_left_out_by_name(tmp_path):
    write_pictures(tmp_path, "images/a.png", "images/b.png", "images/c.jpg", "images/d.bmp", ".thumbs/a.png", "._a.png")
    for name in ("masks/a.png", "ManualMask/leftMask/b.png", "images/c_anno.png"):
        write_mask(tmp_path / name)
    write_mask(tmp_path / "other/one.png")
    write_mask(tmp_path / "other/two.png", colours=True)
    shutil.copy(tmp_path / "images/a.png", tmp_path / "images/z.PNG")
    (tmp_path / "images/link.png").symlink_to("gone.png")
    (tmp_path / "notes.txt").write_text("x")
    right = {
        "hidden file": ["._a.png"],
        "hidden folder": [".thumbs"],
        "label map by its values": ["other/one.png", "other/two.png"],
        "link to a missing file (not fetched?)": ["images/link.png"],
        "mask of another file": ["ManualMask/leftMask/b.png", "images/c_anno.png", "masks/a.png"],
        "no image by its ending": ["notes.txt"],
        "same content as another file": ["images/z.PNG"],
    }
    with pytest.warns(UserWarning, match="left out 3 x mask of another file, 2 x label map"):
        cases = listed_arrays(tmp_path, 2)
    assert {reason: sorted(names) for reason, names in left_out(cases, tmp_path).items()} == right
    assert [Path(case.images["image"]).name for case in cases] == ["a.png", "b.png", "c.jpg", "d.bmp"]


def test_label_maps_alone_are_refused(tmp_path):
    write_mask(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"1 label maps alone.*a\.png.*\.npy"):
        list_arrays(tmp_path, 2)


def test_pictures_beside_slides_are_left_out_by_name(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", stained((64, 64)).transpose(1, 2, 0), tile=(32, 32), photometric="rgb")
    write_pictures(tmp_path, "a_thumbnail.png", "label.jpg")
    assert find_kind(tmp_path) == "slides"
    with pytest.warns(UserWarning, match="2 x picture beside slides"):
        assert [Path(case.images["image"]).name for case in listed_slides(tmp_path)] == ["a.tif"]


# ---- DICOM ----


@pytest.mark.parametrize("modality", PROJECTIONS)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_projections_in_dicom_are_pictures_of_their_patients(modality, photometric, tmp_path):
    for number in range(3):
        stored = write_projection(
            tmp_path / f"x{number}.dcm", f"P{number // 2}", modality, number, PhotometricInterpretation=photometric
        )
    write_projection(tmp_path / "cine.dcm", "P9", modality, 9, frames=2)
    assert find_kind(tmp_path) == "pictures"
    with pytest.warns(UserWarning, match=f"1 x DICOM of {modality}, no single picture"):
        cases = list_arrays(tmp_path, 2)
    assert [(Path(case["image"]).name, case["subject"]) for case in cases] == [
        ("x0.dcm", "P0"), ("x1.dcm", "P0"), ("x2.dcm", "P1")
    ]  # fmt: skip
    right = 4095 - stored.astype(int) if photometric == "MONOCHROME1" else stored
    np.testing.assert_allclose(read_picture(cases[2]["image"], 1, (0, 4095))[0], right * (255 / 4095), rtol=1e-6)
    with pytest.raises(DataError, match=r"x2\.dcm.*--value_range"):
        read_picture(cases[2]["image"], 1)


def test_the_values_of_a_projection_are_rescaled(tmp_path):
    stored = write_projection(tmp_path / "a.dcm", "P", RescaleSlope=0.5, RescaleIntercept=-10)
    np.testing.assert_allclose(
        read_picture(tmp_path / "a.dcm", 1, (-10, 2038))[0], stored * 0.5 * (255 / 2048), rtol=1e-6
    )


def test_one_anonymous_patient_of_several_projections_is_refused(tmp_path, capsys):
    for number in range(3):
        write_projection(tmp_path / f"x{number}.dcm", "ANONYMOUS", seed=number)
    with pytest.raises(DataError, match=r"'ANONYMOUS' in 3 studies.*--subject folder"):
        list_arrays(tmp_path, 2)
    assert len({case["subject"] for case in list_arrays(tmp_path, 2, subject="study")}) == 3
    assert main(["cases", str(tmp_path), "--subject", r"x\d"]) == 0
    assert "layout pictures; 3 subjects" in capsys.readouterr().out


def test_a_damaged_projection_is_refused_by_name(tmp_path):
    write_projection(tmp_path / "a.dcm", "P")
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content[:-60])
    with pytest.raises(DataError, match=r"a\.dcm.*damaged"):
        read_picture(tmp_path / "a.dcm", 1, (0, 4095))


# ---- leaks ----


def test_copies_of_pictures_on_both_sides_are_named(tmp_path):
    """By content, and by features where a copy is stored anew, brighter or smaller; patients differ."""
    for number in range(6):
        write_picture(tmp_path / f"x{number}.png", number, 64)
    shutil.copy(tmp_path / "x0.png", tmp_path / "copy.png")
    with Image.open(tmp_path / "x1.png") as picture:
        picture.point(lambda value: value // 2 + 20).resize((48, 48)).save(tmp_path / "again.jpg", quality=90)

    def items(*names: str) -> list[dict[str, str]]:
        return [{"image": str(tmp_path / name), "subject": name} for name in names]

    train = items("x0.png", "x1.png", "x2.png", "x3.png")
    assert leaks(train, items("x4.png", "x5.png")) == []
    pairs = leaks(train, items("copy.png", "again.jpg", "x5.png"))
    assert {(leak.kind, Path(leak.train).name, Path(leak.held_out).name) for leak in pairs} == {
        ("same content", "x0.png", "copy.png"),
        ("nearly the same", "x1.png", "again.jpg"),
    }


@pytest.mark.parametrize("shape", [(16, 16), (3, 20, 16), (300,), (40,)])
def test_equal_rows_of_one_array_on_both_sides_are_named(tmp_path, shape):
    values = np.random.default_rng(0).normal(size=(6, *shape))
    values[5] = 2 * values[1] + 3
    np.save(tmp_path / "x.npy", values)
    cases = list_arrays(tmp_path, min(2, len(shape)))
    assert leaks(cases[:3], cases[3:5]) == []
    (leak,) = leaks(cases[:3], cases[3:])
    assert (leak.kind, leak.train, leak.held_out) == (
        "nearly the same", f"{tmp_path}/x.npy[1]", f"{tmp_path}/x.npy[5]"
    )  # fmt: skip


def test_one_slide_under_two_names_is_named(tmp_path):
    for number, name in enumerate(("a", "b", "c", "d")):
        seed = 0 if name == "d" else number
        options = {"photometric": "rgb", "tile": (32, 32), "compression": "deflate" if name == "d" else None}
        tifffile.imwrite(tmp_path / f"{name}.tif", stained((128, 128), seed).transpose(1, 2, 0), **options)
    cases = list_slides(tmp_path)
    assert [Path(leak.train).stem + Path(leak.held_out).stem for leak in leaks(cases[:2], cases[2:])] == ["ad"]


# ---- the commands ----


@pytest.mark.parametrize("kind", ["pictures", "slides"])
def test_a_plan_keeps_rule_and_exclusions_and_its_bundle_splits_by_them(kind, tmp_path, capsys):
    """The training prints what it passes over, and ``check --leaks`` names copies on both sides."""
    root, out = tmp_path / "Bilder #2 [x] größer", tmp_path / "bundle"
    for number in range(8):
        path = root / f"g{number // 2}/n{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = 0 if number == 7 else number  # a copy of another patient, stored anew
        options = {"photometric": "rgb", "compression": "deflate" if number == 7 else None}
        options |= {"tile": (64, 64), "resolution": (2e4, 2e4), "resolutionunit": 3} if kind == "slides" else {}
        tifffile.imwrite(path, stained((128, 128), seed).transpose(1, 2, 0), **options)
    (root / "notes.txt").write_text("x")
    flags = ["--subject", "folder", "--exclude", "g1/n2.tif"]
    assert main(["plan", str(root), "--out", str(out), "--no-trial", *flags]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert f"taken for kind {kind} (--kind), subjects by folder (--subject)" in page
    assert "cases 7 of 4 subject(s)" in page
    parser = ConfigParser()
    parser.read_config(out / "configs/train.json")
    train, held_out = parser.get_parsed_content("cases")
    assert {case["subject"] for case in train}.isdisjoint(case["subject"] for case in held_out)
    assert {case["subject"] for case in (*train, *held_out)} == {"g0", "g1", "g2", "g3"}
    assert len(train) + len(held_out) == 7
    intake = parser.get_parsed_content("intake")
    assert (intake["training_subjects"], intake["validation_subjects"]) == (3, 1)
    assert intake["passed_over"] == {"no image by its ending": 1}
    found = {}
    for seed in range(8):
        parser = ConfigParser()
        parser.read_config(out / "configs/train.json")
        parser["seed"] = seed
        sides = [{Path(case["image"]).stem for case in part} for part in parser.get_parsed_content("cases")]
        found[seed] = [re.findall(r"n\d", str(leak)) for leak in leaks(*parser.get_parsed_content("cases"))]
        apart = any({"n0", "n7"} & side == {"n0"} for side in sides)
        assert found[seed] in ([["n0", "n7"]], [["n7", "n0"]]) if apart else found[seed] == [], seed
    assert any(found.values())
    findings = [str(finding) for finding in inspect_bundle(out, leaks="content") if "nearly the same" in str(finding)]
    assert len(findings) == len(found[int(ConfigParser.load_config_file(out / "configs/train.json")["seed"])])


def test_the_command_lists_pictures_with_their_leaks_and_writes_their_table(tmp_path, capsys):
    write_pictures(tmp_path, *(f"P{number}/a.png" for number in range(4)))
    with Image.open(tmp_path / "P0/a.png") as picture:
        for number in range(1, 4):
            picture.save(tmp_path / f"P{number}/b.bmp")
    assert main(["cases", str(tmp_path), "--validation-share", "0.5"]) == 0
    page = capsys.readouterr().out
    assert "layout pictures; 4 subjects, 4 sessions, 5 images" in page
    assert "left out: 2 x same content as another file (first: P2/b.bmp)" in page
    sides = re.search(r"held out: (P\d), (P\d)", page)
    assert ("leaks: none" in page) == ({"P0", "P1"} <= {*sides.groups()} or not {"P0", "P1"} & {*sides.groups()})
    assert main(["cases", str(tmp_path), "--write", str(tmp_path / "t.csv")]) == 0
    right = [(case["image"], case["subject"]) for case in list_arrays(tmp_path, 2)]
    assert [(case["image"], case["subject"]) for case in list_arrays(tmp_path / "t.csv", 2)] == right


def test_the_command_lists_sequences_and_files_outside_of_a_table_by_their_whole_path(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for number in range(3):
        np.save(tmp_path / f"data/p{number}_a.npy", np.arange(40.0) ** number)
    assert main(["cases", str(tmp_path / "data")]) == 0
    page = capsys.readouterr().out
    assert "layout sequences; 3 subjects, 3 sessions, 3 images" in page
    assert "image=p1_a.npy" in page
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables/t.csv"
    np.save(tmp_path / "tables/x.npy", np.arange(40.0))
    table.write_text(f"subject,trace\nA,{tmp_path}/data/p1_a.npy\nB,x.npy\n")
    assert main(["cases", str(table)]) == 0
    page = capsys.readouterr().out
    assert f"trace={tmp_path}/data/p1_a.npy" in page
    assert "trace=x.npy" in page


def test_plan_takes_a_table_of_pictures_by_its_role(tmp_path, capsys):
    write_pictures(tmp_path, *(f"p{number}.png" for number in range(6)))
    table = tmp_path / "t.csv"
    rows = [f"s{number // 2},p{number}.png,p{number + 1}.png" for number in (0, 2, 4)]
    table.write_text("\n".join(["subject,before,after", *rows]) + "\n")
    command = ["plan", "--cases", str(table), "--out", str(tmp_path / "bundle"), "--no-trial"]
    assert main(command) == 1
    assert "after (3), before (3). Choose one with --image ROLE" in capsys.readouterr().err
    assert main([*command, "--image", "after"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "kind pictures (--kind), image after (3) (--image), subjects by the table (--subject)" in page
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle/configs/train.json")
    names = {Path(item["image"]).name for part in parser.get_parsed_content("cases") for item in part}
    assert names == {"p1.png", "p3.png", "p5.png"}


def test_a_plan_of_sequences_keeps_rule_and_exclusions(tmp_path):
    (tmp_path / "data").mkdir()
    for number in range(8):
        np.save(tmp_path / f"data/r{number // 2}x{number}.npy", np.random.default_rng(number).normal(size=300).cumsum())
    flags = ["--subject", r"r(\d)", "--exclude", "r0x1.npy"]
    out = tmp_path / "bundle"
    assert main(["plan", str(tmp_path / "data"), "--out", str(out), "--no-trial", *flags]) == 0
    parser = ConfigParser()
    parser.read_config(out / "configs/train.json")
    train, held_out = parser.get_parsed_content("cases")
    assert {case["subject"] for case in train} | {case["subject"] for case in held_out} == set("0123")
    assert {case["subject"] for case in train}.isdisjoint(case["subject"] for case in held_out)
    assert len(train) + len(held_out) == 7


@pytest.mark.parametrize("column", ["class", "label"])
def test_a_table_of_pictures_keeps_their_classes(tmp_path, column):
    write_pictures(tmp_path, "benign/P1_a.png", "malignant/P2_a.png", "malignant/P3_a.png")
    table = tmp_path / "t.csv"
    assert main(["cases", str(tmp_path), "--write", str(table)]) == 0
    names, rows = table.read_text().split("\n", 1)
    table.write_text(f"{names.replace('class', column)}\n{rows}")
    labels = [(Path(case["image"]).name, case["label"]) for case in list_arrays(tmp_path, 2, 2)]
    assert [(Path(case["image"]).name, case["label"]) for case in list_arrays(table, 2, 2)] == labels


def test_the_split_of_one_patient_in_several_pictures_is_refused_or_cut(tmp_path):
    write_pictures(tmp_path, "P1/a.png", "P1/b.png")
    with pytest.raises(DataError, match="at least two subjects"):
        split_by_subject(list_arrays(tmp_path, 2), slabs=False)


def test_a_planned_model_of_radiographs_reads_them(tmp_path, capsys):
    for number in range(4):
        write_projection(tmp_path / f"data/x{number}.dcm", f"P{number}", seed=number)
    command = ["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial"]
    assert main(command) == 1
    assert "--value_range" in capsys.readouterr().err
    assert main([*command, "--value_range", "[0, 4095]"]) == 0
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle/configs/train.json")
    items = [item for part in parser.get_parsed_content("cases") for item in part]
    assert {item["subject"] for item in items} == {"P0", "P1", "P2", "P3"}
    item = items[0]
    stored = pydicom.dcmread(item["image"]).pixel_array
    loaded = parser.get_parsed_content("reading")[0](item)["image"]
    np.testing.assert_allclose(loaded[0].numpy(), stored * (255 / 4095), rtol=1e-5)
