"""A plan takes what the bundle that it writes takes, and refuses the rest by name: odd folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from monai_diffscore.__main__ import main
from monai_diffscore.errors import DataError
from monai_diffscore.transforms import PercentileScale


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A bright ball with noise in a dark field."""
    random = np.random.default_rng(seed)
    axes = [np.linspace(-1, 1, side) if side > 1 else np.zeros(1) for side in shape]
    radius = sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij"))
    return (np.exp(-2 * radius) * 800 + random.normal(size=shape) * 20 + 60).clip(0).astype(np.float32)


def volume(path: Path, values: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([*spacing, 1.0])), path)


def mixed_spacing(root: Path) -> None:
    for number in range(3):
        volume(root / f"sub-{number}_T1w.nii.gz", blob((20 + 6 * number,) * 3, number), (1, 1 + number, 1))


def tiny(root: Path) -> None:
    for number in range(3):
        volume(root / f"sub-{number}_T1w.nii.gz", blob((9, 10, 7) if number else (30, 30, 30), number))


def planes(root: Path) -> None:
    for number in range(3):
        volume(root / f"sub-{number}_T1w.nii.gz", blob((30, 24), number))


def flat(root: Path) -> None:
    for number in range(3):
        volume(root / f"sub-{number}_T1w.nii.gz", blob((40, 40, 5), number), (0.5, 0.5, 10))


def damaged_volumes_with_copies(root: Path) -> None:
    mixed_spacing(root)
    values = blob((24, 24, 24), 9)
    values[0, 0, 0] = np.nan
    for name in ("sub-a", "sub-b", "sub-c"):
        volume(root / f"{name}_T1w.nii.gz", values)


def damaged_pictures_with_copies(root: Path) -> None:
    root.mkdir()
    for number in range(4):
        Image.fromarray(blob((24, 24), number).clip(0, 255).astype(np.uint8)).save(root / f"a{number}.tif")
    pages = [Image.fromarray(np.full((24, 24), value, np.uint8)) for value in (1, 2, 3)]
    pages[0].save(root / "b1.tif", save_all=True, append_images=pages[1:])
    for name in ("b2.tif", "b3.tif"):
        shutil.copy(root / "b1.tif", root / name)


def sequences(root: Path, *shapes: tuple[int, ...], dtype: type = np.float64) -> None:
    root.mkdir()
    for number, shape in enumerate(shapes):
        values = np.random.default_rng(number).normal(size=shape).cumsum(-1)
        np.save(root / f"p{number}.npy", values.astype(dtype))


def one_short_sequence(root: Path) -> None:
    sequences(root, (6,), (90,), (300,), (120,))


#: folders that a plan takes, and the files that it leaves out
ACCEPTED: dict[Callable[[Path], None], set[str]] = {
    mixed_spacing: set(),
    tiny: set(),
    planes: set(),
    flat: set(),
    damaged_volumes_with_copies: {"sub-a_T1w.nii.gz", "sub-b_T1w.nii.gz", "sub-c_T1w.nii.gz"},
    damaged_pictures_with_copies: {"b1.tif", "b2.tif", "b3.tif"},
    one_short_sequence: {"p0.npy"},
}


@pytest.mark.parametrize("write", ACCEPTED, ids=lambda write: write.__name__)
def test_each_case_that_a_plan_takes_is_an_input_of_its_network(write, tmp_path, monkeypatch):
    """Every image of both sides loads, has one size, and passes the network."""
    write(tmp_path / "data")
    assert main(["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial"]) == 0
    monkeypatch.chdir(tmp_path / "bundle")
    parser = ConfigParser()
    parser.read_config("configs/train.json")
    assert set(parser.get("left_out")) == ACCEPTED[write]
    sides = parser.get_parsed_content("cases")
    files = {path.name for path in (tmp_path / "data").iterdir()}
    assert {Path(case["image"]).name for side in sides for case in side} == files - ACCEPTED[write]
    training, validation = (parser.get_parsed_content(f"{name}#dataset") for name in ("train", "validate"))
    once = {str(case["image"]): number for number, case in enumerate(training.data)}
    items = [training[number] for number in once.values()]
    items += [validation[number] for number in range(len(validation))]
    items = [patch for item in items for patch in (item if isinstance(item, list) else [item])]
    images = torch.stack([torch.as_tensor(item["image"]).float() for item in items])
    assert images.isfinite().all()
    with torch.no_grad():
        assert parser.get_parsed_content("network")(images[:1], torch.ones(1)).shape == images[:1].shape


def all_negative(root: Path) -> None:
    for number in range(3):
        volume(root / f"sub-{number}_T1w.nii.gz", -blob((24, 24, 24), number))


def one_subject_of_few_points(root: Path) -> None:
    sequences(root, (40,))


def sequences_of_one_and_two_channels(root: Path) -> None:
    sequences(root, (3, 200), (3, 2, 200), (3, 2, 200))


def complex_sequences(root: Path) -> None:
    sequences(root, (200,), (200,), dtype=np.complex64)


def a_row_of_one_value(root: Path) -> None:
    sequences(root, (3, 200))
    values = np.load(root / "p0.npy")
    values[1] = 4
    np.save(root / "p0.npy", values)


#: folders that a plan refuses, and what it says
REFUSED: dict[Callable[[Path], None], str] = {
    all_negative: "expected voxels above 0, the background, got none",
    one_subject_of_few_points: "one of at least 54 points, of which 30 % are held out, got one subject of 40 points",
    sequences_of_one_and_two_channels: '--exclude "p0.npy"',
    complex_sequences: "got 2 with a problem; p0.npy: expected real numbers",
    a_row_of_one_value: "p0.npy[1]: expected values that differ",
}


@pytest.mark.parametrize("write", REFUSED, ids=lambda write: write.__name__)
def test_a_plan_refuses_by_name_what_its_bundle_would_refuse(write, tmp_path, capsys):
    write(tmp_path / "data")
    assert main(["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial"]) == 1
    assert REFUSED[write] in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_exclusion_that_a_refusal_names_makes_sequences_of_one_kind(tmp_path):
    sequences_of_one_and_two_channels(tmp_path / "data")
    command = ["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial", "--exclude", "p0.npy"]
    assert main(command) == 0
    assert ConfigParser.load_config_file(tmp_path / "bundle/configs/train.json")["image_channels"] == 2


def test_an_image_without_foreground_is_refused_by_name():
    with pytest.raises(DataError, match=r"expected an image with a foreground, got \(1, 0, 4, 4\) voxels"):
        PercentileScale()(torch.zeros(1, 0, 4, 4))
