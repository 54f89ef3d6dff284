"""Cells as the latents that a score model learns, and the cells that are asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from monai_diffscore.data.anndata import Expression, ExpressionRows, stratified_split
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.problems import DataError


class Encoder(Protocol):
    """What makes latents of counts: a :class:`~monai_diffscore.networks.counts.CountsAutoencoder`."""

    training: bool

    def encode(self, counts: Tensor, library: Tensor) -> Tensor: ...

    def parameters(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...


class LatentCells(Dataset):
    """The rows of :class:`~monai_diffscore.data.anndata.ExpressionRows` with ``image`` [latent_size + 1], their latent.

    All are encoded at the first look at one, with the weights that the encoder has then, and kept: a first stage can be
    trained between making this data set and reading it.

    Args:
        rows: without a transform.
        encoder: of counts and totals.
        batch_size: cells encoded at once.
    """

    def __init__(self, rows: ExpressionRows, encoder: Encoder, batch_size: int = 256) -> None:
        self.rows, self.encoder, self.batch_size = rows, encoder, batch_size
        self._items: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        if self._items is None:
            self._items = self._encode()
        return dict(self._items[place])

    @torch.no_grad()
    def _encode(self) -> list[dict[str, Any]]:
        training, device = self.encoder.training, next(self.encoder.parameters()).device
        self.encoder.train(False)
        items: list[dict[str, Any]] = []
        for batch in DataLoader(self.rows, self.batch_size):
            latents = self.encoder.encode(batch["image"].to(device), batch["library"].to(device)).cpu()
            kept = {name: value for name, value in batch.items() if name != "image"}
            for number, latent in enumerate(latents):
                items.append({"image": latent, **{name: value[number] for name, value in kept.items()}})
        self.encoder.train(training)
        return items


def split_cells(expression: Expression, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for training and for validation, ``share`` of each label held out; at random without labels.

    Labels of a single cell, of which nothing can be held out, are for training, like cells without one.
    """
    fields = expression.fields
    codes = fields.codes(expression.obs, "label", expression.source) if fields.label else np.zeros(len(expression), int)
    counts = np.bincount(codes[codes >= 0], minlength=1)
    able = np.flatnonzero((codes >= 0) & (counts[codes] > 1))
    held = max(round(share * len(able)), 1)
    kinds = len(np.unique(codes[able]))
    if held < kinds or len(able) - held < kinds:  # fewer held out than there are labels
        able = np.random.default_rng(seed).permutation(len(expression))
        held_out = np.sort(able[: max(round(share * len(able)), 1)])
    else:
        held_out = able[stratified_split(codes[able], held / len(able), seed)[1]]
    return np.setdiff1d(np.arange(len(expression)), held_out), held_out


def cell_statistics(expression: Expression, training: np.ndarray) -> dict[str, Any]:
    """What inference needs to know of the training cells, for JSON.

    ``fields`` (with genes and categories in order), ``num_genes``, ``num_labels``, ``num_batches``, ``label_counts``,
    ``covariates`` (name to [mean, std]), ``cells`` and ``sigma_data``, which is 1: latents are standardised.
    """
    fields, rows = expression.fields, ExpressionRows(expression, training)
    labels = rows.conditions["label"][torch.as_tensor(training)] if fields.label else torch.zeros(0, dtype=torch.long)
    covariates = {}
    for name in fields.covariates:
        values = rows.conditions[name][torch.as_tensor(training)]
        values = values[~values.isnan()]
        covariates[name] = [float(values.mean()), max(float(values.std()), 1e-3)]
    return {
        "sigma_data": 1.0,
        "num_genes": len(fields.genes),
        "num_labels": len(fields.labels),
        "num_batches": len(fields.batches),
        "label_counts": torch.bincount(labels[labels >= 0], minlength=len(fields.labels)).tolist(),
        "covariates": covariates,
        "cells": len(training),
        "fields": fields.as_dict(),
    }


def requested_cells(
    statistics: Mapping[str, Any],
    latent_size: int,
    cells_per_type: Mapping[str, int] | None = None,
    num_samples: int = 0,
    batch: str | None = None,
) -> list[dict[str, Any]]:
    """Dictionaries of the cells to sample: an empty ``image`` [latent_size + 1], the conditions, and ``seed``.

    Args:
        statistics: of :func:`cell_statistics`.
        latent_size: of the autoencoder.
        cells_per_type: label to number of cells.
        num_samples: without it, this many cells, of each label as many as its share in the training cells says.
        batch: name of the batch that they are to look like; None is none in particular.
    Raises:
        DataError: for a label or batch that the model does not know.
    """
    fields = GeneFields(**statistics["fields"])
    if cells_per_type is None:
        numbers = _apportion(statistics["label_counts"], num_samples) if fields.labels else [num_samples]
    else:
        _refuse_unknown(cells_per_type, fields.labels, "cells_per_type")
        numbers = [int(cells_per_type.get(label, 0)) for label in fields.labels]
    if batch is not None:
        _refuse_unknown([batch], fields.batches, "batch")
    conditions: dict[str, Any] = {} if batch is None else {"batch": fields.batches.index(batch)}
    codes = [code for code, number in enumerate(numbers) for _ in range(number)]
    return [
        {
            "image": torch.zeros(latent_size + 1),
            "label": code if fields.labels else -1,
            "batch": -1,
            **{name: torch.tensor(torch.nan) for name in fields.covariates},
            **conditions,
            "seed": number,
        }
        for number, code in enumerate(codes)
    ]


def _apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to ``weights`` that sum to ``total``, by largest remainders."""
    exact = np.asarray(weights, dtype=float) / max(sum(weights), 1) * total
    numbers = np.floor(exact).astype(int)
    for place in np.argsort(numbers - exact, kind="stable")[: total - numbers.sum()]:
        numbers[place] += 1
    return [int(number) for number in numbers]


def _refuse_unknown(asked: Sequence[str] | Mapping[str, int], known: Sequence[str], key: str) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise DataError(
            "the request", key=key, expected=f"names among {list(known)}", got=f"{unknown}",
            remedy="Ask for categories that the model was trained with.",
        )  # fmt: skip
