"""The declaration of expression data: its layer, its genes in order, and the labels of its rows.

The declaration is saved beside the weights, and checks other data of the model: a missing gene or an unknown category
is an error that names it. It corrects the order of genes, and never fills in values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_diffscore.atomic_files import write_json
from monai_diffscore.data.matrices import refuse_repeated
from monai_diffscore.errors import DataError
from monai_diffscore.transforms.table_column import column_of

CONTENTS = ("counts", "continuous")


@dataclass(frozen=True)
class GeneFields:
    """The declaration of expression data, saved with the model.

    Args:
        layer: "X", "raw" or a name in ``layers``. None takes the first of ``layers['counts']``, ``raw`` and ``X`` with
            the declared ``content``.
        label: column of ``obs`` with the class as a condition, such as the cell type; None for none.
        batch: column of ``obs`` with the batch; None for none.
        covariates: columns of ``obs`` with numbers; NaN is missing.
        total: column of ``obs`` with the total count of each whole cell; None sums all genes of the file.
        gene_key: column of ``var`` with the names; None takes ``var_names``.
        subject: column of ``obs`` with the donor or patient, whose rows stay on one side of a split; None for none.
        content: "counts" (integers from 0; others are an error) or "continuous" (RMA, log-CPM, ...).
        genes, labels, batches: names in the order of the model; :meth:`measured` takes them from the data.
    Raises:
        ValueError: for an unknown content.
    """

    layer: str | None = None
    label: str | None = None
    batch: str | None = None
    covariates: tuple[str, ...] = ()
    total: str | None = None
    gene_key: str | None = None
    content: str = "counts"
    genes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()
    subject: str | None = None

    def __post_init__(self) -> None:
        if self.content not in CONTENTS:
            raise ValueError(f"GeneFields expects the content to be one of {CONTENTS}, got {self.content!r}.")
        for name in ("covariates", "genes", "labels", "batches"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists

    @property
    def condition_keys(self) -> list[str]:
        """Keys of the conditions in the dictionaries of :class:`ExpressionRows`."""
        roles = [role for role in ("label", "batch") if getattr(self, role)]
        return [*roles, *self.covariates]

    def measured(self, obs: pd.DataFrame, genes: Sequence[str], source: object = "AnnData") -> GeneFields:
        """The fields with the names of genes, labels and batches from the data, where the fields lack them.

        Categories keep the order of a categorical column; others are sorted.
        """
        categories: dict[str, Any] = {
            name: getattr(self, name) or tuple(_categories(column_of(obs, getattr(self, role), role, source)))
            for role, name in (("label", "labels"), ("batch", "batches"))
            if getattr(self, role)
        }
        return replace(self, genes=self.genes or tuple(genes), **categories)

    def gene_places(self, genes: Sequence[str], source: object = "AnnData") -> np.ndarray:
        """Places [G] of the model's genes in ``genes``, which may contain others.

        Raises:
            DataError: for missing or repeated genes; names them.
        """
        refuse_repeated(list(genes), source, "gene")
        places = pd.Index(genes).get_indexer(list(self.genes))
        missing = [gene for gene, place in zip(self.genes, places, strict=True) if place < 0]
        if missing:
            lower = {gene.lower() for gene in genes}
            alike = sum(gene.lower() in lower for gene in missing)
            raise DataError(
                source,
                key="genes",
                expected=f"the {len(self.genes)} genes of the model",
                got=f"{len(missing)} missing: {', '.join(missing[:12])}{', ...' if len(missing) > 12 else ''}; "
                f"the data has {len(genes)}, such as {', '.join(list(genes)[:3])}",
                remedy=f"{alike} differ in upper and lower case alone (mouse and human symbols?)."
                if alike
                else "Map the names to those of the model (symbols or Ensembl ids), or impute genes that "
                "were not measured: the task impute treats them as unobserved; a zero would be a measurement.",
            )
        return places

    def codes(self, obs: pd.DataFrame, role: str, source: object = "AnnData") -> np.ndarray:
        """Numbers [N] of the categories of all rows, -1 for a missing one; ``role`` is "label" or "batch".

        Raises:
            DataError: for an unknown category, or a missing column.
        """
        categories = self.labels if role == "label" else self.batches
        column = column_of(obs, getattr(self, role), role, source)
        names = column.astype(object).where(column.notna(), None)
        codes = pd.Index(categories).get_indexer([None if name is None else str(name) for name in names])
        unknown = sorted({str(n) for n, code in zip(names, codes, strict=True) if code < 0 and n is not None})
        if unknown:
            raise DataError(
                source,
                key=role,
                expected=f"one of {list(categories)[:20]} in obs[{getattr(self, role)!r}], or missing",
                got=", ".join(unknown[:12]),
                remedy="Rename the categories to the model's, set them to missing, or train with them.",
            )
        return codes

    def as_dict(self) -> dict[str, Any]:
        """The arguments, for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def save(self, path: str | Path) -> None:
        """Writes the fields as JSON, whole or not at all."""
        write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: str | Path) -> GeneFields:
        """Reads a file of :meth:`save`.

        Raises:
            DataError: for a missing file, or another content.
        """
        expected, remedy = "the gene fields that training writes beside the weights", "Train first, or give its path."
        if not Path(path).is_file():
            raise DataError(path, key="fields", expected=expected, got="no such file", remedy=remedy)
        try:
            return cls(**json.loads(Path(path).read_text()))
        except (TypeError, ValueError) as error:
            raise DataError(path, key="fields", expected=expected, got=str(error), remedy=remedy) from error


def find_fields(path: str | Path | None = None, **overrides: Any) -> GeneFields:
    """The fields of a file, or the defaults without a path; the ``overrides`` that are not empty replace them.

    Names of columns belong in such a file: a configuration would run some names as programs.

    Args:
        path: of :meth:`GeneFields.save`.
        overrides: arguments of :class:`GeneFields`.
    """
    fields = GeneFields() if path is None else GeneFields.load(path)
    return replace(fields, **{name: value for name, value in overrides.items() if value not in (None, (), [])})


def _categories(column: pd.Series) -> list[str]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return [str(category) for category in column.cat.categories]
    return sorted(map(str, column.dropna().unique()))
