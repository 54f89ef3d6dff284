r"""Subtracts the mean of its group from each profile, gene by gene, and adds it back.

.. math::  y = x - m_k, \qquad x = y + m_k,

for a row of the group k, with :math:`m_k` the mean of its training rows. The model then need not learn the mean
differences between groups, and neither a network nor principal components can lose them: with far more genes than rows,
the leading components miss most genes that differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform
from monai.utils import TransformBackends, convert_to_tensor
from torch import Tensor

from monai_diffscore.errors import DataError
from monai_diffscore.transforms.dictionary import InvertibleDictionary, recording


def measure_group_means(rows: Any, groups: Any, names: Sequence[str]) -> np.ndarray:
    """Means [K, G] of training rows [N, G] of the groups [N], numbers from 0 to K - 1.

    Args:
        rows, groups: of the training.
        names: names of the K groups, for messages.
    Raises:
        DataError: for a row without a group (-1), or a group without a row.
    """
    values, codes = np.asarray(rows, dtype=np.float64), np.asarray(groups)
    refuse_unlabelled(codes, "the training rows")
    empty = [name for code, name in enumerate(names) if not (codes == code).any()]
    if empty or not names:
        raise DataError(
            "the training rows", key="group_means", expected="rows of each group",
            got=f"none of {', '.join(empty)}" if names else "no groups",
            remedy="Name the column of groups (--label COLUMN), leave rare ones out, or add --group_means False.",
        )  # fmt: skip
    return np.stack([values[codes == code].mean(0) for code in range(len(names))])


def refuse_unlabelled(groups: np.ndarray, source: object) -> None:
    """Raises a DataError for groups [N] with a missing one (-1), or for no groups."""
    missing = int((groups < 0).sum())
    if missing or not len(groups):
        raise DataError(
            source, key="group_means", expected="a group for each row",
            got=f"{missing} rows without one" if len(groups) else "no column of groups",
            remedy="Name the column of groups (--label COLUMN) and complete it, or add --group_means False.",
        )  # fmt: skip


class GroupMeans(InvertibleTransform):
    """Subtracts the means of groups [...] from x [..., G], and adds them back.

    Args:
        means: [K, G], of :func:`measure_group_means`.
    Raises:
        ValueError: for another shape; in the call, for another number of genes or an unknown group.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # MONAI's form

    def __init__(self, means: Sequence[Any]) -> None:
        self.means = torch.as_tensor(np.asarray(means, dtype=np.float64))
        if self.means.ndim != 2:
            raise ValueError(f"GroupMeans needs means [K, G], got {tuple(self.means.shape)}.")

    def __call__(self, image: Any, group: Any = None) -> Tensor:
        """``group``: numbers [...] from 0; required."""
        x: Tensor = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        mapped = (x.double() - self._means(group, x)).float()
        if isinstance(mapped, MetaTensor):
            self.push_transform(mapped, extra_info={"group": torch.as_tensor(group).tolist()})
        return mapped

    def inverse(self, image: Tensor, group: Any = None) -> Tensor:
        """x, by ``group``, else by the recorded group."""
        if isinstance(image, MetaTensor) and group is None:
            group = self.pop_transform(image)["extra_info"]["group"]
        if group is None:
            raise ValueError("GroupMeans.inverse needs the group: give it, or a MetaTensor that recorded it.")
        return (image.double() + self._means(group, image)).float()

    def _means(self, group: Any, x: Tensor) -> Tensor:
        codes = torch.as_tensor(-1 if group is None else group).long()
        if x.shape[-1] != self.means.shape[1] or codes.shape != x.shape[:-1] or not self._known(codes):
            raise ValueError(
                f"GroupMeans has {len(self.means)} groups of {self.means.shape[1]} genes; expected numbers of groups "
                f"from 0 for all rows, got an input of shape {tuple(x.shape)} and groups {codes.tolist()}. A row "
                f"without a label cannot be taken: give it one."
            )
        return self.means[codes.cpu()].to(x.device)

    def _known(self, codes: Tensor) -> bool:
        return bool(((codes >= 0) & (codes < len(self.means))).all())


class GroupMeansd(InvertibleDictionary):
    """Dictionary form of :class:`GroupMeans`, with the group under ``group_key``."""

    def __init__(
        self, keys: KeysCollection, means: Sequence[Any], group_key: str = "label", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, GroupMeans(means), allow_missing_keys)
        self.group_key = group_key

    def call(self, image: Tensor, key: Hashable, data: Mapping[Hashable, Any]) -> Tensor:
        return self.transform(recording(image), data[self.group_key])
