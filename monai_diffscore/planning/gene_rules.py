"""Rules for genes and tables: the network for values without a place in space, and its size.

The names of the choices are ids of the bundles' train.json.
"""

from __future__ import annotations

import math
from typing import Any

from monai_diffscore.composing import network_of
from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.gene_data import CELLS_HELD_OUT, ROWS_HELD_OUT, held_out_share
from monai_diffscore.planning.plan import Budget, Choice, Plan

#: a network memorises fewer rows than this without regularisation
FEW_ROWS = 1000


def plan_cells(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plan for single cells: gene attention to a latent space, and a decoder of counts."""
    few, share = fingerprint.cases < FEW_ROWS, held_out_share(fingerprint.cases, CELLS_HELD_OUT)
    whole = fingerprint.details["subject"] is None
    split = (
        f"{fingerprint.cases} cells, in equal parts of each type"
        if whole
        else f"{fingerprint.subjects} donors, at least one"
    )
    choices = {
        "latent_size": Choice(24 if few else 32, "numbers that describe a cell, beside its library size"),
        "subject": _subject(fingerprint),
        "validation_share": Choice(share, f"of {split}"),
        "batch_size": Choice(_batch((1 - share) * fingerprint.cases, 128), "latents are small: a batch for two cores"),
        "first_stage_epochs": Choice(200, "of the autoencoder, in at most half of the minutes"),
    }
    for role in ("label", "batch"):
        name = fingerprint.details.get(role)
        choices[f"{role}_key"] = Choice(name, "the column of obs that holds it" if name else "obs has no such column")
    choices["covariate_keys"] = Choice(list(fingerprint.details.get("covariates") or []), "asked for with --condition")
    total = fingerprint.details["total"]
    choices["total_key"] = Choice(total, "totals of whole cells" if total else "the sum of the genes of the file")
    why = "single cells: attention among genes, latents, and a decoder that gives counts"
    return _plan(fingerprint, budget, "scrna_attention", why, choices)


def plan_expression(fingerprint: Fingerprint, budget: Budget, graph: str | None = None) -> Plan:
    """The plan for a matrix of expression: message passing on a graph of genes, else a residual MLP."""
    few, share = fingerprint.cases < FEW_ROWS, held_out_share(fingerprint.cases, ROWS_HELD_OUT)
    training = (1 - share) * fingerprint.cases
    repeats = max(1, math.ceil(512 / training))
    choices = {
        "content": Choice(fingerprint.details["content"], "counts are log-normalised first; other values stay"),
        "transposed": Choice(
            bool(fingerprint.details.get("transposed")),
            "the file has a gene in each row and is transposed"
            if fingerprint.details.get("transposed")
            else "the file has a gene in each column",
        ),
        "label": Choice(fingerprint.details.get("label"), "the column that selects profiles when sampling"),
        "subject": _subject(fingerprint),
        "batch": Choice(fingerprint.details.get("batch"), "the column of batches, if there is one"),
        "repeats": Choice(repeats, "times that an epoch sees each row: an epoch has at least 512 rows"),
        "validation_share": Choice(share, f"of {fingerprint.cases} rows; training stops when their error rises"),
        "batch_size": Choice(
            _batch(training * repeats, 64 if graph is None else 16), "small: more steps in the same time"
        ),
    }
    if graph is not None:
        choices["graph_files"] = Choice(graph, "edges between genes, matched by symbol")
        options = fingerprint.details.get("graph_options", {})
        choices |= {f"graph_{name}": Choice(value, "as asked for") for name, value in options.items()}
        why = "with a graph of genes: messages along its edges, and the permuted graph as a control"
        return _plan(fingerprint, budget, "pathway_gnn", why, choices, graph)
    wide = 512 if fingerprint.channels > 5000 or budget.accelerator else 256
    choices |= {
        "hidden_size": Choice(
            64 if few and fingerprint.cases < 200 else wide,
            f"for {fingerprint.channels} genes and {fingerprint.cases} rows",
        ),
        "dropout": Choice(0.3 if few else 0.1, "few rows are memorised without it" if few else "a little"),
    }
    why = "without a graph of genes: a residual MLP over all genes"
    return _plan(fingerprint, budget, "bulk_expression_mlp", why, choices)


def plan_table(fingerprint: Fingerprint, budget: Budget) -> Plan:
    """The plan for a table of mixed columns."""
    few = fingerprint.cases < FEW_ROWS
    choices = {
        "label": Choice(fingerprint.details["label"], "the column that selects rows when sampling"),
        "subject": _subject(fingerprint),
        "exclude": Choice(fingerprint.details["exclude"], "columns that are not generated"),
        "delimiter": Choice(fingerprint.details["delimiter"], "between the cells; null detects it"),
        "missing": Choice(fingerprint.details["missing"], "marks of missing values beside the usual ones"),
        "hidden_size": Choice(128 if few else 256, f"for {fingerprint.cases} rows"),
        "dropout": Choice(0.2 if few else 0.1, "few rows are memorised without it" if few else "a little"),
        "validation_share": Choice(
            held_out_share(fingerprint.cases, ROWS_HELD_OUT),
            f"of {fingerprint.cases} rows; training stops when their error rises",
        ),
        "batch_size": Choice(256, "rows are small"),
    }
    why = "a table: a residual MLP over scaled numbers and coded categories"
    return _plan(fingerprint, budget, "tabular_mlp", why, choices)


def _subject(fingerprint: Fingerprint) -> Choice:
    name = fingerprint.details["subject"]
    return Choice(name, "rows of one subject stay together" if name else "each row counts as a patient")


def _batch(rows: float, most: int) -> int:
    """A power of two, with at least four batches in an epoch, at most ``most``."""
    return max(4, min(most, 2 ** int(math.log2(max(4.0, rows / 4)))))


def _plan(
    fingerprint: Fingerprint, budget: Budget, template: str, why: str, choices: dict[str, Any], graph: str | None = None
) -> Plan:
    checkpointing = Choice(graph is not None, "sample by sample: a third of the memory" if graph else "not needed")
    choices = {"network": Choice(network_of(template), why), **choices, "checkpointing": checkpointing}
    return Plan.of(fingerprint, budget, template, choices, graph)
