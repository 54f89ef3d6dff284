"""Files found and split by subject, volumes refused, patches fixed, statistics measured."""

from __future__ import annotations

import json
import logging
import pickle
import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from monai_diffscore.data import (
    BlankVolumed,
    GridPatchesd,
    HeldOutSlabd,
    LoadVolumed,
    evenly_spaced,
    list_volumes,
    load_statistics,
    measure_statistics,
    save_statistics,
    split_by_subject,
    split_rows,
)
from monai_diffscore.data.volumes import image_loader
from monai_diffscore.errors import DataError
from monai_diffscore.transforms import PercentileScaled


def test_volumes_are_found_in_folders_and_as_files(write_volume, tmp_path):
    for seed, name in enumerate(("b.nii.gz", "deep/a.nii", "._hidden.nii.gz")):
        write_volume(name, seed=seed)
    (tmp_path / "notes.txt").write_text("not an image")
    assert [case["image"] for case in list_volumes(tmp_path)] == [
        str(tmp_path / "b.nii.gz"),
        str(tmp_path / "deep/a.nii"),
    ]
    assert list_volumes(tmp_path / "b.nii.gz") == [{"image": str(tmp_path / "b.nii.gz"), "subject": "b"}]


def test_only_the_notice_of_an_optional_codec_is_silenced(caplog):
    codec = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_loader()
    assert caplog.text == ""
    codec.warning("the codec fails")
    assert "the codec fails" in caplog.text


def test_subjects_are_read_below_the_folder_alone(write_volume, tmp_path):
    """The folder's own name may look like a subject; in a path with several the innermost counts."""
    for number in (1, 2):
        for session in (1, 2):
            name = f"sub-cortical_study/sub-{number}/ses-{session}/sub-{number}_T1w.nii"
            write_volume(name, shape=(4, 4, 4), seed=10 * number + session)
    cases = list_volumes(tmp_path / "sub-cortical_study")
    assert [case["subject"] for case in cases] == ["sub-1", "sub-1", "sub-2", "sub-2"]


