"""The plan: every choice of a bundle with its reason, as JSON that a user may edit.

``choices`` maps a name to ``{"value": ..., "reason": ...}``. A user edits the values and passes the
file to ``--from-plan``. The command then writes the bundle with these values and measures it; no rule runs again.
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
    """A value and its reason."""

    value: Any
    reason: str


@dataclass(frozen=True)
class Budget:
    """The limits of a training: memory in 10^9 bytes, and minutes, on an accelerator or on processors."""

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
        """Minutes of a few processor cores. An accelerator counts fifty times."""
        return self.minutes * (50 if self.accelerator else 1)


@dataclass(frozen=True)
class Plan:
    """The choices for a data set.

    Attributes:
        data: absolute path.
        kind: of the data.
        template: the nearest shipped bundle.
        choices: by name.
        budget: limits that the choices respect.
        left_out: files and folders below ``data`` that are not trained on.
        conditions: declared fields and their table; empty without conditions.
        held_out: names of the held-out subjects; empty if they are too many to name.
        graph: absolute path of the edges of a gene graph, or None.
        measured: memory and seconds of a trial on this machine, and their estimates.
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
        fingerprint: Fingerprint,
        budget: Budget,
        template: str,
        choices: dict[str, Choice],
        graph: str | None = None,
    ) -> Plan:
        """The plan for a fingerprint. The names and the chosen share decide which subjects are held out."""
        held_out: list[str] = []
        if len(fingerprint.names) > 1:
            cases = [{"subject": name} for name in fingerprint.names]
            held_out = [case["subject"] for case in split_by_subject(cases, choices["validation_share"].value, 0)[1]]
        return cls(
            data=fingerprint.data,
            kind=fingerprint.kind,
            template=template,
            choices=choices,
            budget=budget,
            left_out=fingerprint.left_out,
            conditions=fingerprint.conditions,
            held_out=held_out,
            graph=graph,
            modality=fingerprint.modality,
            channels=fingerprint.channels,
            details={"sigma_data": fingerprint.sigma_data, **fingerprint.details},
        )

    def __getitem__(self, name: str) -> Any:
        return self.choices[name].value

    def __contains__(self, name: str) -> bool:
        return name in self.choices

    @property
    def whole(self) -> bool:
        """Whether the model is one of whole volumes."""
        return "sample_size" in self.choices

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a choice; ``default`` where the kind of data lacks it."""
        return self.choices[name].value if name in self.choices else default

    def with_choices(self, **changes: tuple[Any, str]) -> Plan:
        """The plan with other choices: ``name=(value, reason)``."""
        changed = {name: Choice(*pair) for name, pair in changes.items()}
        return replace(self, choices={**self.choices, **changed})

    def to_json(self) -> str:
        """As JSON, four spaces to a level."""
        return json.dumps(asdict(self), indent=4) + "\n"

    @classmethod
    def from_file(cls, path: str | Path) -> Plan:
        """Reads a plan, as written or edited by hand.

        Raises:
            DataError: if the file is no plan.
        """
        try:
            facts: Mapping[str, Any] = json.loads(Path(path).read_text())
            choices = {name: Choice(choice["value"], choice["reason"]) for name, choice in facts["choices"].items()}
            others = {name: fact for name, fact in facts.items() if name not in ("choices", "budget")}
            return cls(**others, choices=choices, budget=Budget(**facts.get("budget", {})))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                path,
                expected="a plan that this command wrote, with value and reason in each choice",
                got=f"{type(error).__name__}: {error}",
                remedy="Correct it, or plan again without --from-plan.",
            ) from error
