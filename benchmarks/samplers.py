r"""Samplers against each other, with exact denoisers and equal numbers of evaluations: every error is the sampler's.

    pip install -e '.[benchmark]' && pip install --no-deps k-diffusion   (its other dependencies are not needed here)
    python -m benchmarks.samplers [--evaluations 10 20 50 100] [--markdown FILE]

Problems: Gaussian mixtures in 2 and 64 dimensions of other kinds than those that the grid of `sample_adams` was tuned
on (rings of anisotropic modes; smooth random fields), and random mixtures with other seeds. Error: root mean square per
dimension between a sample and the solution of the probability-flow ODE from the same noise, by DOP853 at 1e-10 (the
median over samples, the geometric mean over problems). Each peer starts at its own largest noise level, with its own
reference. Peers get the exact noise or velocity at exactly the noise level of their schedule, in float64, without
clipping."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from monai_diffscore import MixtureDenoiser, asinh_sigmas, karras_sigmas, sample_adams, sample_dpmpp_2m, sample_heun


class Problem(NamedTuple):
    name: str
    mixture: MixtureDenoiser
    noise: Tensor  # [samples, dimensions]


# samples, start in x = x0 + sigma n (the noise itself if it starts at infinity), its noise level
Outcome = tuple[Tensor, Tensor, float]
Run = Callable[[Callable, Tensor, int], Outcome]


# ---- problems -----------------------------------------------------------------------------------------------------


def ring(seed: int) -> MixtureDenoiser:
    """Eight anisotropic modes of unequal weight on a ring, in the plane."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.arange(8) * (2 * math.pi / 8)
    means = (0.6 + 0.3 * torch.rand(1, generator=g)) * torch.stack([angle.cos(), angle.sin()], 1)
    axis = torch.stack([torch.stack([angle.cos(), -angle.sin()], 1), torch.stack([angle.sin(), angle.cos()], 1)], 1)
    spread = torch.diag_embed(torch.tensor([0.03, 0.15]).expand(8, 2)) ** 2
    return MixtureDenoiser(torch.rand(8, generator=g) + 0.2, means, axis @ spread @ axis.mT)


def smooth_fields(seed: int) -> MixtureDenoiser:
    """Five populations of smooth 8 x 8 images with a little texture: 64 dimensions."""
    g = torch.Generator().manual_seed(seed)
    place = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), -1).reshape(64, 2)
    distance = torch.cdist(place, place)
    lengths = 1 + 3 * torch.rand(5, generator=g)
    fields = torch.stack([torch.exp(-0.5 * (distance / length) ** 2) for length in lengths])
    means = torch.einsum("kij,kj->ki", torch.exp(-0.5 * (distance / 2) ** 2)[None], torch.randn(5, 64, generator=g)) / 3
    return MixtureDenoiser(torch.ones(5), means, 0.15 * fields + 4e-4 * torch.eye(64))


def random_mixture(seed: int, dimensions: int) -> MixtureDenoiser:
    """Ten random modes with full random covariances."""
    g = torch.Generator().manual_seed(seed)
    roots = 0.3 * torch.randn(10, dimensions, dimensions, generator=g) / math.sqrt(dimensions)
    means = 0.5 * torch.randn(10, dimensions, generator=g)
    return MixtureDenoiser(torch.ones(10), means, roots @ roots.mT + 1e-3 * torch.eye(dimensions))


def held_out() -> Iterator[Problem]:
    for seed in (101, 102):
        for name, mixture, count in (
            ("2d ring", ring(seed), 256),
            ("2d random", random_mixture(seed, 2), 256),
            ("64d fields", smooth_fields(seed), 64),
            ("64d random", random_mixture(seed, 64), 64),
        ):
            shape = (count, mixture.means.shape[1])
            noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            yield Problem(f"{name} {seed}", mixture, noise)


