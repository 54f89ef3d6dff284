"""The plan: every choice that a bundle embodies, each with its reason; JSON that a person may edit.

``choices`` maps a name to ``{"value": ..., "reason": ...}``. Edit the values and give the file to ``--from-plan``: the
rules are not asked again, the bundle is written with the values as they stand, and measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_diffscore.data.volumes import split_by_subject
from monai_diffscore.errors import DataError
from monai_diffscore.planning.fingerprint import Fingerprint


@dataclass(frozen=True)
class Choice:
    """A value, and why it is that one."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Budget:
    """What a training may take: 10^9 bytes of memory, and minutes; on an accelerator or on processors."""

    memory_gb: float = 8.0
    minutes: float = 30.0
    accelerator: bool = False

    def __post_init__(self) -> None:
        if not (self.memory_gb > 0 and self.minutes > 0):
            raise ValueError(
                f"--memory-gb and --minutes must be positive, got {self.memory_gb} and {self.minutes}: "
                "state what the training may take."
            )

    @property
    def compute(self) -> float:
        """Minutes of a few processor cores; an accelerator does about fifty times as much."""
        return self.minutes * (50 if self.accelerator else 1)


@dataclass(frozen=True)
class Plan:
    """Choices for a data set.

    Attributes:
        data: absolute path.
        kind: of the data.
        template: the shipped bundle that is nearest.
        choices: by name.
        budget: what they are to fit.
        left_out: files and folders below ``data`` that are not trained on.
        conditions: declared fields and the table that holds them; empty without any.
        held_out: names of the subjects that the seed and the share hold out, where there are few enough to name.
        graph: absolute path of the edges of a gene graph, if there is one.
        measured: what a trial on this machine took, beside its estimate.
        modality: of the data, as in the fingerprint.
        channels: of the data.
        details: facts of the data that the bundle states.
    """

    data: str
    kind: str
    template: str
    choices: dict[str, Choice]
    budget: Budget = field(default_factory=Budget)
    left_out: list[str] = field(default_factory=list)
    conditions: dict[str, Any] = field(default_factory=dict)
    held_out: list[str] = field(default_factory=list)
    graph: str | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    modality: str = ""
    channels: int = 1
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        found: Fingerprint,
        budget: Budget,
        template: str,
        choices: dict[str, Choice],
        graph: str | None = None,
    ) -> Plan:
        """The plan for a fingerprint; who is held out follows from its names and the chosen share."""
        held_out: list[str] = []
        if len(found.names) > 1:
            cases = [{"subject": name} for name in found.names]
            held_out = [case["subject"] for case in split_by_subject(cases, choices["validation_share"].value, 0)[1]]
        return cls(
            data=found.data,
            kind=found.kind,
            template=template,
            choices=choices,
            budget=budget,
            left_out=found.left_out,
            conditions=found.conditions,
            held_out=held_out,
            graph=graph,
            modality=found.modality,
            channels=found.channels,
            details={"sigma_data": found.sigma_data, **found.details},
        )

    def __getitem__(self, name: str) -> Any:
        return self.choices[name].value

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a choice, or ``default`` where the kind of data has no such choice."""
        return self.choices[name].value if name in self.choices else default

    def but(self, **changed: tuple[Any, str]) -> Plan:
        """The same with other choices: ``name=(value, reason)``."""
        return replace(self, choices={**self.choices, **{name: Choice(*made) for name, made in changed.items()}})

    def to_json(self) -> str:
        """As JSON, four spaces to a level."""
        return json.dumps(asdict(self), indent=4) + "\n"

    @classmethod
    def from_file(cls, path: str | Path) -> Plan:
        """Reads a plan, perhaps edited by hand.

        Raises:
            DataError: if it is not one.
        """
        try:
            facts: Mapping[str, Any] = json.loads(Path(path).read_text())
            choices = {name: Choice(choice["value"], choice["reason"]) for name, choice in facts["choices"].items()}
            given = {name: fact for name, fact in facts.items() if name not in ("choices", "budget")}
            return cls(**given, choices=choices, budget=Budget(**facts.get("budget", {})))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                path,
                key="plan",
                expected="a plan that this command wrote, with value and reason in each choice",
                got=f"{type(error).__name__}: {error}",
                remedy="Correct it, or plan anew without --from-plan.",
            ) from error