def test_folders_without_volumes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected NIfTI files.*got an empty folder.*Give the path"):
        list_volumes(tmp_path)
    (tmp_path / "slice.png").write_text("x")
    with pytest.raises(DataError, match=r"got 1 file \(\.png\).*dcm2niix"):
        list_volumes(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        list_volumes(tmp_path / "nowhere")


def test_no_subject_is_on_both_sides():
    cases = [{"image": f"/data/scan{i}.nii", "subject": f"sub-{i // 3:02d}"} for i in range(30)]
    train, validation = split_by_subject(cases, 0.2, seed=1)
    subjects = [{case["subject"] for case in part} for part in (train, validation)]
    assert len(train) + len(validation) == 30
    assert len(subjects[1]) == 2
    assert subjects[0].isdisjoint(subjects[1])
    assert split_by_subject(cases, 0.2, seed=1) == (train, validation)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_by_subject(cases, 1.0)


def test_a_single_subject_is_cut_into_disjoint_slabs():
    train, validation = split_by_subject([{"image": "a.nii", "subject": "a.nii"}])
    cut = HeldOutSlabd("image", axis=1, share=0.25)
    volume = MetaTensor(torch.arange(2 * 40 * 3, dtype=torch.float32).reshape(1, 2, 40, 3))
    parts = [cut({**case, "image": volume})["image"] for case in (*train, *validation)]
    assert [part.shape[2] for part in parts] == [30, 10]
    torch.testing.assert_close(torch.cat([p.as_tensor() for p in parts], 2), volume.as_tensor())
    assert parts[1].affine[1, 3] == 30  # the held-out part knows where it is
    assert cut({"image": volume})["image"].shape == volume.shape


BAD_FILES = {
    "nan": (lambda a: np.where(a > 800, np.nan, a), r"finite intensities, got \d+ of"),
    "constant": (lambda a: np.full_like(a, 7), "contrast, got the constant 7"),
    "two_dimensional": (lambda a: a[:, :, 0], r"3-D volume.*got shape \(40, 48\)"),
    "one_slice": (lambda a: a[:, :, :1], r"3-D volume.*got shape \(40, 48, 1\)"),
    "two_channels": (lambda a: np.stack([a, a], -1), "1 channel.*got 2 channels"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_volumes_are_refused_with_file_key_and_remedy(name, write_volume):
    good = np.linspace(0, 1000, 40 * 48 * 40).reshape(40, 48, 40)
    change, message = BAD_FILES[name]
    path = write_volume(f"{name}.nii.gz", array=change(good))
    with pytest.raises(DataError, match=message) as caught:
        LoadVolumed("image")({"image": str(path)})
    assert str(path) in str(caught.value)
    assert caught.value.parts["key"] == "image"


@pytest.mark.parametrize("content", [b"", b"this is not a NIfTI file at all", None])
def test_unreadable_files_are_refused(content, tmp_path):
    path = tmp_path / "broken.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken.nii.gz.*a readable 3-D volume"):
        LoadVolumed("image")({"image": str(path)})


def test_truncated_files_are_refused(write_volume):
    path = write_volume("cut.nii")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"cut\.nii"):
        LoadVolumed("image")({"image": str(path)})


def test_problems_survive_the_way_between_processes():
    problem = DataError("a.nii", key="image", expected="this", got="that", remedy="Do so.")
    assert str(pickle.loads(pickle.dumps(problem))) == str(problem)


def test_blank_volumes_are_centred_in_the_world():
    blank = BlankVolumed("image", shape=(4, 6, 8), spacing_mm=(1, 2, 3), value=5.0)({"seed": 3})["image"]
    assert blank.shape == (1, 4, 6, 8)
    assert (blank == 5).all()
    centre = torch.tensor([1.5, 2.5, 3.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(blank.affine.double() @ centre, torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))
    assert blank.pixdim.tolist() == [1, 2, 3]


def test_grid_patches_are_fixed_inside_and_cover_the_volume():
    volume = MetaTensor(torch.arange(1 * 10 * 12 * 8, dtype=torch.float32).reshape(1, 10, 12, 8))
    patches = GridPatchesd("image", (4, 4, 4), count=1000)({"image": volume})
    assert all(patch["image"].shape == (1, 4, 4, 4) for patch in patches)
    covered = torch.cat([patch["image"].as_tensor().flatten() for patch in patches]).unique()
    assert len(covered) == volume.numel()
    few = GridPatchesd("image", (4, 4, 4), count=5)({"image": volume})
    assert len(few) == 5
    with pytest.raises(DataError, match=r"at least \(16, 4, 4\).*got \(10, 12, 8\)"):
        GridPatchesd("image", (16, 4, 4))({"image": volume})


def test_spread_keeps_order_and_ends():
    assert evenly_spaced(range(10), 4) == [0, 3, 6, 9]
    assert evenly_spaced([1, 2], 4) == [1, 2]


def test_statistics_are_those_of_the_normalised_voxels(write_volume, tmp_path):
    scale = Compose([LoadVolumed("image"), PercentileScaled("image", 1, 99)])
    cases = [scale({"image": str(write_volume(f"{i}.nii", seed=i))}) for i in range(3)]
    statistics = measure_statistics(cases)
    voxels = torch.stack([case["image"].as_tensor() for case in cases]).double()
    assert statistics["sigma_data"] == pytest.approx(voxels.std(correction=0).item(), abs=1e-4)
    assert statistics["mean"] == pytest.approx(voxels.mean().item(), abs=1e-4)
    highs = [case["image"].applied_operations[-1]["extra_info"]["high"] for case in cases]
    assert statistics["high"] == pytest.approx(np.median(highs))
    save_statistics(statistics, tmp_path / "models/data_statistics.json")
    assert load_statistics(tmp_path / "models/data_statistics.json") == statistics
    assert json.loads((tmp_path / "models/data_statistics.json").read_text()) == statistics
    assert [f.name for f in (tmp_path / "models").iterdir()] == ["data_statistics.json"]
    with pytest.raises(DataError, match="Train first"):
        load_statistics(tmp_path / "nothing.json")


def test_statistics_of_tiny_values_do_not_round_to_zero():
    assert measure_statistics([{"image": 1e-5 * torch.randn(1000, 2)}])["sigma_data"] == pytest.approx(1e-5, rel=0.1)


def test_rows_of_a_file_are_split_without_overlap(tmp_path):
    rows = np.arange(200, dtype=np.float32).reshape(100, 2)
    np.save(tmp_path / "rows.npy", rows)
    training, validation = split_rows(tmp_path / "rows.npy", training=1000, validation=1000, seed=3)
    assert (len(training), len(validation)) == (80, 20)
    joined = torch.cat([training, validation])
    torch.testing.assert_close(joined[joined[:, 0].argsort()], torch.from_numpy(rows))


@pytest.mark.parametrize("content", [np.zeros(3), np.zeros((5, 3)), np.full((5, 2), np.nan), None])
def test_files_of_other_things_than_rows_are_refused(content, tmp_path):
    if content is not None:
        np.save(tmp_path / "rows.npy", content)
    with pytest.raises(DataError, match=r"rows.npy.*rows \[N, 2\]"):
        split_rows(tmp_path / "rows.npy")


def test_preprocessed_cases_are_kept_in_memory_or_on_disk_by_size(tmp_path):
    from monai.data import CacheDataset, PersistentDataset
    from monai.transforms import ToTensord

    from monai_diffscore.data import cached_dataset

    cases = [{"image": np.full((1, 1000), index, np.float64)} for index in range(4)] * 3  # 4 cases of 8 kB
    for memory_gb, kind in ((33e-6, CacheDataset), (31e-6, PersistentDataset), (0, PersistentDataset)):
        cached = cached_dataset(cases, [ToTensord("image")], tmp_path, memory_gb)
        assert isinstance(cached, kind)
        assert [float(item["image"].mean()) for item in cached] == [0, 1, 2, 3] * 3
    assert len(list(tmp_path.glob("*.pt"))) == 4


@pytest.mark.parametrize(("memory_gb", "measured"), [(321e-6, 1), (319e-6, 3), (33e-6, 3)])
def test_one_case_measures_a_cache_that_fits_ten_times(memory_gb, measured, tmp_path):
    from monai.transforms import Lambdad

    from monai_diffscore.data import cached_dataset

    cases = [{"image": np.full((1, 1000), index, np.float64)} for index in range(4)]  # of 8 kB
    reads: list[float] = []
    cached_dataset(cases, Lambdad("image", lambda image: reads.append(image.mean()) or image), tmp_path, memory_gb)
    assert len(reads) == measured + len(cases)


def test_a_batch_holds_cases_from_files_and_cases_just_prepared(tmp_path):
    from monai.data import DataLoader
    from monai.transforms import Identityd

    from monai_diffscore.data import cached_dataset

    cases = [{"image": np.zeros(3), "spacing": np.full(3, index, np.float64)} for index in range(2)]

    cached_dataset(cases[:1], Identityd("image"), tmp_path, memory_gb=0)[0]  # the first is on the disk
    for batch in DataLoader(cached_dataset(cases, Identityd("image"), tmp_path, memory_gb=0), batch_size=2):
        assert batch["spacing"].tolist() == [[0.0] * 3, [1.0] * 3]
