"""Small synthetic data of every kind that a bundle takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata
import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from monai_diffscore.data.pictures import write_pyramid
from monai_diffscore.samples.chests import ct_phantom
from monai_diffscore.samples.simulated_expression import simulate_expression

ARRAYS = ("natural_dit2d", "signal_dit1d")
PROFILES = ("bulk_expression_mlp", "pathway_gnn")
GENES = [f"G{number + 1:04d}" for number in range(400)]


def write_dataset(bundle: str, folder: Path) -> str:
    """Data of the bundle's kind: three small synthetic subjects, slides or sequences, labelled images, or a toy."""
    if bundle == "toy2d_mlp":
        return "moons"
    if bundle == "scrna_attention":
        return write_cells(folder / "data.h5ad")
    if bundle == "tabular_mlp":
        return write_clinical(folder / "clinical.csv")
    if bundle in PROFILES:
        return write_profiles(folder / "simulated_profiles")
    if bundle in ARRAYS:
        (folder / "data").mkdir()
        generator = np.random.default_rng(0)
        if bundle == "natural_dit2d":
            np.save(folder / "data/images.npy", generator.integers(0, 256, (15, 8, 8), dtype=np.uint8))
            np.save(folder / "data/labels.npy", np.arange(15) % 4 - 1)
        else:
            np.save(folder / "data/sequences.npy", 5 + np.cumsum(generator.normal(size=(3, 400)), axis=1))
        return str(folder / "data")
    if bundle == "mri_whole3d":
        return write_subjects(folder / "data")
    if bundle == "mri_translate3d":
        return write_contrasts(folder / "data")
    if bundle == "mri_labelled3d":  # of the five classes that its metadata states
        return write_contrasts(folder / "data", [("T1w", "dseg")] * 3, limits=(-1.5, -0.5, 0.5, 1.5))
    for seed in range(3):
        if bundle == "pathology_hierarchical_unet":
            write_slide(folder / f"data/slide-{seed}.tif", seed=seed)
            continue
        array = ct_phantom(seed, (48, 44, 40), 8.0)[0] if bundle.startswith("ct_") else None
        write_volume(folder / f"data/sub-{seed}/anat.nii.gz", seed=seed, array=array)
    return str(folder / "data")


def choices(bundle: str, dataset: str) -> dict:
    """What a training on them chooses; sampling takes it from the training, not from its own file."""
    if bundle.endswith("_whole3d"):
        windows = [None, None, [8] * 3]
        return {"spacing_mm": [2.5] * 3, "sample_size": [32] * 3, "windows": windows, "passes_per_epoch": 1}
    return {
        "toy2d_mlp": {},
        "pathology_hierarchical_unet": {"mpp_um": 0.6},
        "natural_dit2d": {"num_classes": 3},
        "signal_dit1d": {"window_size": [128]},
        "scrna_attention": {},
        "bulk_expression_mlp": {"batch": "batch"},
        "tabular_mlp": {},
        "pathway_gnn": {"batch": "batch", "graph_files": str(Path(dataset).parent / "links.tsv")},
    }.get(bundle, {"spacing_mm": [2.5] * (2 if bundle.endswith("2d") else 3)})


