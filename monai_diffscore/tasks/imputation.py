r"""Imputation of unmeasured genes from measured ones: the posterior of a latent score model of counts.

A cell with the measured genes :math:`\Omega` has the posterior :math:`p(u \mid x_\Omega)` over latents u. The depth is
part of u, so it need not be measured. Each draw of u gives expected counts of all genes. An unmeasured gene carries no
information, unlike a measured zero: the operator is
:class:`~monai_diffscore.operators.GeneDropout`, the likelihood the negative binomial of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_diffscore.atomic_files import whole_path, write_json
from monai_diffscore.guidance import LikelihoodGuidance
from monai_diffscore.handlers.cells import SaveCells
from monai_diffscore.inferers import SamplingInferer, sample_numbers
from monai_diffscore.networks.counts import CountsAutoencoder
from monai_diffscore.operators import GeneDropout


class ImputationInferer(SamplingInferer):
    """Draws of the latent of each cell from its posterior for the observed counts, [B, draws, latent_size + 1].

    Draws that Ctrl-C left unfinished are NaN.

    Args:
        autoencoder: autoencoder of the latents.
        draws: number of draws for each cell.
        iterations: see :class:`~monai_diffscore.guidance.LikelihoodGuidance`.
        options: see :class:`~monai_diffscore.inferers.SamplingInferer`.
    """

    def __init__(self, autoencoder: CountsAutoencoder, draws: int = 4, iterations: int = 4, **options: Any) -> None:
        super().__init__(**options)
        if draws < 1:
            raise ValueError(f"ImputationInferer needs at least one draw, got {draws}.")
        self.autoencoder, self.count, self.iterations = autoencoder, draws, iterations

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: nn.Module,
        seed: Tensor | None = None,
        counts: Tensor | None = None,
        observed: Tensor | None = None,
        **condition: Tensor,
    ) -> Tensor:
        if counts is None or observed is None:
            raise ValueError("ImputationInferer needs counts and observed among the condition_keys.")
        numbers = sample_numbers(len(inputs), seed)
        # the autoencoder standardises its latents for every preconditioning
        guided = LikelihoodGuidance(
            network, self.autoencoder.mean, self.autoencoder.variance, GeneDropout(observed), counts,
            sigma_data=1.0, iterations=self.iterations,
        ).to(inputs.device)  # fmt: skip
        drawn = self.draws(guided, inputs.float(), numbers, self.count, **condition)
        return functional.pad(drawn, (0, 0, 0, self.count - drawn.shape[1]), value=torch.nan)


class SaveImputed(SaveCells):
    """Writes imputed cells as AnnData: measured counts stay, the other counts are draws.

    - ``layers['imputed_mean']``: expected counts, the mean over the draws; ``layers['imputed_std']``: their standard
      deviation over the draws (NaN for one draw); ``var['observed']``: True for a measured gene.
    - ``imputation.json``, beside the file: for hidden genes with a true value, the correlation of the
      logarithms of expected and true counts over all genes and cells; and the same of a baseline, the mean profile of
      the training cells at each cell's depth.

    After Ctrl-C it writes the complete cells with their complete draws: ``obs['draws']`` has their number for each
    cell, the report has the smallest.

    Args: as :class:`~monai_diffscore.handlers.SaveCells`.
    """

    def records(self, engine: Any) -> list[dict[str, Any]]:
        batch = engine.state.batch
        (record,) = super().records(engine)
        tensors = {name: torch.as_tensor(batch[name]).cpu() for name in ("counts", "observed", "truth")}
        return [{**record, **tensors, "name": list(batch["name"])}]

    def save(self, latents: Tensor, batch: Mapping[str, Any]) -> None:
        observed, truth = batch["observed"].bool(), batch["truth"]
        with torch.no_grad():
            means = torch.stack([self.autoencoder.mean(draw) for draw in latents.unbind(1)]).cpu()
        cells = self.annotated(*self.decoded(latents[:, 0], batch, batch), latents[:, 0], batch)
        cells.obs_names = batch["name"]
        cells.obs["synthetic"] = False  # partly measured: var['observed'] marks the measured genes
        cells.var["observed"] = observed[0].numpy()
        draws = latents[..., 0].isfinite().sum(1).cpu()
        mean = means.nanmean(0)
        std = (means - mean).square().nanmean(0).sqrt()
        cells.obs["draws"] = draws.numpy()
        cells.layers["imputed_mean"] = mean.numpy()
        cells.layers["imputed_std"] = torch.where(draws[:, None] > 1, std, torch.nan).numpy()
        with whole_path(self.path) as file:
            cells.write_h5ad(file)
        hidden = ~observed & ~truth.isnan()
        if hidden.any():
            library = self.autoencoder.library_of(latents[:, 0]).cpu()
            self._report(mean, truth, hidden, library, int(draws.min()))

    def _report(self, mean: Tensor, truth: Tensor, hidden: Tensor, library: Tensor, draws: int) -> None:
        profile = library[:, None] * self.autoencoder.profile[:-1].exp().cpu()

        def correlation(estimate: Tensor) -> float:
            pair = np.stack([estimate[hidden].log1p().numpy(), truth[hidden].log1p().numpy()])
            return float(np.corrcoef(pair)[0, 1])

        report = {
            "cells": len(mean),
            "draws": draws,
            "hidden_genes": int(hidden[0].sum()),
            "correlation": correlation(mean),
            "correlation_of_mean_profile": correlation(profile),
        }
        write_json(self.path.with_name("imputation.json"), report)
