"""``python -m monai_diffscore COMMAND``: what a bundle does not do by itself.

A command is a function ``add_<command>(commands)`` here, which declares its arguments and names the function of the
library that does the work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from monai_diffscore.command_line import find_cause


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A problem with data or flags is one line on the error output, code 1."""
    parser = argparse.ArgumentParser(prog="python -m monai_diffscore", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_sync(commands)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen) or 0)
    except Exception as error:
        cause = find_cause(error)
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1


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

    parser.set_defaults(run=run)


if __name__ == "__main__":
    sys.exit(main())
