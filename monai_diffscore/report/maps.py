"""Maps of rows in the plane (UMAP), real and synthetic, all together and type by type."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_diffscore.report.charts import STYLE, to_svg
from monai_diffscore.report.page import COLOURS

_GROUND = "#dfe7ee"


def plane_map(points: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Places [N, 2] of points [N, d], and the name of the method: UMAP (McInnes et al., arXiv:1802.03426) with 15
    neighbours, or the first two coordinates where umap-learn is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return points[:, :2], "the first two principal components (umap-learn is not installed)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a seed limits UMAP to one thread, and it warns
        places = UMAP(n_neighbors=min(15, len(points) - 1), min_dist=0.5, random_state=seed, n_jobs=1).fit_transform(
            points
        )
    return np.asarray(places), "UMAP, 15 neighbours"


def overview_map(real: np.ndarray, synthetic: np.ndarray, labels: tuple[Any, Any]) -> str:
    """Both sets in one map, then each set coloured by type (with labels), as SVG.

    Args:
        real, synthetic: places [N, 2] and [M, 2].
        labels: labels of both sets, or (None, None).
    """
    typed = labels[0] is not None and labels[1] is not None
    with rc_context(STYLE):
        drawing = Figure(figsize=(11.2, 4.1) if typed else (6.2, 5), layout="constrained")
        axes = drawing.subplots(1, 3 if typed else 1, squeeze=False)[0]
        both, random = np.concatenate([real, synthetic]), np.random.default_rng(0)
        colours = np.repeat([COLOURS["real"], COLOURS["model"]], [len(real), len(synthetic)])
        order = random.permutation(len(both))  # neither lies on top
        _scatter(axes[0], both[order], both, color=colours[order])
        axes[0].set_title("real and synthetic", fontsize=10, loc="left")
        handles = [_marker(axes[0], name, COLOURS[key]) for name, key in (("real", "real"), ("synthetic", "model"))]
        if typed:
            kinds = sorted({str(label) for part in labels for label in part})
            palette = {kind: colormaps["tab20" if len(kinds) > 10 else "tab10"](n % 20) for n, kind in enumerate(kinds)}
            for axis, places, part, title in zip(
                axes[1:], (real, synthetic), labels, ("real, by type", "synthetic, by type"), strict=True
            ):
                _scatter(axis, places, both, color=[palette[str(label)] for label in part])
                axis.set_title(title, fontsize=10, loc="left")
            handles += [_marker(axes[2], kind, palette[kind]) for kind in kinds]
        drawing.legend(
            handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=8
        )
        return to_svg(drawing, f"Map of {len(real)} real and {len(synthetic)} synthetic rows")


def type_maps(real: np.ndarray, synthetic: np.ndarray, labels: tuple[np.ndarray, np.ndarray], most: int = 20) -> str:
    """A map for each type, the largest first: all real rows pale, those of the type grey, synthetic ones blue."""
    kinds, numbers = np.unique(labels[0].astype(str), return_counts=True)
    kinds = kinds[np.argsort(-numbers, kind="stable")][:most]
    columns = min(4, len(kinds))
    rows = -(-len(kinds) // columns)
    both = np.concatenate([real, synthetic])
    with rc_context(STYLE):
        drawing = Figure(figsize=(2.8 * columns, 2.75 * rows), layout="constrained")
        axes = list(drawing.subplots(rows, columns, squeeze=False).flat)
        for axis in axes:
            axis.set_axis_off()
        for axis, kind in zip(axes, kinds, strict=False):
            ours, theirs = synthetic[labels[1].astype(str) == kind], real[labels[0].astype(str) == kind]
            axis.set_axis_on()
            _scatter(axis, both, both, color=_GROUND)
            _scatter(axis, theirs, both, color=COLOURS["real"])
            _scatter(axis, ours, both, color=COLOURS["model"])
            axis.set_title(f"{kind}\n{len(theirs)} real, {len(ours)} synthetic", fontsize=9, loc="left")
        return to_svg(drawing, "Maps of the types " + ", ".join(kinds))


def _marker(axis: Axes, name: str, colour: Any) -> Any:
    return axis.plot([], [], "o", color=colour, markersize=5, label=name)[0]


def _scatter(axis: Axes, places: np.ndarray, limits: np.ndarray, color: Any) -> None:
    size = float(np.clip(9000 / max(1, len(limits)), 2, 16))
    # as a picture inside the SVG: thousands of circles would make the page slow
    axis.scatter(places[:, 0], places[:, 1], s=size, c=color, alpha=0.8, linewidths=0, rasterized=True)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(True)
        spine.set_color(_GROUND)
    low, high = limits.min(0), limits.max(0)
    margin = 0.04 * np.maximum(high - low, 1e-9)
    axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
