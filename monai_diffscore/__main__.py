"""``python -m monai_diffscore COMMAND``: what a bundle does not do by itself.

A command is a function ``add_<command>(commands)`` here, which declares its arguments and names the function of the
library that does the work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.command_line import FlagError, find_cause


def add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``plan DATA --out BUNDLE``: looks at data, chooses, measures, and writes a bundle that runs at once."""
    parser = commands.add_parser("plan", help="data in, a ready bundle out: fingerprint, plan with reasons, bundle")
    parser.add_argument("data", type=Path, nargs="?", help="folder or file (default: that of --from-plan)")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle to write")
    parser.add_argument("--memory-gb", type=float, default=8.0, help="what a training may take (default: 8)")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long it may take (default: 30)")
    parser.add_argument("--condition", default="", metavar="A,B", help="columns to condition on, such as age,sex")
    parser.add_argument("--participants", type=Path, metavar="TABLE", help="of the subjects (default: beside the data)")
    parser.add_argument("--graph", type=Path, metavar="EDGES", help="edges between genes (.tsv, .gmt)")
    parser.add_argument("--kind", help="of the data, where it is not found out: volumes, pictures, slides, ...")
    parser.add_argument("--modality", help="of volumes, where the files do not say it: CT, MR, PT")
    parser.add_argument("--mpp-um", type=float, help="size of a slide's pixel, where the file states none")
    parser.add_argument("--from-plan", type=Path, metavar="PLAN", help="an edited plan.json instead of the rules")
    parser.add_argument(
        "--no-trial", action="store_true", help="do not measure: no real step, no schedule for the time"
    )
    parser.set_defaults(run_command=_plan)


def _plan(chosen: argparse.Namespace) -> int:
    import torch

    from monai_diffscore import planning  # MONAI takes seconds to import

    if chosen.data is None and chosen.from_plan is None:
        raise FlagError("plan needs the path of the data: python -m monai_diffscore plan DATA --out BUNDLE")
    if chosen.out.exists() and any(chosen.out.iterdir() if chosen.out.is_dir() else [chosen.out]):
        raise FlagError(f"--out {chosen.out} exists and is not an empty folder: give another, or take it away.")
    budget = planning.Budget(chosen.memory_gb, chosen.minutes, torch.cuda.is_available())
    graph = None if chosen.graph is None else str(chosen.graph.absolute())
    edited = None if chosen.from_plan is None else planning.Plan.from_file(chosen.from_plan)
    fingerprint: planning.Fingerprint | None = None
    if chosen.data is not None:
        fingerprint = planning.take_fingerprint(
            chosen.data,
            chosen.kind,
            [name.strip() for name in chosen.condition.split(",") if name.strip()],
            chosen.modality,
            chosen.participants,
            chosen.mpp_um,
            graph,
        )
        plan = planning.make_plan(fingerprint, budget, graph)
    plan = edited or plan
    if not chosen.no_trial:
        plan = planning.fit_plan(plan, adapt=edited is None)
    planning.write_bundle(plan, chosen.out, fingerprint)
    print("\n".join([planning.describe(plan, fingerprint), "", "Next", *planning.commands(plan, chosen.out)]))
    return 0


