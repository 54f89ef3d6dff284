#!/usr/bin/env python3
"""Pictures of what a client receives, from the answers of a running server; docs/LABEL.md shows them.

    scripts/label_app/pictures.py --studies FOLDER --model mri_unet3d_anomaly --image CASE --out PICTURE.png

A volume is shown as three slices through the largest proposed region (or ``--at``), above the image, below the answer;
a slide (``--wsi``) with the polygons of the answer. Needs requests, nibabel, matplotlib, and openslide for slides.
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

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_RED = np.array([1.0, 0.15, 0.1])


def ask(a: argparse.Namespace, path: str, **parts: str) -> requests.Response:
    """The answer of the server; an answer other than 200 ends the program with its line."""
    fields = {name: (None, value) for name, value in parts.items()}
    answer = requests.post(a.server + path, files=fields, timeout=3600)
    if answer.status_code != 200:
        raise SystemExit(f"{answer.status_code}: {answer.text}")
    return answer


def volume(a: argparse.Namespace) -> None:
    answer = ask(a, f"/infer/{a.model}?image={a.image}&output=image", params=a.params)
    received = np.asarray(nib.Nifti1Image.from_stream(io.BytesIO(gzip.decompress(answer.content))).dataobj)
    source = nib.load(next(a.studies.glob(f"{a.image}.nii*")))
    image = np.asarray(source.dataobj, dtype=np.float64)
    marked = received.dtype == np.uint8
    groups, count = ndimage.label(received) if marked else (np.zeros_like(received, dtype=int), 0)
    sizes = np.bincount(groups.ravel(), minlength=2)
    sizes[0] = 0
    where = groups == sizes.argmax() if count else image > np.quantile(image, 0.9)
    at = np.rint(ndimage.center_of_mass(where)).astype(int) if a.at is None else np.array(a.at)
    spacing = source.header.get_zooms()
    low, high = np.quantile(image[image > image.min()], [0.01, 0.995])
    figure, panels = plt.subplots(2, 3, figsize=(9, 6.4), facecolor="white")
    for axis, column in zip(range(3), panels.T, strict=True):
        others = [spacing[i] for i in range(3) if i != axis]
        grey = ((np.take(image, at[axis], axis).T - low) / (high - low)).clip(0, 1)
        other = np.take(received, at[axis], axis).T
        if marked:
            answered = np.repeat(grey[..., None], 3, axis=-1)
            answered[other > 0] = 0.45 * answered[other > 0] + 0.55 * _RED
        else:
            answered = ((other - low) / (high - low)).clip(0, 1)
        for panel, shown in zip(column, (grey, answered), strict=True):
            panel.imshow(shown, cmap="gray", origin="lower", aspect=others[1] / others[0], vmin=0, vmax=1)
            panel.set_axis_off()
    panels[0, 0].set_title("the image", loc="left", fontsize=10)
    panels[1, 0].set_title(f"the answer of {a.model}{' on it' if marked else ''}", loc="left", fontsize=10)
    save(figure, a.out)


def slide(a: argparse.Namespace) -> None:
    import openslide

    body = {"location": [0, 0], "size": [0, 0], "tile_size": [512, 512], "params": json.loads(a.params)}
    answer = ask(a, f"/infer/wsi_v2/{a.model}?image={a.image}&output=dsa", wsi=json.dumps(body)).json()
    opened = openslide.OpenSlide(str(next(a.studies.glob(f"{a.image}.*"))))
    pixels = np.asarray(opened.read_region((0, 0), 0, opened.dimensions).convert("RGB"))
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.8), facecolor="white")
    for panel in panels:
        panel.imshow(pixels)
        panel.set_axis_off()
    for element in answer["elements"]:
        points = np.array([*element["points"], element["points"][0]])
        panels[1].plot(points[:, 0], points[:, 1], color="red", linewidth=2)
    panels[0].set_title("the slide", loc="left", fontsize=10)
    panels[1].set_title(f"the polygons of {a.model}", loc="left", fontsize=10)
    save(figure, a.out)


def save(figure: plt.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)  # a quarter of the size
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--studies", type=Path, required=True, help="the folder that the server serves")
    parser.add_argument("--model", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--params", default="{}", help="JSON")
    parser.add_argument("--at", type=int, nargs=3, help="voxel to show slices through (default: the largest region)")
    parser.add_argument("--wsi", action="store_true", help="the image is a slide")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    (slide if a.wsi else volume)(a)


if __name__ == "__main__":
    main()
