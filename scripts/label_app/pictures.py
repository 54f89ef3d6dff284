#!/usr/bin/env python3
"""Makes pictures of the answers of a running server; docs/LABEL.md shows them.

    scripts/label_app/pictures.py --studies FOLDER --model mri_unet3d_anomaly --image CASE --out PICTURE.png

The picture of a volume has three slices through the lesion of ``--truth`` (or the largest proposed region, or
``--at``): the image above, the answer below. With a mask ``--truth``, drawn in yellow, the script prints the AUROC of
the score and the Dice coefficient of the proposal. The picture of a slide (``--wsi``) has the polygons of the answer.
The script needs requests, nibabel, scikit-learn, matplotlib, and openslide for slides. scripts/label_app/examples.py
writes studies.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
import requests
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_RED = np.array([1.0, 0.15, 0.1])
_PLANES = ("sagittal", "coronal", "axial")


def ask(a: argparse.Namespace, path: str, **parts: str) -> requests.Response:
    """The answer of the server; an answer other than 200 ends the program with its line."""
    fields = {name: (None, value) for name, value in parts.items()}
    answer = requests.post(a.server + path, files=fields, timeout=3600)
    if answer.status_code != 200:
        raise SystemExit(f"{answer.status_code}: {answer.text}")
    return answer


def received(a: argparse.Namespace, **changed: str) -> np.ndarray:
    """The volume of the answer, its axes to the right, to the front and up."""
    params = json.dumps({**json.loads(a.params), **changed})
    answer = ask(a, f"/infer/{a.model}?image={a.image}&output=image", params=params)
    return volume_of(nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(answer.content))))


def volume_of(image: nib.Nifti1Image) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(image).dataobj)


def volume(a: argparse.Namespace) -> None:
    source = nib.as_closest_canonical(nib.load(next(a.studies.glob(f"{a.image}.nii*"))))
    image = volume_of(source).astype(np.float64)
    answer = received(a)
    truth = None if a.truth is None else volume_of(nib.load(a.truth)) > 0
    marked = answer.dtype == np.uint8
    if truth is not None and marked:
        print(agreement(answer > 0, np.abs(received(a, result="score")), truth))
    at = np.array(a.at) if a.at else centre(answer > 0 if truth is None else truth, marked or truth is not None)
    # a noisy image has a wider range than its anatomy
    low, high = np.quantile((image if marked else answer)[image > image.min()], [0.01, 0.995])
    rows = {"image": image, f"answer of {a.model}": answer}
    if not marked:
        rows["difference, about mid-grey"] = image - answer + (low + high) / 2
    figure, panels = plt.subplots(len(rows), 3, figsize=(9, 3.15 * len(rows)), facecolor="white", layout="constrained")
    spacing = source.header.get_zooms()
    for axis, column in enumerate(panels.T):
        others = [spacing[i] for i in range(3) if i != axis]
        grey = ((np.take(image, at[axis], axis).T - low) / (high - low)).clip(0, 1)
        for panel, (name, values) in zip(column, rows.items(), strict=True):
            slice_ = np.take(values, at[axis], axis).T
            if marked and values is answer:
                drawn = np.repeat(grey[..., None], 3, axis=-1)
                drawn[slice_ > 0] = 0.45 * drawn[slice_ > 0] + 0.55 * _RED
            else:
                drawn = ((slice_ - low) / (high - low)).clip(0, 1)
            panel.imshow(drawn, cmap="gray", origin="lower", aspect=others[1] / others[0], vmin=0, vmax=1)
            if truth is not None:
                panel.contour(np.take(truth, at[axis], axis).T, [0.5], colors="yellow", linewidths=1)
            panel.set(xticks=[], yticks=[])
            if axis == 0:
                panel.set_ylabel(name, fontsize=11)
        column[0].set_title(_PLANES[axis], fontsize=11)
    save(figure, a.out)


def centre(where: np.ndarray, of_groups: bool) -> np.ndarray:
    """The middle of the largest connected group of a mask, or of the volume for an empty mask."""
    groups, count = ndimage.label(where) if of_groups else (where, 0)
    if not count:
        return np.array(where.shape) // 2
    return np.rint(ndimage.center_of_mass(groups == 1 + np.bincount(groups.ravel())[1:].argmax())).astype(int)


def agreement(proposal: np.ndarray, score: np.ndarray, truth: np.ndarray) -> str:
    """AUROC of a score among the voxels with one, and the agreement of the proposal with the truth."""
    inside = score > 0
    dice = 2 * (proposal & truth).sum() / max(proposal.sum() + truth.sum(), 1)
    return (
        f"AUROC {roc_auc_score(truth[inside], score[inside]):.3f}, Dice {dice:.2f}, {(proposal & truth).sum()} of "
        f"{truth.sum()} voxels of the finding marked, {(proposal & ~truth).sum()} others of {inside.sum()}"
    )


def slide(a: argparse.Namespace) -> None:
    import openslide

    body = {"location": [0, 0], "size": [0, 0], "tile_size": [512, 512], "params": json.loads(a.params)}
    answer = ask(a, f"/infer/wsi_v2/{a.model}?image={a.image}&output=dsa", wsi=json.dumps(body)).json()
    opened = openslide.OpenSlide(str(next(a.studies.glob(f"{a.image}.*"))))
    pixels = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.75), facecolor="white", layout="constrained")
    for panel in panels:
        panel.imshow(pixels)
        panel.set_axis_off()
    for element in answer["elements"]:
        points = np.array([*element["points"], element["points"][0]])
        for colour, width in (("white", 4), ("red", 2)):
            panels[1].plot(points[:, 0], points[:, 1], color=colour, linewidth=width)
    panels[0].set_title("slide", fontsize=11)
    panels[1].set_title(f"polygons of {a.model}", fontsize=11)
    save(figure, a.out)


def save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--studies", type=Path, required=True, help="the folder that the server serves")
    parser.add_argument("--model", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--params", default="{}", help="JSON")
    parser.add_argument("--at", type=int, nargs=3, help="voxel to show slices through (default: a finding)")
    parser.add_argument("--truth", type=Path, help="mask of the true lesion")
    parser.add_argument("--wsi", action="store_true", help="the image is a slide")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    (slide if a.wsi else volume)(a)


if __name__ == "__main__":
    main()
