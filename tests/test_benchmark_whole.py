"""The training of benchmarks/whole.py continues as if it had not stopped, and its measures see what they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent


@pytest.fixture
def whole(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import whole

    return whole


def test_a_training_that_stops_continues_bit_for_bit(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "BATCH", 1)
    images = torch.randint(0, 1000, (3, 1, 48, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.int16)
    condition = {"age_years": torch.tensor([30.0, 50.0, 70.0]), "sex": torch.tensor([0, 1, 1])}

    def training(folder):
        folder.mkdir(exist_ok=True)
        return whole.Training(folder, images, condition, 1e6)

    straight = training(tmp_path / "straight")
    steps = straight.run(0)
    assert [next(steps), next(steps)] == [1, 2]
    assert next(training(tmp_path / "stopped").run(0)) == 1
    continued = training(tmp_path / "stopped")
    assert 0 < continued.used < 600
    assert next(continued.run(0)) == 2
    for module in ("model", "average"):
        ours, theirs = (getattr(each, module).state_dict() for each in (continued, straight))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_the_share_of_the_ventricles_is_seen_in_grey_values_alone(whole):
    from monai_diffscore.samples import simulate_head

    heads = [simulate_head(0, number) for number in range(6)]
    truth = torch.tensor([float(head.row()["ventricles_ml"]) / float(head.row()["brain_ml"]) for head in heads])
    volumes = [whole.normalised(torch.from_numpy(head.images["T1"])[None]) for head in heads]
    seen = torch.tensor([whole.describe(volume)["ventricles"] for volume in volumes])
    assert float(torch.corrcoef(torch.stack([truth, seen]))[0, 1]) > 0.9
