"""Agreement of training and inference: a sampler cannot see the training of its network."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from monai_diffscore.inspection.files import BundleFiles, Config, Finding, items, look_up
from monai_diffscore.networks.conditioning import KINDS

#: ids that must be the same in both
SHARED = ("network_def", "preconditioning", "autocast_dtype", "amp", "spatial_dims")
#: ends of the names of transforms with a fixed range that maps to [-1, 1]
_FIXED_RANGES = ("WindowIntensityd", "WindowHUd")
_FROM_STATISTICS = "Take it from the training's statistics: \"$@statistics['{}']\"."


def find_disagreements(files: BundleFiles) -> list[Finding]:
    """The differences between training and inference: network, precision, sigma_data, range, conditions."""
    train, inference = files.bases.get("train"), files.bases.get("inference")
    if train is None or inference is None:
        return []
    return [
        *_shared(train, inference),
        *_sigma_data(files, train, inference),
        *_range(files, train, inference),
        *_conditions(train, inference),
        *_weights(files),
    ]


def _shared(train: Config, inference: Config) -> list[Finding]:
    findings = []
    for key in SHARED:
        if train.get(key) == inference.get(key):
            continue
        where, ours, theirs = _first_difference(train.get(key), inference.get(key), key)
        findings.append(
            Finding(
                f"configs/inference.json: {where}",
                f"what train.json has, {_short(ours)}",
                _short(theirs),
                "Copy it: weights of another network do not fit, or fit with another meaning.",
            )
        )
    return findings


def _first_difference(ours: Any, theirs: Any, path: str) -> tuple[str, Any, Any]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            if ours.get(key) != theirs.get(key):
                return _first_difference(ours.get(key), theirs.get(key), f"{path}#{key}")
    return path, ours, theirs


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 100 else text[:97] + "..."


def _statistics(files: BundleFiles) -> Config:
    file = files.folder / "models/data_statistics.json"
    try:
        statistics: Config = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return statistics


def _sigma_data(files: BundleFiles, train: Config, inference: Config) -> list[Finding]:
    """An inference that states sigma_data must state the training's."""
    stated = inference.get("sigma_data")
    if not isinstance(stated, int | float):
        return []
    true = train.get("sigma_data")
    sigma_data = true if isinstance(true, int | float) else _statistics(files).get("sigma_data")
    if sigma_data is not None and math.isclose(sigma_data, stated, rel_tol=1e-3):
        return []
    expected = (
        f"the training's, {sigma_data:g}" if sigma_data is not None else "the training's, which is measured on its data"
    )
    remedy = _FROM_STATISTICS.format("sigma_data")
    return [Finding("configs/inference.json: sigma_data", expected, f"{stated:g}", remedy)]


def _range(files: BundleFiles, train: Config, inference: Config) -> list[Finding]:
    """A range that inference states in numbers must be the training's."""
    findings = []
    trained = _stated_ranges(train)
    measured = [_statistics(files).get(name) for name in ("low", "high")]
    for path, limits in _stated_ranges({"preprocessing": inference.get("preprocessing", {})}).items():
        if limits in trained.values() or limits == measured:
            continue
        limits_of_training = next(iter(trained.values()), None) or (measured if None not in measured else None)
        findings.append(
            Finding(
                f"configs/inference.json: {path}",
                f"the range of the training, {limits_of_training or 'which is measured on its data'}",
                f"{limits}",
                _FROM_STATISTICS.format("low") + " Another range silently gives samples of other intensities.",
            )
        )
    return findings


def _stated_ranges(config: Config) -> dict[str, list[float]]:
    """Ranges that transforms state in numbers, by the path of the transform."""
    ranges = {}
    for path, value in items(config):
        if not isinstance(value, dict) or not str(value.get("_target_", "")).endswith(_FIXED_RANGES):
            continue
        limits = value.get("window_hu", [value.get("low"), value.get("high")])
        if isinstance(limits, str) and limits.startswith("@"):
            limits = look_up(config, limits[1:])[1]
        if isinstance(limits, list) and len(limits) == 2 and all(isinstance(limit, int | float) for limit in limits):
            ranges[path] = [float(limit) for limit in limits]
    return ranges


def _conditions(train: Config, inference: Config) -> list[Finding]:
    """The network must declare the conditions of the training, and the training must have those of the network."""
    keys = train.get("condition_keys")
    network = look_up(train, "network_def#network")[1]
    if not isinstance(keys, list) or not isinstance(network, dict):
        return []
    encoder = network.get("condition") or {}
    if isinstance(encoder, str) and encoder.startswith("@"):
        encoder = look_up(train, encoder[1:])[1]
    if not isinstance(encoder, dict):
        return []
    declared = {name for kind in KINDS for name in _names(encoder.get(kind), train)}
    own = {"context"} if network.get("context_channels") else set()
    findings = []
    for name in sorted(set(keys) - declared - own):
        if isinstance(encoder.get("fields"), str):
            continue
        expected = f"conditions that the network declares ({', '.join(sorted(declared | own)) or 'none'})"
        findings.append(
            Finding(
                "configs/train.json: condition_keys", expected, name, "Declare it in ConditionEncoder, or leave it out."
            )
        )
    for name in sorted(declared - set(keys)):
        findings.append(
            Finding(
                "configs/train.json: condition_keys", f"{name}, which the network declares", f"{keys}",
                "Add it, or the network learns only its missing token.",
            )
        )  # fmt: skip
    return findings


def _names(declared: Any, train: Config) -> list[str]:
    """The conditions of one kind: the declared names, or the fields of the subjects for an expression."""
    if isinstance(declared, str):
        fields = train.get("fields")
        return list(fields) if isinstance(fields, dict) else []
    return list(declared or {})


def _weights(files: BundleFiles) -> list[Finding]:
    """Weights must have the sigma_data of the statistics beside them."""
    file, stated = files.folder / "models/model.pt", _statistics(files).get("sigma_data")
    if not file.is_file() or stated is None:
        return []
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        return [Finding("models/model.pt", "weights that torch.load reads", f"{type(error).__name__}", "Train again.")]
    sigma_data = next((value for name, value in weights.items() if name.endswith("preconditioning.sigma_data")), None)
    if sigma_data is None or math.isclose(float(sigma_data), stated, rel_tol=1e-3):
        return []
    return [
        Finding(
            "models/data_statistics.json: sigma_data", f"that of the weights, {float(sigma_data):g}", f"{stated:g}",
            "The two files are of different trainings: copy both from one.",
        )
    ]  # fmt: skip
