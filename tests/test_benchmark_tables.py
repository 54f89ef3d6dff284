"""benchmarks/tables_published.py splits, scales and measures as the published protocol says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def published(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import tables_published

    return tables_published


def test_points_are_as_far_apart_as_gower_says(published):
    """A number counts in ranges of the training rows, also beyond them; another class counts 1, whatever it is."""
    rows = pd.DataFrame({"a": [10.0, 30.0, 20.0], "b": [0.0, 1.0, 4.0], "class": ["x", "y", "z"]})
    points = published.Gower(rows)
    first = points(pd.DataFrame({"a": [10.0, 50.0], "b": [0.0, 2.0], "class": ["x", "z"]}))
    second = points(pd.DataFrame({"a": [20.0, 50.0], "b": [1.0, 2.0], "class": ["x", "y"]}))
    np.testing.assert_allclose(np.abs(first - second).sum(1), [0.5 + 0.25, 1.0])


def test_coverage_counts_rows_with_a_synthetic_row_inside_their_second_neighbour(published):
    real = np.arange(10.0)[:, None]  # the second neighbour of an inner point is 1 away, of an end 2
    assert published.coverage(real, real) == 1
    assert published.coverage(real, np.array([[4.4]])) == 0.2
    assert published.coverage(real, np.array([[-1.9]])) == 0.1
    assert published.coverage(real, np.array([[-2.0]])) == 0
    doubled = np.repeat(real, 2, axis=0)  # no point is nearer than its double: the radius is that of the third
    assert published.coverage(doubled, np.array([[4.4]])) == 0.2


def test_equal_weights_move_by_the_city_block(published):
    pytest.importorskip("ot", reason="Wasserstein needs POT")
    points = np.random.default_rng(0).normal(size=(12, 3))
    assert published.wasserstein(points, points) == pytest.approx(0, abs=1e-12)
    assert published.wasserstein(points, points + np.array([1.0, -2.0, 0.5])) == pytest.approx(3.5)
    assert published.wasserstein(points[:, :1], np.zeros((5, 1))) == pytest.approx(np.abs(points[:, 0]).mean())


def on_training_rows(published, name: str, figure) -> float:
    """The mean over the splits of a figure of (held-out rows, training rows)."""
    values = []
    for split in range(3):
        train, test = published.split_rows(published.rows_of(name), split)
        points = published.Gower(train)
        values.append(figure(points(test), points(train)))
    return float(np.mean(values))


@pytest.mark.parametrize(("name", "coverage"), [("iris", 0.93333), ("wine", 0.94444), ("breast_cancer", 0.96784)])
def test_training_rows_have_the_published_coverage(published, name, coverage):
    """The authors' "oracle": their splits, their scale and their neighbours, to the last row."""
    assert on_training_rows(published, name, published.coverage) == pytest.approx(coverage, abs=1e-5)


@pytest.mark.parametrize(("name", "w1"), [("iris", 0.2361), ("wine", 1.4403), ("breast_cancer", 1.8527)])
def test_training_rows_have_the_published_distance(published, name, w1):
    """To three decimals: the solvers of two versions of POT differ in the fourth."""
    pytest.importorskip("ot", reason="Wasserstein needs POT")
    assert on_training_rows(published, name, published.wasserstein) == pytest.approx(w1, abs=5e-4)


def test_baselines_have_the_classes_of_the_training_rows(published):
    train, _ = published.split_rows(published.rows_of("iris"), 0)
    for name in ("copies", "SMOTE", "Gaussian copula"):
        sets = published.METHODS[name][1](train, 0)
        assert len(sets) == published.DRAWS
        for rows in sets:
            assert list(rows.columns) == list(train.columns)
            assert rows["class"].value_counts().to_dict() == train["class"].value_counts().to_dict()
        assert not sets[0].equals(sets[1])
