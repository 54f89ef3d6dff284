"""ScoreDiT from a pretrained Vision Transformer: timm's own model, built without a download, gives the reference."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from monai_diffscore.networks import ScoreDiT


@pytest.fixture(scope="module")
def timm_vit():
    """timm's VisionTransformer class. timm imports torchvision at its start, for other models; where a CPU build of
    torch has none that fits, an empty module takes its place during the import."""
    stand_ins: dict[str, ModuleType] = {}

    class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "torchvision":
                return importlib.machinery.ModuleSpec(name, self, is_package=True)
            return None

        def create_module(self, spec):
            module = MagicMock(spec=None, __path__=[], __spec__=spec, __name__=spec.name)
            stand_ins[spec.name] = module
            return module

        def exec_module(self, module):
            pass

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        transformer = importlib.import_module("timm.models.vision_transformer")
    finally:
        sys.meta_path.remove(finder)
        for name in stand_ins:
            sys.modules.pop(name, None)
    return partial(
        transformer.VisionTransformer, img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=2, num_classes=0
    )


def random_weights(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def with_open_gates(network: ScoreDiT) -> ScoreDiT:
    """Shifts and scales 0, gates 1: the block of a plain transformer."""
    hidden = network.blocks[0].qkv.in_features
    for block in network.blocks:
        with torch.no_grad():
            block.modulation.bias[2 * hidden : 3 * hidden] = 1
            block.modulation.bias[5 * hidden :] = 1
    return network


@pytest.mark.parametrize("options", [{}, {"init_values": 0.1}, {"qkv_bias": False}, {"class_token": True}])
def test_with_open_gates_the_tokens_are_those_of_the_vit(timm_vit, options):
    """LayerNorm weights, layer scales and missing biases are folded exactly."""
    # alone, a class token would be attended to; its attention is the one thing that is not taken over
    model = random_weights(timm_vit(**{"class_token": False, "global_pool": "avg", **options}, act_layer=_gelu))
    network = with_open_gates(ScoreDiT.from_vit(model.state_dict(), 2, 3, 16, num_heads=2))
    x = torch.randn(2, 3, 16, 16)
    tokens = []
    network.norm.register_forward_pre_hook(lambda _module, inputs: tokens.append(inputs[0]))
    with torch.no_grad():
        network(x, torch.zeros(2))
        if options.get("class_token"):
            embedded = network.embed(x).flatten(2).mT
            torch.testing.assert_close(embedded, model.patch_embed(x), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(network.table.flatten(2).mT, model.pos_embed[:, 1:])
            return
        reference = model.patch_embed(x) + model.pos_embed
        for block in model.blocks:
            reference = block(reference)
    torch.testing.assert_close(tokens[0], reference, rtol=1e-4, atol=1e-4)


def _gelu() -> nn.Module:
    return nn.GELU("tanh")


def test_the_start_is_defined_and_all_blocks_are_taken_over(timm_vit):
    model = random_weights(timm_vit())
    network = ScoreDiT.from_vit(model.state_dict(), 2, 1, 32, patch_size=2)
    assert (network(torch.randn(1, 1, 32, 32), torch.zeros(1)) == 0).all()
    assert len(network.blocks) == 3
    assert network.table.shape == (1, 24, 16, 16)


@pytest.mark.parametrize(("dims", "patch"), [(2, 4), (2, 8), (3, 4), (3, (4, 4, 2))])
def test_a_constant_grey_image_keeps_its_token(timm_vit, dims, patch):
    model = random_weights(timm_vit())
    network = ScoreDiT.from_vit(model.state_dict(), dims, 1, 16, patch_size=patch)
    token = network.embed(torch.full((1, 1, *[16] * dims), 0.7)).flatten(2)[0, :, 0]
    expected = model.patch_embed(torch.full((1, 3, 16, 16), 0.7))[0, 0]
    torch.testing.assert_close(token, expected, rtol=1e-4, atol=1e-4)


def test_slices_of_an_inflated_network_can_be_told_apart(timm_vit):
    network = ScoreDiT.from_vit(random_weights(timm_vit()).state_dict(), 3, 1, 16)
    table = network.table[0]
    distances = torch.cdist(table.flatten(0, 2).T, table.flatten(0, 2).T) + 100 * torch.eye(4)
    assert distances.min() > 0.1


def test_other_weights_are_refused(timm_vit):
    state = timm_vit().state_dict()
    with pytest.raises(ValueError, match="plain ViT"):
        ScoreDiT.from_vit({k: v for k, v in state.items() if k != "pos_embed"}, 2, 1, 16)
    with pytest.raises(ValueError, match="1-D data"):
        ScoreDiT.from_vit(state, 1, 1, 16)
    with pytest.raises(ValueError, match="normalise queries"):
        ScoreDiT.from_vit(timm_vit(qk_norm=True).state_dict(), 2, 1, 16)
