"""Advice of messages is followed: the command that printed it runs again as it says, and the error is gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import case_folders
import numpy as np
import pytest
from dicom_variants import VARIANTS
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from PIL import Image
from small_data import write_volume

from monai_diffscore.__main__ import main
from monai_diffscore.data.dicom import ReadingRules, read_dicom_series
from monai_diffscore.errors import DataError, explain

FLAG = re.compile(r"--([a-z_]+(?:#[a-z_]+)?) (\"[^\"]*\"|[^\s;,.)]+(?:\.\d+)?)")


def anonymous(root: Path) -> None:
    for number in (1, 2):
        case_folders.write_study(root, f"case{number}", "ANONYMOUS", number, {"a": ""})


def written_table(root: Path) -> None:
    case_folders.flat(root)
    (root / "cases.csv").write_bytes("subject,t1\nMüller,a.nii.gz\n".encode("latin-1"))


def pictures(root: Path, modes: str = "LLLL", sizes: tuple[int, ...] = (8, 8, 8, 8)) -> None:
    for number, (mode, size) in enumerate(zip(modes, sizes, strict=True)):
        place = root / f"class{number % 2}/x{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        shape = (size, 8) if mode == "L" else (size, 8, 3)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)).save(place)


def pictures_of_subjects(root: Path) -> None:
    """With a table of ages, one of which is the same for all in the column ``site``."""
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        root.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / f"sub-{number}.png")
    rows = [f"sub-{number}\t{20 + number}\ta" for number in range(4)]
    (root.parent / "table.tsv").write_text("\n".join(["participant_id\tage\tsite", *rows]) + "\n")


def heads(root: Path, subjects: int = 3, *shapes: tuple[int, ...]) -> None:
    for number in range(subjects):
        for contrast, shape in enumerate(shapes or ((20, 20, 20),), start=1):
            write_volume(root / f"p{number}_T{contrast}.nii.gz", shape, seed=number)


OTHER_TABLE = ["--participants", "{root}/table.tsv"]
#: folder, command without advice, the advice in its message, the commands that follow it
COMMANDS: dict[str, tuple[Callable[[Path], None], str, str, list[str]]] = {
    "no path": (case_folders.flat, "cases {data}/x", "Give a path that exists", ["cases {data}"]),
    "layout": (case_folders.flat, "cases {data} --layout x", "--layout", ["cases {data} --layout flat"]),
    "pattern": (
        case_folders.folders_of_visits, "cases {data} --subject zz", "--subject", ["cases {data} --subject Patient."]
    ),
    "role": (
        case_folders.flat_of_contrasts, "cases {data} --image pet", r"--image ROLE.*`python -m monai_diffscore cases",
        ["cases {data} --image t1", "cases {data} --image t1,t2", "cases {data} --write {root}/t.csv",
         "cases {root}/t.csv --image t1"],
    ),
    "placeholder": (
        anonymous, "cases {data}", r"--subject folder, --subject study.*--subject 'case\\d\+'",
        ["cases {data} --subject folder", "cases {data} --subject study", r"cases {data} --subject case\d+"],
    ),
    "table": (
        written_table, "cases {data}/cases.csv", "`python -m monai_diffscore cases FOLDER --write cases.csv`",
        ["cases {data} --layout flat --write {root}/cases.csv", "cases {root}/cases.csv"],
    ),
    "layout of pictures": (pictures_of_subjects, "plan {data} --layout bids", "Leave --layout out", ["plan {data}"]),
    "given of pictures": (pictures_of_subjects, "plan {data} --given t1", "Leave --given and --mask", ["plan {data}"]),
    "subject of pictures": (
        pictures_of_subjects, "plan {data} --subject x", "Give another --subject", [r"plan {data} --subject sub-\d"],
    ),
    "whole pictures": (pictures_of_subjects, "plan {data} --whole", "Leave --whole out", ["plan {data}"]),
    "plan": (
        pictures_of_subjects, "plan {data} --from-plan {root}/table.tsv", "plan again without --from-plan",
        ["plan {data}"],
    ),
    "no table": (
        pictures_of_subjects, "plan {data} --condition age", "--participants",
        ["plan {data} --condition age --participants {root}/table.tsv"],
    ),
    "column": (
        pictures_of_subjects, "plan {data} --condition sex --participants {root}/table.tsv", "Name one of these in",
        ["plan {data} --condition age --participants {root}/table.tsv"],
    ),
    "one value": (
        pictures_of_subjects, "plan {data} --condition site --participants {root}/table.tsv", "Leave it out of",
        ["plan {data} --participants {root}/table.tsv"],
    ),
    "units of MR": (
        heads, "plan {data} --assume_intercept -1024", "State --modality CT, or leave the flag out",
        ["plan {data} --assume_intercept -1024 --modality CT", "plan {data}"],
    ),
    "whole of one": (partial(heads, subjects=1), "plan {data} --whole", "Leave --whole out", ["plan {data}"]),
    "excluded": (heads, "plan {data} --exclude x", "--exclude", ["plan {data}"]),
    "translation of whole": (
        lambda root: heads(root, 3, (20, 20, 20), (20, 20, 22)), "plan {data} --image t1 --given t2 --whole",
        "Leave --whole out", ["plan {data} --image t1 --given t2"],
    ),
    "two grids": (
        lambda root: heads(root, 3, (20, 20, 20), (20, 20, 22)), "plan {data} --image t1,t2",
        "the roles of --image to one grid, or take one of them", ["plan {data} --image t2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_that_printed_an_advice_runs_as_it_says(name, tmp_path, capsys):
    write, failing, advice, followed = COMMANDS[name]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")

    def run(line: str, number: int) -> int:
        words = [word.format(data=tmp_path / "data", root=tmp_path) for word in line.split(" ")]
        more = ["--out", str(tmp_path / f"bundle{number}"), "--no-trial"] if words[0] == "plan" else []
        return main([*words, *more])

    assert run(failing, 0) == 1
    message = capsys.readouterr().err
    assert re.search(advice, message)
    assert not (tmp_path / "bundle0").exists()
    for number, line in enumerate(followed, start=1):
        assert run(line, number) == 0, f"{line}: {capsys.readouterr().err}"


def steps_of(bundle: str, data: Path, **flags: object) -> None:
    """Lists and reads all cases as a training of the bundle does."""
    parser = ConfigParser()
    parser.read_config(f"bundles/{bundle}/configs/train.json")
    parser.update({"dataset_dir": str(data), **flags})
    for items in parser.get_parsed_content("cases"):
        for item in items:
            for step in parser.get_parsed_content("reading"):
                item = step(item)


def several_channels(root: Path) -> None:
    for number in range(2):
        values = np.random.default_rng(number).integers(1, 900, (16, 16, 16, 2)).astype(np.int16)
        case_folders.save(root / f"v{number}.nii.gz", values)


PICTURES = {"image_size": [8, 8], "num_classes": 2}
#: bundle, folder, flags without advice, the flag of the advice
TRAININGS: dict[str, tuple[str, Callable[[Path], None], dict[str, object], str]] = {
    "classes": ("natural_dit2d", pictures, {**PICTURES, "num_classes": 1}, "num_classes"),
    "sizes": ("natural_dit2d", partial(pictures, sizes=(8, 9, 8, 10)), PICTURES, "fit"),
    "colours": ("natural_dit2d", partial(pictures, modes="CCCC"), PICTURES, "image_channels"),
    "left out": ("natural_dit2d", pictures, {**PICTURES, "left_out": ["gone.png"]}, "left_out"),
    "conditions": ("mri_unet3d", heads, {"fields": {"age": {"mean": 1.0, "std": 1.0}}}, "fields"),
    "channels": ("mri_unet3d", several_channels, {}, "image_channels"),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_with_the_flag_of_its_message_reads_all_cases(name, tmp_path):
    """The flag and its value are taken from the message; ("[]" is none) states the value of --left_out."""
    bundle, write, flags, flag = TRAININGS[name]
    write(tmp_path / "data")
    with pytest.raises(Exception) as failure:  # noqa: PT011 (MONAI wraps the error)
        steps_of(bundle, tmp_path / "data", **flags)
    message = explain(failure.value).replace('--left_out ("[]"', '--left_out "[]"')
    (value,) = [text for found, text in FLAG.findall(message) if found == flag]
    steps_of(bundle, tmp_path / "data", **{**flags, flag: DefaultParseValue(value.strip('"'))})


def test_one_channel_of_a_flat_file_is_taken_by_a_table_of_cases(tmp_path):
    """The other half of the advice on channels."""
    several_channels(tmp_path / "data")
    files = [f"{tmp_path}/data/v{number}.nii.gz/channel:0" for number in range(2)]
    with pytest.raises(Exception) as failure:  # noqa: PT011 (MONAI wraps the error)
        steps_of("mri_unet3d", tmp_path / "data")
    assert any(f"else {file} in a table of cases" in explain(failure.value) for file in files)
    (tmp_path / "cases.csv").write_text("\n".join(["subject,t1", *(f"s{n},{file}" for n, file in enumerate(files))]))
    steps_of("mri_unet3d", tmp_path / "cases.csv")


@pytest.mark.parametrize(
    ("variant", "rule"),
    [("missing_slices_interpolated", "on_gap"), ("uneven_within_a_wider_tolerance", "spacing_tolerance"),
     ("exact_copies_dropped", "on_duplicate"), ("no_rescale_assumed", "assume_intercept"),
     ("tilt_straightened", "on_tilt"), ("two_echoes", "select")],
)  # fmt: skip
def test_a_series_is_read_with_the_rule_that_its_refusal_names(variant, rule, tmp_path):
    VARIANTS[variant].write(tmp_path)
    with pytest.raises(DataError) as refusal:
        read_dicom_series(tmp_path)
    named = {name: DefaultParseValue(value.strip('"')) for name, value in FLAG.findall(str(refusal.value))}
    rules = ReadingRules.of({rule: named[f"dicom_options#{rule}"]})
    assert read_dicom_series(tmp_path, **vars(rules)).numel()


def test_a_plan_that_leaves_nothing_out_is_written_in_place_of_one_that_exists(tmp_path, capsys):
    """`name another`: the folder of a bundle is never written over."""
    pictures_of_subjects(tmp_path / "data")
    command = ["plan", str(tmp_path / "data"), "--no-trial", "--out"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/notes.txt").write_text("mine")
    assert main([*command, str(tmp_path / "a")]) == 1
    assert "name another" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b/docs/fingerprint.json").read_text())["cases"] == 4


def test_a_report_advises_no_rule_of_dicom_because_it_takes_none(tmp_path, capsys):
    rows = ["subject,image,mask:label"]
    for name in ("p1", "p2"):
        VARIANTS["missing_slices_interpolated"].write(tmp_path / name)
        case_folders.write_mask(tmp_path / f"{name}.nii.gz")
        rows.append(f"{name},./{name},{name}.nii.gz")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    command = ["report", "--segmentation", *[str(tmp_path / "cases.csv")] * 2, "--subjects", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "convert it (dcm2niix): `report` takes no rules" in message
    assert "--dicom_options" not in message
