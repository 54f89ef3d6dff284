r"""Posterior sampling against closed forms: the distance of each method's samples from the exact posterior.

    python -m benchmarks.posteriors

Prior: smooth signals of 64 pixels with their exact denoiser. They have one population (Gaussian), or three: so near to
each other that a measurement leaves doubt (mixture), or four times as far apart (separated mixture). The noise of a
measurement is 0.1 (`fourier`: every third line of k-space and the centre). Metrics: distance between the mean of 500
samples and the exact posterior mean, and between the standard deviations, root mean square over pixels, relative to the
exact posterior standard deviation; `floor` is the value of 500 exact posterior samples. For the mixture also the
largest error of a population's posterior weight. 40 steps of sample_adams; `repaint` is Inpaint with sample_repaint,
100 steps of 10 repeats."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from monai_diffscore import (
    Blur,
    Downsample,
    FourierUndersampling,
    Inpaint,
    Mask,
    MixtureDenoiser,
    Operator,
    PosteriorGuidance,
    asinh_sigmas,
    cartesian_lines,
    sample_adams,
    sample_repaint,
)

SIZE, NOISE, COUNT = 64, 0.1, 500
OPERATORS: dict[str, Operator] = {
    "mask": Mask((torch.arange(SIZE) < 24) | (torch.arange(SIZE) > 40)),
    "downsample": Downsample((4,)),
    "blur": Blur((2.0,)),
    "fourier": FourierUndersampling(cartesian_lines((SIZE,), 3)),
}


PRIORS = {"Gaussian": (1, 1.0), "mixture": (3, 0.25), "separated mixture": (3, 1.0)}  # populations, scale of means


def prior(populations: int, scale: float) -> MixtureDenoiser:
    g = torch.Generator().manual_seed(populations)
    place = torch.arange(float(SIZE))
    distance = (place[:, None] - place) / 5
    smooth = torch.exp(-0.5 * distance**2)
    root = torch.linalg.cholesky(0.3 * smooth + 1e-3 * torch.eye(SIZE))
    means = scale * root @ torch.randn(populations, SIZE, 1, generator=g)
    covariance = 0.2 * smooth + 0.005 * torch.eye(SIZE)
    return MixtureDenoiser(torch.ones(populations), means.mT, covariance.expand(populations, SIZE, SIZE))


def draw(method: str, model: MixtureDenoiser, operator: Operator, y: Tensor, exact: MixtureDenoiser) -> Tensor:
    g = torch.Generator().manual_seed(7)
    if method == "floor":
        return exact.sample(COUNT, g)
    x = 80 * torch.randn(COUNT, 1, SIZE, dtype=torch.float64, generator=g)
    if method == "repaint":
        assert isinstance(operator, Mask)
        known = Inpaint(model, operator.mask, y)
        return sample_repaint(known, x, asinh_sigmas(100), generator=g, repeats=10)
    _, covariance = model.moments()
    spread = float(covariance.diagonal().mean().sqrt())
    guided = PosteriorGuidance(model, operator, y, NOISE, method, sigma_data=spread, iterations=8)
    return sample_adams(guided, x, asinh_sigmas(40))


def population_weights(model: MixtureDenoiser, samples: Tensor) -> Tensor:
    """Mean responsibility of each population for the samples."""
    log_joint, _, _ = model._components(samples, samples.new_zeros(len(samples)))
    return log_joint.softmax(1).mean(0)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| prior | operator | method | mean | standard deviation | population weight |\n|---|---|---|---|---|---|")
    for name, (populations, scale) in PRIORS.items():
        model = prior(populations, scale)
        for operator_name, operator in OPERATORS.items():
            g = torch.Generator().manual_seed(11)
            clean = operator(model.sample(1, g))
            y = clean + NOISE * torch.randn(clean.shape, dtype=clean.dtype, generator=g)
            if isinstance(operator, Mask):
                y = y * operator.mask
            matrix = operator(torch.eye(SIZE, dtype=torch.float64)[:, None]).flatten(1).T
            exact = model.posterior(matrix, y, NOISE)
            mean, covariance = exact.moments()
            spread = covariance.diagonal().sqrt()
            for method in ["floor", "mmps", "pigdm", "dps", *(["repaint"] if operator_name == "mask" else [])]:
                samples = draw(method, model, operator, y, exact).flatten(1)
                off = ((samples.mean(0) - mean) / spread).square().mean().sqrt()
                wide = (samples.std(0) / spread - 1).square().mean().sqrt()
                right = population_weights(model, exact.sample(5000, g).flatten(1))
                weights = population_weights(model, samples) - right
                weight = f"{float(weights.abs().max()):.3f}" if populations > 1 else ""
                print(f"| {name} | {operator_name} | {method} | {off:.3f} | {wide:.3f} | {weight} |", flush=True)


if __name__ == "__main__":
    main()
