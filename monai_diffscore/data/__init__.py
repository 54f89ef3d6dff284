"""Where data comes from: files, patches of them, and samples that come inside packages."""

from monai_diffscore.data.cache import cached_dataset
from monai_diffscore.data.loader import ResumableLoader
from monai_diffscore.data.patches import (
    GridPatchesd,
    HeldOutSlabd,
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
    "ResumableLoader",
    "cached_dataset",
    "list_volumes",
    "load_statistics",
    "measure_statistics",
    "save_statistics",
    "split_by_subject",
    "split_rows",
    "spread",
    "toy_rows",
]
