r"""The conditions of a network: the noise level, and the declared condition fields.

A network declares its fields once. A batch dictionary has them under the same names:

===========  =============================================  =====================================  ====================
kind         declared as                                    tensor                                 missing is
===========  =============================================  =====================================  ====================
categorical  ``{"modality": 3}`` (number of classes)        integers [B]                           -1
continuous   ``{"age_years": (60.0, 20.0)}`` (mean, std)    [B], in its own unit                   NaN
             ``{"spacing_mm": ([1.0, 1.0, 3.0], 2.0)}``     [B, 3], for several means              NaN anywhere in it
vector       ``{"embedding": 512}`` (length)                [B, length]                            NaN anywhere in it
concat       ``{"mask": 1}`` (channels)                     [B, channels, *S], of the size of x    NaN (each voxel)
             ``{"given": [1, 1, 4]}``, for several parts    [B, 6, *S], of the size of x           NaN (each voxel)
attached     as continuous                                  as continuous                          as continuous
===========  =============================================  =====================================  ====================

The encoder normalises continuous fields, and expands each component in random Fourier features, which resolve 0.2
standard deviations. It normalises attached fields and makes them channels of x, like concat fields. The dependence on
an attached field is linear before training. This suits data of a few hundred samples.

A **learned token** replaces a missing value. Classifier-free guidance uses the same token (Ho and Salimans 2022,
arXiv:2207.12598): a training drops all fields of a sample with probability ``dropout``.

A concat field may have parts: images of several contrasts, or a label map of four classes. Each channel has a token of
its own, and ``part_dropout`` drops each part on its own. With probability 1/2 a training sees each of the 2^k subsets
of k parts equally often, so that one model answers for every subset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_diffscore.networks.blocks import FourierFeatures, SinusoidalTimeEmbedding
from monai_diffscore.tensors import per_sample

# names of other arguments of the functions that pass a condition on
_RESERVED = {"x", "x0", "sigma", "c_noise", "condition", "inputs", "network", "denoiser", "generator", "seed"}


#: kinds of fields: the names of the arguments that declare them
KINDS = ("categorical", "continuous", "vector", "concat", "attached")


class ConditionEncoder(nn.Module):
    """Embeds declared fields into one vector [B, width], and attaches concat and attached fields to x.

    Args:
        categorical: number of classes of each field, by name.
        continuous: (mean, standard deviation) of each field, by name, in the unit of the field, for its normalisation.
            Lists declare a field of several components, such as a voxel spacing or a position in mm.
        vector: length of each field, by name.
        concat: number of channels of each field, by name, or of each part of a field. A list of names declares fields
            of one channel.
        width: size of the embedding.
        dropout: probability that all fields of a sample are missing, for each sample and step of training.
        required: names of the fields that a call must pass; default is the concat fields. A call without another field
            means that it is missing.
        attached: as ``continuous``. Each component becomes a channel.
        part_dropout: probability that a part of a concat field is missing, by name of the field, for each part, sample
            and step of training. Parts are independent of each other.
    Raises:
        ValueError: for no field, a reserved name, two fields of one name, a required field without a declaration, a
            standard deviation <= 0, dropout outside [0, 1), or part dropout of another field.
    """

    def __init__(
        self,
        categorical: Mapping[str, int] | None = None,
        continuous: Mapping[str, tuple[float | Sequence[float], float | Sequence[float]]] | None = None,
        vector: Mapping[str, int] | None = None,
        concat: Mapping[str, int | Sequence[int]] | Sequence[str] | None = None,
        width: int = 128,
        dropout: float = 0.0,
        required: Sequence[str] | None = None,
        attached: Mapping[str, tuple[float | Sequence[float], float | Sequence[float]]] | None = None,
        part_dropout: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.categorical = dict(categorical or {})
        self.continuous = {name: _Scale(mean, std) for name, (mean, std) in (continuous or {}).items()}
        self.vector = dict(vector or {})
        declared = concat if isinstance(concat, Mapping) else dict.fromkeys(concat or (), 1)
        self.parts = {name: [size] if isinstance(size, int) else list(size) for name, size in declared.items()}
        self.concat = {name: sum(sizes) for name, sizes in self.parts.items()}
        self.attached = {name: _Scale(mean, std) for name, (mean, std) in (attached or {}).items()}
        self.names = tuple(name for kind in KINDS for name in getattr(self, kind))
        self.required = tuple(self.concat if required is None else required)
        self.width = width
        self.dropout = dropout
        self.part_dropout = dict(part_dropout or {})
        self._check_declaration()
        # the last class means "missing"
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
        """The condition. While training, all fields of random samples, and random parts of fields, are missing."""
        fields = dict(condition)
        if not self.training:
            return fields
        device = next(self.parameters()).device
        if self.dropout > 0 and fields:
            dropped = torch.rand(batch, device=device) < self.dropout
            fields = {name: self._without(name, value, dropped) for name, value in fields.items()}
        for name, probability in self.part_dropout.items():
            if name in fields and probability > 0:
                parts = torch.rand(batch, len(self.parts[name]), device=device) < probability
                dropped = torch.cat([parts[:, [p]].expand(-1, size) for p, size in enumerate(self.parts[name])], 1)
                fields[name] = self._without(name, fields[name], dropped)
        return fields

    def _without(self, name: str, value: Tensor, dropped: Tensor) -> Tensor:
        """The field with the mark of a missing value where ``dropped`` [B] or [B, channels] is true."""
        if name not in self.categorical:
            value = value.to(next(self.parameters()).dtype)  # integers and masks have no NaN
        missing = value.new_tensor(-1 if name in self.categorical else torch.nan)
        return torch.where(per_sample(dropped, value), missing, value)

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
        """``x`` with the concat and the attached fields as further channels.

        Raises:
            ValueError: for a field of another shape.
        """
        parts = [x]
        for name, channels in self.concat.items():
            expected = (x.shape[0], channels, *x.shape[2:])
            token = per_sample(self.pixels[name].to(x.dtype)[None], x)
            value = condition.get(name)
            value = x.new_full(expected, torch.nan) if value is None else value.to(x)
            if value.shape != expected:
                raise ValueError(
                    f"Condition '{name}': expected shape {expected}, as channels of x of shape {tuple(x.shape)}, got "
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
        """Checks the names of the fields.

        Raises:
            ValueError: for a field without a declaration, or without a required field.
        """
        undeclared, missing = set(condition) - set(self.names), set(self.required) - set(condition)
        if undeclared:
            raise ValueError(
                f"Expected condition fields among {list(self.names)}, got {sorted(undeclared)}. Declare them in the "
                "network's ConditionEncoder, or remove them from condition_keys."
            )
        if missing:
            raise ValueError(
                f"The network requires the condition fields {sorted(missing)}, got {sorted(condition)}. Pass them, or "
                "add them to condition_keys."
            )

    def _check_declaration(self) -> None:
        reserved = [name for name in self.names if name in _RESERVED or hasattr(nn.ModuleDict, name)]
        if not self.names or reserved:
            raise ValueError(
                f"A ConditionEncoder needs at least one field, and no reserved names, got {list(self.names)}, of which "
                f"{reserved} are reserved. Rename them, or use condition=None for no condition."
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"Expected one declaration of each condition field, got {self.names}. Rename a field.")
        if not set(self.required) <= set(self.names):
            raise ValueError(
                f"Expected required fields among the declared fields {self.names}, got {self.required}. Declare them."
            )
        scales = self.continuous | self.attached
        if any(min(scale.std) <= 0 for scale in scales.values()) or not 0 <= self.dropout < 1:
            raise ValueError(
                f"A ConditionEncoder expects standard deviations > 0 and dropout in [0, 1), got {scales} and "
                f"{self.dropout}."
            )
        if not set(self.part_dropout) <= set(self.concat) or any(not 0 <= p < 1 for p in self.part_dropout.values()):
            raise ValueError(
                f"Expected part_dropout in [0, 1) of the concat fields {list(self.concat)}, got {self.part_dropout}. "
                "Declare the field in concat, or lower its probability."
            )

    def _classes_of(self, name: str, value: Tensor, batch: int) -> Tensor:
        count = self.categorical[name]
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return value  # a graph has no values to check
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
            value, missing = self._split_missing(name, value, (batch, self.vector[name]))
        return torch.where(missing, token, self.projections[name](value))

    def _normalised(self, name: str, scale: _Scale, value: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """The components [B, k] in standard deviations, and the mask of the samples [B, 1] without a value."""
        value, missing = self._split_missing(name, value, (batch, *scale.shape))
        return (value.reshape(batch, -1) - value.new_tensor(scale.mean)) / value.new_tensor(scale.std), missing

    @staticmethod
    def _split_missing(name: str, value: Tensor, expected: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The value with 0 for NaN, and the mask of the samples [B, 1] with a NaN."""
        if value.shape != expected:
            raise ValueError(f"Condition '{name}': expected shape {expected}, got {tuple(value.shape)}.")
        return torch.where(value.isnan(), 0.0, value), value.isnan().reshape(len(value), -1).any(1, keepdim=True)


