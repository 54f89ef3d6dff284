"""Headers of NIfTI files: what contradicts itself is refused by name, what is merely unusual is read exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_diffscore.__main__ import main
from monai_diffscore.data import LoadVolumed
from monai_diffscore.data.nifti_header import states_orientation
from monai_diffscore.errors import DataError

VALUES = np.random.default_rng(0).integers(1, 900, (20, 18, 16)).astype(np.int16)
SCALE = np.diag([2.0, 2.0, 2.0, 1.0])


def write_raw(path: Path, change: Callable[[Any], None], values: np.ndarray = VALUES) -> Path:
    """A file whose header has the change byte for byte: nibabel's own writer would mend it."""
    header = nib.Nifti1Image(values, SCALE).header.copy()
    change(header)
    header["vox_offset"], header["magic"], header["scl_slope"] = 352, b"n+1", np.nan
    path.write_bytes(header.binaryblock + b"\0" * 4 + values.tobytes(order="F"))
    return path


def codes(header: Any, sform: int, qform: int) -> None:
    header["sform_code"], header["qform_code"] = sform, qform


def zero_sform(header: Any) -> None:
    codes(header, 1, 1)
    for row in ("srow_x", "srow_y", "srow_z"):
        header[row] = 0


def flat_sform(header: Any) -> None:
    header.set_sform(np.array([[2.0, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0], [0, 0, 0, 1]]), 1)


def nan_sform(header: Any) -> None:
    header.set_sform(SCALE * np.nan, 1)


def nan_qform(header: Any) -> None:
    codes(header, 0, 1)
    for number in "bcd":
        header[f"quatern_{number}"] = np.nan


def unit_sform(header: Any) -> None:
    header.set_sform(np.eye(4), 1)
    codes(header, 1, 0)


def sform_in_metres(header: Any) -> None:
    header.set_sform(np.diag([0.002, 0.002, 0.002, 1.0]), 1)


def zero_spacing(header: Any) -> None:
    codes(header, 0, 0)
    header["pixdim"][1:4] = 0


def one_zero_spacing(header: Any) -> None:
    codes(header, 0, 0)
    header["pixdim"][3] = 0


def endless_spacing(header: Any) -> None:
    codes(header, 0, 0)
    header["pixdim"][2] = np.inf


CONTRADICTIONS = (
    zero_sform, flat_sform, nan_sform, nan_qform, unit_sform, sform_in_metres, zero_spacing, one_zero_spacing,
    endless_spacing,
)  # fmt: skip


@pytest.mark.parametrize("change", CONTRADICTIONS, ids=lambda change: change.__name__)
def test_a_geometry_that_contradicts_itself_is_refused(tmp_path, change):
    file = write_raw(tmp_path / "a.nii", change)
    with pytest.raises(DataError, match=r"a\.nii.*expected one size of a voxel.*set_sform"):
        LoadVolumed("image")({"image": str(file)})


def no_codes(header: Any) -> None:
    codes(header, 0, 0)


def another_sform(header: Any) -> None:
    """A rotated standard space beside the scanner's: the sform counts, and both have one size."""
    header.set_qform(SCALE, 1)
    header.set_sform(np.array([[0.0, -2, 0, 0], [2, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), 2)


def rounded_pixdim(header: Any) -> None:
    header["pixdim"][1:4] = 2.004


@pytest.mark.parametrize(
    ("change", "spacing"), [(no_codes, 2.0), (another_sform, 2.0), (rounded_pixdim, 2.0)], ids=lambda c: str(c)[10:20]
)
def test_an_unusual_geometry_is_read(tmp_path, change, spacing):
    volume = LoadVolumed("image")({"image": str(write_raw(tmp_path / "a.nii", change))})["image"]
    assert np.array_equal(np.asarray(volume)[0], VALUES)
    assert np.asarray(volume.pixdim) == pytest.approx([spacing] * 3, rel=0.01)


def test_the_spacing_across_a_single_slice_may_be_missing(tmp_path):
    file = write_raw(tmp_path / "a.nii", one_zero_spacing, VALUES[:, :, :1])
    assert LoadVolumed("image", slices=True)({"image": str(file)})["image"].shape == (1, 20, 18, 1)


def colours(names: str) -> np.ndarray:
    return np.zeros(VALUES.shape, [(name, "u1") for name in names])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (VALUES.astype(np.complex64), "complex numbers"),
        (VALUES.astype(np.complex128), "complex numbers"),
        (colours("RGB"), "colours"),
        (colours("RGBA"), "colours"),
    ],
)
def test_values_that_are_no_intensities_are_refused(tmp_path, values, kind):
    nib.save(nib.Nifti1Image(values, SCALE), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match=f"expected one number a voxel, got .*{kind}"):
        LoadVolumed("image")({"image": str(tmp_path / "a.nii.gz")})


def scaled(values: np.ndarray) -> nib.Nifti1Image:
    image = nib.Nifti1Image(values, SCALE)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.25, 10)  # nibabel then stores the values as they are
    return image


@pytest.mark.parametrize(
    ("write", "slope", "intercept"),
    [
        (lambda v: nib.Nifti1Image(v.astype(">i2"), SCALE, nib.Nifti1Header(endianness=">")), 1, 0),
        (lambda v: nib.Nifti2Image(v, SCALE), 1, 0),
        (lambda v: nib.Nifti1Image(v[..., None], SCALE), 1, 0),
        (lambda v: nib.Nifti1Image(v.astype(np.int64), SCALE, dtype=np.int64), 1, 0),
        (scaled, 0.25, 10),
    ],
    ids=["big-endian", "nifti 2", "one channel", "int64", "scaled"],
)
def test_an_unusual_encoding_is_read_exactly(tmp_path, write, slope, intercept):
    nib.save(write(VALUES), tmp_path / "a.nii.gz")
    volume = LoadVolumed("image")({"image": str(tmp_path / "a.nii.gz")})["image"]
    assert np.array_equal(np.asarray(volume)[0], VALUES * slope + intercept)


def test_a_plan_leaves_such_a_file_out_by_name_and_says_where_no_orientation_is_stated(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    write_raw(tmp_path / "data/a.nii", zero_sform)
    write_raw(tmp_path / "data/b.nii", no_codes, VALUES + 1)
    for number in range(2):
        nib.save(nib.Nifti1Image(VALUES + 2 + number, SCALE), tmp_path / f"data/c{number}.nii")
    assert [states_orientation(tmp_path / f"data/{name}.nii") for name in ("b", "c0")] == [False, True]
    assert main(["plan", str(tmp_path / "data"), "--out", str(tmp_path / "bundle"), "--no-trial"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "left out: a.nii: expected one size of a voxel" in page
    assert "1 file(s) state no orientation" in page
