"""Exact problems and small synthetic volumes that the tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

# before torch is imported: parallel test workers share the cores
os.environ.setdefault("OMP_NUM_THREADS", "2")

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_diffscore.denoiser import GaussianDenoiser, MixtureDenoiser


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


WriteVolume = Callable[..., Path]


@pytest.fixture
def write_volume(tmp_path: Path) -> WriteVolume:
    """Writes a smooth synthetic head-like volume (or a given array) as NIfTI and returns its path."""

    def write(name: str, shape: Sequence[int] = (40, 48, 40), seed: int = 0, array: np.ndarray | None = None) -> Path:
        if array is None:
            axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
            radius = np.sqrt(sum(axis**2 for axis in axes))
            texture = np.random.default_rng(seed).normal(size=shape)
            array = np.where(radius < 0.9, 600 + 300 * np.cos(6 * radius) + 30 * texture, 0.0)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
        return path

    return write


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of three small subjects, one of which is held out."""
    folder = tmp_path_factory.mktemp("volumes")
    for seed in range(3):
        array = np.random.default_rng(seed).normal(500, 100, (24, 24, 24)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"sub-{seed}.nii.gz")
    return str(folder)


@pytest.fixture
def write_slide(tmp_path: Path) -> Callable[..., Path]:
    """Writes a synthetic slide of two stains (or a given array [3, H, W]) as a pyramid and returns its path."""
    from monai_diffscore.data.pictures import write_pyramid

    def write(
        name: str,
        shape: Sequence[int] = (192, 256),
        seed: int = 0,
        array: np.ndarray | None = None,
        mpp_um: float | None = 0.5,
        **options: object,
    ) -> Path:
        path = tmp_path / name
        write_pyramid(stained(shape, seed) if array is None else array, path, mpp_um, tile=64, **options)
        return path

    return write


def stained(shape: Sequence[int], seed: int = 0, matrix: np.ndarray | None = None) -> np.ndarray:
    """8-bit tissue [3, H, W] of two stains on white glass, exactly by Beer and Lambert but for rounding."""
    matrix = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]) if matrix is None else matrix
    concentrations = np.random.default_rng(seed).gamma(1.0, 0.5, (2, *shape))
    density = np.einsum("shw,sc->chw", concentrations, matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
    return np.clip(np.rint(256 * np.exp(-density) - 1), 0, 255).astype(np.uint8)
