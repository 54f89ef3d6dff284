"""A planned bundle and a shipped one are the same files if the values are the same."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from monai_diffscore.composing import compose, declared
from monai_diffscore.data.literals import literal
from monai_diffscore.errors import DataError
from monai_diffscore.planning.bundle import planned_configs, planned_parts
from monai_diffscore.planning.declarations import FILES
from monai_diffscore.planning.plan import Choice, Plan

#: what a plan says of the user's data in place of the shipped sample: paths, and names of columns
PATHS = {"dataset_dir", "healthy_dir", "schema", "fields_file", "graph_files"}
#: and in place of a shipped cohort of whole volumes
COHORT = {"subjects", "participants", "fields", "task"}
TEXTS = {"changelog", "name", "description", "data_source", "intended_use", "image_classes"}
KINDS = {
    "pathology_hierarchical_unet": "slides",
    "natural_dit2d": "pictures",
    "signal_dit1d": "sequences",
    "scrna_attention": "cells",
    "bulk_expression_mlp": "expression",
    "pathway_gnn": "expression",
    "tabular_mlp": "table",
}
PLANNED = [name for name in declared() if name != "toy2d_mlp"]


def plan_of(name: str) -> Plan:
    """The plan with the choices of a shipped bundle."""
    train = compose(name)["train"]
    kind = KINDS.get(name, "volumes")
    choices = {key: value for key, value in train.items() if not isinstance(value, dict | str) and is_plain(value)}
    network = {key: value for key, value in train["network_def"].get("network", {}).items() if key != "condition"}
    limits = {key: train[key] for key in ("window_hu", "percentiles") if key in train}
    patches = {
        "network": network,
        "noise": {key: train["noise"][key] for key in ("mean", "std") if network},
        "sigma_max": train["sigmas"]["sigma_max"],
    }
    images = {
        "normalisation": limits,
        "autocast_dtype": train["autocast_dtype"] and train["autocast_dtype"].removeprefix("$torch."),
        "optimizer": {"learning_rate": train["learning_rate"]},
        "ema_length": train["ema"]["relative_length"],
    }
    choices |= {"network": network} if kind in FILES else images | (patches if network else {})
    return Plan(
        data="/data",
        kind=kind,
        template=name,
        choices={key: Choice(value, "as shipped") for key, value in choices.items()},
        modality=train.get("modality", ""),
        channels=train.get("image_channels", 1),
        details={"classes": [str(number) for number in range(train.get("num_classes") or 0)]},
    )


def is_plain(value: Any) -> bool:
    """Whether a value is data, not text that MONAI runs or builds from."""
    return literal(value) == value and not (isinstance(value, list) and any(isinstance(entry, dict) for entry in value))


def without(configs: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    """The configurations without the values of some ids, wherever they stand."""
    if isinstance(configs, dict):
        return {key: without(value, keys) for key, value in configs.items() if key not in keys}
    return configs


@pytest.mark.parametrize("name", PLANNED)
def test_a_plan_of_the_shipped_values_gives_the_shipped_files(name):
    plan = plan_of(name)
    shipped = compose(name, planned_parts(plan))
    names = set(FILES[plan.kind][2]) if plan.kind in FILES else COHORT if plan.whole else set()
    planned = without(planned_configs(plan, name), PATHS | names)
    metadata = without(planned.pop("metadata"), TEXTS)
    shipped = without(shipped, PATHS | names)
    expected = without(shipped.pop("metadata"), TEXTS)
    assert planned == shipped
    assert list(planned["train"]) == list(shipped["train"])
    of_data = ["num_channels"] if plan.kind in FILES else []  # the number of columns, and the classes
    of_data += ["num_channels", "channel_def"] if name == "mri_labelled3d" else []
    for config in (metadata, expected):
        for tensors in config["network_data_format"].values():
            for key in of_data:
                next(iter(tensors.values())).pop(key)
    assert metadata == expected


def test_another_value_of_the_plan_is_another_value_of_the_files():
    plan = plan_of("mri_unet3d")
    changed = copy.deepcopy(plan)
    changed.choices["patch_size"] = Choice([48, 48, 48], "larger")
    before, after = planned_configs(plan, "a"), planned_configs(changed, "a")
    assert after["train"]["patch_size"] == after["inference"]["sample_size"] == [48, 48, 48]
    assert after["generate"]["sample_size"] == [96, 96, 96]
    after["train"]["patch_size"] = before["train"]["patch_size"]
    assert after["train"] == before["train"]


@pytest.mark.parametrize("value", [64, 0, 0.0, False, None, [], "auto"])
def test_a_choice_that_the_bundle_lacks_is_refused_by_its_name(value):
    plan = plan_of("mri_unet3d")
    plan.choices["patches_per_volum"] = Choice(value, "a typing error")
    with pytest.raises(DataError, match=r"plan: patches_per_volum\b.*train\.json of mri_unet3d"):
        planned_configs(plan, "mri_unet3d")


def test_an_intercept_is_for_ct_alone():
    plan = plan_of("mri_unet3d")
    plan.details["reading"] = {"assume_intercept": None}
    assert "assume_intercept" not in planned_configs(plan, "mri_unet3d")["train"]
    plan.details["reading"] = {"assume_intercept": -1024}
    with pytest.raises(DataError, match="assume_intercept = -1024"):
        planned_configs(plan, "mri_unet3d")


def test_the_layout_of_four_channels_stands_in_the_training_alone():
    """A bundle of several channels has no tasks on cases."""
    listing = {"layout": "brats", "image": "t1,t1ce,t2,flair", "subject": ""}
    plan = replace(plan_of("mri_unet3d"), channels=4, details={"listing": listing})
    configs = planned_configs(plan, "mri_unet3d")
    assert {name: configs["train"][name] for name in listing} == listing
    assert not {"cases", "anomaly", "likelihood"} & configs.keys()
