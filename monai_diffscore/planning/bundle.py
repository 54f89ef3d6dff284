"""Plan to bundle: the parts of the nearest shipped bundle, and one more part with the plan's values.

A plan chooses values of ids that its bundle has. It edits no text. It writes names from the data as a
:func:`~monai_diffscore.data.literals.literal`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_diffscore.atomic_files import whole_folder, write_json
from monai_diffscore.composing import OPEN, Config, Whole, compose, declaration, write_bundle_files
from monai_diffscore.data.labelled_images import class_numbers, joint_channels
from monai_diffscore.data.literals import literal
from monai_diffscore.errors import DataError
from monai_diffscore.planning.card import model_card
from monai_diffscore.planning.declarations import FILES, declared_files
from monai_diffscore.planning.fingerprint import Fingerprint
from monai_diffscore.planning.plan import Plan

#: parts whose ids the plan sets, and parts that belong to the weights of the shipped bundle
_SHIPPED_ALONE = {"organs", "demo"}
#: tasks that read cases again, with one channel
_CASE_TASKS = {"cases", "calibration", "anomalies", "restorations", "reconstruct_ct", "reconstruct_mri"}
#: and their configurations, in which other parts name the shipped data
_CASE_FILES = ("cases", "anomaly", "likelihood")
#: the part of a network by the name of its class
_NETWORKS = {"ScoreUNet": "unet", "ScoreDiT": "dit"}
#: choices that have other places than the id of their name in train.json, or say in words what stands elsewhere
_PLACED_APART = {
    "autocast_dtype", "checkpointing", "conditions", "ema_length", "model", "network", "noise", "normalisation",
    "optimizer", "sigma_max",
}  # fmt: skip
_TENSORS = "network_data_format/inputs/image, network_data_format/outputs/pred"


def write_bundle(plan: Plan, folder: str | Path, fingerprint: Fingerprint | None = None) -> None:
    """Writes the planned bundle, whole or not at all.

    Args:
        plan: its choices.
        folder: a new or empty folder. Its name becomes the name of the bundle.
        fingerprint: written beside the plan.
    Raises:
        FileExistsError: if the folder is not empty.
        DataError: if the plan names a bundle that does not exist, or makes a choice that its bundle does not have.
    """
    folder = Path(folder).expanduser().resolve()
    configs = planned_configs(plan, folder.name)
    with whole_folder(folder) as place:
        write_bundle_files(configs, place)
        (place / "docs").mkdir()
        (place / "docs/README.md").write_text(model_card(plan, folder.name, sorted(configs)))
        (place / "docs/plan.json").write_text(plan.to_json())
        for name, content in declared_files(plan).items():
            write_json(place / "docs" / name, content, ensure_ascii=False)
        if fingerprint is not None:
            (place / "docs/fingerprint.json").write_text(fingerprint.to_json())


def planned_configs(plan: Plan, name: str) -> dict[str, Config]:
    """The configurations of a planned bundle by file name without ``.json``.

    Args:
        plan: its choices.
        name: name of the bundle.
    Raises:
        DataError: for a choice that the bundle does not have.
    """
    parts = planned_parts(plan)
    absent = dict.fromkeys(_CASE_FILES if _has_channels(plan) else (), OPEN)
    template = compose(plan.template, parts, absent)
    values = planned_values(plan, template, name)
    places = {place: value for places, value in values.items() for place in places.split(", ")}
    present = {place: value for place, value in places.items() if _is_present(place, value, template, plan)}
    return compose(plan.template, parts, {**absent, **present}, str(literal(name)))


def _is_present(place: str, value: Any, template: dict[str, Config], plan: Plan) -> bool:
    """Whether the bundle has the file and the id of a place.

    A plan of several channels has no tasks on cases. MR has no intercept to assume, and a plan assumes none. A choice
    by its name has a place in every bundle.
    """
    file, _, way = place.partition("/")
    name = way.partition("/")[0]
    if file not in template or not name or name in template[file]:
        return file in template
    if name in plan.choices or (value and value not in (OPEN, "auto")):
        raise DataError(
            plan.data, key=f"plan: {name}", expected=f"a choice that {file}.json of {plan.template} has",
            got=f"{name} = {value!r}", remedy="Correct its name, or leave it out of the plan.",
        )  # fmt: skip
    return False


def planned_parts(plan: Plan) -> list[str]:
    """The parts of the plan's template, with the parts of the plan's modality and network in place of its own."""
    network = _NETWORKS.get(str(plan.get("network", {}).get("_target_")).rsplit(".", 1)[-1])
    parts = [part for part in declaration(plan.template)["parts"] if part not in _SHIPPED_ALONE]
    if network is not None:
        parts = [network if part in _NETWORKS.values() else part for part in parts]
    if plan.kind == "volumes" and not plan.whole:
        own, other = ("ct", "mr") if plan.modality == "CT" else ("mr", "ct")
        parts = [own if part == other else part for part in parts if part != f"reconstruct_{other}"]
    if _has_channels(plan):
        parts = [part for part in parts if part not in _CASE_TASKS]
    return parts


def _has_channels(plan: Plan) -> bool:
    """Whether the plan is for volumes of several channels, which no task on cases reads."""
    return plan.kind == "volumes" and plan.channels > 1


def planned_values(plan: Plan, template: dict[str, Config], name: str) -> dict[str, Any]:
    """The part that holds the values of a plan.

    Args:
        plan: its choices.
        template: the configurations of the plan's parts without them.
        name: of the bundle.
    """
    kinds: dict[str, Callable[[Plan], dict[str, Any]]] = {
        "volumes": _volumes,
        "pictures": _pictures,
        "slides": _slides,
        "sequences": _sequences,
    }
    metadata = {"metadata": _metadata(plan, template["metadata"], name)}
    if plan.kind in kinds:
        denoiser = {} if plan.whole else _denoiser(plan)
        return {**_settings(plan), **_images(plan), **denoiser, **kinds[plan.kind](plan), **metadata}
    return {**_rows(plan, template), **metadata}


def _settings(plan: Plan) -> dict[str, Any]:
    """The choices that are ids of train.json."""
    apart = _PLACED_APART.union(FILES[plan.kind][2] if plan.kind in FILES else ())
    return {f"train/{key}": literal(choice.value) for key, choice in plan.choices.items() if key not in apart}


def _images(plan: Plan) -> dict[str, Any]:
    """The choices of plans for all images."""
    fields = plan.conditions.get("fields") or {}
    dtype = f"$torch.{plan['autocast_dtype']}" if plan["autocast_dtype"] else None
    return {
        "train/dataset_dir": literal(plan.data),
        "train/left_out": literal(list(plan.left_out)),
        "train/participants": literal(plan.conditions.get("table") if fields else None),
        "train/ema/relative_length": plan["ema_length"],
        "train/learning_rate": plan["optimizer"]["learning_rate"],
        "train/autocast_dtype, inference/autocast_dtype": dtype,
        "train/checkpointing, inference/checkpointing": plan["checkpointing"],
        "train/fields, inference/fields": literal(Whole(fields)),
    }


def _denoiser(plan: Plan) -> dict[str, Any]:
    """The choices of a model of one network."""
    return {
        "train/noise": dict(plan["noise"]),
        "train/network_def/network, inference/network_def/network": {
            **plan["network"],
            "condition": "@condition_encoder",
        },
        "train/sigmas/sigma_max, inference/sigmas/sigma_max": plan["sigma_max"],
    }


def _volumes(plan: Plan) -> dict[str, Any]:
    limits = plan["normalisation"]
    window = {"window_hu": limits["window_hu"]} if "window_hu" in limits else {}
    percentiles = {"percentiles": limits["percentiles"]} if "percentiles" in limits else {}
    data = literal(plan.data)
    return {
        **_listing(plan, "train", "cases"),
        **_reading(plan),
        **{f"train/{key}": value for key, value in window.items()},
        **{f"train/{key}, inference/{key}": value for key, value in percentiles.items()},
        "train/image_channels, inference/image_channels": plan.channels,
        "train/modality, inference/modality": plan.modality,
        **(_whole(plan) if plan.whole else _patches(plan)),
        **(_with_given(plan) if plan.details.get("given") else {}),
        "cases/dataset_dir, anomaly/healthy_dir, likelihood/healthy_dir": data,
        "cases/left_out, anomaly/healthy_left_out, likelihood/healthy_left_out": literal(_absolute(plan)),
    }


def _listing(plan: Plan, *configs: str) -> dict[str, Any]:
    """The ids that choose images: layout, role, rule for subjects."""
    return {
        ", ".join(f"{config}/{name}" for config in configs): literal(value)
        for name, value in plan.details.get("listing", {}).items()
    }


def _absolute(plan: Plan) -> list[str]:
    """The absolute paths of what the plan leaves out: tasks take other folders too, which lack these files."""
    top = Path(plan.data).parent if Path(plan.data).is_file() else Path(plan.data)
    return [str(top / name) for name in plan.left_out]


def _patches(plan: Plan) -> dict[str, Any]:
    return {
        "inference/sample_size": plan["patch_size"],
        "generate/window": plan["patch_size"],
        "generate/sample_size": [2 * side for side in plan["patch_size"]],
    }


def _with_given(plan: Plan) -> dict[str, Any]:
    """A task takes the role of the target from the statistics of the training."""
    values = {"train/subjects": OPEN, "inference/untrained/target": plan.details["listing"]["image"]}
    if plan.details.get("joint"):
        return {**values, "inference/untrained/classes": literal(Whole(plan.details["classes"]))}
    return {
        **values,
        "cases/image": "$@statistics['target']",
        "train/given, inference/untrained/given": literal(plan.details["given"]),
        "inference/given_dropout": plan["given_dropout"],
    }


def _whole(plan: Plan) -> dict[str, Any]:
    """Sampling takes size and spacing from the statistics of the training, and networks from its own file."""
    return {
        "train/subjects": OPEN,
        **{f"inference/{name}": plan[name] for name in ("scales", "coarse_channels", "detail_channels")},
        "inference/untrained/sample_size": plan["sample_size"],
    }


def _reading(plan: Plan) -> dict[str, Any]:
    """The user's flags on how to read values."""
    return {
        f"train/{name}, inference/{name}": literal(value) for name, value in plan.details.get("reading", {}).items()
    }


