r"""Imputation of missing cells of a table from the observed cells, by draws of the posterior.

The estimate of a cell is the decoded posterior mean of its encoding: near the median of a number, the likeliest of
several categories. The interval of a number is one standard deviation to either side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from monai_diffscore.atomic_files import write_json
from monai_diffscore.data.tables import write_table
from monai_diffscore.handlers.collector import Collector, concatenated
from monai_diffscore.transforms.table import TableEncoding


class SaveImputedTable(Collector):
    """Writes a table with its gaps filled, and a list of the filled cells.

    - ``imputed.csv``: the whole table, with values in the empty cells of the columns that the model has.
    - ``cells.csv``: each imputed cell: row, column, value; for a number ``low`` and ``high``, one standard deviation to
      either side; ``known``, the true value of a hidden cell.
    - ``imputation.json``, of hidden cells: the root mean squared error of numbers in standard deviations of their
      column, and the share of correct categories; the same for the column's mean or its most frequent category;
      ``rows`` and ``draws`` that are complete.

    After Ctrl-C the last rows may have fewer draws; rows after them keep their gaps.

    Args:
        folder: folder of the files.
        frame: the table.
        encoding: encoding of the model.
    """

    def __init__(self, folder: str | Path, frame: pd.DataFrame, encoding: TableEncoding) -> None:
        self.folder, self.frame, self.encoding = Path(folder), frame, encoding

    def records(self, engine: Any) -> list[dict[str, Any]]:
        batch, output = engine.state.batch, engine.state.output
        draws = torch.full((len(output["pred"]),), engine.inferer.finished_draws)
        values = {"pred": output["pred"], "truth": batch["truth"], "given": batch["given"], "draws": draws}
        return [{name: torch.as_tensor(value).detach().cpu() for name, value in values.items()}]

    def write(self, records: list[dict[str, Any]]) -> None:
        rows = concatenated(records)
        pred, truth, observed, draws = (rows[name].numpy() for name in ("pred", "truth", "given", "draws"))
        decode, mean, std = self.encoding.decode, pred[:, 0], np.nan_to_num(pred[:, 1])
        estimate, low, high = decode(mean), decode(mean - std), decode(mean + std)
        low[draws < 2], high[draws < 2] = np.nan, np.nan
        filled = self._fill(np.where(np.isnan(truth), estimate, truth), np.isnan(truth))
        write_table(self.folder / "imputed.csv", filled, synthetic=False)
        self._cells(estimate, (low, high), truth, observed)
        self._report(estimate, truth, ~observed & ~np.isnan(truth), draws)

    def _fill(self, numbers: np.ndarray, empty: np.ndarray) -> pd.DataFrame:
        """The table with values in the empty cells of the finished rows."""
        filled, values = self.frame.copy(), self.encoding.schema.frame(numbers)
        for place, column in enumerate(self.encoding.schema.features):
            if empty[:, place].any():
                cells = filled[column.name].to_numpy(dtype=object, copy=True)
                rows = np.flatnonzero(empty[:, place])
                cells[rows] = values[column.name].to_numpy(dtype=object)[rows]
                filled[column.name] = cells
        return filled

    def _cells(
        self, estimate: np.ndarray, ends: tuple[np.ndarray, np.ndarray], truth: np.ndarray, observed: np.ndarray
    ) -> None:
        names = ["value", "low", "high", "known"]
        frames = [self.encoding.schema.frame(numbers) for numbers in (estimate, *ends, truth)]
        parts = []
        for place, column in enumerate(self.encoding.schema.features):
            rows = np.flatnonzero(~observed[:, place])
            part: dict[str, Any] = {"row": rows, "column": column.name}
            for name, frame in zip(names, frames, strict=True):
                defined = column.numeric or name in ("value", "known")
                part[name] = frame[column.name].astype(object).to_numpy()[rows] if defined else None
            parts.append(pd.DataFrame(part, dtype=object))
        write_table(self.folder / "cells.csv", pd.concat(parts, ignore_index=True), synthetic=False)

    def _report(self, estimate: np.ndarray, truth: np.ndarray, hidden: np.ndarray, draws: np.ndarray) -> None:
        report: dict[str, Any] = {"rows": len(estimate), "draws": int(draws.min()), "hidden_cells": int(hidden.sum())}
        errors: list[np.ndarray] = []
        right: list[np.ndarray] = []
        for place, column in enumerate(self.encoding.schema.features):
            rows = hidden[:, place]
            estimates, truths = estimate[rows, place], truth[rows, place]
            if column.numeric and column.std:
                errors.append(np.stack([estimates - truths, (column.mean or 0.0) - truths]) / column.std)
            elif not column.numeric:
                right.append(np.stack([estimates == truths, np.argmax(column.shares) == truths]))
        for names, parts in ((("rmse", "rmse_of_mean"), errors), (("accuracy", "accuracy_of_most_frequent"), right)):
            values = np.concatenate(parts, axis=1) if parts else np.empty((2, 0))
            if values.shape[1]:
                each = np.sqrt(np.square(values).mean(1)) if parts is errors else values.mean(1)
                report |= {name: float(value) for name, value in zip(names, each, strict=True)}
        write_json(self.folder / "imputation.json", report)
