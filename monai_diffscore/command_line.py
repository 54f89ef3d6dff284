"""``python -m monai.bundle run``, made to answer plainly.

A bundle runs inside several layers (command line, config expressions, transforms, engine): an exception comes out
wrapped in as many others, and a mistyped ``--max_epoch`` is taken as a new id that nothing reads. Bundles call the
two functions below first in their ``initialize`` list.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import signal
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser
from monai.bundle import run as monai_run

from monai_diffscore.errors import DataError
from monai_diffscore.interrupts import requeue_when_asked


class FlagError(ValueError):
    """A flag of the command line that nothing reads."""


_PLAIN = (DataError, FlagError, FloatingPointError, KeyboardInterrupt)


def report_plainly() -> bool:
    """Makes uncaught problems with data, flags or numbers, and Ctrl-C, end the program with one clear line.

    ``MONAI_DIFFSCORE_TRACEBACK=1`` keeps the whole traceback. Other exceptions are shown as ever. From here on SIGTERM
    and SIGUSR1 end the program with exit code 75, "run me again". Returns True, so that it can stand in a config
    expression.
    """
    requeue_when_asked()
    if not os.environ.get("MONAI_DIFFSCORE_TRACEBACK"):
        sys.excepthook = _one_line
    return True


def refuse_unknown_flags(arguments: list[str] | None = None) -> bool:
    """Refuses flags that override nothing in the configuration files of the command.

    Args:
        arguments: default is this program's, if it is ``python -m monai.bundle run``; nothing is checked otherwise.
    Raises:
        FlagError: names the flag and the ids that it may have meant.
    """
    if arguments is None:
        arguments = _arguments_of_run()
    flags = [re.split(r"[=#]|::", argument[2:])[0] for argument in arguments if re.match(r"--[A-Za-z_]", argument)]
    files = [file for argument in arguments for file in re.findall(r"[^\s,'\"\[\]=]+\.(?:json|ya?ml)\b", argument)]
    ids = {re.split(r"#|::", name.lstrip("+"))[0] for file in files for name in ConfigParser.load_config_file(file)}
    known = ids | set(inspect.signature(monai_run).parameters)
    for flag in flags if ids else []:
        if flag not in known:
            close = difflib.get_close_matches(flag, known, n=3)
            meant = f"did you mean {' or '.join('--' + name for name in close)}?" if close else f"ids: {sorted(ids)}"
            raise FlagError(f"--{flag} overrides nothing in {', '.join(files)}; {meant}")
    return True


def executed_configuration(arguments: list[str] | None = None) -> dict[str, Any] | None:
    """The configuration that ``python -m monai.bundle run`` executes: all files and flags merged; None elsewhere.

    Args:
        arguments: default is this program's.
    """
    arguments = _arguments_of_run() if arguments is None else arguments
    flags: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            following = arguments[position + 1 : position + 2]
            flags[name] = DefaultParseValue(value if equals else following[0] if following else "True")
    files = flags.pop("config_file", None)
    if files is None:
        return None
    parser = ConfigParser()
    parser.read_config(f=[files] if isinstance(files, str) and "," not in files else files)
    own = set(inspect.signature(monai_run).parameters)
    parser.update(pairs={name: value for name, value in flags.items() if name not in own})
    return {name: value for name, value in parser.get().items() if name != "_meta_"}


def _arguments_of_run() -> list[str]:
    """What follows ``python -m monai.bundle run``; nothing in any other program."""
    is_run = Path(sys.argv[0]).parts[-2:] == ("bundle", "__main__.py") and sys.argv[1:2] == ["run"]
    return sys.argv[2:] if is_run else []


def find_cause(error: BaseException | None) -> BaseException | None:
    """The plain problem that ``error`` was raised from, if any."""
    while error is not None:
        if isinstance(error, _PLAIN):
            return error
        error = error.__cause__  # not __context__: an error while closing up is another matter
    return None


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    cause = find_cause(error)
    if cause is None:
        sys.__excepthook__(kind, error, traceback)
    elif isinstance(cause, KeyboardInterrupt):
        then = str(cause) or "the same command continues from the last checkpoint in output_dir"
        print(f"\ninterrupted: {then}.", file=sys.stderr)
        # the interpreter ends by the signal only if nothing evaluates a string between here and its end: libraries do
        raise SystemExit(128 + signal.SIGINT)
    else:
        print(f"\nerror: {cause}\n(MONAI_DIFFSCORE_TRACEBACK=1 shows the whole traceback)", file=sys.stderr)
