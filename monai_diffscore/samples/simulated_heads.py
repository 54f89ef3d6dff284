r"""Simulates a cohort of heads with known truth: real anatomy of one average head, simulated variation of subjects.

The anatomy is that of the MNI152 template inside nilearn: shares of grey and white matter in each voxel. The rest of
the brain is cerebrospinal fluid (CSF), and its component around the middle is the **ventricles**. All differences
between subjects are simulated:

- **Shape**: :math:`\phi = \exp(v_{40}) \circ \exp(v_{12}) \circ A`: random velocities of two correlation lengths (mm),
  and an affine map of size, proportions and pose. Heads of men are 3 % longer along each axis than heads of women.
- **Age**: a radial flow enlarges the ventricles until their share of the brain follows the law

  .. math::  \ln \frac{V_{ventricles}}{V_{brain}} = \ln 0.008 + 0.016\,(a - 20) + 0.15\,n , \qquad n \sim N(0, 1),

  for the age a in years, uniform from 20 to 90.
- **Folds**: tissues are *drawn* from their shares p, as softmax of :math:`(\ln p + \epsilon) / T` with a smooth random
  :math:`\epsilon`: sharp as one head, where the average is blurred.
- **Image**: a mean of each tissue for each sequence with scatter, smooth variation within tissues, a bias field, Rician
  noise of 2 % of the brightest tissue. Outside the brain it is 0, as after brain extraction.
- **Lesions**: hyperintensities of the white matter around the ventricles, if asked for.

The simulation makes no statement about patients.

Sources: Fonov et al. 2009, doi:10.1016/S1053-8119(09)70884-5 (the template); Gudbjartsson and Patz 1995,
doi:10.1002/mrm.1910340618, Eq. 1 (Rician noise).
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from monai_diffscore.atomic_files import whole_folder
from monai_diffscore.samples.cache import cache_folder
from monai_diffscore.samples.catalogue import sample_path
from monai_diffscore.samples.deformations import Grid, exponential, moved, refined, sample_at, smooth_field

logger = logging.getLogger(__name__)

#: labels of dseg.nii.gz, in the order of the tissue maps
TISSUES = ("csf", "grey", "white", "ventricles")
#: mean of CSF, grey matter, white matter and ventricles in each sequence, as a share of the brightest; then of lesions
CONTRASTS = {
    "T1": ((0.22, 0.60, 0.90, 0.20), 0.66),
    "T2": ((0.95, 0.58, 0.42, 1.00), 0.80),
    "FLAIR": ((0.22, 0.66, 0.52, 0.14), 1.00),
}
_SUFFIX = {"T1": "T1w", "T2": "T2w", "FLAIR": "FLAIR"}
#: of the law of the ventricles: share of the brain at 20 years, its growth a year, the scatter of its logarithm
VENTRICLE_SHARE, VENTRICLE_GROWTH, VENTRICLE_SCATTER = 0.008, 0.016, 0.15
AGES = (20.0, 90.0)
_FIELD_OF_VIEW = Grid((192, 224, 192), 1.0, (-95.5, -129.5, -92.5))  # of the world of the template, in mm
_BOX = ((-45, 45), (-70, 45), (-15, 40))  # of the lateral and third ventricles, in mm
_WHITE = 1000.0  # value of the brightest tissue in the files
_NOISE = 0.02
_STRENGTHS = range(-6, 20, 2)  # mm, of the flow that enlarges the ventricles
_FOLDS, _TEMPERATURE = 0.7, 0.6  # amplitude of epsilon, and T


@dataclass(frozen=True)
class Head:
    """One subject.

    Args:
        images: name of the sequence to int16 [X, Y, Z].
        labels: 0 outside, 1 + the place in :data:`TISSUES` inside, uint8.
        lesions: 1 in lesions, uint8.
        grid: of them all.
        age_years: of the subject.
        sex: "F" or "M".
    """

    images: dict[str, np.ndarray]
    labels: np.ndarray
    lesions: np.ndarray
    grid: Grid
    age_years: float
    sex: str

    def row(self) -> dict[str, str]:
        """The row of participants.tsv: age, sex, and volumes in ml from the counts of labels."""
        voxel_ml = self.grid.spacing_mm**3 / 1000
        counts = np.bincount(self.labels.ravel(), minlength=len(TISSUES) + 1)
        volumes = {f"{name}_ml": count * voxel_ml for name, count in zip(TISSUES, counts[1:], strict=True)}
        volumes |= {"brain_ml": counts[1:].sum() * voxel_ml, "lesions_ml": int(self.lesions.sum()) * voxel_ml}
        return {"age_years": f"{self.age_years:.1f}", "sex": self.sex} | {k: f"{v:.2f}" for k, v in volumes.items()}


def heads(
    count: int = 200,
    seed: int = 0,
    contrasts: Sequence[str] = ("T1", "T2", "FLAIR"),
    lesions: float = 0.0,
    spacing_mm: float = 2.0,
    folder: str | Path | None = None,
) -> str:
    """A folder of simulated heads in the layout of BIDS; the first call writes it. See the text of the module.

    ``sub-<number>/anat/sub-<number>_{T1w,T2w,FLAIR}.nii.gz`` (int16), beside them ``_dseg.nii.gz`` (tissues, see
    :data:`TISSUES`) and ``_label-lesion_mask.nii.gz``; ``participants.tsv`` with ``age_years``, ``sex`` and volumes in
    ml. Subject n of a seed is the same in every cohort, except for its lesions.

    Args:
        count: number of subjects.
        seed: of the cohort.
        contrasts: among "T1", "T2" and "FLAIR".
        lesions: share of the subjects with lesions of the white matter.
        spacing_mm: edge of a voxel, 1, 2 or 4 mm. The field of view is 192 x 224 x 192 mm: 96 x 112 x 96 at 2 mm.
        folder: of the cohort; default is a folder in the user's cache, named by these arguments.
    Raises:
        ValueError: for arguments out of range.
        FileExistsError: if ``folder`` has another content.
        DataError: if nilearn is not installed.
    """
    unknown = [name for name in contrasts if name not in CONTRASTS]
    if unknown or not contrasts or count < 1 or not 0 <= lesions <= 1:
        raise ValueError(
            f"heads expects at least one subject, contrasts among {list(CONTRASTS)} and a share of subjects with "
            f"lesions from 0 to 1, got {count}, {list(contrasts)} and {lesions}."
        )
    _FIELD_OF_VIEW.resampled(spacing_mm)
    arguments = {
        "count": count,
        "seed": seed,
        "contrasts": list(contrasts),
        "lesions": lesions,
        "spacing_mm": spacing_mm,
    }
    name = f"heads_{count}_{seed}_{'_'.join(contrasts)}_{lesions:g}_{spacing_mm:g}mm"
    target = cache_folder() / name if folder is None else Path(folder)
    if _description(target) == _describe(arguments):
        return str(target)
    _enlargements(), _coarse_template(), _seen_template(spacing_mm)  # once, before the threads ask for them
    with whole_folder(target) as part, ThreadPoolExecutor(os.cpu_count()) as pool:

        def write(number: int) -> dict[str, str]:
            head = simulate_head(seed, number, contrasts, lesions, spacing_mm)
            return {"participant_id": _write_head(part, number, head)} | head.row()

        _write_tables(part, list(pool.map(write, range(count))))
        (part / "dataset_description.json").write_text(_describe(arguments))
    logger.info("wrote %s simulated heads: %s", count, target)
    return str(target)


def simulate_head(
    seed: int,
    number: int,
    contrasts: Sequence[str] = ("T1",),
    lesions: float = 0.0,
    spacing_mm: float = 2.0,
) -> Head:
    """Subject ``number`` of the cohort ``seed``; arguments as of :func:`heads`."""
    random, random_of_lesions = (np.random.default_rng([seed, number, stream]) for stream in (0, 1))
    age, sex = random.uniform(*AGES), "FM"[random.integers(2)]
    share = VENTRICLE_SHARE * math.exp(
        VENTRICLE_GROWTH * (age - AGES[0]) + VENTRICLE_SCATTER * random.standard_normal()
    )
    has_lesions = random_of_lesions.uniform() < lesions
    grid = _FIELD_OF_VIEW.resampled(spacing_mm)
    points = refined(_shape(random, sex, share).movedim(-1, 0), grid).movedim(0, -1)
    brain, tissues = _draw_tissues(random, grid, points, spacing_mm)
    spots = _draw_lesions(random_of_lesions, grid, brain, tissues) if has_lesions else np.zeros(tissues.shape[1], bool)

    def volume(values: np.ndarray, dtype: type) -> np.ndarray:
        whole: np.ndarray = np.zeros(grid.shape, dtype)
        whole[brain] = values
        return whole

    labels = volume(1 + tissues.argmax(0), np.uint8)
    images = {
        name: volume(_image(_random_of(seed, number, name), name, grid, brain, tissues, spots), np.int16)
        for name in contrasts
    }
    return Head(images, labels, volume(spots, np.uint8), grid, age, sex)


def _random_of(seed: int, number: int, contrast: str) -> np.random.Generator:
    """A random stream for each sequence, so that an image does not depend on the other sequences."""
    return np.random.default_rng([seed, number, 2 + list(CONTRASTS).index(contrast)])


@cache
def _coarse_grid() -> Grid:
    """The grid of displacements: smooth fields need no finer one."""
    return _FIELD_OF_VIEW.resampled(4.0)


@cache
def _template() -> tuple[torch.Tensor, Grid]:
    """Shares of CSF, grey matter, white matter and ventricles [4, X, Y, Z] at 1 mm."""
    image = nib.Nifti1Image.from_filename(sample_path("mni152"))
    grey, white = (_read_shares(f"mni152_{name}") for name in ("grey", "white"))
    brain = ndimage.gaussian_filter((image.get_fdata(dtype=np.float32) > 0).astype(np.float32), 0.7)
    csf = (brain - grey - white).clip(0, 1)
    grid = Grid(image.shape, 1.0, tuple(float(edge) for edge in image.affine[:3, 3]))  # type: ignore[arg-type]
    near = ndimage.binary_dilation(_ventricles(csf, grid), iterations=2)
    maps = np.stack([np.where(near, 0, csf), grey, white, np.where(near, csf, 0)])
    return torch.from_numpy(maps.astype(np.float32)), grid


def _read_shares(name: str) -> np.ndarray:
    """Shares of a tissue; the file has 0 to 255."""
    shares: np.ndarray = nib.Nifti1Image.from_filename(sample_path(name)).get_fdata(dtype=np.float32) / 255
    return shares


def _ventricles(csf: np.ndarray, grid: Grid) -> np.ndarray:
    """The largest component of CSF inside the box of the lateral and third ventricles."""
    components, _ = ndimage.label(csf > 0.5)
    sizes = np.bincount(components.ravel())
    origin = np.array(grid.origin_mm)[:, None]
    for label, place in enumerate(ndimage.find_objects(components), start=1):
        ends = np.array([(side.start, side.stop - 1) for side in place]) * grid.spacing_mm + origin
        inside = all(low <= a and b <= high for (a, b), (low, high) in zip(ends, _BOX, strict=True))
        sizes[label] *= inside
    mask: np.ndarray = components == 1 + sizes[1:].argmax()
    return mask


@cache
def _enlargements() -> torch.Tensor:
    """Displacements [K, 3, X, Y, Z] of the radial flow that enlarges the ventricles, for each of the strengths.

    The velocity points away from the ventricles and is at most 1 mm at strength 1.
    """
    maps, grid = _template()
    flow = -np.stack(np.gradient(ndimage.gaussian_filter(maps[3].numpy(), 7.0)))
    velocity = sample_at(torch.from_numpy(flow), grid, _coarse_grid().points())
    velocity = velocity / velocity.norm(dim=0).max()
    return torch.stack([exponential(-strength * velocity, _coarse_grid()) for strength in _STRENGTHS])


def _enlargement(strength: float) -> torch.Tensor:
    """The displacement of a strength in range, by linear interpolation of :func:`_enlargements`."""
    if not _STRENGTHS[0] <= strength <= _STRENGTHS[-1]:
        raise RuntimeError(f"no flow of strength {strength} mm; expected {_STRENGTHS[0]} to {_STRENGTHS[-1]}.")
    place = (strength - _STRENGTHS[0]) / _STRENGTHS.step
    first = min(int(place), len(_STRENGTHS) - 2)
    weaker, stronger = _enlargements()[first : first + 2]
    return torch.lerp(weaker, stronger, place - first)


@cache
def _coarse_template() -> tuple[torch.Tensor, Grid]:
    """Ventricles and brain [2, X, Y, Z] without detail below 4 mm, for the measurement of shares."""
    maps, grid = _template()
    smooth = [ndimage.gaussian_filter(volume, 1.7) for volume in (maps[3].numpy(), maps.sum(0).numpy())]
    return torch.from_numpy(np.stack(smooth)), grid


def _shape(random: np.random.Generator, sex: str, share: float) -> torch.Tensor:
    """The points of the template for the points of the subject, [X, Y, Z, 3] mm on the coarse grid.

    The flow of the ventricles is scaled, by secants, until their share of the brain is ``share``.
    """
    grid = _coarse_grid()
    wide, narrow = smooth_field(random, 3, grid, 20.0), smooth_field(random, 3, grid, 6.0)
    displacements = [exponential(3.0 * wide, grid), exponential(2.0 * narrow, grid)]
    affine, centre = _affine(random, sex), torch.tensor([0.0, -17.0, 5.0])
    points = moved((grid.points() - centre) @ affine.T + centre, displacements, grid)
    maps, template_grid = _coarse_template()

    def excess(strength: float) -> tuple[float, torch.Tensor]:
        """Log of the share over the wanted one, and the points."""
        within = moved(points, [_enlargement(strength)], grid)
        ventricles, brain = sample_at(maps, template_grid, within).numpy().sum((1, 2, 3), dtype=np.float64)
        return math.log(ventricles / brain / share), within

    before, strength = 0.0, 2.0
    excess_before, (excess_now, within) = excess(before)[0], excess(strength)
    while abs(excess_now) > 0.002:
        slope = (excess_now - excess_before) / (strength - before)
        before, excess_before, strength = strength, excess_now, strength - excess_now / slope
        excess_now, within = excess(strength)
    return within


def _affine(random: np.random.Generator, sex: str) -> torch.Tensor:
    """Subject to template: size, proportions and a small rotation, [3, 3]."""
    size = (1.015 if sex == "M" else 0.985) * math.exp(0.025 * random.standard_normal())
    scale = np.diag(1 / (size * np.exp(0.025 * random.standard_normal(3))))
    a, b, c = np.deg2rad(2.0) * random.standard_normal(3)
    skew = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    rotation = np.linalg.solve(np.eye(3) - skew / 2, np.eye(3) + skew / 2)  # Cayley: exactly a rotation
    return torch.from_numpy((scale @ rotation).astype(np.float32))


def _draw_tissues(
    random: np.random.Generator, grid: Grid, points: torch.Tensor, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """The brain [X, Y, Z], and random shares of the tissues in its voxels [4, N] by the shares of the template."""
    maps, template_grid = _seen_template(spacing_mm)
    brain = sample_at(maps[4:], template_grid, points)[0] > 0.5
    shares = sample_at(maps[:4], template_grid, points[brain]).numpy()
    odds = np.log(shares.clip(1e-3))
    odds[:3] += _FOLDS * refined(smooth_field(random, 3, _coarse_grid(), 4.0), grid)[:, brain].numpy()
    odds = np.exp((odds - odds.max(0)) / _TEMPERATURE)
    return brain.numpy(), odds / odds.sum(0)


@cache
def _seen_template(spacing_mm: float) -> tuple[torch.Tensor, Grid]:
    """Tissues and brain [5, X, Y, Z] at 1 mm, as voxels of ``spacing_mm`` see them."""
    maps, grid = _template()
    volumes = torch.cat([maps, maps.sum(0, keepdim=True)]).numpy()
    return torch.from_numpy(np.stack([ndimage.uniform_filter(v, round(spacing_mm)) for v in volumes])), grid


def _draw_lesions(random: np.random.Generator, grid: Grid, brain: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    """The mask [N] of the voxels of the brain in spots of the white matter near the ventricles."""
    elsewhere = np.ones(grid.shape, bool)
    elsewhere[brain] = tissues[3] < 0.5
    away_mm = ndimage.distance_transform_edt(elsewhere)[brain] * grid.spacing_mm
    likely = np.where(tissues[2] > 0.8, np.exp(-away_mm / 12), 0)
    points = grid.points().numpy()[brain]
    wobble = refined(smooth_field(random, 1, _coarse_grid(), 4.0), grid)[0].numpy()[brain]
    spots = np.zeros(len(points), bool)
    for voxel in random.choice(len(points), 1 + random.poisson(8), p=likely / likely.sum()):
        radius_mm = random.uniform(2.0, 6.0) * (1 + 0.3 * wobble)
        spots |= ((points - points[voxel]) ** 2).sum(-1) < radius_mm**2
    return spots & (tissues[2] > 0.5)


def _image(
    random: np.random.Generator,
    contrast: str,
    grid: Grid,
    brain: np.ndarray,
    tissues: np.ndarray,
    spots: np.ndarray,
) -> np.ndarray:
    """One sequence in the voxels of the brain, [N]."""
    means, lesion = CONTRASTS[contrast]
    means_of_subject = np.array(means, np.float32) * np.exp(0.05 * random.standard_normal(4, np.float32))
    signal = means_of_subject @ tissues
    scatter_of_lesions = math.exp(0.05 * random.standard_normal())
    signal[spots] = lesion * scatter_of_lesions
    for amplitude, length_mm in ((0.08, 40.0), (0.025, 5.0)):  # the bias field, and what differs within a tissue
        field = refined(smooth_field(random, 1, _coarse_grid(), length_mm), grid)[0].numpy()
        signal *= np.exp(amplitude * field[brain])
    real, imaginary = _NOISE * random.standard_normal((2, len(signal)), np.float32)
    value: np.ndarray = (_WHITE * np.hypot(signal + real, imaginary)).round()
    return value


def _write_head(folder: Path, number: int, head: Head) -> str:
    """Writes the files of one subject; returns its name."""
    name = f"sub-{number + 1:04d}"
    place = folder / name / "anat"
    place.mkdir(parents=True)
    volumes = {_SUFFIX[contrast]: image for contrast, image in head.images.items()}
    volumes |= {"dseg": head.labels, "label-lesion_mask": head.lesions}
    for suffix, volume in volumes.items():
        image = nib.Nifti1Image(volume, head.grid.affine())
        image.header.set_xyzt_units("mm")
        # no time stamp: the same bytes each time
        packed = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
        (place / f"{name}_{suffix}.nii.gz").write_bytes(packed)
    return name


def _write_tables(folder: Path, rows: list[dict[str, str]]) -> None:
    lines = ["\t".join(row) for row in [list(rows[0]), *[list(row.values()) for row in rows]]]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    names = "".join(f"{index}\t{tissue}\n" for index, tissue in enumerate(("background", *TISSUES)))
    (folder / "dseg.tsv").write_text(f"index\tname\n{names}")


def _describe(arguments: dict[str, object]) -> str:
    """The text of dataset_description.json: the cohort and its arguments."""
    description = {
        "Name": "SIMULATED heads: anatomy of the MNI152 template, simulated variation; no patients",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "monai_diffscore.samples.heads", **arguments}],
    }
    return json.dumps(description, indent=4) + "\n"


def _description(folder: Path) -> str:
    """The text of the folder's dataset_description.json; empty without one."""
    file = folder / "dataset_description.json"
    return file.read_text() if file.is_file() else ""
