"""Options of a client: its panel shows them, the app checks them, and they set ids of an overlay.

A panel shows numbers, texts, switches and lists. A list is a choice with its default first, so several numbers are a
text, "0.2, 0.4". The defaults come from the bundle's configuration.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai.bundle import ConfigParser

from lib.conditions import fields_of
from monai_diffscore.data.literals import literal
from monai_diffscore.errors import DataError


@dataclass(frozen=True)
class Option:
    """A number, several numbers or a choice that a request may set.

    Args:
        name: name in the request and in the panel.
        id: id of the configuration that it sets; "" for options of the app itself.
        kind: float or int, for each number.
        low, high: limits of each number.
        several: a list of numbers.
        choices: allowed texts in place of numbers; the first is the default.
        may_be_empty: an empty text means None ("estimate it", or a condition of any value).
    """

    name: str
    id: str = ""
    kind: type = float
    low: float = -math.inf
    high: float = math.inf
    several: bool = False
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False

    def default(self, configuration: ConfigParser) -> Any:
        """The default in the panel."""
        if self.choices:
            return list(self.choices)
        value = configuration.get(self.id) if self.may_be_empty else configuration[self.id]
        if isinstance(value, list):
            return ", ".join(f"{number:g}" for number in value)
        return "" if value is None else value

    def read(self, request_value: Any) -> Any:
        """The value of a request.

        Raises:
            DataError: if the value is not allowed.
        """
        if self.choices:
            value = request_value[0] if isinstance(request_value, list | tuple) and request_value else request_value
            if self.may_be_empty and value == "":
                return None
            if value not in self.choices:
                raise self._wrong(request_value, f"one of {', '.join(self.choices)}")
            return value
        if self.may_be_empty and request_value in ("", None):
            return None
        if self.several:
            parts = request_value.replace(",", " ").split() if isinstance(request_value, str) else request_value
            if not isinstance(parts, Sequence) or not parts:
                raise self._wrong(request_value, "numbers such as '0.2, 0.4'")
            return [self._number(part, request_value) for part in parts]
        return self._number(request_value, request_value)

    def _number(self, value: Any, request_value: Any) -> float | int:
        word = "a whole number" if self.kind is int else "a number"
        expected = f"{word} from {self.low:g} to {self.high:g}"
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise self._wrong(request_value, expected) from None
        if isinstance(value, bool) or not self.low <= number <= self.high or (self.kind is int and number % 1):
            raise self._wrong(request_value, expected)
        return self.kind(number)

    def _wrong(self, request_value: Any, expected: str) -> DataError:
        return DataError(
            "the request",
            key=self.name,
            expected=expected,
            got=repr(request_value),
            remedy="Change the value in params.",
        )


_CONDITION = "condition#"
_TILING = (
    Option("overlap", "overlap", low=0, high=0.9),
    Option("region_size", "region_size", int, low=-1, high=4096, several=True),
)
_SAMPLING = (
    Option("samples", "posterior_samples", int, low=2, high=64),
    Option("steps", "steps", int, low=2, high=1000),
    Option("method", "method", choices=("diffpir", "pigdm", "mmps", "dps")),
    Option("result", choices=("mean", "std")),
    *_TILING,
)
#: options of each task on volumes
OPTIONS: dict[str, tuple[Option, ...]] = {
    "anomaly": (
        Option("noise_levels", "levels", low=1e-3, high=100, several=True),
        Option("noise_pairs", "noise_pairs", int, low=1, high=64),
        Option("threshold", "alpha", low=1e-6, high=0.5),
        Option("min_volume_ml", "min_volume_ml", low=0, high=1e6),
        Option("result", choices=("label", "p", "score")),
        *_TILING,
    ),
    "denoise": (Option("noise_level", "noise_std", low=1e-4, high=10, may_be_empty=True), *_SAMPLING),
    "inpaint": (
        Option("hole_share", "hole_share", low=0.01, high=0.95),
        Option("noise_level", "noise_std", low=1e-4, high=10),
        *_SAMPLING,
    ),
    "super_resolve": (
        Option("factors", "factors", int, low=1, high=16, several=True),
        Option("noise_level", "noise_std", low=1e-4, high=10),
        *_SAMPLING,
    ),
    "translate": (
        Option("samples", "posterior_samples", int, low=2, high=64),
        Option("steps", "steps", int, low=2, high=1000),
        Option("result", choices=("mean", "std", "sample1")),
        *_TILING,
    ),
    "likelihood": (
        Option("patches", "patches", int, low=1, high=1024),
        Option("probes", "probes", int, low=1, high=64),
        Option("likelihood_steps", "likelihood_sigmas#steps", int, low=2, high=1000),
    ),
}


def usable(options: Sequence[Option], configuration: ConfigParser) -> list[Option]:
    """The options whose ids the configuration has, and an option for each condition of the model."""
    present = [option for option in options if not option.id or option.id.split("#")[0] in configuration.get()]
    return present + [_condition(name, field) for name, field in fields_of(configuration).items()]


def _condition(name: str, field: Mapping[str, Any]) -> Option:
    """The option of a field: one of its categories, or a number; empty for any value."""
    choices = ("", *map(str, field["categories"])) if "categories" in field else ()
    return Option(name, f"{_CONDITION}{name}", choices=choices, may_be_empty=True)


def panel(options: Sequence[Option], configuration: ConfigParser) -> dict[str, Any]:
    """The options with their defaults."""
    return {option.name: option.default(configuration) for option in options}


def changes(options: Sequence[Option], request: Mapping[str, Any]) -> dict[str, Any]:
    """The ids that a request sets, and the app's own options by name.

    Raises:
        DataError: for a value that is not allowed, or a mistyped name of an option.
    """
    names = [option.name for option in options]
    for name in request:
        close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.8)
        if name not in names and close:
            raise DataError(
                "the request", key=str(name), expected=f"one of the options {', '.join(names)}", got=f"'{name}'",
                remedy=f"Did you mean {close[0]}?",
            )  # fmt: skip
    values = {
        option.id or option.name: option.read(request[option.name]) for option in options if option.name in request
    }
    conditions = {o.name: values.pop(o.id) for o in options if o.id.startswith(_CONDITION) and o.id in values}
    return {**values, "condition": literal(conditions)} if conditions else values
