"""``report --segmentation REAL SYNTHETIC``: the use of synthetic cases for segmenters."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from monai_diffscore.report.command import dicom_as_it_is


def add_segmentation(parser: argparse.ArgumentParser) -> None:
    """Adds the study of segmenters to the parser of ``report``, beside its own panels."""
    group = parser.add_argument_group("segmenters trained on synthetic cases")
    group.add_argument(
        "--segmentation", type=Path, nargs=2, metavar=("REAL", "SYNTHETIC"),
        help="folders of images with label maps, in place of RUN: train segmenters, test them on real ones",
    )  # fmt: skip
    group.add_argument(
        "--mask", default="", metavar="NAME", help="name of the label maps; REAL,SYNTHETIC if they differ"
    )
    group.add_argument("--subjects", type=int, help="real subjects to train on (default: 80 %% of them)")
    group.add_argument("--iterations", type=int, default=1000, help="steps of each training (default: 1000)")
    group.add_argument("--repeats", type=int, default=3, help="seeds of each training (default: 3)")
    panels = parser.get_default("run_command")
    parser.set_defaults(
        run_command=lambda options: _report_segmentation(options) if options.segmentation else panels(options)
    )


def _report_segmentation(options: argparse.Namespace) -> int:
    from monai_diffscore import segmentation
    from monai_diffscore.atomic_files import require_writable

    real, synthetic = options.segmentation
    out = options.out or synthetic / "report"
    require_writable(out, "--out")
    with dicom_as_it_is():
        study = segmentation.run_study(
            real, synthetic, out, options.image, options.mask, options.subjects, options.iterations, options.repeats,
            options.seed,
        )  # fmt: skip
    files = segmentation.write_study(study, out)
    print("\n".join([segmentation.describe_study(study), *(f"wrote {shlex.quote(str(file))}" for file in files)]))
    return 0
