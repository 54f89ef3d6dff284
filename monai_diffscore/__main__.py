"""``python -m monai_diffscore COMMAND``: work around bundles.

A command is a function ``add_<command>(commands)`` that declares its arguments, and a function that does the work. The
latter imports its modules, because torch, MONAI and MLflow take seconds to import: ``--help`` answers without them.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_diffscore.report.command import add_report
from monai_diffscore.segmentation.command import add_segmentation


def add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``plan DATA --out BUNDLE``: reads data, plans, measures, and writes a bundle that runs."""
    parser = commands.add_parser("plan", help="plan a bundle for data: fingerprint, plan with reasons, bundle")
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="folder or file (default: of --from-plan)")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle to write")
    parser.add_argument("--memory-gb", type=float, default=8.0, metavar="GB", help="memory of a training (default: 8)")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the training (default: 30)")
    parser.add_argument("--condition", default="", metavar="A,B", help="columns to condition on, such as age,sex")
    parser.add_argument(
        "--participants", type=Path, metavar="TABLE", help="table of the subjects (default: beside the data)"
    )
    parser.add_argument(
        "--subject",
        metavar="KEY",
        help="key of a subject: a column of cells, tables and expression; for images folder, study (DICOM) or a "
        "regular expression of the path",
    )
    parser.add_argument("--exclude", default="", metavar="A,B", help="columns, files or series to leave out")
    parser.add_argument(
        "--missing", default="", metavar="A,B", help="further marks of missing values in a table: --missing=-9,-99"
    )
    parser.add_argument("--delimiter", help="between the cells of a text file (default: detected)")
    parser.add_argument("--categorical", default="", metavar="A,B", help="columns of a table whose numbers are codes")
    _add_graph(parser)
    parser.add_argument("--image", default="", metavar="ROLE[,ROLE]", help="roles of images to train on")
    parser.add_argument(
        "--given", default="", metavar="ROLE[,ROLE]", help="roles from whose subsets a model draws the one of --image"
    )
    parser.add_argument("--mask", default="", metavar="MASK", help="label map from which it draws the one of --image")
    parser.add_argument("--joint", action="store_true", help="one model draws the image and the label map of --mask")
    parser.add_argument("--layout", default="auto", help="layout of a folder of volumes (default: auto)")
    parser.add_argument("--cases", type=Path, metavar="TABLE", help="table of images, written by the command cases")
    parser.add_argument("--kind", help="kind of the data: volumes, pictures, slides, ... (default: detected)")
    parser.add_argument("--modality", help="modality of volumes whose files do not state it: CT, MR, PT")
    parser.add_argument("--mpp-um", "--assume_mpp_um", type=float, help="pixel size of slides that do not state it")
    _add_reading(parser)
    models = parser.add_mutually_exclusive_group()
    for model, what in (("whole", "a model of whole volumes"), ("patches", "a model of patches of volumes")):
        models.add_argument(
            f"--{model}", dest="model", action="store_const", const=model, help=f"{what}, whatever the rules propose"
        )
    parser.add_argument("--from-plan", type=Path, metavar="PLAN", help="an edited plan.json instead of the rules")
    parser.add_argument(
        "--no-trial", action="store_true", help="do not measure: no real step, no schedule for the time"
    )
    parser.set_defaults(run_command=_plan)


def _add_graph(parser: argparse.ArgumentParser) -> None:
    """Flags for a graph of genes; the names are ids of the planned bundle."""
    group = parser.add_argument_group("graph of genes")
    group.add_argument("--graph", type=Path, metavar="EDGES", help="edges between genes (.tsv, .gmt)")
    group.add_argument("--graph_columns", type=_names, metavar="SOURCE,TARGET", help="columns of both genes of an edge")
    group.add_argument("--graph_minimum_weight", type=float, metavar="WEIGHT", help="smallest weight of an edge")
    group.add_argument("--graph_aliases", type=Path, metavar="TABLE", help="table: a name in the edges, its gene")


