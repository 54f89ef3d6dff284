"""CT sample data: real if there, else drawn and said so."""

from __future__ import annotations

import io
import logging
import plistlib
import tarfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_diffscore import samples
from monai_diffscore.data import list_volumes
from monai_diffscore.errors import DataError
from monai_diffscore.samples.chests import ct_phantom, write_ct_phantoms


def test_phantoms_are_hounsfield_units_of_one_subject_each():
    hu, affine = ct_phantom(3, (72, 56, 48), 5.0)
    again, _ = ct_phantom(3, (72, 56, 48), 5.0)
    other, _ = ct_phantom(4, (72, 56, 48), 5.0)
    np.testing.assert_array_equal(hu, again)
    assert (hu != other).mean() > 0.5
    assert hu.dtype == np.int16
    assert abs(np.median(hu[0]) + 1000) < 20  # air
    share = [((low <= hu) & (hu < high)).mean() for low, high in ((-950, -700), (0, 100), (300, 1000))]
    assert share[0] > 0.05  # lung
    assert share[1] > 0.1  # soft tissue
    assert 0.003 < share[2] < 0.1  # bone
    np.testing.assert_allclose(affine @ [35.5, 27.5, 23.5, 1], [0, 0, 0, 1])
    heart_side, other_side = hu[:36, 28:, 10:20], hu[36:, 28:, 10:20]
    assert (np.abs(heart_side - 60) < 60).mean() > (np.abs(other_side - 60) < 60).mean()  # -x is left


def test_a_folder_of_chests_grows_by_subjects_that_stay(no_ct, monkeypatch):
    small = {"shape": (12, 10, 8), "spacing_mm": 30.0}
    monkeypatch.setattr("monai_diffscore.samples.chests.ct_phantom", lambda seed: ct_phantom(seed, **small))
    few, more = samples.drawn_chests(1), samples.drawn_chests(2)
    assert [case["subject"] for case in list_volumes(more)] == ["sub-phantom00", "sub-phantom01"]
    first = [(Path(folder) / "sub-phantom00/ct.nii.gz").read_bytes() for folder in (few, more)]
    assert first[0] == first[1]
    with pytest.raises(ValueError, match="at least one subject, got 0"):
        samples.drawn_chests(0)


def inv3(path, shape=(5, 4, 3), values=None):
    """A project as InVesalius writes it."""
    values = np.arange(np.prod(shape), dtype="<i2").reshape(shape) if values is None else values
    matrix = {"matrix": {"dtype": "int16", "filename": "matrix.dat", "shape": list(shape)}, "spacing": [0.5, 1.0, 2.0]}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("main.plist", plistlib.dumps(matrix)), ("matrix.dat", values.tobytes())):
            member = tarfile.TarInfo(f"project/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def no_ct(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MONAI_DIFFSCORE_CT", raising=False)
    monkeypatch.delenv("MONAI_DIFFSCORE_CACHE", raising=False)
    moved = [
        replace(sample, file=str(tmp_path / "Cranium.inv3")) if sample.name == "cranium" else sample
        for sample in samples.CATALOGUE
    ]
    monkeypatch.setattr("monai_diffscore.samples.catalogue.CATALOGUE", tuple(moved))
    return tmp_path


def test_real_ct_is_preferred_and_converted_once(no_ct, monkeypatch):
    inv3(no_ct / "Cranium.inv3")
    path = samples.ct()
    image = nib.load(path)
    assert image.shape == (3, 4, 5)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[2, 1, 4], (4 * 4 + 1) * 3 + 2)
    np.testing.assert_allclose(image.header.get_zooms(), [0.5, 1, 2])
    (no_ct / "Cranium.inv3").write_bytes(b"")
    assert samples.ct() == path  # not read again
    monkeypatch.setenv("MONAI_DIFFSCORE_CT", "/elsewhere")
    assert samples.ct() == "/elsewhere"
    monkeypatch.setenv("MONAI_DIFFSCORE_CT", str(inv3(no_ct / "Other.inv3", (2, 2, 2))))
    assert nib.load(samples.ct()).shape == (2, 2, 2)


@pytest.mark.parametrize("content", [b"not a project", None])
def test_broken_projects_are_refused_and_leave_nothing(content, no_ct):
    if content is None:
        inv3(no_ct / "Cranium.inv3", values=np.zeros(3, "<i2"))  # fewer voxels than it says
    else:
        (no_ct / "Cranium.inv3").write_bytes(content)
    with pytest.raises(DataError, match=r"Cranium.inv3.*a project of InVesalius"):
        samples.ct()
    assert not list((no_ct / "cache").rglob("*.nii.gz"))


def test_without_ct_phantoms_are_drawn_with_a_notice(no_ct, monkeypatch, caplog):
    drawn = no_ct / "cache/monai_diffscore/ct_phantoms"
    monkeypatch.setattr(
        "monai_diffscore.samples.volumes.write_ct_phantoms", lambda folder: write_ct_phantoms(folder, subjects=2)
    )
    with caplog.at_level(logging.WARNING):
        assert samples.ct() == str(drawn)
    assert "SYNTHETIC" in caplog.text
    assert [case["subject"] for case in list_volumes(drawn)] == ["sub-phantom00", "sub-phantom01"]
    first = sorted(drawn.rglob("*.nii.gz"))[0]
    written = first.read_bytes()
    first.unlink()
    samples.ct()
    assert first.read_bytes() == written  # byte for byte
