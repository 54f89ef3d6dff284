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

F is the empirical distribution of the **training** rows, linear between ``quantiles`` of it (and between more of them
in tails that this would misplace, :func:`~monai_diffscore.transforms.column_codes.measure_column`), and brought from
[0, 1] to [1/(2n), 1 - 1/(2n)], so that n values have the scores of n normal draws. A value that many rows share (a
zero, a whole number) is a step of F: it has an **interval** of scores, all of which come back to it. Training draws
from the interval (:class:`DitherTable`), so that the column is normal whatever its ties; else the middle is taken.
Analog bits: Chen et al. 2022, arXiv:2208.04202.

Beyond the training's range z goes on linearly (slope s), until the schema's range ends.
"""

from __future__ import annotations

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
from monai_diffscore.transforms.column_codes import Corners, Quantiles, Scores, Units, measure_column
from monai_diffscore.transforms.dictionary import InvertibleDictionary
from monai_diffscore.transforms.table_schema import TableSchema

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
        levels: for each feature: the levels of its quantiles; nothing where they are evenly spaced.
        label_levels: those of the label.
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
    levels: tuple[tuple[float, ...], ...] = ()
    label_levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS or self.codes not in CODES or len(self.nodes) != len(self.schema.features):
            raise ValueError(
                f"TableEncoding expects a scaling among {SCALINGS}, codes among {CODES} and nodes for each of "
                f"{len(self.schema.features)} columns, got {self.scaling!r}, {self.codes!r} and {len(self.nodes)}."
            )

    @property
    def _levels(self) -> tuple[tuple[float, ...], ...]:
        return self.levels or ((),) * len(self.nodes)

    @cached_property
    def parts(self) -> list[Any]:
        """What encodes each feature."""
        return [
            Scores(c, Quantiles(nodes, levels), self.rows)
            if c.numeric and self.scaling == "quantile"
            else Units(c, *nodes)
            if c.numeric
            else Corners(c, self.codes)
            for c, nodes, levels in zip(self.schema.features, self.nodes, self._levels, strict=True)
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
            axes[place] = isinstance(part, Scores)
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
        drawn = Quantiles(self.label_nodes, self.label_levels).values_at(generator.random(count))
        return label.within(drawn).tolist()

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
            "levels": [list(levels) for levels in self.levels],
            "label_levels": list(self.label_levels),
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
            levels=tuple(map(tuple, content.get("levels", ()))),
            label_levels=tuple(content.get("label_levels", ())),
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
    measured: list[Quantiles] = []
    for number, column in enumerate(schema.features):
        there = numbers[~np.isnan(numbers[:, number]), number]
        if not column.numeric:
            measured.append(Quantiles())
        elif not len(there):
            raise DataError(
                "the training rows", key=column.name, expected="values", got="none, all are held out or missing",
                remedy="Leave the column out, or take another seed.",
            )  # fmt: skip
        else:
            scored = scaling == "quantile"
            units = Quantiles((float(there.mean()), float(there.std())))
            measured.append(measure_column(there, quantiles, len(numbers)) if scored else units)
    label = schema.label_column
    known = labels[~np.isnan(labels)] if labels is not None and label is not None and label.numeric else np.empty(0)
    of_label = measure_column(known, quantiles, len(numbers))
    made = TableEncoding(
        schema,
        tuple(column.nodes for column in measured),
        len(numbers),
        scaling,
        codes,
        label_nodes=of_label.nodes,
        levels=tuple(column.levels for column in measured),
        label_levels=of_label.levels,
    )
    return replace(made, sigma_data=float(f"{made.encode(numbers).std():.4g}"))


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
