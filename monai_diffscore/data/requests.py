"""What is asked of a model of rows: how many of which kind, by name or number; by default as the training rows had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_diffscore.errors import DataError


def numbers_of_each(
    known: Sequence[str],
    seen: Sequence[int] | None,
    count: int,
    asked: Mapping[Any, int] | None = None,
    key: str = "label",
) -> list[int]:
    """How many rows of each category are asked for.

    Args:
        known: names of the categories.
        seen: rows of each that the model was trained on; None if that is not known.
        count: without ``asked``, in all, of each category as many as its share of the training rows says.
        asked: name, or number in the order of ``known``, to number of rows.
        key: for messages.
    Raises:
        DataError: for numbers that are no whole ones from 0, none at all, and categories that are not known or that no
            training row had.
    """
    if asked is None:
        check_count(count)
        return apportion(seen if seen is not None and any(seen) else [1] * len(known), count)
    numbers = [0] * len(known)
    for name, number in asked.items():
        check_count(number, least=0)
        numbers[place_of(name, known, seen, key)] += int(number)
    check_count(sum(numbers))
    return numbers


def place_of(name: Any, known: Sequence[str], seen: Sequence[int] | None = None, key: str = "label") -> int:
    """Place of a category that is given by its name, or by its number where no name reads like it.

    Raises:
        DataError: if it is not known, or no training row had it.
    """
    names = list(known)
    if str(name) in names:
        place = names.index(str(name))
    elif isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(names):
        place = name
    else:
        raise DataError(
            "the request", key=key, expected=f"one of {names[:20]}, or its number", got=repr(name),
            remedy="Ask for a category that the model was trained with.",
        )  # fmt: skip
    if seen is not None and not seen[place]:
        trained = [known_name for known_name, rows in zip(names, seen, strict=True) if rows]
        raise DataError(
            "the request", key=key, expected=f"one that training rows had: {trained[:20]}",
            got=f"{names[place]!r}, which is declared but in none of them",
            remedy="Ask for another: the model has learned nothing of it.",
        )  # fmt: skip
    return place


def check_count(count: Any, least: int = 1) -> None:
    """Raises a DataError unless ``count`` is a whole number of at least ``least`` rows."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise DataError(
            "the request", key="num_samples", expected=f"a whole number of rows, {least} or more", got=repr(count),
            remedy="Say how many are to be generated.",
        )  # fmt: skip


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to ``weights`` that sum to ``total``, by largest remainders; none where one is 0."""
    shares = np.asarray(weights, dtype=float)
    exact = shares / shares.sum() * total
    numbers = np.floor(exact).astype(int)
    for place in np.argsort(numbers - exact, kind="stable")[: total - numbers.sum()]:
        numbers[place] += 1
    return [int(number) for number in numbers]
