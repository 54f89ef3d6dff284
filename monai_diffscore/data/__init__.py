"""Where data comes from: files, patches of them, and samples that come inside packages."""

from monai_diffscore.data.patches import (
    GridPatchesd,
    HeldOutSlabd,
    PositionChannelsd,
    load_statistics,
    measure_statistics,
    save_statistics,
    spread,
)
from monai_diffscore.data.problems import DataError
from monai_diffscore.data.rows import split_rows, toy_rows
from monai_diffscore.data.volumes import BlankVolumed, LoadVolumed, list_volumes, split_by_subject

__all__ = [
    "BlankVolumed",
    "DataError",
    "GridPatchesd",
    "HeldOutSlabd",
    "LoadVolumed",
    "PositionChannelsd",
    "list_volumes",
    "load_statistics",
    "measure_statistics",
    "save_statistics",
    "split_by_subject",
    "split_rows",
    "spread",
    "toy_rows",
]
