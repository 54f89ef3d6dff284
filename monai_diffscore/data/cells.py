"""Data sets of cells: latents to train on, cells with unmeasured genes to impute, and requests to sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from monai_diffscore.data.anndata import Expression, ExpressionRows, stratified_split
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.profiles import split_profiles
from monai_diffscore.data.requests import check_count, numbers_of_each, place_of
from monai_diffscore.errors import DataError


class Encoder(Protocol):
    """Encodes counts as latents, as :class:`~monai_diffscore.networks.counts.CountsAutoencoder` does."""

    training: bool

    def encode(self, counts: Tensor, library: Tensor) -> Tensor: ...

    def parameters(self) -> Any: ...

    def train(self, mode: bool = True) -> Any: ...


class LatentCells(Dataset):
    """The rows of :class:`~monai_diffscore.data.anndata.ExpressionRows` with ``image`` [latent_size + 1], their latent.

    Encodes everything lazily on first access, and keeps the latents. A first stage can train after this data set is
    made and before it is read.

    Args:
        rows: without a transform.
        encoder: of counts and totals.
        batch_size: number of cells in a batch of the encoder.
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
            conditions = {name: value for name, value in batch.items() if name != "image"}
            for number, latent in enumerate(latents):
                items.append({"image": latent, **{name: value[number] for name, value in conditions.items()}})
        self.encoder.train(training)
        return items


class ObservedCells(Dataset):
    """Cells with some of the model's genes measured: ``counts`` and ``observed``.

    Items have ``image`` [latent_size + 1] of zeros, ``counts`` [G] (0 where not observed), ``observed`` [G],
    ``truth`` [G] (NaN for a gene that the file lacks), the conditions (missing for a column that the file lacks),
    ``name`` and ``seed``.

    Args:
        source: as for :class:`~monai_diffscore.data.anndata.Expression`, with any of the model's genes.
        fields: of the model.
        latent_size: of the autoencoder.
        hidden_share: share of the measured genes to hide, which measures the error of imputation.
        seed: of the choice of hidden genes.
        most: number of cells to take, from the first; None takes all.
    Raises:
        DataError: if the file has none of the model's genes.
    """

    def __init__(
        self,
        source: Any,
        fields: GeneFields,
        latent_size: int,
        hidden_share: float = 0.0,
        seed: int = 0,
        most: int | None = None,
    ) -> None:
        plain = Expression(source, GeneFields(layer=fields.layer, gene_key=fields.gene_key))
        places = np.array([plain.genes.index(g) if g in set(plain.genes) else -1 for g in fields.genes])
        if not (places >= 0).any() or not 0 <= hidden_share < 1:
            raise DataError(
                plain.source, key="genes", expected="some of the genes of the model, and 0 <= hidden_share < 1",
                got=f"none of {', '.join(fields.genes[:3])}, ...; hidden_share {hidden_share}",
                remedy="Train with the column of var that has these names: --expression#fields#gene_key COLUMN.",
            )  # fmt: skip
        values, _totals = plain.matrix(np.arange(len(plain) if most is None else min(most, len(plain))))
        dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        truth = np.full((len(dense), len(places)), np.nan, dtype=np.float32)
        truth[:, places >= 0] = dense[:, places[places >= 0]]
        hidden = np.random.default_rng(seed).random(len(places)) < hidden_share
        self.observed = torch.from_numpy((places >= 0) & ~hidden)
        self.truth, self.names = torch.from_numpy(truth), [str(name) for name in plain.obs.index[: len(dense)]]
        self.latent_size = latent_size
        self.conditions = {
            role: torch.as_tensor(fields.codes(plain.obs, role, plain.source), dtype=torch.long)
            if getattr(fields, role) in plain.obs
            else torch.full((len(plain),), -1)
            for role in ("label", "batch")
            if getattr(fields, role)
        }

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {
            "image": torch.zeros(latent_channels(self.latent_size)),
            "counts": torch.where(self.observed, self.truth[place], 0.0),
            "observed": self.observed,
            "truth": self.truth[place],
            **{role: codes[place] for role, codes in self.conditions.items()},
            "name": self.names[place],
            "seed": place,
        }