def reference(denoise: Callable, x: Tensor, sigma: float, tolerance: float = 1e-10) -> Tensor:
    """The flow from sigma to 0 (integrated to 1e-5 in ln sigma, then one evaluation)."""

    def slope(log_sigma: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat).reshape(x.shape)
        return (state - denoise(state, math.exp(log_sigma))).numpy().ravel()

    end = math.log(1e-5)
    solved = solve_ivp(
        slope, (math.log(sigma), end), x.numpy().ravel(), "DOP853", rtol=tolerance, atol=tolerance, t_eval=[end]
    )
    return denoise(torch.from_numpy(solved.y[:, -1].copy()).reshape(x.shape), 1e-5)


# ---- ours ---------------------------------------------------------------------------------------------------------


def ours(sampler: Callable, grid: Callable, steps: Callable[[int], int] = lambda n: n, **options: object) -> Run:
    def run(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
        sigmas = grid(steps(evaluations))
        return sampler(denoise, sigmas[0] * noise, sigmas, **options), sigmas[0] * noise, float(sigmas[0])

    return run


OURS: dict[str, Run] = {
    "adams 4, asinh (default)": ours(sample_adams, asinh_sigmas),
    "adams 3, asinh": ours(sample_adams, asinh_sigmas, order=3),
    "adams 2, asinh": ours(sample_adams, asinh_sigmas, order=2),
    "adams 4 without corrector, asinh": ours(sample_adams, asinh_sigmas, corrector=False),
    "adams 4, karras": ours(sample_adams, karras_sigmas),
    "dpmpp_2m, karras": ours(sample_dpmpp_2m, karras_sigmas),
    "dpmpp_2m, asinh": ours(sample_dpmpp_2m, asinh_sigmas),
    "heun, karras": ours(sample_heun, karras_sigmas, lambda n: (n + 1) // 2),
}


# ---- peers --------------------------------------------------------------------------------------------------------


def k_diffusion_peers() -> dict[str, Run]:
    """k-diffusion's solvers. Its package imports torchvision at once, which none of them uses: a placeholder serves."""
    import importlib.util

    specification = importlib.util.find_spec("k_diffusion")
    if specification is None or not specification.submodule_search_locations:
        return {}
    placeholders = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional"]
    if importlib.util.find_spec("torchvision") is not None:
        placeholders = []
    for name in placeholders:
        sys.modules[name] = types.ModuleType(name)
    if placeholders:
        sys.modules["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    package = types.ModuleType("k_diffusion")  # without its __init__, which imports networks and metrics
    package.__path__ = list(specification.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    import k_diffusion.sampling as kd

    for name in placeholders:
        del sys.modules[name]

    def run_with(function: Callable, steps: Callable[[int], int] = lambda n: n) -> Run:
        def run(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
            sigmas = kd.get_sigmas_karras(steps(evaluations), 0.002, 80.0, rho=7.0).double()
            start = sigmas[0] * noise
            return function(denoise, start, sigmas, disable=True), start, float(sigmas[0])

        return run

    def fast(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
        x = kd.sample_dpm_fast(denoise, 80 * noise, 0.002, 80.0, evaluations - 1, disable=True)
        return denoise(x, noise.new_full((len(noise),), 0.002)), 80 * noise, 80.0

    return {
        "k-diffusion heun": run_with(kd.sample_heun, lambda n: (n + 1) // 2),
        "k-diffusion dpmpp_2m": run_with(kd.sample_dpmpp_2m),
        "k-diffusion lms": run_with(kd.sample_lms),
        "k-diffusion dpm_fast": fast,
    }


def diffusers_peers() -> dict[str, Run]:
    """diffusers' multistep schedulers on their VP schedule, and its EDM one on ours."""
    try:
        import diffusers
    except ImportError:
        return {}

    def vp(kind: str, **options: object) -> Run:
        def run(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
            scheduler = getattr(diffusers, kind)(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **options)
            scheduler.set_timesteps(evaluations)
            first = float(scheduler.sigmas[0])
            x = noise / math.sqrt(1 + first**2) * first
            for number, t in enumerate(scheduler.timesteps):
                sigma = float(scheduler.sigmas[number])
                state = x * math.sqrt(1 + sigma**2)
                x = scheduler.step((state - denoise(state, sigma)) / sigma, t, x).prev_sample
            return x, first * noise, first

        return run

    def edm(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(final_sigmas_type="zero")
        scheduler.set_timesteps(evaluations)
        first = float(scheduler.sigmas[0])
        x = first * noise
        for number, t in enumerate(scheduler.timesteps):
            sigma, data = float(scheduler.sigmas[number]), scheduler.config.sigma_data
            total = sigma**2 + data**2
            prediction = (denoise(x, sigma) - data**2 / total * x) / (sigma * data / math.sqrt(total))
            x = scheduler.step(prediction, t, x).prev_sample
        return x, first * noise, first

    return {
        "diffusers DPM++2M karras": vp("DPMSolverMultistepScheduler", use_karras_sigmas=True),
        "diffusers DPM++2M linspace": vp("DPMSolverMultistepScheduler"),
        "diffusers DEIS karras": vp("DEISMultistepScheduler", use_karras_sigmas=True),
        "diffusers UniPC karras": vp("UniPCMultistepScheduler", use_karras_sigmas=True),
        "diffusers UniPC linspace": vp("UniPCMultistepScheduler"),
        "diffusers EDM DPM++2M": edm,
    }


def monai_peers() -> dict[str, Run]:
    """MONAI's own schedulers."""
    from monai.networks.schedulers import DDIMScheduler, PNDMScheduler, RFlowScheduler

    def vp(make: Callable) -> Run:
        def run(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
            scheduler = make()
            scheduler.set_timesteps(evaluations)
            steps = [int(t) for t in scheduler.timesteps][:evaluations]
            levels = [math.sqrt(1 / float(scheduler.alphas_cumprod[t]) - 1) for t in steps]
            x = noise * levels[0] / math.sqrt(1 + levels[0] ** 2)
            for t, sigma in zip(steps, levels, strict=True):
                state = x * math.sqrt(1 + sigma**2)
                x = scheduler.step((state - denoise(state, sigma)) / sigma, t, x)[0]
            return x, levels[0] * noise, levels[0]

        return run

    def flow(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
        scheduler = RFlowScheduler(num_train_timesteps=1000, use_discrete_timesteps=False)
        scheduler.set_timesteps(evaluations)
        times = [*scheduler.timesteps.double().tolist(), 0.0]
        x = noise.clone()
        for now, following in itertools.pairwise(times):
            x = scheduler.step(-flow_velocity(denoise, x, now / 1000), now, x, following)[0]
        return x, noise, math.inf

    return {
        "MONAI DDIM": vp(lambda: DDIMScheduler(1000, beta_start=1e-4, beta_end=0.02, clip_sample=False)),
        "MONAI PNDM": vp(lambda: PNDMScheduler(1000, beta_start=1e-4, beta_end=0.02, skip_prk_steps=True)),
        "MONAI RFlow": flow,
    }


def flow_matching_peers() -> dict[str, Run]:
    try:
        from flow_matching.solver import ODESolver
        from flow_matching.utils import ModelWrapper
    except ImportError:
        return {}

    class Velocity(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **_extras: object) -> Tensor:  # its time runs from noise to data
            return -flow_velocity(self.model, x, 1 - float(t))

    def run(denoise: Callable, noise: Tensor, evaluations: int) -> Outcome:
        solver = ODESolver(Velocity(denoise))
        x = solver.sample(x_init=noise, method="midpoint", step_size=2 / evaluations)
        return x, noise, math.inf

    return {"flow_matching midpoint": run}


def flow_velocity(denoise: Callable, x: Tensor, t: float) -> Tensor:
    """E[n - x0 | x_t] on the straight path; at t = 1 nothing is known of x0 but its mean."""
    far = 1e6
    denoised = denoise(x / (1 - t), t / (1 - t)) if t < 1 - 1 / far else denoise(far * x, far)
    return (x - denoised) / t if t > 0 else x - denoised


def from_infinity(denoise: Callable, noise: Tensor, sigma: float = 1e4) -> tuple[Tensor, float]:
    """Where the flow that starts at sigma = infinity with this noise passes 1e4; off by 1e-8 of the data."""
    return sigma * noise + denoise(sigma * noise, sigma).mean(0), sigma


# ---- the run ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    arguments = parser.parse_args()
    k_diffusion = k_diffusion_peers()
    peers = {**k_diffusion, **diffusers_peers(), **monai_peers(), **flow_matching_peers()}
    print(f"peers: {', '.join(peers)}\n", file=sys.stderr)
    plain = measure({**OURS, **peers}, arguments.evaluations, lambda problem: problem.mixture)
    lines = table(plain, arguments.evaluations, set(peers))
    lines += ["", "Classifier-free guidance, w = 4 (one or two modes against all of them):", ""]
    guided = measure({**OURS, **k_diffusion}, arguments.evaluations, guide)
    lines += table(guided, arguments.evaluations, set(peers))
    print("\n".join(lines))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")


def guide(problem: Problem) -> Callable:
    m = problem.mixture
    covariances = torch.einsum("kde,ke,kfe->kdf", m.axes, m.variances, m.axes)
    condition = MixtureDenoiser(m.log_weights[:2].exp(), m.means[:2], covariances[:2])
    return lambda x, sigma: -3 * m(x, sigma) + 4 * condition(x, sigma)


def measure(
    runs: dict[str, Run], evaluations: list[int], denoiser_of: Callable[[Problem], Callable]
) -> dict[str, dict[tuple[str, int], float]]:
    """The error of each sampler, by dimensions and number of evaluations; refuses one that evaluates more often."""
    errors: dict[str, dict[tuple[str, int], list[float]]] = {name: {} for name in runs}
    for problem in held_out():
        exact: dict[float, Tensor] = {}
        denoise = denoiser_of(problem)
        for name, run in runs.items():
            for count in evaluations:
                calls = 0

                def counted(x: Tensor, sigma: Tensor | float, denoise: Callable = denoise, **_k: object) -> Tensor:
                    nonlocal calls
                    calls += 1
                    return denoise(x, sigma)

                samples, start, sigma = run(counted, problem.noise, count)
                if calls > count:
                    raise RuntimeError(f"{name} evaluated {calls} times, more than the {count} that all are given.")
                if sigma not in exact:  # not counted: the reference is no part of the sampler
                    ends = from_infinity(denoise, start) if sigma == math.inf else (start, sigma)
                    exact[sigma] = reference(denoise, *ends)
                distance = (samples.reshape(exact[sigma].shape) - exact[sigma]).square().mean(1).sqrt().median()
                errors[name].setdefault((problem.name.split()[0], count), []).append(float(distance))
        print(f"measured on {problem.name}", file=sys.stderr, flush=True)
    return {name: {key: float(np.exp(np.mean(np.log(v)))) for key, v in e.items()} for name, e in errors.items()}


def table(errors: dict[str, dict[tuple[str, int], float]], evaluations: list[int], peers: set[str]) -> list[str]:
    columns = [(kind, count) for kind in ("2d", "64d") for count in evaluations]
    lines = ["| sampler | " + " | ".join(f"{kind} @{count}" for kind, count in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in errors.items():
        label = f"**{name}**" if name.endswith("(default)") else name
        lines.append(f"| {label} | " + " | ".join(f"{row[column]:.1e}" for column in columns) + " |")
    measured = [name for name in errors if name in peers]
    if measured:
        default = errors["adams 4, asinh (default)"]
        best = [min(errors[name][column] for name in measured) for column in columns]
        ratios = [value / default[column] for value, column in zip(best, columns, strict=True)]
        lines.append("| best peer / default | " + " | ".join(f"{ratio:.1f}" for ratio in ratios) + " |")
    return lines


if __name__ == "__main__":
    main()
