"""The likelihood of each cell under a model of other cells: a table, the least likely first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from monai_diffscore.handlers.collector import Collector
from monai_diffscore.tasks.cases import write_rows


class SaveCellLikelihood(Collector):
    """Writes the likelihood of each cell by a :class:`~monai_diffscore.inferers.LikelihoodInferer` as a table.

    Columns: ``cell``, its conditions by number, ``nats_per_dim`` (of the standardised latent and depth; the least
    likely cells first) and ``standard_error`` of the probes (0 for the exact trace). The likelihood refers to
    the training cells: doublets, damaged cells and unknown types are at the top of the table.

    Args:
        path: the CSV file.
        condition_keys: further keys of the batch to write.
    """

    def __init__(self, path: str | Path, condition_keys: tuple[str, ...] = ()) -> None:
        self.path, self.condition_keys = Path(path), tuple(condition_keys)

    def records(self, engine: Any) -> Iterator[dict[str, Any]]:
        batch, output = engine.state.batch, engine.state.output
        for number, (nats, error) in enumerate(torch.as_tensor(output["pred"]).tolist()):
            conditions = {key: float(batch[key][number]) for key in self.condition_keys}
            yield {"cell": batch["name"][number], **conditions, "nats_per_dim": nats, "standard_error": error}

    def write(self, records: list[dict[str, Any]]) -> None:
        write_rows(self.path, sorted(records, key=lambda row: row["nats_per_dim"]))
