"""Plain errors and checked flags for ``python -m monai.bundle run``.

A bundle runs inside several layers (command line, config expressions, transforms, engine), and each wraps an exception
in one of its own. MONAI takes a mistyped ``--max_epoch`` as a new id that nothing reads. Bundles call
:func:`report_plainly` and :func:`refuse_unknown_flags` first in their ``initialize`` list. They pass
:func:`executed_configuration` to the handlers that record and compare it.

Only MONAI reads the command line. This module takes the merged configuration from the parser of the expression, and the
request from the arguments of MONAI's own call.
"""

from __future__ import annotations

import inspect
import logging
import os
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver, create_workflow
from monai.bundle import run as monai_run

from monai_diffscore.credentials import conceal
from monai_diffscore.data.manifests import MANIFEST
from monai_diffscore.errors import DataError, FlagError, explain, find_cause
from monai_diffscore.flags import refuse_numbers_for_lists, refuse_unknown
from monai_diffscore.interrupts import requeue_when_asked
from monai_diffscore.launcher import refuse_lonely_ranks

SWITCH = "MONAI_DIFFSCORE_TRACEBACK"
_STARTED = time.time()
#: arguments of MONAI's commands, which are no ids
_OWN = {*inspect.signature(monai_run).parameters, "workflow_name", "workflow_type", "properties_path"}


def run_monai(words: Sequence[str]) -> None:
    """Runs ``python -m monai.bundle run WORDS`` in this process, without what MONAI says before it reads a bundle.

    MONAI warns that configurations are executed, and that an overlay lies in another folder. All other warnings stay.
    Errors before the configuration runs end in one line, too.
    """
    warnings.filterwarnings("ignore", message="parsing config_file")
    logging.getLogger("monai.bundle.workflows").addFilter(_is_no_greeting)
    sys.argv = ["monai.bundle", "run", *words]
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def _is_no_greeting(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("Not all config files are in", "Setting logging properties"))


def report_plainly() -> bool:
    """Ends the program with one clear line on every uncaught error and on Ctrl-C.

    ``MONAI_DIFFSCORE_TRACEBACK=1`` shows the whole traceback. After this call SIGTERM and SIGUSR1 end the program with
    exit code 75, "run me again". Inside another Python program it changes no hooks. It returns True, as a config
    expression needs a value.
    """
    if _is_command():
        requeue_when_asked()
        loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
        for handler in {handler for logger in loggers for handler in logger.handlers}:
            handler.addFilter(_without_secrets)
            if not os.environ.get(SWITCH):
                handler.addFilter(_is_of_interest)
        if not os.environ.get(SWITCH):
            sys.excepthook = _one_line
    return True


def _is_command() -> bool:
    """Whether the program is ``python -m monai.bundle ...``."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name == "monai.bundle.__main__"


@dataclass(frozen=True)
class Request:
    """A request to MONAI.

    Attributes:
        files: the configuration files, in order.
        flags: overrides, id to value.
        dropped: ids with the value None, which MONAI ignores.
        ids: ids to initialize, run and finalize, by the names of their arguments.
    """

    files: list[str]
    flags: Mapping[str, Any]
    dropped: list[str]
    ids: Mapping[str, str]


def current_request() -> Request | None:
    """The request of the MONAI call on the stack; None outside of one."""
    command, workflow = _arguments_of(monai_run), _arguments_of(create_workflow)
    if command is None and workflow is None:
        return None
    command = command or {}
    overrides = command.get("override", {})
    flags = {} if workflow is None else {k: v for k, v in workflow.get("_args", {}).items() if k not in _OWN}
    files = (workflow or command).get("config_file") or []
    ids = {name: command[name] for name in ("init_id", "run_id", "final_id") if command.get(name)}
    dropped = [name for name, value in overrides.items() if value is None]
    return Request([files] if isinstance(files, str) else list(files), flags, dropped, ids)


def _frames() -> Iterator[FrameType]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _arguments_of(function: Callable[..., Any]) -> dict[str, Any] | None:
    """Local names of the innermost call of a function on the stack; None if the stack holds none."""
    code = inspect.unwrap(function).__code__
    return next((dict(frame.f_locals) for frame in _frames() if frame.f_code is code), None)


def refuse_unknown_flags() -> bool:
    """Refuses flags that override nothing in the configuration files of the command, and values of another kind.

    A program that builds a workflow states no files: there it refuses one number in place of a list.

    Raises:
        FlagError: names the flag and similar ids.
    """
    request = current_request()
    if request is not None and request.files:
        refuse_unknown(request.files, request.flags, request.dropped, _OWN)
    arguments = _arguments_of(ConfigParser.get_parsed_content)
    if arguments is not None:
        parser: ConfigParser = arguments["self"]
        _keep_number_signs(parser, {} if request is None else request.flags)
        own = Path(str(parser.get("bundle_root", "."))) / "configs"
        files = [own / "train.json", own / "inference.json"]
        refuse_numbers_for_lists(parser.get(), [file for file in files if file.is_file()])
    if arguments is None or not _initializes_a_process_group(arguments["self"]):
        refuse_lonely_ranks()
    return True


def _keep_number_signs(parser: ConfigParser, flags: Mapping[str, Any]) -> None:
    """Gives flags their own text again: MONAI replaces ``#`` by ``::`` in every text, also in the path of a folder."""
    for name, value in flags.items():
        if isinstance(value, str) and "#" in value and not value.startswith(("$", "@", "%")):
            parser.ref_resolver.resolved_content[ReferenceResolver.normalize_id(name)] = value


