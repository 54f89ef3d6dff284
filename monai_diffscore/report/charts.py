"""Charts of a report as SVG, in the colours of the page.

Real data are grey, the model blue, controls ochre, in every chart; a shaded band is real data against real data.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from monai_diffscore.metrics import FLOOR, Row
from monai_diffscore.report.page import COLOURS

#: style of all charts
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8793a0",
    "axes.labelcolor": "#38434f",
    "xtick.color": "#38434f",
    "ytick.color": "#38434f",
    "svg.fonttype": "none",  # letters stay letters: small, selectable, in the font of the page
}
_DASHES = {"blurred": (4, 2), "noisy": (1, 1.5), "copied": (6, 2, 1, 2)}


def interval_chart(row: Row) -> str:
    """One line for each set: estimate and interval, with the band of the floor behind."""
    names = list(row.sets)
    with rc_context(STYLE):
        drawing = Figure(figsize=(3.7, 0.24 * len(names) + 0.55), layout="constrained")
        draw_intervals(drawing.subplots(), row)
        return to_svg(drawing, f"{row.metric.title}: " + ", ".join(f"{n} {row.sets[n].value:.3g}" for n in names))


def draw_intervals(axis: Axes, row: Row) -> None:
    """Draws :func:`interval_chart` on an axis."""
    names = list(row.sets)
    floor = row.sets[FLOOR]
    axis.axvspan(floor.low, floor.high, color="#dfe7ee", linewidth=0)
    for place, name in enumerate(names):
        estimate = row.sets[name]
        colour = COLOURS.get(name, COLOURS["control"])
        height = len(names) - place
        axis.plot([estimate.low, estimate.high], [height] * 2, color=colour, linewidth=2.2, solid_capstyle="round")
        axis.plot(estimate.value, height, "o", color=colour, markersize=6 if name == "model" else 4.5)
    axis.set_yticks(range(len(names), 0, -1), names)
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == "model" else "normal")
        label.set_color(COLOURS.get(label.get_text(), "#38434f"))
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    highest = max(estimate.high for estimate in row.sets.values())
    distance = not (row.metric.two_sided or row.metric.higher_is_better) and floor.high > 0
    if distance and row.metric.from_zero and highest > 12 * floor.high:  # one far control must not flatten the rest
        axis.set_xscale("symlog", linthresh=max(floor.high, 1e-9), linscale=1)
        decade = 10 ** np.arange(np.ceil(np.log10(floor.high)), np.floor(np.log10(highest)) + 1)
        axis.set_xticks([0, *decade], ["0", *(f"{tick:g}" for tick in decade)])
        axis.minorticks_off()
    if row.metric.from_zero:
        axis.set_xlim(left=0)
    axis.set_ylim(0.4, len(names) + 0.6)
    axis.set_xlabel(row.metric.unit, fontsize=8)


def spectrum_chart(frequencies: Tensor, spectra: Mapping[str, Tensor], planes: Sequence[str]) -> str:
    """Power against spatial frequency on logarithmic axes, a panel for each plane.

    Args:
        frequencies: [rings] in cycles a voxel.
        spectra: of each set, one row an image [N, planes, rings]; "real" gets the band of its images' middle half.
        planes: names.
    """
    with rc_context(STYLE):
        drawing = Figure(figsize=(3.1 * len(planes) + 0.6, 3.1), layout="constrained")
        axes = drawing.subplots(1, len(planes), sharey=True, squeeze=False)[0]
        for plane, (axis, title) in enumerate(zip(axes, planes, strict=True)):
            for name, power in spectra.items():
                curve = power[:, plane].mean(0).clamp(min=1e-12)
                colour = COLOURS.get(name, COLOURS["control"])
                if name == "real":
                    quarter, three = (power[:, plane].quantile(q, dim=0).clamp(min=1e-12) for q in (0.25, 0.75))
                    axis.fill_between(frequencies, quarter, three, color="#dfe7ee", linewidth=0)
                line = axis.plot(
                    frequencies, curve, color=colour, linewidth=2.2 if name == "model" else 1.5, label=name
                )
                if name in _DASHES:
                    line[0].set_dashes(_DASHES[name])
            axis.set_xscale("log")
            axis.set_yscale("log")
            ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if tick >= float(frequencies[0]) * 0.9]
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
            axis.set_title(title, fontsize=9, loc="left")
            axis.set_xlabel("cycles a voxel", fontsize=8)
        axes[0].set_ylabel("power", fontsize=8)
        axes[0].legend(frameon=False, fontsize=8, loc="lower left")
        return to_svg(drawing, "Radially averaged power spectra of " + ", ".join(spectra))


def histogram_chart(values: Mapping[str, np.ndarray], unit: str) -> str:
    """Intensity histograms (a share of all voxels a bin, logarithmic) of several sets."""
    low = min(float(np.quantile(part, 0.0005)) for part in values.values())
    high = max(float(np.quantile(part, 0.9995)) for part in values.values())
    bins = np.linspace(low, high, 90)
    with rc_context(STYLE):
        drawing = Figure(figsize=(6.6, 2.7), layout="constrained")
        axis = drawing.subplots()
        for name, part in values.items():
            share = np.histogram(part, bins)[0] / part.size
            if name == "real":
                axis.stairs(share, bins, fill=True, color="#dfe7ee")
            axis.stairs(
                share,
                bins,
                color=COLOURS.get(name, COLOURS["control"]),
                linewidth=2 if name == "model" else 1.3,
                label=name,
            )
        axis.set_yscale("log")
        axis.set_xlabel(unit, fontsize=8)
        axis.set_ylabel("share of voxels", fontsize=8)
        axis.legend(frameon=False, fontsize=8)
        return to_svg(drawing, f"Intensity histograms of {', '.join(values)} in {unit}")


def distance_chart(distances: Mapping[str, np.ndarray]) -> str:
    """Histograms of the distance to the nearest training row, of "real" and "model", with the limit of a suspected
    copy: half the smallest of the real ones."""
    real = distances["real"]
    bins = np.linspace(0, float(max(np.quantile(part, 0.99) for part in distances.values())) * 1.05 + 1e-9, 60)
    with rc_context(STYLE):
        drawing = Figure(figsize=(6.6, 2.5), layout="constrained")
        axis = drawing.subplots()
        for name, part in distances.items():
            share = np.histogram(part, bins)[0] / len(part)
            if name == "real":
                axis.stairs(share, bins, fill=True, color="#dfe7ee")
            axis.stairs(share, bins, color=COLOURS[name], linewidth=2 if name == "model" else 1.3, label=name)
        axis.axvline(float(real.min()) / 2, color=COLOURS["bad"], linewidth=1.2, dashes=(4, 2))
        axis.set_xlabel("distance to the nearest training row", fontsize=8)
        axis.set_ylabel("share of rows", fontsize=8)
        axis.set_xlim(left=0)
        axis.legend(frameon=False, fontsize=8)
        return to_svg(drawing, "Distances to the nearest training row of " + ", ".join(distances))


def to_svg(drawing: Figure, description: str) -> str:
    """The drawing as an SVG element for a page, with names of its own: two in one page must not share any."""
    FigureCanvasAgg(drawing)
    file = io.StringIO()
    with rc_context({"svg.hashsalt": description}):
        drawing.savefig(file, format="svg", dpi=160, transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = f"c{zlib.crc32(description.encode())}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    label = description.replace("&", "and").replace("<", "").replace('"', "")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