#: what the DICOM reader may do: :class:`~monai_diffscore.data.dicom.ReadingRules` has the same names
DICOM_OPTIONS = {
    "on_gap": "resample: interpolate slices that are missing or unevenly spaced (default: refuse)",
    "on_duplicate": "drop: keep one of several equal slices of a position (default: refuse)",
    "on_tilt": "resample: straighten the slices of a tilted gantry (default: refuse)",
    "assume_intercept": "RescaleIntercept in HU of CT files that have none, often -1024",
    "spacing_tolerance": "largest difference between steps of slices, as a share (default: 0.02)",
    "tilt_tolerance_degrees": "largest angle that is no tilt (default: 0.5)",
    "padding_hu": "value of undeclared padding, in HU",
    "air_hu": "value in HU that replaces padding in CT (default: -1000)",
    "select": "images to read of several at each position, such as \"{'EchoTime': 30.0}\"",
}


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Flags for facts that the files do not state; the names are ids of the planned bundle."""
    group = parser.add_argument_group("reading")
    group.add_argument(
        "--value_range", "--value-range", dest="value_range", metavar="[LOW,HIGH]",
        help="black and white of pictures of more than 8 bits",
    )  # fmt: skip
    group.add_argument("--image_channels", type=int, choices=(1, 3), help="read all pictures as grey (1) or colour (3)")
    group.add_argument("--assume_intercept", type=float, metavar="HU", help="of CT stored without it, often -1024")
    group.add_argument("--allow_no_air", choices=("True", "False"), help="CT without a value below 0 HU is right")
    for name, what in DICOM_OPTIONS.items():
        group.add_argument(f"--dicom_options#{name}", dest=f"dicom_{name}", metavar="VALUE", help=what)


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    """The flags of :func:`_add_reading` that have a value."""
    dicom = {name: getattr(options, f"dicom_{name}") for name in DICOM_OPTIONS}
    reading = {
        "value_range": _literal(options.value_range),
        "image_channels": options.image_channels,
        "assume_intercept": options.assume_intercept,
        "allow_no_air": _literal(options.allow_no_air),
        "dicom_options": {name: _literal(text) for name, text in dicom.items() if text is not None} or None,
    }
    return {name: value for name, value in reading.items() if value is not None}


def _literal(text: str | None) -> Any:
    """A number, a list or a dictionary as MONAI's command line reads it; other texts as they are."""
    try:
        return None if text is None else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _plan(options: argparse.Namespace) -> int:
    source = options.cases or options.data or options.from_plan
    if source is not None:
        print(f"planning for {source}", flush=True)
    import torch

    from monai_diffscore import planning
    from monai_diffscore.atomic_files import require_writable
    from monai_diffscore.errors import FlagError
    from monai_diffscore.planning.notes import notes_once

    data, kind = options.cases or options.data, options.kind
    if options.cases and kind is None:
        kind = planning.kind_of_cases(options.cases)
    if data is None and options.from_plan is None:
        raise FlagError("plan needs the path of the data: python -m monai_diffscore plan DATA --out BUNDLE")
    if options.out.exists() and any(options.out.iterdir() if options.out.is_dir() else [options.out]):
        raise FlagError(f"--out {options.out} exists and is not an empty folder: name another, or remove it.")
    require_writable(options.out, "--out")
    if options.joint and (options.given or len(_names(options.mask)) != 1):
        raise FlagError("--joint draws an image with one label map: give --image ROLE --mask MASK, and no --given.")
    if not options.no_trial:
        planning.fork_server()  # before this process computes anything
    budget = planning.Budget(options.memory_gb, options.minutes, torch.cuda.is_available())
    graph = None if options.graph is None else str(options.graph.absolute())
    aliases = None if options.graph_aliases is None else str(options.graph_aliases.absolute())
    graph_options = {
        "columns": options.graph_columns, "minimum_weight": options.graph_minimum_weight, "aliases": aliases,
    }  # fmt: skip
    edited = None if options.from_plan is None else planning.Plan.from_file(options.from_plan)
    fingerprint: planning.Fingerprint | None = None
    if data is not None:
        with notes_once():
            fingerprint = planning.take_fingerprint(
                data,
                kind,
                _columns(options.condition),
                options.modality,
                options.participants,
                options.mpp_um,
                graph,
                options.subject,
                _columns(options.exclude),
                options.delimiter,
                _names(options.missing),
                options.layout,
                options.image,
                _reading(options),
                [*_names(options.given), *_names(options.mask)],
                options.joint,
                _columns(options.categorical),
                graph_options,
            )
        plan = planning.make_plan(fingerprint, budget, graph, options.model)
    plan = edited or plan
    if not options.no_trial:
        plan = planning.fit_plan(plan, adapt=edited is None)
    planning.write_bundle(plan, options.out, fingerprint)
    print("\n".join([planning.describe(plan, fingerprint), "", "Next", *planning.commands(plan, options.out)]))
    return 0


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _columns(text: str) -> list[str]:
    """The names without the blank behind a comma; other blanks may belong to a name."""
    return [name for name in re.split(", ?", text) if name.strip()]


