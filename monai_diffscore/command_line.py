"""``python -m monai.bundle run``, made to answer plainly.

A bundle runs inside several layers (command line, config expressions, transforms, engine): an exception comes out
wrapped in as many others, and a mistyped ``--max_epoch`` is taken as a new id that nothing reads. Bundles call
:func:`report_plainly` and :func:`refuse_unknown_flags` first in their ``initialize`` list, and hand
:func:`executed_configuration` to what records and compares it.

The command line is read once, by MONAI: what it merged is taken from the parser in which the expression stands, and
what it was asked from the arguments of its own call.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from monai.bundle import ConfigParser, create_workflow
from monai.bundle import run as monai_run

from monai_diffscore.credentials import conceal
from monai_diffscore.errors import DataError
from monai_diffscore.flags import FlagError, refuse_unknown
from monai_diffscore.interrupts import requeue_when_asked
from monai_diffscore.launcher import refuse_lonely_ranks

SWITCH = "MONAI_DIFFSCORE_TRACEBACK"
_PLAIN = (DataError, FlagError, FloatingPointError, KeyboardInterrupt)
#: arguments of MONAI's commands that are no ids
_OWN = {*inspect.signature(monai_run).parameters, "workflow_name", "workflow_type", "properties_path"}


def report_plainly() -> bool:
    """Makes every uncaught error, and Ctrl-C, end the program with one clear line.

    ``MONAI_DIFFSCORE_TRACEBACK=1`` keeps the whole traceback. From here on SIGTERM and SIGUSR1 end the program with
    exit code 75, "run me again". A workflow that a program of Python starts leaves that program's hooks alone. Returns
    True, so that it can stand in a config expression.
    """
    if _is_command():
        requeue_when_asked()
        if not os.environ.get(SWITCH):
            sys.excepthook = _one_line
            loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
            for handler in {handler for logger in loggers for handler in logger.handlers}:
                handler.addFilter(_is_of_interest)
    return True


def _is_command() -> bool:
    """Whether this program is ``python -m monai.bundle ...``."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name == "monai.bundle.__main__"


@dataclass(frozen=True)
class Request:
    """What MONAI was asked to run.

    Attributes:
        files: the configuration files, in order.
        flags: id to value of what overrides them.
        dropped: ids whose value was None, which MONAI does not take as a value.
        ids: names that MONAI looks up to initialize, run and finalize, by their arguments.
    """

    files: list[str]
    flags: Mapping[str, Any]
    dropped: list[str]
    ids: Mapping[str, str]


def current_request() -> Request | None:
    """The arguments of the call of MONAI that this is called from; None without one."""
    asked, merged = _arguments_of(monai_run), _arguments_of(create_workflow)
    if asked is None and merged is None:
        return None
    asked = asked or {}
    given = asked.get("override", {})
    flags = {} if merged is None else {k: v for k, v in merged.get("_args", {}).items() if k not in _OWN}
    files = (merged or asked).get("config_file") or []
    ids = {name: asked[name] for name in ("init_id", "run_id", "final_id") if asked.get(name)}
    dropped = [name for name, value in given.items() if value is None]
    return Request([files] if isinstance(files, str) else list(files), flags, dropped, ids)


def _frames() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _arguments_of(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Local names of the innermost call of a function that has not returned yet."""
    code = inspect.unwrap(function).__code__
    return next((dict(frame.f_locals) for frame in _frames() if frame.f_code is code), None)


def refuse_unknown_flags() -> bool:
    """Refuses flags that override nothing in the configuration files of the command, or are of another kind.

    Raises:
        FlagError: names the flag and the ids that it may have meant.
    """
    request = current_request()
    if request is not None and request.files:
        refuse_unknown(request.files, request.flags, request.dropped, _OWN)
    arguments = _arguments_of(ConfigParser.get_parsed_content)
    lines = arguments["self"].get("initialize", []) if arguments else []
    if not any(".initialize(" in str(line) for line in lines):
        refuse_lonely_ranks()
    return True


class Configuration(dict[str, Any]):
    """The configuration that MONAI executes, as it was merged; it knows what its ids were evaluated to.

    Args:
        parser: MONAI's, which holds it.
    """

    def __init__(self, parser: ConfigParser) -> None:
        super().__init__(deepcopy({name: value for name, value in parser.get().items() if name != "_meta_"}))
        self._parser = parser

    def evaluated(self, name: str) -> Any:
        """What a top-level id was evaluated to so far; nothing is evaluated for this. None if it was not."""
        return self._parser.ref_resolver.resolved_content.get(name)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(dict(self), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # the parser stays in its process


def executed_configuration() -> Configuration:
    """The configuration that is executed: all files, overlays and flags, as the parser that evaluates this merged them.

    Raises:
        FlagError: if MONAI was asked to initialize what the configuration does not have, which it passes over: a second
            file after a space (``--config_file a.json b.json``) is such a name.
        RuntimeError: if it is called from outside a configuration.
    """
    arguments = _arguments_of(ConfigParser.get_parsed_content)
    if arguments is None:
        raise RuntimeError("executed_configuration() stands in a configuration: nothing else knows which one is meant.")
    parser: ConfigParser = arguments["self"]
    report_plainly()  # where MONAI did not come by the initialize list
    _refuse_absent_ids(parser)
    refuse_lonely_ranks()
    return Configuration(parser)


def _refuse_absent_ids(parser: ConfigParser) -> None:
    request = current_request()
    for argument, name in (request.ids if request else {}).items():
        if name not in parser:
            raise FlagError(
                f"the configuration has no {name!r}, which stands where the command has its {argument}. Several "
                "configuration files are one argument: --config_file \"['a.json','b.json']\"."
            )


def find_cause(error: BaseException | None) -> BaseException | None:
    """The plain problem that ``error`` was raised from, if any."""
    return next((layer for layer in _layers(error) if isinstance(layer, _PLAIN)), None)


def _layers(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from; an error while closing up (``__context__``) is another matter."""
    while error is not None:
        yield error
        error = error.__cause__


def explain(error: BaseException) -> str:
    """One line that says what went wrong: the plain problem, what this package raised, or the first cause of all.

    The kind of an error is named where it is not this package's own word.
    """
    plain = find_cause(error)
    layers = list(_layers(error))
    own = next((layer for layer in reversed(layers) if _raised_here(layer)), None)
    cause = plain or own or layers[-1]
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    if len(lines) > 1:
        text += f" {lines[1]}" + (f" (and {len(lines) - 2} more lines)" if len(lines) > 2 else "")
    return text if cause is plain or cause is own or isinstance(cause, OSError) else f"{type(cause).__name__}: {text}"


def _raised_here(error: BaseException) -> bool:
    """Whether the error was raised by a module of this package."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and str(traceback.tb_frame.f_globals.get("__name__", "")).startswith(f"{__package__}.")


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    cause = find_cause(error)
    if isinstance(cause, KeyboardInterrupt):
        then = str(cause) or "the same command continues from the last checkpoint in output_dir"
        print(f"\ninterrupted: {then}.", file=sys.stderr)
        # the interpreter ends by the signal only if nothing evaluates a string between here and its end: libraries do
        raise SystemExit(128 + signal.SIGINT)
    if not isinstance(error, Exception):
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"\n({SWITCH}=1 shows the whole traceback)\nerror: {conceal(explain(error))}", file=sys.stderr)


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Whether a record of the log says what the last line does not: engines repeat an error for each layer.

    What the log says is concealed: MONAI writes every flag there, a tracking URI with its password, too.
    """
    record.msg, record.args = conceal(record.getMessage()), None
    return "is terminating due to exception" not in str(record.msg)