def add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``check BUNDLE``: what is wrong with a bundle, before it runs."""
    parser = commands.add_parser(
        "check", help="what is wrong with a bundle, before it runs; exit code 1 if anything is"
    )
    parser.add_argument("bundle", type=Path, nargs="+", help="folder of a bundle")
    parser.add_argument(
        "--override",
        nargs="+",
        default=[],
        metavar="ID",
        help="ids (also ID=VALUE) or overlays that a command overrides",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run_command=_check)


def _check(chosen: argparse.Namespace) -> int:
    from monai_diffscore.inspection import inspect_bundle  # MONAI takes seconds to import

    findings = {str(bundle): inspect_bundle(bundle, chosen.override) for bundle in chosen.bundle}
    if chosen.json:
        print(json.dumps({name: [vars(finding) for finding in found] for name, found in findings.items()}, indent=4))
    else:
        for name, found in findings.items():
            print(f"{name}: {len(found)} finding(s)" if found else f"{name}: nothing found")
            print("".join(f"  {finding}\n" for finding in found), end="")
    return int(any(findings.values()))


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``report RUN``: the quality panel of generated images as a page."""
    parser = commands.add_parser("report", help="how good generated images are: one HTML page, JSON and pictures")
    parser.add_argument("run", type=Path, help="output folder of a training with its samples, or a folder of samples")
    parser.add_argument("--real", type=Path, help="folder of real images not trained on (default: from the run)")
    parser.add_argument("--train", type=Path, help="folder of the training images (default: from the run)")
    parser.add_argument("--out", type=Path, help="folder to write into (default: RUN/report)")
    parser.add_argument("--title", help="of the page (default: name of the run)")
    parser.add_argument("--count", type=int, default=64, help="at most this many samples (default: 64)")
    parser.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="intensities that -1 and 1 mean")
    parser.add_argument("--unit", help="of the intensities, such as HU")
    parser.add_argument("--draws", type=int, default=200, help="of each bootstrap (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of windows, splits and bootstrap (default: 0)")
    parser.add_argument("--card", type=Path, metavar="DOCS", help="also write the panel into DOCS/README.md")
    parser.set_defaults(run_command=_report)


def _report(chosen: argparse.Namespace) -> int:
    from monai_diffscore import report  # MONAI, MLflow and matplotlib take seconds to import

    run = report.find_run(chosen.run)
    limits = tuple(chosen.range) if chosen.range else None
    material = report.gather(
        chosen.run, chosen.real, chosen.train, chosen.count, limits, chosen.unit, chosen.seed, record=run
    )
    title = chosen.title or (run.name if run else "") or chosen.run.resolve().name
    made = report.report_images(title, material, chosen.draws, chosen.seed, lambda name: print(f"computing: {name}"))
    files = report.write_report(made, chosen.out or chosen.run / "report")
    if run is not None:
        report.log_report(made, files, run)
    if chosen.card:
        files += report.write_card(made, chosen.card)
    print("\n".join([report.headline(made), *(f"wrote {file}" for file in files)]))
    return 0


def add_samples(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``samples``: which real sample data is on this machine, and what brings the rest."""
    command = commands.add_parser("samples", help="real sample data: what is here, its licence, how to get the rest")
    command.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    command.set_defaults(run_command=_samples)


def _samples(chosen: argparse.Namespace) -> int:
    from monai_diffscore.data import samples  # MONAI takes seconds to import

    rows = samples.list_samples()
    print(json.dumps(rows, indent=4) if chosen.json else samples.describe_samples(rows))
    return 0


def add_sync(commands: Any) -> None:
    """``sync RUN``: delivers the record of a training that its tracker did not get."""
    parser = commands.add_parser(
        "sync", help="deliver the record of a training to MLflow", description=add_sync.__doc__
    )
    parser.add_argument("run_folder", metavar="RUN", help="output_dir of the training")
    parser.add_argument("--tracking_uri", help="default: the one that the training was given")

    def run(chosen: argparse.Namespace) -> int:
        from mlflow.exceptions import MlflowException

        from monai_diffscore.handlers.spool import sync

        try:
            run_id, count = sync(chosen.run_folder, chosen.tracking_uri)
        except (ValueError, OSError, MlflowException) as error:
            print(f"error: {str(error).strip().splitlines()[0]}", file=sys.stderr)
            return 1
        print(f"delivered {count} lines; MLflow run {run_id}")
        return 0

    parser.set_defaults(run_command=run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A problem with data or flags is one line on the error output, code 1."""
    parser = argparse.ArgumentParser(prog="python -m monai_diffscore", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_check(commands)
    add_plan(commands)
    add_report(commands)
    add_samples(commands)
    add_sync(commands)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run_command(chosen) or 0)
    except Exception as error:
        cause = find_cause(error)
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
