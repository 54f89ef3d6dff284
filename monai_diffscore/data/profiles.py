"""Data of a model of whole expression profiles: its split, its statistics, its transforms, and its requests.

The statistics ("facts") are one dictionary beside the weights: the fields with the genes in order, mean and standard
deviation of each gene, the quantiles, group means and components of the model, and ``sigma_data``. Sampling,
imputation and likelihood need nothing else of the training data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from monai_diffscore.data.anndata import Expression
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.requests import check_count, numbers_of_each, place_of
from monai_diffscore.data.rows import split_indices
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.group_means import GroupMeansd, measure_group_means, refuse_unlabelled
from monai_diffscore.transforms.normal_scores import NormalScores, NormalScoresd, measure_quantiles
from monai_diffscore.transforms.omics import (
    LogNormalize,
    LogNormalized,
    StandardizeGenes,
    StandardizeGenesd,
    measure_gene_scale,
)
from monai_diffscore.transforms.principal import PrincipalComponentsd, measure_components
from monai_diffscore.transforms.table_column import column_of

logger = logging.getLogger(__name__)


def split_profiles(
    expression: Expression, share: float = 0.2, seed: int = 0, subject: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of training and held-out rows.

    The split is stratified by label if every label has two rows. With ``subject`` (a column of obs, else that of the
    fields) all rows of a subject stay on one side, and the split ignores labels.

    Raises:
        DataError: for an empty side, or a ``subject`` that is no column of obs.
    """
    fields, obs, source = expression.fields, expression.obs, expression.source
    subject = subject or fields.subject
    labels = fields.codes(obs, "label", source) if fields.label else None
    if labels is not None and np.unique(labels, return_counts=True)[1].min() < 2:
        labels = None
    groups = None if subject is None else column_of(obs, subject, "subject", source).astype(str)
    try:
        return split_indices(len(expression), share, seed, labels, groups)
    except ValueError as error:
        raise DataError(
            source, key=subject or fields.label or "rows", got=str(error),
            expected=f"rows for training, and a share of {share:g} held out of them",
            remedy="Give more rows, another --validation_share of the training, or no label."
            if subject is None else "Give rows of more subjects, or another --validation_share of the training.",
        ) from error  # fmt: skip


def measure_profiles(
    expression: Expression,
    rows: Sequence[int] | np.ndarray,
    components: float | None = None,
    normal_scores: bool = False,
    group_means: bool = False,
    **further: Any,
) -> dict[str, Any]:
    """Measures the facts of training rows, for JSON: fields, numbers of features and categories, the arguments of
    :func:`profile_transforms`, sigma_data.

    Args:
        expression: the data; counts are log-normalised first.
        rows: indices of the training rows.
        components: number of principal components of the model's input, or below 1 their share of the training rows;
            None takes all genes.
        normal_scores: transforms each gene to a normal distribution first; the inverse restores its own.
        group_means: subtracts the mean of its label from each gene.
        further: entries to add.
    Raises:
        DataError: for too few rows, or ``group_means`` with rows without a label.
    """
    fields = expression.fields
    blocks = [_log_values(expression, rows[start : start + 512]) for start in range(0, len(rows), 512)]
    scale = measure_gene_scale(blocks)
    roles = [(role, names) for role, names in (("label", fields.labels), ("batch", fields.batches)) if names]
    facts: dict[str, Any] = {
        "sigma_data": scale.sigma_data,
        "num_genes": len(fields.genes),
        "num_features": len(fields.genes),
        "categories": {role: len(names) for role, names in roles},
        "label_counts": _label_counts(expression, rows),
        "rows": scale.rows,
        "fields": fields.as_dict(),
        "mean": _digits(scale.mean),
        "std": _digits(scale.std),
        "normal_scores": None,
        "group_means": None,
        "residual_scale": None,
        "components": None,
    }
    if normal_scores or group_means or components is not None:
        groups = None
        if group_means:
            codes = fields.codes(expression.obs, "label", expression.source) if fields.label else np.empty(0, int)
            refuse_unlabelled(codes, expression.source)
            groups = codes[rows]
        if components is not None:
            components = int(components * len(rows)) if components < 1 else int(components)
        facts |= _measure_shape(np.concatenate(blocks), components, normal_scores, groups, fields.labels)
    return {**facts, **further}


