"""The arithmetic of a device against that of the CPU: a training step and a sample of every network.

The reference is the same network on the CPU in float64. An error is a share of its tolerance: up to 1 is right. The
tolerance is :data:`SAFETY` times the error that the CPU itself makes against float64 in the same precision (TF32: in
fp16, which has as many bits). It leaves room for other orders of summation and other algorithms of convolution. The
CPU's error counts up to :data:`CEILINGS` only, so that a network that is wrong on both devices fails too.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.losses import edm_weight
from monai_diffscore.networks import ConditionEncoder, CountsAutoencoder
from monai_diffscore.networks.examples import EXAMPLES, awaken
from monai_diffscore.optimizers import MuonAdamW
from monai_diffscore.sampling import karras_sigmas, sample_adams
from monai_diffscore.tensors import per_sample

#: the tolerance, in errors of the CPU
SAFETY = 10
#: the most unit roundoffs that the CPU's errors count: of the output, of all gradients, of the worst parameter's.
#: Measured over all networks and precisions: at most 13, 23 and 127
CEILINGS = (64, 64, 512)
#: name of a precision -> (dtype of autocast, unit roundoff)
PRECISIONS: dict[str, tuple[torch.dtype | None, float]] = {
    "float32": (None, 2**-24),
    "TF32": (None, 2**-11),
    "bf16": (torch.bfloat16, 2**-8),
    "fp16": (torch.float16, 2**-11),
}
#: names of the networks that :func:`subject` makes
NAMES = (*EXAMPLES, "counts_autoencoder")
_CONDITION = ("modality", "age_years")
Values = dict[str, Tensor]


class Subject(NamedTuple):
    """A network to check.

    Attributes:
        name: one of :data:`NAMES`.
        build: ``build(checkpointing)`` makes the network.
        values: the batch, on the CPU in float32.
        objective: ``objective(network, values)`` is (output, loss []).
        samples: whether the network is a denoiser.
    """

    name: str
    build: Callable[[bool], nn.Module]
    values: Values
    objective: Callable[[nn.Module, Values], tuple[Tensor, Tensor]]
    samples: bool = True


def subject(name: str, width: int, edge: int, batch: int) -> Subject:
    """The network of that name, with a batch of its own.

    Args:
        name: one of :data:`NAMES`.
        width: of the network, in widths of its example.
        edge: of the data, in edges of the example.
        batch: number of samples.
    """
    draw = torch.Generator().manual_seed(0)
    if name == "counts_autoencoder":
        genes = 6 * edge * width
        counts = torch.poisson(torch.full((batch, genes), 3.0), generator=draw)
        build = partial(CountsAutoencoder, genes, hidden_size=8 * width, num_modules=4, dropout=0.0)
        values = {"counts": counts, "library": 1.5 * counts.sum(1)}
        return Subject(name, lambda _checkpointing: awaken(build()), values, _count, samples=False)
    example = EXAMPLES[name]
    x0, noise = torch.randn(2, batch, *example.shape_at(edge), generator=draw)
    values = {"x0": x0, "noise": noise, "sigma": torch.logspace(-1, 0.7, batch)}
    values["modality"] = torch.arange(batch) % 3 - 1  # -1: missing
    values["age_years"] = torch.where(torch.arange(batch) % 4 == 3, torch.nan, torch.linspace(20.0, 80.0, batch))

    def network(checkpointing: bool) -> nn.Module:
        condition = ConditionEncoder(categorical={"modality": 2}, continuous={"age_years": (60, 20)}, width=16)
        options = {"condition": condition, **({"checkpointing": True} if checkpointing else {})}
        return Denoiser(awaken(example.build(width, edge, **options)), EDMPreconditioning(1.0))

    return Subject(name, network, values, _denoise)


def _denoise(network: nn.Module, values: Values) -> tuple[Tensor, Tensor]:
    """The denoised batch, and its EDM loss."""
    x0, sigma = values["x0"], values["sigma"]
    denoised = network(x0 + per_sample(sigma, x0) * values["noise"], sigma, **_condition(values))
    weight = per_sample(edm_weight(sigma, 1.0), x0)
    return denoised, (weight * (denoised - x0).square()).mean()


def _condition(values: Values) -> Values:
    return {key: value for key, value in values.items() if key in _CONDITION}


def _count(network: Any, values: Values) -> tuple[Tensor, Tensor]:
    """The latents of a batch of cells, and the nats of their counts."""
    counts, library = values["counts"], values["library"]
    return network.encode(counts, library), network(counts, library).mean()


def _moved(values: Values, device: str, dtype: torch.dtype) -> Values:
    return {key: v.to(device, dtype if v.is_floating_point() else v.dtype) for key, v in values.items()}


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether matrix products and convolutions of an NVIDIA GPU may round their inputs to TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Step(NamedTuple):
    """The results of a training step, on the CPU in float64."""

    output: Tensor
    gradients: list[Tensor]


def step(
    checked: Subject,
    network: nn.Module,
    device: str,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    compiled: bool = False,
) -> Step:
    """Output and gradients of the objective on ``device``; then a step of the optimizer, which must stay finite.

    It works on a copy of ``network``. fp16 runs under GradScaler, which lowers its scale until the gradients are
    finite.

    Raises:
        ArithmeticError: if a parameter has no gradient, no scale makes the gradients finite, or the optimizer leaves
            weights that are not finite.
    """
    network = copy.deepcopy(network).to(device, dtype).train()
    values = _moved(checked.values, device, dtype)
    called: nn.Module = torch.compile(network) if compiled else network  # type: ignore[assignment]
    optimizer = MuonAdamW(network.parameters(), lr=1e-3)
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=autocast == torch.float16)
    for _attempt in range(12):
        optimizer.zero_grad()
        context: AbstractContextManager = nullcontext() if autocast is None else torch.autocast(kind, autocast)
        with context:
            output, loss = checked.objective(called, values)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        gradients = [_gradient(parameter) for parameter in network.parameters()]
        finite = all(gradient.isfinite().all() for gradient in gradients)
        scaler.step(optimizer)
        scaler.update()
        if finite:
            break
    if not finite or not all(p.isfinite().all() for p in network.parameters()):
        raise ArithmeticError("gradients or weights are not finite")
    return Step(output.detach().cpu().double(), gradients)


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ArithmeticError(f"a parameter of shape {tuple(parameter.shape)} has no gradient")
    return parameter.grad.detach().cpu().double()


def _relative(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm().clamp_min(1e-300))


def errors(result: Step, reference: Step) -> tuple[float, float, float]:
    """Relative errors of the output, of all gradients as one vector, and of the worst parameter's gradient.

    A gradient below 1 % of all counts as 1 %: that of a bias before a normalisation is 0 up to rounding.
    """
    whole, exact = (torch.cat([g.flatten() for g in one.gradients]) for one in (result, reference))
    pairs = zip(result.gradients, reference.gradients, strict=True)
    worst = max(float((g - r).norm() / torch.maximum(r.norm(), 0.01 * exact.norm())) for g, r in pairs)
    return _relative(result.output, reference.output), _relative(whole, exact), worst


def share_of_tolerance(device_errors: Sequence[float], cpu_errors: Sequence[float], unit_roundoff: float) -> float:
    """The largest error / tolerance. A tolerance is SAFETY times the CPU's error, in [1, CEILINGS] roundoffs."""
    limits = [min(max(own / unit_roundoff, 1.0), most) for own, most in zip(cpu_errors, CEILINGS, strict=False)]
    shares = [error / (SAFETY * limit * unit_roundoff) for error, limit in zip(device_errors, limits, strict=True)]
    return torch.tensor(shares).max().item()  # NaN wins


