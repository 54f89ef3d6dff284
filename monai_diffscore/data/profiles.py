"""What a model of whole expression profiles is told of its data: which rows train it, the scale of its genes, requests.

The facts are one dictionary, written beside the weights: the fields with the genes in order, mean and standard
deviation of each gene, and ``sigma_data``. Sampling, imputation and likelihood stand on it alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from monai_diffscore.data.anndata import Expression
from monai_diffscore.data.gene_fields import GeneFields, column_of
from monai_diffscore.data.problems import DataError

logger = logging.getLogger(__name__)


def split_profiles(
    expression: Expression, share: float = 0.2, seed: int = 0, subject: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and held-out rows.

    Stratified by label, if every label has two rows; rows of equal ``subject`` (a column of obs) stay together, and are
    then not stratified.

    Raises:
        DataError: if a side would be empty.
    """
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

    rows = np.arange(len(expression))
    fields, options = expression.fields, {"n_splits": 1, "test_size": share, "random_state": seed}
    codes = fields.codes(expression.obs, "label", expression.source) if fields.label else np.zeros(len(rows), int)
    strata = bool(fields.label) and np.unique(codes, return_counts=True)[1].min() >= 2
    try:
        if subject is not None:
            groups = column_of(expression.obs, subject, "subject", expression.source).astype(str)
            train, held_out = next(GroupShuffleSplit(**options).split(rows, groups=groups))
        else:
            train, held_out = next((StratifiedShuffleSplit if strata else ShuffleSplit)(**options).split(rows, codes))
    except ValueError as error:
        raise DataError(
            expression.source, expected=f"rows for training, and a share of {share:g} held out of them", got=str(error),
            remedy="Give more rows, another validation_share, or no label.",
        ) from error  # fmt: skip
    return np.sort(train), np.sort(held_out)


def profile_facts(expression: Expression, scale: Mapping[str, Any], **further: Any) -> dict[str, Any]:
    """The facts of a training: fields, scale of the genes, sigma_data, number of genes and categories, for JSON."""
    fields = expression.fields
    return {
        "sigma_data": scale["sigma_data"],
        "num_genes": len(fields.genes),
        "categories": {role: len(getattr(fields, f"{role}{ending}")) for role, ending in _roles(fields)},
        "rows": scale["rows"],
        "mean": list(scale["mean"]),
        "std": list(scale["std"]),
        "fields": fields.as_dict(),
        **further,
    }


def _roles(fields: GeneFields) -> list[tuple[str, str]]:
    return [(role, ending) for role, ending in (("label", "s"), ("batch", "es")) if getattr(fields, role)]


def profile_requests(
    fields: GeneFields,
    count: int,
    per_label: Mapping[str, int] | None = None,
    batch: str | None = None,
) -> list[dict[str, Any]]:
    """Dictionaries that ask for synthetic profiles: ``image`` [G] zeros, ``seed``, and the conditions as numbers.

    Args:
        fields: of the model.
        count: number of profiles, of any label; a model that has labels spreads them evenly.
        per_label: instead, number of profiles for each label.
        batch: all of this batch; None leaves it missing, which is any.
    Raises:
        DataError: for a label or a batch that the model does not know.
    """
    if per_label is None:
        names: list[str | None] = [
            fields.labels[number * len(fields.labels) // count] if fields.labels else None for number in range(count)
        ]
    else:
        names = [name for name, number in per_label.items() for _ in range(number)]
    for role, known, asked in (("label", fields.labels, names), ("batch", fields.batches, [batch])):
        unknown = sorted({str(name) for name in asked if name is not None and name not in known})
        if unknown:
            raise DataError(
                "the request", key=role, expected=f"one of {list(known)[:20]}", got=", ".join(unknown),
                remedy=f"Ask for a {role} that the model was trained with.",
            )  # fmt: skip
    condition = {"batch": fields.batches.index(batch) if batch is not None else -1} if fields.batches else {}
    return [
        {
            "image": torch.zeros(len(fields.genes)),
            "seed": number,
            **({"label": fields.labels.index(name) if name is not None else -1} if fields.labels else {}),
            **condition,
        }
        for number, name in enumerate(names)
    ]


def observed_genes(genes: Sequence[str], measured: Sequence[str], source: object = "the data") -> torch.Tensor:
    """Which genes of the model were measured, bool [G].

    Raises:
        DataError: if none were.
    """
    there = set(measured)
    observed = torch.tensor([gene in there for gene in genes])
    if not bool(observed.any()):
        raise DataError(
            source, key="genes", expected=f"some of the {len(genes)} genes of the model, such as {list(genes)[:3]}",
            got=f"{list(measured)[:3]}", remedy="Map the names to those of the model.",
        )  # fmt: skip
    logger.info(f"{int(observed.sum())} of {len(genes)} genes of the model were measured; the rest is imputed")
    return observed
