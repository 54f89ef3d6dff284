"""The fingerprint of a data set: the facts that the rules read.

The planner opens every file for it. A file that would stop a training is a :class:`Problem` with its remedy. The plan
leaves such a file out **by name** where the other files suffice, and the bundle says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_diffscore.data.cases.case import Cases, counts_text
from monai_diffscore.data.paths import split_channel
from monai_diffscore.errors import DataError

#: largest number of values of a case that a fingerprint keeps
VALUES_OF_A_CASE = 50_000
#: percentiles of the values that a fingerprint holds
PERCENTILES = (0.0, 0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5, 100.0)
#: kinds of data, each with rules of its own
KINDS = ("volumes", "pictures", "slides", "sequences", "cells", "expression", "table")
_MOST_NAMES = 200


@dataclass(frozen=True)
class Problem:
    """An unusable file; or, if ``left_out`` is False, too few rows of a kind."""

    file: str
    expected: str
    got: str
    remedy: str
    left_out: bool = True

    @classmethod
    def of(cls, error: DataError, file: str | Path, left_out: bool = True) -> Problem:
        """The problem of a file that ``error`` describes."""
        parts = error.parts
        return cls(str(file), parts["expected"], parts["got"].replace("\n", " "), parts["remedy"], left_out)


@dataclass(frozen=True)
class Fingerprint:
    """The facts of a data set. Sizes and spacings follow the axes of the network (RAS for volumes).

    Attributes:
        data: absolute path.
        kind: one of :data:`KINDS`.
        modality: "CT", "MR", "PT", "RGB", "grey", "counts", ...; ``modality_from`` is the source of it.
        cases: number of usable images, sequences, cells, samples or rows.
        subjects: number of patients or animals; ``names`` lists them if they are at most 200.
        channels: of an image or sequence; number of genes or columns of a table.
        sizes: "min", "median" and "max" of each axis, in elements.
        foreground_sizes: the same of the box that holds the foreground (volumes).
        spacing_mm: the same of the voxel's edges; None for data without spacing.
        extents_mm: the same of the field of view (volumes).
        orientations: number of files by axis codes.
        percentiles: of the values, by percentile.
        foreground_share: share of elements that are tissue, or not zero.
        sigma_data, mean: of the values after the normalisation that the plan proposes.
        details: facts of this kind of data: zeros and library sizes of counts, classes, pixel sizes, columns.
        conditions: fields of --condition, and their table.
        offered: the same of usual columns, which a model of whole volumes takes if --condition names none.
        problems: one for each unusable file.
    """

    data: str
    kind: str
    modality: str
    modality_from: str
    cases: int
    subjects: int
    names: list[str]
    channels: int
    sizes: dict[str, list[int]]
    percentiles: dict[str, float]
    sigma_data: float
    mean: float
    foreground_share: float = 1.0
    foreground_sizes: dict[str, list[int]] = field(default_factory=dict)
    spacing_mm: dict[str, list[float]] | None = None
    extents_mm: dict[str, list[float]] = field(default_factory=dict)
    orientations: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    offered: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def left_out(self) -> list[str]:
        """Files and folders below ``data`` that the training leaves out."""
        return [problem.file for problem in self.problems if problem.left_out]

    def to_json(self) -> str:
        """As JSON, four spaces to a level."""
        return json.dumps(asdict(self), indent=4) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """The fingerprint that :meth:`to_json` wrote."""
        facts = json.loads(text)
        names = {f.name for f in fields(cls)}
        problems = [Problem(**problem) for problem in facts.pop("problems", [])]
        return cls(**{name: fact for name, fact in facts.items() if name in names}, problems=problems)

    def with_conditions(self, conditions: dict[str, Any]) -> Fingerprint:
        """The fingerprint with the declared fields."""
        return replace(self, conditions=conditions)


def spans(rows: Sequence[Sequence[float]], digits: int = 0) -> dict[str, list[Any]]:
    """Smallest, median and largest of each column: integers, or rounded to ``digits``."""
    values = np.asarray(rows, dtype=float)
    extremes = {"min": values.min(0), "median": np.median(values, axis=0), "max": values.max(0)}
    if digits:
        return {name: np.round(row, digits).tolist() for name, row in extremes.items()}
    return {name: np.rint(row).astype(int).tolist() for name, row in extremes.items()}


def path_below(root: Path, file: str) -> str:
    """The path of a file from ``root``; a path elsewhere stays as it is."""
    path = Path(file)
    return str(path.relative_to(root)) if root in path.parents else str(path)


def some_values(values: np.ndarray) -> np.ndarray:
    """At most about :data:`VALUES_OF_A_CASE` of the values at equal distances, float32 [N]."""
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // VALUES_OF_A_CASE)].astype(np.float32)


def percentiles_by_name(values: np.ndarray) -> dict[str, float]:
    """The percentiles of :data:`PERCENTILES` as a dictionary."""
    numbers = np.percentile(values, PERCENTILES)
    return {f"{at:g}": float(f"{value:.6g}") for at, value in zip(PERCENTILES, numbers, strict=True)}


def shown_names(subjects: Sequence[str]) -> list[str]:
    """The names of the subjects, sorted; empty if they are too many to list."""
    names = sorted(set(subjects))
    return names if len(names) <= _MOST_NAMES else []


def list_readable(
    root: Path, lister: Callable[[Sequence[str]], list[dict[str, Any]]], exclude: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The cases of ``lister(left_out)``, and a problem for each file that it refuses, or that ``exclude`` names.

    Raises:
        DataError: if it refuses the whole folder.
    """
    problems = [Problem(name, "no image, as --exclude says", "one", "Leave it out of --exclude.") for name in exclude]
    while True:
        try:
            return lister([problem.file for problem in problems]), problems
        except DataError as error:
            source = Path(error.parts["source"])
            if source == root or root not in source.parents or not source.exists():
                refused = [problem for problem in problems if problem.got != "one"]
                if refused:  # the files that are left are none
                    refuse_unless_some(root, "data", [], refused)
                raise
            problems.append(Problem.of(error, source.relative_to(root)))


