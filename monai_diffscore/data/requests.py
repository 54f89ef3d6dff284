"""Requests for rows of a model: the number of rows of each category, by name or number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_diffscore.errors import DataError


def numbers_of_each(
    categories: Sequence[str],
    training_counts: Sequence[int] | None,
    count: int,
    requested: Mapping[Any, int] | None = None,
    key: str = "label",
) -> list[int]:
    """The requested number of rows of each category.

    Args:
        categories: their names.
        training_counts: number of training rows of each category; None if it is unknown.
        count: number of all rows without ``requested``; each category gets its share in the training rows.
        requested: number of rows by name, or by number in the order of ``categories``.
        key: for messages.
    Raises:
        DataError: for a number that is negative or not whole, no rows at all, an unknown category, or a category
            without a training row.
    """
    if requested is None:
        check_count(count)
        weights = training_counts if training_counts is not None and any(training_counts) else [1] * len(categories)
        return apportion(weights, count)
    numbers = [0] * len(categories)
    for name, number in requested.items():
        check_count(number, least=0)
        numbers[place_of(name, categories, training_counts, key)] += int(number)
    check_count(sum(numbers))
    return numbers


def place_of(
    name: Any, categories: Sequence[str], training_counts: Sequence[int] | None = None, key: str = "label"
) -> int:
    """Place of a category by its name, or by its number if no category has that name.

    Raises:
        DataError: for an unknown category, or a category without a training row.
    """
    names = list(categories)
    if str(name) in names:
        place = names.index(str(name))
    elif isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(names):
        place = name
    else:
        raise DataError(
            "the request", key=key, expected=f"one of {names[:20]}, or its number", got=repr(name),
            remedy="Ask for a category that the model was trained with.",
        )  # fmt: skip
    if training_counts is not None and not training_counts[place]:
        trained = [category for category, rows in zip(names, training_counts, strict=True) if rows]
        raise DataError(
            "the request", key=key, expected=f"a category with training rows: {trained[:20]}",
            got=f"{names[place]!r}, which is declared and has no training row",
            remedy="Ask for another category: no row taught the model this one.",
        )  # fmt: skip
    return place


def check_count(count: Any, least: int = 1) -> None:
    """Raises a DataError unless ``count`` is a whole number of at least ``least`` rows."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
        raise DataError(
            "the request", key="num_samples", expected=f"a whole number of rows, {least} or more", got=repr(count),
            remedy="State the number of rows to generate.",
        )  # fmt: skip


def apportion(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers in proportion to ``weights`` that sum to ``total``, by largest remainders; 0 for a weight of 0."""
    shares = np.asarray(weights, dtype=float)
    exact = shares / shares.sum() * total
    numbers = np.floor(exact).astype(int)
    for place in np.argsort(numbers - exact, kind="stable")[: total - numbers.sum()]:
        numbers[place] += 1
    return [int(number) for number in numbers]
