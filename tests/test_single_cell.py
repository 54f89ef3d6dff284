"""Attention among genes, the counts autoencoder, guidance by counts, and cells written as AnnData."""

from __future__ import annotations

import json
import math
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from pictures import check_picture
from scipy import sparse
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from monai_diffscore import GaussianDenoiser, GeneDropout, karras_sigmas, sample_heun
from monai_diffscore.data import (
    Expression,
    ExpressionRows,
    GeneFields,
    LatentCells,
    ObservedCells,
    cell_statistics,
    requested_cells,
    split_cells,
)
from monai_diffscore.data.cells import condition_codes
from monai_diffscore.errors import DataError
from monai_diffscore.guidance import LikelihoodGuidance
from monai_diffscore.handlers import SaveCells
from monai_diffscore.networks import ConditionEncoder, CountsAutoencoder, SingleCellNet
from monai_diffscore.networks.counts import draw_negative_binomial, negative_binomial_nll, zero_inflated_nll
from monai_diffscore.networks.single_cell import GenePooling, GeneReadout, ModuleBlock
from monai_diffscore.sampling import encode
from monai_diffscore.tasks import TransferInferer

GENES = 40


def awaken(network: nn.Module) -> nn.Module:
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- attention ----


def test_pooling_is_cross_attention_over_gene_tokens():
    """The affine logits equal attention over tokens e_g + x_g u_g that are written down."""
    pooling = GenePooling(7, 8, 3, num_heads=2).double()
    x = torch.randn(4, 7, dtype=torch.float64)
    identity, slope = pooling.tokens.embedding
    tokens = identity + x[..., None] * slope  # (B, G, hidden)
    key, value = (
        layer(tokens).unflatten(2, (2, 4)).transpose(1, 2) for layer in (pooling.key, pooling.value)
    )  # (B, heads, G, d)
    weights = (pooling.queries @ key.mT / math.sqrt(4)).softmax(-1)
    expected = (pooling.norm((weights @ value).transpose(1, 2).flatten(2)) + pooling.module).mT
    torch.testing.assert_close(pooling.attention(x), weights)
    torch.testing.assert_close(pooling(x), expected)


def test_readout_is_cross_attention_of_gene_queries():
    readout = awaken(GeneReadout(7, 8, num_heads=2).double())
    x, h = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 8, 3, dtype=torch.float64)
    identity, slope = readout.tokens.embedding
    query = readout.query(identity + x[..., None] * slope).unflatten(2, (2, 4)).transpose(1, 2)
    key, value = readout.key_value(readout.norm(h.mT)).chunk(2, -1)
    key, value = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in (key, value))
    attended = (query @ key.mT / 2).softmax(-1) @ value  # (B, heads, G, d)
    torch.testing.assert_close(readout(h, x), (attended * readout.weight).sum((1, 3)) + readout.bias)


def test_the_attention_is_no_no_op():
    """Weights follow the values of the cell, and the share of a gene in a module depends on the other genes."""
    pooling = GenePooling(GENES, 16, 4, num_heads=2).double()
    x = torch.randn(2, GENES, dtype=torch.float64)
    weights = pooling.attention(x)
    assert weights.shape == (2, 2, 4, GENES)
    assert (weights[0] - weights[1]).abs().max() > 0.05  # of a single token it would be 1, whatever the cell
    raised = x.clone()
    raised[:, 0] += 3
    others = pooling.attention(raised)[..., 1:] / pooling.attention(raised)[..., 1:].sum(-1, keepdim=True)
    torch.testing.assert_close(others, weights[..., 1:] / weights[..., 1:].sum(-1, keepdim=True))
    assert (pooling.attention(raised)[..., 0] / weights[..., 0] - 1).abs().min() > 1e-3
    block = awaken(ModuleBlock(16, 2).double())
    h = torch.randn(1, 16, 4, dtype=torch.float64)
    other = h.clone()
    other[..., 0] = torch.randn(16)
    assert (block(other) - block(h))[..., 1:].abs().max() > 1e-3  # modules see each other
    with pytest.raises(ValueError, match="at least two modules"):
        GenePooling(GENES, 16, 1)


