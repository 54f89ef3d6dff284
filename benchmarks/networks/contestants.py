"""The networks: ours, MONAI's and diffusers', of nearly the same number of parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

from benchmarks.networks.patches import EDGE
from monai_diffscore import ScoreDiT, ScoreUNet


class Diffusers(nn.Module):
    """A diffusers model in MONAI's form."""

    def __init__(self, model: nn.Module, **constant: Tensor) -> None:
        super().__init__()
        self.model = model
        self.constant = constant

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        labels = {name: value.expand(len(x)) for name, value in self.constant.items()}
        return self.model(x, timesteps, **labels).sample


def monai_unet(dims: int) -> nn.Module:
    channels = (32, 64, 96) if dims == 2 else (16, 32, 64)
    return DiffusionModelUNet(
        dims, 1, 1, channels=channels, attention_levels=(False, False, True), num_res_blocks=2, num_head_channels=32,
        norm_num_groups=16,
    )  # fmt: skip


def score_unet(dims: int) -> nn.Module:
    if dims == 2:
        return ScoreUNet(2, 1, 1, (32, 64, 96, 128), num_res_blocks=(1, 2, 2, 2))
    return ScoreUNet(3, 1, 1, (16, 32, 64, 128), num_res_blocks=1)


def score_dit(dims: int) -> nn.Module:
    return ScoreDiT(dims, 1, EDGE[dims], 4, 192, 4, 6)


def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    return Diffusers(
        UNet2DModel(
            64, 1, 1, block_out_channels=(32, 64, 96), layers_per_block=2, norm_num_groups=16, attention_head_dim=32,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip


def diffusers_dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=32, in_channels=1, num_layers=4, sample_size=64, patch_size=4,
        norm_num_groups=1,
    )  # fmt: skip
    return Diffusers(model, class_labels=torch.zeros(1, dtype=torch.long))


@dataclass
class Contestant:
    """A network and the recipe that its users train it with."""

    name: str
    build: Callable[[], nn.Module]
    ours: bool  # c_noise and EDM's objective; otherwise timesteps and DDPM's


def contestants(dims: int) -> list[Contestant]:
    """All that are installed and run in these dimensions."""
    networks = [
        Contestant("MONAI DiffusionModelUNet", lambda: monai_unet(dims), False),
        Contestant("ScoreUNet", lambda: score_unet(dims), True),
        Contestant("ScoreDiT", lambda: score_dit(dims), True),
    ]
    if dims == 2:
        try:
            import diffusers  # noqa: F401
        except ImportError:
            print("diffusers is not installed: its networks are left out")
        else:
            networks.append(Contestant("diffusers UNet2DModel", diffusers_unet, False))
            networks.append(Contestant("diffusers DiTTransformer2DModel", diffusers_dit, False))
    return networks


def millions(network: nn.Module) -> float:
    """Parameters of a network, in millions."""
    return sum(p.numel() for p in network.parameters()) / 1e6
