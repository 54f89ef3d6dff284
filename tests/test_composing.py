"""Bundles come out of parts: what is committed is what the parts give, and nothing in it is text that needs editing."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from pydoc import locate

import pytest
from monai.bundle import ComponentLocator, ConfigParser
from monai.transforms import MapTransform

from monai_diffscore import composing
from monai_diffscore.__main__ import main
from monai_diffscore.composing import composition, formatting, merging
from monai_diffscore.configuration import references_in
from monai_diffscore.data import SlideTiles, require_weights, statistics_beside
from monai_diffscore.errors import DataError
from monai_diffscore.inspection.files import items, look_up

ROOT = Path(__file__).parent.parent
BUNDLES = composing.declared()
SOURCE = Path(composition.__file__).parent
#: lines of all configurations of bundles when each was written by hand
BY_HAND = 8045
LOCATOR = ComponentLocator()


def sources() -> list[Path]:
    return sorted([*SOURCE.glob("parts/*.json"), *SOURCE.glob("declarations/*.json")])


@pytest.mark.parametrize("name", BUNDLES)
def test_committed_bundles_equal_the_composed_ones(name):
    assert composing.differences(ROOT / "bundles" / name, name) == []


def test_every_folder_of_bundles_is_declared():
    assert sorted(path.name for path in (ROOT / "bundles").iterdir() if path.is_dir()) == BUNDLES


def test_one_changed_default_is_one_edited_line_and_a_regeneration(tmp_path, monkeypatch):
    """The learning rate of all bundles, in a copy."""
    shutil.copytree(SOURCE / "parts", tmp_path / "parts")
    shutil.copytree(SOURCE / "declarations", tmp_path / "declarations")
    monkeypatch.setattr(composition, "_HERE", tmp_path)
    part = tmp_path / "parts/training.json"
    before = part.read_text()
    part.write_text(before.replace('"learning_rate": 0.002', '"learning_rate": 0.001'))
    changed = [line for line, old in zip(part.read_text().split("\n"), before.split("\n"), strict=True) if line != old]
    assert len(changed) == 1
    composing.write_shipped(tmp_path / "bundles")
    for name in BUNDLES:
        committed = json.loads((ROOT / f"bundles/{name}/configs/train.json").read_text())
        written = json.loads((tmp_path / f"bundles/{name}/configs/train.json").read_text())
        assert written == {**committed, "learning_rate": 0.001}


def test_the_source_is_much_shorter_than_the_bundles():
    lines = sum(len(path.read_text().splitlines()) for path in sources())
    assert lines <= 3000 < BY_HAND
    assert lines < 0.4 * sum(len(text.splitlines()) for name in BUNDLES for text in all_texts(name))


def all_texts(name: str) -> list[str]:
    return [formatting.to_json(config) for config in composing.compose(name).values()]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.stem)
def test_sources_are_written_as_bundles_are(path):
    assert path.read_text() == formatting.to_json(json.loads(path.read_text()))


def test_every_part_is_used():
    used = {part for name in BUNDLES for part in composing.declaration(name)["parts"]}
    assert {path.stem for path in SOURCE.glob("parts/*.json")} == used


@pytest.mark.parametrize("name", BUNDLES)
def test_no_expression_is_longer_than_a_line(name):
    """Long ones are functions of the package, with a test."""
    expressions = [
        (f"{file}: {place}", value)
        for file, config in composing.compose(name).items()
        for place, value in items(config)
        if isinstance(value, str) and value.startswith("$")
    ]
    assert expressions
    assert [place for place, value in expressions if len(value) > 120] == []


@pytest.mark.parametrize("name", BUNDLES)
def test_no_expression_computes_with_numbers(name):
    """A formula is a function with a name and a test. Lists and texts are joined and repeated."""
    configs = composing.compose(name)
    for file, config in configs.items():
        assert formulas(config, {**configs["train"], **configs["inference"], **config}) == [], file


def test_overlays_hold_no_long_expression_and_no_formula():
    train = composing.compose("mri_unet3d")["train"]
    for path in (ROOT / "configs").glob("*.json"):
        overlay = json.loads(path.read_text())
        assert formulas(overlay, {**train, **overlay}) == [], path
        for _, value in items(overlay):
            assert not (isinstance(value, str) and value.startswith("$") and len(value) > 120), path


@pytest.mark.parametrize(
    ("expression", "is_formula"),
    [
        ("$@latent_size + 1", True), ("$10**6 + @seed", True), ("$@rate * @ratio", True), ("$[@rate / 1000]", True),
        ("$@epochs * len(@cases)", True), ("$-@seed", True), ("$[dict(seed=2**n) for n in range(3)]", True),
        ("$@cases[0] * @epochs", False), ("$[32] * @epochs", False), ("$@cases + @cases", False),
        ("$@folder + '/output'", False), ("$float(-1.0)", False), ("$3 if @epochs > 1 else 1", False),
    ],
)  # fmt: skip
def test_formulas_are_told_from_lists(expression, is_formula):
    ids = {"latent_size": 2, "seed": 0, "rate": 0.1, "ratio": 0.5, "epochs": 3, "cases": "$[[1], [2]]", "folder": "."}
    assert bool(formulas({"value": expression}, ids)) is is_formula


def formulas(config: dict, ids: dict) -> list[str]:
    """The expressions of a configuration that compute with numbers; ``ids`` holds the values of what they read."""
    return [value for _, value in items(config) if isinstance(value, str) and computes(value, ids)]


def computes(expression: str, ids: dict) -> bool:
    if not expression.startswith("$") or expression.startswith("$import "):
        return False
    names = {f"reference_{number}": name for number, name in enumerate(references_in(expression))}
    text = expression[1:].replace("::", "#")
    for name in sorted(names, key=lambda name: -len(names[name])):
        text = text.replace(f"@{names[name]}", name)
    numbers = {name for name, place in names.items() if is_plain_number(look_up(ids, place)[1])}
    return any(is_formula(node, numbers) for node in ast.walk(ast.parse(text, mode="eval")))


def is_formula(node: ast.AST, numbers: set[str]) -> bool:
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant)
    if not isinstance(node, ast.BinOp):
        return False
    sides = [is_number(side, numbers) for side in (node.left, node.right)]
    return all(sides) if isinstance(node.op, ast.Mult) else any(sides) or not isinstance(node.op, ast.Add)


def is_number(node: ast.AST, numbers: set[str]) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("abs", "float", "int", "len", "max", "min", "round")
    named = isinstance(node, ast.Name) and node.id in numbers
    return named or (isinstance(node, ast.Constant) and is_plain_number(node.value))


def is_plain_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize("name", BUNDLES)
def test_every_place_of_a_part_has_a_component(name):
    """A misspelt place would add a file, or an entry without ``_target_`` to a list of components."""
    configs = composing.compose(name)
    assert configs.keys() <= {
        "metadata", "train", "inference", "evaluate", "demo", "cases", "denoise", "inpaint", "super_resolve", "anomaly",
        "likelihood", "reconstruct_ct", "reconstruct_mri", "generate", "impute", "components", "leukaemia", "all_rows",
        "autoencoder", "batch_transfer", "permuted_graph", "organ_abdomen", "organ_bone", "organ_head", "organ_lung",
    }  # fmt: skip
    for config in configs.values():
        for place, entries in items(config):
            if isinstance(entries, list) and any(isinstance(entry, dict) and "_target_" in entry for entry in entries):
                assert all(isinstance(entry, str) or "_target_" in entry for entry in entries), place


@pytest.mark.parametrize("name", BUNDLES)
def test_preprocessing_stands_once(name):
    """Training, inference, tasks and MONAI Label read one declaration of each transform and of each reader."""
    configs = composing.compose(name)
    train, inference = configs["train"], configs["inference"]
    for steps in ("reading", "intensity", "profile_transforms", "slide_tiles"):
        if steps in train and steps in inference:
            assert train[steps] == inference[steps]
    if "cases" in configs:
        assert {"reading", "intensity"} <= train.keys() & inference.keys()
    if "pre_transforms" in inference:
        assert {"@reading", "@intensity"} <= set(references(inference["pre_transforms"]["transforms"]))
    if "cases" in configs:
        assert {"@reading", "@intensity"} <= set(references(configs["cases"]["preprocessing"]["transforms"]))
    declared = {file: transforms_of(configs[file]) for file in configs if file != "metadata"}
    assert any(declared.values()) or name in ("toy2d_mlp", "scrna_attention")
    for file, transforms in declared.items():
        again = [] if file in ("train", "inference") else declared["train" if file == "evaluate" else "inference"]
        assert len({*transforms, *again}) == len([*transforms, *again]), file


def references(text: str) -> list[str]:
    return re.findall(r"@\w+", text)


def transforms_of(config: dict) -> list[tuple[str, str]]:
    """Class and keys of each transform and of each reader of slides."""
    declared = []
    for place, target in items(config):
        if place.endswith("_target_"):
            kind = target if "." in target else LOCATOR.get_component_module_name(target)
            kind = kind if kind.endswith(target) else f"{kind}.{target}"
            if isinstance(locate(kind), type) and issubclass(locate(kind), (MapTransform, SlideTiles)):
                keys = look_up(config, place.removesuffix("_target_") + "keys")[1]
                declared.append((target, str(keys)))
    return declared


@pytest.mark.parametrize("name", BUNDLES)
def test_networks_are_built_without_statistics(name, tmp_path):
    """So that a user can inspect a bundle without weights."""
    folder = tmp_path / name
    shutil.copytree(ROOT / "bundles" / name / "configs", folder / "configs")
    parser = ConfigParser()
    parser.read_config(folder / "configs/inference.json")
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) > 1000


def test_sampling_without_weights_is_refused_with_the_command_that_trains(tmp_path):
    with pytest.raises(DataError, match=r"model\.pt.*no such file.*run training"):
        require_weights(tmp_path / "model.pt")


def test_statistics_are_not_invented_beside_weights(tmp_path):
    weights = tmp_path / "model.pt"
    assert statistics_beside(weights, {"sigma_data": 1.0}) == {"sigma_data": 1.0}
    weights.touch()
    with pytest.raises(DataError, match="statistics"):
        statistics_beside(weights, {"sigma_data": 1.0})


class TestMerging:
    def merged(self, *parts: dict) -> dict:
        target: dict = {}
        for part in parts:
            merging.merge(target, part)
        return target

    def test_a_key_may_name_several_places_and_lead_into_objects(self):
        assert self.merged({"train, inference/sigmas": {"steps": 4}}) == {
            "train": {"steps": 4},
            "inference": {"sigmas": {"steps": 4}},
        }

    def test_several_places_do_not_share_an_object(self):
        both = self.merged({"train, inference": {"sigmas": {"steps": 4}}}, {"train/sigmas/steps": 8})
        assert both["inference"]["sigmas"]["steps"] == 4

    def test_objects_merge_and_everything_else_replaces(self):
        assert self.merged({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}}) == {"a": {"b": 1, "c": [3]}}

    def test_another_target_replaces_the_component(self):
        parts = {"network": {"_target_": "A", "width": 3}}, {"network": {"_target_": "B", "depth": 2}}
        assert self.merged(*parts) == {"network": {"_target_": "B", "depth": 2}}
        same = {"network": {"_target_": "A", "width": 3}}, {"network": {"_target_": "A", "depth": 2}}
        assert self.merged(*same) == {"network": {"_target_": "A", "width": 3, "depth": 2}}

    def test_lists_with_names_keep_their_order_and_drop_open_places(self):
        slots = {"steps[]": {"load": "...", "scale": {"by": 2}, "pad": "..."}}
        full = self.merged(slots, {"steps[]/load": {"file": "x"}, "steps[]/scale/by": 3})
        assert merging.plain_value(full) == {"steps": [{"file": "x"}, {"by": 3}]}

    def test_null_is_a_value(self):
        assert merging.plain_value(self.merged({"a": None, "b": "..."})) == {"a": None}

    def test_hashes_are_left_to_monai(self):
        assert merging.plain_value(self.merged({"a#b": 1})) == {"a#b": 1}

    def test_the_keys_of_a_whole_object_are_no_places(self):
        fields = {"age, years": {"mean": 60.0}, "a/b": {"mean": 1.0}}
        assert self.merged({"fields": merging.Whole(fields)}) == {"fields": fields}

    def test_later_parts_do_not_change_earlier_ones(self):
        part = {"a": {"b": [1]}}
        self.merged(part, {"a/b": [2]})["a"]["b"].append(3)
        assert part == {"a": {"b": [1]}}


def test_unknown_names_are_refused_with_those_that_exist():
    with pytest.raises(DataError, match=r"'mri_unet4d'.*Name one of them") as error:
        composing.compose("mri_unet4d")
    assert "mri_unet3d" in str(error.value)
    with pytest.raises(DataError, match=r"a part: .*training"):
        composing.compose("mri_unet3d", ["trainings"])


def test_json_keeps_every_value_and_the_width():
    value = {"a": [1, 2.5, None, True, "ü"], "b": {"_target_": "x", "long": "y" * 130}, "c": {}, "d": [{"e": []}]}
    text = formatting.to_json(value)
    assert json.loads(text) == value
    assert all(len(line) <= formatting.WIDTH or "y" * 130 in line for line in text.splitlines())
    words = [f"word {number}, and more" for number in range(20)]
    assert json.loads(formatting.to_json({"words": words})) == {"words": words}
    assert len(formatting.to_json({"words": words}).splitlines()) < 10
    assert '"a": [1, 2.5, null, true, "ü"]' in text


def test_the_command_writes_and_checks(tmp_path, capsys):
    shutil.copytree(ROOT / "bundles/toy2d_mlp", tmp_path / "toy2d_mlp")
    assert main(["compose", "--bundles", str(tmp_path)]) == 0
    assert main(["compose", "--bundles", str(tmp_path), "--check"]) == 0
    train = tmp_path / "toy2d_mlp/configs/train.json"
    train.write_text(re.sub('"max_epochs": [0-9]+', '"max_epochs": 1', train.read_text()))
    (tmp_path / "toy2d_mlp/configs/stray.json").write_text("{}")
    assert main(["compose", "--bundles", str(tmp_path), "--check"]) == 1
    output = capsys.readouterr().out
    assert "toy2d_mlp/configs/train.json: differs" in output
    assert "stray.json: differs" in output
    assert main(["compose", "--bundles", str(tmp_path)]) == 0
    assert composing.differences(tmp_path / "toy2d_mlp", "toy2d_mlp") == []