def _pictures(plan: Plan) -> dict[str, Any]:
    return {
        "train/image_channels": plan.channels,
        "train/value_range": plan.details.get("value_range"),
        **_listing(plan, "train"),
        "train/num_classes": len(plan.details.get("classes") or []) or None,
        "train/patches_per_image": plan["patches_per_image"] or None,
    }


def _slides(plan: Plan) -> dict[str, Any]:
    return {
        **{f"train/{key}, inference/{key}": plan.details.get(key) for key in ("assume_mpp_um", "value_range")},
        **_listing(plan, "train", "anomaly"),
        "anomaly/dataset_dir": literal(plan.data),
        "anomaly/healthy_left_out": literal(_absolute(plan)),
    }


def _sequences(plan: Plan) -> dict[str, Any]:
    return {
        **_listing(plan, "train"),
        "train/image_channels": plan.channels,
        "train/percentiles": plan["normalisation"]["percentiles"],
    }


def _rows(plan: Plan, template: dict[str, Config]) -> dict[str, Any]:
    """The choices of genes and tables are ids of the configurations. A file holds the names of columns."""
    file, path_id, named = FILES[plan.kind]
    both = [key for key in ("hidden_size", "dropout", "checkpointing") if key in plan.choices]
    return {
        **_settings(plan),
        "train/dataset_dir": literal(plan.data),
        f"train/{path_id}": f"$@bundle_root + '/docs/{file}'",
        **{f"train/{name}": _unnamed(template["train"][name]) for name in named if name in template["train"]},
        **{f"train/{key}, inference/{key}": plan[key] for key in both},
        "impute/dataset_dir, likelihood/dataset_dir, batch_transfer/dataset_dir": literal(plan.data),
    }


