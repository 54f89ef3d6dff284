"""Values of flags and overlays have the kind of what they replace."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from workflows import BUNDLES, ROOT

from monai_diffscore.configuration import look_up
from monai_diffscore.errors import FlagError
from monai_diffscore.flags import nearest, refuse_numbers_for_lists, refuse_unknown

STATED = {
    "cases": "$(@dataset_dir, [])",
    "max_epochs": 40,
    "learning_rate": 0.1,
    "amp": False,
    "patch_size": [32, 32, 32],
    "levels": [0.1, 0.2, 0.4, 0.8],
    "names": ["a", "b"],
    "dataset_dir": "spiral",
    "output_dir": "$@dataset_dir + '/output'",
    "run_name": None,
    "label": None,
    "network_def": {"channels": [16, 32], "depth": 3},
    "untrained": {"image_size": [8, 8], "classes": 10},
    "window": "@patch_size",
    "sample_size": "@image_size",
    "image_size": "$@statistics['image_size']",
    "tile": "$[@statistics['tile']] * 2",
    "classes": "$@statistics['classes']",
}


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(STATED))
    return str(path)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("patch_size", 40, '"[40, 40, 40]"'),
        ("cases", "t.csv", "A table of cases takes the place of the folder: --dataset_dir t.csv"),
        ("network_def#channels", 8, '"[8, 8]"'),
        ("network_def::channels", 8.0, '"[8.0, 8.0]"'),
        ("window", 40, '"[40, 40, 40]"'),
        ("image_size", 16, '"[16, 16]"'),
        ("sample_size", 16, '"[16, 16]"'),
        ("tile", 16, "expected a list"),
        ("levels", 0.5, "a list, such as [0.1"),
        ("names", "a", "a list, such as"),
        ("max_epochs", "ten", "a number, such as 40"),
        ("max_epochs", True, "a number, such as 40"),
        ("network_def#depth", "deep", "a number, such as 3"),
        ("learning_rate", "1e-3x", "a number, such as 0.1"),
        ("amp", "false", "True or False, with a capital"),
        ("amp", "yes", "True or False"),
        ("output_dir", 202611, "expected a text, got a number"),
        ("run_name", 20261130, "\"'20261130'\""),
        ("dataset_dir", 7, "expected a text, got a number"),
        ("run_name", "null", "write '$None'"),
        ("learning_rate", "none", "write '$None'"),
        ("max_epoch", 3, "did you mean --max_epochs"),
        ("batch_sise", 3, "overrides nothing"),
    ],
)
def test_values_of_another_kind_are_refused_with_the_flag_to_write(file, flag, value, words):
    with pytest.raises(FlagError) as caught:
        refuse_unknown([file], {flag: value}, [], [])
    assert str(caught.value).startswith(f"--{flag} ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("patch_size", [40, 40]),
        ("patch_size", "$[40] * 3"),
        ("max_epochs", 2.5),
        ("max_epochs", "@network_def#depth"),
        ("amp", True),
        ("amp", 1),
        ("run_name", "2026-11-30"),
        ("run_name", "'2026_11'"),
        ("label", 3),
        ("label", "circle"),
        ("label", [0, 1]),
        ("dataset_dir", ["a", "b"]),
        ("network_def#new", 3),
        ("classes", 3),
        ("tile", [16, 16]),
        ("tile", "@patch_size"),
        ("network_def", "%other.json"),
        ("amp", None),
    ],
)
def test_values_of_the_same_kind_pass(file, flag, value):
    refuse_unknown([file], {flag: value}, [], [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": 64}, "patch_size 64: expected a list"),
        ({"sample_size": 16.0}, "sample_size 16.0: expected a list"),
        ({"network_def": {"channels": 8, "depth": 3}}, '"[8, 8]"'),
        ({"tile": 16}, "tile 16: expected a list"),
    ],
)
def test_a_program_is_held_to_the_lists_of_its_bundle(file, change, words):
    with pytest.raises(FlagError) as caught:
        refuse_numbers_for_lists(STATED | change, [file])
    assert words in str(caught.value)
    refuse_numbers_for_lists(STATED | {"patch_size": [64, 64], "max_epochs": 3}, [file])
    refuse_numbers_for_lists({"patch_size": 64}, [file])  # of another bundle


@pytest.mark.parametrize(
    "overlay", [{"sample_size": 16}, {"patch_size": 40}, {"amp": "false"}, {"network_def#channels": 8}]
)
def test_an_overlay_is_held_to_the_same(file, overlay, tmp_path):
    path = tmp_path / "overlay.json"
    path.write_text(json.dumps(overlay))
    with pytest.raises(FlagError, match=r"overlay\.json: .*expected"):
        refuse_unknown([file, str(path)], {}, [], [])


@pytest.mark.parametrize(
    "overlay",
    [
        {"network_def": {"_target_": "other.Net", "channels": 8}},
        {"network_def#_target_": "other.Net", "network_def#channels": 8},
        {"network_def::channels": 8, "network_def::depth": [1, 2], "network_def#_target_": "other.Net"},
        {"network_def#encoder": {"_target_": "other.Encoder", "widths": 8}},
    ],
)
def test_arguments_of_another_class_have_their_own_kinds(overlay, tmp_path):
    encoder = {"_target_": "Encoder", "widths": [4, 8]}
    stated = STATED | {"network_def": {"_target_": "Net", "channels": [16, 32], "depth": 3, "encoder": encoder}}
    files = [tmp_path / "train.json", tmp_path / "overlay.json"]
    for file, content in zip(files, (stated, overlay), strict=True):
        file.write_text(json.dumps(content))
    merged = ConfigParser()
    merged.read_config([str(file) for file in files])
    refuse_unknown([str(file) for file in files], {}, [], [])
    refuse_unknown([str(files[0])], {name: value for name, value in overlay.items() if "#" in name}, [], [])
    refuse_numbers_for_lists(merged.get(), [files[0]])
    with pytest.raises(FlagError, match=r"channels 8: expected a list"):
        refuse_unknown([str(files[0])], {"network_def#_target_": "Net", "network_def#channels": 8}, [], [])


def test_the_nearest_ids_are_five_at_most():
    ids = [f"name_{number}" for number in range(60)]
    assert nearest("zzz", ids).count(",") == 4
    assert nearest("name_x", ids).count("--") == 5


@pytest.mark.parametrize("bundle", sorted(path.name for path in (ROOT / "bundles").iterdir()))
def test_every_overlay_of_the_project_passes(bundle):
    configs = ROOT / "bundles" / bundle / "configs"
    bases = {base: str(configs / f"{base}.json") for base in ("train", "inference")}
    for overlay in [*configs.glob("*.json"), *(ROOT / "configs").glob("*.json")]:
        if overlay.stem not in (*bases, "metadata"):
            passed = 0
            for base in bases.values():
                try:
                    refuse_unknown([base, str(overlay)], {}, [], [])
                    passed += 1
                except (KeyError, ValueError, IndexError):
                    continue
            assert passed, overlay


def files_of(path: Path) -> list[str]:
    """A configuration file after those that it changes."""
    if path.stem in ("train", "inference"):
        return [str(path)]
    configs = path.parent if path.parent.parent.name in BUNDLES else ROOT / "bundles/toy2d_mlp/configs"
    for names in (["train"], ["inference"], ["inference", "cases"]):
        files = [str(configs / f"{name}.json") for name in names if (configs / f"{name}.json").exists()]
        changed = {name.lstrip("+").split("#")[0] for name in json.loads(path.read_text())} - {"_meta_", "imports"}
        stated = set().union(*(json.loads(Path(file).read_text()) for file in files))
        if changed & stated and str(path) not in files:
            with suppress(KeyError, ValueError, IndexError):
                refuse_unknown([*files, str(path)], {}, [], ())
                return [*files, str(path)]
    raise AssertionError(f"{path} changes neither a training nor a sampling")


def empty_ids() -> list[tuple[str, str]]:
    """(file, id) of each id whose value is null in its file, overlays included."""
    return [
        (str(file.relative_to(ROOT)), name)
        for file in sorted([*ROOT.glob("bundles/*/configs/*.json"), *ROOT.glob("configs/*.json")])
        if file.stem != "metadata"
        for name, value in json.loads(file.read_text()).items()
        if value is None
    ]


@pytest.mark.parametrize(("file", "name"), empty_ids())
def test_an_empty_id_is_refused_as_text_and_in_force_as_none(file, name):
    """`null` is a text; `None` and '$None' leave the id without a value, also for what reads it."""
    files = files_of(ROOT / file)
    for text in ("null", "none", "NULL"):
        with pytest.raises(FlagError, match=rf"--{name} {text} is the text '{text}'; write '\$None'"):
            refuse_unknown(files, {name: text}, [], ())
    refuse_unknown(files, {name: "$None"}, [name], ())
    parser = ConfigParser()
    parser.read_config(files)
    parser.update({name: "$None", "reader": f"$@{name}"})
    assert parser.get_parsed_content("reader") is None
    assert look_up(executed(parser), name) == "$None"


def overlays_with_values() -> list[tuple[str, str]]:
    """(file, id) of each number, text, list or boolean that an overlay states itself."""
    return [
        (str(file.relative_to(ROOT)), name)
        for file in sorted([*ROOT.glob("bundles/*/configs/*.json"), *ROOT.glob("configs/*.json")])
        if file.stem not in ("metadata", "train", "inference")
        for name, value in list(json.loads(file.read_text()).items())
        if isinstance(value, int | float | str | list) and name not in ("imports", "initialize", "run")
    ]


@pytest.mark.parametrize(("file", "name"), overlays_with_values()[::9])
def test_none_for_an_id_of_an_overlay_is_refused_with_the_flag_to_write(file, name):
    with pytest.raises(FlagError, match=rf"would stay. Write --{re.escape(name)} '\$None'"):
        refuse_unknown(files_of(ROOT / file), {}, [name], ())


def executed(parser: ConfigParser) -> dict:
    """The record that a configuration keeps of itself."""
    parser.update({"record": "$command_line.executed_configuration()"})
    return dict(parser.get_parsed_content("record"))


@pytest.mark.parametrize(
    ("bundle", "name"),
    [("tabular_mlp", "start"), ("mri_unet3d", "spacing_mm"), ("natural_dit2d", "ema"), ("toy2d_mlp", "seed")],
)
def test_none_for_an_id_with_a_value_is_refused_with_the_flag_to_write(bundle, name):
    """MONAI drops such a flag: the value of the file would stay."""
    files = [str(ROOT / f"bundles/{bundle}/configs/train.json")]
    with pytest.raises(FlagError, match=rf"would stay. Write --{name} '\$None'"):
        refuse_unknown(files, {}, [name], ())
    with pytest.raises(FlagError, match="write '\\$None'"):
        refuse_unknown(files, {name: "null"}, [], ())
