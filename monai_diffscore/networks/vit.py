r"""Conversion of the weights of a pretrained Vision Transformer to a :class:`~monai_diffscore.networks.dit.ScoreDiT`.

The module reads timm's names (``blocks.0.attn.qkv.weight`` ...). It converts exactly where an exact form exists:

- **Blocks.** The norms of ScoreDiT have no weights. The linear layer after a norm takes the weights of the ViT's norm,
  :math:`W (\gamma \odot n + \beta) + b = (W \gamma) n + (W\beta + b)`. The layer before a layer scale takes the scale.
  With gates of 1 a ScoreDiT computes the tokens of the ViT.
- **Patch embedding.** Linear interpolation resizes it to another patch, and the ratio of pixels scales it: a constant
  image keeps its token. For C channels it is 3/C times the mean over the colours: a grey image keeps its token. For 3-D
  it is repeated along the third axis and divided by its length.
- **Position table.** It has no class and register tokens. Interpolation resizes it to another grid. For 3-D it is
  repeated along the third axis. Sines and cosines of that axis, in the scale of the table, distinguish the slices.

The gates are 0 before training: the network then returns 0, for all image statistics.

Sources: Dosovitskiy et al. 2021, arXiv:2010.11929, Section 3 (ViT and table interpolation); Carreira and Zisserman
2017, arXiv:1705.07750, Section 2.4 (inflation).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def options(state_dict: Mapping[str, Tensor], spatial_dims: int, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor options of the ScoreDiT that fits a ViT.

    Args:
        state_dict: of the ViT, in timm's names.
        spatial_dims: 2 or 3.
        choices: further options. The ViT determines hidden_size, depth, mlp_ratio, position and qk_norm.
    Raises:
        ValueError: for weights that are not those of a plain ViT, or 1-D data.
    """
    required = ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
    missing = [name for name in required if name not in state_dict]
    if missing or "blocks.0.attn.q_norm.weight" in state_dict or spatial_dims not in (2, 3):
        fault = f"without {missing}" if missing else "that normalise queries and keys"
        raise ValueError(
            "Expected the weights of a plain ViT in timm's names, for 2-D or 3-D data, got "
            f"{spatial_dims}-D data and weights {fault}. Use a ViT of timm without these changes."
        )
    hidden, _, patch, _ = state_dict["patch_embed.proj.weight"].shape
    return {
        "patch_size": patch,
        "num_heads": max(1, hidden // 64),
        **choices,
        "hidden_size": hidden,
        "depth": _depth(state_dict),
        "mlp_ratio": state_dict["blocks.0.mlp.fc1.weight"].shape[0] / hidden,
        "position": "table",
        "qk_norm": False,
    }


def weights(state_dict: Mapping[str, Tensor], embed: Sequence[int], table: Sequence[int]) -> dict[str, Tensor]:
    """The part of the state_dict of a ScoreDiT that comes from a ViT.

    Args:
        state_dict: of the ViT, in timm's names.
        embed: shape [hidden, C, *patch] of the patch embedding.
        table: shape [1, hidden, *grid] of the position table.
    """
    converted = {
        "embed.weight": _patch_embedding(state_dict["patch_embed.proj.weight"].float(), embed),
        "table": _position_table(state_dict["pos_embed"].float(), table),
    }
    if "patch_embed.proj.bias" in state_dict:
        converted["embed.bias"] = state_dict["patch_embed.proj.bias"].float()
    for index in range(_depth(state_dict)):
        block = {
            name.removeprefix(f"blocks.{index}."): value.float()
            for name, value in state_dict.items()
            if name.startswith(f"blocks.{index}.")
        }
        converted.update({f"blocks.{index}.{name}": value for name, value in _block(block).items()})
    return converted


def _depth(state_dict: Mapping[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state_dict if name.startswith("blocks."))


def _block(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for ours, theirs, norm in (("qkv", "attn.qkv", "norm1"), ("mlp.0", "mlp.fc1", "norm2")):
        weight = block[f"{theirs}.weight"]
        bias = block.get(f"{theirs}.bias", weight.new_zeros(len(weight)))
        converted[f"{ours}.weight"] = weight * block[f"{norm}.weight"]
        converted[f"{ours}.bias"] = bias + weight @ block[f"{norm}.bias"]
    for ours, theirs, scale in (("project", "attn.proj", "ls1.gamma"), ("mlp.2", "mlp.fc2", "ls2.gamma")):
        gain = block.get(scale, torch.ones(len(block[f"{theirs}.weight"])))
        converted[f"{ours}.weight"] = gain[:, None] * block[f"{theirs}.weight"]
        converted[f"{ours}.bias"] = gain * block[f"{theirs}.bias"]
    return converted


def _patch_embedding(weight: Tensor, shape: Sequence[int]) -> Tensor:
    channels, patch = shape[1], tuple(shape[2:])
    colours, old = weight.shape[1], tuple(weight.shape[2:])
    if channels != colours:
        weight = weight.mean(1, keepdim=True).expand(-1, channels, -1, -1) * (colours / channels)
    if patch[:2] != old:
        weight = F.interpolate(weight, size=patch[:2], mode="bilinear", align_corners=False)
        weight = weight * (math.prod(old) / math.prod(patch[:2]))
    if len(patch) == 3:
        weight = weight[..., None].expand(*weight.shape, patch[2]) / patch[2]
    return weight


def _position_table(table: Tensor, shape: Sequence[int]) -> Tensor:
    grid = tuple(shape[2:])
    side = math.isqrt(table.shape[1])
    patches = table[:, -(side**2) :]  # class and register tokens come first
    image = patches.transpose(1, 2).unflatten(2, (side, side))  # (1, hidden, side, side)
    if grid[:2] != (side, side):
        image = F.interpolate(image, size=grid[:2], mode="bilinear", align_corners=False)
    if len(grid) == 2:
        return image
    frequencies = 10_000.0 ** (-torch.arange(shape[1]) / shape[1])
    waves = torch.sin(
        torch.arange(grid[2]) * frequencies[:, None] + 0.5 * math.pi * (torch.arange(shape[1]) % 2)[:, None]
    )
    return image[..., None] + image.std() * waves[None, :, None, None, :]
