"""One contract that every network passes, and what each network has besides."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_diffscore.denoiser import Denoiser, EDMPreconditioning
from monai_diffscore.networks import (
    ConditionEncoder,
    GeneResidualMLP,
    HierarchicalUNet,
    PathwayGNN,
    ScoreDiT,
    ScoreMLP,
    ScoreUNet,
    SingleCellNet,
)
from monai_diffscore.networks.blocks import (
    FourierFeatures,
    SelfAttention,
    SinusoidalTimeEmbedding,
    convolution,
    depth_to_space,
    space_to_depth,
)
from monai_diffscore.networks.dit import (
    PRESETS,
    AxialRotation,
    join_windows,
    rotate,
    split_windows,
    unpatchify,
)
from monai_diffscore.networks.examples import EDGES, EXAMPLES, awaken, dit, gene_mlp, hierarchical, unet

every_network = pytest.mark.parametrize("name", EXAMPLES)


def make(name: str, condition: ConditionEncoder | None = None, awake: bool = True) -> tuple[nn.Module, torch.Tensor]:
    """A network (with its zero layers set to noise if ``awake``) and a batch of three inputs."""
    torch.manual_seed(0)
    example = EXAMPLES[name]
    network = example.build(condition=condition)
    return awaken(network) if awake else network, torch.randn(3, *example.shape)


C_NOISE = torch.tensor([-1.5, 0.0, 1.0])


@every_network
def test_output_has_the_shape_and_dtype_of_the_input(name):
    network, x = make(name)
    for dtype in (torch.float32, torch.float64):
        output = network.to(dtype)(x.to(dtype), C_NOISE.to(dtype))
        assert output.shape == x.shape
        assert output.dtype == dtype


@every_network
def test_output_is_zero_at_the_start(name):
    network, x = make(name, awake=False)
    assert (network(x, C_NOISE) == 0).all()


@every_network
def test_samples_of_a_batch_are_independent(name):
    network, x = make(name)
    alone = network(x[1:2], C_NOISE[1:2])
    torch.testing.assert_close(network(x, C_NOISE)[1:2], alone, rtol=1e-4, atol=1e-5)


@every_network
def test_the_noise_level_matters_smoothly(name):
    """A twentieth of e in sigma changes the output a little, a factor of e^4 much more."""
    network, x = make(name)
    here, near, far = (network(x, C_NOISE + shift) for shift in (0.0, 0.0125, 1.0))
    assert 0 < (near - here).norm() < 0.3 * (far - here).norm()


@every_network
def test_gradients_reach_every_parameter(name):
    condition = ConditionEncoder(categorical={"modality": 2}, continuous={"age": (60, 20)}, vector={"v": 3}, width=8)
    network, x = make(name, condition)
    values = {
        "modality": torch.tensor([0, 1, -1]),
        "age": torch.tensor([50.0, torch.nan, 70.0]),
        "v": torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0], [torch.nan, 0.0, 0.0]]),
    }
    network(x, C_NOISE, **values).square().mean().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@every_network
def test_state_dict_round_trip(name):
    network, x = make(name)
    torch.manual_seed(1)
    copy = EXAMPLES[name].build()
    copy.load_state_dict(network.state_dict())
    torch.testing.assert_close(copy(x, C_NOISE), network(x, C_NOISE), rtol=0, atol=0)


@every_network
def test_bfloat16_autocast_stays_close(name):
    network, x = make(name)
    exact = Denoiser(network, EDMPreconditioning())(x, 0.5)
    rounded = Denoiser(network, EDMPreconditioning(), torch.bfloat16)(x, 0.5)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.02 * exact.norm()


@every_network
def test_undeclared_conditions_are_refused(name):
    network, x = make(name)
    with pytest.raises(ValueError, match="no condition for a network without a ConditionEncoder"):
        network(x, C_NOISE, age=C_NOISE)


@every_network
def test_image_shaped_conditions_are_concatenated(name):
    network, x = make(name, ConditionEncoder(concat={"low_resolution": 2}))
    field = torch.randn(3, 2, *x.shape[2:])
    first = network(x, C_NOISE, low_resolution=field)
    assert first.shape == x.shape
    assert (first - network(x, C_NOISE, low_resolution=2 * field)).abs().max() > 1e-6
    missing = torch.full_like(field, torch.nan)
    assert torch.isfinite(network(x, C_NOISE, low_resolution=missing)).all()
    with pytest.raises(ValueError, match="requires the condition"):
        network(x, C_NOISE)
    with pytest.raises(ValueError, match=r"'low_resolution': expected shape .* as channels of x"):
        network(x, C_NOISE, low_resolution=field[:, :1])


@pytest.mark.parametrize("build", [unet, dit, hierarchical], ids=["unet", "dit", "hierarchical"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_checkpointed_gradients_equal_unchecked_ones(dims, build):
    x = torch.randn(2, 2, *[8] * dims)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = awaken(build(dims, checkpointing=checkpointing))
        calls = []
        inner = network.blocks[0].mlp if build is dit else network.hourglass.down[0].blocks[0]
        inner.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        network(x, C_NOISE[:2]).square().mean().backward()
        assert len(calls) == 1 + checkpointing  # computed again in the backward pass
        gradients.append([p.grad for p in network.parameters()])
    assert all(gradient.any() for gradient in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_sizes_that_do_not_fit_the_stride_are_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"divisible by 2, got \(7, 8\).*DivisiblePadd"):
        unet(2)(torch.zeros(1, 2, 7, 8), C_NOISE[:1])


def test_wrong_channels_and_dimensions_are_refused():
    network = unet(2)
    with pytest.raises(ValueError, match=r"expects x \[B, 2, X, Y\]"):
        network(torch.zeros(1, 3, 8, 8), C_NOISE[:1])
    with pytest.raises(ValueError, match=r"expects x"):
        network(torch.zeros(1, 2, 8, 8, 8), C_NOISE[:1])
    with pytest.raises(ValueError, match="6 features"):
        ScoreMLP(6)(torch.zeros(1, 5), C_NOISE[:1])
    with pytest.raises(ValueError, match="one entry for each level"):
        ScoreUNet(2, 1, 1, channels=(8, 16), attention_levels=(True,))
    with pytest.raises(ValueError, match="1, 2 or 3"):
        convolution(4, 1, 1)
    with pytest.raises(ValueError, match="num_head_channels"):
        SelfAttention(12, 8)


@pytest.mark.parametrize("variance", [1.0, 0.25, 1e-4, 9.0])
def test_a_local_variance_makes_the_posterior_mean_of_data_of_that_variance(variance):
    """D = v / (v + sigma^2) x + c_out F for an output that is F and ln v everywhere."""
    network = ScoreUNet(2, 3, 3, (8, 8), [False] * 2, 1, local_variance=True)
    assert network.output.out_channels == 6
    denoiser, x = Denoiser(network, EDMPreconditioning(1.0)), torch.randn(2, 3, 8, 8)
    for raw in (0.0, 0.5):
        with torch.no_grad():
            network.output.bias.copy_(torch.tensor([raw] * 3 + [math.log(variance)] * 3))
        for sigma in (0.05, 0.3, 1.0, 20.0):
            c_out = sigma / math.sqrt(1 + sigma**2)
            expected = variance / (variance + sigma**2) * x + c_out * raw
            torch.testing.assert_close(denoiser(x, sigma), expected, atol=2e-5, rtol=1e-5)


def test_a_local_variance_is_bounded():
    network = ScoreUNet(2, 1, 1, (8, 8), [False] * 2, 1, local_variance=True)
    denoiser, x = Denoiser(network, EDMPreconditioning(1.0)), torch.randn(1, 1, 8, 8)
    for log_variance, bound in ((1e4, 4.0), (-1e4, -12.0)):
        with torch.no_grad():
            network.output.bias.copy_(torch.tensor([0.0, log_variance]))
        torch.testing.assert_close(denoiser(x, 1.0), math.exp(bound) / (math.exp(bound) + 1) * x)


def test_a_local_variance_needs_as_many_channels_in_as_out():
    with pytest.raises(ValueError, match="got 3 and 1"):
        ScoreUNet(2, 3, 1, (8, 8), local_variance=True)


@pytest.mark.parametrize("levels", [1, 2, 4])
def test_any_number_of_levels(levels):
    network = ScoreUNet(2, 1, 1, channels=[8] * levels, num_res_blocks=[1] * levels, num_head_channels=8)
    assert network(torch.zeros(1, 1, 16, 16), C_NOISE[:1]).shape == (1, 1, 16, 16)


def test_attention_equals_its_formula():
    torch.manual_seed(0)
    attention = SelfAttention(8, 8).double()
    nn.init.normal_(attention.project.weight)
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    tokens = attention.norm(x).flatten(2).mT
    q, k, v = attention.qkv(tokens).chunk(3, dim=-1)
    expected = attention.project((q @ k.mT / 8**0.5).softmax(-1) @ v).mT.reshape(x.shape)
    torch.testing.assert_close(attention(x), x + expected)


@pytest.mark.parametrize("embedding", [SinusoidalTimeEmbedding(64), FourierFeatures(64)])
def test_time_embeddings_tell_noise_levels_apart(embedding):
    """Levels a factor of two apart in sigma, over the range from 0.002 to 80, are clearly different and bounded."""
    sigmas = 0.002 * 2 ** torch.arange(16.0)
    features = embedding(sigmas.log() / 4)
    distance = torch.cdist(features, features) + 100 * torch.eye(16)
    assert distance.min() > 1.0
    assert features.abs().max() <= 2**0.5 + 1e-6


def test_odd_embedding_sizes_are_refused():
    with pytest.raises(ValueError, match="even"):
        SinusoidalTimeEmbedding(7)


# ---- ScoreDiT ----


@pytest.mark.parametrize("patch", [(2,), (2, 3), (2, 3, 4)])
def test_unpatchify_is_the_exact_inverse_of_cutting_an_image_into_patches(patch):
    x = torch.randn(2, 3, *[edge * count for edge, count in zip(patch, (4, 2, 3), strict=False)])
    tokens = space_to_depth(x, patch).flatten(2).transpose(1, 2)
    grid = [edge // p for edge, p in zip(x.shape[2:], patch, strict=True)]
    assert tokens.shape == (2, math.prod(grid), math.prod(patch) * 3)
    torch.testing.assert_close(unpatchify(tokens, grid, patch), x, rtol=0, atol=0)
    # the first token is the first patch
    corner = x[0, :, : patch[0]] if len(patch) == 1 else x[(0, slice(None), *[slice(p) for p in patch])]
    torch.testing.assert_close(tokens[0, 0].sort().values, corner.flatten().sort().values)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_blocks(name):
    """18 h^2 + 15 h parameters a block (Peebles and Xie's code), plus the two scales of QK-normalisation."""
    hidden, depth, heads = PRESETS[name]
    with torch.device("meta"):
        network = ScoreDiT.preset(f"{name}/2", 2, 4, 32)
    published = depth * (18 * hidden**2 + 15 * hidden)
    assert sum(p.numel() for p in network.blocks.parameters()) == published + depth * 2 * (hidden // heads)
    with pytest.raises(ValueError, match="preset like 'S/2'"):
        ScoreDiT.preset("M/2", 2, 4, 32)


def test_attention_sees_distances_alone():
    """Rotated queries and keys: their product is the same for all pairs of positions one step apart, in any grid."""
    rotation = AxialRotation(2, 16)
    q, k = torch.randn(2, 1, 1, 1, 16)
    products = {}
    for grid in ((3, 4), (5, 7)):
        angles = rotation(grid, q)
        count = grid[0] * grid[1]
        logits = rotate(q.expand(1, 1, count, 16), angles) @ rotate(k.expand(1, 1, count, 16), angles).mT
        logits = logits[0, 0].reshape(*grid, *grid)
        products[grid] = [logits[i, j, i + 1, j + 2] for i in range(grid[0] - 1) for j in range(grid[1] - 2)]
    values = torch.stack([value for entries in products.values() for value in entries])
    torch.testing.assert_close(values, values[:1].expand_as(values), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [(3,), (2, 3), (2, 1, 3)])
def test_join_windows_is_the_exact_inverse_of_split_windows(window):
    grid = [edge * count for edge, count in zip(window, (4, 2, 3), strict=False)]
    h = torch.randn(2, math.prod(grid), 5)
    split = split_windows(h, grid, window)
    assert split.shape == (2 * math.prod(grid) // math.prod(window), math.prod(window), 5)
    torch.testing.assert_close(join_windows(split, grid, window), h, rtol=0, atol=0)
    # the first window holds the first corner of the grid
    corner = h[0].reshape(*grid, 5)[tuple(slice(edge) for edge in window)].reshape(-1, 5)
    torch.testing.assert_close(split[0], corner, rtol=0, atol=0)


@pytest.mark.parametrize("position", ["rotary", "table"])
def test_a_window_as_large_as_the_grid_is_attention_everywhere(position):
    options = {"position": position, "num_heads": 2, "hidden_size": 24, "depth": 2, "patch_size": 2}
    everywhere = awaken(ScoreDiT(2, 1, 8, **options))
    windows = ScoreDiT(2, 1, 8, window_size=4, **options)
    windows.load_state_dict(everywhere.state_dict())
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(windows(x, C_NOISE[:2]), everywhere(x, C_NOISE[:2]), rtol=1e-5, atol=1e-6)


def test_windows_do_not_see_each_other_but_every_fourth_block_sees_all():
    """A pixel acts on its own window alone in three blocks, and on the whole image with a fourth."""
    for depth, reached in ((3, 0.25), (4, 1.0)):
        torch.manual_seed(0)
        network = awaken(ScoreDiT(2, 1, 16, 2, hidden_size=24, depth=depth, num_heads=2, window_size=4))
        x = torch.randn(1, 1, 16, 16)
        changed = x.clone()
        changed[..., 0, 0] += 1
        difference = (network(changed, C_NOISE[:1]) - network(x, C_NOISE[:1])).abs()
        assert (difference > 1e-7).float().mean().item() == pytest.approx(reached, abs=0.02)


def test_dit_runs_at_other_sizes_and_refuses_wrong_ones():
    network = dit(2)
    assert network(torch.zeros(1, 2, 12, 20), C_NOISE[:1]).shape == (1, 2, 12, 20)
    with pytest.raises(ValueError, match=r"divisible by its patch_size \(2, 2\), got \(7, 8\).*DivisiblePadd"):
        network(torch.zeros(1, 2, 7, 8), C_NOISE[:1])
    with pytest.raises(ValueError, match="expects x"):
        network(torch.zeros(1, 1, 8, 8), C_NOISE[:1])
    with pytest.raises(ValueError, match="even number"):
        ScoreDiT(2, 1, 8, 2, hidden_size=9, num_heads=3)
    with pytest.raises(ValueError, match=r"times its window_size \(4, 4\), got \(16, 12\)"):
        ScoreDiT(2, 2, 16, 2, 24, 2, 2, window_size=4)(torch.zeros(1, 2, 16, 12), C_NOISE[:1])
    with pytest.raises(ValueError, match="'rotary' or 'table'"):
        dit(2, position="learned")
    with pytest.raises(ValueError, match="a positive patch_size"):
        ScoreDiT(2, 1, 8, (2, 2, 2))


# ---- HierarchicalUNet ----


@pytest.mark.parametrize("stride", [(2,), (2, 3), (2, 3, 4)])
def test_depth_to_space_is_the_exact_inverse_of_space_to_depth(stride):
    x = torch.randn(2, 3, *[edge * count for edge, count in zip(stride, (4, 2, 3), strict=False)])
    folded = space_to_depth(x, stride)
    assert folded.shape == (2, 3 * math.prod(stride), *(n // s for n, s in zip(x.shape[2:], stride, strict=True)))
    torch.testing.assert_close(depth_to_space(folded, stride), x, rtol=0, atol=0)
    if len(stride) == 2:
        torch.testing.assert_close(space_to_depth(x[..., : x.shape[3] // 6 * 6], (2, 2)), F.pixel_unshuffle(x, 2))


def with_context(**options) -> HierarchicalUNet:
    torch.manual_seed(0)
    network = HierarchicalUNet(
        2, 3, 3, channels=(8, 8, 16), num_head_channels=8, context_channels=3, context_ratio=2, **options
    )
    return awaken(network)


def test_the_context_matters_and_a_missing_one_is_a_learned_value():
    network, x = with_context().eval(), torch.randn(2, 3, 16, 16)
    context = torch.randn(2, 3, 16, 16)
    with_it, without = network(x, C_NOISE[:2], context=context), network(x, C_NOISE[:2])
    assert (with_it - without).abs().max() > 1e-3
    torch.testing.assert_close(network(x, C_NOISE[:2], context=torch.full_like(context, torch.nan)), without)
    half = context.clone()
    half[1] = torch.nan
    torch.testing.assert_close(network(x, C_NOISE[:2], context=half), torch.stack([with_it[0], without[1]]))
    network(x, C_NOISE[:2], context=half).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())


def test_the_context_is_in_register_with_the_tile():
    """A pixel of the context acts, besides the global summary, on the part of the tile that lies there in the world."""
    network = with_context().eval()
    nn.init.zeros_(network.context.summary.weight)
    x, context = torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)
    for corner in ((9, 9), (22, 9), (22, 22)):  # inside the middle half, which the tile covers
        changed = context.clone()
        changed[..., corner[0], corner[1]] += 1
        level = [network.context(x, c, torch.zeros(1, 32))[0][1] for c in (context, changed)]
        difference = (level[1] - level[0]).abs().sum(1)[0]
        row, column = divmod(int(difference.argmax()), difference.shape[1])
        # level 1 of the tile has 8 positions of 4 pixels; the context pixel lies at 2 * (corner - 8) in the tile
        assert abs(4 * row + 1.5 - 2 * (corner[0] - 8)) <= 3.5
        assert abs(4 * column + 1.5 - 2 * (corner[1] - 8)) <= 3.5


def test_contexts_are_dropped_while_training_alone():
    network, x, context = with_context(context_dropout=0.5), torch.randn(64, 3, 16, 16), torch.randn(64, 3, 16, 16)
    c_noise = torch.zeros(64)
    with torch.no_grad():
        kept, without = network.eval()(x, c_noise, context=context), network(x, c_noise)
        torch.manual_seed(0)
        dropped = network.train()(x, c_noise, context=context)
    gone = (dropped - without).abs().flatten(1).amax(1) < 1e-5
    assert 16 < gone.sum() < 48
    torch.testing.assert_close(dropped[~gone], kept[~gone], rtol=1e-4, atol=1e-5)


def test_hierarchical_unet_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"divisible by 16.*got \(16, 24\)"):
        with_context()(torch.zeros(1, 3, 16, 24), C_NOISE[:1])
    with pytest.raises(ValueError, match=r"expects context \(1, 3, 16, 16\), got \(1, 3, 8, 8\)"):
        with_context()(torch.zeros(1, 3, 16, 16), C_NOISE[:1], context=torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="expects no context"):
        hierarchical(2)(torch.zeros(1, 2, 8, 8), C_NOISE[:1], context=torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match="power of two"):
        HierarchicalUNet(2, 3, 3, context_channels=3, context_ratio=3)
    with pytest.raises(ValueError, match="one entry for each level"):
        HierarchicalUNet(2, 3, 3, channels=(8, 16), attention_levels=(True,))


# ---- thin volumes ----


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("size", [(2, 2, 2), (2, 4, 4), (1, 2, 2)])
def test_gradients_of_thin_volumes_in_bfloat16_are_finite_repeatable_and_right(size, last):
    """oneDNN's own are not at two voxels along the first axis: the memory that it reads is filled with NaN here."""
    torch.manual_seed(0)
    layer = convolution(3, 16, 16)
    x = torch.randn(2, 16, *size)
    x = x.to(memory_format=torch.channels_last_3d) if last else x
    (expected,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    for _ in range(10):
        for exponent in (12, 14, 16, 18, 20):
            [torch.full((2**exponent,), math.nan) for _ in range(4)]  # freed at once
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        assert output.dtype == torch.bfloat16
        (gradient,) = torch.autograd.grad(output.float().square().sum(), layer.weight)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0.02 * expected.abs().max().item())
    assert convolution(3, 2, 2).double()(torch.zeros(1, 2, *size, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("edge", [16, 24])
def test_a_unet_with_two_voxels_at_its_coarsest_level_trains_in_bfloat16(edge):
    network = Denoiser(
        ScoreUNet(3, 1, 1, channels=(8, 8, 16, 16), num_res_blocks=1, num_head_channels=8),
        EDMPreconditioning(),
        autocast_dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    for parameter in network.parameters():  # a network of zeros has few gradients
        nn.init.normal_(parameter, std=0.05)
    x = torch.randn(2, 1, edge, edge, edge)
    gradients = []
    for _ in range(4):
        network.zero_grad()
        [torch.full((2**exponent,), math.nan) for exponent in (12, 14, 16, 18) for _ in range(4)]
        network(x, 1.0).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        assert gradients[-1].isfinite().all()
        assert torch.equal(gradients[-1], gradients[0])


# ---- GeneResidualMLP ----


def test_checkpointed_gradients_of_the_gene_mlp_equal_unchecked_ones():
    x, gradients = torch.randn(2, 6), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = awaken(gene_mlp(checkpointing=checkpointing))
        calls = []
        network.blocks[0].linear_in.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        network(x, C_NOISE[:2]).square().mean().backward()
        assert len(calls) == 1 + checkpointing  # computed again in the backward pass
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_gates_pass_information_around_a_bottleneck_of_one():
    """The exact F of independent genes is a diagonal, which gates represent and a bottleneck alone does not."""
    network = GeneResidualMLP(6, 16, 1, bottleneck=1, embedding_size=16, gate_rank=2)
    x = torch.randn(4, 6)
    nn.init.ones_(network.gate.shapes.bias)
    torch.testing.assert_close(network(x, torch.zeros(4)), network.gate.loadings.sum(1) * x)
    assert torch.linalg.matrix_rank(network(x, torch.zeros(4))) == 4


def test_a_genome_of_the_default_size_costs_what_its_bottleneck_says():
    with torch.device("meta"):
        counts = [sum(p.numel() for p in GeneResidualMLP(genes).parameters()) for genes in (10_000, 20_000)]
    assert counts[1] - counts[0] == 10_000 * (2 * 512 + 1 + 8)  # input, output with bias, gate
    assert counts[1] < 1e8


def test_gene_networks_refuse_other_numbers_of_genes():
    with pytest.raises(ValueError, match=r"GeneResidualMLP of 6 genes expects x \[B, 6\], got \(3, 5\)"):
        gene_mlp()(torch.zeros(3, 5), C_NOISE)
    with pytest.raises(ValueError, match=r"dropout in \[0, 1\)"):
        gene_mlp(dropout=1.0)


# ---- sizes ----


@pytest.mark.parametrize(
    "build",
    [
        lambda name: ScoreMLP.preset(name, 2),
        lambda name: SingleCellNet.preset(name, 2000),
        lambda name: ScoreUNet.preset(name, 3, 1, 1),
        lambda name: HierarchicalUNet.preset(name, 2, 3, 3),
        lambda name: ScoreDiT.preset(name, 3, 1, 32),
        lambda name: GeneResidualMLP.preset(name, 2000),
        lambda name: PathwayGNN.preset(name, 6, EDGES, num_sets=2),
    ],
    ids=["mlp", "single_cell", "unet", "hierarchical", "dit", "gene_mlp", "pathway_gnn"],
)
def test_every_network_has_sizes_by_name(build):
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build(name).parameters()) for name in ("small", "base", "large")]
    assert 2.5 * counts[0] < counts[1] < counts[2] / 2.5
    with pytest.raises(ValueError, match="'small'"):
        build("huge")