def _unnamed(value: Any) -> Any:
    """The value in train.json of names that a file holds."""
    return [] if isinstance(value, list) else None


def _metadata(plan: Plan, metadata: Config, name: str) -> dict[str, Any]:
    slices_of_another = plan.kind == "volumes" and plan.modality != "CT" and plan.template.startswith("ct_")
    description = "A 2-D U-Net denoiser of slices." if slices_of_another else metadata["description"]
    task = f"Unconditional synthesis of {plan.modality} slices by continuous-time score-based diffusion"
    if plan.whole:
        task = f"Synthesis of whole {plan.modality} volumes by multi-scale score-based diffusion"
        description = f"Score models of a coarse whole volume and of the wavelet details of {plan['scales']} finer "
        description += "scale(s) given it. The network of the metadata is the denoiser of the coarse image."
    return {
        "version": "0.1.0",
        "changelog/0.1.0": f"planned from {plan.template} for {plan.kind}",
        "name": str(literal(f"{name} score model")),
        "task": task if slices_of_another or plan.whole else metadata["task"],
        "description": f"{description} Planned by monai_diffscore for the data named in data_source.",
        "data_source": str(literal(f"{plan.kind} of the planner's user: {Path(plan.data).name}")),
        "intended_use": "Research. Not for diagnosis. A planned bundle holds no weights until it is trained.",
        **_classes(plan),
        _TENSORS: _tensor(plan, metadata),
    }


