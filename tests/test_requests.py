"""Requests to models of rows: by names or numbers, in the shares of the training rows; others are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monai_diffscore.data import infer_schema, requested_cells, requested_labels, requested_rows
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.data.profiles import profile_requests
from monai_diffscore.errors import DataError
from monai_diffscore.transforms import measure_encoding

LABELS = ("B", "Ghost", "T")
COUNTS = [30, 0, 10]


def cells(count: int = 8, asked=None) -> list[int]:
    fields = GeneFields(label="type", labels=LABELS, genes=("G1",))
    facts = {"fields": fields.as_dict(), "label_counts": COUNTS}
    return [one["label"] for one in requested_cells(facts, 3, asked, count)]


def profiles(count: int = 8, asked=None) -> list[int]:
    fields = GeneFields(label="type", labels=LABELS, genes=("G1",), content="continuous")
    return [one["label"] for one in profile_requests(fields, count, asked, None, COUNTS)]


def rows(count: int = 8, asked=None) -> list[int]:
    frame = pd.DataFrame({"type": pd.Categorical(["B"] * 30 + ["T"] * 10, LABELS), "n": np.arange(40) % 7})
    schema = infer_schema(frame, "type")
    encoding = measure_encoding(schema, schema.numbers(frame), schema.label_numbers(frame))
    name = None if asked is None else next(iter(asked))
    return [one["label"] for one in requested_rows(encoding, count if asked is None else asked[name], name)]


MAKERS = pytest.mark.parametrize("make", [cells, profiles, rows])


@MAKERS
@pytest.mark.parametrize("count", [4, 400, 2000])
def test_by_default_rows_are_as_the_training_rows_were(make, count):
    drawn = make(count)
    assert len(drawn) == count
    assert 1 not in drawn
    assert np.mean(np.array(drawn) == 0) == pytest.approx(0.75, abs=4 * np.sqrt(0.1875 / count))


@MAKERS
@pytest.mark.parametrize(("name", "place"), [("T", 2), (0, 0), (2, 2)])
def test_labels_are_requested_by_name_or_number(make, name, place):
    assert make(asked={name: 5}) == [place] * 5


@MAKERS
@pytest.mark.parametrize("name", ["Ghost", 1, "None", 3, -1])
def test_labels_outside_of_the_training_are_refused(make, name):
    with pytest.raises(DataError, match=r"one of|with training rows|at least one row"):
        make(asked={name: 5})


@MAKERS
@pytest.mark.parametrize("count", [0, -3, 2.5, True])
def test_no_rows_are_refused(make, count):
    with pytest.raises(DataError, match="a whole number of rows"):
        make(count)
    with pytest.raises(DataError, match="a whole number of rows"):
        make(asked={"B": count})


def test_names_come_before_numbers():
    fields = GeneFields(label="cluster", labels=("2", "0", "1"), genes=("G1",), content="continuous")
    assert [one["label"] for one in profile_requests(fields, 0, {0: 1, "2": 1})] == [0, 1]


SHAPES = ["square", "circle", "star"]


@pytest.mark.parametrize(
    ("label", "expected"),
    [(None, [-1] * 4), (-1, [-1] * 4), ("circle", [1] * 4), (2, [2] * 4), (["star", 0], [2, 0, 2, 0]), (0, [0] * 4)],
)
def test_classes_of_images_are_requested_by_name_or_number(label, expected):
    assert [one["label"] for one in requested_labels(3, label, 4, SHAPES)] == expected


def test_a_name_that_is_a_number_comes_before_the_place():
    """Folders 10, 2, 0: the class "2" has the number 1."""
    assert requested_labels(3, 2, 1, ["10", "2", "0"])[0]["label"] == 1
    assert requested_labels(3, 2, 1)[0]["label"] == 2  # without names


@pytest.mark.parametrize(
    ("num_classes", "label", "message"),
    [
        (3, "circel", r"expected one of \['square', 'circle', 'star'\]"),
        (3, 3, "or its number, got 3"),
        (3, ["star", 10], "got 10"),
        (3, -2, "got -2"),
        (None, "circle", "the model has no classes"),
        (None, 4, "the model has no classes"),
    ],
)
def test_classes_that_the_model_does_not_have_are_refused(num_classes, label, message):
    with pytest.raises(DataError, match=message):
        requested_labels(num_classes, label, 4, SHAPES)
