"""Columns and labels of a plan, as JSON files of the bundle: a configuration never holds names from the data.

A configuration runs some texts (see :mod:`monai_diffscore.data.literals`), and a column may be called ``$ income``. The
planned train.json names these files, and the training reads them.
"""

from __future__ import annotations

from typing import Any

from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.errors import DataError
from monai_diffscore.planning.plan import Plan
from monai_diffscore.transforms.table_schema import TableSchema

#: for each kind of data: the file in ``docs``, the id of train.json with its path, and the choices that the file holds;
#: train.json has these as ids too, for the command line
FILES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "table": ("schema.json", "schema", ("label", "subject", "exclude")),
    "cells": (
        "fields.json",
        "fields_file",
        ("label_key", "batch_key", "covariate_keys", "total_key", "layer", "subject"),
    ),
    "expression": ("fields.json", "fields_file", ("label", "batch", "layer", "subject")),
}


def declared_files(plan: Plan) -> dict[str, dict[str, Any]]:
    """The content of each file of a plan, by its name; empty for images.

    Raises:
        DataError: if an edited plan names unknown columns, or lacks the columns of its table.
    """
    if plan.kind not in FILES:
        return {}
    file, _, names = FILES[plan.kind]
    choices = {name: plan.get(name) for name in names}
    return {file: _schema(plan, choices) if plan.kind == "table" else _fields(choices)}


def _schema(plan: Plan, choices: dict[str, Any]) -> dict[str, Any]:
    try:
        schema = TableSchema.from_dict({**plan.details["schema"], "label": None, "subject": None, "exclude": []})
        return schema.with_choices(choices["label"], choices["subject"], choices["exclude"] or ()).as_dict()
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            plan.data, expected="details.schema with the columns, and label, subject and exclude of it",
            got=f"{type(error).__name__}: {error}", remedy="Correct the plan, or plan again without --from-plan.",
        ) from error  # fmt: skip


def _fields(choices: dict[str, Any]) -> dict[str, Any]:
    """Arguments of :class:`~monai_diffscore.data.gene_fields.GeneFields`; empty roles are left out."""
    roles = {name.removesuffix("_keys").removesuffix("_key"): value for name, value in choices.items() if value}
    if "covariate" in roles:
        roles["covariates"] = roles.pop("covariate")
    return {name: value for name, value in GeneFields(**roles).as_dict().items() if name in roles}
