"""The first weights of a training: those of another training where they fit, and frozen parts.

A parameter takes the tensor of its name and shape. A new condition field has no effect on the denoiser before training:

- The first layer has further channels for ``concat`` and ``attached`` fields of a ``ConditionEncoder``. Their weights
  are zeros.
- A file without a condition has a layer of the noise level without the columns of an embedding. They are zeros.
- The embeddings of the other new fields are zeros.

Statistics of data (``sigma_data``, standardisation) are those of the new training.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from monai_diffscore.errors import DataError
from monai_diffscore.networks.blocks import FourierFeatures
from monai_diffscore.networks.conditioning import ConditionEncoder, NoiseConditioning

logger = logging.getLogger(__name__)
_SHOWN = 8


def take_weights(network: nn.Module, source: str | Path | None = None, frozen: str = "") -> None:
    """Gives a network the weights of a file, and freezes parts of it, in place. The log names what it takes.

    Args:
        network: of the new training, before its optimizer and its average exist.
        source: a bundle, of which it takes ``models/model.pt``, a folder with ``model.pt``, or a file of weights or a
            checkpoint; None takes none.
        frozen: a regular expression. Parameters with a match in their name do not train. "" freezes none.
    Raises:
        DataError: for a missing or damaged file, a file without a tensor that fits, fields of other names in the same
            channels, or a pattern that matches no parameter or all of them.
    """
    if source is not None:
        _take(network, Path(source).expanduser())
    if frozen:
        _freeze(network, frozen)


def _freeze(network: nn.Module, pattern: str) -> None:
    names = [name for name, _ in network.named_parameters()]
    matches = [name for name in names if re.search(pattern, name)]
    if len(matches) in (0, len(names)):
        raise DataError(
            "the network", key="frozen", expected=f"a pattern of some of the parameters, such as {names[0]}",
            got=f"{pattern!r}, which matches {len(matches)} of {len(names)}", remedy="Give another --frozen.",
        )  # fmt: skip
    for name in matches:
        network.get_parameter(name).requires_grad_(False)
    logger.info(f"frozen: {len(matches)} of {len(names)} parameters: {_listed(matches)}")


@dataclass(frozen=True)
class _Conditioning:
    """The condition at one place of a network: the number of channels of its fields in the file and in the network."""

    place: str
    encoder: ConditionEncoder
    stored: dict[str, int]
    own: dict[str, int]
    is_stored: bool

    @classmethod
    def all_of(cls, network: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> list[_Conditioning]:
        conditionings = []
        for place, module in network.named_modules():
            if not isinstance(module, NoiseConditioning) or module.condition is None:
                continue
            pixels = f"{place}.condition.pixels."
            stored = {
                name.removeprefix(pixels): len(token) for name, token in tensors.items() if name.startswith(pixels)
            }
            own = {name: len(token) for name, token in module.condition.pixels.items()}
            if sum(stored.values()) == sum(own.values()) and list(stored.items()) != list(own.items()):
                raise DataError(
                    file, key="init_from", expected=f"the fields {own} as channels", got=f"{stored}, as many channels",
                    remedy="Give the fields the names and the order of the file.",
                )  # fmt: skip
            is_stored = any(name.startswith(f"{place}.condition.") for name in tensors)
            conditionings.append(cls(place, module.condition, stored, own, is_stored))
        return conditionings

    def widened(self, name: str, own: Tensor, stored: Tensor) -> Tensor | None:
        """The tensor of the file in the shape of ``own``, zeros for new inputs; None if no field explains the shape."""
        if own.ndim < 2 or own.ndim != stored.ndim or own[:, :1].shape != stored[:, :1].shape:
            return None
        if name == f"{self.place}.hidden.weight":
            if self.is_stored or own.shape[1] < stored.shape[1]:
                return None
            return torch.cat([stored, stored.new_zeros((len(stored), own.shape[1] - stored.shape[1]))], 1)
        channels = stored.shape[1] - sum(self.stored.values())  # of x
        of_this_network = name.startswith(self.place.rpartition(".")[0])
        if not of_this_network or channels < 1 or own.shape[1] - sum(self.own.values()) != channels:
            return None
        x, *columns = stored.split([channels, *self.stored.values()], 1)
        fields = dict(zip(self.stored, columns, strict=True))
        kept = {name: weight for name, weight in fields.items() if self.own.get(name) == weight.shape[1]}
        further = [
            kept.get(name, stored.new_zeros((len(stored), n, *stored.shape[2:]))) for name, n in self.own.items()
        ]
        return torch.cat([x, *further], 1)

    def silence_new_fields(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the embeddings and tokens of new fields to zero: the layer after them has weights from the file."""
        for kind in ("classes", "projections", "tokens"):
            group: nn.Module = getattr(self.encoder, kind)
            for name, parameter in group.named_parameters():
                field = f"{self.place}.condition.{kind}.{name.partition('.')[0]}"
                if not any(f"{other}.".startswith(f"{field}.") for other in tensors):
                    parameter.zero_()


def _take(network: nn.Module, source: Path) -> None:
    file = _file_of(source)
    stored, own = _tensors_of(file), _trained(network)
    conditionings = _Conditioning.all_of(network, stored, file)
    taken: dict[str, Tensor] = {}
    wide = []
    for name in own.keys() & stored.keys():
        if own[name].shape == stored[name].shape:
            taken[name] = stored[name]
            continue
        widened = (one.widened(name, own[name], stored[name]) for one in conditionings)
        fitting = next((value for value in widened if value is not None), None)
        if fitting is not None:
            taken[name] = fitting
            wide.append(name)
    if not taken:
        raise DataError(
            file, key="init_from", expected=f"tensors of this network, such as {next(iter(own))}",
            got=f"{len(stored)} tensors, of which none fits ({_listed(stored)})",
            remedy="Give the weights of a bundle with the same kind and widths of network.",
        )  # fmt: skip
    with torch.no_grad():
        for name, value in taken.items():
            own[name].copy_(value)
        for conditioning in conditionings:
            if conditioning.is_stored:
                conditioning.silence_new_fields(stored)
    anew = [name for name in own if name not in taken]
    unused = [name for name in stored if name not in network.state_dict()]
    logger.info(
        f"{file}: {len(taken)} of {len(own)} tensors taken, with zeros for new channels in {_listed(wide)}; "
        f"start anew: {_listed(anew)}; not in this network: {_listed(unused)}"
    )


def _file_of(source: Path) -> Path:
    places = [source / "models/model.pt", source / "model.pt"] if source.is_dir() else [source]
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        source, key="init_from", expected="a bundle with models/model.pt, or a file of weights", got="no such file",
        remedy="Train that bundle first, or give another --init_from.",
    )  # fmt: skip


def _tensors_of(file: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            file, key="init_from", expected="weights that torch.load reads", got=type(error).__name__,
            remedy="Give a file of weights or a checkpoint of a training.",
        ) from error  # fmt: skip
    content = content.get("network", content) if isinstance(content, Mapping) else {}
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _trained(network: nn.Module) -> dict[str, Tensor]:
    """The parameters, and the random frequencies that belong to them; other buffers are statistics of the data."""
    tensors: dict[str, Tensor] = dict(network.named_parameters())
    for name, part in network.named_modules():
        if isinstance(part, FourierFeatures):
            tensors |= {f"{name}.{own}".lstrip("."): value for own, value in part.named_buffers()}
    return tensors


def _listed(all_names: Iterable[str]) -> str:
    names = sorted(all_names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "none") + more
