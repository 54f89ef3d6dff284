"""Profiles: components and back, splits that keep patients together, simulated dependences, early stopping."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from monai_diffscore.data import DataError, Expression, GeneFields
from monai_diffscore.data.profiles import batch_code, measure_profiles, profile_requests, split_profiles
from monai_diffscore.data.samples import leukaemia, sample_path
from monai_diffscore.data.simulated_expression import attachment_edges, draw_field, field_precision
from monai_diffscore.handlers import EarlyStopping
from monai_diffscore.transforms.principal import PrincipalComponents, measure_components


def expression(rows: int = 12, genes: int = 5) -> Expression:
    values = np.random.default_rng(0).normal(8, 1, (rows, genes)).astype(np.float32)
    obs = pd.DataFrame(
        {"group": ["a", "b"] * (rows // 2), "patient": [f"p{n // 2}" for n in range(rows)]}, index=map(str, range(rows))
    )
    return Expression(anndata.AnnData(values, obs=obs), GeneFields(content="continuous", label="group"))


def test_components_explain_what_they_should_and_the_rest_keeps_its_variance():
    rows = np.random.default_rng(0).normal(size=(40, 3)) @ np.random.default_rng(1).normal(size=(3, 60)) + 5
    exact = PrincipalComponents(**measure_components(rows, 3).as_dict())
    z = exact(torch.from_numpy(rows))
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exact.inverse(z), torch.from_numpy(rows).float(), rtol=1e-4, atol=1e-4)
    noisy = np.random.default_rng(2).normal(size=(4000, 20))
    few = PrincipalComponents(**measure_components(noisy, 4).as_dict())
    back = few.inverse(few(torch.from_numpy(noisy)))
    np.testing.assert_allclose(back.var(0), noisy.var(0), rtol=0.15)
    assert (back == few.inverse(few(torch.from_numpy(noisy)))).all()  # a function of seed and components
    with pytest.raises(DataError, match="1 to 38 components"):
        measure_components(rows, 39)


def test_splits_keep_patients_together_and_labels_balanced():
    data = expression()
    train, held_out = split_profiles(data, 0.34, seed=0, subject="patient")
    assert not set(data.obs["patient"].iloc[train]) & set(data.obs["patient"].iloc[held_out])
    train, held_out = split_profiles(data, 0.5, seed=0)
    assert sorted([*train, *held_out]) == list(range(12))
    assert data.obs["group"].iloc[held_out].value_counts().tolist() == [3, 3]


def test_requests_name_labels_and_refuse_others():
    fields = expression().fields
    asked = profile_requests(fields, 4)
    assert [one["label"] for one in asked] == [0, 0, 1, 1]
    assert [one["label"] for one in profile_requests(fields, 9, {"b": 2})] == [1, 1]
    with pytest.raises(DataError, match=r"one of \['a', 'b'\], got c"):
        profile_requests(fields, 1, {"c": 1})
    with pytest.raises(DataError, match="Train with --batch"):
        batch_code(measure_profiles(expression(), range(12)), "batch1")


def test_the_simulated_field_has_its_precision():
    """Zero where there is no edge, and draws whose covariance is its inverse."""
    edges = attachment_edges(12, 2, seed=0)
    precision = field_precision(edges, 12)
    adjacent = np.eye(12, dtype=bool)
    adjacent[edges[0], edges[1]] = adjacent[edges[1], edges[0]] = True
    assert ((precision != 0) == adjacent).all()
    draws = draw_field(precision, 200_000, seed=0)
    covariance = np.linalg.inv(precision)
    np.testing.assert_allclose(np.cov(draws.T), covariance, atol=0.03 * covariance.max())


def test_early_stopping_goes_back_to_the_best_weights():
    errors, network = iter([3.0, 1.0, 2.0, 4.0, 0.0]), nn.Linear(1, 1)
    validator, trainer = Engine(lambda *_: None), Engine(lambda *_: None)

    @validator.on(Events.COMPLETED)
    def measure(engine: Engine) -> None:
        engine.state.key_metric_name = "error"
        engine.state.metrics["error"] = next(errors)

    stopping = EarlyStopping(validator, network, patience=2)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        nn.init.constant_(network.weight, engine.state.epoch)
        validator.run([0])

    stopping.attach(trainer)
    trainer.run([0], max_epochs=10)
    assert trainer.state.epoch == 4  # two validations after the best
    assert network.weight.item() == 2
    again = EarlyStopping(validator, network, patience=2)
    again.load_state_dict(stopping.state_dict())
    assert (again.best, again.best_iteration, again.waited) == (1.0, 2, 2)


def test_the_leukaemia_set_is_what_its_package_says():
    try:
        sample_path("all_leukaemia")
    except DataError:
        pytest.skip("r-bioc-all is not installed: apt-get install r-bioc-all, or MONAI_DIFFSCORE_ALL_LEUKAEMIA")
    pytest.importorskip("rdata")
    data = anndata.read_h5ad(leukaemia())
    assert data.shape == (128, 12_625)
    assert data.obs["group"].value_counts().to_dict() == {"B": 95, "T": 33}
    assert 1.9 < data.X.min() < data.X.max() < 14.2
