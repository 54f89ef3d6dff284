"""The averaged model as an MLflow "pyfunc" that samples, for a model registry.

``mlflow.pyfunc.load_model("models:/NAME/1").predict([0, 1, 2])`` returns samples number 0, 1 and 2, [3, C, ...], in the
normalised units of the network. A number always gives the same sample. The model holds the bundle's inference.json, the
weights and the statistics of the data. It needs this package to load.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.pyfunc import PythonModel, PythonModelContext, save_model
from monai.bundle import ConfigParser

import monai_diffscore

#: ids that come from the training's configuration, not from inference.json
TRAINED = ("network_def", "preconditioning", "autocast_dtype", "spatial_dims", "image_channels", "condition_keys")


class SamplingModel(PythonModel):
    """The network with trained weights, the sampler and the grid of a bundle."""

    def load_context(self, context: PythonModelContext) -> None:
        files = context.artifacts
        parser = ConfigParser()
        parser.read_config(files["inference"])
        parser.update({"checkpoint": files["weights"], "bundle_root": str(Path(files["inference"]).parent)})
        self.inferer = parser.get_parsed_content("inferer")
        self.inferer.progress = False
        self.network = parser.get_parsed_content("network")
        self.network.load_state_dict(torch.load(files["weights"], map_location="cpu", weights_only=True))
        self.network.eval()
        self.like = parser.get_parsed_content("dataset")[0]["image"]
        self.device = parser.get_parsed_content("device")

    @torch.no_grad()
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads types as schemas
        """Samples [N, C, ...] of the numbers in ``model_input``: a list, an array or a table of one column."""
        numbers = [int(number) for number in np.asarray(model_input).reshape(-1)]
        shape = tuple(torch.as_tensor(self.like).shape)
        like = torch.empty(len(numbers), *shape, device=self.device)
        samples: torch.Tensor = self.inferer.sample(self.network, like, numbers)
        return samples.float().cpu().numpy()


def save_sampler(
    folder: Path, inference: Path, weights: Path, statistics: Path, configuration: Mapping[str, Any] | None = None
) -> Path:
    """Writes the model in MLflow's format and returns ``folder``.

    Args:
        folder: target; the function replaces it.
        inference: the bundle's inference.json.
        weights: file of the averaged network.
        statistics: file of the statistics of the training data.
        configuration: the executed configuration of the training. Its network replaces that of ``inference``.
    """
    config = json.loads(inference.read_text())
    config.update({name: value for name, value in (configuration or {}).items() if name in TRAINED and name in config})
    shutil.rmtree(folder, ignore_errors=True)
    parts = folder.with_name(f".{folder.name}-parts")
    parts.mkdir(parents=True, exist_ok=True)
    (parts / "inference.json").write_text(json.dumps(config, indent=4))
    shutil.copy(weights, parts / "model.pt")
    artifacts = {"inference": str(parts / "inference.json"), "weights": str(parts / "model.pt")}
    if statistics.is_file():
        shutil.copy(statistics, parts / "data_statistics.json")
        artifacts["statistics"] = str(parts / "data_statistics.json")
    requirements = [f"monai_diffscore=={monai_diffscore.__version__}"]
    save_model(str(folder), python_model=SamplingModel(), artifacts=artifacts, pip_requirements=requirements)
    shutil.rmtree(parts)
    return folder
