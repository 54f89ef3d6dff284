"""Pictures of samples for visual inspection.

One picture shows a batch [B, C, *S]: three orthogonal slices through the middle of each volume, images, signals as
curves, rows of a table as a scatter plot, rows of more than 16 columns as a heat map. Grey values are those of the
normalised data, -1 black and 1 white, in every picture. The picture of findings shows an outline on the image, and maps
in colours with their scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from monai_diffscore.atomic_files import whole_file

_PLANES = ("sagittal", "coronal", "axial")  # normal to the R, A and S axis of a RAS volume


def save_gallery(
    samples: Tensor,
    path: str | Path,
    title: str = "",
    reference: Tensor | None = None,
    pictures: bool = False,
    names: Sequence[str] | None = None,
    at: Sequence[int] | None = None,
) -> Path:
    """Writes a PNG of the samples and returns its path.

    Args:
        samples: [B, C, *S] with 1 to 3 spatial dimensions, or [B, columns]. The picture shows at most 16 samples (all
            rows of a table) by their first channel; three channels in two dimensions are RGB [3, rows, columns] from
            the top.
        path: of the PNG.
        title: heading.
        reference: real data of the same kind, below the samples (in a scatter plot behind them) for comparison.
        names: of the samples, instead of their numbers; for images and volumes.
        at: voxel where the slices of a volume meet, instead of the middle.
        pictures: grey images are [1, rows, columns] from the top too, not slices with the first axis to the right.
    Raises:
        ValueError: for another number of dimensions.
    """
    draws: dict[int, Callable[..., None]] = {
        2: _scatter,
        3: _curves,
        4: partial(_images, names=names),
        5: partial(_volumes, names=names, at=at),
    }
    draw = _profiles if samples.ndim == 2 and samples.shape[1] > 16 else draws.get(samples.ndim)
    if draw is None:
        raise ValueError(
            f"A gallery shows [B, columns] or [B, C, *S] with 1 to 3 dimensions, got {tuple(samples.shape)}."
        )
    if pictures and samples.ndim == 4 and samples.shape[1] == 1:
        samples = samples.expand(-1, 3, -1, -1)
        reference = None if reference is None else reference.expand(-1, 3, -1, -1)
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure, _numpy(samples), None if reference is None else _numpy(reference))
    if title:
        figure.suptitle(title, fontsize=10)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return Path(path)


@dataclass(frozen=True)
class ColourMap:
    """A map [*S] over an image, with a colour map for its values from ``low`` to ``high``."""

    name: str
    values: Tensor
    low: float
    high: float
    colours: str


def save_findings(
    image: Tensor, marked: Tensor, maps: Sequence[ColourMap], path: str | Path, title: str, at: Sequence[int]
) -> Path:
    """Writes a PNG of an image with the outline of a mask, beside maps; returns its path.

    Args:
        image: [C, *S] in two or three spatial dimensions; the picture shows the first channel.
        marked: [*S], a mask.
        maps: each with a colour scale.
        path: of the PNG.
        title: heading.
        at: voxel where the slices of a volume meet.
    """
    places = [(plane, at[plane]) for plane in range(3)] if marked.ndim == 3 else [(None, 0)]
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_size_inches(2.6 * (1 + len(maps)), 2.2 * len(places) + 0.9)
    axes = figure.subplots(len(places), 1 + len(maps), squeeze=False)
    for row, (plane, place) in zip(axes, places, strict=True):
        _show(row[0], _slice(image[0], plane, place))
        row[0].set_ylabel("" if plane is None else _PLANES[plane], fontsize=9)
        outline = _slice(marked, plane, place)
        if outline.min() < outline.max():
            row[0].contour(outline, [0.5], colors="red", linewidths=1)
        for axis, colour_map in zip(row[1:], maps, strict=True):
            limits = {"vmin": colour_map.low, "vmax": colour_map.high, "origin": "lower", "interpolation": "nearest"}
            axis.imshow(_slice(colour_map.values, plane, place), cmap=colour_map.colours, **limits)
            axis.set(xticks=[], yticks=[])
    for column, colour_map in zip(axes.T[1:], maps, strict=True):
        column[0].set_title(colour_map.name, fontsize=9)
        figure.colorbar(column[-1].images[0], ax=list(column), location="bottom", shrink=0.9)
    axes[0, 0].set_title("image; red: marked", fontsize=9)
    figure.suptitle(title, fontsize=10)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return Path(path)


def _slice(x: Tensor, plane: int | None, place: int) -> np.ndarray:
    """A slice of a volume, or an image itself; the first axis runs to the right."""
    return (x if plane is None else x.select(plane, place)).detach().float().cpu().numpy().T


def _numpy(samples: Tensor, most: int = 16) -> np.ndarray:
    subset = samples if samples.ndim == 2 else samples[:most]
    array: np.ndarray = subset.detach().float().cpu().numpy()
    return array


def _volumes(
    figure: Figure,
    samples: np.ndarray,
    reference: np.ndarray | None,
    names: Sequence[str] | None = None,
    at: Sequence[int] | None = None,
) -> None:
    groups = [("sample", samples[:8, 0])] + ([] if reference is None else [("real", reference[:8, 0])])
    columns = max(len(volumes) for _, volumes in groups)
    figure.set_size_inches(1.3 * columns + 0.4, 1.3 * 3 * len(groups) + 0.5)
    axes = figure.subplots(3 * len(groups), columns, squeeze=False)
    for group, (name, volumes) in enumerate(groups):
        for plane, label in enumerate(_PLANES):
            for column in range(columns):
                axis = axes[3 * group + plane, column]
                if column < len(volumes):
                    volume = volumes[column]
                    place = volume.shape[plane] // 2 if at is None else at[plane]
                    _show(axis, np.take(volume, place, axis=plane).T)
                else:
                    axis.set_axis_off()
                if column == 0:
                    axis.set_ylabel(label, fontsize=7)
                if plane == 0:
                    text = f"{name} {column}" if names is None or group or column >= len(names) else names[column]
                    axis.set_title(text if column < len(volumes) else "", fontsize=7)


def _images(
    figure: Figure, samples: np.ndarray, reference: np.ndarray | None, names: Sequence[str] | None = None
) -> None:
    groups = [("sample", samples)] + ([] if reference is None else [("real", reference)])
    columns = min(8, max(len(images) for _, images in groups))
    rows = [math.ceil(len(images) / columns) for _, images in groups]
    figure.set_size_inches(1.3 * columns + 0.3, 1.3 * sum(rows) + 0.5)
    axes = figure.subplots(sum(rows), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for group, (name, images) in enumerate(groups):
        for index, image in enumerate(images):
            axis = axes[sum(rows[:group]) + index // columns, index % columns]
            axis.set_axis_on()
            if len(image) == 3:  # colours are pictures [3, rows, columns], as of slide readers
                axis.imshow(np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1), interpolation="nearest")
                axis.set_xticks([])
                axis.set_yticks([])
            else:
                _show(axis, image[0].T)
            axis.set_title(f"{name} {index}" if names is None or group else names[index], fontsize=7)


def _show(axis: object, picture: np.ndarray) -> None:
    """Draws an image with its first axis upwards (RAS: anterior or superior at the top)."""
    picture = np.clip((picture + 1) / 2, 0, 1)
    axis.imshow(picture, cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest")  # type: ignore[attr-defined]
    axis.set_xticks([])  # type: ignore[attr-defined]
    axis.set_yticks([])  # type: ignore[attr-defined]


def _profiles(figure: Figure, samples: np.ndarray, reference: np.ndarray | None) -> None:
    """Draws a heat map. The first principal axis orders the columns, so that correlated columns are neighbours."""
    groups = [("sample", samples)] + ([] if reference is None else [("real", reference)])
    centred = samples - samples.mean(0)
    order = np.argsort(np.linalg.svd(centred, full_matrices=False)[2][0])
    figure.set_size_inches(8, 0.6 + 2.2 * len(groups))
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axis, (name, rows) in zip(axes, groups, strict=True):
        picture = axis.imshow(rows[:, order], cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto", interpolation="nearest")
        axis.set_ylabel(name, fontsize=7)
        axis.tick_params(labelsize=6)
    axes[-1].set_xlabel("columns, ordered by the first component", fontsize=7)
    figure.colorbar(picture, ax=list(axes), label="standard deviations").ax.tick_params(labelsize=6)


def _curves(figure: Figure, samples: np.ndarray, reference: np.ndarray | None) -> None:
    groups = [("sample", samples)] + ([] if reference is None else [("real", reference)])
    rows = max(len(curves) for _, curves in groups)
    figure.set_size_inches(5 * len(groups), 0.7 * rows + 0.6)
    axes = figure.subplots(rows, len(groups), squeeze=False, sharex=True, sharey=True)
    for column, (name, curves) in enumerate(groups):
        axes[0, column].set_title(name, fontsize=8)
        for row, curve in enumerate(curves):
            axes[row, column].plot(curve[0], linewidth=0.8)
            axes[row, column].tick_params(labelsize=6)


def _scatter(figure: Figure, samples: np.ndarray, reference: np.ndarray | None) -> None:
    figure.set_size_inches(5, 5)
    axis = figure.subplots()
    second = 1 if samples.shape[1] > 1 else 0
    if reference is not None:
        axis.scatter(reference[:, 0], reference[:, second], s=3, alpha=0.4, label="real", color="0.6")
    axis.scatter(samples[:, 0], samples[:, second], s=3, alpha=0.6, label="sample", color="tab:blue")
    axis.set_aspect("equal")
    axis.set_xlabel("column 0")
    axis.set_ylabel(f"column {second}")
    axis.legend(fontsize=8)
