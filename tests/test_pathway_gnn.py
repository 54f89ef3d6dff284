"""Sparse products against dense ones, graphs against their formula, and no tensor as large as a dense adjacency."""

from __future__ import annotations

import copy

import pytest
import torch
from test_networks import C_NOISE
from torch.utils._python_dispatch import TorchDispatchMode

from monai_diffscore import Denoiser, EDMPreconditioning, log_likelihood, log_uniform_sigmas
from monai_diffscore.networks import PathwayGNN
from monai_diffscore.networks.examples import EDGES, awaken, pathway_gnn
from monai_diffscore.networks.pathway_gnn import relation_matrices
from monai_diffscore.networks.recompute import run_samplewise
from monai_diffscore.networks.sparse import SparseMatrix


def matrix(rows: int = 5, columns: int = 7, entries: int = 12) -> tuple[SparseMatrix, torch.Tensor]:
    """A sparse matrix with repeated entries and empty rows, and the same as a dense one."""
    torch.manual_seed(0)
    indices = torch.stack([torch.randint(0, rows - 1, (entries,)), torch.randint(0, columns, (entries,))])
    values = torch.randn(entries, dtype=torch.float64)
    dense = torch.zeros(rows, columns, dtype=torch.float64).index_put(tuple(indices), values, accumulate=True)
    return SparseMatrix(indices, values, (rows, columns)), dense


# ---- the sparse product ----


def test_the_sparse_product_equals_the_dense_one_and_so_does_its_gradient():
    sparse, dense = matrix()
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(sparse(x), dense @ x)
    torch.testing.assert_close(
        torch.autograd.grad(sparse(x).sin().sum(), x), torch.autograd.grad((dense @ x).sin().sum(), x)
    )
    assert torch.count_nonzero(dense) == sparse.entries


def test_the_sparse_product_has_derivatives_of_every_kind():
    sparse, _ = matrix()
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sparse, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(sparse, x)
    torch.testing.assert_close(torch.func.vmap(sparse, in_dims=2, out_dims=2)(x.unsqueeze(2)), sparse(x).unsqueeze(2))


def test_a_sparse_matrix_is_plain_buffers_that_can_be_copied_and_loaded():
    sparse, dense = matrix()
    assert {name: buffer.layout for name, buffer in sparse.named_buffers()} == dict.fromkeys(
        sparse.state_dict(), torch.strided
    )
    other = SparseMatrix(torch.zeros(2, sparse.entries, dtype=torch.int64), torch.zeros(sparse.entries), (5, 7))
    with pytest.raises(RuntimeError, match="size mismatch"):  # the entries of one place are one
        other.load_state_dict(sparse.state_dict())
    copied = copy.deepcopy(sparse)
    torch.testing.assert_close(copied(torch.eye(7, dtype=torch.float64)), dense)


def test_sums_are_in_float32_under_autocast_forward_and_backward():
    sparse, dense = matrix()
    x = torch.randn(7, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = sparse(x.bfloat16())
        assert y.dtype == torch.float32
        y.square().sum().backward()
    expected = 2 * dense.T @ (dense @ x.detach().bfloat16().double())
    torch.testing.assert_close(x.grad.double(), expected, rtol=1e-2, atol=1e-2)


def test_sparse_matrices_refuse_wrong_shapes():
    sparse, _ = matrix()
    with pytest.raises(ValueError, match=r"expects x \[7, F\], got \(5, 2\)"):
        sparse(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="5 rows expects their indices in 0 to 4, got 0 to 5"):
        SparseMatrix(torch.tensor([[0, 5], [0, 0]]), torch.ones(2), (5, 7))
    with pytest.raises(ValueError, match=r"values \[E\]"):
        SparseMatrix(torch.tensor([[0, 5], [0, 0]]), torch.ones(3), (5, 7))


# ---- the graph ----


def test_relations_are_the_normalised_adjacency_without_loops_and_repetitions():
    edges = torch.tensor([[0, 1, 2, 1, 3], [1, 0, 2, 2, 3]])  # 0-1 twice, two loops, 1-2; node 3 is alone
    (sparse,) = relation_matrices(4, edges, torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0]))
    adjacency = torch.zeros(4, 4)
    adjacency[0, 1] = adjacency[1, 0] = 3.0
    adjacency[1, 2] = adjacency[2, 1] = 1.0
    scale = torch.diag(torch.tensor([3.0, 4.0, 1.0, 1.0]).rsqrt())
    torch.testing.assert_close(sparse(torch.eye(4)), scale @ adjacency @ scale)


