"""Tables of a cohort of simulated heads: their differences, and the fit of their ventricles to the stated law of age.

    python -m benchmarks.heads [--count 200] [--seed 0] [--lesions 0.3] [--folder FOLDER]

Prints JSON: the fit of ln(ventricles / brain) over age, ventricles by age, volumes by sex, MS-SSIM and Dice of pairs.
Each subject is in one pair at most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from monai_diffscore import samples
from monai_diffscore.metrics.diversity import PairSimilarity
from monai_diffscore.samples.simulated_heads import TISSUES, VENTRICLE_GROWTH, VENTRICLE_SHARE

EDGES_YEARS = (20, 35, 50, 65, 80, 90)
PAIRS = 40


def read_image(folder: Path, subject: str, suffix: str) -> np.ndarray:
    """One image of a subject, [X, Y, Z]."""
    path = folder / subject / "anat" / f"{subject}_{suffix}.nii.gz"
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def fit_law(table: pd.DataFrame) -> dict[str, float]:
    """Slope a year, share at 20 years, scatter and correlation of the logarithm of the share of the ventricles."""
    age, share = table.age_years - 20, np.log(table.ventricles_ml / table.brain_ml)
    slope, start = np.polyfit(age, share, 1)
    scatter = (share - slope * age - start).std(ddof=2)
    return {
        "slope": slope,
        "share_at_20": np.exp(start),
        "scatter": scatter,
        "correlation": np.corrcoef(age, share)[0, 1],
    }


def by_age(table: pd.DataFrame) -> list[dict[str, object]]:
    """A row for each interval of ages."""
    rows = []
    for low, high in itertools.pairwise(EDGES_YEARS):
        part = table[(table.age_years >= low) & (table.age_years < high)]
        law = VENTRICLE_SHARE * np.exp(VENTRICLE_GROWTH * (part.age_years.median() - 20))
        quantiles = part.ventricles_ml.quantile([0.1, 0.5, 0.9]).round(1).tolist()
        share = (part.ventricles_ml / part.brain_ml).median()
        rows.append({"age": [low, high], "subjects": len(part), "ml": quantiles, "share": share, "law": law})
    return rows


def overlaps(folder: Path, subjects: list[str]) -> dict[str, list[float]]:
    """Mean, least and greatest Dice of each tissue over pairs of subjects."""
    labels = [read_image(folder, subject, "dseg") for subject in subjects]
    result = {}
    for number, tissue in enumerate(TISSUES, start=1):
        masks = [label == number for label in labels]
        dice = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in zip(masks[::2], masks[1::2], strict=True)]
        result[tissue] = [float(np.mean(dice)), min(dice), max(dice)]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lesions", type=float, default=0.3, help="share of the subjects that have lesions")
    parser.add_argument("--folder", type=Path, help="where the cohort is written, or lies already")
    options = parser.parse_args()
    start, cpu = time.perf_counter(), time.process_time()
    folder = Path(samples.heads(options.count, options.seed, lesions=options.lesions, folder=options.folder))
    seconds = {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    subjects = table.participant_id.tolist()[: 2 * PAIRS]
    images = torch.from_numpy(np.stack([read_image(folder, name, "T1w") for name in subjects])[:, None] / 500.0 - 1)
    similarity = PairSimilarity().describe(images)
    volumes = [name for name in table if name.endswith("_ml")]
    result = {
        "seconds": seconds,
        "law": fit_law(table),
        "ages": by_age(table),
        "volumes": {"mean": table[volumes].mean().to_dict(), "std": table[volumes].std().to_dict()},
        "by_sex": table.groupby("sex")[volumes].mean().to_dict(),
        "ms_ssim": [float(f(similarity)) for f in (torch.mean, torch.min, torch.max)],
        "dice": overlaps(folder, subjects[:PAIRS]),
    }
    print(json.dumps(result, indent=2, default=float))


if __name__ == "__main__":
    main()