def assumptions(listing: Cases, kind: str, subject: str) -> list[str]:
    """What a plan assumes of a listing of files, one line each, with the flags that change it."""
    rule = subject or ("the table" if listing.layout == "table" else "names and headers")
    roles = f", image {counts_text(listing.roles)} (--image)" if listing.layout == "table" else ""
    return [
        f"kind {kind} (--kind){roles}, subjects by {rule} (--subject)",
        *listing.notes,
        *(f"left out: {count} x {reason}" for reason, count in listing.reasons.items()),
    ]


@dataclass
class FileLister:
    """Lists the files of a folder of pictures, sequences or slides as cases, and keeps the last listing.

    Args:
        root: folder, file, or table of cases.
        kind: of the files.
        chosen: arguments ``subject``, ``layout`` and ``image`` of the listing.
        listed: the listing of ``root``, a function of ``left_out`` and these arguments.
        cases_of: the cases of a listing.
    """

    root: Path
    kind: str
    chosen: Mapping[str, str]
    listed: Callable[..., Cases]
    cases_of: Callable[[Cases], list[dict[str, Any]]]
    listing: Cases | None = None

    def __call__(self, left_out: Sequence[str]) -> list[dict[str, Any]]:
        self.listing = self.listed(self.root, left_out=left_out, **self.chosen)
        return self.cases_of(self.listing)

    @property
    def details(self) -> dict[str, Any]:
        """What the plan keeps of the listing."""
        assert self.listing is not None
        assumed = assumptions(self.listing, self.kind, self.chosen.get("subject", ""))
        return {"listing": dict(self.chosen), "assumed": assumed}


def first_path(image: str | Sequence[str]) -> str:
    """The path of an image, or of its first channel."""
    return image if isinstance(image, str) else image[0]


def one_number_of_channels(
    root: Path, cases: Sequence[Mapping[str, Any]], count: Callable[[str | Sequence[str]], int]
) -> int:
    """The number of channels of all images; a majority must not decide what is an image."""
    by_count: dict[int, list[str]] = {}
    for image in {str(case["image"]): case["image"] for case in cases}.values():  # rows of an array share its file
        by_count.setdefault(count(image), []).append(first_path(image))
    if len(by_count) > 1:
        kinds = [f"{count} in {len(files)} (first: {files[0]})" for count, files in sorted(by_count.items())]
        fewest = min(by_count.values(), key=len)
        raise DataError(
            root, key="image", expected="images of one number of channels", got=", ".join(kinds),
            remedy="Take one kind: --image ROLE, or leave the others out, such as --exclude "
            f'"{",".join(path_below(root, file) for file in fewest)}".',
        )  # fmt: skip
    return next(iter(by_count))


def read_each(
    root: Path, cases: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], Any], key: str = "image"
) -> tuple[list[tuple[dict[str, Any], Any]], list[Problem]]:
    """Pairs of a case and the result of ``read``, and the problems of the cases that fail."""
    good, problems = [], []
    top = root.parent if root.is_file() else root
    for case in cases:
        try:
            good.append((case, read(case)))
        except DataError as error:
            file, _ = split_channel(first_path(case[key]))
            removable = file != root and "row" not in case
            name = str(file.relative_to(top) if top in file.parents else file)
            name += f"[{case['row']}]" if "row" in case else ""
            problems.append(Problem.of(error, name, left_out=removable))
    return good, problems


def read_listed(
    root: Path,
    lister: Callable[[Sequence[str]], list[dict[str, Any]]],
    cases: Sequence[dict[str, Any]],
    problems: Sequence[Problem],
    read: Callable[[dict[str, Any]], Any],
) -> tuple[list[tuple[dict[str, Any], Any]], list[Problem]]:
    """Pairs of a case and the result of ``read``, and all problems; shows a bar.

    ``lister`` leaves out copies of a file. If it then leaves out that file for a problem, it lists a copy in its place,
    which is read, too.
    """
    pairs, unread = read_each(root, tqdm(cases, desc="reading", leave=False), read)
    problems, listed = [*problems, *unread], {str(case["image"]) for case in cases}
    while any(problem.left_out for problem in unread):
        try:
            cases = lister([problem.file for problem in problems if problem.left_out])
        except DataError:  # nothing is left
            break
        cases = [case for case in cases if str(case["image"]) not in listed]
        more, unread = read_each(root, cases, read)
        pairs, problems, listed = [*pairs, *more], [*problems, *unread], listed | {str(case["image"]) for case in cases}
    return pairs, problems


def refuse_unless_some(root: Path, kind: str, cases: Sequence[Any], problems: Sequence[Problem]) -> None:
    """Raises a DataError if no case is usable, or if a problem is of a file that cannot be left out."""
    serious = [problem for problem in problems if not problem.left_out]
    if cases and not serious:
        return
    first = (serious or list(problems))[:1]
    got = f"{len(problems)} with a problem" + "".join(f"; {p.file}: expected {p.expected}, got {p.got}" for p in first)
    remedy = first[0].remedy if first else "Look at the data."
    raise DataError(root, expected=f"{kind} that can be trained on", got=got, remedy=remedy)
