"""Generated expression profiles as files: a table, and AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.utils import convert_to_tensor

from monai_diffscore.atomic_files import whole_file
from monai_diffscore.data.anndata import write_expression
from monai_diffscore.data.files import file_hash
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.handlers.collector import Collector, batch_entries


class SaveProfiles(Collector):
    """Writes the predictions of an evaluator at its end, in the units of the data: <stem>.csv and <stem>.h5ad.

    Each profile is a row. The columns of the table are the conditions, then the genes.

    Args:
        stem: path of both files without their ending.
        fields: genes, labels and batches of the model.
        provenance: origin of the profiles, for ``uns``: steps, guidance, ...
        checkpoint: file of the weights. Its hash joins the provenance.
        table: also write the table.
        key: key of the profiles in the evaluator's output.
    """

    def __init__(
        self,
        stem: str | Path,
        fields: GeneFields,
        provenance: Mapping[str, Any] | None = None,
        checkpoint: str | Path | None = None,
        table: bool = True,
        key: str = "pred",
    ) -> None:
        self.stem, self.fields, self.table, self.key = Path(stem), fields, table, key
        self.provenance, self.checkpoint = dict(provenance or {}), checkpoint

    def records(self, engine: Any) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        items = engine.state.output
        for item, entry in zip(items, batch_entries(engine.state.batch, len(items)), strict=True):
            values = convert_to_tensor(item[self.key], track_meta=False).detach().cpu().float().numpy()
            codes = {role: int(entry[role]) for role in ("label", "batch") if role in entry}
            records.append({"values": values} | codes)
        return records

    def write(self, records: list[dict[str, Any]]) -> None:
        names = {"label": (self.fields.label, self.fields.labels), "batch": (self.fields.batch, self.fields.batches)}
        obs = pd.DataFrame(index=range(len(records)))
        for role, (column, categories) in names.items():
            if column is not None and role in records[0]:
                codes = [record[role] for record in records]
                obs[column] = pd.Categorical.from_codes(codes, list(categories))  # -1 is missing
        values = np.stack([record["values"] for record in records])
        weights = {} if self.checkpoint is None else {"model_hash": file_hash(self.checkpoint)}
        provenance = {**self.provenance, **weights}
        write_expression(self.stem.with_suffix(".h5ad"), values, self.fields, obs=obs, provenance=provenance)
        if self.table:
            frame = pd.concat([obs, pd.DataFrame(values, columns=list(self.fields.genes))], axis=1)
            frame.index = pd.Index([f"synthetic_{number}" for number in range(len(frame))])
            with whole_file(self.stem.with_suffix(".csv")) as file:
                file.write(frame.to_csv(float_format="%.5g").encode())