class DeviceChecks:
    """The checks of one network on one device. Each returns its error as a share of the tolerance.

    Args:
        checked: the network.
        device: torch's name of it.
    """

    def __init__(self, checked: Subject, device: str) -> None:
        self.checked, self.device = checked, device
        torch.manual_seed(0)
        self.network = checked.build(False)
        self.reference = step(checked, self.network, "cpu", torch.float64)
        self.cpu_errors = {
            name: errors(step(checked, self.network, "cpu", autocast=autocast), self.reference)
            for name, (autocast, _) in PRECISIONS.items()
            if name != "TF32"
        }
        self.cpu_errors["TF32"] = self.cpu_errors["fp16"]

    def precision(self, name: str) -> float:
        """A step in one of :data:`PRECISIONS`."""
        with tf32(name == "TF32"):
            return self._share(step(self.checked, self.network, self.device, autocast=PRECISIONS[name][0]), name)

    def recompute(self) -> float:
        """A step with checkpointing, in float32."""
        return self._share(step(self.checked, self._checkpointed(), self.device))

    def compile(self) -> float:
        """A step of the compiled network, in float32."""
        torch.compiler.reset()
        return self._share(step(self.checked, self.network, self.device, compiled=True))

    def sample(self) -> float:
        """Six steps of :func:`sample_adams` from the same noise, in float32."""
        exact, on_cpu, on_device = (
            self._draw(device, dtype)
            for device, dtype in (("cpu", torch.float64), ("cpu", torch.float32), (self.device, torch.float32))
        )
        unit = PRECISIONS["float32"][1]
        return share_of_tolerance([_relative(on_device, exact)], [_relative(on_cpu, exact)], unit)

    def cost(self, checkpointing: bool = False, repeats: int = 5) -> tuple[float, float | None]:
        """Median milliseconds of a step in float32, and the peak of the GPU's memory in MiB (None on a CPU)."""
        network = (self._checkpointed() if checkpointing else copy.deepcopy(self.network)).to(self.device).train()
        values = _moved(self.checked.values, self.device, torch.float32)
        on_gpu, times = next(network.parameters()).is_cuda, []
        for _ in range(repeats + 1):
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            network.zero_grad()
            self.checked.objective(network, values)[1].backward()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - started))
        peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
        return statistics.median(times[1:]), peak  # the first step chooses algorithms

    def _share(self, result: Step, precision: str = "float32") -> float:
        unit = PRECISIONS[precision][1]
        return share_of_tolerance(errors(result, self.reference), self.cpu_errors[precision], unit)

    def _checkpointed(self) -> nn.Module:
        network = self.checked.build(True)
        network.load_state_dict(self.network.state_dict())
        return network

    @torch.no_grad()
    def _draw(self, device: str, dtype: torch.dtype) -> Tensor:
        network = copy.deepcopy(self.network).to(device, dtype).eval()
        values = _moved(self.checked.values, device, dtype)
        sigmas, denoise = karras_sigmas(6, 0.02, 10.0), partial(network, **_condition(values))
        return sample_adams(denoise, sigmas[0].item() * values["noise"], sigmas).cpu().double()
