"""Rules for genes and tables: which network for a matrix of values without a place in space, and how large.

The names of the choices are ids of the bundles' train.json.
"""

from __future__ import annotations

import math
from typing import Any

from monai_diffscore.composing import network_of
from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.gene_data import CELLS_HELD_OUT, ROWS_HELD_OUT, held_out_share
from monai_diffscore.planning.plan import Budget, Choice, Plan

#: rows below which a network learns them by heart unless it is held back
FEW_ROWS = 1000


def plan_cells(found: Fingerprint, budget: Budget) -> Plan:
    """Single cells: gene attention to a latent space, a decoder of counts."""
    few, share = found.cases < FEW_ROWS, held_out_share(found.cases, CELLS_HELD_OUT)
    whole = found.details["subject"] is None
    held = f"{found.cases} cells, in equal parts of each type" if whole else f"{found.subjects} donors, at least one"
    choices = {
        "latent_size": Choice(24 if few else 32, "numbers that a cell is described by, beside its library size"),
        "subject": _subject(found),
        "validation_share": Choice(share, f"of {held}"),
        "batch_size": Choice(_batch((1 - share) * found.cases, 128), "latents are small: what two cores take at once"),
        "first_stage_epochs": Choice(200, "of the autoencoder, if they take half of the minutes at most"),
    }
    for role in ("label", "batch"):
        name = found.details.get(role)
        choices[f"{role}_key"] = Choice(name, "the column of obs that holds it" if name else "no such column is known")
    choices["covariate_keys"] = Choice(list(found.details.get("covariates") or []), "asked for with --condition")
    total = found.details["total"]
    choices["total_key"] = Choice(total, "totals of whole cells" if total else "the sum of the genes of the file")
    why = "single cells: attention among genes, latents, and a decoder that gives counts"
    return _plan(found, budget, "scrna_attention", why, choices)


def plan_expression(found: Fingerprint, budget: Budget, graph: str | None = None) -> Plan:
    """A matrix of expression: message passing where there is a graph, else a residual MLP."""
    few, share = found.cases < FEW_ROWS, held_out_share(found.cases, ROWS_HELD_OUT)
    training = (1 - share) * found.cases
    repeats = max(1, math.ceil(512 / training))
    choices = {
        "content": Choice(
            found.details["content"], "counts are log-normalised first; other values are taken as they are"
        ),
        "transposed": Choice(
            bool(found.details.get("transposed")),
            "the file has a gene in each row: it is turned" if found.details.get("transposed") else "a gene a column",
        ),
        "label": Choice(found.details.get("label"), "what profiles can be asked for by"),
        "subject": _subject(found),
        "batch": Choice(found.details.get("batch"), "the column of batches, if there is one"),
        "repeats": Choice(repeats, "times that an epoch sees each row, so that it has 512 at least"),
        "validation_share": Choice(share, f"of {found.cases} rows; training stops when their error rises"),
        "batch_size": Choice(
            _batch(training * repeats, 64 if graph is None else 16), "small: more steps in the same time"
        ),
    }
    if graph is not None:
        choices["graph_files"] = Choice(graph, "edges between genes, matched by symbol")
        why = "a graph of genes is given: messages along its edges, and the permuted graph as a control"
        return _plan(found, budget, "pathway_gnn", why, choices, graph)
    wide = 512 if found.channels > 5000 or budget.accelerator else 256
    choices |= {
        "hidden_size": Choice(
            64 if few and found.cases < 200 else wide, f"for {found.channels} genes and {found.cases} rows"
        ),
        "dropout": Choice(0.3 if few else 0.1, "few rows are learned by heart without" if few else "a little"),
    }
    why = "no graph of genes is given: a residual MLP over all of them"
    return _plan(found, budget, "bulk_expression_mlp", why, choices)


def plan_table(found: Fingerprint, budget: Budget) -> Plan:
    """A table of mixed columns."""
    few = found.cases < FEW_ROWS
    choices = {
        "label": Choice(found.details["label"], "what rows can be asked for by"),
        "subject": _subject(found),
        "exclude": Choice(found.details["exclude"], "columns that are not generated"),
        "delimiter": Choice(found.details["delimiter"], "between the cells; null finds out"),
        "missing": Choice(found.details["missing"], "marks of missing values beside the usual ones"),
        "hidden_size": Choice(128 if few else 256, f"for {found.cases} rows"),
        "dropout": Choice(0.2 if few else 0.1, "few rows are learned by heart without" if few else "a little"),
        "validation_share": Choice(
            held_out_share(found.cases, ROWS_HELD_OUT), f"of {found.cases} rows; training stops when their error rises"
        ),
        "batch_size": Choice(256, "rows are small"),
    }
    why = "a table: a residual MLP over scaled numbers and coded categories"
    return _plan(found, budget, "tabular_mlp", why, choices)


def _subject(found: Fingerprint) -> Choice:
    name = found.details["subject"]
    return Choice(name, "rows of one stay together" if name else "each row is taken for a patient of its own")


def _batch(rows: float, most: int) -> int:
    """A power of two, with at least four batches in an epoch, at most ``most``."""
    return max(4, min(most, 2 ** int(math.log2(max(4.0, rows / 4)))))


def _plan(
    found: Fingerprint, budget: Budget, template: str, why: str, choices: dict[str, Any], graph: str | None = None
) -> Plan:
    checkpointing = Choice(graph is not None, "sample by sample: a third of the memory" if graph else "not needed")
    made = {"network": Choice(network_of(template), why), **choices, "checkpointing": checkpointing}
    return Plan.of(found, budget, template, made, graph)
