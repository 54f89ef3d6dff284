"""The cause of an error under the layers that wrap it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose

from monai_diffscore.data import LoadVolumed
from monai_diffscore.errors import DataError, explain, find_cause, layers_of


@pytest.fixture
def volume_of_nan(write_volume):
    return {"image": str(write_volume("nan.nii.gz", array=np.full((8, 8, 8), np.nan)))}


def test_the_cause_under_the_layers_of_a_pipeline(volume_of_nan):
    with pytest.raises(RuntimeError) as caught:
        Compose([LoadVolumed("image")])(volume_of_nan)
    cause = find_cause(caught.value)
    assert isinstance(cause, DataError)
    assert explain(caught.value) == str(cause)
    assert find_cause(ValueError("other")) is None


def test_a_worker_process_has_the_same_line_as_the_process_itself(volume_of_nan):
    """torch carries the error out of a worker as the text of its traceback."""
    lines = []
    for workers in (0, 1):
        loader = DataLoader(Dataset([volume_of_nan], Compose([LoadVolumed("image")])), num_workers=workers)
        with pytest.raises(RuntimeError) as caught:
            next(iter(loader))
        lines.append(explain(caught.value))
    assert "nan.nii.gz" in lines[0]
    assert lines[0] == lines[1]


class Unreadable(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise KeyError("age")
        except KeyError as error:
            raise RuntimeError("applying transform") from error


def test_a_foreign_error_of_a_worker_has_its_class():
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(Unreadable(), num_workers=1)))
    assert explain(caught.value) == "KeyError: 'age'"


def test_an_error_of_the_cleanup_is_no_cause():
    error = OSError("disk full")
    error.__context__ = KeyboardInterrupt()
    assert find_cause(error) is None
    assert list(layers_of(error)) == [error]
