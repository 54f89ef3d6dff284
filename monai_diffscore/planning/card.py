"""The model card of a planned bundle, and the lines that a terminal shows of fingerprint and plan."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.plan import Plan


def commands(plan: Plan, bundle: str | Path) -> list[str]:
    """The next commands: train, sample, evaluate, report. They run in the folder of the bundle."""
    run = "python -m monai.bundle run"
    task = ""
    if plan.details.get("given"):
        task = "generate" if plan.details.get("joint") else "cases"
    data = " --dataset_dir FOLDER" * (task == "cases")
    files = f"['configs/inference.json','configs/{task}.json']"
    return [
        f"cd {shlex.quote(str(bundle))}",
        f"{run} training --config_file configs/train.json",
        f"{run} sampling --config_file configs/inference.json --num_samples 8",
        *([f'{run} sampling --config_file "{files}"{data}'] if task else []),
        f"{run} evaluating --config_file \"['configs/train.json','configs/evaluate.json']\"",
        "python -m monai_diffscore report output",
    ]


def describe(plan: Plan, fingerprint: Fingerprint | None = None) -> str:
    """Fingerprint and plan as a table for a terminal."""
    text = [] if fingerprint is None else [*_fingerprint_lines(fingerprint), ""]
    return "\n".join([*text, "Plan", *_columns([("template", plan.template), *_choices(plan)]), *_measured(plan)])


def _fingerprint_lines(fingerprint: Fingerprint) -> list[str]:
    text = ["Fingerprint", *_columns([("data", fingerprint.data), *_facts(fingerprint)])]
    if fingerprint.problems:
        text += ["", f"{len(fingerprint.problems)} problem(s)"]
    for problem in fingerprint.problems:
        fate = "left out: " if problem.left_out else ""
        line = f"{fate}{problem.file}: expected {problem.expected}, got {problem.got}. {problem.remedy}"
        text += textwrap.wrap(line, 112, initial_indent="  ", subsequent_indent="      ")
    return text


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, value in rows:
        wrapped = textwrap.wrap(value, 112 - width) or [""]
        lines.append(f"  {name:{width}}  {wrapped[0]}")
        lines += [" " * (width + 6) + line for line in wrapped[1:]]
    return lines


def _facts(fingerprint: Fingerprint) -> list[tuple[str, str]]:
    rows = [
        ("kind", f"{fingerprint.kind}, {fingerprint.modality} (from {fingerprint.modality_from})"),
        *(("taken for", text) for text in fingerprint.details.get("assumed", [])),
        ("cases", f"{fingerprint.cases} of {fingerprint.subjects} subject(s), {fingerprint.channels} channel(s)"),
        ("sizes", _range(fingerprint.sizes)),
    ]
    if fingerprint.foreground_sizes:
        rows.append(
            (
                "foreground",
                f"{_range(fingerprint.foreground_sizes)}, {fingerprint.foreground_share:.0%} of the elements",
            )
        )
    if fingerprint.spacing_mm:
        rows.append(("spacing, mm", _range(fingerprint.spacing_mm)))
    if fingerprint.extents_mm:
        rows.append(("field of view, mm", _range(fingerprint.extents_mm)))
    if fingerprint.orientations:
        rows.append(("orientation", ", ".join(f"{codes} {count}" for codes, count in fingerprint.orientations.items())))
    rows.append(("percentiles", ", ".join(f"{at}%: {value:g}" for at, value in fingerprint.percentiles.items())))
    rows.append(("normalised", f"sigma_data {fingerprint.sigma_data:g}, mean {fingerprint.mean:g}"))
    details = {
        name: value for name, value in fingerprint.details.items() if name not in ("assumed", "listing", "files")
    }
    rows += [(name, _short(value)) for name, value in details.items() if value not in (None, [], {}, False)]
    for name, field in fingerprint.conditions.get("fields", {}).items():
        values = ", ".join(field["categories"]) if "categories" in field else f"{field['mean']:g} +/- {field['std']:g}"
        kind = "categories" if "categories" in field else "numbers"
        source = f"from {fingerprint.conditions['table'] or 'the cases'}; --condition and --participants choose others"
        rows.append((f"condition {name}", f"{kind} {values} ({source})"))
    return rows


def _range(spans: dict[str, list[Any]]) -> str:
    middle = " x ".join(f"{v:g}" for v in spans["median"])
    if spans["min"] == spans["max"]:
        return middle
    return (
        f"{middle} (from {' x '.join(f'{v:g}' for v in spans['min'])} to {' x '.join(f'{v:g}' for v in spans['max'])})"
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 160 else text[:157] + "..."


def _choices(plan: Plan) -> list[tuple[str, str]]:
    rows = []
    for name, choice in plan.choices.items():
        value = choice.value
        if name == "network":
            parts = [value["_target_"].rsplit(".", 1)[-1]]
            sizes = ("channels", "num_res_blocks", "hidden_size", "depth", "patch_size")
            parts += [f"{key} {value[key]}" for key in sizes if key in value]
            value = ", ".join(parts)
        rows.append((name, f"{_short(value)}: {choice.reason}"))
    if plan.held_out:
        rows.append(("held out", ", ".join(plan.held_out)))
    if plan.left_out:
        rows.append(("left out", ", ".join(plan.left_out)))
    return rows


def _measured(plan: Plan) -> list[str]:
    trial = plan.measured
    if not trial:
        return ["", "Not measured: only a training shows time and memory."]
    rows = [
        ("memory", f"{trial['memory_gb']:.2f} GB in a real step, {trial['estimated_memory_gb']:.2f} estimated, "
         f"{plan.budget.memory_gb:g} allowed"),
        ("time", f"{trial['seconds_per_iteration']:.3g} s an iteration, {trial['estimated_seconds_per_iteration']:.3g} "
         f"estimated: {trial['iterations']} iterations in {plan.budget.minutes:g} minutes"),
    ]  # fmt: skip
    return ["", "Measured on this machine", *_columns(rows)]


def model_card(plan: Plan, name: str, configs: Sequence[str]) -> str:
    """The model card of a planned bundle."""
    rows = "\n".join(f"| `{key}` | {_cell(_short(c.value))} | {_cell(c.reason)} |" for key, c in plan.choices.items())
    text = f"""# {name}