def test_invalid_graphs_are_refused():
    for edges, options, message in (
        (torch.zeros(3, 2).long(), {}, r"edges \[2, E\]"),
        (torch.tensor([[0], [4]]), {}, "between 0 and 3, got 0 to 4.*num_sets"),
        (torch.tensor([[0], [1]]), {"weights": torch.zeros(1)}, "weights > 0"),
        (torch.tensor([[0], [1]]), {"weights": torch.ones(2)}, r"expects weights \[1\]"),
        (torch.tensor([[0], [1]]), {"relations": torch.tensor([-1])}, "relations >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            relation_matrices(4, edges, **options)


def test_an_empty_graph_is_one():
    network = awaken(PathwayGNN(6, torch.zeros(2, 0, dtype=torch.int64), 16, 2))
    assert network(torch.randn(2, 6), C_NOISE[:2]).any()


# ---- the network ----


def test_a_layer_reaches_neighbours_and_a_global_token_every_gene():
    """Gene 0 of a path acts on genes 0 to 2 in two layers, and on all, the one without an edge too, by a token."""
    for tokens, reached in ((0, [1, 1, 1, 0, 0, 0]), (2, [1, 1, 1, 1, 1, 1])):
        torch.manual_seed(0)
        network = awaken(pathway_gnn(num_tokens=tokens))
        x = torch.randn(1, 6)
        changed = x + torch.eye(6)[:1]
        difference = network(changed, C_NOISE[:1]) - network(x, C_NOISE[:1])
        assert (difference[0].abs() > 1e-7).int().tolist() == reached


def test_two_genes_of_a_set_hear_each_other_through_it():
    network = awaken(PathwayGNN(4, torch.tensor([[0, 1], [4, 4]]), 16, 2, num_sets=1, num_tokens=0))
    x = torch.randn(1, 4)
    difference = network(x + torch.eye(4)[:1], C_NOISE[:1]) - network(x, C_NOISE[:1])
    assert (difference[0].abs() > 1e-7).int().tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_gradients_sample_by_sample_equal_those_of_the_batch(autocast):
    gradients, x = [], torch.randn(3, 6, requires_grad=True)
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = awaken(pathway_gnn(checkpointing=checkpointing))
        calls = []
        network.trunk.blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        x.grad = None
        Denoiser(network, EDMPreconditioning(), autocast)(x, 0.5).square().mean().backward()
        assert len(calls) == (6 if checkpointing else 1)
        gradients.append([x.grad, *(p.grad for p in network.parameters())])
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if autocast is None else {"rtol": 0.1, "atol": 2e-3}
    torch.testing.assert_close(gradients[0], gradients[1], **tolerance)


def test_samplewise_takes_any_number_of_samples_at_a_time():
    module, x = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.SiLU()), torch.randn(5, 4)
    for size in (1, 2, 5, 9):
        torch.testing.assert_close(run_samplewise(module, x, size=size), module(x))
        gradients = torch.autograd.grad(run_samplewise(module, x, size=size).square().sum(), module.parameters())
        torch.testing.assert_close(gradients, torch.autograd.grad(module(x).square().sum(), module.parameters()))


def test_the_likelihood_differentiates_the_graph():
    """The exact trace, by batched vector-Jacobian products, equals that of the Jacobian by forward differentiation."""
    torch.manual_seed(0)
    denoiser = Denoiser(awaken(pathway_gnn()), EDMPreconditioning()).double().eval()
    x, sigmas = torch.randn(1, 6, dtype=torch.float64), log_uniform_sigmas(2, 0.999, 1.0)
    exact, _ = log_likelihood(denoiser, x, sigmas)
    jacobian = torch.func.jacfwd(lambda z: denoiser(z[None], 1.0)[0])(x[0])
    prior = torch.distributions.Normal(0.0, 1.0)
    nearly = prior.log_prob(x).sum() + (6 - jacobian.trace()) * 1e-3
    assert exact.item() == pytest.approx(nearly.item(), abs=1e-2)
    assert (exact - prior.log_prob(x).sum()).item() != 0


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
        return result


def test_nothing_is_as_large_as_a_dense_adjacency_or_as_edges_times_features():
    genes, count, hidden, batch = 3000, 60_000, 8, 2
    edges = torch.randint(0, genes, (2, count))
    with LargestTensor() as built:
        network = PathwayGNN(genes, edges, hidden, 2, embedding_size=16)
    with LargestTensor() as ran:
        network(torch.randn(batch, genes), C_NOISE[:batch]).square().mean().backward()
    assert built.largest <= 2 * 2 * count  # both ends of an edge, in both directions
    assert ran.largest <= max(2 * count, 2 * genes * batch * hidden) < min(genes**2, count * batch * hidden)


def test_weights_bring_the_graph_that_they_were_trained_on():
    trained, other = pathway_gnn(), PathwayGNN(6, EDGES.roll(1, 1), 16, 2, embedding_size=32, num_sets=2)
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        other.load_state_dict(trained.state_dict())
    mirrored = (EDGES - 1) % 6 * (EDGES < 6) + EDGES * (EDGES > 5)
    same = PathwayGNN(6, mirrored, 16, 2, embedding_size=32, num_sets=2, relations=torch.tensor([0, 1, 0, 0, 0, 0]))
    same.load_state_dict(awaken(trained).state_dict())
    x = torch.randn(3, 6)
    torch.testing.assert_close(same(x, C_NOISE), trained(x, C_NOISE), rtol=0, atol=0)
