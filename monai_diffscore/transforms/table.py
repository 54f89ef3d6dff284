r"""Rows of a table to vectors of about unit variance, and back exactly.

=============  ===================================================================  ===================================
column         vector                                                               back
=============  ===================================================================  ===================================
number         its normal score :math:`\Phi^{-1}(F(v))` ("quantile"), or            :math:`F^{-1}(\Phi(z))`, or
               :math:`(v - \bar v)/s` ("standard")                                  :math:`\bar v + s z`; rounded
category       a corner of a cube of edge 2 for each ("onehot": one axis a          the nearest corner
               category; "bits": binary digits), about their mean
missing        one of two numbers 2 apart, about their mean, on an axis of its      the nearer
               own; what is missing is 0
=============  ===================================================================  ===================================

F is the empirical distribution of the **training** rows, linear between ``quantiles`` of it, and brought from [0, 1] to
[1/(2n), 1 - 1/(2n)], so that n values have the scores of n normal draws. A value that many rows share (a zero, a whole
number) is a step of F: it has an **interval** of scores, all of which come back to it. Training draws from the interval
(:class:`DitherTable`), so that the column is normal whatever its ties; else the middle is taken. Analog bits: Chen et
al. 2022, arXiv:2208.04202.

Beyond the training's range z goes on linearly (slope s), until the schema's range ends.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_numpy
from scipy.special import ndtr, ndtri
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.dictionary import InvertibleDictionary
from monai_diffscore.transforms.normal_scores import level_of_score, score_of_level
from monai_diffscore.transforms.table_schema import Column, TableSchema

SCALINGS = ("quantile", "standard")
CODES = ("onehot", "bits")


@dataclass(frozen=True)
class TableEncoding:
    """How a table becomes vectors [D], measured on training rows by :func:`measure_encoding`.

    Args:
        schema: of the table.
        nodes: for each feature: quantiles of a "quantile" column, [mean, std] of a "standard" one, nothing of a
            category.
        rows: number of training rows.
        scaling: "quantile" or "standard".
        codes: "onehot" or "bits".
        sigma_data: standard deviation of the training vectors.
        label_nodes: quantiles of a label that is a number.
    Raises:
        ValueError: for another scaling or code.
    """

    schema: TableSchema
    nodes: tuple[tuple[float, ...], ...]
    rows: int
    scaling: str = "quantile"
    codes: str = "onehot"
    sigma_data: float = 1.0
    label_nodes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS or self.codes not in CODES or len(self.nodes) != len(self.schema.features):
            raise ValueError(
                f"TableEncoding expects a scaling among {SCALINGS}, codes among {CODES} and nodes for each of "
                f"{len(self.schema.features)} columns, got {self.scaling!r}, {self.codes!r} and {len(self.nodes)}."
            )

    @cached_property
    def parts(self) -> list[Any]:
        """What encodes each feature."""
        return [
            _Scores(c, np.array(nodes), self.rows)
            if c.numeric and self.scaling == "quantile"
            else _Units(c, *nodes)
            if c.numeric
            else _Corners(c, self.codes)
            for c, nodes in zip(self.schema.features, self.nodes, strict=True)
        ]

    @cached_property
    def places(self) -> list[tuple[slice, int | None]]:
        """For each feature: its part of the vector, and the place of its missing axis, if it has one."""
        found, start = [], 0
        for column, part in zip(self.schema.features, self.parts, strict=True):
            stop = start + part.width
            found.append((slice(start, stop), stop if column.missing else None))
            start = stop + bool(column.missing)
        return found

    @property
    def size(self) -> int:
        """D, length of a vector."""
        last, missing = self.places[-1]
        return last.stop if missing is None else missing + 1

    @cached_property
    def scored(self) -> np.ndarray:
        """Which axes [D] are normal scores."""
        axes = np.zeros(self.size, dtype=bool)
        for (place, _), part in zip(self.places, self.parts, strict=True):
            axes[place] = isinstance(part, _Scores)
        return axes

    def bounds(self, numbers: np.ndarray, unknown: bool = False) -> np.ndarray:
        """Ends of the intervals of numbers [N, columns]: [N, 2, D], equal but for normal scores.

        Args:
            numbers: of :meth:`~monai_diffscore.transforms.table_schema.TableSchema.numbers`; NaN is missing.
            unknown: what is missing is to be found, not missing for good: NaN, on an axis that says it is there.
        """
        ends = np.zeros((len(numbers), 2, self.size))
        for number, ((place, missing), part) in enumerate(zip(self.places, self.parts, strict=True)):
            values = numbers[:, number]
            absent = np.isnan(values)
            ends[:, :, place] = part.encode(np.where(absent, part.filler, values))
            ends[absent, :, place] = np.nan if unknown else 0
            if missing is not None:
                rate = self.schema.features[number].missing
                ends[:, :, missing] = 2 * ((absent & (not unknown)) - rate)[:, None]
        return ends

    def settle(self, ends: np.ndarray, share: float | np.ndarray = 0.5) -> np.ndarray:
        """Vectors [N, D] out of intervals [N, 2, D]: by ``share`` of the probability within."""
        low, high = ends[:, 0], ends[:, 1]
        inside = ndtri(ndtr(low) + (ndtr(high) - ndtr(low)) * share)
        return np.where(self.scored & (low < high), inside, low)

    def encode(self, numbers: np.ndarray, unknown: bool = False) -> np.ndarray:
        """Vectors [N, D] of numbers [N, columns]; ``unknown`` as in :meth:`bounds`."""
        return self.settle(self.bounds(numbers, unknown))

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        """Numbers [N, columns] of vectors [N, D]: in range, whole, of the nearest category, as the schema says."""
        vectors = np.asarray(vectors, dtype=np.float64)
        numbers = np.empty((len(vectors), len(self.parts)))
        for number, ((place, missing), part) in enumerate(zip(self.places, self.parts, strict=True)):
            numbers[:, number] = self.schema.features[number].within(part.decode(vectors[:, place]))
            if missing is not None:
                numbers[vectors[:, missing] > 1 - 2 * self.schema.features[number].missing, number] = np.nan
        return numbers

    def draw_labels(self, count: int, value: Any = None, seed: int = 0) -> list[Any]:
        """Labels for rows to be generated: numbers as the network takes them.

        Args:
            count: how many; none without a label.
            value: one for all, such as "malignant" or 120; None draws them as often as the training rows have them.
            seed: of the draws.
        Raises:
            DataError: for a label that the schema does not know.
        """
        label = self.schema.label_column
        if label is None and value is None:
            return []
        if value is not None or label is None:
            return [self.schema.label_number(value)] * count
        generator = np.random.default_rng(seed)
        if not label.numeric:
            shares = np.array(label.shares) / sum(label.shares)
            return generator.choice(len(shares), count, p=shares).tolist()
        levels = np.linspace(0, 1, len(self.label_nodes))
        return label.within(np.interp(generator.random(count), levels, self.label_nodes)).tolist()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": self.schema.as_dict(),
            "nodes": [list(nodes) for nodes in self.nodes],
            "rows": self.rows,
            "scaling": self.scaling,
            "codes": self.codes,
            "sigma_data": self.sigma_data,
            "label_nodes": list(self.label_nodes),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TableEncoding:
        """The inverse of :meth:`as_dict`; other entries are left alone."""
        own = {name: content[name] for name in ("rows", "scaling", "codes", "sigma_data")}
        return cls(
            TableSchema.from_dict(content["schema"]),
            tuple(map(tuple, content["nodes"])),
            **own,
            label_nodes=tuple(content.get("label_nodes", ())),
        )


def measure_encoding(
    schema: TableSchema,
    numbers: np.ndarray,
    labels: np.ndarray | None = None,
    scaling: str = "quantile",
    codes: str = "onehot",
    quantiles: int = 100,
) -> TableEncoding:
    """The encoding of a table by its **training** rows.

    Args:
        schema: of the table.
        numbers: [N, columns] of the training rows.
        labels: [N] numbers of their label; None without one.
        scaling, codes: as :class:`TableEncoding` has them.
        quantiles: number of the quantiles that F goes through, at least 2. They are values of training rows, the
            smallest and the largest among them: fewer tell less of them.
    Raises:
        DataError: for fewer than two rows.
    """
    if len(numbers) < 2 or quantiles < 2:
        raise DataError(
            "the training rows", key="table", expected="at least two rows and two quantiles",
            got=f"{len(numbers)} and {quantiles}", remedy="Give more rows.",
        )  # fmt: skip
    nodes: list[tuple[float, ...]] = []
    for number, column in enumerate(schema.features):
        there = numbers[~np.isnan(numbers[:, number]), number]
        if not column.numeric:
            nodes.append(())
        elif not len(there):
            raise DataError(
                "the training rows", key=column.name, expected="values", got="none, all are held out or missing",
                remedy="Leave the column out, or take another seed.",
            )  # fmt: skip
        else:
            scored = scaling == "quantile"
            nodes.append(_quantiles(there, quantiles) if scored else (float(there.mean()), float(there.std())))
    label = schema.label_column
    known = labels[~np.isnan(labels)] if labels is not None and label is not None and label.numeric else np.empty(0)
    made = TableEncoding(schema, tuple(nodes), len(numbers), scaling, codes, label_nodes=_quantiles(known, quantiles))
    return replace(made, sigma_data=float(f"{made.encode(numbers).std():.4g}"))


def _quantiles(values: np.ndarray, count: int) -> tuple[float, ...]:
    """Evenly spaced quantiles, each the value of a row."""
    levels = np.linspace(0, 1, min(count, len(values)))
    return tuple(np.quantile(values, levels, method="nearest").tolist()) if len(values) else ()


class _Scores:
    """Normal scores of a column of numbers."""

    width = 1

    def __init__(self, column: Column, nodes: np.ndarray, rows: int) -> None:
        self.nodes = np.maximum.accumulate(nodes)
        self.levels = np.linspace(0, 1, len(nodes))
        self.rows = rows
        self.slope = column.std or 1.0
        self.filler = float(self.nodes[0])
        self.end = float(score_of_level(1.0, rows))

    def encode(self, values: np.ndarray) -> np.ndarray:
        low = np.interp(-values, -self.nodes[::-1], self.levels[::-1])  # ties: the first level
        high = np.interp(values, self.nodes, self.levels)  # ties: the last
        # numpy takes either end of a step, not always the same: order them
        low, high = np.minimum(low, high), np.maximum(low, high)
        ends = score_of_level(np.stack([low, high], 1), self.rows)
        beyond = (values - np.clip(values, self.nodes[0], self.nodes[-1])) / self.slope
        return (ends + beyond[:, None])[:, :, None]

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        z = vectors[:, 0]
        values = np.interp(level_of_score(z, self.rows), self.levels, self.nodes)
        return values + (z - np.clip(z, -self.end, self.end)) * self.slope


class _Units:
    """A column of numbers in units of its standard deviation."""

    width = 1

    def __init__(self, column: Column, mean: float, std: float) -> None:
        self.mean, self.std, self.filler = mean, std or 1.0, mean

    def encode(self, values: np.ndarray) -> np.ndarray:
        z = (values - self.mean) / self.std
        return np.stack([z, z], 1)[:, :, None]

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        return self.mean + self.std * vectors[:, 0]


class _Corners:
    """Corners of a cube, one for each category; two categories take one axis, one takes none."""

    filler = 0.0

    def __init__(self, column: Column, codes: str) -> None:
        count = len(column.categories)
        digits = math.ceil(math.log2(count)) if count > 1 else 0
        if codes == "bits" or count <= 2:
            self.corners = 2.0 * (np.arange(count)[:, None] >> np.arange(digits) & 1) - 1
        else:
            self.corners = 2 * np.eye(count) - 1
        shares = np.array(column.shares) / sum(column.shares)
        self.corners = self.corners - shares @ self.corners
        self.width = self.corners.shape[1]

    def encode(self, values: np.ndarray) -> np.ndarray:
        corners = self.corners[values.astype(np.int64)]
        return np.stack([corners, corners], 1)

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        distance = np.square(vectors[:, None] - self.corners).sum(2)
        return distance.argmin(1).astype(np.float64)


class EncodeTable(InvertibleTransform):
    """Numbers [columns] of a row, or of rows [N, columns], to float32 vectors [D] or [N, D].

    Exact back to float32's seven digits, and to the last digit in a column whose decimals are known.

    Args:
        encoding: of the table.
        unknown: NaN stays, for what is to be imputed.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012  # MONAI's form

    def __init__(self, encoding: TableEncoding, unknown: bool = False) -> None:
        self.encoding, self.unknown = encoding, unknown

    def __call__(self, image: Any) -> Tensor:
        numbers = np.asarray(convert_to_numpy(image), dtype=np.float64)
        vectors = self.encoding.encode(np.atleast_2d(numbers), self.unknown)
        made = torch.from_numpy(vectors.reshape(*numbers.shape[:-1], -1).astype(np.float32))
        if isinstance(image, MetaTensor):
            made = MetaTensor(made, meta=image.meta, applied_operations=image.applied_operations)
            self.push_transform(made)
        return made

    def inverse(self, image: Any) -> Tensor:
        """Numbers, float64; takes the record off a ``MetaTensor``, and needs none."""
        if isinstance(image, MetaTensor) and image.applied_operations:
            self.pop_transform(image)
        vectors = np.asarray(convert_to_numpy(image), dtype=np.float64)
        numbers = self.encoding.decode(np.atleast_2d(vectors))
        return torch.from_numpy(numbers.reshape(*vectors.shape[:-1], -1))


class EncodeTabled(InvertibleDictionary):
    """Dictionary form of :class:`EncodeTable`."""

    def __init__(
        self,
        keys: KeysCollection,
        encoding: TableEncoding,
        unknown: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, EncodeTable(encoding, unknown), allow_missing_keys)


class DitherTable(RandomizableTransform):
    """Draws from intervals [2, D] of :meth:`TableEncoding.bounds` a float32 vector [D], uniformly in probability.

    Args:
        encoding: of the table.
    """

    def __init__(self, encoding: TableEncoding) -> None:
        super().__init__(prob=1.0)
        self.encoding = encoding

    def __call__(self, image: Any) -> Tensor:
        ends = np.asarray(convert_to_numpy(image), dtype=np.float64)
        share = self.R.uniform(size=ends.shape[-1])
        return torch.from_numpy(self.encoding.settle(ends[None], share)[0].astype(np.float32))


class DitherTabled(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`DitherTable`."""

    def __init__(self, keys: KeysCollection, encoding: TableEncoding, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0)
        self.dither = DitherTable(encoding)

    def set_random_state(self, seed: int | None = None, state: Any = None) -> DitherTabled:
        super().set_random_state(seed, state)
        self.dither.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.dither(d[key])
        return d
