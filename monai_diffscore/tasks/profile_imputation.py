r"""Imputation of unmeasured genes of a profile: :class:`GeneDropout` and posterior guidance.

The posterior of a profile x for the measured genes :math:`y = M x + \sigma_y n` gives many draws. Their mean is the
estimate, and their standard deviation its uncertainty, gene by gene.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_diffscore.atomic_files import whole_file, whole_path, write_json
from monai_diffscore.errors import DataError
from monai_diffscore.guidance import GuidanceMethod, PosteriorGuidance
from monai_diffscore.handlers.collector import Collector
from monai_diffscore.inferers import SamplingInferer, sample_numbers, std_over_draws
from monai_diffscore.operators import GeneDropout, GeneLoadings, Operator


class ProfileImputationInferer(SamplingInferer):
    r"""Mean and standard deviation of posterior draws of each profile for its measured genes, [B, 2, G], normalised.

    For a model of genes the operator is :class:`~monai_diffscore.operators.GeneDropout` on the genes of its input. A
    model of components z has genes :math:`\lambda_g^\top z + r_g \epsilon`, in standard deviations about their mean.
    Its operator is :class:`~monai_diffscore.operators.GeneLoadings` on the ``measured`` genes [B, G], in units of
    :math:`(r_g^2 + \sigma_y^2)^{1/2}`. The standard deviation includes the residual :math:`r_g` of each gene.

    After Ctrl-C both are those of the finished draws. The standard deviation of one draw is NaN.

    Args:
        draws: number of draws of the posterior, at least 2.
        noise_std: standard deviation of the noise of the measurement, in standard deviations of a gene.
        method: method of :class:`~monai_diffscore.guidance.PosteriorGuidance`.
        sigma_data: standard deviation of the model's data; None takes it from the network.
        facts: facts of the data of a model of components; None for a model of genes with a graph.
        options: see :class:`~monai_diffscore.inferers.SamplingInferer`.
    Raises:
        DataError: for the facts of a model of genes.
    """

    def __init__(
        self,
        draws: int = 4,
        noise_std: float = 0.05,
        method: GuidanceMethod = "mmps",
        sigma_data: float | None = None,
        facts: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if draws < 2:
            raise ValueError(f"ProfileImputationInferer needs two draws or more for a standard deviation, got {draws}.")
        self.count, self.noise_std, self.method, self.sigma_data = draws, noise_std, method, sigma_data
        #: loadings [K, G] and rest [G] in standard deviations of a gene
        self.components: tuple[Tensor, Tensor] | None = None
        if facts is not None:
            if facts["components"] is None:
                raise DataError(
                    "the model", key="components", expected="a model of components",
                    got="a model of genes, whose imputation is no better than the mean of a gene",
                    remedy="Train with the overlay components.json.",
                )  # fmt: skip
            axes, scales, rest = (torch.tensor(facts["components"][name]) for name in ("axes", "scales", "rest"))
            std = torch.tensor(facts["std"])
            unit = torch.where(std > 0, std, 1.0)
            self.components = scales[:, None] * axes / unit, rest / unit

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: nn.Module,
        seed: Tensor | None = None,
        observed: Tensor | None = None,
        measured: Tensor | None = None,
        **condition: Tensor,
    ) -> Tensor:
        if observed is None or (measured is None and self.components is not None):
            raise ValueError(
                "ProfileImputationInferer needs observed, and for components measured, among the condition_keys."
            )
        x = convert_to_tensor(inputs, track_meta=False).float()
        operator, y, noise_std = self._measurement(x if measured is None else measured.to(x), observed.to(x.device))
        guided = PosteriorGuidance(network, operator.to(x.device), y, noise_std, self.method, self.sigma_data)
        numbers = sample_numbers(len(x), seed)
        drawn = self.draws(guided, x, numbers, self.count, **condition)
        if self.components is None:
            return torch.stack([drawn.mean(1), std_over_draws(drawn, 1)], 1)
        loadings, rest = (part.to(drawn) for part in self.components)
        genes = drawn @ loadings
        spread = (std_over_draws(genes, 1).square() + rest.square()).sqrt()
        return torch.stack([genes.mean(1), spread], 1)

    def _measurement(self, measured: Tensor, observed: Tensor) -> tuple[Operator, Tensor, float]:
        """Operator, y and standard deviation of the noise, for normalised genes [B, G]."""
        if self.components is None:
            return GeneDropout(observed), measured * observed, self.noise_std
        loadings, rest = (part.to(measured) for part in self.components)
        unit = (rest.square() + self.noise_std**2).sqrt()
        return GeneLoadings(loadings / unit, observed), measured * observed / unit, 1.0


class SaveImputedProfiles(Collector):
    """Writes imputed profiles: ``imputed.csv``, ``imputed.h5ad`` (``layers['std']``, ``var['observed']``), a report.

    Measured genes keep their values. ``imputation.json`` has, for hidden genes whose truth is in the data, the root
    mean squared error in standard deviations of a gene: of the imputation, and of the gene's mean. After Ctrl-C it
    writes the complete profiles: ``obs['draws']`` has the number of draws of each, the report has the smallest.

    Args:
        folder: folder of the files.
        facts: facts of the model: its genes, the mean and the standard deviation of each.
    """

    def __init__(self, folder: str | Path, facts: Mapping[str, Any]) -> None:
        self.folder, self.facts = Path(folder), facts

    def records(self, engine: Any) -> Iterator[dict[str, Any]]:
        batch = engine.state.batch
        pred = torch.as_tensor(engine.state.output["pred"]).detach().cpu().numpy()
        for place, name in enumerate(batch["name"]):
            values = {key: torch.as_tensor(batch[key][place]).cpu().numpy() for key in ("observed", "truth")}
            draws = engine.inferer.finished_draws
            yield {"name": name, "mean": pred[place, 0], "std": pred[place, 1], "draws": draws, **values}

    def write(self, records: list[dict[str, Any]]) -> None:
        import anndata

        scale, centre = np.array(self.facts["std"]), np.array(self.facts["mean"])
        keys = ("mean", "std", "observed", "truth")
        mean, std, observed, truth = (np.stack([record[key] for record in records]) for key in keys)
        values = np.where(observed, truth, mean * scale + centre).astype(np.float32)
        names, genes = [record["name"] for record in records], self.facts["fields"]["genes"]
        with whole_file(self.folder / "imputed.csv") as file:
            file.write(pd.DataFrame(values, index=names, columns=genes).to_csv(float_format="%.5g").encode())
        profiles = anndata.AnnData(
            values,
            obs=pd.DataFrame({"draws": [record["draws"] for record in records]}, index=pd.Index(names)),
            var=pd.DataFrame({"observed": observed[0]}, index=pd.Index(genes)),
            layers={"std": np.where(observed, 0, std * scale).astype(np.float32)},
        )
        with whole_path(self.folder / "imputed.h5ad") as path:
            profiles.write_h5ad(path)
        hidden = ~observed & np.isfinite(truth) & (scale > 0)
        if hidden.any():
            unit = np.where(scale > 0, scale, 1)
            errors = {"rmse": ((values - truth) / unit)[hidden], "rmse_of_mean": ((centre - truth) / unit)[hidden]}
            counts = {"profiles": len(records), "draws": min(record["draws"] for record in records)}
            rmse = {name: float(np.sqrt(np.mean(error**2))) for name, error in errors.items()}
            report = {**counts, "hidden_genes": int(hidden[0].sum()), **rmse}
            write_json(self.folder / "imputation.json", report)
