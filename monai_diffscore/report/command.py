"""The command ``report``: its arguments, and the panel of the data that they name.

The functions import what they run: ``--help`` answers without torch.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """``report RUN``: the quality panel of generated images, cells or rows of a table as a page."""
    parser = commands.add_parser(
        "report", help="measure the quality of generated data: one HTML page, JSON and pictures"
    )
    parser.add_argument(
        "run", type=Path, nargs="?", help="output folder of a training with its samples, or a folder or file of samples"
    )
    parser.add_argument("--out", type=Path, help="folder to write into (default: RUN/report)")
    parser.add_argument("--title", help="title of the page (default: name of the run)")
    parser.add_argument("--count", type=int, help="number of samples at most (default: 64 images, 1000 cells or rows)")
    parser.add_argument("--draws", type=int, default=200, help="draws of each bootstrap (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of windows, splits and bootstrap (default: 0)")
    parser.add_argument("--card", type=Path, metavar="DOCS", help="also write the panel into DOCS/README.md")
    parser.add_argument(
        "--real", type=Path, nargs="+", metavar="PATH",
        help="real data outside the training (default: from the run): a folder of images; or files of cells or rows, "
        "TRAIN TEST",
    )  # fmt: skip
    parser.add_argument(
        "--label-key",
        help="column of the type of each row; for images, key of the label in the run's cases (default: label)",
    )
    images = parser.add_argument_group("images")
    images.add_argument("--image", default="", metavar="ROLE[,ROLE]", help="roles in folders of several")
    images.add_argument("--train", type=Path, help="folder of the training images (default: from the run)")
    images.add_argument("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="intensities of -1 and 1")
    images.add_argument("--unit", help="unit of the intensities, such as HU")
    profiles = parser.add_argument_group("cells, expression profiles and rows of a table")
    profiles.add_argument("--synthetic", type=Path, nargs="+", metavar="FILE", help="generated rows, in place of RUN")
    profiles.add_argument("--total-key", help="column of the total count of each whole cell (default: the sum)")
    profiles.add_argument("--layer", help="'X', 'raw' or a layer of the files (default: the first that holds counts)")
    profiles.add_argument(
        "--content", choices=("counts", "continuous", "table"),
        help="kind of the values (default: counts in .h5ad, .zarr and files of 10x, a clinical table otherwise)",
    )  # fmt: skip
    parser.set_defaults(run_command=_report)
    return parser


def _report(options: argparse.Namespace) -> int:
    from monai_diffscore import report
    from monai_diffscore.atomic_files import require_writable
    from monai_diffscore.errors import DataError

    if options.synthetic or (options.run and report.find_profiles(options.run)):
        return _report_profiles(options)
    if options.run is None:
        raise DataError("report", expected="RUN, or --synthetic FILE", got="neither", remedy="Name the generated data.")
    target = options.out or options.run / "report"
    require_writable(target, "--out")
    run = report.find_run(options.run)
    limits = tuple(options.range) if options.range else None
    real = options.real[0] if options.real else None
    intake = report.read_intake(run)
    if intake is not None:
        print("\n".join([*intake.lines, *(f"leak: {leak}" for leak in intake.leaks)]), flush=True)
    with dicom_as_it_is():
        material = report.gather(
            options.run, real, options.train, options.count or 64, limits, options.unit, options.seed,
            record=run, label_key=options.label_key or "label", image=options.image,
        )  # fmt: skip
    material = material if intake is None else intake.added_to(material)
    title = options.title or (run.name if run else "") or options.run.resolve().name
    panel = report.report_images(title, material, options.draws, options.seed, lambda name: print(f"computing: {name}"))
    files = report.write_report(panel, target)
    return _deliver(panel, files, report.headline(panel), report.image_metrics, run, options.card)


@contextmanager
def dicom_as_it_is() -> Iterator[None]:
    """Advises to convert a DICOM series where its reader advises a rule, because ``report`` takes no rules."""
    from monai_diffscore.errors import DataError, find_cause

    try:
        yield
    except Exception as error:
        cause = find_cause(error)
        if not isinstance(cause, DataError) or "--dicom_options" not in cause.parts["remedy"]:
            raise
        remedy = "Complete the series, or convert it (dcm2niix): `report` takes no rules for it."
        raise DataError(**{**cause.parts, "remedy": remedy}) from error


def _report_profiles(options: argparse.Namespace) -> int:
    from monai_diffscore import report
    from monai_diffscore.atomic_files import require_writable
    from monai_diffscore.errors import DataError

    named = [report.only_profiles(file) for file in options.synthetic or ()]
    synthetic = named or report.find_profiles(options.run)
    beside = options.run or synthetic[0]
    target = options.out or (beside if beside.is_dir() else beside.parent) / "report"
    require_writable(target, "--out")
    run = report.find_run(options.run or synthetic[0].parent)
    content = options.content or ("counts" if report.holds_expression(synthetic[0]) else "table")
    fields = report.ProfileFields(
        options.label_key, options.total_key, None if content == "table" else content, options.layer
    )
    count = options.count or 1000
    if options.real is None and run is not None and run.config is not None:
        material = report.gather_run_profiles(run, synthetic, fields, count, options.seed)
    elif options.real is not None and len(options.real) == 2:
        train, test = map(report.only_profiles, options.real)
        material = report.gather_profiles(synthetic, train, test, fields, count, options.seed)
    else:
        raise DataError(
            "report", expected="--real TRAIN TEST, files of training rows and of held-out rows",
            got=f"{len(options.real)} of them" if options.real else "none, and no record of a training",
            remedy="Name both.",
        )  # fmt: skip
    title = options.title or (run.name if run else "") or beside.resolve().stem
    splits = max(6, options.draws // 10)
    panel = report.report_profiles(
        title, material, options.draws, splits, options.seed, lambda name: print(f"computing: {name}")
    )
    files = report.write_profile_report(panel, target)
    return _deliver(panel, files, report.profile_headline(panel), report.profile_metrics, run, options.card)


def _deliver(
    panel: Any,
    files: list[Path],
    headline: str,
    metrics: Callable[[Any], dict[str, float]],
    run: Any,
    card: Path | None,
) -> int:
    """Logs a written panel to the record of its training and adds it to a card, where there are any; says its files."""
    from monai_diffscore import report

    if run is not None:
        report.log_report(metrics(panel), files, run)
    if card:
        files += report.write_card(panel, card)
    print("\n".join([headline, *(f"wrote {shlex.quote(str(file))}" for file in files)]))
    return 0