def test_a_network_without_attention_computes_something_else():
    torch.manual_seed(0)
    network = awaken(SingleCellNet(GENES, hidden_size=16, num_modules=4, depth=1, num_heads=2))
    x, c_noise = torch.randn(5, GENES), torch.zeros(5)
    output = network(x, c_noise)
    nn.init.zeros_(network.pooling.queries)  # every gene alike
    assert (network(x, c_noise) - output).norm() > 0.05 * output.norm()


def test_a_module_of_a_gene_set_sees_its_genes_alone():
    sets = torch.zeros(3, 12, dtype=torch.bool)
    for module in range(3):
        sets[module, 4 * module : 4 * module + 4] = True
    pooling = GenePooling(12, 8, 3, 2, gene_sets=sets)
    x = torch.randn(1, 12, requires_grad=True)
    for module in range(3):
        (gradient,) = torch.autograd.grad(pooling(x)[..., module].square().sum(), x)
        assert torch.equal(gradient[0] != 0, sets[module])
    network = SingleCellNet(12, 8, 3, 1, 2, gene_sets=sets, condition=ConditionEncoder(concat={"panel": 2}))
    assert network(x, torch.zeros(1), panel=torch.zeros(1, 2)).shape == (1, 12)
    with pytest.raises(ValueError, match=r"gene_sets boolean \[modules, genes\] = \[3, 11\]"):
        GenePooling(11, 8, 3, 2, gene_sets=sets)
    with pytest.raises(ValueError, match="1 empty sets"):
        GenePooling(12, 8, 3, 2, gene_sets=sets & (torch.arange(3)[:, None] > 0))


def test_the_cost_is_linear_in_the_genes():
    """Counted floating-point operations, forward and backward: equal steps in genes are equal steps in cost."""
    counted = []
    for genes in (1000, 2000, 3000):
        network = SingleCellNet(genes, hidden_size=32, num_modules=8, depth=2)
        with FlopCounterMode(display=False) as counter:
            network(torch.randn(2, genes), torch.zeros(2)).sum().backward()
        counted.append(counter.get_total_flops())
    assert counted[2] - counted[1] == counted[1] - counted[0]
    assert counted[2] < 3 * counted[0]


# ---- counts ----


def test_negative_binomial_equals_torchs():
    counts = torch.arange(12.0).double()[:, None]
    mean, theta = torch.tensor([0.01, 0.7, 30.0]).double(), torch.tensor([0.2, 3.0, 50.0]).double()
    reference = torch.distributions.NegativeBinomial(theta, logits=(mean / theta).log())
    torch.testing.assert_close(-negative_binomial_nll(counts, mean, theta), reference.log_prob(counts))
    every = torch.arange(4000.0).double()[:, None]
    logits = torch.tensor([-1.0, 0.5, 2.0]).double()
    inflated = (-zero_inflated_nll(every, mean, theta, logits)).exp()
    torch.testing.assert_close(inflated.sum(0), torch.ones(3).double())  # a distribution
    expected = logits.sigmoid() + (1 - logits.sigmoid()) * reference.log_prob(torch.zeros(()).double()).exp()
    torch.testing.assert_close(inflated[0], expected)


def test_draws_have_mean_variance_and_zeros_of_the_negative_binomial():
    mean, theta = torch.tensor([[0.5, 8.0]]).expand(200_000, 2), torch.tensor([0.7, 4.0])
    drawn = draw_negative_binomial(mean, theta, generator())
    assert torch.equal(drawn, drawn.round())
    variance = mean[0] + mean[0] ** 2 / theta
    assert ((drawn.mean(0) - mean[0]).abs() < 4 * (variance / 200_000).sqrt()).all()
    torch.testing.assert_close(drawn.var(0).float(), variance, rtol=0.03, atol=0)
    zeros = (theta / (theta + mean[0])) ** theta
    assert ((drawn == 0).float().mean(0) - zeros).abs().max() < 0.005


