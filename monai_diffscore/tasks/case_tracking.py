"""A run of MLflow for a task: the numbers of each case."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from monai_diffscore.handlers.tracking import Tracking
from monai_diffscore.tasks.cases import CaseTable


class TrackCases(Tracking):
    """Logs each number of each row of a :class:`~monai_diffscore.tasks.CaseTable`: the step is the number of the case.

    At the end it logs the tables, pictures and JSON files of the task; it does not upload volumes. The run is FAILED if
    a case has no result. A second run of the task in the same folder continues the run of MLflow: its cases follow the
    earlier ones.

    Args:
        uri, folder, options: see :class:`~monai_diffscore.handlers.Tracking`.
        table: table of the cases.
    """

    def __init__(self, uri: str, folder: str | Path, table: CaseTable, **options: Any) -> None:
        super().__init__(uri, folder, **options)
        self.table = table
        self._recorded_rows = 0
        self._first = 0

    def attach(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        engine.add_event_handler(Events.STARTED, self.open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.record_cases)
        engine.add_event_handler(Events.COMPLETED, self.close_with_files)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.close_failed)

    def open(self, engine: Engine) -> None:
        self._first = 1 + max(self.spool.last_steps().values(), default=-1)
        super().open(engine)

    def record_cases(self, engine: Engine) -> None:
        """Logs the new rows."""
        for number, row in enumerate(self.table.rows[self._recorded_rows :], start=self._first + self._recorded_rows):
            self.record(
                {name: value for name, value in row.items() if isinstance(value, int | float) and math.isfinite(value)},
                number,
            )
        self._recorded_rows = len(self.table.rows)

    def close_with_files(self, engine: Engine) -> None:
        self.record_cases(engine)
        for path in sorted(self.table.path.parent.glob("*")):
            if path.suffix in (".csv", ".png") or (path.suffix == ".json" and path.name != "mlflow_run.json"):
                self.log_artifact(path)
        self.close(engine, "FINISHED" if len(self.table.results()) == len(self.table.rows) else "FAILED")

    def close_failed(self, engine: Engine, error: BaseException) -> None:
        if self._courier is not None:
            self.close(engine, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise error
