"""The panel on a model card: a small table and a picture for ``bundles/*/docs/README.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.errors import DataError
from monai_diffscore.metrics import FLOOR, Row
from monai_diffscore.report.charts import draw_intervals
from monai_diffscore.report.images import ImageReport, headline, nearest_control
from monai_diffscore.report.profiles import ProfileReport, profile_card

BEGIN, END = "<!-- quality panel: written by python -m monai_diffscore report -->", "<!-- end of the quality panel -->"


def card_text(report: ImageReport, picture: str = "panel.png") -> str:
    """The panel in Markdown: the compared data, a table, a picture, the warnings."""
    lines = [
        headline(report),
        "",
        *(f"- {name}: {fact}" for name, fact in report.material.facts.items()),
        "",
        "| metric | model | real against real | model is | blurred | noisy | copied |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report.rows:
        model, floor = row.sets["model"], row.sets[FLOOR]
        verdict = f"as far off as {nearest_control(row)}" if row.beyond_floor("model") else "as real data"
        controls = " | ".join(f"{row.sets[name].value:.3g}" for name in ("blurred", "noisy", "copied"))
        lines.append(
            f"| {row.metric.title} ({row.metric.unit}) | {model.value:.3g} [{model.low:.3g}, {model.high:.3g}] "
            f"| {floor.value:.3g} [{floor.low:.3g}, {floor.high:.3g}] | {verdict} | {controls} |"
        )
    lines += [
        "",
        f"N = {report.count} images in each set; brackets hold 95 % of the draws. The page of "
        "`python -m monai_diffscore report` says what each metric is blind to.",
        *(f"\n> {warning}" for warning in report.material.warnings),
        "",
        f"![Each metric of the model, of real data and of spoilt real data]({picture})",
    ]
    return "\n".join(lines)


def write_card(report: ImageReport | ProfileReport, folder: str | Path) -> list[Path]:
    """Writes ``panel.png`` into the docs folder of a bundle, and the panel into its README.md.

    It replaces an earlier panel between two comment lines, or becomes a section at the end.

    Raises:
        DataError: if the folder has no README.md, or only one of the two lines.
    """
    readme, picture = Path(folder) / "README.md", Path(folder) / "panel.png"
    if not readme.is_file():
        raise DataError(readme, expected="a model card", got="no such file", remedy="Name the docs folder of a bundle.")
    text = readme.read_text()
    if (BEGIN in text) != (END in text):
        raise DataError(readme, expected=f"both '{BEGIN}' and '{END}', or neither", got="one", remedy="Add the other.")
    body = card_text(report) if isinstance(report, ImageReport) else profile_card(report, picture.name)
    panel = f"{BEGIN}\n{body}\n{END}"
    if BEGIN in text:
        text = text[: text.index(BEGIN)] + panel + text[text.index(END) + len(END) :]
    else:
        text = text.rstrip("\n") + f"\n\n## Quality panel\n\n{panel}\n"
    _draw(report.rows, picture)
    with whole_file(readme) as file:
        file.write(text.encode())
    return [readme, picture]


def _draw(rows: Sequence[Row], path: Path) -> None:
    drawing = Figure(figsize=(9.6, 2.5 * -(-len(rows) // 3)), layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(-(-len(rows) // 3), 3, squeeze=False)
    for axis in axes.flat[len(rows) :]:
        axis.set_axis_off()
    for axis, row in zip(axes.flat, rows, strict=False):
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        draw_intervals(axis, row)
        axis.set_title(row.metric.title, fontsize=9, loc="left")
    with whole_file(path) as file:
        drawing.savefig(file, format="png", dpi=110)
