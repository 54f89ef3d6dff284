"""Plan to bundle: a shipped bundle with the plan's values written in, whole or not at all.

Nothing is generated but values, and the few transforms that a template does not have: the planned bundle reads like the
one it was made from, and takes the same overlays and flags.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_diffscore.atomic_files import whole_folder, write_json
from monai_diffscore.data.literals import literal
from monai_diffscore.planning.card import model_card
from monai_diffscore.planning.declarations import FILES, declared_files
from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.plan import Plan
from monai_diffscore.planning.templates import read_config, template_folder

Config = dict[str, Any]
#: data whose rows have no place in space
GENE_KINDS = ("cells", "expression", "table")
#: overlays of volumes that read cases again; they know one channel
CASE_TASKS = (
    "cases",
    "anomaly",
    "likelihood",
    "inpaint",
    "super_resolve",
    "denoise",
    "reconstruct_mri",
    "reconstruct_ct",
)


def write_bundle(plan: Plan, folder: str | Path, fingerprint: Fingerprint | None = None) -> None:
    """Writes the planned bundle.

    Args:
        plan: its choices.
        folder: of the bundle; must not exist, or be empty. Its name is the bundle's.
        fingerprint: kept beside the plan.
    Raises:
        FileExistsError: if there is something in the folder.
        DataError: if the template is not installed.
    """
    folder = Path(folder).expanduser().resolve()
    source = template_folder(plan.template)
    configs = {file.stem: read_config(source, file.stem) for file in sorted((source / "configs").glob("*.json"))}
    for name in [name for name in configs if name.startswith("organ_") or name == "demo"]:
        del configs[name]  # they set what the plan sets, and the weights of another network
    if plan.modality != "CT":
        configs.pop("reconstruct_ct", None)
    if plan.channels > 1:
        for name in CASE_TASKS:
            configs.pop(name, None)
    _write_values(plan, configs, folder.name)
    with whole_folder(folder) as place:
        (place / "configs").mkdir()
        (place / "docs").mkdir()
        (place / "models").mkdir()
        (place / "models/.gitkeep").touch()
        shutil.copy(source / "LICENSE", place / "LICENSE")
        shutil.copy(source / "configs/logging.conf", place / "configs/logging.conf")
        for name, config in configs.items():
            (place / f"configs/{name}.json").write_text(json.dumps(config, indent=4) + "\n")
        (place / "docs/README.md").write_text(model_card(plan, folder.name, sorted(configs)))
        (place / "docs/plan.json").write_text(plan.to_json())
        for name, content in declared_files(plan).items():
            write_json(place / "docs" / name, content, ensure_ascii=False)
        if fingerprint is not None:
            (place / "docs/fingerprint.json").write_text(fingerprint.to_json())


def _write_values(plan: Plan, configs: dict[str, Config], name: str) -> None:
    kinds: dict[str, Callable[[Plan, dict[str, Config]], None]] = {
        "volumes": _write_volumes,
        "pictures": _write_pictures,
        "slides": _write_slides,
        "sequences": _write_sequences,
    }
    _write_name(plan, configs, name)
    if plan.kind in GENE_KINDS:
        _write_rows(plan, configs)
    else:
        _write_common(plan, configs)
        kinds[plan.kind](plan, configs)
        _write_conditions(plan, configs)
    _write_metadata(plan, configs["metadata"], name)


def _write_name(plan: Plan, configs: dict[str, Config], name: str) -> None:
    """The data, and the name of the bundle where runs and pictures bear it."""
    configs["train"]["dataset_dir"] = literal(plan.data)
    configs["train"]["tracking"]["prefix"] = literal(name)
    for handler in configs["inference"]["handlers"]:
        if isinstance(handler, dict) and handler["_target_"].endswith("SaveGallery"):
            handler["title"] = literal(name)


def _write_common(plan: Plan, configs: dict[str, Config]) -> None:
    train, inference = configs["train"], configs["inference"]
    train["left_out"] = literal(list(plan.left_out))
    for config in (train, inference):
        config["network_def"]["network"] = json.loads(json.dumps(plan["network"]))
        if "condition" in read_config(template_folder(plan.template), "train")["network_def"]["network"]:
            config["network_def"]["network"].setdefault("condition", None)
        config["autocast_dtype"] = f"$torch.{plan['autocast_dtype']}" if plan["autocast_dtype"] else None
        config["checkpointing"] = plan["checkpointing"]
        config["sigmas"]["sigma_max"] = plan["sigma_max"]
        if config["network_def"]["network"].get("condition", ...) is None:
            del config["network_def"]["network"]["condition"]
    train["noise"] = {"_target_": "monai_diffscore.losses.LogNormalNoise", **plan["noise"]}
    train["ema"]["relative_length"] = plan["ema_length"]
    train["learning_rate"] = plan["optimizer"]["learning_rate"]
    for key in ("batch_size", "validation_share", "cache_memory_gb", "max_epochs", "val_interval", "save_every",
                "gallery_every", "time_limit_seconds"):  # fmt: skip
        if key in plan.choices and key in train:
            train[key] = plan[key]


def _write_rows(plan: Plan, configs: dict[str, Config]) -> None:
    """The choices for genes and tables are ids of the configurations; the network follows from them and the data.

    Names of columns stand in a file beside.
    """
    train, inference = configs["train"], configs["inference"]
    file, place, names = FILES[plan.kind]
    for key, choice in plan.choices.items():
        if key in train and key != "network" and key not in names:
            train[key] = literal(choice.value)
        if key in inference and key in ("hidden_size", "dropout", "checkpointing"):
            inference[key] = choice.value
    train.update({name: [] if isinstance(train[name], list) else None for name in names if name in train})
    train[place] = f"$@bundle_root + '/docs/{file}'"


#: how a planned training lists its volumes
LIST_VOLUMES = "data.list_volumes(@dataset_dir, left_out=@left_out, layout=@layout, image=@image, subject=@subject)"


def find(transforms: list[Any], target: str) -> Config:
    """The first declaration in a list whose ``_target_`` ends with ``target``."""
    return next(item for item in transforms if isinstance(item, dict) and item["_target_"].endswith(target))


def _write_volumes(plan: Plan, configs: dict[str, Config]) -> None:
    train, inference = configs["train"], configs["inference"]
    train["cases"] = train["cases"].replace("data.list_volumes(@dataset_dir)", LIST_VOLUMES)
    train |= {name: literal(value) for name, value in plan.details["listing"].items()}
    for key in ("spacing_mm", "patch_size", "patches_per_volume"):
        train[key] = plan[key]
    inference["sample_size"] = plan["patch_size"]
    for config in (train, inference):
        config["image_channels"] = plan.channels
    if _lends_slices(plan):
        _percentiles_for_hounsfield(configs)
    steps = train["train"]["deterministic_transforms"]
    find(steps, "LoadVolumed").update(channels=plan.channels, modality=plan.modality)
    limits = plan["normalisation"]
    if "window_hu" in limits:
        train["window_hu"] = limits["window_hu"]
    else:
        for chain in (steps, *_chains_of_cases(configs)):
            scale = find(chain, "PercentileScaled")
            scale["lower"], scale["upper"] = limits["percentiles"]
    gallery = find(train["train"]["handlers"], "SampleGallery")
    gallery["shape"] = "$[@image_channels, *@patch_size]"
    blank = find(inference["preprocessing"]["transforms"], "BlankVolumed")
    blank["channels"] = "@image_channels"
    if plan.channels > 1:
        find(steps, "PercentileScaled")["channel_wise"] = True
        blank["value"] = "$min(@statistics['low'])"
    inference["save_dicom"]["modality"] = _dicom_modality(plan)
    for chain in _chains_of_cases(configs):
        find(chain, "LoadVolumed")["modality"] = plan.modality
    for name, config in configs.items():
        if name in ("generate", *CASE_TASKS):
            _adapt_task(plan, config)


def _dicom_modality(plan: Plan) -> str:
    """What series are written as: nothing but CT and MR can be."""
    return "CT" if plan.modality == "CT" else "MR"


def _lends_slices(plan: Plan) -> bool:
    """Whether a bundle of CT serves another modality."""
    return plan.modality != "CT" and plan.template.startswith("ct_")


def _percentiles_for_hounsfield(configs: dict[str, Config]) -> None:
    """Gives the slices of a CT bundle the intensities of any other modality: percentiles of each volume.

    The window of CT comes last, so that noise and interpolation are in HU; percentiles are of whole volumes and come
    before anything is cut out.
    """
    train = configs["train"]
    steps = [step for step in train["train"]["deterministic_transforms"] if not _of_hounsfield(step)]
    crop = find(steps, "CropForegroundd")
    del crop["select_fn"]
    steps.insert(steps.index(crop) + 1, _percentiles())
    find(steps, "SpatialPadd")["value"] = -1.0
    train["train"]["deterministic_transforms"] = steps
    train["train"]["intensity"] = {"_target_": "Identityd", "keys": "image"}
    del train["window_hu"]
    train["noise_std"] = train.pop("noise_hu")
    find(train["train"]["random_transforms"], "RandGaussianNoised")["std"] = "@noise_std"
    for chain in _chains_of_cases(configs):
        del find(chain, "CropForegroundd")["select_fn"]
        chain[:] = [
            _percentiles() if step["_target_"].endswith("WindowHUd") else step
            for step in chain
            if not _of_hounsfield(step)
        ]


def _chains_of_cases(configs: dict[str, Config]) -> list[list[Config]]:
    """The transforms that tasks and MONAI Label read cases with."""
    chains = [configs["inference"]["pre_transforms"]["transforms"]]
    return [*chains, configs["cases"]["preprocessing"]["transforms"]] if "cases" in configs else chains


def _of_hounsfield(step: Config) -> bool:
    return step["_target_"].endswith(("HounsfieldUnitsd", "ReplacePaddingd"))


def _percentiles() -> Config:
    return {"_target_": "monai_diffscore.transforms.PercentileScaled", "keys": "image", "lower": 0.5, "upper": 99.5}


def _adapt_task(plan: Plan, config: Config) -> None:
    """Sizes, data and modality of a task: those of the plan."""
    for key, value in {
        "dataset_dir": literal(plan.data),
        "healthy_dir": literal(plan.data),
        "window": plan["patch_size"],
        "sample_size": [2 * side for side in plan["patch_size"]],
    }.items():
        if key in config:
            config[key] = value
    if "save_dicom" in config:
        config["save_dicom"]["modality"] = _dicom_modality(plan)


def _write_pictures(plan: Plan, configs: dict[str, Config]) -> None:
    train = configs["train"]
    classes = plan.details.get("classes") or []
    train.update(
        image_size=plan["image_size"],
        channels=plan.channels,
        fit=plan["fit"],
        num_classes=max(1, len(classes)),
        found="$data.list_arrays(@dataset_dir, 2, @num_classes, left_out=@left_out)",
    )
    condition = None
    if classes:
        condition = {
            "_target_": "monai_diffscore.networks.conditioning.ConditionEncoder",
            "categorical": {"label": "@num_classes"},
            "dropout": 0.1,
        }
    else:
        _unlabelled(configs)
    for config in (train, configs["inference"]):
        if condition is not None:
            config["network_def"]["network"]["condition"] = json.loads(json.dumps(condition))
    if plan["patches_per_image"]:
        _patches_of_pictures(plan, train)


def _unlabelled(configs: dict[str, Config]) -> None:
    """Takes the class labels out of a bundle of pictures."""
    train, inference = configs["train"], configs["inference"]
    train["condition_keys"] = []
    train["num_classes"] = None
    train["statistics"] = train["statistics"].replace(
        ", num_classes=@num_classes, classes=data.class_names(@found)", ""
    )
    find(train["train"]["handlers"], "SampleGallery").pop("condition")
    find(inference["handlers"], "SaveArray").pop("label_key")
    for key in ("label", "labels", "num_classes"):
        del inference[key]
    inference["dataset"]["data"] = "$[dict(seed=number) for number in range(@num_samples)]"
    inference["evaluator"]["prepare_batch"]["condition_keys"] = ["seed"]


def _patches_of_pictures(plan: Plan, train: Config) -> None:
    """Random patches to train on, a fixed grid to validate on, as of volumes; one picture is cut in two parts."""
    train["patches_per_volume"] = plan["patches_per_image"]
    train["validation_patches"] = 16
    train["cases"] = "$data.split_by_subject(@found, @validation_share, @seed)"
    steps = train["train"]["deterministic_transforms"]
    find(steps, "LoadPictured")["size"] = None
    steps.append({"_target_": "monai_diffscore.data.HeldOutSlabd", "keys": "image", "axis": 1, "share": 0.3})
    train["train"]["random_transforms"] = [
        {"_target_": "RandSpatialCropd", "keys": "image", "roi_size": "@image_size", "random_size": False}
    ]
    train["train"]["dataset"]["data"] = "$@cases[0] * @patches_per_volume"
    train["validate"]["preprocessing"]["transforms"] = (
        "$@train#deterministic_transforms + [data.GridPatchesd('image', @image_size, @validation_patches)]"
    )
    train["validate"]["dataloader"]["batch_size"] = 1


def _write_slides(plan: Plan, configs: dict[str, Config]) -> None:
    train, inference = configs["train"], configs["inference"]
    train["cases"] = train["cases"].replace(
        "data.list_slides(@dataset_dir)", "data.list_slides(@dataset_dir, left_out=@left_out)"
    )
    for key in ("mpp_um", "tile_size", "stride"):
        train[key] = plan[key]
    for config in (train, inference):
        config["assume_mpp_um"] = plan.details.get("assume_mpp_um")


def _write_sequences(plan: Plan, configs: dict[str, Config]) -> None:
    train = configs["train"]
    train["cases"] = train["cases"].replace(
        "data.list_arrays(@dataset_dir, 1)", "data.list_arrays(@dataset_dir, 1, left_out=@left_out)"
    )
    train.update(
        window_size=plan["window_size"],
        channels=plan.channels,
        percentiles=plan["normalisation"]["percentiles"],
        windows_per_sequence=plan["windows_per_sequence"],
    )


def _write_conditions(plan: Plan, configs: dict[str, Config]) -> None:
    """Fields of the subjects as conditions of network, training and sampling."""
    fields = plan.conditions.get("fields")
    if not fields:
        return
    train, inference = configs["train"], configs["inference"]
    source = "found" if "found" in train else "cases"
    listed = {
        "volumes": LIST_VOLUMES,
        "slides": "data.list_slides(@dataset_dir, left_out=@left_out)",
        "pictures": "data.list_arrays(@dataset_dir, 2, @num_classes, left_out=@left_out)",
        "sequences": "data.list_arrays(@dataset_dir, 1, left_out=@left_out)",
    }[plan.kind]
    train["participants"] = literal(plan.conditions["table"])
    train[source] = train[source].replace(listed, f"data.attach_participants({listed}, @participants, @fields)")
    train["condition_keys"] = f"${train['condition_keys']} + list(@fields)"
    inference["condition"] = {}
    for config in (train, inference):
        config["fields"] = literal(json.loads(json.dumps(fields)))
        network = config["network_def"]["network"]
        encoder = network.setdefault(
            "condition", {"_target_": "monai_diffscore.networks.conditioning.ConditionEncoder", "dropout": 0.1}
        )
        for kind in ("continuous", "categorical"):
            own = "".join(f", {name}={str(value).lstrip('$')}" for name, value in encoder.get(kind, {}).items())
            encoder[kind] = f"$dict(data.{kind}_fields(@fields){own})"
    inference["dataset"]["data"] = inference["dataset"]["data"].replace(
        "dict(seed=number", "dict(data.encode_conditions(@condition, @fields), seed=number"
    )
    loader = inference["evaluator"]["prepare_batch"]
    keys = loader["condition_keys"]
    inference_keys = f"{keys}" if isinstance(keys, list) else keys.lstrip("$")
    if isinstance(keys, str) and keys.startswith("@"):
        inference[keys[1:]] = f"$({inference[keys[1:]].lstrip('$')}) + list(@fields)"
    else:
        loader["condition_keys"] = f"${inference_keys} + list(@fields)"


def _write_metadata(plan: Plan, metadata: Config, name: str) -> None:
    metadata.update(
        version="0.1.0",
        changelog={"0.1.0": f"planned from {plan.template} for {plan.kind}"},
        name=f"{name} score model",
        description=f"{metadata['description']} Planned by monai_diffscore for the data named in data_source.",
        data_source=f"{plan.kind} of the planner's user: {Path(plan.data).name}",
        data_type=metadata["data_type"],
        intended_use="Research. Not for diagnosis. A planned bundle holds no weights until it is trained.",
    )
    if _lends_slices(plan):
        metadata["task"] = f"Unconditional synthesis of {plan.modality} slices by continuous-time score-based diffusion"
        metadata["description"] = "A 2-D U-Net denoiser of slices, planned by monai_diffscore."
        metadata["image_classes"] = f"{plan.channels} channel(s), percentiles of each volume mapped to [-1, 1]"
    if plan.kind in GENE_KINDS:
        if plan.kind != "cells":  # those of cells are of the latents
            for tensors in (metadata["network_data_format"]["inputs"], metadata["network_data_format"]["outputs"]):
                next(iter(tensors.values()))["num_channels"] = plan.channels
        return
    shape = _shape_of(plan)
    for tensor in (
        metadata["network_data_format"]["inputs"]["image"],
        metadata["network_data_format"]["outputs"]["pred"],
    ):
        tensor["num_channels"] = plan.channels
        tensor["spatial_shape"] = shape or tensor["spatial_shape"]
        if plan.kind == "pictures":
            tensor["is_patch_data"] = bool(plan["patches_per_image"])
            tensor["format"] = "RGB" if plan.channels == 3 else "magnitude"
        if plan.kind == "volumes":
            tensor["modality"] = plan.modality
            tensor["format"] = "hounsfield" if plan.modality == "CT" else "magnitude"
        if len(tensor["channel_def"]) != plan.channels:
            names = (
                ["red", "green", "blue"] if plan.modality == "RGB" else [f"channel {i}" for i in range(plan.channels)]
            )
            tensor["channel_def"] = {str(number): text for number, text in enumerate(names)}


def _shape_of(plan: Plan) -> list[str] | None:
    """What spatial sizes the network takes, in the words of the metadata; None where the template's hold."""
    network = plan["network"]
    target = str(network["_target_"]).rsplit(".", 1)[-1]
    if target == "ScoreUNet":
        stride = 2 ** (len(network["channels"]) - 1)
    elif target == "ScoreDiT":
        stride = network["patch_size"]
    else:
        return None
    size = next(plan[key] for key in ("patch_size", "image_size", "window_size") if key in plan.choices)
    return [f"{stride}*n"] * len(size)
