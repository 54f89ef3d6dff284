"""Data sets in worker processes that do not fork, as on macOS, on Windows, and by default from Python 3.14 on."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.transforms import RandFlipd
from processes import ROOT, context
from torch.utils.data import TensorDataset

from monai_diffscore.data import ResumableLoader
from monai_diffscore.data.shared_items import pack, unpack

VALUES = {
    "tensor": torch.arange(24.0).reshape(2, 3, 4),
    "transposed": torch.arange(6, dtype=torch.int16).reshape(2, 3).T,
    "scalar": torch.tensor(True),
    "empty": torch.zeros(0, 3),
    "bfloat16": torch.full((5,), 0.1, dtype=torch.bfloat16),
    "array": np.arange(6, dtype=np.int16)[::2],
    "big-endian array": np.arange(3, dtype=">f4"),
    "texts": np.array(["a", "bc"]),
    "number": np.float32(0.1),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_exactly(name):
    value = VALUES[name]
    again = unpack(*pack([value, {"inside": value}]))[1]["inside"]
    assert type(again) is type(value)
    assert again.dtype == value.dtype
    torch.testing.assert_close(again, value, rtol=0, atol=0) if isinstance(value, torch.Tensor) else (
        np.testing.assert_array_equal(again, value)
    )


def test_an_image_keeps_its_geometry():
    image = MetaTensor(torch.ones(1, 2, 2), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])), meta={"file": "a"})
    again = unpack(*pack(image))
    assert isinstance(again, MetaTensor)
    assert again.meta["file"] == "a"
    torch.testing.assert_close(again.affine, image.affine)


def test_a_thousand_tensors_are_one():
    content, memory = pack([torch.full((16,), float(number)) for number in range(1000)])
    assert memory.is_shared()
    assert memory.nbytes == 1000 * 64
    assert unpack(content, memory)[-1].untyped_storage().data_ptr() != 0
    memory.zero_()
    assert unpack(content, memory)[999].sum() == 0


def test_a_part_that_does_not_pickle_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match="Give --num_workers 0"):
        pack(Dataset([1], transform=lambda item: item))


@pytest.fixture
def few_descriptors():
    """At most 200 open files, where each of the data sets has more tensors."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def images(count: int = 600) -> list[dict]:
    return [{"image": MetaTensor(torch.full((1, 2, 2), float(number))), "label": number} for number in range(count)]


SETS = {
    "cached images": lambda: CacheDataset(images(), RandFlipd("image", prob=0.5, spatial_axis=0), progress=False),
    "images": lambda: Dataset(images()),
    "arrays": lambda: Dataset([{"image": np.full((2, 2), number)} for number in range(600)]),
    "one tensor": lambda: TensorDataset(torch.arange(600.0)),
}


@pytest.mark.parametrize("name", SETS)
def test_workers_that_do_not_fork_give_the_same_batches(name, few_descriptors):
    def epochs(**workers):
        loader = ResumableLoader(SETS[name](), 200, seed=3, **workers)
        batches = []
        for epoch in (1, 2):
            loader.start_at(epoch)
            batches += [batch["image"] if isinstance(batch, dict) else batch[0] for batch in loader]
        return torch.stack([torch.as_tensor(batch) for batch in batches])

    several = epochs(num_workers=2, multiprocessing_context=context)
    torch.testing.assert_close(several, epochs(), rtol=0, atol=0)
    assert len(several[:3].reshape(600, -1)[:, 0].unique()) == 600


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_the_digits_train_with_workers_that_do_not_fork(method, tmp_path):
    """1,438 images with the usual limit of 1,024 open files."""
    start = (
        f"import multiprocessing, resource, runpy, sys; multiprocessing.set_start_method({method!r});"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]));"
        "sys.argv[0] = 'monai.bundle'; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"
    )
    flags = ["--max_epochs", "2", "--batch_size", "512", "--num_workers", "2", "--gallery_every", "0"]
    flags += ["--output_dir", str(tmp_path), "--val_interval", "9"]
    process = subprocess.run(
        [sys.executable, "-c", start, "run", "training", "--config_file", "configs/train.json", *flags],
        cwd=ROOT / "bundles/natural_dit2d", capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "models/model.pt").is_file()
