"""``python -m monai_diffscore COMMAND``: what a bundle does not do by itself.

A command is a function ``add_<command>(commands)`` here, which declares its arguments and names the function of the
library that does the work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from monai_diffscore.command_line import find_cause


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. A problem with data or flags is one line on the error output, code 1."""
    parser = argparse.ArgumentParser(prog="python -m monai_diffscore", description=__doc__.splitlines()[0])
    parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen) or 0)
    except Exception as error:
        cause = find_cause(error)
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
