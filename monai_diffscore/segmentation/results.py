"""The results of a study: tables as Markdown and JSON, and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_diffscore.atomic_files import whole_file, write_json
from monai_diffscore.report.charts import STYLE
from monai_diffscore.report.page import COLOURS
from monai_diffscore.segmentation.study import REFERENCE, Estimate, Study

#: least share of the Dice on real images that images which obey their labels reach
OBEDIENT = 0.9


def describe_study(study: Study) -> str:
    """The two tables in Markdown, with the compared data and the warnings."""
    facts, segmenter = study.facts, study.facts["segmenter"]
    classes = study.class_titles
    lines = [
        f"Dice of {facts['held_out_cases']} held-out cases of {facts['subjects_held_out']} real subjects. Trained on "
        f"{facts['subjects_trained_on']} real subjects and {facts['synthetic_cases']} synthetic cases, "
        f"{segmenter['iterations']} steps of {segmenter['batch_size']} patches, {len(study.seeds)} seeds. Brackets "
        "hold 95 % of the draws of seeds and subjects.",
        "",
        f"| trained on | Dice | minus '{REFERENCE}' | {' | '.join(classes)} |",
        "|---" * (3 + len(classes)) + "|",
    ]
    for arm in study.held_out:
        gain = "" if arm == REFERENCE else _text(study.gain(arm), "+.3f")
        numbers = " | ".join(f"{dice:.3f}" for dice in study.class_dice(arm))
        lines.append(f"| {arm} | {_text(study.dice(arm), '.3f')} | {gain} | {numbers} |")
    lines += [
        "",
        f"The networks of '{REFERENCE}' on synthetic images, against the labels that the images were asked for. Images "
        f"obey their labels if the ratio is at least {OBEDIENT:g} for every class.",
        "",
        "| class | held-out real | synthetic | ratio |",
        "|---|---|---|---|",
    ]
    columns = (study.class_dice(REFERENCE), np.nanmean(study.synthetic, axis=(0, 1)), study.obedience())
    for title, real, synthetic, ratio in zip(classes, *columns, strict=True):
        lines.append(f"| {title} | {real:.3f} | {synthetic:.3f} | {ratio:.2f} |")
    return "\n".join([*lines, *(f"\n> {warning}" for warning in study.warnings)])


def write_study(study: Study, folder: str | Path) -> list[Path]:
    """Writes ``segmentation.md``, ``segmentation.json`` and ``segmentation.png`` into a folder; returns their paths."""
    files = [Path(folder) / f"segmentation.{ending}" for ending in ("md", "json", "png")]
    with whole_file(files[0]) as file:
        file.write((describe_study(study) + "\n\n![Dice of each arm](segmentation.png)\n").encode())
    write_json(files[1], _record(study))
    with rc_context(STYLE):
        drawing = Figure(figsize=(9.6, 0.4 * len(study.held_out) + 1.4), layout="constrained")
        FigureCanvasAgg(drawing)
        left, right = drawing.subplots(1, 2, width_ratios=(3, 2))
        _draw_arms(left, study)
        _draw_classes(right, study)
        with whole_file(files[2]) as file:
            drawing.savefig(file, format="png", dpi=110)
    return files


def _record(study: Study) -> dict[str, Any]:
    arms = {
        arm: {
            "dice": vars(study.dice(arm)),
            "gain": vars(study.gain(arm)),
            "class_dice": _numbers(study.class_dice(arm)),
            "dice_of_seeds_cases_classes": _numbers(values),
        }
        for arm, values in study.held_out.items()
    }
    asked = {"ratio": _numbers(study.obedience()), "dice_of_seeds_cases_classes": _numbers(study.synthetic)}
    return {
        **study.facts, "class_names": study.class_titles, "seeds": list(study.seeds),
        "held_out_subjects": list(study.subjects),
        "warnings": list(study.warnings), "reference": REFERENCE, "arms": arms, "asked_labels": asked,
    }  # fmt: skip


def _numbers(values: np.ndarray) -> Any:
    """Nested lists, with None for NaN, which JSON lacks."""
    rounded = values.round(5).astype(object)
    rounded[np.isnan(values)] = None
    return rounded.tolist()


def _text(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _draw_arms(axis: Axes, study: Study) -> None:
    """A dot and its interval for each arm, and a small dot for each seed."""
    for place, arm in enumerate(study.held_out):
        estimate, height = study.dice(arm), len(study.held_out) - place
        colour = COLOURS["model" if "synthetic" in arm else "real"]
        axis.plot([estimate.low, estimate.high], [height] * 2, color=colour, linewidth=2.2, solid_capstyle="round")
        axis.plot(estimate.value, height, "o", color=colour, markersize=6)
        of_seeds = np.nanmean(study.held_out[arm], axis=(1, 2))
        axis.plot(of_seeds, np.full(len(of_seeds), height - 0.25), "|", color=colour, markersize=5)
    axis.set_yticks(range(len(study.held_out), 0, -1), list(study.held_out))
    axis.set_xlabel("Dice of held-out real subjects (interval; strokes: seeds)", fontsize=8)


def _draw_classes(axis: Axes, study: Study) -> None:
    """Dice of each class on real and on synthetic images."""
    places = np.arange(len(study.classes))
    sets = {"real": study.class_dice(REFERENCE), "model": np.nanmean(study.synthetic, axis=(0, 1))}
    for shift, (name, values) in zip((-0.2, 0.2), sets.items(), strict=True):
        label = "held-out real" if name == "real" else "synthetic"
        axis.bar(places + shift, values, 0.38, color=COLOURS[name], label=label)
    axis.set_xticks(places, study.class_titles)
    axis.set_ylim(0, 1)
    axis.set_ylabel(f"Dice of '{REFERENCE}'", fontsize=8)
    axis.legend(frameon=False, fontsize=8)
