"""Simulated heads: their deformations are invertible, their law holds, and a subject is the same in every cohort."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffscore import samples
from monai_diffscore.samples.deformations import Grid, exponential, moved, refined, sample_at, smooth_field
from monai_diffscore.samples.simulated_heads import VENTRICLE_GROWTH, VENTRICLE_SHARE, simulate_head

GRID = Grid((24, 20, 16), 4.0, (-46.0, -38.0, -30.0))
SPACING_MM = 4.0  # of the cohorts here, for speed


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Path(samples.heads(3, 5, ("T1", "FLAIR"), 1.0, SPACING_MM, tmp_path_factory.mktemp("heads") / "bids"))


def inner(values):
    """Without the border, where a flow leaves the grid."""
    return values[..., 4:-4, 4:-4, 4:-4]


def test_a_constant_velocity_translates():
    velocity = torch.tensor([3.0, -2.0, 1.0])[:, None, None, None].expand(3, *GRID.shape)
    torch.testing.assert_close(exponential(velocity, GRID), velocity.clone())


def test_a_linear_velocity_scales_by_its_exponential():
    points = GRID.points().movedim(-1, 0)
    displacement = exponential(0.1 * points, GRID)
    expected = (np.exp(0.1) - 1) * points
    # six squarings begin with a step of first order, of relative error 0.1 / 2^7
    torch.testing.assert_close(inner(displacement), inner(expected), atol=0.02, rtol=2e-3)


def test_a_smooth_velocity_generates_an_invertible_map():
    velocity = 4.0 * smooth_field(np.random.default_rng(0), 3, GRID, 10.0)
    forward, backward = exponential(velocity, GRID), exponential(-velocity, GRID)
    there_and_back = moved(GRID.points(), [forward, backward], GRID)
    assert float(inner((there_and_back - GRID.points()).movedim(-1, 0)).abs().mean()) < 0.1  # mm, of about 3 mm
    image = moved(GRID.points(), [forward], GRID)
    jacobian = torch.stack([torch.stack(torch.gradient(image[..., i], spacing=4.0)) for i in range(3)])
    assert float(torch.linalg.det(inner(jacobian).permute(2, 3, 4, 0, 1)).min()) > 0


def test_a_smooth_field_has_unit_variance_and_its_correlation():
    grid = Grid((32, 32, 32), 2.0, (0.0, 0.0, 0.0))
    field = smooth_field(np.random.default_rng(1), 40, grid, 5.0)
    assert float(field.var()) == pytest.approx(1, abs=0.05)
    shifted = float((field[:, 4:] * field[:, :-4]).mean())  # 8 mm apart
    assert shifted == pytest.approx(np.exp(-(8.0**2) / (4 * 5.0**2)), abs=0.05)


def test_trilinear_values_of_a_linear_field_are_exact():
    field = GRID.points().movedim(-1, 0)
    points = torch.tensor([[1.3, -2.6, 7.1], [-20.0, 4.5, 0.0]])
    torch.testing.assert_close(sample_at(field, GRID, points), points.T)
    finer = GRID.resampled(2.0)
    torch.testing.assert_close(inner(refined(field, finer)), inner(finer.points().movedim(-1, 0)))


def test_a_field_of_view_of_no_whole_voxels_is_refused():
    with pytest.raises(ValueError, match=r"divides \(96\.0, 80\.0, 64\.0\) mm, got 3\.0 mm"):
        GRID.resampled(3.0)


def test_the_folder_is_bids(cohort):
    names = sorted(str(file.relative_to(cohort)) for file in cohort.rglob("*") if file.is_file())
    files = ["FLAIR", "T1w", "dseg", "label-lesion_mask"]
    subjects = [f"sub-{n:04d}/anat/sub-{n:04d}_{name}.nii.gz" for n in (1, 2, 3) for name in files]
    assert names == sorted(["dataset_description.json", "dseg.tsv", "participants.tsv", *subjects])
    rows = list(csv.DictReader((cohort / "participants.tsv").read_text().splitlines(), delimiter="\t"))
    assert [row["participant_id"] for row in rows] == ["sub-0001", "sub-0002", "sub-0003"]
    assert all(20 <= float(row["age_years"]) <= 90 and row["sex"] in "FM" for row in rows)
    image = nib.load(cohort / subjects[1])
    assert image.shape == (48, 56, 48)
    assert image.header.get_zooms() == (SPACING_MM,) * 3
    for row in rows:
        labels = nib.load(cohort / row["participant_id"] / "anat" / f"{row['participant_id']}_dseg.nii.gz")
        volume_ml = np.count_nonzero(np.asarray(labels.dataobj)) * SPACING_MM**3 / 1000
        assert float(row["brain_ml"]) == pytest.approx(volume_ml, abs=0.01)
        np.testing.assert_array_equal(labels.affine, image.affine)


def test_a_subject_is_the_same_in_every_cohort_to_the_byte(cohort, tmp_path):
    again = Path(samples.heads(2, 5, ("T1", "FLAIR"), 1.0, SPACING_MM, tmp_path / "bids"))
    for file in again.glob("sub-*/anat/*.nii.gz"):
        assert file.read_bytes() == (cohort / file.relative_to(again)).read_bytes()


def test_a_cohort_is_written_once_and_no_other_over_it(cohort):
    before = (cohort / "participants.tsv").stat().st_mtime_ns
    assert samples.heads(3, 5, ("T1", "FLAIR"), 1.0, SPACING_MM, cohort) == str(cohort)
    assert (cohort / "participants.tsv").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="not an empty folder"):
        samples.heads(3, 6, ("T1", "FLAIR"), 1.0, SPACING_MM, cohort)


def test_the_ventricles_follow_the_law():
    heads = [simulate_head(0, number, (), 0.0, SPACING_MM) for number in range(24)]
    rows = [head.row() for head in heads]
    share = np.log([float(row["ventricles_ml"]) / float(row["brain_ml"]) for row in rows])
    age = np.array([head.age_years for head in heads]) - 20
    slope, intercept = np.polyfit(age, share, 1)
    # 24 subjects leave a standard error of about 0.17 / (sqrt(24) 20) = 0.0017 on the slope
    assert slope == pytest.approx(VENTRICLE_GROWTH, abs=0.005)
    assert intercept == pytest.approx(np.log(VENTRICLE_SHARE), abs=0.2)
    assert np.corrcoef(age, share)[0, 1] > 0.8


def test_images_have_the_contrast_of_their_sequence_and_lesions_in_the_white_matter():
    head = simulate_head(0, 4, ("T1", "T2", "FLAIR"), 1.0, 2.0)
    lesions = head.lesions > 0
    mean = {
        name: [image[(head.labels == tissue) & ~lesions].mean() for tissue in (4, 2, 3)] + [image[lesions].mean()]
        for name, image in head.images.items()
    }
    ventricles, grey, white, lesion = mean["T1"]
    assert ventricles < grey < lesion < white
    ventricles, grey, white, lesion = mean["T2"]
    assert white < grey < lesion < ventricles
    ventricles, grey, white, lesion = mean["FLAIR"]
    assert ventricles < white < grey < lesion
    assert 0.1 < lesions.sum() * 8e-3 < 40  # ml
    assert all(int(image[head.labels == 0].max()) == 0 for image in head.images.values())
    healthy = simulate_head(0, 4, ("FLAIR",), 0.0, 2.0)
    assert not healthy.lesions.any()
    np.testing.assert_array_equal(healthy.labels, head.labels)
    np.testing.assert_array_equal(healthy.images["FLAIR"][~lesions], head.images["FLAIR"][~lesions])


@pytest.mark.parametrize("arguments", [(0,), (1, 0, ("PD",)), (1, 0, ()), (1, 0, ("T1",), 1.5)])
def test_arguments_out_of_range_are_refused(arguments, tmp_path):
    with pytest.raises(ValueError, match="heads expects at least one subject"):
        samples.heads(*arguments, folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()
