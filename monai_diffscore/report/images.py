"""The report of generated images: the panel of ``monai_diffscore.metrics`` on a page, beside the pictures."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave
from mlflow.tracking import MlflowClient
from torch import Tensor

import monai_diffscore
from monai_diffscore.atomic_files import whole_file
from monai_diffscore.gallery import save_gallery
from monai_diffscore.metrics import (
    FLOOR,
    MemorisationRatio,
    Neighbours,
    Row,
    assess,
    blurred,
    image_panel_metrics,
    noisy,
    radial_power,
    ring_frequencies,
    suspected_copies,
)
from monai_diffscore.report import charts, page
from monai_diffscore.report.page import COLOURS, Cell, Section
from monai_diffscore.report.runs import RunRecord
from monai_diffscore.report.sources import Material

_ORDER = ("copied", "collapsed", "blurred", "noisy", "shifted", "shuffled")
_PLANES = ("normal to axis 0", "normal to axis 1", "normal to axis 2")


@dataclass(frozen=True)
class ImageReport:
    """The rows of the panel, the nearest training windows and their data."""

    title: str
    material: Material
    rows: list[Row]
    neighbours: Neighbours | None = None
    unseen: Neighbours | None = None
    copies: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Images in each set."""
        return self.rows[0].sets["model"].count

    def record(self) -> dict[str, Any]:
        """For JSON: every number on the page."""
        distances = None if self.neighbours is None else (self.neighbours.distance * self.material.scale).tolist()
        return {
            "title": self.title,
            "package_version": monai_diffscore.__version__,
            "compared": self.material.facts,
            "images_in_each_set": self.count,
            "unit": self.material.unit,
            "warnings": self.material.warnings,
            "metrics": {row.metric.name: row.record() for row in self.rows},
            "nearest_training_distance": distances,
            "suspected_copies": list(self.copies),
        }


def report_images(
    title: str, material: Material, draws: int = 200, seed: int = 0, progress: Callable[[str], None] | None = None
) -> ImageReport:
    """Computes the panel of the material.

    Args:
        title: title of the page.
        material: from :func:`~monai_diffscore.report.sources.gather`.
        draws, seed: see :func:`~monai_diffscore.metrics.assess`.
        progress: called with the name of each metric.
    """
    # in three dimensions an exact search of all offsets takes 8 times as long, with the same result
    coarse = 2 if material.samples.ndim == 5 and min(material.samples.shape[2:]) >= 16 else 1
    metrics = image_panel_metrics(
        material.scale,
        material.unit,
        material.training,
        material.mirrored,
        coarse,
        signals=material.samples.ndim == 3,
        labelled=material.labels is not None,
    )
    rows = assess(metrics, material.samples, material.real, material.copied, draws, seed, progress, material.labels)
    search = metrics[-1]
    if not isinstance(search, MemorisationRatio):
        return ImageReport(title, material, rows)
    count = len(material.samples)
    ours, unseen = search.neighbours(material.samples), search.neighbours(material.real[:count])
    suspects = suspected_copies(material.samples, ours.distance, material.real[:count], unseen.distance)
    return ImageReport(title, material, rows, ours, unseen, tuple(suspects.nonzero().flatten().tolist()))


def write_report(report: ImageReport, folder: str | Path) -> list[Path]:
    """Writes report.html, report.json and gallery.png into a folder; returns their paths."""
    folder = Path(folder)
    files = [folder / "report.html", folder / "report.json", folder / "gallery.png"]
    save_gallery(report.material.samples, files[2], report.title, report.material.real)
    for file, text in ((files[0], page.render(image_page(report))), (files[1], _json(report.record()))):
        with whole_file(file) as target:
            target.write(text.encode())
    return files


def image_metrics(report: ImageReport) -> dict[str, float]:
    """The metrics of the model by name, for the record of the run."""
    values = {row.metric.name: row.sets["model"].value for row in report.rows}
    if report.neighbours is not None:
        values["suspected_copies"] = float(len(report.copies))
    return values


def log_report(metrics: Mapping[str, float], files: Sequence[Path], run: RunRecord) -> None:
    """Stores the files with the MLflow run of the training, and the values as its metrics ``report_<metric>``."""
    client = MlflowClient(run.uri)
    for file in files:
        client.log_artifact(run.run_id, str(file), "report")
    for name, value in metrics.items():
        client.log_metric(run.run_id, f"report_{name}", value)


def image_page(report: ImageReport) -> page.Page:
    """The page: verdict, pictures, each metric, spectra and histograms, nearest neighbours, method."""
    material = report.material
    sections = [_verdict(report), _pictures(material), _metrics(report), _curves(material)]
    if report.neighbours is not None:
        sections.append(_neighbours(report))
    sections.append(_method(report))
    missing = (
        []
        if report.neighbours is not None
        else [
            "Without training data nothing is said about memorisation: a model that copies its training set looks "
            "perfect here. Give the training data with --train."
        ]
    )
    return page.Page(
        kind="Quality panel of generated images",
        title=report.title,
        lead=headline(report),
        facts=material.facts,
        sections=sections,
        warnings=[*missing, *material.warnings],
        footer=f"monai_diffscore {monai_diffscore.__version__}. Research use; says nothing of diagnostic quality. "
        "All numbers: report.json beside this file.",
    )


