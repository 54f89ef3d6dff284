"""Declared fields, missing values, dropout for guidance, clear errors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from monai_diffscore.networks import ConditionEncoder, ScoreUNet


@pytest.fixture
def encoder() -> ConditionEncoder:
    torch.manual_seed(0)
    encoder = ConditionEncoder(
        categorical={"modality": 3}, continuous={"age_years": (60.0, 20.0)}, vector={"genes": 4}, width=16, dropout=0.5
    )
    for token in encoder.tokens.values():
        nn.init.normal_(token)
    return encoder.eval()


def fields(batch: int = 4) -> dict[str, torch.Tensor]:
    return {
        "modality": torch.arange(batch) % 3,
        "age_years": torch.linspace(20, 80, batch),
        "genes": torch.randn(batch, 4, generator=torch.Generator().manual_seed(0)),
    }


@pytest.mark.parametrize("name", ["modality", "age_years", "genes"])
def test_missing_left_out_and_marked_are_the_same_token(encoder, name):
    values = fields()
    marked = {**values, name: torch.full_like(values[name], -1 if name == "modality" else torch.nan)}
    left_out = {key: value for key, value in values.items() if key != name}
    torch.testing.assert_close(encoder.embed(4, marked), encoder.embed(4, left_out))
    assert (encoder.embed(4, values) - encoder.embed(4, marked)).abs().max() > 1e-3


def test_partly_missing_batches_embed_each_sample_on_its_own(encoder):
    values = fields()
    values["age_years"][1] = torch.nan
    alone = {key: value[1:2] for key, value in values.items()}
    torch.testing.assert_close(encoder.embed(4, values)[1:2], encoder.embed(1, alone))


def test_dropout_drops_whole_samples_while_training_alone(encoder):
    values = fields(2000)
    assert all((encoder.drop(2000, values)[key] == values[key]).all() for key in values)
    encoder.train()
    torch.manual_seed(0)
    dropped = encoder.drop(2000, values)
    gone = dropped["modality"] == -1
    assert gone.float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert (dropped["age_years"].isnan() == gone).all()
    assert (dropped["genes"].isnan().all(1) == gone).all()


def test_integer_and_mask_fields_can_be_dropped():
    encoder = ConditionEncoder(continuous={"age_years": (60, 20)}, concat=["mask"], width=8, dropout=0.5).train()
    values = {"age_years": torch.arange(400), "mask": torch.ones(400, 1, 2, dtype=torch.bool)}
    dropped = encoder.drop(400, values)
    gone = dropped["age_years"].isnan()
    assert 100 < gone.sum() < 300
    assert (dropped["mask"].isnan().flatten(1).all(1) == gone).all()
    assert (dropped["mask"][~gone] == 1).all()


def test_missing_pixels_take_the_token_and_the_others_stay():
    encoder = ConditionEncoder(concat=["mask"])
    nn.init.constant_(encoder.pixels["mask"], 7.0)
    x, mask = torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, torch.nan], [0.0, 1.0]]]])
    torch.testing.assert_close(encoder.attach(x, {"mask": mask})[0, 1], torch.tensor([[1.0, 7.0], [0.0, 1.0]]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modality": torch.tensor([0, 3, 0, 0])}, "3 classes: expected 4 integers"),
        ({"modality": torch.tensor([0.0, 1.0, 0.0, 0.0])}, "3 classes"),
        ({"age_years": torch.zeros(3)}, r"expected shape \(4,\), got \(3,\)"),
        ({"genes": torch.zeros(4, 5)}, r"expected shape \(4, 4\)"),
    ],
)
def test_values_that_do_not_fit_are_named(encoder, values, message):
    with pytest.raises(ValueError, match=message):
        encoder.embed(4, values)


def test_undeclared_and_absent_fields_are_named():
    encoder = ConditionEncoder(continuous={"age_years": (60, 20)}, required=["age_years"])
    with pytest.raises(ValueError, match=r"among \['age_years'\], got \['weight'\]"):
        encoder.check({"age_years": torch.zeros(1), "weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"requires the condition fields \['age_years'\]"):
        encoder.check({})


@pytest.mark.parametrize(
    "declaration",
    [
        {"categorical": {"a": 2}, "vector": {"a": 3}},
        {"continuous": {"a": (0.0, 0.0)}},
        {"categorical": {"a": 2}, "dropout": 1.0},
        {"categorical": {"a": 2}, "required": ["b"]},
        {"concat": ["a"], "part_dropout": {"b": 0.5}},
        {"concat": ["a"], "part_dropout": {"a": 1.0}},
        {},
        {"categorical": {"sigma": 2}},
        {"categorical": {"type": 2}},
    ],
)
def test_impossible_declarations_are_refused(declaration):
    with pytest.raises(ValueError, match=r"declar|dropout|standard deviation|at least one field"):
        ConditionEncoder(**declaration)


def test_a_field_of_several_components_is_normalised_by_component():
    encoder = ConditionEncoder(continuous={"spacing_mm": ([1.0, 1.0, 3.0], [0.5, 0.5, 2.0])}, width=16).eval()
    nn.init.normal_(encoder.tokens["spacing_mm"])
    value = torch.tensor([[1.0, 1.0, 3.0], [0.5, 1.0, 5.0], [1.0, 1.0, torch.nan]])
    embedded = encoder.embed(3, {"spacing_mm": value})
    torch.testing.assert_close(embedded[2], encoder.embed(1, {})[0])  # partly missing is missing
    features = encoder.features["spacing_mm"]
    expected = encoder.projections["spacing_mm"](
        torch.cat([features(torch.tensor([z])) for z in (-1.0, 0.0, 1.0)], dim=1)
    )
    torch.testing.assert_close(embedded[1:2], expected)
    with pytest.raises(ValueError, match=r"expected shape \(3, 3\), got \(3,\)"):
        encoder.embed(3, {"spacing_mm": value[:, 0]})
    with pytest.raises(ValueError, match="one for each mean"):
        ConditionEncoder(continuous={"spacing_mm": ([1.0, 1.0], [1.0])})


@pytest.mark.parametrize("size", [(), (2, 3)])
def test_attached_fields_are_channels_in_standard_deviations_and_missing_ones_take_the_token(size):
    encoder = ConditionEncoder(
        attached={"age_years": (60.0, 20.0), "spacing_mm": ([1.0, 3.0], [0.5, 2.0])}, dropout=0.5
    )
    nn.init.constant_(encoder.pixels["age_years"], 7.0)
    assert encoder.concat_channels == 3
    x = torch.zeros(2, 1, *size)
    values = {"age_years": torch.tensor([80.0, torch.nan]), "spacing_mm": torch.tensor([[0.5, 5.0], [1.0, torch.nan]])}
    expected = torch.tensor([[0.0, 1.0, -1.0, 1.0], [0.0, 7.0, 0.0, 0.0]]).reshape(2, 4, *[1] * len(size))
    torch.testing.assert_close(encoder.attach(x, values), expected.expand(2, 4, *size))
    left_out = encoder.attach(x, {})
    torch.testing.assert_close(left_out[:, 1], torch.full((2, *size), 7.0))
    with pytest.raises(ValueError, match=r"expected shape \(2, 2\), got \(2,\)"):
        encoder.attach(x, {**values, "spacing_mm": torch.zeros(2)})
    dropped = encoder.train().drop(400, {"age_years": torch.arange(400)})["age_years"]
    assert 100 < dropped.isnan().sum() < 300


def contrasts_and_classes() -> ConditionEncoder:
    """Two contrasts and a label map of three classes, which may be missing, and a position, which never is."""
    return ConditionEncoder(
        concat={"given": [1, 1, 3], "position": 2}, width=8, part_dropout={"given": 0.5}, required=[]
    )


def test_a_training_sees_each_subset_of_the_parts_equally_often():
    condition = {"given": torch.zeros(8000, 5, 2), "position": torch.zeros(8000, 2, 2)}
    torch.manual_seed(0)
    dropped = contrasts_and_classes().train().drop(8000, condition)
    assert not dropped["position"].isnan().any()
    missing = dropped["given"].isnan()
    parts = torch.stack([missing[:, 0, 0], missing[:, 1, 0], missing[:, 2, 0]], 1)
    assert (missing == parts[:, [0, 1, 2, 2, 2], None]).all()  # a part is missing as a whole
    for subset in itertools.product((False, True), repeat=3):
        share = (parts == torch.tensor(subset)).all(1).float().mean().item()
        assert share == pytest.approx(1 / 8, abs=0.02)  # five standard errors
    kept = contrasts_and_classes().eval().drop(8000, condition)
    assert not kept["given"].isnan().any()


def test_a_missing_part_is_the_token_of_each_of_its_channels():
    encoder = contrasts_and_classes().eval()
    tokens = torch.tensor([0.3, -0.7, 0.1, 0.2, 0.9])
    encoder.pixels["given"].data = tokens
    network = ScoreUNet(2, 1, 1, [4, 8], [False, False], [1, 1], 4, condition=encoder).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    x, labels, position = torch.randn(1, 1, 8, 8), torch.randn(1, 5, 8, 8), torch.randn(1, 2, 8, 8)
    level, tokens = torch.tensor([0.1]), tokens.reshape(1, 5, 1, 1)
    whole = network(x, level, given=labels, position=position)
    for subset in itertools.product((False, True), repeat=3):
        missing = torch.tensor(subset)[[0, 1, 2, 2, 2]].reshape(1, 5, 1, 1)
        marked = network(x, level, given=torch.where(missing, torch.nan, labels), position=position)
        filled = network(x, level, given=torch.where(missing, tokens, labels), position=position)
        torch.testing.assert_close(marked, filled)
        assert any(subset) is bool((marked - whole).abs().max() > 1e-4)
    torch.testing.assert_close(network(x, level, position=position), marked)