def _label_counts(expression: Expression, rows: Sequence[int] | np.ndarray) -> list[int] | None:
    """Training rows of each label; None without labels."""
    fields = expression.fields
    if not fields.label:
        return None
    codes = fields.codes(expression.obs, "label", expression.source)[np.asarray(rows)]
    return np.bincount(codes[codes >= 0], minlength=len(fields.labels)).tolist()


def _measure_shape(
    values: np.ndarray,
    components: int | None,
    normal_scores: bool,
    groups: np.ndarray | None,
    names: Sequence[str],
) -> dict[str, Any]:
    """Facts of the steps that need all rows at once; each is measured on the output of the step before."""
    facts: dict[str, Any] = {}
    if normal_scores:
        facts["normal_scores"] = measure_quantiles(values).as_dict()
        values = NormalScores(**facts["normal_scores"])(torch.from_numpy(values)).double().numpy()
    if groups is not None:
        means = measure_group_means(values, groups, names)
        facts["group_means"] = [_digits(mean) for mean in means]
        values = values - means[groups]
    if components is None:
        scale = measure_gene_scale([values])
        facts["residual_scale"] = {"mean": _digits(scale.mean), "std": _digits(scale.std)}
        return {**facts, "sigma_data": scale.sigma_data}
    facts["components"] = measure_components(values, components).as_dict()
    return {**facts, "sigma_data": 1.0, "num_features": components}


