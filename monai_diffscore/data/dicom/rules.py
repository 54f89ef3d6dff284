"""The repairs that the strict reader may make: none, unless an option names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

_CHOICES = {"on_gap": ("refuse", "resample"), "on_duplicate": ("refuse", "drop"), "on_tilt": ("refuse", "resample")}


@dataclass(frozen=True)
class ReadingRules:
    """Opt-ins and tolerances of the strict reader; its report names each that takes effect.

    Args:
        on_gap: "resample" interpolates missing or unevenly spaced slices linearly, on a grid of the smallest step.
        on_duplicate: "drop" keeps one of several slices of one position if their pixels are equal, byte by byte.
        on_tilt: "resample" moves the slices of a tilted gantry back over each other by linear interpolation.
        assume_intercept: RescaleIntercept (with slope 1) of a CT whose files have none, in HU; often -1024.
        spacing_tolerance: largest difference between the steps of slices, as a share of their mean. 0.02 accepts
            scanners that round their positions (a clinical MR of 7 mm: 6.96 to 7.07) and refuses every missing slice.
        tilt_tolerance_degrees: largest angle between the step and the normal of the slices that is no tilt; the affine
            of a smaller angle keeps the true step, with its shear.
        padding_hu: value of undeclared padding outside the field of view, in HU.
        air_hu: value that replaces padding in CT, in HU. In other modalities 0 replaces it.
        select: attributes of the images to read if a series holds several at each position, such as
            ``{"EchoTime": 30.0}``.
    Raises:
        ValueError: for another choice, or a tolerance that is not positive.
    """

    on_gap: str = "refuse"
    on_duplicate: str = "refuse"
    on_tilt: str = "refuse"
    assume_intercept: float | None = None
    spacing_tolerance: float = 0.02
    tilt_tolerance_degrees: float = 0.5
    padding_hu: float | None = None
    air_hu: float = -1000.0
    select: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}.")
        for name in ("spacing_tolerance", "tilt_tolerance_degrees"):
            if not 0 < getattr(self, name) < 90:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    @classmethod
    def of(cls, rules: Mapping[str, object]) -> ReadingRules:
        """The rules with these values.

        Raises:
            TypeError: for an unknown rule; lists the rules.
        """
        names = [f.name for f in fields(cls)]
        if unknown := sorted(set(rules) - set(names)):
            raise TypeError(f"The DICOM reader has no option {', '.join(unknown)}; it has {', '.join(names)}.")
        return cls(**rules)  # type: ignore[arg-type]