def model(**options) -> CountsAutoencoder:
    torch.manual_seed(0)
    options = {"latent_size": 5, "hidden_size": 8, "num_modules": 4, "decoder_size": 16, **options}
    autoencoder = CountsAutoencoder(GENES, **options)
    counts, library = some_counts(64)
    return autoencoder.measure(
        [{"image": counts[:32], "library": library[:32]}, {"image": counts[32:], "library": library[32:]}]
    )


def some_counts(cells: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rates = torch.rand(GENES, generator=generator(1)) * 4
    counts = torch.poisson(rates.expand(cells, GENES), generator=generator(seed))
    return counts, counts.sum(1) * 3


@pytest.mark.parametrize("zero_inflation", [False, True])
def test_the_autoencoder_learns_and_its_shares_sum_to_one(zero_inflation):
    autoencoder, (counts, library) = model(zero_inflation=zero_inflation), some_counts(64)
    optimizer = torch.optim.AdamW(autoencoder.parameter_groups(0.01, 1e-2))
    groups = [p for group in optimizer.param_groups for p in group["params"]]
    assert set(map(id, groups)) == set(map(id, autoencoder.parameters()))
    losses = []
    for _ in range(60):
        loss = autoencoder(counts, library)
        assert loss.shape == (64,)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.mean().item())
    assert losses[-1] < losses[0] - 0.05
    latent = autoencoder.eval().encode(counts, library).detach()
    torch.testing.assert_close(autoencoder.library_of(latent), library)  # depth comes back
    torch.testing.assert_close(autoencoder.shares(latent).sum(1), torch.ones(64))
    torch.testing.assert_close(
        autoencoder.mean(latent, 2 * library), 2 * autoencoder.mean(latent), rtol=1e-4, atol=1e-6
    )
    assert latent[:, :-1].std(0).sub(1).abs().max() < 0.3  # standardised
    assert float(latent[:, -1].std()) == pytest.approx(1, abs=1e-3)


