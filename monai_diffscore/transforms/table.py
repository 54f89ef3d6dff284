r"""Encodes rows of a table as vectors of about unit variance, and decodes them exactly.

=============  ===================================================================  ===================================
column         vector                                                               inverse
=============  ===================================================================  ===================================
number         its normal score :math:`\Phi^{-1}(F(v))` ("quantile"), or            :math:`F^{-1}(\Phi(z))`, or
               :math:`(v - \bar v)/s` ("standard")                                  :math:`\bar v + s z`; rounded
category       a corner of a cube of edge 2 for each ("onehot": one axis a          the nearest corner
               category; "bits": binary digits), about their mean
missing        one of two numbers 2 apart, about their mean, on an axis of its      the nearer
               own; the axes of a missing value are 0
=============  ===================================================================  ===================================

F is the empirical distribution of the **training** rows, linear between its ``quantiles``. Tails that these would
misplace get more of them (:func:`~monai_diffscore.transforms.column_codes.measure_column`). F is scaled from [0, 1] to
[1/(2n), 1 - 1/(2n)], so that n values have the scores of n normal draws. A value that many rows share (a zero, a whole
number) is a step of F: it has an **interval** of scores, and each score of the interval decodes to it. Training draws
from the interval (:class:`~monai_diffscore.data.tables.DitheredRows`), so that the column is normal despite its ties;
elsewhere the middle encodes the value. Analog bits: Chen et al. 2022, arXiv:2208.04202.

Beyond the range of the training rows z continues linearly (slope s), to the end of the schema's range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
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
    """The encoding of a table as vectors [D]; :func:`measure_encoding` measures it on training rows.

    Args:
        schema: of the table.
        nodes: for each feature: the quantiles of a "quantile" column, [mean, std] of a "standard" one, nothing for a
            category.
        rows: number of training rows.
        scaling: "quantile" or "standard".
        codes: "onehot" or "bits".
        sigma_data: standard deviation of the training vectors.
        label_nodes: quantiles of a numeric label.
        levels: for each feature: the levels of its quantiles; nothing if they are evenly spaced.
        label_levels: levels of the label's quantiles.
    Raises:
        ValueError: for an unknown scaling or code.
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
        """The code of each feature."""
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
        """For each feature: its slice of the vector, and the index of its missing axis, if it has one."""
        places, start = [], 0
        for column, part in zip(self.schema.features, self.parts, strict=True):
            stop = start + part.width
            places.append((slice(start, stop), stop if column.missing else None))
            start = stop + bool(column.missing)
        return places

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
        """Ends of the intervals of numbers [N, columns]: [N, 2, D]. Only the ends of normal scores differ.

        Args:
            numbers: of :meth:`~monai_diffscore.transforms.table_schema.TableSchema.numbers`; NaN is missing.
            unknown: NaN means: impute. The axes of the value are NaN, and its missing axis says that it exists.
        """
        ends = np.zeros((len(numbers), 2, self.size))
        for number, ((place, missing), part) in enumerate(zip(self.places, self.parts, strict=True)):
            values = numbers[:, number]
            is_missing = np.isnan(values)
            ends[:, :, place] = part.encode(np.where(is_missing, part.filler, values))
            ends[is_missing, :, place] = np.nan if unknown else 0
            if missing is not None:
                rate = self.schema.features[number].missing
                ends[:, :, missing] = 2 * ((is_missing & (not unknown)) - rate)[:, None]
        return ends

    def sample_interval(self, ends: np.ndarray, share: float | np.ndarray = 0.5) -> np.ndarray:
        """Vectors [N, D] within intervals [N, 2, D]: ``share`` of the interval's probability lies below each score."""
        low, high = ends[:, 0], ends[:, 1]
        inside = ndtri(ndtr(low) + (ndtr(high) - ndtr(low)) * share)
        return np.where(self.scored & (low < high), inside, low)

    def encode(self, numbers: np.ndarray, unknown: bool = False) -> np.ndarray:
        """Vectors [N, D] of numbers [N, columns]; ``unknown`` as in :meth:`bounds`."""
        return self.sample_interval(self.bounds(numbers, unknown))

    def decode(self, vectors: np.ndarray) -> np.ndarray:
        """Numbers [N, columns] of vectors [N, D]; the nearest values that the schema allows."""
        vectors = np.asarray(vectors, dtype=np.float64)
        numbers = np.empty((len(vectors), len(self.parts)))
        for number, ((place, missing), part) in enumerate(zip(self.places, self.parts, strict=True)):
            numbers[:, number] = self.schema.features[number].within(part.decode(vectors[:, place]))
            if missing is not None:
                numbers[vectors[:, missing] > 1 - 2 * self.schema.features[number].missing, number] = np.nan
        return numbers

    def draw_labels(self, count: int, value: Any = None, seed: int = 0) -> list[Any]:
        """Labels of the rows to generate, as the numbers that the network takes; empty without a label.

        Their shares are those of the training rows as nearly as ``count`` allows (systematic sampling): a category of
        share p has floor(p count) or ceil(p count) labels; of a number, each count-th of its distribution has one. The
        order is random.

        Args:
            count: number of labels.
            value: one label for all, such as "malignant" or 120; None draws from the labels of the training rows.
            seed: of the draws.
        Raises:
            DataError: for an unknown label.
        Source: Madow and Madow 1944, Ann. Math. Stat. 15, Section 2.
        """
        label = self.schema.label_column
        if label is None and value is None:
            return []
        if value is not None or label is None:
            return [self.schema.label_number(value)] * count
        generator = np.random.default_rng(seed)
        levels = generator.permutation((np.arange(count) + generator.random()) / count)
        if label.numeric:
            return label.within(Quantiles(self.label_nodes, self.label_levels).values_at(levels)).tolist()
        limits = np.cumsum(label.shares) / sum(label.shares)
        return np.searchsorted(limits[:-1], levels, side="right").tolist()

    def as_dict(self) -> dict[str, Any]:
        """The encoding for JSON."""
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
        """The inverse of :meth:`as_dict`; ignores other entries."""
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
    """Measures the encoding of a table on its **training** rows.

    Args:
        schema: of the table.
        numbers: [N, columns] of the training rows.
        labels: [N] numbers of their label; None without one.
        scaling, codes: of :class:`TableEncoding`.
        quantiles: number of the quantiles of F, at least 2. They are values of training rows, and include the smallest
            and the largest: fewer quantiles reveal fewer values.
    Raises:
        DataError: for fewer than two rows.
    """
    if len(numbers) < 2 or quantiles < 2:
        raise DataError(
            "the training rows", expected="at least two rows and two quantiles",
            got=f"{len(numbers)} and {quantiles}", remedy="Give more rows.",
        )  # fmt: skip
    measured: list[Quantiles] = []
    for number, column in enumerate(schema.features):
        values = numbers[~np.isnan(numbers[:, number]), number]
        if not column.numeric:
            measured.append(Quantiles())
        elif not len(values):
            raise DataError(
                "the training rows", key=column.name, expected="values", got="none, all are held out or missing",
                remedy="Exclude the column, or choose another seed.",
            )  # fmt: skip
        else:
            scored = scaling == "quantile"
            units = Quantiles((float(values.mean()), float(values.std())))
            measured.append(measure_column(values, quantiles, len(numbers)) if scored else units)
    label = schema.label_column
    numeric_labels = (
        labels[~np.isnan(labels)] if labels is not None and label is not None and label.numeric else np.empty(0)
    )
    label_quantiles = measure_column(numeric_labels, quantiles, len(numbers))
    encoding = TableEncoding(
        schema,
        tuple(column.nodes for column in measured),
        len(numbers),
        scaling,
        codes,
        label_nodes=label_quantiles.nodes,
        levels=tuple(column.levels for column in measured),
        label_levels=label_quantiles.levels,
    )
    return replace(encoding, sigma_data=float(f"{encoding.encode(numbers).std():.4g}"))


class EncodeTable(InvertibleTransform):
    """Encodes numbers [columns] of a row, or of rows [N, columns], as float32 vectors [D] or [N, D].

    The inverse is exact to float32's seven digits, and to the last digit in a column whose schema has ``decimals``.

    Args:
        encoding: of the table.
        unknown: NaN means: impute. It stays NaN.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012  # MONAI's form

    def __init__(self, encoding: TableEncoding, unknown: bool = False) -> None:
        self.encoding, self.unknown = encoding, unknown

    def __call__(self, image: Any) -> Tensor:
        numbers = np.asarray(convert_to_numpy(image), dtype=np.float64)
        vectors = self.encoding.encode(np.atleast_2d(numbers), self.unknown)
        encoded = torch.from_numpy(vectors.reshape(*numbers.shape[:-1], -1).astype(np.float32))
        if isinstance(image, MetaTensor):
            encoded = MetaTensor(encoded, meta=image.meta, applied_operations=image.applied_operations)
            self.push_transform(encoded)
        return encoded

    def inverse(self, image: Any) -> Tensor:
        """Numbers, float64. Removes the record of a ``MetaTensor``; a plain tensor needs none."""
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
