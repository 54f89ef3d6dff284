#!/usr/bin/env python3
"""Studies for a first look at the label app, with lesions at known places; docs/LABEL.md shows them.

    scripts/label_app/examples.py FOLDER

Writes FOLDER/studies (head_sphere, a head with a bright sphere of 8 mm radius; brain_noise, the brain alone with noise
of 8 % of the range; slide, scikit-image's picture of DAB and haematoxylin with a green ellipse), the mask of the
sphere beside it, and the healthy references of the p-values: FOLDER/heads (three other deformed copies of the head) and
FOLDER/slides (the picture without the ellipse). The head is Colin27, as in benchmarks/label_ranking.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from skimage.draw import ellipse

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.label_ranking import colin27, lesion, pseudo_subject, write_volume  # noqa: E402
from monai_diffscore import samples  # noqa: E402
from monai_diffscore.data.pictures import read_rgb, write_pyramid  # noqa: E402

SIDE = 96  # voxels of 2 mm: the whole head


def write_heads(folder: Path) -> None:
    rng = np.random.default_rng(7)
    head = colin27()
    for number in range(3):
        write_volume(1000 * pseudo_subject(head, rng, SIDE), folder / f"heads/healthy{number}.nii.gz")
    healthy = pseudo_subject(head, rng, SIDE)
    sick = lesion(healthy, rng)
    write_volume(1000 * sick, folder / "studies/head_sphere.nii.gz")
    write_volume((sick > healthy + 0.2).astype(float), folder / "head_sphere_mask.nii.gz")
    brain = pseudo_subject(colin27(brain=True), rng, SIDE)
    write_volume(1000 * (brain + rng.normal(0, 0.08, brain.shape)), folder / "studies/brain_noise.nii.gz")


def write_slides(folder: Path) -> None:
    healthy = np.array(read_rgb(samples.sample_path("ihc")))
    write_pyramid(healthy, folder / "slides/healthy.tif", 0.5)
    sick = healthy.copy()
    rows, columns = ellipse(150, 320, 30, 45)
    sick[:, rows, columns] = np.array([40, 140, 90], np.uint8)[:, None]
    write_pyramid(sick, folder / "studies/slide.tif", 0.5)


def main(folder: Path) -> None:
    for name in ("studies", "heads", "slides"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_heads(folder)
    write_slides(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
