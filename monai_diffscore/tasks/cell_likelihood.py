"""How likely each cell is under a model of others: a table, the least likely first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_diffscore.handlers.attach import attach_at_end
from monai_diffscore.tasks.cases import write_rows


class SaveCellLikelihood:
    """Writes what a :class:`~monai_diffscore.inferers.LikelihoodInferer` found for each cell as a table.

    Columns: ``cell``, its conditions by number, ``nats_per_dim`` (of the standardised latent and depth; the least
    likely cells first) and ``standard_error`` of the probes (0 for the exact trace). A latent is likely or not for the
    cells that the model was trained on: doublets, damaged cells and unknown types are at the top of the table.

    Args:
        path: of the CSV file.
        condition_keys: further keys of the batch to be written.
    """

    def __init__(self, path: str | Path, condition_keys: tuple[str, ...] = ()) -> None:
        self.path, self.condition_keys = Path(path), tuple(condition_keys)
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, lambda _engine: self.rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        attach_at_end(engine, self.save)

    def collect(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for number, (nats, error) in enumerate(torch.as_tensor(output["pred"]).tolist()):
            conditions = {key: float(batch[key][number]) for key in self.condition_keys}
            row = {"cell": batch["name"][number], **conditions, "nats_per_dim": nats, "standard_error": error}
            self.rows.append(row)

    def save(self, _engine: Engine) -> None:
        if self.rows:
            write_rows(self.path, sorted(self.rows, key=lambda row: row["nats_per_dim"]))