class _Scale:
    """Means and standard deviations of the components of a continuous field. Numbers declare a scalar field."""

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        scalar = isinstance(mean, int | float)
        means = [mean] if isinstance(mean, int | float) else list(mean)
        stds = [std] * len(means) if isinstance(std, int | float) else list(std)
        if len(means) != len(stds) or not means:
            raise ValueError(f"A continuous field expects one std, or one for each mean, got {mean} and {std}.")
        self.mean = tuple(float(value) for value in means)
        self.std = tuple(float(value) for value in stds)
        self.shape = () if scalar else (len(means),)

    def __repr__(self) -> str:
        return f"({list(self.mean)}, {list(self.std)})"


class NoiseConditioning(nn.Module):
    """Embeds noise level and condition for a network. It returns x with the further channels, and the embedding [B, E].

    Args:
        embedding_size: size E of the embedding.
        condition: the declared fields; None declares none.
    Raises:
        ValueError: in the call: for fields that the condition does not declare.
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
                    f"Expected no condition for a network without a ConditionEncoder, got {sorted(condition)}. Set its "
                    "condition to a ConditionEncoder, or empty condition_keys."
                )
        else:
            self.condition.check(condition)
            condition = self.condition.drop(x.shape[0], condition)
            x = self.condition.attach(x, condition)
            features = torch.cat([features, self.condition.embed(x.shape[0], condition).to(features.dtype)], dim=1)
        return x, F.silu(self.out(F.silu(self.hidden(features))))
