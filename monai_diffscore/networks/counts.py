r"""The autoencoder of a latent score model of single cells: counts to a latent vector, and back to counts.

Gene attention encodes a cell x [G] with the total l (of all its genes, of which G are measured),

.. math::  z = \mathrm{standardise}\bigl(f(\log(1 + 10^4 x / l))\bigr), \qquad
           u = \bigl[z,\; (\ln l - m)/s\bigr],

A score model learns the density of u. Depth is a coordinate of u, and depends on the cell type as in the data. The
decoder returns the share of each gene, and of **the rest** of the transcriptome, in the cell,

.. math::  \rho = \operatorname{softmax}\bigl(\ln \rho_0 + b + g(z)\bigr) \in \mathbb{R}^{G + 1}, \qquad
           x_g \sim \mathrm{NB}(\mu_g = l \rho_g, \theta_g), \qquad \operatorname{Var} x_g = \mu_g + \mu_g^2 / \theta_g,

with the shares :math:`\rho_0` of the training cells and one dispersion for each gene. This equals
:math:`\lambda \sim \mathrm{Gamma}(\theta, \mathrm{rate} = \theta/\mu)`, :math:`x \sim \mathrm{Poisson}(\lambda)`. The
draws are integers with the zeros of a negative binomial. Data with more zeros (full-length, plate-based protocols; not
droplet data) can add a dropout probability :math:`\pi_g`.

Source of the likelihood: Lopez et al. 2018, doi:10.1038/s41592-018-0229-2; of a latent score model on it: Palma et al.
2025, arXiv:2407.11734.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.single_cell import GenePooling, ModuleBlock
from monai_diffscore.tensors import Generators


def negative_binomial_nll(x: Tensor, mean: Tensor, theta: Tensor) -> Tensor:
    r""":math:`-\ln \mathrm{NB}(x; \mu, \theta)` elementwise, in nats.

    .. math::  \ln \mathrm{NB} = \ln\Gamma(x+\theta) - \ln\Gamma(\theta) - \ln x! + \theta \ln\frac{\theta}{\theta+\mu}
               + x \ln\frac{\mu}{\theta+\mu}

    Args:
        x: counts.
        mean: :math:`\mu > 0`, in counts.
        theta: :math:`\theta > 0`. All three broadcast against each other.
    """
    total = (theta + mean).log()
    binomial = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return -(binomial + theta * (theta.log() - total) + x * (mean.log() - total))


def zero_inflated_nll(x: Tensor, mean: Tensor, theta: Tensor, dropout_logits: Tensor) -> Tensor:
    r""":math:`-\ln(\pi \delta_0 + (1 - \pi) \mathrm{NB})` elementwise, in nats.

    :math:`\pi` is the sigmoid of ``dropout_logits``. Other arguments as of :func:`negative_binomial_nll`.
    """
    log_count = F.logsigmoid(-dropout_logits) - negative_binomial_nll(x, mean, theta)
    return -torch.where(x == 0, torch.logaddexp(F.logsigmoid(dropout_logits), log_count), log_count)


def draw_negative_binomial(mean: Tensor, theta: Tensor, generator: Generators = None) -> Tensor:
    """Random integers in the shape [B, ...] of ``mean``, as floats on the CPU.

    Args:
        mean: [B, ...], in counts.
        theta: dispersions that broadcast against ``mean``.
        generator: one, or one for each cell.
    """
    if isinstance(generator, Sequence):
        return torch.stack([draw_negative_binomial(m[None], theta, g)[0] for m, g in zip(mean, generator, strict=True)])
    mean = mean.cpu().double()
    shape = theta.cpu().double().expand_as(mean)
    rate = torch._standard_gamma(shape, generator=generator) * mean / shape
    return torch.poisson(rate, generator=generator)


class CountsAutoencoder(nn.Module):
    """Maps counts [B, G] and totals [B] to the latent [B, latent_size + 1], and back. A call returns its loss [B].

    Args:
        num_genes: G.
        latent_size: size of z.
        hidden_size, num_modules, num_heads, depth: of the encoder's gene attention.
        decoder_size: width of the decoder's hidden layer.
        dropout: probability in encoder and decoder.
        latent_noise: standard deviation of the noise on z in training.
        zero_inflation: True adds a dropout probability for each gene.
        target_sum: s, sum of the counts of a cell after normalisation, before the logarithm.
        gene_sets: optional boolean [num_modules, G]: the genes of each module.
    """

    gene_mean: Tensor
    profile: Tensor
    library_scale: Tensor

    def __init__(
        self,
        num_genes: int,
        latent_size: int = 16,
        hidden_size: int = 32,
        num_modules: int = 16,
        num_heads: int = 2,
        depth: int = 1,
        decoder_size: int = 128,
        dropout: float = 0.1,
        latent_noise: float = 0.0,
        zero_inflation: bool = False,
        target_sum: float = 1e4,
        gene_sets: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_genes, self.latent_size = num_genes, latent_size
        self.latent_noise, self.target_sum = latent_noise, target_sum
        self.pooling = GenePooling(num_genes, hidden_size, num_modules, num_heads, gene_sets)
        self.blocks = nn.ModuleList(ModuleBlock(hidden_size, num_heads, dropout=dropout) for _ in range(depth))
        self.latent = nn.Linear(num_modules * hidden_size, latent_size)
        self.standardise = nn.BatchNorm1d(latent_size, affine=False, momentum=0.05)
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, decoder_size), nn.SiLU(), nn.Dropout(dropout), nn.Linear(decoder_size, num_genes + 1)
        )
        self.log_theta = nn.Parameter(torch.ones(num_genes + 1))
        self.dropout_logits = nn.Parameter(torch.full((num_genes,), -4.0)) if zero_inflation else None
        self.register_buffer("gene_mean", torch.zeros(num_genes))  # of the log-normalised training cells
        self.register_buffer("profile", torch.zeros(num_genes + 1))  # log shares
        self.register_buffer("library_scale", torch.tensor([0.0, 1.0]))  # mean and std of ln l

    @torch.no_grad()
    def measure(self, batches: Iterable[Mapping[str, Tensor]]) -> CountsAutoencoder:
        """Measures mean expression, profile and depth of the training cells, and returns the autoencoder.

        Args:
            batches: with counts ``image`` [B, G] and totals ``library`` [B].
        Raises:
            ValueError: for a total below the sum of the counts of its cell, or fewer than two cells.
        """
        cells, log_sum, count_sum = 0, torch.zeros(self.num_genes).double(), torch.zeros(self.num_genes + 1).double()
        depths = []
        for batch in batches:
            counts, library = torch.as_tensor(batch["image"]), torch.as_tensor(batch["library"])
            count_sum += self._with_rest(counts, library).double().sum(0)
            log_sum += self.log_normalise(counts, library).double().sum(0)
            depths.append(library.double().log())
            cells += len(counts)
        if cells < 2:
            raise ValueError(f"CountsAutoencoder.measure needs at least two cells, got {cells}.")
        depth = torch.cat(depths)
        self.gene_mean.copy_(log_sum / cells)
        # half a count for genes without counts in training: the decoder cannot undo the logarithm of 0
        self.profile.copy_(((count_sum + 0.5) / (count_sum + 0.5).sum()).log())
        self.library_scale.copy_(torch.stack([depth.mean(), depth.std().clamp_min(1e-3)]))
        return self

    def parameter_groups(self, weight_decay: float, learning_rate: float) -> list[dict[str, object]]:
        """Parameter groups for an optimizer. Matrices decay; biases, norms and dispersions do not.

        A log dispersion starts at 1, and reaches 4 and more for genes with almost no overdispersion. With the learning
        rate of a weight this takes too many steps for a short training. Its learning rate is ten times as large.
        """
        matrices = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim < 2 and p is not self.log_theta]
        return [
            {"params": matrices, "weight_decay": weight_decay, "lr": learning_rate},
            {"params": others, "weight_decay": 0.0, "lr": learning_rate},
            {"params": [self.log_theta], "weight_decay": 0.0, "lr": 10 * learning_rate},
        ]

    def log_normalise(self, counts: Tensor, library: Tensor) -> Tensor:
        r""":math:`\ln(1 + s x / l)` [B, G] of counts [B, G] and totals [B]."""
        return torch.log1p(self.target_sum * counts / library[:, None])

    def encode(self, counts: Tensor, library: Tensor) -> Tensor:
        """u [B, latent_size + 1]: z, of unit variance in training, and the standardised log total."""
        mean, std = self.library_scale
        return torch.cat([self._latent(counts, library), ((library.log() - mean) / std)[:, None]], 1)

    def library_of(self, latent: Tensor) -> Tensor:
        """The totals [B] of latents u."""
        mean, std = self.library_scale
        return torch.exp(mean + std * latent[:, -1])

    def shares(self, latent: Tensor) -> Tensor:
        r"""The shares :math:`\rho` [B, G + 1] of latents u or z, for each gene and the rest. Their sum is 1."""
        return (self.profile + self.decoder(latent[:, : self.latent_size])).softmax(1)

    def mean(self, latent: Tensor, library: Tensor | None = None) -> Tensor:
        r"""The expected counts :math:`\mu = l \rho` [B, G] of u. ``library`` [B] replaces its totals."""
        library = self.library_of(latent) if library is None else library
        return library[:, None] * self.shares(latent)[:, :-1] + 1e-8

    def variance(self, mean: Tensor) -> Tensor:
        r"""The variance :math:`\mu + \mu^2/\theta` [B, G] of the negative binomial."""
        return mean + mean.square() / self.log_theta[:-1].exp()

    @torch.no_grad()
    def draw(self, latent: Tensor, library: Tensor | None = None, generator: Generators = None) -> Tensor:
        """Draws counts [B, G] (integers as float32, on the CPU) of latents u.

        Args:
            latent: u [B, latent_size + 1].
            library: totals [B]; None takes the totals of the latents. Other totals give the same cells at another
                depth of sequencing.
            generator: one, or one for each cell.
        """
        counts = draw_negative_binomial(self.mean(latent, library), self.log_theta[:-1].exp(), generator)
        if self.dropout_logits is not None:
            probability = self.dropout_logits.sigmoid().cpu().double().expand_as(counts)
            generators = generator if isinstance(generator, Sequence) else [generator] * len(counts)
            dropouts = [torch.bernoulli(p, generator=g) for p, g in zip(probability, generators, strict=True)]
            counts = counts * (1 - torch.stack(dropouts))
        return counts.float()

    def negative_log_likelihood(self, counts: Tensor, latent: Tensor, library: Tensor) -> Tensor:
        """The negative log likelihood [B, G + 1] of the counts of each gene and of the rest, in nats.

        Args:
            counts: [B, G].
            latent: u or z, [B, latent_size (+ 1)].
            library: totals [B].
        """
        x = self._with_rest(counts, library)
        mean = library[:, None] * self.shares(latent) + 1e-8
        theta = self.log_theta.exp()
        if self.dropout_logits is None:
            return negative_binomial_nll(x, mean, theta)
        no_dropout = self.dropout_logits.new_full((1,), -40.0)  # the rest of the transcriptome is never 0
        return zero_inflated_nll(x, mean, theta, torch.cat([self.dropout_logits, no_dropout]))

    def forward(self, counts: Tensor, library: Tensor) -> Tensor:
        """The loss [B] of counts [B, G] and totals [B]: the negative log likelihood in nats per gene."""
        latent = self._latent(counts, library)
        if self.training and self.latent_noise > 0:
            latent = latent + self.latent_noise * torch.randn_like(latent)
        return self.negative_log_likelihood(counts, latent, library).mean(1)

    def _latent(self, counts: Tensor, library: Tensor) -> Tensor:
        h = self.pooling(self.log_normalise(counts, library) - self.gene_mean)
        for block in self.blocks:
            h = block(h)
        return self.standardise(self.latent(h.mT.flatten(1)))

    def _with_rest(self, counts: Tensor, library: Tensor) -> Tensor:
        rest = library.to(counts) - counts.sum(1)
        if not torch.compiler.is_compiling() and bool((rest < -0.5).any()):
            cell = int(rest.argmin())
            raise ValueError(
                f"Expected totals of whole cells, at least the sum of their measured genes, got {float(library[cell])} "
                f"for a sum of {float(counts[cell].sum())}. Name the column of obs with the totals of all genes."
            )
        return torch.cat([counts, rest.clamp_min(0)[:, None]], 1)
