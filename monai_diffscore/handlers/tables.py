"""Files of tables: the schema beside a training, and generated rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from monai_diffscore.data.files import file_hash
from monai_diffscore.data.tables import write_table
from monai_diffscore.handlers.collector import Collector, batch_entries
from monai_diffscore.transforms.table_schema import TableSchema

logger = logging.getLogger(__name__)


class SaveSchema:
    """Logs the schema of a table when a training starts, and writes it as JSON that a user may edit.

    Args:
        path: the JSON file.
        schema: schema of the table.
    """

    def __init__(self, path: str | Path, schema: TableSchema) -> None:
        self.path, self.schema = Path(path), schema

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.save)

    def save(self, _engine: Engine) -> None:
        if idist.get_rank() == 0:
            logger.info(
                f"the columns (edit {self.path} and pass it as --schema to change them):\n{self.schema.describe()}"
            )
            self.schema.save(self.path)


class SaveTable(Collector):
    """Writes the predicted rows of an evaluator at its end, with the types, ranges and categories of the schema.

    Args:
        path: the file: .csv, .tsv or .parquet.
        schema: schema of the model. The batch holds the label.
        provenance: origin of the rows: steps, guidance, ...
        checkpoint: file of the weights. Its hash joins the provenance.
        key: key of the rows, as numbers [columns], in the evaluator's output.
    """

    def __init__(
        self,
        path: str | Path,
        schema: TableSchema,
        provenance: Mapping[str, Any] | None = None,
        checkpoint: str | Path | None = None,
        key: str = "pred",
    ) -> None:
        self.path, self.schema, self.key = Path(path), schema, key
        self.provenance, self.checkpoint = dict(provenance or {}), checkpoint

    def records(self, engine: Any) -> list[dict[str, Any]]:
        records = []
        items = engine.state.output
        for item, entry in zip(items, batch_entries(engine.state.batch, len(items)), strict=True):
            record = {"row": np.asarray(convert_to_numpy(item[self.key]), dtype=np.float64)}
            records.append(record | ({"label": float(torch.as_tensor(entry["label"]))} if "label" in entry else {}))
        return records

    def write(self, records: list[dict[str, Any]]) -> None:
        labels = np.array([record["label"] for record in records if "label" in record])
        frame = self.schema.frame(np.stack([record["row"] for record in records]), labels if len(labels) else None)
        weights = {} if self.checkpoint is None else {"model_hash": file_hash(self.checkpoint)}
        write_table(self.path, frame, {**self.provenance, **weights})
