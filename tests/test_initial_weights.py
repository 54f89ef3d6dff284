"""A training from the weights of another one: what fits is taken, what is new has no effect, what is frozen stays."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from workflows import workflow

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.errors import DataError
from monai_diffscore.initial_weights import take_weights
from monai_diffscore.networks import ConditionEncoder, ScoreDiT, ScoreUNet
from monai_diffscore.optimizers import MuonAdamW


def unet(sigma_data: float = 0.5, channels: tuple[int, ...] = (4, 8), seed: int = 0, **fields: object) -> Denoiser:
    """A denoiser without any zero among its weights, except for tokens."""
    torch.manual_seed(seed)
    condition = ConditionEncoder(width=8, required=[], **fields) if fields else None
    network = ScoreUNet(2, 1, 1, list(channels), [False, False], [1, 1], 4, condition=condition)
    return random(Denoiser(network, EDMPreconditioning(sigma_data)))


def dit(**fields: object) -> Denoiser:
    torch.manual_seed(0)
    condition = ConditionEncoder(width=8, required=[], **fields) if fields else None
    network = ScoreDiT(2, 1, [8, 8], 2, 16, 1, 2, condition=condition)
    return random(Denoiser(network, EDMPreconditioning(0.5)))


def random(denoiser: Denoiser) -> Denoiser:
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    return denoiser.eval()


def saved(denoiser: Denoiser, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(denoiser.state_dict(), path)
    return path


def denoised(denoiser: Denoiser, **condition: Tensor) -> Tensor:
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return denoiser(x, torch.tensor([0.1, 0.5, 2.0]), **condition)


GIVEN = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(2))
MASK = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
AGE = torch.tensor([20.0, torch.nan, 80.0])
SEX = torch.tensor([0, 1, -1])


@pytest.mark.parametrize("build", [unet, dit])
def test_new_conditions_have_no_effect_before_training(build, tmp_path):
    before = build()
    after = build(concat={"given": 2}, continuous={"age_years": (50.0, 20.0)}, attached={"dose": (0.0, 1.0)})
    assert (denoised(after, given=GIVEN, age_years=AGE) - denoised(before)).abs().max() > 1e-3
    take_weights(after, saved(before, tmp_path / "model.pt"))
    for condition in ({}, {"given": GIVEN}, {"given": GIVEN, "age_years": AGE, "dose": torch.ones(3)}):
        torch.testing.assert_close(denoised(after, **condition), denoised(before))


def test_old_conditions_keep_their_effect_among_new_ones(tmp_path):
    before = unet(concat={"mask": 1}, categorical={"sex": 2})
    after = unet(
        seed=1, concat={"given": 2, "mask": 1}, categorical={"sex": 2, "site": 3}, continuous={"age": (50, 20)}
    )
    take_weights(after, saved(before, tmp_path / "model.pt"))
    new = {"given": GIVEN, "age": AGE, "site": torch.tensor([2, 0, -1])}
    torch.testing.assert_close(denoised(after, mask=MASK, sex=SEX, **new), denoised(before, mask=MASK, sex=SEX))
    torch.testing.assert_close(denoised(after, **new), denoised(before))
    after.train()
    denoised(after, mask=MASK, sex=SEX, **new).square().sum().backward()
    gradients = [
        after.network.conditioning.condition.classes["site"],
        after.network.conditioning.condition.projections["age"],
    ]
    assert all(layer.weight.grad.abs().max() > 0 for layer in gradients)  # they learn from the first step


def test_statistics_of_the_data_are_those_of_the_new_training(tmp_path):
    after = unet(sigma_data=0.3)
    take_weights(after, saved(unet(sigma_data=0.5, seed=1), tmp_path / "model.pt"))
    assert after.preconditioning.sigma_data.item() == pytest.approx(0.3)


def test_bundles_folders_and_checkpoints_are_sources(tmp_path):
    before = unet(seed=1)
    saved(before, tmp_path / "bundle/models/model.pt")
    torch.save({"network": before.state_dict(), "engine": {"iteration": 3}}, tmp_path / "iteration_00000003.pt")
    for source in (tmp_path / "bundle", tmp_path / "bundle/models", tmp_path / "iteration_00000003.pt"):
        after = unet()
        take_weights(after, source)
        torch.testing.assert_close(after.state_dict(), before.state_dict())


def test_what_does_not_fit_is_named(tmp_path, caplog):
    before, after = unet(), unet(seed=1, channels=(4, 12))
    own = after.network.state_dict()
    with caplog.at_level(logging.INFO):
        take_weights(after, saved(before, tmp_path / "model.pt"))
    log = caplog.text
    taken = [name for name, value in before.network.state_dict().items() if own[name].shape == value.shape]
    assert 0 < len(taken) < len(own)
    assert f"{len(taken)} of {len(list(after.parameters()))} tensors taken" in log
    assert "start anew: network." in log


def test_files_and_patterns_that_do_nothing_are_refused(tmp_path):
    network = unet(concat={"given": 1})
    with pytest.raises(DataError, match=r"init_from.*no such file.*another --init_from"):
        take_weights(network, tmp_path / "nothing")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match=r"1 tensors, of which none fits \(weight\)"):
        take_weights(network, tmp_path / "other.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no weights")
    with pytest.raises(DataError, match=r"damaged.pt.*init_from.*weights that torch.load reads"):
        take_weights(network, tmp_path / "damaged.pt")
    with pytest.raises(DataError, match=r"fields \{'given': 1\} as channels.*'mask': 1.*names and the order"):
        take_weights(network, saved(unet(concat={"mask": 1}), tmp_path / "mask.pt"))
    for pattern in ("nonsense", ".*"):
        with pytest.raises(DataError, match=r"frozen.*Give another --frozen"):
            take_weights(network, frozen=pattern)


def test_frozen_parameters_do_not_train():
    network = unet()
    take_weights(network, frozen=r"^network\.input\.")
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer = MuonAdamW(network.parameters(), lr=0.01)
    denoised(network).square().sum().backward()
    optimizer.step()
    same = {name for name, value in network.named_parameters() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith("network.input.")} != set()


def test_a_bundle_trains_from_the_weights_of_another_bundle(trained, tmp_path):
    training = trained("toy2d_mlp")
    where = {**training.where, "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "learning_rate": 0.1}
    frozen = r"^network\.input\."
    instance = workflow(training.root, ["train"], ["smoke"], **where, init_from=str(training.root), frozen=frozen)
    weights = torch.load(training.weights, weights_only=True)
    parameters = dict(instance.parser.get_parsed_content("network").named_parameters())
    assert all(torch.equal(value.cpu(), weights[name]) for name, value in parameters.items())
    instance.run()
    kept = {name for name, value in parameters.items() if torch.equal(value.cpu(), weights[name])}
    assert kept == {name for name in parameters if name.startswith("network.input.")} != set()