def write_volume(
    path: Path, shape: Sequence[int] = (40, 48, 40), seed: int = 0, array: np.ndarray | None = None
) -> Path:
    """Writes a smooth synthetic head-like volume (or an array) as NIfTI with voxels of 2 mm and returns its path."""
    if array is None:
        axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
        radius = np.sqrt(sum(axis**2 for axis in axes))
        texture = np.random.default_rng(seed).normal(size=shape)
        array = np.where(radius < 0.9, 600 + 300 * np.cos(6 * radius) + 30 * texture, 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    return path


def write_subjects(folder: Path) -> str:
    """Three small heads in the layout of BIDS, each with a label map, and the table of their ages."""
    rows = ["participant_id\tage_years"]
    for seed in range(3):
        name = f"sub-{seed + 1:02d}"
        write_volume(folder / name / f"anat/{name}_T1w.nii.gz", seed=seed)
        write_volume(folder / name / f"anat/{name}_dseg.nii.gz", array=np.eye(40).repeat(40, 0).reshape(40, 40, 40))
        rows.append(f"{name}\t{30 + 20 * seed}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return str(folder)


def smooth_head(seed: int = 0) -> np.ndarray:
    """Blobs [40, 48, 40] of unit variance: edges everywhere."""
    values = gaussian_filter(np.random.default_rng(seed).normal(size=(40, 48, 40)), 1.5, mode="wrap")
    return values / values.std()


#: the files of some subjects: the second lacks T2, the third has T1 alone, the fourth lacks what the third has
CONTRASTS = (("T1w", "T2w", "FLAIR", "dseg"), ("T1w", "FLAIR", "dseg"), ("T1w",), ("FLAIR",))


def write_contrasts(
    folder: Path, subjects: Sequence[Sequence[str]] = CONTRASTS, limits: Sequence[float] = (-1, 1)
) -> str:
    """Heads in the layout of BIDS, several contrasts of one anatomy each, and the label map of its classes between
    ``limits``."""
    for number, names in enumerate(subjects, start=1):
        head = smooth_head(number)
        values = {
            "T1w": 500 + 100 * head,
            "T2w": 900 - 100 * head,
            "FLAIR": 500 + 40 * (head - 1) ** 2,
            "dseg": np.digitize(head, limits),
        }
        for name in names:
            write_volume(folder / f"sub-{number}/anat/sub-{number}_{name}.nii.gz", array=values[name])
    return str(folder)


def write_slide(
    path: Path,
    shape: Sequence[int] = (192, 256),
    seed: int = 0,
    array: np.ndarray | None = None,
    mpp_um: float | None = 0.5,
    **options: object,
) -> Path:
    """Writes a synthetic slide of two stains (or an array [3, H, W]) as a pyramid and returns its path."""
    write_pyramid(stained(shape, seed) if array is None else array, path, mpp_um, tile=64, **options)
    return path


def stained(shape: Sequence[int], seed: int = 0, matrix: np.ndarray | None = None) -> np.ndarray:
    """8-bit tissue [3, H, W] of two stains on white glass, by the law of Beer and Lambert up to rounding."""
    matrix = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]) if matrix is None else matrix
    concentrations = np.random.default_rng(seed).gamma(1.0, 0.5, (2, *shape))
    density = np.einsum("shw,sc->chw", concentrations, matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
    return np.clip(np.rint(256 * np.exp(-density) - 1), 0, 255).astype(np.uint8)


def write_cells(path: Path) -> str:
    """Sixty cells of three types with counts of twelve genes, and totals of more genes than these."""
    generator = np.random.default_rng(0)
    kinds = np.arange(60) % 3
    counts = generator.poisson(1 + 3 * (np.arange(12) % 3 == kinds[:, None])).astype(np.float32)
    obs = pd.DataFrame(
        {"bulk_labels": pd.Categorical(np.array(["B", "NK", "T"])[kinds]), "n_counts": 100.0 + counts.sum(1)},
        index=[f"cell{number}" for number in range(60)],
    )
    var = pd.DataFrame(index=[f"gene{number}" for number in range(12)])
    anndata.AnnData(counts, obs=obs, var=var).write_h5ad(path)
    return str(path)


def write_clinical(path: Path) -> str:
    """Sixty patients: whole numbers, decimals with gaps, stages with gaps, an outcome, markers up to 30 axes."""
    clinical().to_csv(path, index=False)
    return str(path)


def clinical() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": generator.integers(20, 90, 60),
            "bmi": generator.normal(27, 4, 60).round(1),
            "stage": generator.choice(["I", "II", "III"], 60),
            "outcome": np.where(np.arange(60) % 3, "alive", "dead"),
            **{f"marker{number}": generator.normal(size=60).round(3) for number in range(22)},
        }
    )
    frame.loc[::7, "bmi"] = np.nan
    frame.loc[::5, "stage"] = None
    return frame


def write_profiles(folder: Path) -> str:
    """24 simulated profiles of 400 genes with group and batch, and the graph that they come from."""
    values, obs, edges = simulate_expression(genes=400, samples=24)
    folder.mkdir()
    anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=pd.Index(GENES))).write_h5ad(folder / "expression.h5ad")
    rows = [f"{GENES[a]}\t{GENES[b]}\n" for a, b in edges.T]
    (folder / "links.tsv").write_text("source\ttarget\n" + "".join(rows))
    return str(folder / "expression.h5ad")