def add_compose(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``compose``: writes the shipped bundles from their parts."""
    parser = commands.add_parser("compose", help="write the shipped bundles from their parts; for developers")
    parser.add_argument("--bundles", type=Path, default=Path("bundles"), help="their folder (default: bundles)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if a file differs from the parts"
    )
    parser.set_defaults(run_command=_compose)


def _compose(options: argparse.Namespace) -> int:
    from monai_diffscore.composing import declared, differences, write_shipped

    changed = [f"{name}/{place}" for name in declared() for place in differences(options.bundles / name, name)]
    if not options.check:
        write_shipped(options.bundles)
    verb = "differs" if options.check else "written"
    print("".join(f"{options.bundles}/{place}: {verb}\n" for place in changed), end="")
    print(f"{len(declared())} bundles, {len(changed)} file(s) {'differ' if options.check else 'changed'}")
    return int(options.check and bool(changed))


def add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``check BUNDLE``: the problems of a bundle, before it runs."""
    parser = commands.add_parser(
        "check", help="list the problems of a bundle, before it runs; exit code 1 if there are any"
    )
    parser.add_argument("bundle", type=Path, nargs="+", metavar="BUNDLE", help="folder of a bundle")
    parser.add_argument(
        "--override",
        nargs="+",
        default=[],
        metavar="ID",
        help="ids (also ID=VALUE) or overlays that a command overrides",
    )
    parser.add_argument(
        "--leaks", nargs="?", const="content", default="", choices=("content", "voxels"),
        help="also compare both sides of the split of its images; 'voxels' reads all of them, else at most 64",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run_command=_check)


def _check(options: argparse.Namespace) -> int:
    from monai_diffscore.inspection import inspect_bundle

    reports = {str(bundle): inspect_bundle(bundle, options.override, options.leaks) for bundle in options.bundle}
    if options.json:
        print(
            json.dumps({name: [vars(finding) for finding in findings] for name, findings in reports.items()}, indent=4)
        )
    else:
        for name, findings in reports.items():
            print(f"{name}: {len(findings)} finding(s)" if findings else f"{name}: no finding")
            print("".join(f"  {finding}\n" for finding in findings), end="")
    return int(any(reports.values()))


def add_cases(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``cases FOLDER``: the images in a folder by subject and role, and the files left out."""
    parser = commands.add_parser(
        "cases", help="list the images of a folder by subject and role; files left out, and why"
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder, table of cases (.csv, .tsv) or datalist")
    parser.add_argument(
        "--layout", default="auto", help="layout of the folder (default: auto; an unknown one lists them all)"
    )
    parser.add_argument("--image", default="", metavar="ROLE[,ROLE]", help="roles to take")
    parser.add_argument(
        "--subject", default="", metavar="KEY",
        help="key of a subject: folder, study (DICOM), or a regular expression of the path",
    )  # fmt: skip
    parser.add_argument("--write", type=Path, metavar="TABLE", help="write the table (.csv or .tsv), to edit it")
    parser.add_argument(
        "--validation-share", type=float, metavar="SHARE", help="also print the subjects that it holds out"
    )
    parser.set_defaults(run_command=_cases)


def _cases(options: argparse.Namespace) -> int:
    from monai_diffscore.atomic_files import require_writable
    from monai_diffscore.data.cases import describe_cases, list_cases, write_table_of_cases
    from monai_diffscore.data.slides import list_any_pictures

    if options.write:
        require_writable(options.write, "--write")
    cases = list_cases(options.folder, options.layout, options.subject)
    pictures = None if cases or options.layout != "auto" else list_any_pictures(options.folder, options.subject)
    cases = pictures or cases
    print(describe_cases(cases, options.image, options.validation_share))
    if options.write:
        write_table_of_cases(options.write, cases)
        print(f"wrote {shlex.quote(str(options.write))}")
    return 0


def add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``run WORKFLOW``: ``python -m monai.bundle run``, without MONAI's first lines."""
    command = commands.add_parser(
        "run", prefix_chars="\0", add_help=False, help="`python -m monai.bundle run`, without MONAI's first lines"
    )  # no prefix: each flag is one of MONAI's command
    command.add_argument("words", nargs="*", metavar="WORD", help="training --config_file FILE --ID VALUE ...")
    command.set_defaults(run_command=_run, help=command.format_help())


def _run(options: argparse.Namespace) -> None:
    if not set(options.words) - {"-h", "--help"}:
        print(options.help, end="")
        raise SystemExit(0)
    from monai_diffscore.command_line import run_monai

    run_monai(options.words)


def add_samples(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``samples``: the real sample data on this machine, and the commands that fetch the rest."""
    command = commands.add_parser("samples", help="list real sample data: presence, licence, how to get the rest")
    command.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    command.set_defaults(run_command=_samples)


def _samples(options: argparse.Namespace) -> int:
    from monai_diffscore import samples

    rows = samples.list_samples()
    print(json.dumps(rows, indent=4) if options.json else samples.describe_samples(rows))
    return 0


def add_sync(commands: Any) -> None:
    """``sync RUN``: delivers the rest of a training's record to its tracker."""
    parser = commands.add_parser("sync", help="deliver the record of a training to MLflow")
    parser.add_argument("run_folder", metavar="RUN", help="output_dir of the training")
    parser.add_argument("--tracking_uri", help="default: that of the training")

    def run(options: argparse.Namespace) -> int:
        from mlflow.exceptions import MlflowException

        from monai_diffscore.credentials import conceal
        from monai_diffscore.handlers.delivery import sync

        try:
            run_id, count = sync(options.run_folder, options.tracking_uri)
        except (ValueError, OSError, MlflowException) as error:
            print(f"error: {conceal(str(error).strip().splitlines()[0])}", file=sys.stderr)
            return 1
        print(f"delivered {count} lines; MLflow run {run_id}")
        return 0

    parser.set_defaults(run_command=run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code. A problem with data or flags is one line on stderr and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="python -m monai_diffscore",
        description="Diffusion models of medical images and omics: plan a training, check it, measure results. "
        "Begin with `plan DATA --out BUNDLE`, which prints the commands that train and sample.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_cases(commands)
    add_check(commands)
    add_compose(commands)
    add_plan(commands)
    add_segmentation(add_report(commands))
    add_run(commands)
    add_samples(commands)
    add_sync(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run_command(options) or 0)
    except Exception as error:
        from monai_diffscore.command_line import SWITCH, last_lines

        if os.environ.get(SWITCH):
            raise
        print(last_lines(error), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