def headline(report: ImageReport) -> str:
    """The result in two sentences."""
    beyond = [row.metric.title.lower() for row in report.rows if row.beyond_floor("model")]
    total = len(report.rows)
    if beyond:
        verb = "tells" if len(beyond) == 1 else "tell"
        text = f"{len(beyond)} of {total} metrics {verb} the model's images from real ones: {', '.join(beyond)}."
    else:
        text = f"None of {total} metrics tells the model's {report.count} images from real ones."
    if report.neighbours is not None:
        number, total = len(report.copies), len(report.material.samples)
        who = {0: f"None of the {total} samples is a", 1: f"One of the {total} samples is a"}.get(
            number, f"{number} of the {total} samples are each a"
        )
        text += f" {who} suspected copy of the training data searched."
    return text


def nearest_control(row: Row) -> str:
    """The control whose metric is nearest to the model's on a logarithmic scale."""
    ours = row.sets["model"].value

    def apart(name: str) -> float:
        return abs(math.log((row.sets[name].value + 1e-9) / (ours + 1e-9)))

    return min((name for name in row.sets if name not in ("model", FLOOR)), key=apart)


def _verdict(report: ImageReport) -> Section:
    controls = sorted((name for name in report.rows[0].sets if name not in ("model", FLOOR)), key=_ORDER.index)
    rows = []
    for row in report.rows:
        beyond = row.beyond_floor("model")
        verdict = f"as far off as {nearest_control(row)}" if beyond else "as real data"
        cells = [
            Cell(row.metric.title, f"{row.metric.unit}, {_best(row)}"),
            Cell(_number(row.sets["model"].value), verdict, f"model {'bad' if beyond else 'good'}"),
            Cell(_number(row.sets[FLOOR].value), _interval(row, FLOOR), "floor"),
        ]
        for name in controls:
            caught = row.beyond_floor(name)
            tip, seen = _interval(row, name), "seen" if caught else "blind"
            cells.append(Cell(_number(row.sets[name].value), seen, "caught" if caught else "missed", tip))
        rows.append(cells)
    body = page.table(["Metric", "Model", "Real", *controls], rows) + page.legend(
        {
            "model, inside the interval of real data": COLOURS["good"],
            "model, outside it": COLOURS["bad"],
            "real against real: the floor": "#dfe7ee",
            "control that this metric sees": "#f0dfc2",
            "control that it is blind to": "#ffffff;border:1px solid #c9d1d9",
        }
    )
    return Section(
        "Verdict",
        body,
        f"Each metric of {report.count} images of the model, beside that of {report.count} real images against "
        f"{report.count} others and that of spoilt real images. Brackets hold 95 % of the draws. If a metric is "
        "blind to a control, its value says nothing about that failure in the model.",
    )


def _pictures(material: Material) -> Section:
    ours, theirs = _montage(material.samples[:12]), _montage(material.real[:12])
    kind = "Three planes through the middle of each" if material.samples.ndim == 5 else "As they are"
    body = page.picture(ours, "generated images", f"Generated, the first {min(12, len(material.samples))}.", 1060)
    body += "<br>" + page.picture(theirs, "real images", "Real, not in the training data, drawn at random.", 1060)
    scale = f"{material.low:g} to {material.high:g} {material.unit}"
    return Section("The images", body, f"{kind}, in one grey scale, {scale}.")


def _metrics(report: ImageReport) -> Section:
    parts = [
        (row.metric.title, charts.interval_chart(row), [("Sees:", row.metric.sees), ("Blind to:", row.metric.blind_to)])
        for row in report.rows
    ]
    return Section(
        "Metric by metric",
        page.multiples(parts),
        "Dot: the metric. Line: its 95 % interval. Grey band: real data among themselves, where a perfect model lies.",
    )


def _curves(material: Material) -> Section:
    spatial = tuple(material.samples.shape[2:])
    sets = {"real": material.real, "blurred": blurred(material.real), "noisy": noisy(material.real)}
    sets["model"] = material.samples
    planes = _PLANES if len(spatial) == 3 else ("",)
    spectra = {name: radial_power(images) for name, images in sets.items()}
    values = {
        name: (material.low + (images.flatten().numpy() + 1) * material.scale)
        for name, images in (("real", material.real), ("model", material.samples))
    }
    body = page.chart(
        charts.spectrum_chart(ring_frequencies(spatial), spectra, planes),
        "Band: the middle half of the real images; lines: means. On the right, a model whose line is below the real "
        "one lacks fine detail; a model whose line is above it adds noise.",
    )
    body += "<br>" + page.chart(
        charts.histogram_chart(values, material.unit), "Filled: real. The vertical axis is logarithmic."
    )
    return Section("Spectra and intensities", body)