def split_cells(
    expression: Expression, share: float, seed: int, subject: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into training and validation; holds out ``share`` of each label, or of all rows without labels.

    A label with a single cell stays in training, and so do cells without a label. With ``subject``, or a subject in the
    fields, :func:`~monai_diffscore.data.profiles.split_profiles` holds out a share of the subjects with all their
    cells.

    Raises:
        DataError: for a ``subject`` that is no column of obs, or has a single value.
    """
    subject = subject or expression.fields.subject
    if subject is not None:
        return split_profiles(expression, share, seed, subject)
    fields = expression.fields
    codes = fields.codes(expression.obs, "label", expression.source) if fields.label else np.zeros(len(expression), int)
    counts = np.bincount(codes[codes >= 0], minlength=1)
    candidates = np.flatnonzero((codes >= 0) & (counts[codes] > 1))
    held_count = max(round(share * len(candidates)), 1)
    kinds = len(np.unique(codes[candidates]))
    if held_count < kinds or len(candidates) - held_count < kinds:  # fewer held out than there are labels
        candidates = np.random.default_rng(seed).permutation(len(expression))
        held_out = np.sort(candidates[: max(round(share * len(candidates)), 1)])
    else:
        held_out = candidates[stratified_split(codes[candidates], held_count / len(candidates), seed)[1]]
    return np.setdiff1d(np.arange(len(expression)), held_out), held_out


def cell_statistics(expression: Expression, training: np.ndarray) -> dict[str, Any]:
    """Statistics of the training cells for inference, as JSON.

    ``fields`` (with genes and categories in order), ``num_genes``, ``num_labels``, ``num_batches``, ``label_counts``,
    ``covariates`` (name to [mean, std]), ``cells`` and ``sigma_data``, which is 1 because latents are standardised.
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


def latent_channels(latent_size: int) -> int:
    """The number of channels of a cell's latent: ``latent_size``, and the logarithm of its total."""
    return latent_size + 1


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
        cells_per_type: number of cells for each label.
        num_samples: number of cells without ``cells_per_type``; each label gets its share in the training cells.
        batch: name of the batch that the cells belong to; None leaves it open.
    Raises:
        DataError: for an unknown label or batch, a label or batch without a training cell, or no cells.
    """
    fields = GeneFields(**statistics["fields"])
    if fields.labels:
        training_counts = statistics.get("label_counts")
        numbers = numbers_of_each(fields.labels, training_counts, num_samples, cells_per_type, "cells_per_type")
    else:
        _refuse_unknown(cells_per_type or (), (), "cells_per_type")
        check_count(num_samples)
        numbers = [num_samples]
    conditions: dict[str, Any] = {} if batch is None else {"batch": place_of(batch, fields.batches, key="batch")}
    codes = [code for code, number in enumerate(numbers) for _ in range(number)]
    return [
        {
            "image": torch.zeros(latent_channels(latent_size)),
            "label": code if fields.labels else -1,
            "batch": -1,
            **{name: torch.tensor(torch.nan) for name in fields.covariates},
            **conditions,
            "seed": number,
        }
        for number, code in enumerate(codes)
    ]


def condition_codes(statistics: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, int]:
    """Numbers of named categories of "label" and "batch": ``{"batch": "lane 2"}`` becomes ``{"batch": 1}``.

    Raises:
        DataError: for an unknown category or condition.
    """
    fields = GeneFields(**statistics["fields"])
    categories_of = {"label": fields.labels, "batch": fields.batches}
    _refuse_unknown(names, [name for name, categories in categories_of.items() if categories], "target")
    for name, category in names.items():
        _refuse_unknown([category], categories_of[name], name)
    return {name: categories_of[name].index(category) for name, category in names.items()}


def condition_keys(statistics: Mapping[str, Any]) -> list[str]:
    """The conditions of a model of cells: label and batch if the fields declare them, then the covariates."""
    declared = [name for name in ("label", "batch") if statistics["fields"][name]]
    return declared + list(statistics["covariates"])


def _refuse_unknown(names: Iterable[str], categories: Sequence[str], key: str) -> None:
    unknown = [name for name in names if name not in categories]
    if unknown:
        raise DataError(
            "the request", key=key, expected=f"names among {list(categories)}", got=f"{unknown}",
            remedy="Ask for categories that the model was trained with.",
        )  # fmt: skip
