"""The report of generated profiles (cells, samples, rows of a table): privacy first, then everything else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import monai_diffscore
from monai_diffscore.atomic_files import whole_file
from monai_diffscore.metrics import (
    BASELINES,
    FLOOR,
    MODEL,
    Comparison,
    PrivacyGate,
    ProfilePanel,
    Reference,
    Row,
    assess_profiles,
)
from monai_diffscore.report import charts, page
from monai_diffscore.report.maps import overview_map, plane_map, type_maps
from monai_diffscore.report.page import COLOURS, Cell, Section
from monai_diffscore.report.profile_sources import ProfileMaterial

_PRIVACY = ("dcr_ratio", "nearest_train_share")
#: columns of the table of types
_OF_TYPES = (
    "dcr_ratio",
    "c2st_rf",
    "mmd2_x1e3",
    "rho_mean",
    "var_ratio",
    "zero_mae",
    "library_ks",
    "column_ks",
    "corr_rmse",
    "marker_slope",
    "marker_r",
)


@dataclass(frozen=True)
class ProfileReport:
    """The panel, the maps and their data."""

    title: str
    material: ProfileMaterial
    comparison: Comparison
    panel: ProfilePanel
    places: tuple[np.ndarray, np.ndarray]  # of real and synthetic rows in the map
    map_name: str

    @property
    def rows(self) -> list[Row]:
        return self.panel.rows

    def record(self) -> dict[str, Any]:
        """For JSON: every number on the page, the privacy gate first."""
        panel = self.panel.record()
        return {
            "title": self.title,
            "privacy_gate": panel.pop("privacy_gate"),
            "package_version": monai_diffscore.__version__,
            "compared": self.material.facts,
            "warnings": self.material.warnings,
            **panel,
        }


def report_profiles(
    title: str,
    material: ProfileMaterial,
    draws: int = 200,
    floor_draws: int = 20,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> ProfileReport:
    """Computes the panel of the material and the maps."""
    reference = Reference(material.real, material.train)
    panel = assess_profiles(
        reference, material.synthetic, BASELINES, draws, floor_draws, seed, material.table, progress
    )
    comparison = Comparison(reference, material.synthetic)
    if progress is not None:
        progress("maps")
    points = np.concatenate([comparison.real_points, comparison.synthetic_points])
    places, name = plane_map(points, seed)
    count = len(material.real)
    return ProfileReport(title, material, comparison, panel, (places[:count], places[count:]), name)


def write_profile_report(report: ProfileReport, folder: str | Path) -> list[Path]:
    """Writes report.html and report.json into a folder; returns their paths."""
    files = [Path(folder) / "report.html", Path(folder) / "report.json"]
    texts = page.render(profile_page(report)), json.dumps(report.record(), indent=4, default=float) + "\n"
    for file, text in zip(files, texts, strict=True):
        with whole_file(file) as target:
            target.write(text.encode())
    return files


def profile_metrics(report: ProfileReport) -> dict[str, float]:
    """The metrics of the model by name, for the record of the run; ``privacy_gate`` is 1 if it passed."""
    metrics = {row.metric.name: row.sets[MODEL].value for row in report.rows}
    return {"privacy_gate": float(report.panel.gate.passed), **metrics}


def profile_headline(report: ProfileReport) -> str:
    """The result in two sentences, the gate first."""
    panel = report.panel
    if not panel.gate.passed:
        return f"{panel.gate.reason} The other metrics do not count: copies would score as well."
    others = [row for row in panel.rows if row.metric.name not in _PRIVACY]
    beyond = [row.metric.title for row in others if row.beyond_floor(MODEL)]
    if beyond:
        which = f": {'; '.join(beyond)}" if len(beyond) <= 6 else ""
        verb = "tells" if len(beyond) == 1 else "tell"
        text = f"{len(beyond)} of {len(others)} metrics {verb} synthetic rows from fresh real ones{which}."
    else:
        text = f"None of {len(others)} metrics tells synthetic rows from fresh real ones."
    return f"{panel.gate.reason} {text}"


def profile_card(report: ProfileReport, picture: str) -> str:
    """The panel in Markdown for a model card: the gate, a table, a picture, the warnings."""
    panel = report.panel
    names = [name for name in panel.gates if name != MODEL]
    struck = "" if panel.gate.passed else "~~"
    lines = [
        f"**{panel.gate.reason}**" + ("" if panel.gate.passed else " The other metrics do not count."),
        "",
        *(f"- {name}: {fact}" for name, fact in report.material.facts.items()),
        "",
        f"| metric | model | real against real | {' | '.join(names)} |",
        "|" + "---|" * (3 + len(names)),
    ]
    for row in panel.rows:
        mark = struck if row.metric.name not in _PRIVACY else ""
        ours = row.sets[MODEL]
        cells = [f"{row.metric.title} ({row.metric.unit})"]
        cells += [f"{mark}{ours.value:.3g} [{ours.low:.3g}, {ours.high:.3g}]{mark}"]
        cells += [f"{row.sets[FLOOR].value:.3g} [{row.sets[FLOOR].low:.3g}, {row.sets[FLOOR].high:.3g}]"]
        for name in names:
            void = row.metric.name not in _PRIVACY and not panel.gates[name].passed
            cells.append(_struck(row, name, "~~" if void else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            "Brackets hold 95 % of the draws. Numbers of a set that failed the privacy gate are struck through. "
            "The page of `python -m monai_diffscore report` says what each metric is blind to.",
            *(f"\n> {warning}" for warning in report.material.warnings),
            "",
            f"![Each metric of the model, of real data and of the baselines]({picture})",
        ]
    )


def profile_page(report: ProfileReport) -> page.Page:
    """The page: gate, verdict, maps, each metric, type by type, omissions, method."""
    panel = report.panel
    sections = [_privacy(report), _verdict(report), _maps(report), _metrics(report)]
    if panel.by_type:
        sections.append(_types(report))
    sections.append(_method(report))
    failed = [] if panel.gate.passed else [f"{panel.gate.reason} The metrics below do not count: they are struck out."]
    return page.Page(
        kind="Quality panel of generated " + ("rows of a table" if report.material.table else "expression profiles"),
        title=report.title,
        lead=profile_headline(report),
        facts=report.material.facts,
        sections=sections,
        warnings=[*failed, *report.material.warnings],
        footer=f"monai_diffscore {monai_diffscore.__version__}. Research use; no privacy guarantee follows from the "
        "gate. All numbers: report.json beside this file.",
    )


def _privacy(report: ProfileReport) -> Section:
    panel = report.panel
    rows = [row for row in panel.rows if row.metric.name in _PRIVACY]
    head = ["Set", "Gate", *(row.metric.title for row in rows), "Suspected copies"]
    lines = []
    for name, gate in panel.gates.items():
        style = f"model {'good' if gate.passed else 'bad'}" if name == MODEL else "caught" if not gate.passed else ""
        cells = [Cell(name), Cell("passed" if gate.passed else "FAILED", "", style)]
        cells += [Cell(_number(row.sets[name].value), _interval(row, name)) for row in rows]
        lines.append([*cells, Cell(f"{len(gate.copies)}", f"of {gate.rows}")])
    floor = [Cell(_number(row.sets[FLOOR].value), _interval(row, FLOOR), "floor") for row in rows]
    lines.insert(1, [Cell("real", "fresh rows"), Cell("", "", "floor"), *floor, Cell("", "", "floor")])
    distances = {
        "real": report.comparison.reference.real_distance,
        "model": report.comparison.synthetic_distance,
    }
    body = (
        page.table(head, lines)
        + "<br>"
        + page.chart(
            charts.distance_chart(distances),
            "Distance of each row to the nearest training row, in the embedding. Grey: held-out real rows; fresh "
            "synthetic rows (blue) belong in the same place. Rows to the left of the line are suspected copies.",
        )
    )
    lead = (
        "A set passes if the median distance of its rows to their nearest training row is at least 0.85 of that of "
        "held-out rows, and at most 1 % of them are nearer than half the distance of any held-out row. Copies of the "
        "training data win most other metrics, so the other metrics count only if the set passes."
    )
    return Section("Privacy gate", body, lead)


def _verdict(report: ProfileReport) -> Section:
    panel = report.panel
    names = [name for name in panel.gates if name != MODEL]
    rows = []
    for row in panel.rows:
        if row.metric.name in _PRIVACY:
            continue
        beyond = row.beyond_floor(MODEL)
        style = "void" if not panel.gate.passed else f"model {'bad' if beyond else 'good'}"
        cells = [
            Cell(row.metric.title, row.metric.unit),
            Cell(_number(row.sets[MODEL].value), _place(row, panel.gates), style, _interval(row, MODEL)),
            Cell(_number(row.sets[FLOOR].value), _interval(row, FLOOR), "floor"),
        ]
        for name in names:
            if name not in row.sets:
                cells.append(Cell("-", "no counts"))
                continue
            caught, valid = row.beyond_floor(name), panel.gates[name].passed
            style = ("caught" if caught else "") + ("" if valid else " void")
            cells.append(
                Cell(_number(row.sets[name].value), "" if valid else "gate failed", style, _interval(row, name))
            )
        rows.append(cells)
    body = page.table(["Metric", "Model", "Real", *names], rows) + page.legend(
        {
            "model, inside the interval of fresh real rows": COLOURS["good"],
            "model, outside it": COLOURS["bad"],
            "fresh real rows: the floor": "#dfe7ee",
            "baseline outside the floor": "#f0dfc2",
            "struck through: the set failed the privacy gate": "#ffffff;border:1px solid #c9d1d9",
        }
    )
    lead = (
        "Each metric of the model, beside that of fresh real rows against held-out ones (brackets: 95 % of the draws) "
        "and that of generators without a network, fitted to the same training rows."
    )
    if not panel.gate.passed:
        lead = "THE PRIVACY GATE FAILED: these metrics do not count. " + lead
    left_out = "; ".join(f"{title}: {why}" for title, why in panel.left_out.items())
    return Section("Verdict", body + page.paragraph(f"Left out: {left_out}." if left_out else ""), lead)


def _maps(report: ProfileReport) -> Section:
    material = report.material
    real, synthetic = material.real.labels, material.synthetic.labels
    body = page.chart(overview_map(*report.places, (real, synthetic)))
    if real is not None and synthetic is not None:
        body += page.chart(
            type_maps(*report.places, (real, synthetic)),
            "One type each, the largest first: real rows grey, synthetic blue, all others pale. The map of all hides "
            "a type that is drawn in the place of another.",
        )
    lead = (
        f"{report.map_name}, of the principal components of real and synthetic rows together. It is no measurement: "
        "distances between groups in it mean nothing."
    )
    return Section("Maps", body, lead)


def _metrics(report: ProfileReport) -> Section:
    parts = [
        (row.metric.title, charts.interval_chart(row), [("Sees:", row.metric.sees), ("Blind to:", row.metric.blind_to)])
        for row in report.panel.rows
    ]
    return Section(
        "Metric by metric",
        page.multiples(parts),
        "Dot: the metric. Line: its 95 % interval. Grey band: fresh real rows, where a perfect model lies.",
    )


def _types(report: ProfileReport) -> Section:
    panel, void = report.panel, not report.panel.gate.passed
    titles = {row.metric.name: row.metric.title for row in panel.rows}
    measured = {name for values in panel.by_type.values() for name in values}
    metrics = [name for name in _OF_TYPES if name in measured]
    real, synthetic = (
        np.asarray(part.labels).astype(str) for part in (report.material.real, report.material.synthetic)
    )
    order = sorted(panel.by_type, key=lambda label: -int((real == str(label)).sum()))
    rows = []
    for label in order:
        count = f"{(real == str(label)).sum()} real, {(synthetic == str(label)).sum()} synthetic"
        cells = [Cell(str(label), count)]
        for name in metrics:
            ours = panel.by_type[label].get(name)
            style = "void" if void and name not in _PRIVACY else ""
            cells.append(
                Cell("-", "too few") if ours is None else Cell(_number(ours[0]), f"real {_number(ours[1])}", style)
            )
        rows.append(cells)
    small_types = sorted(set(real) - {str(label) for label in panel.by_type})
    lead = (
        "A metric of all rows hides a wrong type among the others. The number below each is that of fresh real rows of "
        "the type, the mean of a few splits. Both are noisy for small types."
    )
    lead += f" Types with too few rows: {', '.join(small_types)}." if small_types else ""
    return Section("Type by type", page.table(["Type", *(titles[name] for name in metrics)], rows), lead)


def _method(report: ProfileReport) -> Section:
    space = (
        "Numbers of the table are centred and divided by the standard deviation of the training rows, categories are "
        "columns of 0 and 1."
        if report.material.table
        else "Values are log(1 + 10^4 x / l), l the total of the whole cell."
        if report.material.real.library is not None
        else "Values are those of the file, in log units."
    )
    text = (
        f"{space} Neighbours, kernels and distances use at most 30 principal components of all real rows. The "
        "floor pools the real rows and splits them anew, type by type, into rows in the place of the held-out, the "
        "synthetic and the training rows. Its interval is 1.96 standard deviations of the draws: of 20 metrics of a "
        "perfect model, one is outside by chance. The other intervals are a bootstrap over held-out and synthetic "
        "rows, centred on the estimate, with fitted models held fixed. They leave out the "
        "variation between trainings. PCA + GMM does not know the types, so it fails the metrics that need them."
    )
    return Section("How to read it", "", text)


def _place(row: Row, gates: Mapping[str, PrivacyGate]) -> str:
    """The place of the model among the baselines that pass the gate."""
    if not gates[MODEL].passed:
        return "does not count"
    rivals = [name for name in row.sets if name not in (MODEL, FLOOR) and gates[name].passed]
    better = sum(_shortfall(row, MODEL) < _shortfall(row, name) for name in rivals)
    verdict = "" if row.beyond_floor(MODEL) else "as fresh real rows; "
    return f"{verdict}better than {better} of {len(rivals)}" if rivals else verdict.rstrip("; ")


def _shortfall(row: Row, name: str) -> float:
    """The distance of a set from the floor, on the worse side."""
    difference = row.sets[name].value - row.sets[FLOOR].value
    if row.metric.two_sided:
        return abs(difference)
    return -difference if row.metric.higher_is_better else difference


def _struck(row: Row, name: str, mark: str) -> str:
    return f"{mark}{_number(row.sets[name].value)}{mark}" if name in row.sets else "-"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _interval(row: Row, name: str) -> str:
    return f"[{_number(row.sets[name].low)}, {_number(row.sets[name].high)}]"
