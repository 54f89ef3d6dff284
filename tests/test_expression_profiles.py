"""Profiles: components and back, splits that keep patients together, simulated dependences, early stopping."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose
from scipy.stats import norm
from torch import nn
from torch.utils.data import default_collate

from monai_diffscore import GaussianDenoiser, karras_sigmas, sample_heun
from monai_diffscore.data import Expression, ExpressionRows, GeneFields
from monai_diffscore.data.profiles import (
    ObservedProfiles,
    batch_code,
    measure_profiles,
    profile_requests,
    profile_transforms,
    split_profiles,
)
from monai_diffscore.errors import DataError
from monai_diffscore.handlers import EarlyStopping
from monai_diffscore.samples import leukaemia, sample_path
from monai_diffscore.samples.simulated_expression import attachment_edges, draw_field, field_precision
from monai_diffscore.tasks import ProfileImputationInferer
from monai_diffscore.transforms import (
    GroupMeans,
    NormalScores,
    PrincipalComponents,
    measure_components,
    measure_group_means,
    measure_quantiles,
)


def expression(rows: int = 12, genes: int = 5) -> Expression:
    values = np.random.default_rng(0).normal(8, 1, (rows, genes)).astype(np.float32)
    obs = pd.DataFrame(
        {"group": ["a", "b"] * (rows // 2), "patient": [f"p{n // 2}" for n in range(rows)]}, index=map(str, range(rows))
    )
    return Expression(anndata.AnnData(values, obs=obs), GeneFields(content="continuous", label="group"))


def test_components_explain_their_share_and_the_residual_keeps_its_variance():
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
    with pytest.raises(DataError, match="1 to 18 components of 20 rows"):
        measure_components(noisy[:20], 19)
    with pytest.raises(DataError, match="1 to 3 components of 40 rows"):
        measure_components(rows, 4)  # there are no more
    three = np.arange(12) % 3
    groups = noisy[:12] - measure_group_means(noisy[:12], three, ("a", "b", "c"))[three]
    with pytest.raises(DataError, match="1 to 9 components of 12 rows"):
        measure_components(groups, 10)


def skewed(rows: int = 37) -> np.ndarray:
    """Genes of a gamma distribution: as it is, half of it zeros, constant, and two values."""
    random = np.random.default_rng(0)
    values = random.gamma(2, size=(rows, 4))
    values[:, 1] = np.maximum(values[:, 1] - 1.5, 0).round(1)
    values[:, 2], values[:, 3] = 3, np.where(values[:, 3] > 1, 5, 4)
    return values


def test_normal_scores_are_those_of_normal_draws_and_rise_with_the_values():
    rows = skewed()
    scores = NormalScores(**measure_quantiles(rows).as_dict())
    z = scores(rows)
    expected = torch.from_numpy(norm.ppf((np.arange(37) + 0.5) / 37)).float()
    torch.testing.assert_close(z[:, 0].sort().values, expected)
    assert (z[:, 2] == 0).all()  # a constant gene
    for value in (4, 5):  # ties have the middle of their levels
        levels = np.flatnonzero(np.sort(rows[:, 3]) == value)[[0, -1]].mean() / 36
        middle = torch.tensor(norm.ppf((36 * levels + 0.5) / 37)).float()
        torch.testing.assert_close(z[rows[:, 3] == value, 3].mean(), middle)
    floor = np.log2(np.random.default_rng(2).gamma(2, size=(200, 1)).clip(1.3)).astype(np.float32)  # no short decimals
    low = floor == floor.min()
    z = NormalScores(**json.loads(json.dumps(measure_quantiles(floor).as_dict())))(floor)
    torch.testing.assert_close(z[low], torch.full((low.sum(),), norm.ppf(low.mean() / 2)).float(), atol=0.03, rtol=0)
    rising = np.sort(np.random.default_rng(1).gamma(2, size=500)) * 4 - 2
    assert (scores(rising[:, None].repeat(4, 1))[:, [0, 1, 3]].diff(dim=0) >= 0).all()


def test_normal_scores_give_every_value_back_within_and_beyond_the_training_rows():
    rows = skewed()
    scores = NormalScores(**measure_quantiles(rows).as_dict())
    new = np.random.default_rng(1).gamma(2, size=(200, 4)) * 5 - 3
    new[:, 2] = 3
    for values in (rows, new):
        torch.testing.assert_close(scores.inverse(scores(values)), torch.from_numpy(values).float(), atol=1e-5, rtol=0)
    few = measure_quantiles(np.random.default_rng(2).normal(size=(500, 3)), most=20)
    assert few.quantiles.shape == (20, 3)
    assert few.rows == 500
    with pytest.raises(DataError, match="at least two, all finite"):
        measure_quantiles(np.array([[1.0, np.nan], [1, 2]]))
    with pytest.raises(ValueError, match="has 4 genes"):
        scores(np.zeros(5))


def test_group_means_leave_nothing_of_the_groups_on_average_and_come_back():
    rows, groups = skewed(), np.arange(37) % 2
    means = measure_group_means(rows, groups, ("a", "b"))
    transform = GroupMeans(means)
    left = transform(torch.from_numpy(rows), torch.from_numpy(groups))
    for code in (0, 1):
        torch.testing.assert_close(left[groups == code].mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(transform.inverse(left, groups), torch.from_numpy(rows).float())
    with pytest.raises(DataError, match="1 rows without one"):
        measure_group_means(rows, np.r_[-1, groups[1:]], ("a", "b"))
    with pytest.raises(DataError, match="none of c"):
        measure_group_means(rows, groups, ("a", "b", "c"))
    with pytest.raises(ValueError, match="A row without a label cannot be taken"):
        transform(torch.zeros(4), torch.tensor(-1))


@pytest.mark.parametrize("components", [None, 6])
@pytest.mark.parametrize("group_means", [False, True])
@pytest.mark.parametrize("normal_scores", [False, True])
def test_profiles_come_back_through_the_steps_that_they_went(components, group_means, normal_scores):
    """With all components there are, rows come back exactly; requests take the steps of their own label."""
    data = expression(rows=12, genes=5) if components is None else expression(rows=12, genes=6)
    facts = json.loads(json.dumps(measure_profiles(data, range(12), components, normal_scores, group_means)))
    assert facts["num_features"] == (components or 5)
    steps = Compose(profile_transforms(facts))
    rows = list(ExpressionRows(data, transform=steps))
    z = torch.stack([torch.as_tensor(row["image"]) for row in rows])
    np.testing.assert_allclose(z.var(0, correction=0), facts["sigma_data"], rtol=1e-3)
    for row, plain in zip(rows, ExpressionRows(data), strict=True):
        torch.testing.assert_close(torch.as_tensor(steps.inverse(row)["image"]), plain["image"], atol=2e-5, rtol=0)
    asked = [steps(one) for one in profile_requests(data.fields, 2)]
    restored = [torch.as_tensor(steps.inverse({**one, "image": one["image"] * 0})["image"]) for one in asked]
    assert restored[0].shape == (len(data.fields.genes),)
    assert group_means == bool((restored[0] - restored[1]).abs().max() > 0.05)


def test_rows_without_a_label_are_refused_where_its_means_are_taken_out_held_out_or_not():
    data = expression()
    data.obs.loc["11", "group"] = None
    with pytest.raises(DataError, match="1 rows without one"):
        measure_profiles(data, range(10), group_means=True)
    assert measure_profiles(data, range(10))["group_means"] is None


def test_counts_come_back_through_normal_scores():
    counts = np.random.default_rng(0).poisson(6, (12, 5)).astype(np.float32)
    data = Expression(anndata.AnnData(counts, layers={"counts": counts}), GeneFields())
    facts = measure_profiles(data, range(12), normal_scores=True)
    steps = Compose(profile_transforms(facts))
    for row, plain in zip(ExpressionRows(data, transform=steps), counts, strict=True):
        np.testing.assert_array_equal(steps.inverse(row)["image"], plain)


def test_imputation_by_components_is_that_of_factor_analysis(tmp_path):
    r"""With z ~ N(0, I) the posterior is Gaussian: :math:`E[x_h \mid x_o] = C_{ho} C_{oo}^{-1} x_o` of the covariance
    :math:`\Lambda^\top \Lambda + \operatorname{diag}(r^2)`."""
    random = np.random.default_rng(0)
    values = random.normal(size=(60, 3)) @ random.normal(size=(3, 8)) + 0.5 * random.normal(size=(60, 8)) + 4
    anndata.AnnData(values.astype(np.float32)).write_h5ad(tmp_path / "rows.h5ad")
    facts = measure_profiles(
        Expression(tmp_path / "rows.h5ad", GeneFields(content="continuous")), range(60), components=3
    )
    profiles = ObservedProfiles(
        tmp_path / "rows.h5ad", facts, hidden_share=0.4, transform=Compose(profile_transforms(facts))
    )
    copies = 1500
    batch = default_collate([profiles[place] for place in (0, 1) for _ in range(copies)])
    batch["seed"] = torch.arange(2 * copies)
    options = {"sampler": sample_heun, "sigmas": karras_sigmas(24, 0.01, 40.0)}
    inferer = ProfileImputationInferer(2, noise_std=0.1, method="pigdm", sigma_data=1.0, facts=facts, **options)
    condition = {name: batch[name] for name in ("seed", "measured", "observed")}
    imputed = inferer(torch.as_tensor(batch["image"]), GaussianDenoiser(torch.zeros(3), torch.eye(3)), **condition)
    std, parts = np.array(facts["std"]), {name: np.array(value) for name, value in facts["components"].items()}
    loadings, rest = parts["scales"][:, None] * parts["axes"] / std, parts["rest"] / std
    seen = profiles.observed.numpy()
    noisy = loadings.T @ loadings + np.diag(rest**2 + 0.1**2)
    cross = (loadings.T @ loadings)[:, seen]
    gain = cross @ np.linalg.inv(noisy[np.ix_(seen, seen)])
    expected = batch["measured"].numpy()[::copies, seen] @ gain.T
    spread = np.sqrt(np.diag(loadings.T @ loadings - gain @ cross.T) + rest**2)
    mean, variance = imputed[:, 0].unflatten(0, (2, copies)), imputed[:, 1].square().unflatten(0, (2, copies))
    np.testing.assert_allclose(mean.mean(1), expected, atol=0.05)  # 3,000 draws, at most one standard deviation wide
    np.testing.assert_allclose(variance.mean(1).sqrt(), np.stack([spread, spread]), rtol=0.05)
    assert seen.any()
    assert not seen.all()


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
    with pytest.raises(DataError, match=r"one of \['a', 'b'\], or its number, got 'c'"):
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


def test_the_leukaemia_set_agrees_with_its_package():
    try:
        sample_path("all_leukaemia")
    except DataError:
        pytest.skip("r-bioc-all is not installed: apt-get install r-bioc-all, or MONAI_DIFFSCORE_ALL_LEUKAEMIA")
    pytest.importorskip("rdata")
    data = anndata.read_h5ad(leukaemia())
    assert data.shape == (128, 12_625)
    assert data.obs["group"].value_counts().to_dict() == {"B": 95, "T": 33}
    assert 1.9 < data.X.min() < data.X.max() < 14.2
