"""Rules for genes and tables: which network for a matrix of values without a place in space."""

from __future__ import annotations

from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.plan import Budget, Choice, Plan
from monai_diffscore.planning.templates import template_folder


def plan_cells(found: Fingerprint, budget: Budget) -> Plan:
    """Single cells: gene attention in a latent space, a decoder of counts."""
    return _plan(found, budget, "scrna_attention", "single cells: attention over genes, a decoder that gives counts")


def plan_expression(found: Fingerprint, budget: Budget, graph: str | None = None) -> Plan:
    """A matrix of expression: message passing where there is a graph, else a residual MLP."""
    if graph is None:
        return _plan(
            found, budget, "bulk_expression_mlp", "no graph of genes is given: a residual MLP over all of them"
        )
    plan = _plan(found, budget, "pathway_gnn", f"a graph of genes is given ({graph}): messages along its edges")
    return Plan(**{**vars(plan), "graph": graph})


def plan_table(found: Fingerprint, budget: Budget) -> Plan:
    """A table of mixed columns."""
    return _plan(found, budget, "tabular_mlp", "a table: a residual MLP over scaled numbers and embedded categories")


def _plan(found: Fingerprint, budget: Budget, template: str, why: str) -> Plan:
    template_folder(template)
    return Plan(
        data=found.data,
        kind=found.kind,
        template=template,
        choices={"template": Choice(template, why)},
        budget=budget,
        left_out=found.left_out,
        conditions=found.conditions,
        modality=found.modality,
        channels=found.channels,
        details=dict(found.details),
    )