def _classes(plan: Plan) -> dict[str, Any]:
    if plan.kind != "volumes" or plan.modality == "CT":
        return {}
    labels = ", and one for each class" if plan.details.get("joint") else ""
    text = f"{plan.channels} channel(s) of {plan.modality}, percentiles of each volume to [-1, 1]{labels}"
    return {"image_classes": text}


def _tensor(plan: Plan, metadata: Config) -> dict[str, Any]:
    """The input and output of the network in the terms of the metadata."""
    if plan.kind == "cells":  # the tensor is of the latents
        return {}
    if plan.kind in FILES:
        return {"num_channels": plan.channels}
    classes = plan.details["classes"] if plan.details.get("joint") else {}
    channels = joint_channels(classes) if classes else plan.channels
    tensor: dict[str, Any] = {"num_channels": channels}
    shape = _shape(plan)
    if shape is not None:
        tensor["spatial_shape"] = shape
    if plan.kind == "pictures":
        tensor["is_patch_data"] = bool(plan["patches_per_image"])
        tensor["format"] = "RGB" if plan.channels == 3 else "magnitude"
    if plan.kind == "volumes":
        tensor["modality"] = plan.modality
        tensor["format"] = "hounsfield" if plan.modality == "CT" else "magnitude"
    if classes:
        names = ["image", *class_numbers(*classes.values())]
        tensor["channel_def"] = Whole({str(number): str(literal(name)) for number, name in enumerate(names)})
    elif len(metadata["network_data_format"]["inputs"]["image"]["channel_def"]) != channels:
        colours = ["red", "green", "blue"]
        names = colours if plan.modality == "RGB" else [f"channel {number}" for number in range(plan.channels)]
        tensor["channel_def"] = {str(number): text for number, text in enumerate(names)}
    return tensor


def _shape(plan: Plan) -> list[str] | None:
    """The spatial sizes that the network takes; None keeps those of the template."""
    if plan.whole:
        return [f"{2 ** (len(plan['coarse_channels']) - 1)}*n"] * 3
    network = plan["network"]
    target = str(network["_target_"]).rsplit(".", 1)[-1]
    if target not in _NETWORKS:
        return None
    stride = 2 ** (len(network["channels"]) - 1) if target == "ScoreUNet" else network["patch_size"]
    size = next(plan[key] for key in ("patch_size", "image_size", "window_size") if key in plan.choices)
    return [f"{stride}*n"] * len(size)
