"""Linear measurements: one contract for all, and what each of them is."""

from __future__ import annotations

import math

import pytest
import torch

from monai_diffscore.operators import (
    Blur,
    Downsample,
    FourierUndersampling,
    GeneDropout,
    GeneLoadings,
    Mask,
    Radon,
    cartesian_lines,
    conjugate_gradients,
)
from monai_diffscore.tensors import per_sample


def coils(*size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.complex(torch.randn(3, *size, generator=generator), torch.randn(3, *size, generator=generator)) / 2


OPERATORS = {
    "mask": (Mask(torch.rand(8, 10, generator=torch.Generator().manual_seed(0)) > 0.5), (2, 1, 8, 10)),
    "downsample": (Downsample((1, 2, 4)), (2, 1, 6, 8, 8)),
    "blur": (Blur((1.0, 0.0, 2.5)), (2, 2, 9, 8, 7)),
    "fourier": (FourierUndersampling(cartesian_lines((8, 10), 2, axis=1, centre_share=0.2)), (2, 3, 8, 10)),
    "fourier_coils": (FourierUndersampling(cartesian_lines((8, 10), 2), coils(8, 10)), (2, 1, 8, 10)),
    "fourier_complex": (
        FourierUndersampling(cartesian_lines((8, 9), 2), coils(8, 9), complex_image=True),
        (2, 2, 8, 9),
    ),
    "fourier_3d": (FourierUndersampling(cartesian_lines((4, 6, 5), 2, axis=1)), (2, 1, 4, 6, 5)),
    "radon": (Radon((12, 9), torch.arange(0, 180, 20.0)), (2, 1, 12, 9)),
    "radon_limited_3d": (Radon((12, 9), [0.0, 30.0, 60.0], bins=7), (2, 1, 12, 9, 3)),
    "gene_loadings": (
        GeneLoadings(torch.randn(4, 20, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 3 > 0),
        (2, 4),
    ),
    "gene_dropout": (GeneDropout(torch.arange(20) % 3 > 0, torch.tensor([[0.5], [2.0]])), (2, 20)),
}
each_operator = pytest.mark.parametrize("name", OPERATORS)


def some(name: str, seed: int = 0):
    operator, shape = OPERATORS[name]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = torch.randn(operator(x).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    return operator, x, y


@each_operator
def test_the_adjoint_is_the_adjoint(name):
    operator, x, y = some(name)
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum(), rtol=1e-10, atol=1e-10)


@each_operator
def test_operators_are_linear_for_each_sample_alone_and_differentiable(name):
    operator, x, _ = some(name)
    _, other, _ = some(name, seed=5)
    torch.testing.assert_close(operator(2 * x - other), 2 * operator(x) - operator(other))
    if name != "gene_dropout":  # whose gains belong to the cells of the batch
        torch.testing.assert_close(operator(x)[1:], operator(x[1:]))
    (pulled,) = torch.autograd.grad(operator(x.requires_grad_()).square().sum() / 2, x)
    torch.testing.assert_close(pulled, operator.adjoint(operator(x.detach())))


@each_operator
def test_solve_solves_its_linear_system(name):
    operator, _, y = some(name)
    prior = torch.tensor([0.7, 1.3], dtype=torch.float64)
    u = operator.solve(y, prior, 0.2)
    back = per_sample(prior, y) * operator(operator.adjoint(u)) + 0.2 * u
    torch.testing.assert_close(back, y, rtol=0, atol=1e-4 * float(y.abs().max()))  # conjugate gradients stop at 1e-6


@each_operator
def test_float32_stays_float32(name):
    operator, x, _ = some(name)
    y = operator(x.float())
    assert y.dtype == operator.adjoint(y).dtype == operator.pseudo_inverse(y).dtype == torch.float32
    torch.testing.assert_close(y.double(), operator(x), rtol=1e-4, atol=1e-4)


@each_operator
def test_the_pseudo_inverse_explains_the_measurement(name):
    operator, x, _ = some(name)
    y = operator(x)
    error = operator(operator.pseudo_inverse(y, regularisation=1e-6)) - y
    assert error.norm() < 0.05 * y.norm()  # what 100 conjugate gradients leave of a sinogram


@each_operator
def test_squared_norm_is_the_largest_eigenvalue(name):
    operator, x, y = some(name)
    size = x[:1].numel()
    if name == "gene_dropout":
        matrix = torch.diag(operator(torch.ones_like(x))[1])
        assert operator.squared_norm(y) == pytest.approx(4.0, rel=0.02)
        return
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *x.shape[1:])
    matrix = operator(basis).flatten(1).T
    largest = float(torch.linalg.matrix_norm(matrix, 2) ** 2)
    assert operator.squared_norm(y[:1]) == pytest.approx(largest, rel=0.05)


@pytest.mark.parametrize("name", [name for name in OPERATORS if not name.startswith("gene")])
def test_the_traces_are_those_of_the_matrix(name):
    """Exact where A A^T is diagonal; else 64 probes have a standard error of a few percent."""
    operator, shape = OPERATORS[name]
    basis = torch.eye(math.prod(shape[1:]), dtype=torch.float64).reshape(-1, *shape[1:])
    image = operator(basis)
    gram = image.flatten(1).T @ image.flatten(1)
    exact = float(gram.trace()), float(gram.square().sum())
    diagonal = name in ("mask", "downsample")
    for trace, expected in zip(operator.traces(image[:2], probes=64), exact, strict=True):
        assert trace.tolist() == pytest.approx([expected] * 2, rel=1e-5 if diagonal else 0.15)


def test_each_sample_has_the_traces_of_its_own_mask():
    mask = torch.tensor([[1.0, 0, 0, 1], [1, 1, 1, 0]])
    trace, trace_of_square = Mask(2 * mask).traces(torch.zeros(2, 4))
    assert trace.tolist() == [8, 12]
    assert trace_of_square.tolist() == [32, 48]


def test_a_thick_slice_is_the_mean_of_its_voxels():
    x = torch.arange(24, dtype=torch.float64).reshape(1, 1, 2, 3, 4)
    torch.testing.assert_close(Downsample((1, 1, 4))(x), x.mean(-1, keepdim=True))
    pooled = torch.nn.functional.avg_pool3d(x, (2, 1, 2))
    torch.testing.assert_close(Downsample((2, 1, 2))(x), pooled)


def test_blur_keeps_constants_and_widens_a_point_by_its_variance():
    blur = Blur((2.0,))
    torch.testing.assert_close(blur(torch.ones(1, 1, 9)), torch.ones(1, 1, 9))
    point = torch.zeros(1, 1, 61, dtype=torch.float64)
    point[..., 30] = 1
    spread = blur(point).flatten()
    offset = torch.arange(61) - 30.0
    assert float((spread * offset**2).sum()) == pytest.approx(4.0, rel=0.01)  # the kernel ends at 4 sigma


def test_fully_sampled_kspace_is_the_image():
    x = torch.randn(2, 1, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    operator = FourierUndersampling(torch.ones(8, 10))
    torch.testing.assert_close(operator.adjoint(operator(x)), x)
    assert float(operator(x).norm()) == pytest.approx(float(x.norm()))  # unitary: noise keeps its standard deviation
    centre = torch.view_as_complex(operator(x))[0, 0, 0, 4, 5]
    assert complex(centre) == pytest.approx(float(x[0].sum()) / math.sqrt(80))


@pytest.mark.parametrize(("acceleration", "lines"), [(1, 64), (2, 32), (4, 16), (8, 8)])
def test_cartesian_lines_are_whole_with_a_full_centre(acceleration, lines):
    mask = cartesian_lines((64, 48), acceleration)
    assert (mask == mask[:, :1]).all()
    assert int(mask[:, 0].sum()) == lines
    assert mask[30:35].all()


def test_radon_of_a_disk_is_its_chord():
    """2 sqrt(r^2 - s^2) at every angle; a voxel is shared between two bins, which blurs the rim by one."""
    axis = torch.arange(101, dtype=torch.float64) - 50
    radius = 30.0
    fine = (torch.arange(5, dtype=torch.float64) - 2) / 5  # anti-aliased disk
    inside = [((axis[:, None] + a) ** 2 + (axis[None] + b) ** 2 <= radius**2).double() for a in fine for b in fine]
    disk = (sum(inside) / 25)[None, None]
    sinogram = Radon((101, 101), torch.arange(0, 180, 15.0), bins=101)(disk)[0, 0]
    chord = 2 * (radius**2 - axis**2).clamp_min(0).sqrt()
    within = axis.abs() < radius - 3
    assert ((sinogram - chord)[:, within].abs() / chord[within]).mean() < 0.02
    torch.testing.assert_close(sinogram.sum(1), disk.sum().expand(12))  # mass is kept
    back = Radon((101, 101), torch.arange(0, 180, 1.0), bins=101)
    image = back.filtered_back_projection(back(disk))[0, 0]
    assert float((image - disk[0, 0])[25:75, 25:75].abs().mean()) < 0.05


def test_radon_of_slices_that_are_no_squares_remembers_no_call():
    """The adjoint and the norm are those of the size that it was built with, before any projection and after."""
    operator = Radon((12, 5), torch.arange(0, 180, 30.0))
    y = torch.randn(1, 1, 6, operator.bins, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = operator.adjoint(y)
    assert before.shape == (1, 1, 12, 5)
    columns = torch.eye(60, dtype=torch.float64).reshape(60, 1, 12, 5)
    matrix = operator(columns).flatten(1).T
    torch.testing.assert_close(before.flatten(), matrix.T @ y.flatten())
    largest = float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1])
    assert operator.squared_norm(y, iterations=200) == pytest.approx(largest, rel=1e-6)
    torch.testing.assert_close(operator.adjoint(y), before, rtol=0, atol=0)


def test_genes_outside_the_panel_are_silent():
    x = torch.ones(2, 4)
    torch.testing.assert_close(GeneDropout(torch.tensor([True, False, True, True]))(x)[:, 1], torch.zeros(2))


def test_conjugate_gradients_solve_each_sample_alone():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, dtype=torch.float64, generator=generator)
    matrix = root @ root.mT + 0.1 * torch.eye(6, dtype=torch.float64)
    right = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    right[1] = 0  # converged before it starts
    solution = conjugate_gradients(lambda u: torch.einsum("bij,bj->bi", matrix, u), right, tolerance=1e-12)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Mask(torch.zeros(4)),
        lambda: Mask(torch.tensor([1.0, -1.0])),
        lambda: Mask(torch.tensor([1.0, math.nan])),
        lambda: Downsample((1, 0)),
        lambda: Downsample(2),
        lambda: Blur(1.5),
        lambda: Downsample((1, 4))(torch.zeros(1, 1, 4, 6)),
        lambda: Downsample((1, 2))(torch.zeros(1, 1, 4)),
        lambda: Blur((-1.0,)),
        lambda: FourierUndersampling(torch.zeros(4, 4)),
        lambda: FourierUndersampling(torch.ones(4, 4), torch.ones(2, 4, 5, dtype=torch.complex64)),
        lambda: FourierUndersampling(torch.ones(4, 4))(torch.zeros(1, 1, 4, 5)),
        lambda: cartesian_lines((8, 8), 0.5),
        lambda: cartesian_lines((64, 8), 32),
        lambda: Radon((8, 8), []),
        lambda: Radon((8,), [0.0]),
        lambda: Radon((8, 8), [0.0])(torch.zeros(1, 1, 8)),
        lambda: Radon((8, 8), [0.0])(torch.zeros(1, 1, 8, 9)),
        lambda: Radon((8, 8), [0.0]).adjoint(torch.zeros(1, 1, 2, 13)),
    ],
)
def test_impossible_operators_are_refused(make):
    with pytest.raises(ValueError, match=r"needs|[Ee]xpect"):
        make()
