"""Remedies: the flag that a message names is taken from the message, given to the same command, and works."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import case_folders
import numpy as np
import pytest
import tifffile
import torch
from dicom_series import phantom, write_series
from monai.bundle import ConfigParser
from PIL import Image
from small_data import stained

from monai_diffscore.__main__ import DICOM_OPTIONS, main
from monai_diffscore.data import SlideTiles
from monai_diffscore.data.dicom import ReadingRules
from monai_diffscore.report import RunRecord, read_intake

FLAG = re.compile(r"--[a-z_]+(?:#[a-z_]+)? (?:\"[^\"]*\"|[^\s;,.)]+(?:\.\d+)?)")


def gaps(root: Path) -> None:
    volume = phantom()
    for number in range(2):
        write_series(root / f"p{number}", volume, uid=f"1.2.826.2.{number + 1}")
        sorted((root / f"p{number}").iterdir())[4].unlink()


def stored_ct(root: Path) -> None:
    for number in range(2):
        values = np.random.default_rng(number).integers(0, 3000, (16, 16, 16)).astype(np.int16)
        case_folders.save(root / f"c{number}.nii.gz", values)


def sixteen_bits(root: Path) -> None:
    root.mkdir()
    for number in range(3):
        values = np.random.default_rng(number).integers(0, 4000, (32, 32)).astype(np.uint16)
        Image.fromarray(values).save(root / f"x{number}.png")


FOLDERS: dict[str, tuple[Callable[[Path], None], list[str], str, str]] = {
    "gap": (gaps, [], "--dicom_options#on_gap", "dicom_options"),
    "stored": (stored_ct, ["--modality", "CT"], "--assume_intercept", "assume_intercept"),
    "no_air": (stored_ct, ["--modality", "CT"], "--allow_no_air", "allow_no_air"),
    "sixteen_bits": (sixteen_bits, [], "--value_range", "value_range"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_flag_of_a_remedy_is_taken_by_the_command_that_names_it(name, tmp_path, capsys):
    """The folder is refused; the flag in the message makes the plan; the planned bundle keeps it under one name."""
    make, flags, flag, key = FOLDERS[name]
    make(tmp_path / "data")
    command = ["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial", *flags]
    assert main(command) == 1
    (remedy,) = [text for text in FLAG.findall(capsys.readouterr().err) if text.startswith(flag + " ")]
    assert main([*command, *shlex.split(remedy)]) == 0
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle/configs/train.json")
    value = parser.get_parsed_content(key)
    assert value == {
        "gap": {"on_gap": "resample"}, "stored": -1024.0, "no_air": True, "sixteen_bits": [0, 65535]
    }[name]  # fmt: skip
    item = parser.get_parsed_content("cases")[0][0]
    for step in parser.get_parsed_content("reading"):
        item = step(item)
    assert bool(torch.isfinite(torch.as_tensor(item["image"])).all())


def test_slides_of_sixteen_bits_take_their_range_from_the_flag_of_the_remedy(tmp_path, capsys):
    """16 bits that are 257 times 8 bits: the tiles of the planned bundle are the 8 bits."""
    (tmp_path / "data").mkdir()
    for seed in range(3):
        values = stained((192, 256), seed).astype(np.uint16) * 257
        tifffile.imwrite(tmp_path / f"data/slide{seed}.tif", values, photometric="rgb")
    flags = ["--no-trial", "--kind", "slides", "--assume_mpp_um", "0.5", "--out", str(tmp_path / "bundle")]
    command = ["plan", str(tmp_path / "data"), *flags]
    assert main(command) == 1
    (remedy,) = [text for text in FLAG.findall(capsys.readouterr().err) if text.startswith("--value_range ")]
    assert main([*command, *shlex.split(remedy)]) == 0
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle/configs/train.json")
    assert parser.get_parsed_content("slide_options")["value_range"] == [0, 65535]
    (held_out,) = parser.get_parsed_content("cases")[1]
    options = parser.get_parsed_content("slide_options")
    tile = np.asarray(SlideTiles([held_out], 64, 0.5, min_tissue=0.0, **options)[0]["image"])
    right = stained((192, 256), int(Path(held_out["image"]).stem[-1]))
    places = np.argwhere((right[:, :129, :193] == tile[:, :1, :1]).all(0))
    assert any(np.array_equal(tile, right[:, row : row + 64, column : column + 64]) for row, column in places)


def test_plan_takes_every_rule_of_the_dicom_reader():
    assert list(DICOM_OPTIONS) == [field.name for field in fields(ReadingRules)]


def write_pictures(root: Path) -> None:
    for number in range(6):
        shape = (32, 32, 3) if number < 2 else (32, 32)
        values = np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)
        Image.fromarray(values).save(root / f"x{number}.png")


def write_volumes(root: Path, channels: int = 1, **changes: int) -> None:
    for number in range(3):
        shape = (16, 16, 16) if channels == 1 else (16, 16, 16, channels)
        values = np.random.default_rng(number).integers(1, 900, shape).astype(np.int16)
        case_folders.save(root / f"v{number}_of_{channels}.nii.gz", values + changes.get("offset", 0))


def kinds(root: Path) -> None:
    write_volumes(root / "a")
    (root / "b").mkdir()
    write_pictures(root / "b")


def grey_and_colour(root: Path) -> None:
    root.mkdir()
    write_pictures(root)


def time_series_beside_volumes(root: Path) -> None:
    write_volumes(root)
    write_volumes(root, channels=4)


def air_in_one(root: Path) -> None:
    """Two CT cut to a window, which look like MR, and one with its air."""
    write_volumes(root, offset=-300)
    values = np.random.default_rng(9).integers(-1000, 900, (16, 16, 16)).astype(np.int16)
    case_folders.save(root / "whole.nii.gz", values)


#: folders of two kinds: whether a plan refuses them, the flag that it names, and how many images then are one kind
MIXTURES: dict[Callable[[Path], None], tuple[bool, str, int]] = {
    kinds: (True, r"--kind \w+", 3),
    grey_and_colour: (False, r"--image_channels \d", 2),
    time_series_beside_volumes: (True, r'--exclude "[^"]+"', 3),
    air_in_one: (False, r"--modality CT", 4),
}


@pytest.mark.parametrize("write", MIXTURES, ids=lambda write: write.__name__)
def test_no_majority_decides_unsaid_what_a_mixed_folder_is(write, tmp_path, capsys):
    """The plan names each file of the minority, or refuses; the flag that it names plans one kind."""
    refused, flag, count = MIXTURES[write]
    write(tmp_path / "data")
    command = ["plan", str(tmp_path / "data"), "--no-trial", "--out"]
    assert main([*command, str(tmp_path / "a")]) == int(refused)
    page = " ".join("".join(capsys.readouterr()).split())
    assert refused or "left out: " in page
    (remedy, *_) = re.findall(flag, page)
    assert main([*command, str(tmp_path / "b"), *shlex.split(remedy)]) == 0
    fingerprint = json.loads((tmp_path / "b/docs/fingerprint.json").read_text())
    assert fingerprint["cases"] == count


def test_a_file_or_series_is_left_out_of_a_plan_by_name(tmp_path, capsys):
    write_volumes(tmp_path / "data")
    write_series(tmp_path / "data/dicom/a", phantom(16, 16, 16), modality="MR", uid="1.2.9")
    write_series(
        tmp_path / "data/dicom/a",
        phantom(16, 16, 16, seed=1),
        modality="MR",
        uid="1.2.8",
        names=[f"b{n}.dcm" for n in range(16)],
    )
    command = ["plan", str(tmp_path / "data"), "--no-trial", "--out", str(tmp_path / "bundle")]
    assert main([*command, "--exclude", "v0_of_1.nii.gz,dicom/a/series:1.2.9"]) == 0
    assert "left out: dicom/a/series:1.2.9: expected no image, as --exclude says" in capsys.readouterr().out
    parser = ConfigParser()
    parser.read_config(tmp_path / "bundle/configs/train.json")
    names = [Path(item["image"]).name for item in parser.get_parsed_content("listed")]
    assert sorted(names) == ["series:1.2.8", "v1_of_1.nii.gz", "v2_of_1.nii.gz"]


def test_a_flag_that_says_nothing_of_the_data_is_refused(tmp_path, capsys):
    sixteen_bits(tmp_path / "data")
    command = ["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial"]
    assert main([*command, "--assume_intercept", "-1024"]) == 1
    assert "Leave --assume_intercept out" in capsys.readouterr().err


def test_check_names_subjects_and_images_on_both_sides_of_the_split(tmp_path, capsys):
    """Three images under the names of two patients each, rescaled so that no file is a copy of another."""
    axes = np.meshgrid(*[np.linspace(-1, 1, 20)] * 3, indexing="ij")
    for number in range(6):
        noise = np.random.default_rng(number // 2).normal(0, 100, (20, 20, 20))
        head = (sum(axis**2 for axis in axes) < 0.8) * (400 + 100 * axes[0] + noise)
        case_folders.save(tmp_path / f"data/p{number}.nii.gz", (head * (1 + number)).astype(np.float32))
    bundle = tmp_path / "bundle"
    assert main(["plan", str(tmp_path / "data"), "--out", str(bundle), "--no-trial"]) == 0
    capsys.readouterr()
    assert main(["check", str(bundle)]) == 0
    capsys.readouterr()
    assert main(["check", str(bundle), "--leaks", "--json"]) == 1
    (findings,) = json.loads(capsys.readouterr().out).values()
    assert len(findings) == 1
    names = re.findall(r"p(\d)\.nii", findings[0]["got"])
    assert int(names[0]) // 2 == int(names[1]) // 2
    assert "nearly the same" in findings[0]["got"]
    config = json.loads((bundle / "configs/train.json").read_text())
    intake = read_intake(RunRecord("", "", "", {}, config, executed=True, bundle=str(bundle)))
    assert intake is not None
    assert intake.lines[0].startswith("data: 5 subject(s), 5 case(s) trained on; 1 subject(s), 1 case(s) held out")
    assert "files: layout flat, images image (6)" in intake.lines
    assert intake.leaks == (findings[0]["got"],)
    assert main(["check", "bundles/toy2d_mlp", "--leaks"]) == 1
    assert "a bundle of images" in capsys.readouterr().out
