"""benchmarks/whole.py draws what the bundle draws, keeps what it has drawn, and its measures see what they should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).parent.parent
BUNDLE = ROOT / "bundles/mri_whole3d"


@pytest.fixture
def whole(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import whole

    return whole


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Untrained weights whose biases differ from 0, for heads of 32 voxels."""
    torch.manual_seed(0)
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs/inference.json"))
    statistics = {**parser["untrained"], "sample_size": [32, 32, 32]}
    parser["statistics"] = statistics
    network = parser.get_parsed_content("network_def")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    checkpoint = tmp_path / "model.pt"
    torch.save(network.state_dict(), checkpoint)
    (tmp_path / "data_statistics.json").write_text(json.dumps(statistics))
    return checkpoint


def test_the_benchmark_draws_the_heads_of_the_bundle(whole, weights):
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "configs/inference.json"))
    parser["bundle_root"], parser["checkpoint"] = str(BUNDLE), str(weights)
    parser["num_samples"], parser["steps"], parser["condition"] = 2, 2, {"age_years": 80}
    parser["handlers"], parser["postprocessing"] = ["@load_weights"], None
    evaluator = parser.get_parsed_content("evaluator")
    heads = []
    evaluator.add_event_handler("MODEL_COMPLETED", lambda engine: heads.extend(engine.state.output))
    evaluator.run()
    draw = whole.sampler_of(BUNDLE, weights, steps=2)
    ours = [draw(number, 80.0) for number in range(2)]
    theirs = [torch.as_tensor(item["pred"])[None] for item in heads]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)  # bfloat16, in a batch of another size
    assert not torch.allclose(ours[0], ours[1], atol=0.1)
    assert not torch.equal(ours[0], draw(0, 20.0))


def test_a_head_that_was_drawn_is_not_drawn_again(whole, tmp_path):
    asked = []

    def draw(number, age_years):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append((number, age_years))
        return torch.full((1, 1, 4, 4, 4), age_years / 100)

    with pytest.raises(KeyboardInterrupt):
        whole.draw_heads(tmp_path, [25.0, 50.0, 75.0], draw)
    again = [(2, 75.0), *asked]
    asked.clear()
    drawing = whole.draw_heads(tmp_path, [25.0, 50.0, 75.0], draw)
    assert asked == again[:1]
    assert drawing.heads[:, 0, 0, 0, 0].tolist() == [0.25, 0.5, 0.75]


def test_heads_of_other_ages_are_refused(whole, tmp_path):
    def draw(number, age_years):
        return torch.zeros(1, 1, 4, 4, 4)

    whole.draw_heads(tmp_path, [25.0], draw)
    with pytest.raises(SystemExit, match=r"ages \[30\.0\], got \[25\.0\]"):
        whole.draw_heads(tmp_path, [30.0], draw)


@pytest.mark.slow
def test_the_share_of_the_ventricles_is_seen_in_grey_values_alone(whole):
    from monai_diffscore.samples import simulate_head

    heads = [simulate_head(0, number) for number in range(6)]
    truth = torch.tensor([float(head.row()["ventricles_ml"]) / float(head.row()["brain_ml"]) for head in heads])
    volumes = torch.stack([torch.from_numpy(head.images["T1"])[None] / 500 - 1 for head in heads])
    seen = torch.tensor([whole.describe(volume)["ventricles"] for volume in volumes])
    assert float(torch.corrcoef(torch.stack([truth, seen]))[0, 1]) > 0.9
    ages = [head.age_years for head in heads]
    same = whole.compare(volumes, volumes, ages)
    assert same["law"]["model"] == same["law"]["real"]
    assert set(same["kolmogorov_smirnov_p"].values()) == {1.0}
    mirrored = whole.compare(volumes.flip(2), volumes, ages)
    assert mirrored["kolmogorov_smirnov_p"]["asymmetry"] == 1.0
    shifted = whole.compare(torch.stack([np.abs(volume + 1) ** 0.5 * 2 - 1 for volume in volumes]), volumes, ages)
    assert shifted["kolmogorov_smirnov_p"]["white"] < 0.05
