"""What counts as a change of a training, and what the configuration of one says."""

from __future__ import annotations

import json
from functools import partial

import pytest
from workflows import BUNDLES, ROOT

from monai_diffscore.composing import compose, declared
from monai_diffscore.configuration import OBSERVERS, choices, differences, flatten, look_up, meaning, read_by

TRAINING = {
    "imports": ["$import torch"],
    "batch_size": 8,
    "learning_rate": 0.1,
    "window": [1, 2],
    "output_dir": "a",
    "max_epochs": 3,
    "sampler": "heun",
    "depth": 2,
    "network_def": {"_target_": "Net", "blocks": [{"depth": "@depth"}, {"depth": 3}]},
    "network": "$@network_def.to('cpu')",
    "tracking": {"_target_": "monai_diffscore.handlers.Tracking", "folder": "@output_dir"},
    "train": {
        "loader": {"_target_": "Loader", "window": "@window", "batch_size": "@batch_size", "num_workers": 0},
        "handlers": [
            {"_target_": "monai_diffscore.handlers.SampleGallery", "sampler": "@sampler"},
            {"_target_": "monai_diffscore.handlers.ClipGradients", "max_norm": 1.0},
            {"_target_": "monai_diffscore.handlers.Attach", "handler": "@tracking"},
        ],
        "trainer": {
            "_target_": "Trainer",
            "network": "@network",
            "loader": "@train#loader",
            "lr": "$ @learning_rate*2",
            "max_epochs": "@max_epochs",
            "handlers": "@train#handlers",
        },
    },
}


def changed(change) -> list[str]:
    config = json.loads(json.dumps(TRAINING))
    change(config)
    return differences(read_by(TRAINING, "train#trainer"), read_by(config, "train#trainer"))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c.update(learning_rate=0.2), "learning_rate: 0.1 then, 0.2 now"),
        (lambda c: c.update(window=[1, 3]), "window: [1, 2] then, [1, 3] now"),
        (lambda c: c.update(depth=3), "depth: 2 then, 3 now"),
        (lambda c: c["network_def"]["blocks"][1].update(depth=4), "network_def#blocks#1#depth: 3 then, 4 now"),
        (lambda c: c["train"]["handlers"][1].update(max_norm=2.0), "train#handlers#0#max_norm: 1.0 then, 2.0 now"),
        (lambda c: c["train"]["loader"].update(seed=3), "train#loader#seed: absent then, 3 now"),
        (
            lambda c: c["train"]["trainer"].update(lr="$@learning_rate * 3"),
            "train#trainer#lr: '$@learning_rate * 2' then, '$@learning_rate * 3' now",
        ),
    ],
)
def test_a_changed_value_that_the_trainer_reads_is_named(change, line):
    assert changed(change) == [line]


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(max_epochs=9, output_dir="b"),
        lambda c: c["train"]["trainer"].update(max_epochs=9),
        lambda c: c["train"]["loader"].update(num_workers=4),
        lambda c: c.update(sampler="euler"),
        lambda c: c["train"]["handlers"].insert(0, {"_target_": "monai_diffscore.handlers.Progress"}),
        lambda c: c["train"]["handlers"].pop(2),
        lambda c: c.update(network={"_target_": "DistributedDataParallel", "module": "$@network_def.to('cuda')"}),
        lambda c: c.update(notes="a training of Monday", imports=[]),
        lambda c: c["train"]["trainer"].update(lr="$(@learning_rate * 2)"),
        lambda c: c.update(learning_rate="$1e-1", window="$[1, 2]"),
        lambda c: c["train"]["trainer"].update(loader="@train::loader"),
        lambda c: c.update(dict(reversed(c.items()))),
    ],
)
def test_length_place_observers_and_wording_may_change(change):
    assert changed(change) == []


def test_a_configuration_without_the_trainer_counts_as_a_whole():
    assert read_by({"lr": 1, "save_every": 2, "run": "x"}, "train#trainer") == {"lr": 1}


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize(
    "name", ["learning_rate", "batch_size", "seed", "warmup_iterations", "max_gradient_norm", "accumulation_steps"]
)
def test_every_bundle_compares_the_settings_of_its_training(bundle, name):
    config = json.loads((ROOT / f"bundles/{bundle}/configs/train.json").read_text())
    now = read_by(config | {name: 77}, "train#trainer")
    assert differences(read_by(config, "train#trainer"), now) == [f"{name}: {config[name]} then, 77 now"]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_no_bundle_compares_values_that_may_change(bundle):
    config = json.loads((ROOT / f"bundles/{bundle}/configs/train.json").read_text())
    now = config | dict.fromkeys(("max_epochs", "save_every", "val_interval", "num_workers", "device"), 77)
    now |= dict.fromkeys(("output_dir", "ckpt_dir", "dataset_dir", "tracking_uri", "run_name"), "elsewhere")
    assert differences(read_by(config, "train#trainer"), read_by(now, "train#trainer")) == []


def test_meaning_ignores_spaces_quotes_and_kinds_of_lists():
    assert meaning("$ dict(a = @x::y,b='c')") == meaning('$dict(a=@x#y, b="c")')
    assert meaning("$None") is None
    assert meaning((1, "$2")) == [1, 2]
    assert meaning("not $ an expression") == "not $ an expression"
    assert meaning("$not python") == "$not python"
    assert meaning(partial(max, key=len)) == "max(key=len)"


def test_rounding_is_no_difference_where_a_tolerance_says_so():
    then, now = {"mean": [0.1, {"a": 2.0}], "n": 3}, {"mean": [0.1 + 1e-9, {"a": 2.0}], "n": 3}
    assert differences(then, now, tolerance=1e-6) == []
    assert len(differences(then, now)) == 1
    assert differences({"n": 3}, {"n": 4}, tolerance=1e-6) == ["n: 3 then, 4 now"]
    assert differences({"n": 1}, {"n": True}) == ["n: 1 then, True now"]


def test_choices_are_the_values_that_are_stated():
    stated = choices(TRAINING)
    assert stated["network_def#blocks#1#depth"] == 3
    assert stated["window"] == [1, 2]
    assert not {"imports", "network", "train#trainer#lr"} & stated.keys()
    assert dict(flatten({"a": [], "b": {}, "c": [[1]]})) == {"a": [], "b": {}, "c#0": [1]}


def test_each_handler_of_a_shipped_training_observes_or_acts():
    """A new handler is one or the other: :data:`OBSERVERS` has no entry too few and none too many."""
    acting = {"PowerEMA", "ClipGradients", "LrScheduleHandler"}
    handlers = {"ShardedCheckpoint"}  # of fsdp.json
    for name in declared():
        train = compose(name)["train"]
        for handler in [*train["train"]["handlers"], *train.get("first_stage", {}).get("handlers", [])]:
            attached = look_up(train, handler["handler"].removeprefix("@")) if "handler" in handler else handler
            attached = [attached] if isinstance(attached, dict) else attached
            handlers |= {entry["_target_"].rsplit(".", 1)[-1] for entry in attached}
    assert handlers == OBSERVERS | acting