def _initializes_a_process_group(parser: ConfigParser) -> bool:
    """Whether an overlay for several processes set ``process_group``, and the configuration's ``initialize`` reads it.

    The list reads it after this check.
    """
    return parser.get("process_group") is not None and "@process_group" in parser.get("initialize", ())


class Configuration(dict[str, Any]):
    """The merged configuration that MONAI executes, with the values of its ids.

    Args:
        parser: MONAI's parser of the configuration.
    """

    def __init__(self, parser: ConfigParser) -> None:
        super().__init__(deepcopy({name: value for name, value in parser.get().items() if name != "_meta_"}))
        self._parser = parser

    def evaluated(self, name: str) -> Any:
        """The value of a top-level id that MONAI has evaluated; None otherwise. It evaluates nothing."""
        return self._parser.ref_resolver.resolved_content.get(name)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return deepcopy(dict(self), memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # the parser stays in its process


def executed_configuration() -> Configuration:
    """The executed configuration: all files, overlays and flags, as the parser of this expression merged them.

    Raises:
        FlagError: if the command names an id to initialize, run or finalize that the configuration lacks. MONAI ignores
            such a name; a second file after a space (``--config_file a.json b.json``) is one.
        RuntimeError: outside of a configuration.
    """
    arguments = _arguments_of(ConfigParser.get_parsed_content)
    if arguments is None:
        raise RuntimeError("executed_configuration() stands in a configuration: call it in an expression of one.")
    parser: ConfigParser = arguments["self"]
    report_plainly()  # for configurations whose initialize list MONAI skips
    _refuse_absent_ids(parser)
    refuse_lonely_ranks()
    return Configuration(parser)


def _refuse_absent_ids(parser: ConfigParser) -> None:
    request = current_request()
    for argument, name in (request.ids if request else {}).items():
        if name not in parser:
            raise FlagError(
                f"the command names {name!r} as its {argument}, which the configuration lacks. Several "
                "configuration files are one argument: --config_file \"['a.json','b.json']\"."
            )


def _one_line(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    cause = find_cause(error)
    if isinstance(cause, KeyboardInterrupt):
        remedy = str(cause) or "the same command continues from the last checkpoint in output_dir"
        print(f"\ninterrupted: {remedy}.", file=sys.stderr)
        # KeyboardInterrupt itself would lose the exit code, because libraries run code while the interpreter ends
        raise SystemExit(128 + signal.SIGINT)
    if not isinstance(error, Exception):
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"\n({SWITCH}=1 shows the whole traceback)\n{last_lines(error)}", file=sys.stderr)


def last_lines(error: Exception) -> str:
    """The last line of a command, ``error: ...``, after what the user of a bundle needs to know beside it."""
    lines = [*_about_the_workflow(_workflow_of(error.__traceback__), find_cause(error))]
    return "\n".join([*lines, f"error: {conceal(explain(error))}"])


def _workflow_of(traceback: TracebackType | None) -> ConfigWorkflow | None:
    """The workflow that failed."""
    while traceback is not None:
        workflow = traceback.tb_frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return workflow
        traceback = traceback.tb_next
    return None


def _about_the_workflow(workflow: ConfigWorkflow | None, cause: BaseException | None) -> Iterator[str]:
    """Names older samples in ``output_dir``, and the flag for data that is not there."""
    if workflow is None:
        return
    with suppress(Exception):  # whatever is wrong with an id, the error itself is told
        folder = Path(workflow.parser.get_parsed_content("output_dir"))
        if (folder / MANIFEST).stat().st_mtime < _STARTED:
            yield f"the samples in {folder} are those of an earlier command"
    with suppress(Exception):
        data = Path(workflow.parser.get_parsed_content("dataset_dir")).expanduser()
        if isinstance(cause, DataError) and cause.parts["source"] == str(data) and not data.exists():
            yield "--dataset_dir PATH names the data; a training continues with data that moved, and knows it again"


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Drops log records that repeat the error of the last line, as engines do for each layer."""
    return "is terminating due to exception" not in record.getMessage()


def _without_secrets(record: logging.LogRecord) -> bool:
    """Conceals credentials in all records: MONAI logs every flag, tracking URIs with passwords included."""
    record.msg, record.args = conceal(record.getMessage()), None
    return True
