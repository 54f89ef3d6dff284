"""Generated cells: counts, AnnData, and a picture that compares them with real cells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.engines import IterationEvents
from monai.utils import convert_to_tensor
from scipy import sparse
from torch import Tensor

from monai_diffscore.atomic_files import whole_file, whole_path
from monai_diffscore.data.anndata import TARGET_SUM, Expression, annotated_expression
from monai_diffscore.data.files import file_hash
from monai_diffscore.data.gene_fields import GeneFields
from monai_diffscore.handlers.collector import Collector, concatenated
from monai_diffscore.inferers import sample_numbers
from monai_diffscore.networks.counts import CountsAutoencoder
from monai_diffscore.tensors import random_stream
from monai_diffscore.transforms.omics import LogNormalize


class SaveCells(Collector):
    """Decodes the latents of an evaluator to counts and writes them as AnnData at its end.

    :func:`~monai_diffscore.data.anndata.annotated_expression` describes the file. ``obs`` holds the conditions under
    their names in the training data. The counts of cell number i (its ``seed``) are a function of ``seed`` and i alone.

    Args:
        path: the .h5ad file; the picture is ``gallery.png`` beside it.
        autoencoder: the autoencoder of the latents.
        fields: genes and categories of the model.
        seed: seed of the draws of counts.
        library_size: total count of each cell, another depth of the same cells; None takes the sampled totals.
        latent_noise: standard deviation of noise on z before decoding, in standard deviations of the training cells.
            The latents of a model of few cells vary less within a type than those of its training cells.
        provenance: origin of the cells, for ``uns``: steps, guidance, ...
        weights: name to file. ``uns`` holds the hash of each file under its name.
        reference: real cells for the picture, .h5ad or :class:`~monai_diffscore.data.anndata.Expression`.
        picture: draw the picture.
    """

    event = IterationEvents.FORWARD_COMPLETED

    def __init__(
        self,
        path: str | Path,
        autoencoder: CountsAutoencoder,
        fields: GeneFields | Mapping[str, Any],
        seed: int = 0,
        library_size: float | None = None,
        latent_noise: float = 0.0,
        provenance: Mapping[str, Any] | None = None,
        weights: Mapping[str, str | Path] | None = None,
        reference: str | Path | Expression | None = None,
        picture: bool = True,
    ) -> None:
        if library_size is not None and not library_size > 0:
            raise ValueError(f"library_size is the total count of a cell and > 0, got {library_size}.")
        if not latent_noise >= 0:
            raise ValueError(f"latent_noise is a standard deviation and >= 0, got {latent_noise}.")
        self.path = Path(path)
        self.autoencoder = autoencoder
        self.fields = fields if isinstance(fields, GeneFields) else GeneFields(**fields)
        self.seed, self.library_size, self.latent_noise = seed, library_size, latent_noise
        self.provenance, self.weights = dict(provenance or {}), dict(weights or {})
        self.reference, self.picture = reference, picture

    def records(self, engine: Any) -> list[dict[str, Any]]:
        batch = engine.state.batch
        names = ("seed", *self.fields.condition_keys)
        latents = convert_to_tensor(engine.state.output["pred"], track_meta=False).detach().float()
        return [{"pred": latents, **{name: torch.as_tensor(batch[name]).cpu() for name in names if name in batch}}]

    def write(self, records: list[dict[str, Any]]) -> None:
        batch = concatenated(records)
        self.save(batch.pop("pred"), batch)

    def save(self, latents: Tensor, batch: Mapping[str, Any]) -> None:
        """Writes file and picture of latents [N, d + 1] with their ``seed`` and conditions [N]."""
        latents = self.smoothed(latents, batch)
        counts, library = self.decoded(latents, batch)
        cells = self.annotated(counts, library, latents, batch)
        with whole_path(self.path) as file:
            cells.write_h5ad(file)
        if self.picture:
            draw_cells(cells, self.path.with_name("gallery.png"), self.fields.label, self._real())

    def smoothed(self, latents: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Latents [N, d + 1] with noise on their z: draws from their density after smoothing with a Gaussian."""
        if self.latent_noise == 0:
            return latents
        size = self.autoencoder.latent_size
        noise = [torch.randn(size, generator=stream) for stream in self._streams(latents, batch, 2)]
        smooth = latents[:, :size] + self.latent_noise * torch.stack(noise).to(latents)
        return torch.cat([smooth, latents[:, size:]], 1)

    def decoded(
        self, latents: Tensor, batch: Mapping[str, Tensor], measured: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Counts [N, G] and totals [N] of latents. ``measured`` has ``counts`` that replace them where ``observed``."""
        library = self.autoencoder.library_of(latents).detach().cpu()
        if self.library_size is not None:
            library = torch.full_like(library, self.library_size)
        library = library.round().clamp_min(1)  # a total is a whole number
        counts = self.autoencoder.draw(latents, library.to(latents), self._streams(latents, batch, 1))
        if measured is not None:
            counts = torch.where(measured["observed"].bool(), measured["counts"], counts)
        return counts, torch.maximum(library, counts.sum(1)).clamp_min(1)  # a total is at least the sum of its counts

    def _streams(self, latents: Tensor, batch: Mapping[str, Tensor], use: int) -> list[torch.Generator]:
        numbers = sample_numbers(len(latents), batch.get("seed"))
        return [random_stream(self.seed, number, use) for number in numbers]

    def annotated(self, counts: Tensor, library: Tensor, latents: Tensor, batch: Mapping[str, Tensor]) -> Any:
        """The AnnData of counts [N, G] and totals [N]."""
        obs = pd.DataFrame(index=range(len(counts)))
        for role, categories in (("label", self.fields.labels), ("batch", self.fields.batches)):
            column = getattr(self.fields, role)
            if column is not None and role in batch:
                obs[column] = pd.Categorical.from_codes(batch[role].numpy(), categories=list(categories))
        for name in self.fields.covariates:
            if name in batch:
                obs[name] = batch[name].numpy()
        hashes = {name: file_hash(path) for name, path in self.weights.items()}
        provenance = {**hashes, "seed": self.seed, "library_size": self.library_size or "as sampled", **self.provenance}
        return annotated_expression(
            counts.numpy(), self.fields, obs, provenance, latents.cpu().numpy(), library.numpy(), source=self.path
        )

    def _real(self) -> Any:
        if self.reference is None:
            return None
        reference = self.reference
        real = reference if isinstance(reference, Expression) else Expression(reference, self.fields)
        values, totals = real.matrix()
        dense = values.toarray() if sparse.issparse(values) else values
        labels = (
            None if self.fields.label is None else np.array([*self.fields.labels, "missing"])[
                self.fields.codes(real.obs, "label", real.source)
            ]
        )  # fmt: skip
        return LogNormalize(TARGET_SUM)(torch.as_tensor(dense), torch.as_tensor(totals)).numpy(), labels


def draw_cells(cells: Any, path: str | Path, label: str | None = None, real: Any = None, most_types: int = 12) -> None:
    """Draws generated cells on two principal components over real cells in grey: all cells, and each type.

    The components are those of the real cells if there are any. A picture of all cells hides types that overlap.

    Args:
        cells: AnnData, X log-normalised.
        path: the PNG.
        label: column of ``obs`` with the type.
        real: log-normalised values [N, G], and labels [N] or None.
        most_types: number of types to draw at most, the most frequent first.
    """
    from sklearn.decomposition import PCA

    values = cells.X.toarray()
    basis = values if real is None else real[0]
    components = PCA(2, random_state=0).fit(basis)
    points, truth = components.transform(values), None if real is None else components.transform(real[0])
    types = [] if label is None else list(cells.obs[label].value_counts().index[:most_types])
    types = [kind for kind in types if (cells.obs[label] == kind).any()]
    columns = min(4, 1 + len(types))
    rows = -(-(1 + len(types)) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis in axes[1 + len(types) :]:
        axis.set_axis_off()
    for axis, kind in zip(axes, [None, *types], strict=False):
        members = np.ones(len(points), bool) if kind is None else (cells.obs[label] == kind).to_numpy()
        if truth is not None:
            same_type = np.ones(len(truth), bool) if kind is None or real[1] is None else real[1] == kind
            axis.scatter(*truth[same_type].T, s=6, color="0.65", label=f"real ({same_type.sum()})", linewidths=0)
        axis.scatter(
            *points[members].T, s=6, color="tab:blue", alpha=0.7, label=f"synthetic ({members.sum()})", linewidths=0
        )
        axis.set_title("all" if kind is None else str(kind), fontsize=8)
        axis.tick_params(labelsize=6)
        axis.legend(fontsize=5, loc="best")
    figure.supxlabel("first principal component" + (" of the real cells" if truth is not None else ""), fontsize=8)
    figure.supylabel("second", fontsize=8)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