A score model of {plan.kind}, planned by `python -m monai_diffscore plan` from the bundle {plan.template}. It is not
trained: it holds no weights, and its numbers are a plan's.

## Data

`{plan.data}` ({plan.modality}, {plan.channels} channel(s)). `docs/fingerprint.json` describes it. `docs/plan.json` is
the plan: edit its values and plan again with `--from-plan`.

{_files_text(plan)}{_split_text(plan)}

## Plan

| choice | value | reason |
|---|---|---|
{rows}

{_measured_text(plan)}

## Commands

From this folder:

```
{chr(10).join(commands(plan, ".")[1:])}
```

The same training command continues an interrupted training.{_condition_text(plan)}

Configurations: {", ".join(f"`{config}`" for config in configs if config != "metadata")}.

## Performance

None yet. Train it first: then `evaluating` measures the held-out error, and `report output --card docs` writes the
quality panel of its samples here.

## Limits

Research. Not for diagnosis. A model knows only its data. A model of few subjects repeats them closely.
"""
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _files_text(plan: Plan) -> str:
    """The files of volumes by layout and role, and what else the plan assumes of the folder; "" of other data."""
    files = plan.details.get("files")
    if not files:
        return ""
    rows = [
        f"| {_cell(role)} | {len(names)} | `{names[0]}`{f' ... `{names[-1]}`' if len(names) > 1 else ''} |"
        for role, names in files["roles"].items()
    ]
    table = "\n".join(["| role | files | which |", "|---|---|---|", *rows])
    assumed = "\n".join(f"- {text}" for text in plan.details.get("assumed", []))
    return f"Layout: {files['layout']}. `docs/plan.json` lists every file under `details`.\n\n{table}\n\n{assumed}\n\n"


def _split_text(plan: Plan) -> str:
    lines = []
    if plan.held_out:
        lines.append(f"Held out, not trained on: {', '.join(plan.held_out)}.")
    if plan.left_out:
        lines.append(f"Left out, because the training cannot read them: {', '.join(plan.left_out)}.")
    return "\n".join(lines) or "Nothing is left out."


def _measured_text(plan: Plan) -> str:
    if not plan.measured:
        return "Time and memory were not measured."
    trial = plan.measured
    return (
        f"A real step took {trial['memory_gb']:.2f} GB at its peak ({trial['estimated_memory_gb']:.2f} estimated) and "
        f"{trial['seconds_per_iteration']:.3g} s on the machine that planned it: {trial['iterations']} iterations in "
        f"{plan.budget.minutes:g} minutes."
    )


def _condition_text(plan: Plan) -> str:
    fields = plan.conditions.get("fields", {})
    if not fields:
        return ""
    name, field = next(iter(fields.items()))
    value = field["categories"][0] if "categories" in field else f"{field['mean']:g}"
    return f" `--condition#{name} {value}` asks for samples of one kind; other fields are free."