def _neighbours(report: ImageReport) -> Section:
    assert report.neighbours is not None
    assert report.unseen is not None
    material, ours, unseen = report.material, report.neighbours, report.unseen
    relative = ours.distance / material.samples.flatten(1).std(1).clamp(min=0.02)
    order = relative.argsort().tolist()
    indices = [*report.copies, *(index for index in order if index not in report.copies)][:6]
    theirs = (unseen.distance / material.real[: len(unseen.distance)].flatten(1).std(1).clamp(min=0.02)).argsort()[:2]
    ours_png = _pairs(material.samples[indices], ours.windows[indices])
    theirs_png = _pairs(material.real[theirs], unseen.windows[theirs])
    distances = ", ".join(f"{float(ours.distance[i]) * material.scale:.3g}" for i in indices)
    real_distances = ", ".join(f"{float(unseen.distance[i]) * material.scale:.3g}" for i in theirs)
    verdict = (
        f"{len(report.copies)} suspected: nearer to the training data than half the distance of any unseen real image."
        if report.copies
        else "None is nearer to the training data than half the distance of the nearest unseen real image."
    )
    body = page.picture(
        ours_png,
        "samples and their nearest training windows",
        "Columns in threes: sample, nearest training window, difference (grey is none). Root mean square: "
        f"{distances} {material.unit}.",
        1060,
    )
    body += "<br>" + page.picture(
        theirs_png,
        "unseen real images and their nearest training windows",
        f"The same for the two nearest unseen real images: {real_distances} {material.unit}.",
        360,
    )
    return Section("Nearest training data", body, verdict + " The samples most like their nearest window come first.")


def _method(report: ImageReport) -> Section:
    material = report.material
    copies = "training images, copied" if material.training else "copies of the real images compared with"
    text = (
        f"Every set has {report.count} images, because the distance of two finite sets depends on their size. The real "
        "column is the median over random splits of the real images into halves. A perfect model scores inside its "
        "interval in 95 % of cases: of 20 metrics, one is outside by chance. The other intervals are a bootstrap over "
        "images, centred on the estimate. The controls are real images after a change: Gaussian blur of one voxel; "
        f"noise of 5 % of the range; a shift of 2.5 % of the range ({0.05 * material.scale:.3g} {material.unit}); "
        f"voxels in random order; four images repeated; {copies}."
    )
    return Section("How to read it", "", text)


def _best(row: Row) -> str:
    if row.metric.two_sided:
        return "as real is best"
    return "more is better" if row.metric.higher_is_better else "0 is best"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _interval(row: Row, name: str) -> str:
    return f"[{_number(row.sets[name].low)}, {_number(row.sets[name].high)}]"


def _panes(image: Tensor) -> list[np.ndarray]:
    """Pictures [rows, columns, 3] of one image [C, *S] in 0 to 1: three planes of a volume, else itself."""
    array = np.clip((image.float().numpy() + 1) / 2, 0, 1)
    if array.ndim == 4:
        planes = [np.take(array[0], array.shape[1 + axis] // 2, axis=axis).T[::-1] for axis in range(3)]
    elif array.ndim == 3:
        planes = [array.transpose(2, 1, 0)[::-1] if len(array) == 3 else array[0].T[::-1]]
    else:  # a signal as a strip
        planes = [np.repeat(array[0][None], 8, axis=0)]
    return [plane if plane.ndim == 3 else np.repeat(plane[..., None], 3, axis=2) for plane in planes]


def _column(image: Tensor) -> np.ndarray:
    panes = _panes(image)
    width = max(pane.shape[1] for pane in panes)
    padded = [np.pad(p, ((0, 2), (0, width - p.shape[1]), (0, 0)), constant_values=1.0) for p in panes]
    return np.concatenate(padded)


def _montage(images: Tensor) -> bytes:
    return _png([_column(image) for image in images], columns=12 if images.ndim == 5 else 6)


def _pairs(images: Tensor, windows: Tensor) -> bytes:
    columns = []
    for image, window in zip(images, windows, strict=True):
        difference = (image - window) / 2  # grey is no difference
        space = ((0, 0), (0, 6), (0, 0))
        columns += [_column(image), _column(window), np.pad(_column(difference), space, constant_values=1.0)]
    return _png(columns, columns=18 if images.ndim == 5 else 9)


def _png(parts: list[np.ndarray], columns: int) -> bytes:
    """Parts side by side on white, enlarged by a whole number so that voxels stay squares."""
    rows = []
    for start in range(0, len(parts), columns):
        line = [np.pad(part, ((0, 3), (0, 2), (0, 0)), constant_values=1.0) for part in parts[start : start + columns]]
        rows.append(np.concatenate(line, axis=1))
    width = max(row.shape[1] for row in rows)
    picture = np.concatenate(
        [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=1.0) for row in rows]
    )
    enlarge = max(1, min(3, 1100 // width))
    picture = picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    file = io.BytesIO()
    imsave(file, picture, format="png")
    return file.getvalue()


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=4) + "\n"