def _digits(values: Any) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def _log_values(expression: Expression, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    values, totals = expression.matrix(rows)
    dense = np.asarray(values.toarray() if hasattr(values, "toarray") else values)
    if expression.fields.content == "counts":
        dense = LogNormalize()(torch.from_numpy(dense.astype(np.float32)), torch.from_numpy(totals)).numpy()
    return dense


def profile_transforms(facts: Mapping[str, Any], generated: bool = False) -> list[Any]:
    """The transforms of a profile to the model's input: log-normalisation of counts, normal scores, subtraction of
    group means, then scaling or principal components; each only if the model was trained with it.

    Args:
        facts: of :func:`measure_profiles`.
        generated: the profiles are requests or samples, which are logarithms already.
    """
    counts = facts["fields"]["content"] == "counts" and not generated
    steps: list[Any] = [LogNormalized("image")] if counts else []
    if facts.get("normal_scores") is not None:
        steps.append(NormalScoresd("image", **facts["normal_scores"]))
    if facts.get("group_means") is not None:
        steps.append(GroupMeansd("image", facts["group_means"]))
    if facts["components"] is not None:
        return [*steps, PrincipalComponentsd("image", **facts["components"])]
    scale = facts.get("residual_scale") or {name: facts[name] for name in ("mean", "std")}
    return [*steps, StandardizeGenesd("image", **scale)]


def model_fields(facts: Mapping[str, Any], generated: bool = False) -> GeneFields:
    """The fields of the model; those of generated values are continuous."""
    fields = GeneFields(**facts["fields"])
    return replace(fields, content="continuous", layer=None, total=None) if generated else fields


def profile_requests(
    fields: GeneFields,
    count: int,
    per_label: Mapping[str, int] | None = None,
    batch: str | None = None,
    label_counts: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Requests for synthetic profiles: dictionaries of ``image`` [G] zeros, ``seed``, and the conditions as numbers.

    Args:
        fields: of the model.
        count: number of profiles; each label gets its share in the training rows.
        per_label: number of profiles for each label, in place of ``count``.
        batch: name of the batch of all profiles; None leaves it missing.
        label_counts: number of training rows of each label; None gives all labels equal shares.
    Raises:
        DataError: for an unknown label or batch, a label without a training row, or no profiles.
    """
    if fields.labels:
        numbers = numbers_of_each(fields.labels, label_counts, count, per_label)
        codes = [code for code, number in enumerate(numbers) for _ in range(number)]
    else:
        for name in per_label or ():
            place_of(name, ())
        check_count(count)
        codes = [-1] * count
    place = -1 if batch is None else place_of(batch, fields.batches, key="batch")
    condition = {"batch": place} if fields.batches else {}
    return [
        {
            "image": torch.zeros(len(fields.genes)),
            "seed": number,
            **({"label": code} if fields.labels else {}),
            **condition,
        }
        for number, code in enumerate(codes)
    ]


def batch_code(facts: Mapping[str, Any], name: str) -> int:
    """Number of a batch of the model.

    Raises:
        DataError: for an unknown batch.
    """
    batches = list(facts["fields"]["batches"])
    if name not in batches:
        raise DataError(
            "the model", key="batch", expected=f"one of its batches {batches}", got=name,
            remedy="Train with --batch COLUMN of obs, and ask for one of its batches.",
        )  # fmt: skip
    return batches.index(name)


class ObservedProfiles(Dataset):
    """Profiles with some of the model's genes measured.

    Items have ``image`` [G] (the mean for a gene that is not measured), ``observed`` [G], ``measured`` [G] (observed
    values in standard deviations about the mean; 0 elsewhere), ``truth`` [G] (NaN for a gene that the file lacks),
    ``seed`` and ``name``. Image and truth have the scale of the model's input before standardisation. Conditions are
    missing: imputation needs no label.

    Args:
        source: as for :class:`~monai_diffscore.data.Expression`; it may lack genes of the model.
        facts: of the model.
        hidden_share: share of the measured genes to hide, the same in all rows; it measures the error of imputation.
        seed: of the choice of hidden genes.
        transform: of each dictionary.
        options: of :class:`~monai_diffscore.data.Expression`, such as ``transposed``.
    Raises:
        DataError: for data without a gene of the model, or a model of normal scores or without group means.
    """

    def __init__(
        self,
        source: Any,
        facts: Mapping[str, Any],
        hidden_share: float = 0.0,
        seed: int = 0,
        transform: Any = None,
        **options: Any,
    ) -> None:
        fields = model_fields(facts)
        shaped = [name for name in ("normal_scores", "group_means") if facts.get(name) is not None]
        if shaped:
            raise DataError(
                source, expected="a model of genes as they were measured, or of their components",
                got=f"one with {', '.join(shaped)}",
                remedy="Train a model with --normal_scores False --group_means False.",
            )  # fmt: skip
        expression = Expression(source, replace(fields, genes=(), label=None, batch=None, covariates=()), **options)
        measured = {gene: place for place, gene in enumerate(expression.genes)}
        available = torch.tensor([gene in measured for gene in fields.genes])
        if not bool(available.any()):
            raise DataError(
                source, key="genes", expected=f"some of the model's genes, such as {', '.join(fields.genes[:3])}",
                got=", ".join(expression.genes[:3]), remedy="Map the names to those of the model.",
            )  # fmt: skip
        values = torch.from_numpy(_log_values(expression, np.arange(len(expression))).astype(np.float32))
        self.truth = torch.full((len(values), len(fields.genes)), torch.nan)
        self.truth[:, available] = values[:, [measured[gene] for gene in fields.genes if gene in measured]]
        hidden = torch.rand(len(available), generator=torch.Generator().manual_seed(seed)) < hidden_share
        self.observed = available & ~hidden
        self.mean, self.standardise = torch.tensor(facts["mean"]), StandardizeGenes(facts["mean"], facts["std"])
        self.names, self.transform = list(expression.obs.index), transform
        logger.info(f"{int(self.observed.sum())} of {len(available)} genes are observed, the model imputes the others")

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, place: int) -> Any:
        truth = self.truth[place]
        image = torch.where(self.observed, truth, self.mean)
        item = {
            "image": image,
            "observed": self.observed,
            "measured": self.observed * self.standardise(image),
            "truth": truth,
            "seed": place,
            "name": str(self.names[place]),
        }
        return item if self.transform is None else self.transform(item)