def test_a_short_training_recovers_dispersions():
    """Genes of two known dispersions, with no other structure to learn: both come back."""
    theta = torch.tensor([0.5, 30.0]).repeat_interleave(GENES // 2 + 1)[:GENES]
    counts = draw_negative_binomial(torch.full((512, GENES), 20.0), theta, generator()).float()
    library = counts.sum(1) + 1000
    autoencoder = model(dropout=0.0).measure([{"image": counts, "library": library}])
    optimizer = torch.optim.AdamW(autoencoder.parameter_groups(1.0, 2e-3))
    for start in range(0, 200 * 64, 64):
        rows = slice(start % 512, start % 512 + 64)
        optimizer.zero_grad()
        autoencoder(counts[rows], library[rows]).mean().backward()
        optimizer.step()
    dispersion = autoencoder.log_theta[:-1].detach().exp()
    assert dispersion[theta == 0.5].median() == pytest.approx(0.5, rel=0.2)
    assert dispersion[theta == 30].median() == pytest.approx(30, rel=0.35)


def test_an_untrained_decoder_gives_the_profile_of_the_training_cells():
    autoencoder, (counts, library) = model(), some_counts(64)
    for parameter in autoencoder.decoder.parameters():
        nn.init.zeros_(parameter)
    shares = (counts.sum(0) + 0.5) / (library.sum() + 0.5 * (GENES + 1))
    torch.testing.assert_close(autoencoder.shares(torch.zeros(1, 6))[0, :-1], shares, rtol=1e-4, atol=0)


def test_a_cell_is_drawn_alike_in_any_batch():
    autoencoder, latents = model(zero_inflation=True).eval(), torch.randn(6, 6)
    together = autoencoder.draw(latents, generator=[generator(i) for i in range(6)])
    alone = torch.cat([autoencoder.draw(latents[i : i + 1], generator=[generator(i)]) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_totals_below_the_sum_of_the_counts_are_refused():
    autoencoder, (counts, library) = model(), some_counts(3)
    with pytest.raises(ValueError, match="totals of whole cells"):
        autoencoder(counts, library / 10)
    with pytest.raises(ValueError, match="at least two cells"):
        autoencoder.measure([{"image": counts[:1], "library": library[:1]}])


# ---- guidance and transfer ----


def test_likelihood_guidance_is_the_posterior_of_a_gaussian():
    """Linear mean, constant variance, isotropic Gaussian prior: exact, in one step and in four."""
    a = torch.randn(7, 3, generator=generator(), dtype=torch.float64)
    observed = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
    y = torch.randn(1, 7, generator=generator(1), dtype=torch.float64) * observed
    prior = GaussianDenoiser(torch.zeros(3), torch.eye(3))
    x, sigma = torch.randn(5, 3, dtype=torch.float64), 0.7
    seen = a[observed]
    precision = torch.eye(3).double() * (1 + 1 / sigma**2) + seen.T @ seen / 0.25
    expected = torch.linalg.solve(precision, (x / sigma**2 + y[:, observed] @ seen / 0.25).T).T
    for iterations in (1, 4):
        guided = LikelihoodGuidance(
            prior, lambda u: u @ a.T, lambda m: torch.full_like(m, 0.25), GeneDropout(observed), y, 1.0, iterations
        )
        torch.testing.assert_close(guided(x, sigma), expected)


def test_genes_that_were_not_observed_say_nothing():
    autoencoder, counts = model().eval(), some_counts(4)[0]
    observed = torch.arange(GENES) % 2 == 0
    prior = GaussianDenoiser(torch.zeros(6), torch.eye(6), dtype=torch.float32)
    x, other = torch.randn(4, 6), torch.where(observed, counts, counts + 7)

    def guided(y: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        dropout = GeneDropout(seen)
        return LikelihoodGuidance(prior, autoencoder.mean, autoencoder.variance, dropout, dropout(y), 1.0)(x, 1.0)

    torch.testing.assert_close(guided(counts, observed), guided(other, observed), rtol=0, atol=0)
    assert (guided(counts, observed) - guided(other, torch.ones(GENES))).abs().max() > 0.05


def test_noise_goes_up_and_comes_down_to_the_same_cell():
    denoise = GaussianDenoiser(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.6], [0.6, 2.0]]))
    x, sigmas = torch.randn(6, 2, dtype=torch.float64), karras_sigmas(200, 0.01, 20.0)
    torch.testing.assert_close(sample_heun(denoise, encode(denoise, x, sigmas), sigmas), x, rtol=0, atol=5e-3)


def test_transfer_carries_a_cell_to_the_same_place_of_another_batch():
    """Two batches that differ by a shift: the transferred cell is the cell, shifted."""

    class Batches(nn.Module):
        def forward(self, x, sigma, batch):
            mean = 3.0 * batch[:, None].to(x)
            return mean + (x - mean) / (1 + torch.as_tensor(sigma).reshape(-1, 1) ** 2)

    x = torch.randn(6, 2)
    inferer = TransferInferer({"batch": 1}, sampler=sample_heun, sigmas=karras_sigmas(100, 0.01, 200.0), progress=False)
    moved = inferer(x, Batches(), batch=torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(moved, x + 3, rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="condition to transfer to"):
        TransferInferer({})


# ---- cells ----


@pytest.fixture
def file(tmp_path: Path) -> Path:
    counts, library = some_counts(30)
    obs = pd.DataFrame(
        {"kind": pd.Categorical(np.tile(["T", "B", "NK"], 10)), "plate": np.repeat(["p1", "p2"], 15), "age": 50.0},
        index=[f"cell{number}" for number in range(30)],
    )
    obs["depth"] = library.numpy()
    adata = anndata.AnnData(
        sparse.csr_matrix(counts.numpy()), obs=obs, var=pd.DataFrame(index=[f"gene{g}" for g in range(GENES)])
    )
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


FIELDS = GeneFields(label="kind", batch="plate", covariates=("age",), total="depth")


def test_latents_are_encoded_at_the_first_look(file):
    autoencoder = model()
    latents = LatentCells(ExpressionRows(Expression(file, FIELDS)), autoencoder, batch_size=7)
    autoencoder.latent.weight.data += 1  # trained after the data set was made
    counts, library = some_counts(30)
    expected = autoencoder.eval().encode(counts, library)
    autoencoder.train()
    torch.testing.assert_close(torch.stack([latents[i]["image"] for i in range(30)]), expected, rtol=1e-4, atol=1e-5)
    assert autoencoder.training
    assert set(latents[0]) == {"image", "library", "label", "batch", "age", "name"}
    assert len(latents) == 30


def test_the_split_holds_out_of_each_label_and_shares_nothing(file):
    expression = Expression(file, FIELDS)
    train, held_out = split_cells(expression, 0.2, seed=0)
    assert sorted([*train, *held_out]) == list(range(30))
    assert expression.obs["kind"].iloc[held_out].value_counts().to_dict() == {"T": 2, "B": 2, "NK": 2}
    assert len(split_cells(expression, 0.03, seed=0)[1]) == 1  # fewer than labels: at random
    statistics = cell_statistics(expression, train)
    assert statistics["label_counts"] == [8, 8, 8]
    assert statistics["num_batches"] == 2
    assert json.loads(json.dumps(statistics)) == statistics


def test_the_cells_of_a_donor_stay_together(file):
    expression = Expression(file, FIELDS)
    expression.obs["donor"] = np.repeat([1, 2, 3, 4, 5], 6)
    train, held_out = split_cells(expression, 0.1, seed=0, subject="donor")
    assert sorted([*train, *held_out]) == list(range(30))
    assert expression.obs["donor"].iloc[held_out].nunique() == 1
    assert len(held_out) == 6
    with pytest.raises(DataError, match=r"'subject'\): expected a column 'patient'"):
        split_cells(expression, 0.1, seed=0, subject="patient")
    expression.obs["donor"] = 1
    with pytest.raises(DataError, match=r"share of 0\.1 held out"):
        split_cells(expression, 0.1, seed=0, subject="donor")


def test_cells_are_requested_by_type_or_in_proportion(file):
    statistics = cell_statistics(Expression(file, FIELDS), np.arange(12, 30))
    asked = requested_cells(statistics, 5, {"NK": 2, "T": 1}, batch="p2")
    assert [(cell["label"], cell["batch"], cell["seed"]) for cell in asked] == [(1, 1, 0), (1, 1, 1), (2, 1, 2)]
    statistics["label_counts"] = [5, 3, 1]
    labels = [cell["label"] for cell in requested_cells(statistics, 5, None, 10)]
    assert np.bincount(labels).tolist() == [6, 3, 1]
    with pytest.raises(DataError, match=r"cells_per_type.*got 'Z'"):
        requested_cells(statistics, 5, {"Z": 2})
    assert condition_codes(statistics, {"batch": "p2"}) == {"batch": 1}
    with pytest.raises(DataError, match="'p3'"):
        condition_codes(statistics, {"batch": "p3"})


def test_cells_are_written_as_anndata(file, tmp_path):
    fields = Expression(file, FIELDS).fields
    handler = SaveCells(tmp_path / "out.h5ad", model().eval(), fields, seed=3, provenance={"steps": 4}, reference=file)
    latents = torch.randn(5, 6, generator=generator())
    batch = {"seed": torch.arange(5), "label": torch.tensor([0, 1, 2, 0, 0]), "batch": torch.tensor([0, 1, -1, 0, 1])}
    handler.save(latents, batch)
    adata = anndata.read_h5ad(tmp_path / "out.h5ad")
    counts = adata.layers["counts"]
    assert isinstance(counts, sparse.csr_matrix)
    assert counts.dtype == np.int32
    assert list(adata.var_names) == list(fields.genes)
    assert adata.obs["kind"].tolist() == [fields.labels[i] for i in (0, 1, 2, 0, 0)]
    assert adata.obs["plate"].isna().tolist() == [False, False, True, False, False]
    assert adata.obs["synthetic"].all()
    expected = np.log1p(1e4 * counts.toarray() / adata.obs["depth"].to_numpy()[:, None])
    np.testing.assert_allclose(adata.X.toarray(), expected, rtol=1e-5)
    assert adata.uns["monai_diffscore"]["seed"] == 3
    assert adata.uns["monai_diffscore"]["steps"] == 4
    check_picture(tmp_path / "gallery.png")
    Expression(tmp_path / "out.h5ad", fields)  # and reads as the training data does
    deeper = SaveCells(tmp_path / "deep.h5ad", model().eval(), fields, seed=3, library_size=5e4, picture=False)
    deeper.save(latents, batch)
    again = anndata.read_h5ad(tmp_path / "deep.h5ad")
    assert (again.obs["depth"] == 5e4).all()
    assert again.layers["counts"].sum() > 20 * counts.sum()
    with pytest.raises(ValueError, match="library_size"):
        SaveCells(tmp_path / "x.h5ad", model(), fields, library_size=0)


def test_noise_on_latents_leaves_the_depth_and_is_of_each_cell_alone(file, tmp_path):
    fields = Expression(file, FIELDS).fields
    saved = SaveCells(tmp_path / "x.h5ad", model().eval(), fields, seed=3, latent_noise=0.2, picture=False)
    latents = torch.randn(4000, 6, generator=generator())
    batch = {"seed": torch.arange(4000)}
    noise = saved.smoothed(latents, batch) - latents
    assert (noise[:, -1] == 0).all()
    torch.testing.assert_close(noise[:, :5].std(0), torch.full((5,), 0.2), rtol=0.05, atol=0)
    alone = saved.smoothed(latents[7:8], {"seed": torch.tensor([7])}) - latents[7:8]
    torch.testing.assert_close(alone[0], noise[7])
    saved.save(latents[:4], {"seed": torch.arange(4)})
    adata = anndata.read_h5ad(tmp_path / "x.h5ad")
    np.testing.assert_allclose(adata.obsm["X_score_latent"], (latents + noise)[:4], rtol=1e-6)  # what was decoded
    with pytest.raises(ValueError, match="latent_noise is a standard deviation"):
        SaveCells(tmp_path / "x.h5ad", model(), fields, latent_noise=-0.1)


def test_some_genes_of_a_cell_are_observed(file):
    part = anndata.read_h5ad(file)[:, [3, 1, 7]].copy()
    fields = Expression(file, FIELDS).fields
    cells = ObservedCells(part, fields, latent_size=5, most=4)
    item = cells[2]
    assert len(cells) == 4
    assert item["observed"].nonzero().flatten().tolist() == [1, 3, 7]
    np.testing.assert_array_equal(item["counts"][[3, 1, 7]], part.X[2].toarray()[0])
    assert item["counts"].sum() == part.X[2].sum()
    hidden = ObservedCells(file, fields, 5, hidden_share=0.5)
    assert 5 < int(hidden.observed.sum()) < 35
    assert not hidden[0]["truth"].isnan().any()
    part.var_names = ["a", "b", "c"]
    with pytest.raises(DataError, match="some of the genes of the model"):
        ObservedCells(part, fields, 5)
