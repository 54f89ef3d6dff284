"""A DICOM series is read to the voxel and the millimetre, or refused with its cause: no third outcome."""

from __future__ import annotations

import contextlib
import re
import warnings

import numpy as np
import pytest
from dicom_series import EXACT, REFUSED, VARIANTS
from monai.transforms import LoadImaged

from monai_diffscore.data import DataError
from monai_diffscore.data.dicom import DicomReport, StrictDicomReader, read_dicom_series

each_exact = pytest.mark.parametrize("name", EXACT)
each_refused = pytest.mark.parametrize("name", REFUSED)


@contextlib.contextmanager
def expected_warnings(name):
    """The warning that belongs to the variant, and no other of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = [str(w.message) for w in caught if w.category is UserWarning and "NvImg" not in str(w.message)]
    expected = VARIANTS[name].warns
    if expected is None:
        assert not [text for text in ours if "passed over" in text]
    else:
        assert any(re.search(expected, text, re.S) for text in ours)


def test_there_are_variants_enough():
    assert len(EXACT) >= 20
    assert len(REFUSED) >= 20


@each_exact
def test_a_right_series_is_read_exactly(name, tmp_path):
    variant = VARIANTS[name]
    truth = variant.write(tmp_path / "series")
    with expected_warnings(name):
        volume, inside = read_dicom_series(tmp_path / "series" / variant.file, field_of_view=True, **variant.rules)
    assert volume.shape == (1, *truth.voxels.shape)
    np.testing.assert_allclose(volume[0].numpy(), truth.voxels, atol=0.05)
    np.testing.assert_allclose(volume.affine.numpy(), truth.affine, atol=1e-6)
    expected = np.ones(truth.voxels.shape) if truth.inside is None else truth.inside
    np.testing.assert_array_equal(inside[0].numpy(), expected)


@each_refused
def test_a_wrong_series_is_refused_with_its_cause(name, tmp_path):
    variant = VARIANTS[name]
    variant.write(tmp_path / "series")
    with pytest.raises(DataError) as caught:
        read_dicom_series(tmp_path / "series" / variant.file, **variant.rules)
    assert re.search(variant.error, str(caught.value), re.S), str(caught.value)
    assert str(tmp_path) in str(caught.value)


@each_refused
def test_monai_does_not_fall_back_to_another_reader(name, tmp_path):
    """LoadImage goes on to its other readers, without a word, if read() raises: the reader refuses in get_data()."""
    variant = VARIANTS[name]
    variant.write(tmp_path / "series")
    load = LoadImaged("image", reader=StrictDicomReader(**variant.rules), ensure_channel_first=True)
    with pytest.raises(DataError):
        load({"image": str(tmp_path / "series" / variant.file)})


@each_exact
def test_monai_loads_the_same_through_the_reader(name, tmp_path):
    variant = VARIANTS[name]
    truth = variant.write(tmp_path / "series")
    where = {"image": str(tmp_path / "series" / variant.file)}
    loaded = LoadImaged("image", reader=StrictDicomReader(**variant.rules), ensure_channel_first=True)(where)["image"]
    np.testing.assert_allclose(loaded[0].numpy(), truth.voxels, atol=0.05)
    np.testing.assert_allclose(loaded.affine.numpy(), truth.affine, atol=1e-6)
    assert DicomReport.of(loaded.meta).modality in ("CT", "MR", "PT")
