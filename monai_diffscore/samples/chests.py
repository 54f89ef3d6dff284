"""Draws a synthetic CT of the chest, for machines without any CT; never call it data.

Ellipses and tubes in Hounsfield units, in a patient's axes (x to the right, y to the front, z to the head, in mm):
fat, muscle, ribs, spine, lungs with branching vessels, heart, aorta, trachea, liver, the table. Sizes and positions
differ by subject; the same seed draws the same subject on every machine. Blur and noise do not model a scanner.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.samples.cache import cache_folder

Grid = list[np.ndarray]  # x, y, z in mm, broadcastable to the shape


def ct_phantom(
    seed: int, shape: tuple[int, int, int] = (144, 112, 96), spacing_mm: float = 2.5
) -> tuple[np.ndarray, np.ndarray]:
    """One subject: HU as int16 [X, Y, Z], and an affine [4, 4] of RAS axes with the origin in the middle of the volume.

    Args:
        seed: of the subject.
        shape: voxels along x, y, z.
        spacing_mm: edge of a voxel.
    """
    rng = np.random.default_rng(seed)
    origin = [-0.5 * spacing_mm * (size - 1) for size in shape]
    grid = list(
        np.meshgrid(
            *[start + spacing_mm * np.arange(size) for start, size in zip(origin, shape, strict=True)],
            indexing="ij",
            sparse=True,
        )
    )
    hu = np.full(shape, -1000.0)
    body = np.array([rng.uniform(145, 165), rng.uniform(95, 112)])
    _trunk(hu, grid, body, rng)
    _lungs(hu, grid, body, rng)
    _mediastinum(hu, grid, rng)
    _spine(hu, grid, body)
    hu = gaussian_filter(hu, 0.6) + gaussian_filter(rng.normal(0, 40, shape), 0.7)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = origin
    return hu.clip(-1024, 3071).round().astype(np.int16), affine


def write_ct_phantoms(folder: str | Path, subjects: int = 6) -> Path:
    """Writes missing files ``sub-<name>/ct.nii.gz`` below a folder; returns the folder."""
    for seed in range(subjects):
        path = Path(folder) / f"sub-phantom{seed:02d}" / "ct.nii.gz"
        if not path.is_file():
            image = nib.Nifti1Image(*ct_phantom(seed))
            with whole_file(path) as file:
                # no time stamp: the same bytes each time
                file.write(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
    return Path(folder)


def drawn_chests(count: int = 16) -> str:
    """A folder in the user's cache with drawn chests of ``count`` subjects: HU, 144 x 112 x 96 voxels of 2.5 mm.

    The first call writes it, in 0.4 s a subject. Subject n is the same in every folder.

    Raises:
        ValueError: for less than one subject.
    """
    if count < 1:
        raise ValueError(f"drawn_chests expects at least one subject, got {count}.")
    return str(write_ct_phantoms(cache_folder() / f"chests_{count}", count))


def _ellipse(grid: Grid, centre: tuple[float, float], radii: np.ndarray | tuple[float, float]) -> np.ndarray:
    """Inside an elliptic cylinder along z."""
    x, y, z = grid
    inside: np.ndarray = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + 0 * z < 1
    return inside


def _ellipsoid(grid: Grid, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    x, y, z = ((axis - c) / r for axis, c, r in zip(grid, centre, radii, strict=True))
    inside: np.ndarray = x**2 + y**2 + z**2 < 1
    return inside


def _trunk(hu: np.ndarray, grid: Grid, body: np.ndarray, rng: np.random.Generator) -> None:
    x, y, z = grid
    hu[(np.abs(y + body[1] + 8) < 5) & (np.abs(x) < 0.9 * body[0]) & (z < np.inf)] = -350  # the table
    hu[_ellipse(grid, (0, 0), body)] = -100
    hu[_ellipse(grid, (0, 0), body - rng.uniform(8, 22))] = 50
    cage = 0.80 * body
    shell = _ellipse(grid, (0, 0), cage + 4) & ~_ellipse(grid, (0, 0), cage - 4)
    slope, phase = rng.uniform(0.3, 0.6), rng.uniform(0, 28)
    rib = np.mod(z + slope * np.abs(y - body[1]) + phase, 28) < 10  # downwards to the front
    hu[shell & rib] = 500


def _lungs(hu: np.ndarray, grid: Grid, body: np.ndarray, rng: np.random.Generator) -> None:
    height = rng.uniform(110, 150)
    for side in (-1, 1):
        centre, radii = (side * 0.42 * body[0], 0.0, -10.0), (0.34 * body[0], 0.68 * body[1], height)
        lung = _ellipsoid(grid, centre, radii) & _ellipse(grid, (0, 0), 0.80 * body - 6)
        hu[lung] = rng.uniform(-880, -800)
        root = np.array([side * 25.0, 0.0, 0.0])
        for _ in range(70):
            direction = rng.normal(size=3) * radii
            tip = np.array(centre) + 0.95 * direction / np.linalg.norm(direction / radii)
            bend = (root + tip) / 2 + rng.normal(0, 10, 3)
            radius = rng.uniform(1.2, 3.2)
            for start, end, thick in ((root, bend, radius), (bend, tip, 0.6 * radius)):
                _tube(hu, grid, lung, start, end, thick, 40.0)
    hu[_ellipsoid(grid, (0.35 * body[0], 0, -120), (0.5 * body[0], 0.7 * body[1], rng.uniform(50, 75)))] = 60  # liver


def _tube(
    hu: np.ndarray, grid: Grid, where: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, value: float
) -> None:
    """Sets ``value`` within ``radius`` of a segment, inside the mask ``where``; computes only in its bounding box."""
    box = []
    for axis, low, high in zip(grid, np.minimum(start, end) - radius, np.maximum(start, end) + radius, strict=True):
        box.append(slice(*np.searchsorted(axis.ravel(), [low, high])))
    points = np.stack(np.broadcast_arrays(*[axis[_along(i, box[i])] for i, axis in enumerate(grid)]), -1)
    along = ((points - start) @ (end - start) / ((end - start) ** 2).sum()).clip(0, 1)[..., None]
    distance = np.linalg.norm(points - start - along * (end - start), axis=-1)
    region = hu[tuple(box)]
    region[(distance < radius) & where[tuple(box)]] = value


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if i == axis else slice(None) for i in range(3))


def _mediastinum(hu: np.ndarray, grid: Grid, rng: np.random.Generator) -> None:
    z = grid[2]
    hu[_ellipse(grid, (0, 0), (24, 50))] = 30
    size = rng.uniform(0.85, 1.15)
    hu[_ellipsoid(grid, (-25, 18, -35), (55 * size, 45 * size, 60 * size))] = 45  # the heart lies to the left
    hu[_ellipsoid(grid, (-30, 18, -40), (28 * size, 24 * size, 36 * size))] = 70
    hu[_ellipse(grid, (-20, -42), (13, 13))] = 60  # aorta
    hu[_ellipse(grid, (0, -5), (9, 9)) & (z > 5)] = -990  # trachea
    hu[_ellipsoid(grid, (0, 72, 20), (16, 6, 80))] = 350  # sternum


def _spine(hu: np.ndarray, grid: Grid, body: np.ndarray) -> None:
    z, back = grid[2], -0.68 * body[1]
    outside, inside = _ellipse(grid, (0, back), (21, 16)), _ellipse(grid, (0, back), (17, 12))
    disc = np.mod(z, 26) < 6
    hu[outside & ~disc], hu[inside & ~disc], hu[outside & disc] = 550, 180, 90
    canal = back - 23
    hu[_ellipse(grid, (0, canal), (13, 11))] = 500
    hu[_ellipse(grid, (0, canal), (9, 8))] = 20
