"""Layouts of real folders by the commands of docs/IMAGING.md: plan, training, samples, report, check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import case_folders
import pytest
from small_data import write_volume
from test_pages import blocks, run


def write_masks(root: Path, *names: str) -> None:
    for name in names:
        case_folders.write_mask(root / name)


def nnunet(root: Path) -> None:
    for number in range(5):
        for channel in range(2):
            write_volume(root / f"imagesTr/c{number}_{channel:04d}.nii.gz", seed=2 * number + channel)
        write_masks(root, f"labelsTr/c{number}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "T2"}}))


def decathlon(root: Path) -> None:
    names = [f"b_{number}.nii.gz" for number in range(5)]
    for number, name in enumerate(names):
        write_volume(root / f"imagesTr/{name}", seed=number)
        write_masks(root, f"labelsTr/{name}")
    training = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "T1"}, "training": training}))


def bids(root: Path) -> None:
    for number in range(5):
        for session in (1, 2):
            place = f"sub-{number}/ses-{session}/anat/sub-{number}_ses-{session}"
            write_volume(root / f"{place}_T1w.nii.gz", seed=2 * number + session)
            write_volume(root / f"{place}_T2w.nii.gz", seed=100 + 2 * number + session)
            write_masks(root, f"{place}_label-lesion_mask.nii.gz")


def brats(root: Path) -> None:
    for number in range(5):
        place = f"BraTS-GLI-{number:05d}-000/BraTS-GLI-{number:05d}-000"
        for count, suffix in enumerate(("t1n", "t2f")):
            write_volume(root / f"{place}-{suffix}.nii.gz", seed=2 * number + count)
        write_masks(root, f"{place}-seg.nii.gz")


#: images that --image t1 takes, by the writer of the folder
IMAGES: dict[Callable[[Path], None], int] = {nnunet: 5, decathlon: 5, bids: 10, brats: 5}


@pytest.mark.slow
@pytest.mark.parametrize("write", IMAGES, ids=lambda write: write.__name__)
def test_the_commands_of_the_page_lead_from_a_layout_to_its_report(write, tmp_path, capfd):
    """Every command ends well; training and report say first what they took: one role, whole subjects, no mask."""
    write(tmp_path / "data/mri")
    three_commands, which_files, how_good, _, check = blocks("IMAGING.md")
    run(three_commands.replace("plan data/mri", "plan data/mri --image t1"), tmp_path)
    images, held_out = IMAGES[write], IMAGES[write] // 5
    taken = f"data: 4 subject(s), {images - held_out} case(s) trained on; 1 subject(s), {held_out} case(s) held out"
    assert taken in capfd.readouterr().out
    run(which_files.replace("0.2", "0.2 --image t1"), tmp_path)
    assert "leaks: none" in capfd.readouterr().out
    run(how_good, tmp_path)
    assert taken in capfd.readouterr().out
    assert (tmp_path / "my_mri/output/report/report.html").is_file()
    run(check, tmp_path)
    assert capfd.readouterr().out.count("my_mri: no finding") == 2
