"""The record of a training, as a report reads it.

The output folder of a training holds ``mlflow_run.json``, which leads to the run. The run's parameters hold the
intensity range. Its artifact ``configuration_*.json`` holds the executed configuration with flags and overlays, so
that real images pass through the transforms of the training.
"""

from __future__ import annotations

import ast
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from monai.bundle import ConfigParser

from monai_diffscore.configuration import flatten
from monai_diffscore.credentials import reveal
from monai_diffscore.errors import DataError

#: parameters that override ids of the same name if only train.json is recorded, as for a training from Python
_RECORDED_IDS = ("dataset_dir", "seed", "patch_size", "spacing_mm", "validation_share")


@dataclass(frozen=True)
class RunRecord:
    """The record of a training in MLflow: its place, its parameters, its configuration."""

    uri: str
    run_id: str
    name: str
    parameters: dict[str, str]
    #: parsed JSON
    config: dict[str, Any] | None = None
    #: whether ``config`` is the executed configuration, not the bundle's train.json
    executed: bool = False
    #: folder of the bundle when it was trained
    bundle: str | None = None

    @property
    def components(self) -> frozenset[str]:
        """Names of the classes and functions that the configuration instantiates."""
        values = flatten(self.config or {})
        return frozenset(str(value).rpartition(".")[2] for id_, value in values if id_.endswith("_target_"))

    @property
    def intensity_range(self) -> tuple[float, float] | None:
        """The data units of -1 and 1; None if they are unknown, or one of each channel."""
        limits = [self.parameters.get(name) for name in ("low", "high")]
        if self.channel_ranges is not None or None in limits:
            return None
        return float(limits[0]), float(limits[1])  # type: ignore[arg-type]

    @property
    def channel_ranges(self) -> tuple[list[float], list[float]] | None:
        """The data units of -1 and 1 of each channel, if each has its own."""
        texts = [self.parameters.get(name, "") for name in ("low", "high")]
        if not all(text.startswith("[") for text in texts):
            return None
        low, high = (json.loads(text) for text in texts)
        return low, high


def find_run(path: str | Path) -> RunRecord | None:
    """The record of the training with the output folder ``path`` or its parent; None without a record.

    Raises:
        DataError: if the record cannot be opened.
    """
    for folder in (Path(path), Path(path).parent):
        file = folder / "mlflow_run.json"
        if file.is_file():
            address = json.loads(file.read_text())
            try:
                client = MlflowClient(reveal(address["uri"]))
                run = client.get_run(address["run_id"])
                name, config = _configuration(client, address["run_id"])
            except Exception as error:
                raise DataError(
                    file,
                    key="run_id",
                    expected="the MLflow run that it names",
                    got=f"{type(error).__name__}: {error}",
                    remedy="Start the tracking server or move the database back, or copy the samples elsewhere.",
                ) from error
            return RunRecord(
                address["uri"], address["run_id"], run.info.run_name or "", dict(run.data.params), config,
                executed=name != "train.json", bundle=run.data.tags.get("bundle"),
            )  # fmt: skip
    return None


def run_parser(record: RunRecord) -> ConfigParser:
    """The configuration of a run, with the flags of its command."""
    parser = ConfigParser()
    parser.read_config(record.config or {})
    if record.bundle is not None and "bundle_root" in parser and Path(record.bundle).is_dir():
        parser["bundle_root"] = record.bundle
    for name in () if record.executed else _RECORDED_IDS:
        if name in record.parameters and name in parser:
            parser[name] = _literal(record.parameters[name])
    return parser


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _configuration(client: MlflowClient, run_id: str) -> tuple[str, dict[str, Any] | None]:
    """File name and content of the last executed configuration of a run, else of its train.json; None if absent."""
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    name = max((name for name in names if name.startswith("configuration_")), default="train.json")
    if name not in names:
        return name, None
    with tempfile.TemporaryDirectory() as folder:
        return name, json.loads(Path(client.download_artifacts(run_id, name, folder)).read_text())
