"""Exact problems, small synthetic data, and bundles trained once, that the tests share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

# before torch is imported: each of the test workers has one core. Numba, which UMAP brings, sets OpenMP's number of
# threads for the whole process: after a map, torch's threads wait for each other and take ten times the time
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import nibabel as nib
import numpy as np
import pytest
import small_data
import torch
from filelock import FileLock

from monai_diffscore.denoiser import GaussianDenoiser, MixtureDenoiser

if TYPE_CHECKING:
    from workflows import Training


#: minutes each: two workers take files in this order, so that neither ends with a long one while the other is done
LONGEST = ["test_label", "test_pages", "test_planning", "test_resume", "test_bundles", "test_cluster", "test_sharding"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def mixture_2d() -> MixtureDenoiser:
    """Three unequal, anisotropic modes in the plane."""
    means = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.5]])
    roots = torch.tensor([[[0.4, 0.1], [0.0, 0.2]], [[0.3, -0.2], [0.1, 0.3]], [[0.2, 0.0], [0.1, 0.5]]])
    return MixtureDenoiser(torch.tensor([0.5, 0.3, 0.2]), means, roots @ roots.mT + 0.02 * torch.eye(2))


@pytest.fixture
def mixture_64d() -> MixtureDenoiser:
    """Ten full-covariance components in 64 dimensions, shaped as 4 x 4 x 4 volumes of one channel."""
    generator = torch.Generator().manual_seed(1)
    roots = 0.1 * torch.randn(10, 64, 64, generator=generator)
    means = 0.5 * torch.randn(10, 1, 4, 4, 4, generator=generator)
    return MixtureDenoiser(torch.ones(10), means, roots @ roots.mT + 0.01 * torch.eye(64))


@pytest.fixture
def gaussian() -> GaussianDenoiser:
    root = torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.3, 0.1, 0.8]])
    return GaussianDenoiser(torch.tensor([0.2, -0.1, 0.3]), root @ root.T)


@pytest.fixture
def write_volume(tmp_path: Path) -> Callable[..., Path]:
    """``small_data.write_volume`` into the folder of the test."""
    return lambda name, *arguments, **options: small_data.write_volume(tmp_path / name, *arguments, **options)


@pytest.fixture
def write_slide(tmp_path: Path) -> Callable[..., Path]:
    """``small_data.write_slide`` into the folder of the test."""
    return lambda name, *arguments, **options: small_data.write_slide(tmp_path / name, *arguments, **options)


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of three small subjects; one is held out."""
    folder = tmp_path_factory.mktemp("volumes")
    for seed in range(3):
        array = np.random.default_rng(seed).normal(500, 100, (24, 24, 24)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"sub-{seed}.nii.gz")
    return str(folder)


@pytest.fixture
def dataset(bundle: str, tmp_path: Path) -> str:
    """Data of the bundle's kind in the folder of the test."""
    return small_data.write_dataset(bundle, tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Training]:
    """Trains a bundle for a few iterations when it is first asked for, once for all workers of the session."""
    from workflows import Training, train

    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the base of a worker lies in that of the session
        place = place.parent

    def get(bundle: str) -> Training:
        folder = place / "trained" / bundle
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "training.json"
        with FileLock(folder / "lock"):
            if not record.exists():
                dataset = small_data.write_dataset(bundle, folder)
                training = train(Training(folder, bundle, dataset, small_data.choices(bundle, dataset)))
                record.write_text(json.dumps(asdict(training), default=str))
            content = json.loads(record.read_text())
        return Training(**{**content, "folder": folder})

    return get
