r"""What a network is told besides the noisy data: the noise level, and the declared condition fields.

A network declares its fields once; a batch dictionary carries them under the same names:

===========  =============================================  =====================================  ====================
kind         declared as                                    tensor                                 missing is
===========  =============================================  =====================================  ====================
categorical  ``{"modality": 3}`` (number of classes)        integers [B]                           -1
continuous   ``{"age_years": (60.0, 20.0)}`` (mean, std)    [B], in its own unit                   NaN
             ``{"spacing_mm": ([1.0, 1.0, 3.0], 2.0)}``     [B, 3], for several means              NaN anywhere in it
vector       ``{"embedding": 512}`` (length)                [B, length]                            NaN anywhere in it
concat       ``{"mask": 1}`` (channels)                     [B, channels, *S], of the size of x    NaN (each voxel)
attached     as continuous                                  as continuous                          as continuous
===========  =============================================  =====================================  ====================

Continuous fields are normalised and expanded in random Fourier features, each component by itself, which tell values
0.2 standard deviations apart. Attached ones are normalised and become channels of x, beside concat: what depends on
them begins as linear, which a few hundred samples call for.

A missing value takes a **learned token**; that token is also what classifier-free guidance drops to (Ho and
Salimans 2022, arXiv:2207.12598), for each sample on its own with probability ``dropout`` while training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import FourierFeatures, SinusoidalTimeEmbedding
from monai_diffscore.tensors import per_sample

# names of arguments that a condition passes on its way to the network
_RESERVED = {"x", "x0", "sigma", "c_noise", "condition", "inputs", "network", "denoiser", "generator", "seed"}


#: of fields, by the names of the arguments that declare them
KINDS = ("categorical", "continuous", "vector", "concat", "attached")


class ConditionEncoder(nn.Module):
    """Embeds the declared fields into one vector [B, width], and attaches the image-shaped ones to x.

    Args:
        categorical: name to number of classes.
        continuous: name to (mean, standard deviation), in the field's unit; used to normalise it. Lists declare a field
            of as many components, such as a voxel spacing or a position in mm.
        vector: name to length.
        concat: name to number of channels, or a list of names with one channel each.
        attached: as ``continuous``; one channel for each component.
        width: size of the embedding.
        dropout: probability, for each sample and step of training, that all its fields are dropped to missing.
        required: names that must be passed; default is the concat fields. Others may be left out, which is missing.
    """

    def __init__(
        self,
        categorical: Mapping[str, int] | None = None,
        continuous: Mapping[str, tuple[float | Sequence[float], float | Sequence[float]]] | None = None,
        vector: Mapping[str, int] | None = None,
        concat: Mapping[str, int] | Sequence[str] | None = None,
        width: int = 128,
        dropout: float = 0.0,
        required: Sequence[str] | None = None,
        attached: Mapping[str, tuple[float | Sequence[float], float | Sequence[float]]] | None = None,
    ) -> None:
        super().__init__()
        self.categorical = dict(categorical or {})
        self.continuous = {name: _Scale(mean, std) for name, (mean, std) in (continuous or {}).items()}
        self.vector = dict(vector or {})
        self.concat = dict(concat) if isinstance(concat, Mapping) else dict.fromkeys(concat or (), 1)
        self.attached = {name: _Scale(mean, std) for name, (mean, std) in (attached or {}).items()}
        self.names = tuple(name for kind in KINDS for name in getattr(self, kind))
        self.required = tuple(self.concat if required is None else required)
        self.width = width
        self.dropout = dropout
        self._check_declaration()
        # the last class is "missing"
        self.classes = nn.ModuleDict({n: nn.Embedding(count + 1, width) for n, count in self.categorical.items()})
        self.features = nn.ModuleDict({n: FourierFeatures(width) for n in self.continuous})
        lengths = {n: width * len(scale.mean) for n, scale in self.continuous.items()} | self.vector
        self.projections = nn.ModuleDict({n: nn.Linear(length, width) for n, length in lengths.items()})
        self.tokens = nn.ParameterDict({n: nn.Parameter(torch.zeros(width)) for n in self.projections})
        channels = self.concat | {n: len(scale.mean) for n, scale in self.attached.items()}
        self.pixels = nn.ParameterDict({n: nn.Parameter(torch.zeros(c)) for n, c in channels.items()})

    @property
    def concat_channels(self) -> int:
        """Number of channels that :meth:`attach` adds to x."""
        return sum(map(len, self.pixels.values()))

    def drop(self, batch: int, condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The condition with all fields of randomly chosen samples set to missing, while training."""
        if not (self.training and self.dropout > 0 and condition):
            return dict(condition)
        parameter = next(self.parameters())
        dropped = torch.rand(batch, device=parameter.device) < self.dropout

        def drop_field(name: str, value: Tensor) -> Tensor:
            if name not in self.categorical:
                value = value.to(parameter.dtype)  # integers and masks have no NaN
            missing = value.new_tensor(-1 if name in self.categorical else torch.nan)
            return torch.where(per_sample(dropped, value), missing, value)

        return {name: drop_field(name, value) for name, value in condition.items()}

    def embed(self, batch: int, condition: Mapping[str, Tensor]) -> Tensor:
        """The sum of the embeddings of the categorical, continuous and vector fields, [B, width]."""
        parameter = next(self.parameters())
        total = torch.zeros(batch, self.width, dtype=parameter.dtype, device=parameter.device)
        for name, count in self.categorical.items():
            value = condition.get(name)
            index = total.new_full((batch,), -1).long() if value is None else self._classes_of(name, value, batch)
            total = total + self.classes[name](torch.where(index < 0, count, index))
        for name in (*self.continuous, *self.vector):
            value = condition.get(name)
            token = self.tokens[name].expand(batch, -1)
            total = total + (token if value is None else self._project(name, value.to(total), token))
        return total

    def attach(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """``x`` with the concat and the attached fields as further channels."""
        parts = [x]
        for name, channels in self.concat.items():
            expected = (x.shape[0], channels, *x.shape[2:])
            token = per_sample(self.pixels[name].to(x.dtype)[None], x)
            value = condition.get(name)
            value = x.new_full(expected, torch.nan) if value is None else value.to(x)
            if value.shape != expected:
                raise ValueError(
                    f"Condition '{name}' is concatenated to x of shape {tuple(x.shape)}: expected {expected}, got "
                    f"{tuple(value.shape)}. Crop and resample it together with the image."
                )
            parts.append(torch.where(value.isnan(), token, value))
        for name, scale in self.attached.items():
            value = condition.get(name)
            value = x.new_full((x.shape[0], *scale.shape), torch.nan) if value is None else value.to(x)
            value, missing = self._normalised(name, scale, value, x.shape[0])
            constant = torch.where(missing, self.pixels[name].to(x.dtype), value)
            parts.append(per_sample(constant, x).expand(-1, -1, *x.shape[2:]))
        return torch.cat(parts, dim=1)

    def check(self, condition: Mapping[str, Tensor]) -> None:
        """Raises a ValueError for fields that are not declared, and for required ones that are not there."""
        unknown, absent = set(condition) - set(self.names), set(self.required) - set(condition)
        if unknown:
            raise ValueError(
                f"Expected condition fields among {list(self.names)}, got {sorted(unknown)}. Declare them in the "
                "network's ConditionEncoder, or drop them from condition_keys."
            )
        if absent:
            raise ValueError(f"The network requires the condition fields {sorted(absent)}, got {sorted(condition)}.")

    def _check_declaration(self) -> None:
        taken = [name for name in self.names if name in _RESERVED or hasattr(nn.ModuleDict, name)]
        if not self.names or taken:
            raise ValueError(
                f"A ConditionEncoder needs fields with names of their own, got {list(self.names)}; "
                f"{taken} already mean something else. Rename them, or use condition=None for no condition."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"Each condition field has one kind; declared twice: {self.names}.")
        if not set(self.required) <= set(self.names):
            raise ValueError(f"Required fields {self.required} must be declared, got {self.names}.")
        scales = self.continuous | self.attached
        if any(min(scale.std) <= 0 for scale in scales.values()) or not 0 <= self.dropout < 1:
            raise ValueError(
                f"Continuous and attached fields need a standard deviation > 0 and dropout lies in [0, 1), got "
                f"{scales} and {self.dropout}."
            )

    def _classes_of(self, name: str, value: Tensor, batch: int) -> Tensor:
        count = self.categorical[name]
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return value  # a graph has no values to look at
        if value.shape != (batch,) or value.is_floating_point() or int(value.max()) >= count or int(value.min()) < -1:
            raise ValueError(
                f"Condition '{name}' has {count} classes: expected {batch} integers 0 to {count - 1} (-1: missing),"
                f" got {value.dtype} of shape {tuple(value.shape)}, {value.flatten()[:8].tolist()}."
            )
        return value

    def _project(self, name: str, value: Tensor, token: Tensor) -> Tensor:
        batch = token.shape[0]
        if name in self.continuous:
            value, missing = self._normalised(name, self.continuous[name], value, batch)
            value = self.features[name](value.flatten()).reshape(batch, -1)
        else:
            value, missing = self._known(name, value, (batch, self.vector[name]))
        return torch.where(missing, token, self.projections[name](value))

    def _normalised(self, name: str, scale: _Scale, value: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Components [B, k] in standard deviations, and which samples [B, 1] have none."""
        value, missing = self._known(name, value, (batch, *scale.shape))
        return (value.reshape(batch, -1) - value.new_tensor(scale.mean)) / value.new_tensor(scale.std), missing

    @staticmethod
    def _known(name: str, value: Tensor, expected: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The value with 0 for NaN, which has no gradient and which the token replaces, and which samples have one."""
        if value.shape != expected:
            raise ValueError(f"Condition '{name}': expected shape {expected}, got {tuple(value.shape)}.")
        return torch.where(value.isnan(), 0.0, value), value.isnan().reshape(len(value), -1).any(1, keepdim=True)


class _Scale:
    """Means and standard deviations of the components of a continuous field; numbers declare a scalar one."""

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        scalar = isinstance(mean, int | float)
        means = [mean] if isinstance(mean, int | float) else list(mean)
        stds = [std] * len(means) if isinstance(std, int | float) else list(std)
        if len(means) != len(stds) or not means:
            raise ValueError(f"A continuous field needs one std, or one for each mean; got {mean} and {std}.")
        self.mean = tuple(float(value) for value in means)
        self.std = tuple(float(value) for value in stds)
        self.shape = () if scalar else (len(means),)

    def __repr__(self) -> str:
        return f"({list(self.mean)}, {list(self.std)})"


class NoiseConditioning(nn.Module):
    """Embeds noise level and condition for a network: (x with concat channels, embedding [B, size]).

    Args:
        embedding_size: size of the embedding.
        condition: the declared fields; None declares none.
    """

    def __init__(self, embedding_size: int, condition: ConditionEncoder | None = None) -> None:
        super().__init__()
        features = max(4, embedding_size // 4 * 2)
        self.time = SinusoidalTimeEmbedding(features)
        self.condition = condition
        self.hidden = nn.Linear(features + (condition.width if condition else 0), embedding_size)
        self.out = nn.Linear(embedding_size, embedding_size)

    @property
    def concat_channels(self) -> int:
        return self.condition.concat_channels if self.condition else 0

    def forward(self, x: Tensor, c_noise: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        features = self.time(c_noise)
        if self.condition is None:
            if condition:
                raise ValueError(
                    f"This network declares no condition, got {sorted(condition)}. Give it a ConditionEncoder, or "
                    "empty condition_keys."
                )
        else:
            self.condition.check(condition)
            condition = self.condition.drop(x.shape[0], condition)
            x = self.condition.attach(x, condition)
            features = torch.cat([features, self.condition.embed(x.shape[0], condition).to(features.dtype)], dim=1)
        return x, F.silu(self.out(F.silu(self.hidden(features))))
